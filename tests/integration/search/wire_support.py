"""A proxy before PostgreSQL that counts what a client asks for."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy.engine import URL

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104


async def _connect(url: URL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host = str(url.host or url.query.get("host", "localhost"))
    port = url.port or int(str(url.query.get("port", 5432)))
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


async def _count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Counter[str]) -> None:
    started = False
    while True:
        kind = b"" if not started else await reader.readexactly(1)
        size = await reader.readexactly(4)
        body = await reader.readexactly(int.from_bytes(size) - 4)
        if started:
            seen[kind.decode()] += 1
        elif int.from_bytes(body[:4]) not in (_SSL_REQUEST, _GSS_REQUEST):
            started = True
        writer.write(kind + size + body)
        await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    # The client waits for the server to hang up.
    writer.close()


@contextlib.asynccontextmanager
async def counting_round_trips(url: URL) -> AsyncIterator[tuple[URL, Counter[str]]]:
    """A URL that leads to the same server, and the frontend's messages by their letter.

    `S` (Sync) and `Q` (simple query) each make the client wait for an answer: one round trip.
    """
    seen: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await _connect(url)
        back = asyncio.ensure_future(_copy(upstream, writer))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await _count(reader, downstream, seen)
        back.cancel()
        downstream.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    query: Any = {key: value for key, value in url.query.items() if key not in ("host", "port")}
    port = server.sockets[0].getsockname()[1]
    try:
        # An encrypted connection could not be read.
        yield url.set(host="127.0.0.1", port=port, query={**query, "sslmode": "disable"}), seen
    finally:
        server.close()
        await server.wait_closed()
