"""COPY in PostgreSQL's binary format, vectors included, on any connection: no codec has to be registered."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncSession

from .schemas import schema_in
from .translate import sqlstate

Encoder = Callable[[Any], bytes]

STATEMENT_ROWS = 5_000
"""Rows that one statement writes where there may be very many, so that none runs into statement_timeout."""

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
_NULL = struct.pack(">i", -1)
_BUFFER = 1 << 18
"""Bytes that are handed to the driver at a time."""
_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


def _vector(item: str) -> Encoder:
    def encode(values: Sequence[float]) -> bytes:
        return struct.pack(f">hh{len(values)}{item}", len(values), 0, *values)

    return encode


ENCODERS: dict[str, Encoder] = {
    "text": lambda value: value.encode(),
    "uuid": lambda value: value.bytes,
    "boolean": struct.Struct(">?").pack,
    "integer": struct.Struct(">i").pack,
    "smallint": struct.Struct(">h").pack,
    "real": struct.Struct(">f").pack,
    "bytea": bytes,
    # Version 1 of jsonb's binary form is its text.
    "jsonb": lambda value: b"\x01" + json.dumps(value, ensure_ascii=False).encode(),
    "timestamptz": lambda value: struct.pack(">q", (value - _EPOCH) // dt.timedelta(microseconds=1)),
    "halfvec": _vector("e"),
    "vector": _vector("f"),
}


async def copy_rows(
    session: AsyncSession, table: Table, columns: dict[str, str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPY rows into a table inside the session's transaction; `columns` maps names to types.

    Many rows go in several statements, so that each stays within statement_timeout.
    """
    connection = await session.connection()
    driver: Any = (await connection.get_raw_connection()).driver_connection
    schema = await session.run_sync(schema_in, table)
    encoders = [ENCODERS[type_] for type_ in columns.values()]
    remaining = iter(rows)
    with _as_of_sqlalchemy(f"COPY {table.name}"):
        while part := list(itertools.islice(remaining, STATEMENT_ROWS)):
            await driver.copy_to_table(
                table.name,
                schema_name=schema,
                columns=list(columns),
                source=_stream(encoders, part),
                format="binary",
            )


@contextlib.contextmanager
def _as_of_sqlalchemy(statement: str) -> Iterator[None]:
    """Raise the driver's errors as other statements do, so that they are retried and translated alike."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("asyncpg"):
            raise
        kind = DBAPIError if sqlstate(error) else InterfaceError
        raise kind(statement, None, error) from error


async def _stream(encoders: list[Encoder], rows: Iterable[Sequence[Any]]) -> AsyncIterator[bytes]:
    header = struct.pack(">h", len(encoders))
    buffer = bytearray(_SIGNATURE)
    for row in rows:
        buffer += header
        for encode, value in zip(encoders, row, strict=True):
            if value is None:
                buffer += _NULL
            else:
                encoded = encode(value)
                buffer += struct.pack(">i", len(encoded))
                buffer += encoded
        if len(buffer) >= _BUFFER:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer + _TRAILER)
