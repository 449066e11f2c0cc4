"""The peers' virtual environments, made once in a folder that stays."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parents[3]
_TOKENIZERS = Path("litellm_core_utils", "tokenizers")


@dataclass(frozen=True)
class Peer:
    """A peer: the module that drives it, and what to install, step by step."""

    name: str
    module: str
    installs: tuple[tuple[str, ...], ...]

    def command(self, folder: Path) -> list[str]:
        """How to run it in its environment."""
        return [str(_python(folder / self.name)), "-m", f"tests.benchmarks.peers.{self.module}"]


PEERS = (
    # torch by itself first: the release named here is the one for processors.
    Peer("llmemory", "llmemory_peer", (("torch==2.13.0",), ("llmemory==0.5.*", "pgdbm", "numpy"))),
    Peer("langchain-postgres", "langchain_peer", (("langchain-postgres==0.0.*", "asyncpg", "numpy"),)),
)


def make(peer: Peer, folder: Path) -> str | None:
    """Make the environment where it is absent; what went wrong, or None."""
    place = folder / peer.name
    done = place / "installed"
    if done.exists():
        return None
    sys.stdout.write(f"peers: installing {peer.name} into {place}\n")
    sys.stdout.flush()
    try:
        venv.create(place, with_pip=True, clear=True)
        for packages in peer.installs:
            subprocess.run([_python(place), "-m", "pip", "install", "--quiet", *packages], check=True,
                           capture_output=True, text=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return said.strip().splitlines()[-1] if said.strip() else type(error).__name__
    done.touch()
    return None


def variables() -> dict[str, str]:
    """What peers need to run without a network: the token encoding that litellm's wheel carries."""
    spec = importlib.util.find_spec("litellm")
    folders = spec.submodule_search_locations if spec else None
    cache = {"TIKTOKEN_CACHE_DIR": str(Path(next(iter(folders))) / _TOKENIZERS)} if folders else {}
    # llmemory wants a key, even where nothing is asked for one.
    fixed = {"HF_HUB_OFFLINE": "1", "LLMEMORY_OPENAI_API_KEY": "none", "PYTHONPATH": str(HERE)}
    return {**cache, **fixed, "PYTHONWARNINGS": "ignore"}


def _python(place: Path) -> Path:
    return place / "bin" / "python"
