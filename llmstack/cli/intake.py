"""From paths to stored documents, with the fate of every file."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DatabaseError, LLMStackError, ValidationError
from ..settings import Settings
from .output import progress

if TYPE_CHECKING:
    from ..documents import AddResult, DocumentInput
    from ..documents.readers import Source, SourceText
    from ..stack import LLMStack


@dataclasses.dataclass(frozen=True)
class FileOutcome:
    """What became of one file, or of a document in it: added, updated, unchanged, failed, or readable in a dry run."""

    path: str
    outcome: str
    part: str = ""
    id_at_origin: str = ""
    document_id: uuid.UUID | None = None
    document_type: str = ""
    chunks: int = 0
    embeddings_pending: int = 0
    note: str = ""
    embedding_error: str | None = None

    @property
    def name(self) -> str:
        """As it is shown: the file, and the part of it after a #."""
        return f"{self.path}#{self.part}" if self.part else self.path


class Place(NamedTuple):
    """A file, and which part of it is meant."""

    path: str
    part: str = ""


@dataclasses.dataclass(frozen=True)
class PassedOver:
    """A file that is not read, and of which kind it is: a suffix, or a few words."""

    path: str
    kind: str


@dataclasses.dataclass(frozen=True)
class FileReading:
    """How files become documents; `passed_over` collects those that do not."""

    owner_id: str
    document_type: str | None = None
    language: str | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    chunking: str = "hierarchical"
    relative_to: Path | None = None
    encoding: str | None = None
    follow_links: bool = False
    time_limit: float = 60.0
    passed_over: list[PassedOver] = dataclasses.field(default_factory=list)

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
        found = walk(paths, passed_over=self.pass_over, follow_links=self.follow_links, encoding=self.encoding)
        return list(found)

    def pass_over(self, path: Path, kind: str) -> None:
        """Note a file that is not read."""
        self.passed_over.append(PassedOver(str(path), kind))

    def identity(self, source: Source) -> str:
        """The absolute path, or the path below `relative_to`, with forward slashes; the part of a file after a #."""
        whole = source.path.absolute() if source.path.is_symlink() else source.path.resolve()
        part = f"#{source.part}" if source.part else ""
        if self.relative_to is None:
            return whole.as_posix() + part
        try:
            return whole.relative_to(self.relative_to.resolve()).as_posix() + part
        except ValueError:
            raise ValidationError("path", f"it is not below {self.relative_to}") from None

    async def read(
        self, files: Iterable[Path], settings: Settings
    ) -> AsyncIterator[tuple[Place, DocumentInput | Exception]]:
        """Read file after file: where each document is, and the document or why there is none.

        What is empty is passed over.
        """
        from ..documents import NothingToRead
        from ..documents.readers import read_apart, sources

        for path in files:
            found = sources(path, encoding=self.encoding, max_bytes=2 * settings.max_text_bytes)
            place = Place(str(path))
            while True:
                given: DocumentInput | Exception
                try:
                    source = await asyncio.to_thread(next, found, None)
                    if source is None:
                        break
                    place = Place(str(path), source.part)
                    given = self._document(source, await read_apart(source, seconds=self.time_limit))
                except NothingToRead:
                    self.pass_over(path, "empty")
                    continue
                # Whatever one file does to a reader, the others have their turn.
                except Exception as error:
                    given = error
                yield place, given

    def _document(self, source: Source, found: SourceText) -> DocumentInput:
        from ..documents import DocumentInput

        return DocumentInput(
            owner_id=self.owner_id,
            id_at_origin=self.identity(source),
            content=found.text,
            document_name=found.title,
            document_type=self.document_type or found.document_type,
            language=self.language or found.language,
            metadata={**found.metadata, **self.metadata},
            chunking=self.chunking,
        )


async def read_only(reading: FileReading, files: Sequence[Path], settings: Settings) -> list[FileOutcome]:
    """What an ingest would read, without a database."""
    from ..documents.preparation import prepare

    outcomes = []
    async for place, given in reading.read(files, settings):
        try:
            if isinstance(given, Exception):
                raise given
            prepared = await asyncio.to_thread(prepare, given, settings)
        except Exception as error:
            outcomes.append(_unreadable(place, error))
            continue
        outcomes.append(
            FileOutcome(
                path=place.path,
                part=place.part,
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
        self._sent: list[Place] = []
        self.outcomes: list[FileOutcome] = []

    async def run(self, reading: FileReading, files: Sequence[Path]) -> DatabaseError | None:
        """Add them all; returns the error of a database that went away meanwhile."""
        with progress("ingesting") as move:
            reached = 0

            def advance(path: Path) -> Path:
                nonlocal reached
                reached += 1
                if move is not None:
                    move(reached, len(files))
                return path

            try:
                inputs = self._inputs(reading, map(advance, files))
                done = 0
                async for result in self._stack.documents.add_many(inputs):
                    self.outcomes.append(_outcome(self._sent[done], result))
                    done += 1
            except DatabaseError as error:
                return error
        self.outcomes.sort(key=lambda one: (one.path, one.part))
        return None

    async def _inputs(self, reading: FileReading, files: Iterable[Path]) -> AsyncIterator[DocumentInput]:
        async for place, given in reading.read(files, self._stack.settings):
            if isinstance(given, Exception):
                self.outcomes.append(_unreadable(place, given))
            else:
                self._sent.append(place)
                yield given


def _unreadable(place: Place, error: Exception) -> FileOutcome:
    said = str(error) if isinstance(error, LLMStackError) else f"cannot be read: {type(error).__name__}: {error}"
    return _failed(place, said)


def _failed(place: Place, reason: str) -> FileOutcome:
    outcome = FileOutcome(place.path, "failed", place.part)
    said = reason.removeprefix("path: ").removeprefix(f"{outcome.name} ").strip()
    return dataclasses.replace(outcome, note=" ".join(said.split()))


def _outcome(place: Place, result: AddResult) -> FileOutcome:
    if result.error is not None or result.document is None:
        return _failed(place, result.error or "it was not stored")
    return FileOutcome(
        path=place.path,
        part=place.part,
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
