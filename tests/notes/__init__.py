"""A host's notes: a small domain beside documents, over which the suites of searching run, too."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, DateTime, MetaData, Select, Text, UniqueConstraint, column, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from llmstack.db.base import Identified
from llmstack.db.checks import any_of, check_date, listed
from llmstack.embeddings import EmbeddedTable, EmbeddingJobMixin, EmbeddingMixin, job_table, vector_table
from llmstack.retrieval import Corpus, Filter, Group, SearchHit, Sequel
from llmstack.search import SearchableMixin, metadata_filter, search_index


class NotesBase(DeclarativeBase):
    metadata = MetaData(schema="notebook")


class Note(Identified, SearchableMixin, NotesBase):
    __tablename__ = "notes"
    __table_args__ = (UniqueConstraint("owner_id", "id"), UniqueConstraint("owner_id", "slug"), search_index("notes"))
    __corpus__ = "notes"
    __searchable__ = column("deleted_at").is_(None)

    slug: Mapped[str] = mapped_column(Text)
    folder: Mapped[str] = mapped_column(Text, server_default="inbox")
    place: Mapped[int] = mapped_column(server_default=text("0"))
    labels: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    written_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    deleted_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))


class NoteEmbedding(EmbeddingMixin, NotesBase):
    __tablename__ = "note_embeddings"
    __table_args__ = vector_table(Note)


class NoteJob(EmbeddingJobMixin, NotesBase):
    __tablename__ = "note_jobs"
    __table_args__ = job_table(Note)


@dataclass(frozen=True, kw_only=True)
class NoteFilter(Filter):
    folder: str | Sequence[str] | None = None
    since: dt.datetime | None = None
    metadata: Mapping[str, Any] | None = None

    def conditions(self, owner_id: str) -> list[ColumnElement[bool]]:
        found = [] if self.folder is None else [any_of(Note.folder, listed("folder", self.folder))]
        found += [] if self.since is None else [Note.written_at >= check_date("since", self.since)]
        return found if not self.metadata else [*found, metadata_filter(Note.labels, self.metadata)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteHit(SearchHit):
    slug: str
    folder: str


def _show(statement: Select[Any], note: Any) -> Select[Any]:
    return statement.add_columns(note.slug, note.folder)


NOTES = Corpus(
    name="notes", rows=Note, hit=NoteHit, where=NoteFilter, show=_show, unit="slug", moment=Note.written_at,
    vectors=EmbeddedTable(rows=Note, embeddings=NoteEmbedding, jobs=NoteJob, text=Note.content),
    groups={"folder": Group(by=Note.folder)}, sequel=Sequel(within=("owner_id", "folder"), place="place"),
)  # fmt: skip
