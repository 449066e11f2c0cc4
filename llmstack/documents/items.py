"""Documents on their way into the tables, and the batches in which they travel."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy.exc import DBAPIError

from ..db.translate import said
from ..embeddings import Space
from .models import Document
from .records import AddResult, DocumentInput, PreparedDocument
from .writer import Written


@dataclass(slots=True)
class Item:
    """One document on its way; `error` ends it."""

    given: DocumentInput
    started: float
    prepared: PreparedDocument | None = None
    present: set[bytes] = field(default_factory=set)
    unchanged: Document | None = None
    written: Written | None = None
    embedding_error: str | None = None
    error: Exception | None = None

    @property
    def texts(self) -> dict[bytes, str]:
        """What is to be embedded, by the hash of its chunk: the leaves that have no vector yet."""
        chunks = () if self.prepared is None else self.prepared.chunks
        return {
            chunk.content_hash: chunk.embedded_text
            for chunk in chunks
            if chunk.is_leaf and chunk.content_hash not in self.present
        }

    @property
    def open(self) -> bool:
        """Whether it is still to be written."""
        return self.error is None and self.unchanged is None and self.written is None

    def result(self) -> AddResult:
        """What became of it."""
        result = AddResult(
            owner_id=self.given.owner_id,
            id_at_origin=self.given.id_at_origin,
            document=self.unchanged,
            unchanged=self.unchanged is not None,
            cleaned=self.prepared is not None and self.prepared.cleaned,
            elapsed=dt.timedelta(seconds=time.monotonic() - self.started),
            embedding_error=self.embedding_error,
            error=None if self.error is None else _reason(self.error),
        )
        if (done := self.written) is None:
            return result
        return replace(
            result,
            document=done.document,
            is_new=done.is_new,
            chunks_created=done.created,
            chunks_kept=done.kept,
            chunks_deleted=done.deleted,
            embeddings_created=done.embedded,
            embeddings_pending=len(done.owed),
        )


@dataclass(slots=True)
class Batch:
    """Documents on their way together; only `first`, the first of the groups, is prepared ahead of its turn."""

    items: list[Item]
    groups: list[list[Item]]
    first: Prepared | None = None
    stored: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def identities(self) -> set[tuple[str, str]]:
        """Which documents it will write."""
        return {item.prepared.identity for item in self.items if item.prepared is not None}

    def may_follow(self, other: Batch) -> bool:
        """Whether it can be prepared while the other is being stored: neither text nor vector depends on that."""
        return len(other.groups) < 2 and self.identities.isdisjoint(other.identities)


@dataclass(slots=True, frozen=True)
class Prepared:
    """Documents of distinct identities, compared, cut and embedded."""

    changed: list[Item]
    vectors: dict[bytes, Sequence[float]]
    space: Space | None

    def shares(self, most: int, *, at_least: int) -> list[list[Item]]:
        """The documents in order, in up to so many shares of about as many chunks; fewer where they would be small."""
        sizes = [len(item.prepared.chunks) if item.prepared is not None else 0 for item in self.changed]
        count = max(1, min(most, sum(sizes) // at_least))
        size = sum(sizes) / count
        found: list[list[Item]] = [[] for _ in range(count)]
        before = 0
        for item, chunks in zip(self.changed, sizes, strict=True):
            found[min(count - 1, int(before / size) if size else 0)].append(item)
            before += chunks
        return [share for share in found if share]


def distinct(items: Sequence[Item]) -> list[list[Item]]:
    """Groups in which no identity comes twice, in order: the last of a repeated identity wins."""
    groups: list[list[Item]] = []
    turns: dict[tuple[str, str], int] = {}
    for item in items:
        if item.prepared is None:
            continue
        turn = turns.get(item.prepared.identity, 0)
        turns[item.prepared.identity] = turn + 1
        if turn == len(groups):
            groups.append([])
        groups[turn].append(item)
    return groups


def _reason(error: Exception) -> str:
    return said(error) if isinstance(error, DBAPIError) else str(error)
