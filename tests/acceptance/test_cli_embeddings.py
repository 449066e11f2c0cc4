"""`llmstack embeddings`: what is owed and what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import HereCommandLine

from llmstack import LLMStack
from llmstack.embeddings import CallableEmbedder
from llmstack.testing import servers

OWNER = ("--owner", "acme")
LOCAL = "local/wordllama-256"


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
    assert queued.output == "queued 3 rows\nto embed them: llmstack embeddings process\n"
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
    assert unembedded.run("embeddings", "index").output == "built 48 index partitions of local/wordllama-256\n"
    assert unembedded.run("embeddings", "index").output == "local/wordllama-256 is indexed already\n"
    assert "hnsw " in unembedded.run("embeddings", "spaces").output
    rebuilt = unembedded.run("embeddings", "index", "--rebuild", "--space", "local/wordllama-256")
    assert rebuilt.output == "built 48 index partitions of local/wordllama-256\n"
    both = unembedded.run("embeddings", "index", "--rebuild", "--drop")
    assert both.status == 2
    assert "give one of them" in both.errors
    assert unembedded.run("embeddings", "index", "--drop", "--json").json["dropped"] is True
    assert "hnsw, absent" in unembedded.run("embeddings", "spaces").output


async def test_work_that_was_set_aside_is_taken_up_again_on_request(unembedded: HereCommandLine) -> None:
    unembedded.run("embeddings", "backfill")
    assert unembedded.url is not None
    await servers.execute(unembedded.url, "UPDATE llmstack.chunk_embedding_jobs SET attempts = 5")
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


@pytest.fixture
async def old(here: HereCommandLine) -> HereCommandLine:
    """Three documents in the space of another model than the local one, which the command line knows."""
    embedder = CallableEmbedder(lambda texts: [[1.0, float(len(text))] for text in texts], name="old", dimensions=2)
    async with LLMStack(here.url, embedder=embedder) as stack:
        for name in ("one", "two", "three"):
            await stack.documents.add(owner_id="acme", id_at_origin=name, content=f"the text of {name}")
    return here


async def test_the_model_is_changed_step_by_step_each_naming_the_next(old: HereCommandLine) -> None:
    made = old.run("embeddings", "add-space", "local", "--index-method", "none")
    assert made.output == (
        f"{LOCAL}: 256 dimensions, cosine, halfvec, none\n"
        f"to queue every row: llmstack embeddings backfill --space {LOCAL}\n"
    )
    lacking = old.run("embeddings", "verify", LOCAL)
    assert (lacking.status, lacking.output.splitlines()) == (
        1,
        [
            f"{LOCAL}: 0.0% covered, 0 pending, index none",
            "- chunks: 3 of 3 rows have neither vector nor job: backfill queues them",
            f"to queue them: llmstack embeddings backfill --space {LOCAL}",
        ],
    )
    refused = old.run("embeddings", "cut-over", LOCAL)
    assert refused.status == 1
    assert f"error: cannot cut over to '{LOCAL}': chunks: 3 of 3 rows" in refused.errors
    queued = old.run("embeddings", "backfill", "--space", LOCAL)
    assert queued.output == f"queued 3 rows\nto embed them: llmstack embeddings process --space {LOCAL}\n"
    assert f"embeddings process --space {LOCAL}" in old.run("embeddings", "verify", LOCAL).output
    assert f"process --space {LOCAL}" in old.run("embeddings", "status", "--space", LOCAL).output
    assert old.run("embeddings", "process", "--space", LOCAL).output.startswith("embedded 3, failed 0; 0 left")
    ready = old.run("embeddings", "verify", LOCAL)
    assert (ready.status, ready.output.splitlines()[1:]) == (
        0,
        [f"to let it serve: llmstack embeddings cut-over {LOCAL}"],
    )
    assert old.run("embeddings", "verify", LOCAL, "--json").json == {
        "space": LOCAL, "coverage": 1.0, "pending": 0, "set_aside": 0, "index": "none", "recall": None, "faults": [],
        "steps": [],
        "ready": True,
    }  # fmt: skip
    served = old.run("embeddings", "cut-over", LOCAL)
    assert served.output == (
        f"{LOCAL} serves; processes that know its embedder follow within 5 s\n"
        "to go back: llmstack embeddings roll-back\n"
    )
    best = old.run("search", "three", *OWNER, "--mode", "vector", "--json").json["hits"][0]
    assert best["id_at_origin"] == "three"
    back = old.run("embeddings", "roll-back")
    assert back.output == "old serves; processes that know its embedder follow within 5 s\n"
    assert old.run("embeddings", "cut-over", LOCAL, "--json").json["name"] == LOCAL
    gone = old.run("embeddings", "retire", "old", LLMSTACK_SPACE_REFRESH="0")
    assert gone.output == "retired old: 3 vectors and 0 jobs deleted\n"
    states = {one["name"]: one["state"] for one in old.run("embeddings", "spaces", "--json").json}
    assert states == {"old": "retired", LOCAL: "active"}


async def test_an_embedder_that_is_not_named_is_said_to_be_needed_everywhere(old: HereCommandLine) -> None:
    made = old.run("embeddings", "add-space", "openai/text-embedding-3-small=512", "--parameter", "m=24", "--json")
    assert (made.json["name"], made.json["dimensions"]) == ("openai/text-embedding-3-small", 512)
    again = old.run("embeddings", "add-space", "openai/text-embedding-3-small=512", "--parameter", "m=24")
    assert "in every process: LLMSTACK_OTHER_EMBEDDERS=openai/text-embedding-3-small=512\n" in again.output
    listed = "local, openai/text-embedding-3-small=512"
    named = old.run("embeddings", "status", "--json", LLMSTACK_OTHER_EMBEDDERS=listed)
    assert named.json["embedders"] == [LOCAL, "openai/text-embedding-3-small"]
    unnamed = old.run("embeddings", "process", "--space", "openai/text-embedding-3-small")
    assert (unnamed.status, "LLMSTACK_OTHER_EMBEDDERS" in unnamed.errors) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("verify", "newer"), 1, "no embedding space is named 'newer'"),
        (("cut-over", "newer"), 1, "no embedding space is named 'newer'"),
        (("retire", "newer"), 1, "no embedding space is named 'newer'"),
        (("retire", "old"), 1, "'old' serves; cut over to another one first"),
        (("roll-back",), 1, "no other space served before"),
        (("status", "--space", "newer"), 1, "'newer'"),
        (("add-space", "none"), 2, "is no embedder"),
        (("add-space", "local", "--distance", "hamming"), 2, "use one of cosine"),
        (("add-space", "local", "--parameter", "m=many"), 2, "such as m=24"),
        (("add-space", "local", "--parameter", "lists=5"), 2, "hnsw has no"),
        (("verify", "old", "--least-coverage", "2"), 2, "'--least-coverage'"),
        (("cut-over",), 2, "NAME"),
    ],
)
async def test_a_step_that_cannot_be_taken_says_why(
    old: HereCommandLine, arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = old.run("embeddings", *arguments)
    assert (done.status, message in done.errors) == (status, True), done.errors
