"""The installed `llmstack` script as a process of its own; its application in this one, which is faster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from llmstack.cli.main import app

SCRIPT = Path(sys.executable).parent / "llmstack"
SECONDS = 120


def _heed_interruptions() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Finished:
    """How a run of the script ended."""

    status: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        """What it printed, read as JSON."""
        return json.loads(self.output)


@dataclass(frozen=True)
class CommandLine:
    """The script with one database."""

    url: str | None = None
    data_dir: Path | None = None

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of the process: nothing of llmstack's but what is given."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMSTACK_")}
        places = {"LLMSTACK_DATABASE_URL": self.url, "LLMSTACK_DATA_DIR": self.data_dir}
        return {**kept, **{name: str(place) for name, place in places.items() if place is not None}, **more}

    def start(self, *arguments: object, **more: str) -> subprocess.Popen[str]:
        """Start it and do not wait; Ctrl-C reaches it even where the tests run in a background that ignores it."""
        return subprocess.Popen(
            [str(SCRIPT), *map(str, arguments)],
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heed_interruptions,
        )

    def run(self, *arguments: object, cwd: Path | None = None, **more: str) -> Finished:
        """Run it to its end."""
        done = subprocess.run(
            [str(SCRIPT), *map(str, arguments)],
            env=self.environment(**more),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert "Traceback" not in done.stderr or "--verbose" in arguments, done.stderr
        return Finished(done.returncode, done.stdout, done.stderr)


class HereCommandLine(CommandLine):
    """The application without the start of a process, for verbs on a database that is there anyway."""

    def run(self, *arguments: object, cwd: Path | None = None, **more: str) -> Finished:
        """Run it to its end, on a loop of its own in another thread."""
        places = {"LLMSTACK_DATABASE_URL": self.url, **more}
        with contextlib.chdir(cwd or Path.cwd()), ThreadPoolExecutor(max_workers=1) as apart:
            done = apart.submit(CliRunner().invoke, app, [str(one) for one in arguments], env=places).result()
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Finished(done.exit_code, done.stdout, done.stderr)
