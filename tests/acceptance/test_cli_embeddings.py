"""`llmstack embeddings`: what is owed and what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import HereCommandLine

from llmstack.testing import servers

OWNER = ("--owner", "acme")


@pytest.fixture
def unembedded(here: HereCommandLine, tmp_path: Path) -> HereCommandLine:
    """Three documents without a vector, and the command line over them."""
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.txt").write_text(f"the text of {name}")
    here.run("ingest", tmp_path, *OWNER, "--embedder", "none")
    return here


def test_a_backfill_and_a_run_give_every_chunk_its_vector(unembedded: HereCommandLine) -> None:
    before = unembedded.run("embeddings", "status")
    assert "no spaces yet" in before.output
    queued = unembedded.run("embeddings", "backfill")
    assert queued.output == "queued 3 chunks\nto embed them: llmstack embeddings process\n"
    waiting = unembedded.run("embeddings", "status", "--json").json
    assert waiting["pending"] == {"waiting": 3, "leased": 0, "set_aside": 0}
    assert unembedded.run("embeddings", "process", "-n", "1").output == ("embedded 1, failed 0; 2 left, 0 set aside\n")
    assert unembedded.run("embeddings", "process", "--json").json == {
        "embedded": 2, "failed": 0, "remaining": 0, "set_aside": 0
    }  # fmt: skip
    (space,) = unembedded.run("embeddings", "spaces", "--json").json
    assert (space["vectors"], space["coverage"], space["index"]) == (3, 1.0, "absent")


def test_the_index_is_built_and_dropped(unembedded: HereCommandLine) -> None:
    unembedded.run("embeddings", "backfill")
    unembedded.run("embeddings", "process")
    assert unembedded.run("embeddings", "index").output == "built 16 index partitions of local/wordllama-256\n"
    assert unembedded.run("embeddings", "index").output == "local/wordllama-256 is indexed already\n"
    assert "hnsw " in unembedded.run("embeddings", "spaces").output
    assert unembedded.run("embeddings", "index", "--drop", "--json").json["dropped"] is True
    assert "hnsw, absent" in unembedded.run("embeddings", "spaces").output


async def test_work_that_was_set_aside_is_taken_up_again_on_request(unembedded: HereCommandLine) -> None:
    unembedded.run("embeddings", "backfill")
    assert unembedded.url is not None
    await servers.execute(unembedded.url, "UPDATE llmstack.embedding_jobs SET attempts = 5")
    status = unembedded.run("embeddings", "status")
    assert "0 waiting, 0 under way or resting, 3 set aside" in status.output
    assert "llmstack embeddings process --retry" in status.output
    assert unembedded.run("embeddings", "process").output.startswith("embedded 0")
    assert unembedded.run("embeddings", "process", "--retry").output.startswith("embedded 3")


def test_without_an_embedder_status_works_and_process_says_what_to_set(unembedded: HereCommandLine) -> None:
    assert unembedded.run("embeddings", "status", "--embedder", "none").output.startswith("embedder: none\n")
    done = unembedded.run("embeddings", "process", "--embedder", "none")
    assert done.status == 2
    assert "LLMSTACK_EMBEDDER" in done.errors


def test_looking_makes_no_space(here: HereCommandLine) -> None:
    for verb in ("status", "spaces"):
        assert here.run("embeddings", verb).status == 0
    assert here.run("embeddings", "spaces", "--json").json == []
