"""Schemas: the only place where a schema name is checked, quoted or mapped."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from sqlalchemy import event
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, object_mapper
from sqlalchemy.sql.functions import Function
from sqlalchemy.sql.schema import MetaData, Table

from ..errors import ConfigurationError, IsolationError

SCHEMA_TOKEN = "llmstack"
"""The schema in which every table is declared; a translate map replaces it at execution."""

_MAX_BYTES = 63
"""PostgreSQL cuts longer names without an error."""
_SEEN_MAP = "llmstack_schema_map"
_preparer = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]


def validate_schema(name: str) -> str:
    """Return the name; refuse what PostgreSQL could not store or what can only be an attack.

    Mixed case and inner spaces are allowed and always quoted.
    """
    if not name or name != name.strip():
        raise ConfigurationError(f"schema name {name!r} is empty or has white space around it")
    if len(name.encode("utf-8", "replace")) > _MAX_BYTES:
        raise ConfigurationError(f"schema name {name!r} is longer than {_MAX_BYTES} bytes")
    if name.lower().startswith("pg_") or name.lower() == "information_schema":
        raise ConfigurationError(f"schema name {name!r} is reserved by PostgreSQL")
    if not (name[0].isalpha() or name[0] == "_"):
        raise ConfigurationError(f"schema name {name!r} must begin with a letter or an underscore")
    forbidden = sorted({c for c in name if not (c.isalnum() or c in "_- $.")})
    if forbidden:
        raise ConfigurationError(
            f"schema name {name!r} contains {' '.join(map(repr, forbidden))}; "
            "use letters, digits, underscores, hyphens, dots, dollars or spaces"
        )
    return name


def quote(identifier: str) -> str:
    """Quote an identifier for SQL text, always."""
    return str(_preparer.quote_identifier(identifier))


def translate_map(schema: str) -> dict[str, str]:
    """The map that moves our tables into `schema`; the host's own tables are not in it."""
    return {SCHEMA_TOKEN: validate_schema(schema)}


class schema_function(Function[Any]):
    """A call of one of our SQL functions; its schema is the token, mapped like a table's."""

    inherit_cache = True


@compiles(schema_function)
def _compile_schema_function(element: schema_function, compiler: Any, **kw: Any) -> str:
    # The preparer translates schemas of tables alone, so the function is shown to it as one.
    name = compiler.preparer.format_table(Table(element.name, MetaData(schema=SCHEMA_TOKEN)))
    return f"{name}{compiler.process(element.clause_expr, **kw)}"


def _maps_us(options: Mapping[str, Any]) -> str | None:
    mapping = options.get("schema_translate_map")
    return mapping.get(SCHEMA_TOKEN) if mapping else None


def _refuse_second_map(session: Session, schema: str) -> None:
    seen = session.info.setdefault(_SEEN_MAP, schema)
    if seen != schema:
        raise IsolationError(
            f"this session already works in schema {seen!r} and was asked for {schema!r}; "
            "open one session for each service and never pass schema_translate_map to a statement"
        )


@event.listens_for(Session, "do_orm_execute")
def _check_statement(state: ORMExecuteState) -> None:
    schema = _maps_us(state.execution_options)
    if schema is None and state.bind_mapper is not None and _is_ours(state.bind_mapper.local_table):
        schema = _mapped_by(state.session.get_bind(**state.bind_arguments))
    if schema is not None:
        _refuse_second_map(state.session, schema)


@event.listens_for(Session, "before_flush")
def _check_flush(session: Session, context: Any, instances: Any) -> None:
    for mapper in {object_mapper(item) for item in chain(session.new, session.dirty, session.deleted)}:
        if _is_ours(mapper.local_table):
            _refuse_second_map(session, _mapped_by(session.get_bind(mapper)))


def _mapped_by(bind: Any) -> str:
    return _maps_us(bind.get_execution_options()) or SCHEMA_TOKEN


def _is_ours(table: Any) -> bool:
    return getattr(table, "schema", None) == SCHEMA_TOKEN


@event.listens_for(Session, "after_begin")
def _check_connection(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    # Without a map it may be a host's second engine, for tables of its own.
    schema = _maps_us(connection.get_execution_options())
    if schema is not None:
        _refuse_second_map(session, schema)


def schema_of(session: Session) -> str:
    """The real schema in which this session's connection finds our tables."""
    return _maps_us(session.connection().get_execution_options()) or SCHEMA_TOKEN


def schema_in(session: Session, table: Table) -> str | None:
    """The real schema in which this session finds a table, of ours or of a host; None leaves it to search_path."""
    return schema_of(session) if table.schema == SCHEMA_TOKEN else table.schema


def quoted_in(session: Session, table: Table) -> str:
    """The quoted name by which this session finds a table."""
    schema = schema_in(session, table)
    return quote(table.name) if schema is None else qualified(schema, table.name)


def qualified(schema: str, table: str) -> str:
    """A quoted table name for the few SQL texts that PostgreSQL itself takes as a string."""
    return f"{quote(validate_schema(schema))}.{quote(table)}"
