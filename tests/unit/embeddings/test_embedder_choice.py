"""Which embedder the settings give."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmstack.embeddings import LiteLLMEmbedder, LocalEmbedder, default_embedder
from llmstack.errors import ConfigurationError, MissingExtra
from llmstack.settings import Settings


def _without_wordllama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_the_local_embedder_is_the_default_where_it_is_installed() -> None:
    assert isinstance(default_embedder(Settings()), LocalEmbedder)
    assert isinstance(default_embedder(Settings(embedder="local")), LocalEmbedder)


def test_without_the_local_package_there_is_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_wordllama(monkeypatch)
    assert default_embedder(Settings()) is None


def test_asking_for_the_local_embedder_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _without_wordllama(monkeypatch)
    with pytest.raises(MissingExtra, match=r"llmstack\[local\]"):
        default_embedder(Settings(embedder="local"))


def test_none_switches_vectors_off() -> None:
    assert default_embedder(Settings(embedder="none")) is None


def test_any_other_name_is_a_model_of_litellm() -> None:
    embedder = default_embedder(Settings(embedder="openai/text-embedding-3-small", embedding_dimensions=512))
    assert isinstance(embedder, LiteLLMEmbedder)
    assert (embedder.name, embedder.provider) == ("openai/text-embedding-3-small", "openai")
    assert embedder.dimensions == 512


@pytest.mark.parametrize(
    ("model", "provider", "dimensions"),
    [
        ("openai/text-embedding-3-small", "openai", 1536),
        ("text-embedding-3-large", "openai", 3072),
        ("openai/some-model-of-my-own", "openai", 0),
        ("some-model-of-my-own", "litellm", 0),
    ],
)
def test_provider_and_dimensions_come_from_the_list_of_litellm(model: str, provider: str, dimensions: int) -> None:
    embedder = LiteLLMEmbedder(model)
    assert (embedder.provider, embedder.dimensions) == (provider, dimensions)


def test_a_key_is_never_shown() -> None:
    assert "secret-key" not in repr(LiteLLMEmbedder("openai/m", api_key="secret-key")) + str(
        vars(LiteLLMEmbedder("openai/m", api_key="secret-key"))
    )


def test_dimensions_below_one_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="dimensions"):
        LiteLLMEmbedder("openai/m", dimensions=0)


def test_importing_embeddings_imports_no_heavy_library() -> None:
    program = (
        "import sys, llmstack.embeddings as e\n"
        "e.LiteLLMEmbedder('openai/text-embedding-3-small'), e.LocalEmbedder()\n"
        "print(sorted({'litellm', 'openai', 'numpy', 'wordllama', 'alembic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
