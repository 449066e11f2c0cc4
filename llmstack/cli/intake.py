"""From paths to stored documents, with the fate of every file."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatabaseError, LLMStackError, ValidationError
from ..settings import Settings
from .output import progress

if TYPE_CHECKING:
    from ..documents import AddResult, DocumentInput
    from ..stack import LLMStack


@dataclasses.dataclass(frozen=True)
class FileOutcome:
    """What became of one file: added, updated, unchanged, failed, or readable in a dry run."""

    path: str
    outcome: str
    id_at_origin: str = ""
    document_id: uuid.UUID | None = None
    document_type: str = ""
    chunks: int = 0
    embeddings_pending: int = 0
    note: str = ""
    embedding_error: str | None = None


@dataclasses.dataclass(frozen=True)
class FileReading:
    """How files become documents."""

    owner_id: str
    document_type: str | None = None
    language: str | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    chunking: str = "hierarchical"
    relative_to: Path | None = None

    def files(self, paths: Iterable[Path]) -> list[Path]:
        """The files to read; raises ValidationError for an absent path and for what no document can have."""
        from ..db.checks import check_owner
        from ..documents.chunking import CHUNKING_STRATEGIES
        from ..documents.preparation import check_document_type
        from ..documents.readers import walk

        check_owner(self.owner_id)
        if self.document_type is not None:
            check_document_type(self.document_type)
        if self.chunking not in CHUNKING_STRATEGIES:
            known = ", ".join(CHUNKING_STRATEGIES)
            raise ValidationError("chunking", f"{self.chunking!r} is unknown; use one of {known}")
        return list(walk(paths))

    def identity(self, path: Path) -> str:
        """The absolute path, or the path below `relative_to`, with forward slashes."""
        whole = path.absolute() if path.is_symlink() else path.resolve()
        if self.relative_to is None:
            return whole.as_posix()
        try:
            return whole.relative_to(self.relative_to.resolve()).as_posix()
        except ValueError:
            raise ValidationError("path", f"it is not below {self.relative_to}") from None

    def read(self, path: Path) -> DocumentInput:
        """Read one file; raises LLMStackError."""
        from ..documents import DocumentInput
        from ..documents.readers import read_file

        source = read_file(path)
        return DocumentInput(
            owner_id=self.owner_id,
            id_at_origin=self.identity(path),
            content=source.text,
            document_name=source.title,
            document_type=self.document_type or source.document_type,
            language=self.language or source.language,
            metadata={**source.metadata, **self.metadata},
            chunking=self.chunking,
        )


async def read_only(reading: FileReading, files: Sequence[Path], settings: Settings) -> list[FileOutcome]:
    """What an ingest would read, without a database."""
    from ..documents.preparation import prepare

    outcomes = []
    for path in files:
        try:
            given = await asyncio.to_thread(reading.read, path)
            prepared = await asyncio.to_thread(prepare, given, settings)
        except Exception as error:
            outcomes.append(_unreadable(path, error))
            continue
        outcomes.append(
            FileOutcome(
                path=str(path),
                outcome="readable",
                id_at_origin=given.id_at_origin,
                document_type=given.document_type,
                chunks=len(prepared.chunks),
                note=given.document_type,
            )
        )
    return outcomes


class Intake:
    """Adds files through `add_many`; `outcomes` is kept even when the run breaks off."""

    def __init__(self, stack: LLMStack) -> None:
        self._stack = stack
        self._sent: list[Path] = []
        self.outcomes: list[FileOutcome] = []

    async def run(self, reading: FileReading, files: Sequence[Path]) -> DatabaseError | None:
        """Add them all; returns the error of a database that went away meanwhile."""
        with progress("ingesting") as move:
            read = itertools.count(1)

            def advance() -> None:
                if move is not None:
                    move(next(read), len(files))

            try:
                done = 0
                async for result in self._stack.documents.add_many(self._inputs(reading, files, advance)):
                    self.outcomes.append(_outcome(self._sent[done], result))
                    done += 1
                    advance()
            except DatabaseError as error:
                return error
        self.outcomes.sort(key=lambda one: one.path)
        return None

    async def _inputs(
        self, reading: FileReading, files: Sequence[Path], advance: Callable[[], None]
    ) -> AsyncIterator[DocumentInput]:
        for path in files:
            try:
                given = await asyncio.to_thread(reading.read, path)
            except Exception as error:
                self.outcomes.append(_unreadable(path, error))
                advance()
                continue
            self._sent.append(path)
            yield given


def _unreadable(path: Path, error: Exception) -> FileOutcome:
    """Whatever one file does to a reader, the others have their turn."""
    said = str(error) if isinstance(error, LLMStackError) else f"cannot be read: {type(error).__name__}: {error}"
    return _failed(path, said)


def _failed(path: Path, reason: str) -> FileOutcome:
    said = reason.removeprefix("path: ").removeprefix(f"{path} ").strip()
    return FileOutcome(path=str(path), outcome="failed", note=" ".join(said.split()))


def _outcome(path: Path, result: AddResult) -> FileOutcome:
    if result.error is not None or result.document is None:
        return _failed(path, result.error or "it was not stored")
    return FileOutcome(
        path=str(path),
        outcome="unchanged" if result.unchanged else "added" if result.is_new else "updated",
        id_at_origin=result.id_at_origin,
        document_id=result.document.id,
        document_type=result.document.document_type,
        chunks=result.chunks_created + result.chunks_kept,
        embeddings_pending=result.embeddings_pending,
        note=_note(result),
        embedding_error=result.embedding_error,
    )


def _note(result: AddResult) -> str:
    notes = []
    if not result.unchanged and not result.is_new:
        notes.append(f"{result.chunks_created} new, {result.chunks_kept} kept, {result.chunks_deleted} gone")
    if result.cleaned:
        notes.append("characters that PostgreSQL cannot store were removed")
    return "; ".join(notes)
