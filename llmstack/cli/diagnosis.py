"""What doctor looks at, one function for each matter."""

from __future__ import annotations

import dataclasses
import platform
import time
import warnings
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Row, func, select, text

from ..db.models import CorpusStatistics
from ..db.schemas import quoted_in
from ..db.translate import translating
from ..db.urls import masked
from ..errors import DatabaseNewer, LLMStackError
from .exits import described
from .invocation import Invocation
from .output import counted, queue_line

if TYPE_CHECKING:
    from ..db.database import Service
    from ..retrieval import Corpus
    from ..stack import LLMStack

Status = Literal["ok", "note", "problem", "skipped"]
INDEX_WORTHWHILE = 20_000
"""Vectors from which an exact scan is slow."""
_STALE = 0.2
"""The share of rows that came or went from which the term statistics should be read anew."""
_PINGS = 5

_EXTENSION = """
SELECT e.extversion, n.nspname, n.nspname = ANY (current_schemas(false)) AS is_visible
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""
_MAKES_SEARCHABLE = """
SELECT EXISTS (
    SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE t.tgrelid = to_regclass(:table) AND p.proname = 'make_searchable' AND t.tgenabled IN ('O', 'A')
) OR EXISTS (
    SELECT FROM pg_attribute
    WHERE attrelid = to_regclass(:table) AND attname = 'search_vector' AND attgenerated <> ''
)
"""
_INVALID_INDEXES = """
SELECT c.relname,
    EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = c.oid) AS is_building
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND NOT i.indisvalid ORDER BY c.relname
"""
_MISSING_PRIVILEGES = """
SELECT current_user AS role, has_schema_privilege(n.oid, 'USAGE') AS has_usage,
    coalesce(string_agg(DISTINCT c.relname || ' (' || p.privilege || ')', ', '
        ORDER BY c.relname || ' (' || p.privilege || ')')
        FILTER (WHERE NOT has_table_privilege(c.oid, p.privilege)), '') AS missing
FROM pg_namespace n
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS p(privilege)
WHERE n.nspname = :schema AND (c.relname IS NULL OR c.relname = ANY (CAST(:tables AS text[]))
    OR (c.relname = 'alembic_version' AND p.privilege = 'SELECT'))
GROUP BY n.oid
"""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One matter, how it stands, and what to do where it does not stand well."""

    name: str
    status: Status
    detail: str
    way_out: str | None = None


def failure(name: str, error: LLMStackError, way_out: str | None = None) -> Finding:
    """A matter that could not be examined."""
    hint = way_out or "check --url or LLMSTACK_DATABASE_URL, and that the server runs and lets this machine in"
    return Finding(name, "problem", described(error), None if "pip install" in str(error) else hint)


def local_findings(call: Invocation) -> list[Finding]:
    """What needs no database: versions, and the embedder that the settings name."""
    return [
        Finding("versions", "ok", _versions()),
        _embedder(call),
    ]


def _versions() -> str:
    names = ("llmstack", "sqlalchemy", "alembic", "asyncpg", "pgvector")
    return ", ".join([*(f"{name} {_version(name)}" for name in names), f"Python {platform.python_version()}"])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _embedder(call: Invocation) -> Finding:
    from ..embeddings import default_embedder, other_embedders

    try:
        embedder = default_embedder(call.settings)
        others = other_embedders(call.settings)
    except LLMStackError as error:
        return Finding("embedder", "problem", described(error))
    if embedder is not None:
        return Finding("embedder", "ok", ", ".join(one.name for one in (embedder, *others)))
    way_out = "pip install 'llmstack[local]', or set LLMSTACK_EMBEDDER to a litellm model"
    return Finding("embedder", "note", "none: search is by text alone", way_out)


async def examine(call: Invocation, url: str) -> list[Finding]:
    """Everything that needs the server; the rest is skipped where the schema is not there yet."""
    from ..stack import LLMStack

    # Counting needs no embedder, and one that is misconfigured is reported already.
    async with LLMStack(url, embedder="none", settings=call.settings) as stack:
        examination = _Examination(call, stack)
        connection = await examination.take("connection", examination.connection)
        if connection.status == "problem":
            return [connection]
        found = [connection]
        for name in ("extension", "pool", "migrations"):
            found.append(await examination.take(name, getattr(examination, name)))
        is_ready = found[-1].status == "ok"
        for name in ("privileges", "pending work", "spaces", "indexes", "triggers", "statistics"):
            step = getattr(examination, name.replace(" ", "_"))
            waiting = Finding(name, "skipped", "not before the schema is migrated")
            found.append(await examination.take(name, step) if is_ready else waiting)
        return found


@dataclasses.dataclass(frozen=True)
class _Examination:
    call: Invocation
    stack: LLMStack

    @property
    def service(self) -> Service:
        return self.stack.service

    async def take(self, name: str, step: Callable[[], Awaitable[Finding]]) -> Finding:
        """Run one step; an error is its finding."""
        try:
            with translating():
                return await step()
        except LLMStackError as error:
            return failure(name, error, self._command("migrate", "status") if name != "connection" else None)
        except Exception as error:
            return Finding(name, "problem", described(error))

    def _command(self, *words: str) -> str:
        return self.call.options.command(*words)

    async def _row(self, statement: str, **values: Any) -> Row[Any] | None:
        async with self.service.session() as session:
            return (await session.execute(text(statement), values)).one_or_none()

    async def connection(self) -> Finding:
        row = await self._row("SELECT current_setting('server_version') AS version, current_user AS role")
        times = []
        async with self.service.session() as session:
            for _ in range(_PINGS):
                started = time.perf_counter()
                await session.execute(text("SELECT 1"))
                times.append(time.perf_counter() - started)
        assert row is not None
        place = "embedded server" if self.call.embedded else masked(self.stack.database.engine.url)
        said = f"PostgreSQL {row.version} as {row.role}, {sorted(times)[_PINGS // 2] * 1000:.1f} ms, {place}"
        return Finding("connection", "ok", said)

    async def extension(self) -> Finding:
        row = await self._row(_EXTENSION)
        if row is None:
            way_out = f"{self._command('migrate')}, or as a superuser: CREATE EXTENSION vector"
            return Finding("extension", "problem", "vector is not installed in this database", way_out)
        if tuple(int(part) for part in row.extversion.split(".")[:2]) < (0, 8):
            way_out = "install pgvector 0.8 or newer, then as a superuser: ALTER EXTENSION vector UPDATE"
            return Finding("extension", "problem", f"vector {row.extversion} is too old", way_out)
        said = f"vector {row.extversion} in schema {row.nspname!r}"
        if not row.is_visible:
            way_out = f"set LLMSTACK_EXTENSION_SCHEMA={row.nspname}"
            return Finding("extension", "problem", f"{said}, which is not on the search path", way_out)
        return Finding("extension", "ok", said)

    async def pool(self) -> Finding:
        with warnings.catch_warnings(action="ignore"):
            message = await self.stack.database.check_pool()
        if message is not None:
            wanted, _, _ = message.partition(";")
            way_out = "lower LLMSTACK_POOL_SIZE and LLMSTACK_MAX_OVERFLOW, or raise max_connections on the server"
            return Finding("pool", "problem", wanted, way_out)
        settings = self.call.settings
        if settings.behind_pooler:
            return Finding("pool", "ok", "none of our own: behind a pooler")
        return Finding("pool", "ok", f"at most {settings.pool_size} + {settings.max_overflow} connections")

    async def migrations(self) -> Finding:
        from ..db.migrate import status

        schema = self.service.schema
        try:
            modules = await status(self.stack.database.engine, schema=schema)
        except DatabaseNewer as error:
            return Finding("migrations", "problem", described(error), "pip install --upgrade llmstack")
        if behind := [f"{one.module} ({one.pending})" for one in modules if one.pending]:
            said = f"schema {schema!r} has pending migrations: {', '.join(behind)}"
            return Finding("migrations", "problem", said, self._command("migrate"))
        return Finding("migrations", "ok", f"schema {schema!r}: " + ", ".join(str(one.current) for one in modules))

    async def privileges(self) -> Finding:
        from ..db.base import Base

        tables = sorted(table.name for table in Base.metadata.tables.values())
        row = await self._row(_MISSING_PRIVILEGES, schema=self.service.schema, tables=tables)
        assert row is not None
        if row.has_usage and not row.missing:
            return Finding("privileges", "ok", f"role {row.role!r} may read and write every table")
        lacking = row.missing if row.has_usage else "USAGE on the schema"
        way_out = "as the owner of the schema: " + self._command("migrate", "grants", "--role", row.role, "--apply")
        return Finding("privileges", "problem", f"role {row.role!r} lacks {lacking}", way_out)

    async def pending_work(self) -> Finding:
        pending = await self.stack.embeddings.pending()
        said = queue_line(pending)
        if pending.set_aside:
            return Finding("pending work", "problem", said, self._command("embeddings", "process", "--retry"))
        if pending.waiting:
            return Finding("pending work", "note", said, self._command("embeddings", "process"))
        return Finding("pending work", "ok", said)

    async def spaces(self) -> Finding:
        spaces = [space for space in await self.stack.embeddings.spaces() if space.state != "retired"]
        if not spaces:
            return Finding("spaces", "ok", "none yet: one is made when the first text is embedded")
        said = "; ".join(
            f"{space.name} has {counted(space.vectors, 'vector')}, {space.coverage:.1%} covered, index {space.index}"
            for space in spaces
        )
        if any(space.index in ("absent", "none") and space.vectors > INDEX_WORTHWHILE for space in spaces):
            return Finding("spaces", "problem", f"{said}: exact scans are slow", self._command("embeddings", "index"))
        if any(space.coverage < 1 and space.state == "active" for space in spaces):
            way_out = f"{self._command('embeddings', 'backfill')}, then {self._command('embeddings', 'process')}"
            return Finding("spaces", "note", said, way_out)
        return Finding("spaces", "ok", said)

    async def indexes(self) -> Finding:
        async with self.service.session() as session:
            rows = (await session.execute(text(_INVALID_INDEXES), {"schema": self.service.schema})).all()
        if not rows:
            return Finding("indexes", "ok", "all valid")
        if building := [row.relname for row in rows if row.is_building]:
            return Finding("indexes", "note", f"being built: {', '.join(building)}", "wait, then look again")
        names = ", ".join(row.relname for row in rows)
        return Finding("indexes", "problem", f"invalid: {names}", self._command("embeddings", "index"))

    async def triggers(self) -> Finding:
        """A table whose triggers were forgotten is searched in vain."""
        without = []
        async with self.service.session() as session:
            for name, service in self.stack.corpora.items():
                rows: Any = service.corpus.rows
                place = await session.run_sync(quoted_in, rows.__table__)
                if not await session.scalar(text(_MAKES_SEARCHABLE), {"table": place}):
                    without.append(f"{name} ({place})")
        if not without:
            return Finding("triggers", "ok", "they make what is searched of every corpus")
        said = f"nothing makes what is searched of {', '.join(without)}"
        way_out = "call llmstack.db.ddl.finish_searchable_table(..., version=2) in a revision of yours"
        return Finding("triggers", "problem", said, way_out)

    async def statistics(self) -> Finding:
        states = [await self._statistics_of(service.corpus) for service in self.stack.corpora.values()]
        said = "; ".join(state for state, _ in states)
        if stale := [name for _, name in states if name is not None]:
            way_out = ", ".join(self._command("refresh", "--corpus", name) for name in stale)
            return Finding("statistics", "note", said, way_out)
        return Finding("statistics", "ok", said)

    async def _statistics_of(self, corpus: Corpus[Any, Any]) -> tuple[str, str | None]:
        """How old a corpus' term statistics are, and its name where they should be read anew."""
        age = func.extract("epoch", func.now() - CorpusStatistics.refreshed_at).label("age")
        known = select(CorpusStatistics.row_count, age).where(CorpusStatistics.corpus == corpus.name)
        rows: Any = corpus.rows
        async with self.service.session() as session:
            row = (await session.execute(known)).one_or_none()
            living = select(func.count()).select_from(rows).where(rows.search_vector.is_not(None))
            now = await session.scalar(living) or 0
        if row is None:
            return f"{corpus.name}: never read, {counted(now, 'row')} now", corpus.name if now else None
        said = f"{corpus.name}: read {_ago(row.age)} ago over {counted(row.row_count, 'row')}, {now:,} now"
        return said, corpus.name if abs(now - row.row_count) > _STALE * max(row.row_count, 1) else None


def _ago(seconds: Any) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return counted(int(seconds), "second")
