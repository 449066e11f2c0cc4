"""The revision by which triggers make what is searched: rows stay where they are, up and down."""

from __future__ import annotations

import pytest
from migration_support import catalog, execute, fill, rows
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack.db import migrate

STORED = "SELECT id, search_vector::text, lexical::text FROM shop.chunks ORDER BY id"
PLACES = "SELECT id, xmin::text, ctid::text FROM shop.chunks ORDER BY id"
ROWS = """
INSERT INTO shop.chunks (id, owner_id, document_id, position, level, content, context, token_count, start_offset,
                         end_offset, content_hash, language, deleted_at)
SELECT gen_random_uuid(), owner_id, id, number, number % 3, 'kettles at login.example.net ' || number,
       CASE WHEN number % 2 = 0 THEN 'Guide > Tea' ELSE '' END, 3, 0, 10, int4send(number), 'english',
       CASE WHEN number % 7 = 0 THEN now() END
FROM shop.documents, generate_series(1000, 1060) AS number
"""
MEASURED = """
INSERT INTO shop.corpus_statistics (corpus, row_count, average_length, sampled_share, bm25_k1)
VALUES ('documents', 1, 1, 1, {k1})
"""


async def test_rows_are_not_written_on_the_way_up_and_are_the_same_after_the_way_down(engine: AsyncEngine) -> None:
    await migrate.upgrade(engine, schema="shop", target="documents@documents_0004")
    await fill(engine, "shop")
    await execute(engine, ROWS)
    old, stored, places = await catalog(engine, "shop"), await rows(engine, STORED), await rows(engine, PLACES)
    assert {row[1] is None for row in stored} == {True, False}
    await migrate.upgrade(engine, schema="shop")
    assert await rows(engine, PLACES) == places
    assert await rows(engine, STORED) == stored
    # What is written from then on is the same, too, where no words stand inside of others.
    await execute(engine, "UPDATE shop.chunks SET content = content || ' ', level = level")
    assert await rows(engine, STORED) == stored
    await migrate.downgrade(engine, schema="shop", target="documents@documents_0004")
    assert await rows(engine, STORED) == stored
    await migrate.downgrade(engine, schema="shop", target="kernel@kernel_0005")
    assert await catalog(engine, "shop") == old
    await migrate.upgrade(engine, schema="shop")
    await migrate.check(engine, schema="shop")
    assert await rows(engine, STORED) == stored


@pytest.mark.parametrize("stopped", [False, True])
async def test_what_a_stopped_rewrite_has_left_is_known_from_then_on(engine: AsyncEngine, stopped: bool) -> None:
    await migrate.upgrade(engine, schema="shop", target="documents@documents_0004")
    await fill(engine, "shop")
    await execute(engine, "DELETE FROM shop.corpus_statistics", ROWS, MEASURED.format(k1=0.9 if stopped else 1.2))
    await migrate.upgrade(engine, schema="shop")
    assert await rows(engine, "SELECT is_mixed FROM shop.corpus_statistics") == [(stopped,)]
