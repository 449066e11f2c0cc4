"""The leak suite: two services on one pool, and everything a session can do, tried across them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from sqlalchemy import MetaData, Table, delete, func, insert, inspect, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import selectinload
from sqlalchemy.pool import AsyncAdaptedQueuePool

from ..db import Base, Database, Service
from ..db.schemas import SCHEMA_TOKEN, quote, translate_map
from ..errors import IsolationError
from .rows import Row, RowMaker, capture, plain_row, relations, write

Check = Callable[["_Probe"], Awaitable[None]]
_CHECKS: dict[str, Check] = {}


async def assert_schema_isolation(
    database: Database,
    *models: type[Any],
    make_row: RowMaker = plain_row,
    token: str | None = SCHEMA_TOKEN,
) -> None:
    """Raise AssertionError if rows of one service can be seen, changed or loaded through another.

    `token` is the schema in which the models are declared and which each service maps to its own; None is
    for models without a schema. Both services work in schemas that are made for the test and dropped.

    `make_row(model)` returns a new unsaved object of the model, or a list that ends with it and begins with
    what it refers to; without it, columns that must be given are filled by type.
    """
    names = [f"Leak {side} {uuid4().hex[:8]}" for side in "AB"]
    first, second = (_service(database, name, token) for name in names)
    try:
        for metadata in {model.metadata: None for model in models}:
            for service in (first, second):
                await _create_tables(service, metadata, token)
        for model in models:
            for operation, check in _CHECKS.items():
                probe = _Probe(model, make_row, first, second, token, operation)
                await probe.clear()
                await check(probe)
    finally:
        async with database.engine.begin() as connection:
            for name in names:
                await connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {quote(name)} CASCADE")


def _service(database: Database, schema: str, token: str | None) -> Service:
    service = Service(database, schema)
    if token != SCHEMA_TOKEN:
        mapping: dict[str | None, str] = {token: schema}
        mapping.update(translate_map(schema))
        service.engine = database.engine.execution_options(schema_translate_map=mapping)
    return service


async def _create_tables(service: Service, metadata: MetaData, token: str | None) -> None:
    if metadata is Base.metadata:
        from ..db import migrate

        await migrate.upgrade(service.database.engine, schema=service.schema, settings=service.database.settings)
    tables = [table for table in metadata.tables.values() if table.schema == token]
    async with service.engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {quote(service.schema)}")
        await connection.run_sync(metadata.create_all, tables=tables)


@dataclass(frozen=True)
class _Probe:
    """One model, one operation, and the two services between which nothing may pass."""

    model: type[Any]
    make_row: RowMaker
    first: Service
    second: Service
    token: str | None
    operation: str

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            schemas = f"{self.first.schema!r} and {self.second.schema!r}"
            raise AssertionError(f"{self.model.__name__}: {self.operation} leaks between {schemas}: {what}")

    @property
    def table(self) -> Table:
        return self.model.__table__  # type: ignore[no-any-return]

    async def new_rows(self) -> list[Row]:
        return await capture(self.first.engine, self.make_row, self.model)

    async def write(self, service: Service, rows: Sequence[Row]) -> Any:
        """Write the rows and return the primary key of the model's own."""
        await write(service.engine, rows)
        return rows[-1].key

    async def write_twins(self) -> list[Row]:
        """Write rows with the same keys through both services."""
        rows = await self.new_rows()
        await self.write(self.first, rows)
        try:
            await self.write(self.second, rows)
        except IntegrityError as error:
            self.expect(False, f"a row of one stands in the way of the other's: {error.orig}")
        return rows

    async def keys(self, service: Service) -> set[Any]:
        """The primary keys that the ORM finds."""
        async with service.session() as session:
            return {inspect(row).identity for row in await session.scalars(select(self.model))}

    async def clear(self) -> None:
        for service in (self.first, self.second):
            async with service.engine.begin() as connection:
                for table in reversed(self.model.metadata.sorted_tables):
                    if table.schema == self.token and table.name != "alembic_version":
                        await connection.execute(delete(table))


def _check(operation: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        _CHECKS[operation] = check
        return check

    return register


@_check("ORM select")
async def _orm_select(probe: _Probe) -> None:
    key = await probe.write(probe.first, await probe.new_rows())
    probe.expect(await probe.keys(probe.first) == {key}, "the row is not where it was written")
    probe.expect(await probe.keys(probe.second) == set(), "the other service sees the row")


@_check("Core select")
async def _core_select(probe: _Probe) -> None:
    await probe.write(probe.first, await probe.new_rows())
    count = select(func.count()).select_from(probe.table)
    async with probe.first.session() as session:
        probe.expect(await session.scalar(count) == 1, "the row is not where it was written")
    async with probe.second.session() as session:
        probe.expect(await session.scalar(count) == 0, "the other service counts the row")


@_check("update")
async def _update(probe: _Probe) -> None:
    await probe.write(probe.first, await probe.new_rows())
    key = next(iter(probe.table.primary_key))
    statement = update(probe.table).values({key.name: key})
    async with probe.second.session() as session:
        result: Any = await session.execute(statement)
        probe.expect(result.rowcount == 0, "the other service updates the row")


@_check("delete")
async def _delete(probe: _Probe) -> None:
    key = await probe.write(probe.first, await probe.new_rows())
    async with probe.second.session() as session, session.begin():
        result: Any = await session.execute(delete(probe.model))
        probe.expect(result.rowcount == 0, "the other service deletes the row")
    probe.expect(await probe.keys(probe.first) == {key}, "the row is gone")


@_check("bulk insert")
async def _bulk_insert(probe: _Probe) -> None:
    *parents, row = await probe.new_rows()
    await write(probe.second.engine, parents)
    async with probe.second.session() as session, session.begin():
        await session.execute(insert(probe.model), [row.values])
    probe.expect(await probe.keys(probe.second) == {row.key}, "the row is not where it was written")
    probe.expect(await probe.keys(probe.first) == set(), "the row went to the other service")


@_check("insert ... returning")
async def _insert_returning(probe: _Probe) -> None:
    *parents, row = await probe.new_rows()
    await write(probe.second.engine, parents)
    async with probe.second.session() as session, session.begin():
        returned = (await session.scalars(insert(probe.model).values(row.values).returning(probe.model))).one()
        probe.expect(inspect(returned).identity == row.key, "another row came back")
    probe.expect(await probe.keys(probe.second) == {row.key}, "the row is not where it was written")
    probe.expect(await probe.keys(probe.first) == set(), "the row went to the other service")


@_check("unqualified text()")
async def _unqualified_text(probe: _Probe) -> None:
    """What `text("... FROM table")` would reach: nothing, or a table that belongs to neither."""
    await probe.write(probe.first, await probe.new_rows())
    statement = text("SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass(:name)")
    for service in (probe.first, probe.second):
        async with service.session() as session:
            found = await session.scalar(statement, {"name": quote(probe.table.name)})
            theirs = {quote(probe.first.schema), quote(probe.second.schema)}
            probe.expect(found not in theirs, f"search_path of {service.schema!r} leads to {found}")


@_check("relationship loading")
async def _relationship_loading(probe: _Probe) -> None:
    rows = await probe.write_twins()
    wanted = {relationship: await _related(probe.second, relationship) for relationship in relations(rows)}
    await _delete_rows(probe.first, rows)
    for relationship, keys in wanted.items():
        found = await _related(probe.second, relationship)
        probe.expect(found == keys, f"{relationship} loads rows of the other service")


async def _related(service: Service, relationship: Any) -> set[Any]:
    """The primary keys of every object that the relationship reaches."""
    async with service.session() as session:
        objects = await session.scalars(select(relationship.class_).options(selectinload(relationship)))
        loaded = [getattr(one, relationship.key) for one in objects]
    flat = [one for value in loaded for one in (value if isinstance(value, (list, set, tuple)) else [value])]
    return {inspect(one).identity for one in flat if one is not None}


async def _delete_rows(service: Service, rows: Sequence[Row]) -> None:
    async with service.session() as session, session.begin():
        for row in reversed(rows):
            await session.execute(delete(row.model))


@_check("same primary key")
async def _same_primary_key(probe: _Probe) -> None:
    key = (await probe.write_twins())[-1].key
    async with probe.first.session() as ours, probe.second.session() as theirs:
        mine, other = await ours.get(probe.model, key), await theirs.get(probe.model, key)
        probe.expect(mine is not None and other is not None, "a row is missing")
        probe.expect(mine is not other, "one object stands for both rows")
        await ours.execute(delete(probe.model))
        await ours.commit()
        ours.expunge_all()
        probe.expect(await ours.get(probe.model, key) is None, "a deleted row came back from the other service")
        probe.expect(await theirs.get(probe.model, key, populate_existing=True) is not None, "both rows are gone")


@_check("a second map in one session")
async def _second_map(probe: _Probe) -> None:
    options = probe.second.engine.sync_engine.get_execution_options()
    async with _refused(probe, "on a statement") as session:
        await session.execute(
            select(probe.model), execution_options={"schema_translate_map": options["schema_translate_map"]}
        )
    async with _refused(probe, "on a bind") as session:
        await session.execute(select(probe.model), bind_arguments={"bind": probe.second.engine.sync_engine})


@contextlib.asynccontextmanager
async def _refused(probe: _Probe, how: str) -> AsyncIterator[AsyncSession]:
    async with probe.first.session() as session:
        await session.execute(select(probe.model))
        try:
            yield session
        except IsolationError:
            return
    probe.expect(False, f"a second map {how} was not refused with IsolationError")


@_check("interleaved use of one connection")
async def _interleaved(probe: _Probe) -> None:
    made = [await probe.new_rows() for _ in range(2)]
    written = [await probe.write(probe.first, made[0]), await probe.write(probe.second, made[1])]
    async with _one_connection(probe) as services:

        async def look(index: int) -> None:
            async with services[index].session() as session:
                keys = {inspect(row).identity for row in await session.scalars(select(probe.model))}
                await asyncio.sleep(0)
                paths.add(await session.scalar(text("SHOW search_path")))
            probe.expect(keys == {written[index]}, f"{services[index].schema!r} sees rows of the other service")

        paths: set[Any] = set()
        await asyncio.gather(*(look(turn % 2) for turn in range(20)))
        probe.expect(len(paths) == 1, f"search_path changed between uses: {sorted(paths)}")


@contextlib.asynccontextmanager
async def _one_connection(probe: _Probe) -> AsyncIterator[list[Service]]:
    """The two services again, on a pool that opens its connections as theirs does, but never two."""
    engine = probe.first.database.engine
    pool = AsyncAdaptedQueuePool(engine.sync_engine.pool._creator, pool_size=1, max_overflow=0)
    single = create_async_engine(engine.url, pool=pool)
    try:
        database = Database(engine=single, settings=probe.first.database.settings)
        yield [_service(database, service.schema, probe.token) for service in (probe.first, probe.second)]
    finally:
        await single.dispose()
