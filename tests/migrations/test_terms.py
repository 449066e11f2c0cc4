"""The terms of a corpus lose their foreign key, and get it back with the rows that may have it."""

from __future__ import annotations

from migration_support import execute, rows
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack.db import migrate

TERMS = "SELECT corpus, lexeme, document_count FROM shop.term_statistics ORDER BY 1, 2"
CORPUS = (
    "INSERT INTO shop.corpus_statistics (corpus, row_count, average_length, sampled_share) VALUES ('notes', 3, 2, 1)"
)
TERM = "INSERT INTO shop.term_statistics VALUES ('{corpus}', 'hare', 2)"


async def test_terms_stay_up_and_down_and_what_has_no_corpus_goes(engine: AsyncEngine) -> None:
    await migrate.upgrade(engine, schema="shop", target="kernel@kernel_0006")
    await execute(engine, CORPUS, TERM.format(corpus="notes"))
    await migrate.upgrade(engine, schema="shop")
    await execute(engine, TERM.format(corpus="nobody's".replace("'", "''")))
    assert await rows(engine, TERMS) == [("nobody's", "hare", 2), ("notes", "hare", 2)]
    await migrate.downgrade(engine, schema="shop", target="kernel@kernel_0006")
    assert await rows(engine, TERMS) == [("notes", "hare", 2)]
    await execute(engine, "DELETE FROM shop.corpus_statistics")
    assert await rows(engine, TERMS) == []
    await migrate.upgrade(engine, schema="shop")
    await migrate.check(engine, schema="shop")
