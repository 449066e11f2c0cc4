"""`llmstack doctor`: every problem with its way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_support import CommandLine, Finished, HereCommandLine

from llmstack.db.schemas import quote
from llmstack.testing import servers

STEPS = [
    "versions", "embedder", "connection", "extension", "pool", "migrations",
    "privileges", "pending work", "spaces", "indexes", "triggers", "statistics",
]  # fmt: skip


def _findings(done: Finished) -> dict[str, Any]:
    return {finding["name"]: finding for finding in done.json["findings"]}


def test_a_healthy_database_has_no_problems(here: HereCommandLine) -> None:
    done = here.run("doctor", "--json")
    assert done.status == 0
    assert done.json["healthy"] is True
    found = _findings(done)
    assert list(found) == STEPS
    assert {finding["status"] for finding in found.values()} == {"ok"}
    assert found["connection"]["detail"].startswith("PostgreSQL ")
    text = here.run("doctor")
    assert text.output.splitlines()[-1] == "no problems found"
    assert [step for step in STEPS if f" {step} " not in text.output] == []


def test_a_server_that_is_down_is_said_without_the_password() -> None:
    down = CommandLine("postgresql://reader:hunter2@127.0.0.1:1/shop")
    done = down.run("doctor", "--json")
    assert done.status == 1
    connection = _findings(done)["connection"]
    assert (connection["status"], "cannot be reached" in connection["detail"]) == ("problem", True)
    assert "LLMSTACK_DATABASE_URL" in connection["way_out"]
    shown = down.run("doctor")
    assert shown.output.splitlines()[-1] == "1 problem found"
    assert "hunter2" not in done.output + done.errors + shown.output + shown.errors


def test_a_schema_that_is_not_there_yet_is_a_problem_with_the_command(fresh: CommandLine) -> None:
    done = fresh.run("doctor", "--json", "--schema", "Shop")
    assert done.status == 1
    found = _findings(done)
    assert found["extension"]["status"] == "problem"
    assert found["migrations"]["way_out"] == "llmstack migrate --schema Shop"
    assert {found[step]["status"] for step in STEPS[6:]} == {"skipped"}


async def test_missing_privileges_are_listed_with_the_grants(here: HereCommandLine) -> None:
    from sqlalchemy.engine import make_url

    assert here.url is not None
    role = servers.unique_name()
    await servers.execute(
        here.url,
        f"CREATE ROLE {quote(role)} LOGIN PASSWORD 'secret'",
        f"GRANT USAGE ON SCHEMA llmstack TO {quote(role)}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA llmstack TO {quote(role)}",
    )
    url = make_url(here.url).set(username=role, password="secret").render_as_string(hide_password=False)
    try:
        done = here.run("doctor", "--json", LLMSTACK_DATABASE_URL=url)
        assert done.status == 1
        privileges = _findings(done)["privileges"]
        assert "documents (INSERT)" in privileges["detail"]
        assert "documents (SELECT)" not in privileges["detail"]
        assert "alembic_version" not in privileges["detail"]
        assert f"llmstack migrate grants --role {role} --apply" in privileges["way_out"]
        assert here.run("migrate", "grants", "--role", role, "--apply").status == 0
        assert here.run("doctor", "--json", LLMSTACK_DATABASE_URL=url).json["healthy"] is True
    finally:
        await servers.execute(here.url, f"DROP OWNED BY {quote(role)}", f"DROP ROLE {quote(role)}")


async def test_an_extension_off_the_search_path_is_a_problem(here: HereCommandLine) -> None:
    assert here.url is not None
    await servers.execute(here.url, "CREATE SCHEMA extensions", "ALTER EXTENSION vector SET SCHEMA extensions")
    extension = _findings(here.run("doctor", "--json"))["extension"]
    assert extension["status"] == "problem"
    assert extension["way_out"] == "set LLMSTACK_EXTENSION_SCHEMA=extensions"
    healed = here.run("doctor", "--json", LLMSTACK_EXTENSION_SCHEMA="extensions")
    assert _findings(healed)["extension"]["status"] == "ok"


async def test_a_newer_database_asks_for_a_newer_package(here: HereCommandLine) -> None:
    assert here.url is not None
    await servers.execute(
        here.url, "UPDATE llmstack.alembic_version SET version_num = 'documents_9999' WHERE version_num ~ 'documents'"
    )
    migrations = _findings(here.run("doctor", "--json"))["migrations"]
    assert (migrations["status"], migrations["way_out"]) == ("problem", "pip install --upgrade llmstack")


def test_a_pool_larger_than_the_server_is_a_problem(here: HereCommandLine) -> None:
    pool = _findings(here.run("doctor", "--json", LLMSTACK_POOL_SIZE="100000"))["pool"]
    assert pool["status"] == "problem"
    assert "LLMSTACK_POOL_SIZE" in pool["way_out"]


def test_a_missing_embedder_is_reported_and_stops_nothing(here: HereCommandLine) -> None:
    found = _findings(here.run("doctor", "--json", "--embedder", "none"))
    assert (found["embedder"]["status"], found["connection"]["status"]) == ("note", "ok")


@pytest.fixture
def filled(here: HereCommandLine, tmp_path: Path) -> HereCommandLine:
    """Two documents with vectors, and the command line over them."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"the text of {name}")
    assert here.run("ingest", tmp_path, "--owner", "acme").status == 0
    return here


_COPIES = """
INSERT INTO llmstack.chunks
    (id, owner_id, document_id, position, content, token_count, start_offset, end_offset, content_hash)
SELECT gen_random_uuid(), owner_id, document_id, position + number, content, 1, 0, 1,
    sha256(convert_to(number::text || document_id, 'UTF8'))
FROM llmstack.chunks, generate_series(1, {number}) number
"""
_VECTORS = """
INSERT INTO llmstack.chunk_embeddings (owner_id, row_id, space_id, embedding)
SELECT c.owner_id, c.id, e.space_id, e.embedding FROM llmstack.chunks c,
    (SELECT space_id, embedding FROM llmstack.chunk_embeddings LIMIT 1) e ON CONFLICT DO NOTHING
"""


async def test_uncovered_chunks_and_old_statistics_are_noted(filled: HereCommandLine) -> None:
    assert filled.url is not None
    await servers.execute(filled.url, _COPIES.format(number=1))
    found = _findings(filled.run("doctor", "--json"))
    assert found["spaces"]["status"] == "note"
    assert found["spaces"]["way_out"] == "llmstack embeddings backfill, then llmstack embeddings process"
    assert found["statistics"]["way_out"] == "llmstack refresh --corpus documents"
    for way_out in (["refresh"], ["embeddings", "backfill"], ["embeddings", "process"]):
        assert filled.run(*way_out).status == 0
    healed = _findings(filled.run("doctor", "--json"))
    assert (healed["spaces"]["status"], healed["statistics"]["status"]) == ("ok", "ok")


async def test_many_vectors_without_an_index_are_a_problem(filled: HereCommandLine) -> None:
    assert filled.url is not None
    await servers.execute(filled.url, _COPIES.format(number=10_000), _VECTORS)
    spaces = _findings(filled.run("doctor", "--json"))["spaces"]
    assert (spaces["status"], spaces["way_out"]) == ("problem", "llmstack embeddings index")


async def test_an_invalid_index_is_a_problem_that_the_way_out_heals(filled: HereCommandLine) -> None:
    assert filled.url is not None
    assert filled.run("embeddings", "index").status == 0
    await servers.execute(
        filled.url,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = (SELECT min(indexrelid) FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = 'ix_chunk_embeddings_s1_p03')",
    )
    found = _findings(filled.run("doctor", "--json"))["indexes"]
    assert (found["status"], found["way_out"]) == ("problem", "llmstack embeddings index")
    assert "ix_chunk_embeddings_s1_p03" in found["detail"]


async def test_work_set_aside_is_a_problem_and_work_that_waits_a_note(filled: HereCommandLine) -> None:
    assert filled.url is not None
    await servers.execute(filled.url, "DELETE FROM llmstack.chunk_embeddings")
    filled.run("embeddings", "backfill")
    waiting = _findings(filled.run("doctor", "--json"))["pending work"]
    assert (waiting["status"], waiting["way_out"]) == ("note", "llmstack embeddings process")
    await servers.execute(filled.url, "UPDATE llmstack.chunk_embedding_jobs SET attempts = 5")
    aside = _findings(filled.run("doctor", "--json"))["pending work"]
    assert (aside["status"], aside["way_out"]) == ("problem", "llmstack embeddings process --retry")
