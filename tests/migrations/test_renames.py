"""Revisions that rename, up and down, with rows in the tables."""

from __future__ import annotations

import json
from typing import Any

import pytest
from migration_support import catalog, execute, fetch, fill
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack.db import migrate

SEARCHES = 2_300
"""More than two batches of the revision that rewrites them."""
OLD = {"chunk_id": "c1", "document_id": "d1", "id_at_origin": "o1", "score": 1.5, "ranks": {"text": 1}}
NEW = {"row_id": "c1", "document_id": "d1", "unit": "o1", "score": 1.5, "ranks": {"text": 1}}


async def log(engine: AsyncEngine, hits: str, number: int) -> None:
    await execute(
        engine,
        f"""
        INSERT INTO shop.search_log (id, corpus, owner_id, query, mode, hit_limit, hits, elapsed_ms)
        SELECT gen_random_uuid(), 'documents', 'acme', 'hare', 'text', 10, '{hits}', 1 FROM generate_series(1, {number})
        """,
    )


async def logged(engine: AsyncEngine) -> list[tuple[Any, int]]:
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT hits, count(*) FROM shop.search_log GROUP BY 1 ORDER BY 2"))
        return [(row[0], row[1]) for row in found]


def as_json(*hits: dict[str, Any]) -> str:

    return json.dumps(hits)


async def test_the_hits_of_the_log_take_the_new_names_and_give_them_back(engine: AsyncEngine) -> None:
    await migrate.upgrade(engine, schema="shop", target="kernel_0004")
    # Some were renamed before a run was broken off, and some searches found nothing.
    await log(engine, as_json(OLD, OLD | {"score": 0.5}), SEARCHES)
    await log(engine, as_json(NEW, NEW | {"score": 0.5}), 3)
    await log(engine, "[]", 2)
    await migrate.upgrade(engine, schema="shop", target="kernel@head")
    assert await logged(engine) == [([], 2), ([NEW, NEW | {"score": 0.5}], SEARCHES + 3)]
    await migrate.downgrade(engine, schema="shop", target="kernel@kernel_0004")
    assert await logged(engine) == [([], 2), ([OLD, OLD | {"score": 0.5}], SEARCHES + 3)]
    assert await migrate.upgrade(engine, schema="shop", target="kernel@head")
    assert await logged(engine) == [([], 2), ([NEW, NEW | {"score": 0.5}], SEARCHES + 3)]


@pytest.mark.parametrize("target", ["documents@documents_0003", "kernel@kernel_0003"])
async def test_what_is_renamed_keeps_its_rows_and_is_named_by_the_convention(engine: AsyncEngine, target: str) -> None:
    await migrate.upgrade(engine, schema="shop")
    await fill(engine, "shop")
    before = await catalog(engine, "shop")
    await migrate.downgrade(engine, schema="shop", target=target)
    if target.startswith("documents"):
        assert await fetch(engine, "SELECT count(chunk_id) FROM shop.embedding_jobs") == 1
        assert await fetch(engine, "SELECT count(chunk_id) FROM shop.chunk_embeddings") == 1
    else:
        assert await fetch(engine, "SELECT id_at_origin FROM shop.search_feedback") == "1"
    await migrate.upgrade(engine, schema="shop")
    await migrate.check(engine, schema="shop")
    assert await catalog(engine, "shop") == before
    assert await fetch(engine, "SELECT count(row_id) FROM shop.chunk_embedding_jobs") == 1
    assert await fetch(engine, "SELECT unit FROM shop.search_feedback") == "1"
    named = "SELECT count(*) FROM pg_constraint WHERE connamespace = 'shop'::regnamespace AND conname ~ 'chunk_id'"
    assert await fetch(engine, named + " AND conparentid = 0 AND contype <> 'n'") == 0
