"""What the catalog and the planner say of a space's indexes."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import text, update
from sqlalchemy.dialects.postgresql import asyncpg

from llmstack.db import Service
from llmstack.documents import DOCUMENTS
from llmstack.documents.models import CORPUS, Chunk
from llmstack.embeddings import EmbeddingSpace, Space
from llmstack.search import SearchOptions, hybrid


async def oids(service: Service) -> dict[str, int]:
    """Every index of a space, by its name."""
    return {name: oid for name, (oid, _) in (await _found(service)).items()}


async def states(service: Service) -> dict[str, bool]:
    """Every index of a space, and whether it is valid."""
    return {name: is_valid for name, (_, is_valid) in (await _found(service)).items()}


async def _found(service: Service) -> dict[str, tuple[int, bool]]:
    statement = text(
        "SELECT relname, oid, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid "
        "WHERE relname LIKE 'ix_chunk_embeddings_s%' ORDER BY relname"
    )
    async with service.single_statements() as session:
        return {row.relname: (row.oid, row.indisvalid) for row in await session.execute(statement)}


async def lists_of(service: Service, pattern: str) -> set[int]:
    """The numbers of lists of the IVFFlat indexes with such names."""
    statement = text("SELECT array_to_string(reloptions, ',') FROM pg_class WHERE relname LIKE :pattern")
    async with service.single_statements() as session:
        found = await session.scalars(statement, {"pattern": pattern})
        return {int(options.removeprefix("lists=")) for options in found if options}


async def change(service: Service, space: EmbeddingSpace, **values: Any) -> EmbeddingSpace:
    """The space with other options."""
    statement = update(EmbeddingSpace).where(EmbeddingSpace.id == space.id).values(**values).returning(EmbeddingSpace)
    async with service.session() as session:
        changed = (await session.scalars(statement)).one()
        await session.commit()
    return changed


def search_of(space: EmbeddingSpace, vector: Any, *, owner_id: str = "acme", **given: Any) -> Any:
    """The vector leg alone, by the index where there is one."""
    options = SearchOptions(exact_rows=given.pop("exact_rows", 0), **given.pop("options", {}))
    return hybrid(
        Chunk,
        corpus=CORPUS,
        owner_id=owner_id,
        vector=list(map(float, vector)),
        source=DOCUMENTS.source(Space.of(space)),
        options=options,
        **given,
    )


async def found_by(service: Service, statement: Any) -> tuple[list[Any], set[str]]:
    """The ids in their order, and the paths that were taken."""
    async with service.single_statements() as session:
        rows = (await session.execute(statement)).all()
    return [row.id for row in rows], {row.vector_path for row in rows}


async def indexes_in_plan(service: Service, statement: Any) -> set[str]:
    """The names of the indexes that the plan of a search reads."""
    compiled = statement.compile(dialect=asyncpg.dialect())  # type: ignore[no-untyped-call]
    values = [compiled.params[name] for name in compiled.positiontup or ()]
    async with service.single_statements() as session:
        driver: Any = (await (await session.connection()).get_raw_connection()).driver_connection
        plan = await driver.fetch(f"EXPLAIN {compiled}", *values)
    return set(re.findall(r"Index Scan using (\S+)", "\n".join(row[0] for row in plan)))
