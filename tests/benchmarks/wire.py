"""A relay between client and server that counts round trips: frontend Sync and simple Query messages."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

_START_UP_REPLIED_TO = (80877103, 80877104)


@dataclass
class RoundTrips:
    """What went over the wire since the last reset."""

    count: int = 0


@contextlib.asynccontextmanager
async def counting(socket_path: str) -> AsyncIterator[tuple[int, RoundTrips]]:
    """Relay a loopback port to the server's socket; yields the port and the count."""
    trips = RoundTrips()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(socket_path)
        ways = [
            asyncio.ensure_future(_forward(reader, server_writer, trips)),
            asyncio.ensure_future(_copy(server_reader, writer)),
        ]
        # Whichever side leaves first, the other one is waiting for it to be told.
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        server_writer.close()
        writer.close()
        await asyncio.gather(*ways, return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], trips
    finally:
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, trips: RoundTrips) -> None:
    started = False
    while True:
        kind = b"" if not started else await reader.readexactly(1)
        length_bytes = await reader.readexactly(4)
        (length,) = struct.unpack(">I", length_bytes)
        body = await reader.readexactly(length - 4)
        if not started:
            started = struct.unpack(">I", body[:4])[0] not in _START_UP_REPLIED_TO
        elif kind in (b"S", b"Q"):
            trips.count += 1
        writer.write(kind + length_bytes + body)
        await writer.drain()
