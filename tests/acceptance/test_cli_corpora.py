"""The command line over a host's corpus, which LLMSTACK_CORPORA names."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cli_support import CommandLine, HereCommandLine
from notes import Note, NotesBase
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from llmstack import Database

TESTS = Path(__file__).parents[1]
OWNER = ("--owner", "acme")
KNOWN: dict[str, Any] = {"LLMSTACK_CORPORA": "notes:NOTES", "LLMSTACK_EMBEDDER": "none", "LLMSTACK_SEARCH_LOG": "true"}
CORPUS = ("--corpus", "notes")


@pytest_asyncio.fixture
async def shop(here: HereCommandLine, llmstack_database: Database) -> HereCommandLine:
    """Three notes of a host, which nobody has counted."""
    service = llmstack_database.service()
    async with service.engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA notebook"))
        await connection.run_sync(NotesBase.metadata.create_all)
    contents = {"kettle.md": "descale the kettle", "leave.md": "parental leave", "tea.md": "tea from the kettle"}

    async def work(session: AsyncSession) -> None:
        session.add_all(Note(owner_id="acme", slug=slug, content=text) for slug, text in contents.items())

    await service.transaction(work)
    return here


def test_a_search_is_filtered_shown_logged_and_judged(shop: HereCommandLine) -> None:
    found = shop.run("search", "kettle", *OWNER, *CORPUS, **KNOWN)
    assert (found.status, found.errors) == (0, "")
    assert "1. tea.md" in found.output or "1. kettle.md" in found.output
    assert "2 hits" in found.output
    filtered = shop.run("search", "kettle", *OWNER, *CORPUS, "--where", '{"folder": "attic"}', "--json", **KNOWN)
    assert filtered.json["hits"] == []
    page = shop.run("searches", *OWNER, *CORPUS, "--limit", 1, **KNOWN)
    assert "1 of 2 logged searches" in page.output
    following = re.search(r"next page: llmstack (.*)", page.output)
    assert following is not None
    oldest = shop.run(*following[1].split(), "--json", **KNOWN).json["searches"][0]
    assert sorted(hit["unit"] for hit in oldest["hits"]) == ["kettle.md", "tea.md"]
    judged = shop.run("feedback", oldest["id"], "tea.md=2", *OWNER, *CORPUS, **KNOWN)
    assert judged.output == "recorded 1 grade\n"
    strange = shop.run("feedback", oldest["id"], "tea.md=2", *OWNER, **KNOWN)
    assert (strange.status, "no logged search" in strange.errors) == (1, True)


def test_no_part_of_a_filter_is_lost_or_given_twice(here: HereCommandLine, tmp_path: Path) -> None:
    for name in ("plain.txt", "marked.md"):
        (tmp_path / name).write_text("descale the kettle")
    assert here.run("ingest", tmp_path, *OWNER, "--relative-to", tmp_path, "--embedder", "none").status == 0
    search = ("search", "kettle", *OWNER, "--embedder", "none", "--json")
    by_where = here.run(*search, "--where", '{"document_type": "markdown"}').json["hits"]
    assert [hit["id_at_origin"] for hit in by_where] == ["marked.md"]
    assert here.run(*search, "--type", "markdown").json["hits"][0]["id"] == by_where[0]["id"]
    twice = here.run(*search, "--where", '{"document_type": "markdown"}', "--type", "text")
    assert (twice.status, "document_type is given by an option of its own" in twice.errors) == (2, True)


async def test_a_table_without_its_triggers_is_named(shop: HereCommandLine, llmstack_database: Database) -> None:
    def finding() -> dict[str, Any]:
        found = {one["name"]: one for one in shop.run("doctor", "--json", **KNOWN).json["findings"]}
        return dict(found["triggers"])

    assert (await asyncio.to_thread(finding))["status"] == "ok"
    async with llmstack_database.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE notebook.notes DISABLE TRIGGER notes_searchable"))
    found = await asyncio.to_thread(finding)
    assert found["status"] == "problem"
    assert found["detail"] == 'nothing makes what is searched of notes ("notebook"."notes")'
    assert "finish_searchable_table" in found["way_out"]


def test_a_corpus_is_counted_weighed_and_examined(shop: HereCommandLine) -> None:
    finding = {one["name"]: one for one in shop.run("doctor", "--json", **KNOWN).json["findings"]}["statistics"]
    empty = [f"{name}: never read, 0 rows now" for name in ("documents", "messages", "thread_summaries")]
    assert finding["detail"] == "; ".join([*empty, "notes: never read, 3 rows now"])
    assert finding["way_out"] == "llmstack refresh --corpus notes"
    assert shop.run("refresh", *CORPUS, **KNOWN).output == "read 3 rows, 2 words on average\n"
    assert shop.run("reweigh", *CORPUS, "--k1", "0.9", **KNOWN).output == "rewrote the weights of 3 rows\n"
    assert shop.run("reanalyse", *CORPUS, **KNOWN).output == "read further words in 0 rows\n"
    few = shop.run("calibrate", *CORPUS, "--dry-run", **KNOWN)
    assert (few.status, "0 judged queries are too few" in few.errors) == (2, True)


def test_the_script_finds_modules_where_it_stands(shop: CommandLine) -> None:
    script = CommandLine(shop.url)
    assert "tea.md" in script.run("search", "tea", *OWNER, *CORPUS, cwd=TESTS, **KNOWN).output


@pytest.mark.parametrize("named", ["absent.module:NOTES", "notes:ABSENT", "notes", "notes:Note", ":NOTES"])
def test_what_is_no_corpus_is_refused_by_its_name(here: HereCommandLine, named: str) -> None:
    done = here.run("search", "x", *OWNER, LLMSTACK_CORPORA=named, LLMSTACK_EMBEDDER="none")
    assert (done.status, named in done.errors, "LLMSTACK_CORPORA" in done.errors) == (2, True, True)


def test_an_unknown_corpus_and_parts_of_another_filter_are_refused(shop: HereCommandLine) -> None:
    unknown = shop.run("search", "x", *OWNER, "--corpus", "letters", **KNOWN)
    assert (unknown.status, "(documents, messages, thread_summaries, notes)" in unknown.errors) == (2, True)
    for option in (("--type", "text"), ("--where", '{"author": "ann"}'), ("--where", "[1]"), ("--group", "parent")):
        done = shop.run("search", "x", *OWNER, *CORPUS, *option, **KNOWN)
        assert done.status == 2, option


def test_a_model_is_not_changed_without_a_hosts_table(shop: HereCommandLine) -> None:
    known = {**KNOWN, "LLMSTACK_EMBEDDER": "local"}
    blind = {**known, "LLMSTACK_CORPORA": ""}
    assert shop.run("embeddings", "add-space", "local", "--index-method", "none", **known).status == 0
    assert shop.run("embeddings", "backfill", **known).output.startswith("queued 3 rows")
    refused = shop.run("embeddings", "cut-over", "local/wordllama-256", **blind)
    assert refused.status == 1
    assert "notebook" in refused.errors
    assert "LLMSTACK_CORPORA" in refused.errors
    assert shop.run("embeddings", "process", **known).output.startswith("embedded 3, failed 0")
