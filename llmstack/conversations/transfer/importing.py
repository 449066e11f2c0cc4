"""Read threads from lines: in batches of a transaction each, with what is refused kept from the rest."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ...db.checks import check_owner
from ...db.database import Service
from ...db.streams import each_of
from ...embeddings import queue
from ...errors import LLMStackError
from ...settings import Settings
from ..embedding import EMBEDDED_SUMMARIES
from ..errors import PlaceTaken
from ..loading import BATCH_CHARACTERS, BATCH_MESSAGES, write_apart
from ..models import ThreadSummary
from ..records import AppendResult, ImportResult
from ..summaries import TITLE_CHARACTERS
from ..writer import write_threads
from .lines import Format, check_format
from .reading import READERS, Piece, Reader
from .records import PreparedSummary

_MARK = "\ufeff"
"""What some editors write at the beginning of a file."""

Lines = list[tuple[int, str]]


class _Written(NamedTuple):
    appended: AppendResult
    summaries: int


async def import_threads(
    service: Service,
    settings: Settings,
    lines: Iterable[str] | AsyncIterable[str],
    *,
    owner_id: str,
    format: Format,
    language: str | None,
) -> AsyncGenerator[ImportResult, None]:
    """Results in the order of the lines; each batch is written before its first result is given."""
    check_format(format)
    reader = READERS[format](check_owner(owner_id), language, settings)
    number = 0
    async with contextlib.aclosing(_batches(lines)) as batches:
        async for batch in batches:
            number = batch[-1][0]
            async for result in _results(service, _read(reader, batch)):
                yield result
    async for result in _results(service, reader.end(number)):
        yield result


async def _results(service: Service, read: Iterator[Piece | ImportResult]) -> AsyncGenerator[ImportResult, None]:
    while items := await asyncio.to_thread(_part, read):
        pieces = [item for item in items if isinstance(item, Piece)]
        written = await write_apart(service, pieces, write_pieces)
        results = iter([_result(piece, done) for piece, done in zip(pieces, written, strict=True)])
        for item in items:
            yield next(results) if isinstance(item, Piece) else item


def _read(reader: Reader, batch: Lines) -> Iterator[Piece | ImportResult]:
    for number, line in batch:
        yield from reader.read(number, line)
    yield from reader.pause()


def _part(read: Iterator[Piece | ImportResult]) -> list[Piece | ImportResult]:
    """As much as one transaction writes."""
    items: list[Piece | ImportResult] = []
    messages = 0
    for item in read:
        items.append(item)
        messages += len(item.thread.messages) if isinstance(item, Piece) else 1
        if messages >= BATCH_MESSAGES:
            break
    return items


def _result(piece: Piece, done: _Written | LLMStackError) -> ImportResult:
    source = piece.source
    if isinstance(done, LLMStackError):
        source.is_refused = True
        line = piece.lines.get(done.seq, source.line) if isinstance(done, PlaceTaken) else source.line
        return ImportResult(line=line, id_at_origin=source.name, error=str(done))
    appended = done.appended
    return ImportResult(
        line=source.line,
        id_at_origin=source.name,
        thread_id=appended.thread_id,
        is_new=appended.is_new,
        messages=appended.appended,
        known=len(appended.messages) - appended.appended,
        summaries=done.summaries,
        cleaned=appended.cleaned,
    )


async def write_pieces(session: AsyncSession, pieces: Sequence[Piece]) -> list[_Written | LLMStackError]:
    """Store the messages and summaries of each piece, all of them or none."""
    results: list[_Written | LLMStackError] = []
    for piece, done in zip(pieces, await write_threads(session, [piece.thread for piece in pieces]), strict=True):
        if isinstance(done, LLMStackError):
            results.append(done)
        else:
            results.append(_Written(done, await _write_summaries(session, piece, done) if piece.summaries else 0))
    return results


async def _write_summaries(session: AsyncSession, piece: Piece, thread: AppendResult) -> int:
    """Store the versions that are not there; what is current stays so."""
    statement = select(
        ThreadSummary.first_seq, ThreadSummary.last_seq, ThreadSummary.content, ThreadSummary.is_current
    ).where(ThreadSummary.thread_id == thread.thread_id)
    there = (await session.execute(statement)).all()
    known, has_current = {tuple(row)[:3] for row in there}, any(row.is_current for row in there)
    made = [
        _row(piece, thread, summary, is_current=summary.is_current and not has_current)
        for summary in piece.summaries
        if (summary.first_seq, summary.last_seq, summary.content) not in known
    ]
    session.add_all(made)
    await session.flush()
    await session.execute(queue.owe(EMBEDDED_SUMMARIES, [summary.id for summary in made], are_new=True))
    return len(made)


def _row(piece: Piece, thread: AppendResult, summary: PreparedSummary, *, is_current: bool) -> ThreadSummary:
    row = ThreadSummary(
        owner_id=thread.owner_id,
        thread_id=thread.thread_id,
        language=piece.thread.language,
        context=(piece.source.given.title or "")[:TITLE_CHARACTERS],
        content=summary.content,
        first_seq=summary.first_seq,
        last_seq=summary.last_seq,
        token_count=summary.token_count,
        model=summary.model,
        is_current=is_current,
        metadata_=summary.metadata,
    )
    if summary.created_at is not None:
        row.created_at = summary.created_at
    return row


async def _batches(lines: Iterable[str] | AsyncIterable[str]) -> AsyncGenerator[Lines, None]:
    """Lines that are not blank, with their numbers, as many as are written at once."""
    batch: Lines = []
    characters = 0
    numbers = itertools.count(1)
    async for line in each_of(lines):
        number = next(numbers)
        text = line.removeprefix(_MARK) if number == 1 else line
        if not text.strip():
            continue
        batch.append((number, text))
        characters += len(text)
        if len(batch) >= BATCH_MESSAGES or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
