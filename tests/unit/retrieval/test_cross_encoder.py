"""A cross-encoder of sentence-transformers: a small one with weights by chance, for none comes with a package."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from llmstack.errors import MissingExtra
from llmstack.retrieval import CrossEncoderReranker, rerank_scores

INSTALLED = importlib.util.find_spec("sentence_transformers") is not None
PASSAGES = ["about ships", "about the tax on ships", "about apples"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "tax", "about", "ships", "the", "on", "apples"]


@pytest.mark.skipif(INSTALLED, reason="the extra `rerank` is installed")
def test_without_its_package_it_says_what_to_install() -> None:
    with pytest.raises(MissingExtra, match=r"llmstack\[rerank\]"):
        CrossEncoderReranker("some/model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with one layer that was never trained; it scores, though not well."""
    transformers: Any = importlib.import_module("transformers")
    importlib.import_module("torch").manual_seed(5)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=1,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.skipif(not INSTALLED, reason="the extra `rerank` is not installed; `nox -s rerank` runs it")
@pytest.mark.filterwarnings("ignore")
async def test_each_pair_has_the_score_that_the_model_gives_it(folder: Path) -> None:
    model: Any = importlib.import_module("sentence_transformers").CrossEncoder(str(folder))
    expected = [float(score) for score in model.predict([("tax", passage) for passage in PASSAGES])]
    assert len(set(expected)) == 3
    reranker = CrossEncoderReranker(str(folder), batch_size=2)
    found = await rerank_scores(reranker, "tax", PASSAGES, seconds=60.0)
    assert found == pytest.approx(expected, abs=1e-5)
