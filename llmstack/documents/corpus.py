"""Documents as a corpus: which chunks a filter means, and what a hit shows of them."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, func, select
from sqlalchemy.orm import aliased

from ..db.checks import any_of, as_uuid, check_date, each, listed
from ..errors import ValidationError
from ..retrieval import Corpus, Filter, Group, SearchHit, Sequel
from ..search import metadata_filter
from ..search.languages import normalize_language, spoken_in
from .embedding import EMBEDDED
from .models import CORPUS, Chunk, Document
from .preparation import check_document_type


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFilter(Filter):
    """Which documents; every part that is given must hold. Dates are inclusive and need a time zone."""

    id_at_origin: str | Sequence[str] | None = None
    document_ids: Sequence[uuid.UUID] | None = None
    document_type: str | Sequence[str] | None = None
    language: str | Sequence[str] | None = None
    date_from: dt.datetime | None = None
    date_to: dt.datetime | None = None
    metadata: Mapping[str, Any] | None = None

    def on_documents(self) -> list[ColumnElement[bool]]:
        """The filter on `Document`; raises ValidationError on bad values."""
        found: list[ColumnElement[bool]] = []
        if self.id_at_origin is not None:
            found.append(any_of(Document.id_at_origin, listed("id_at_origin", self.id_at_origin)))
        if self.document_ids is not None:
            ids = [as_uuid("document_ids", value) for value in each("document_ids", self.document_ids)]
            found.append(any_of(Document.id, ids))
        if self.document_type is not None:
            types = [check_document_type(item) for item in listed("document_type", self.document_type)]
            found.append(any_of(Document.document_type, types))
        if self.language is not None:
            languages = [normalize_language(item) for item in listed("language", self.language)]
            found.append(any_of(Document.language, languages))
        if (earliest := check_date("date_from", self.date_from)) is not None:
            found.append(Document.document_date >= earliest)
        if (latest := check_date("date_to", self.date_to)) is not None:
            found.append(Document.document_date <= latest)
        if self.metadata is not None and self.metadata != {}:
            found.append(metadata_filter(Document.metadata_, self.metadata))
        return found

    def conditions(self, owner_id: str) -> list[ColumnElement[bool]]:
        """The filter on `Chunk`."""
        if not (found := self.on_documents()):
            return []
        return [Chunk.document_id.in_(select(Document.id).where(Document.owner_id == owner_id, *found))]


def check_filter(where: object) -> DocumentFilter:
    """A filter of documents; ValidationError for a mapping, which would be none."""
    if not isinstance(where, DocumentFilter):
        raise ValidationError("where", f"it is a DocumentFilter, not {type(where).__name__}")
    return where


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentHit(SearchHit):
    """A passage that was found, with its document; grouped by parent it is the parent, of which `ranked_id` is a part.

    `parent_content` is the text of the passage around it, None where there is none.
    """

    document_id: uuid.UUID
    id_at_origin: str
    document_name: str
    document_type: str
    document_date: dt.datetime | None
    position: int
    start_offset: int
    end_offset: int
    metadata: Mapping[str, Any]
    parent_content: str | None


def _show(statement: Select[Any], passage: Any) -> Select[Any]:
    parent = aliased(Chunk, name="parent")
    return (
        statement.add_columns(
            passage.document_id,
            passage.position,
            passage.start_offset,
            passage.end_offset,
            Document.id_at_origin,
            Document.name.label("document_name"),
            Document.document_type,
            Document.document_date,
            Document.metadata_.label("metadata"),
            parent.content.label("parent_content"),
        )
        .join(Document, Document.id == passage.document_id)
        .outerjoin(parent, parent.id == passage.parent_id)
    )


def _spoken(owner_id: str | BindParameter[str]) -> Select[Any]:
    return spoken_in(Document.language, owned=Document.owner_id == owner_id)


_WHOLE = func.coalesce(Chunk.parent_id, Chunk.id)

DOCUMENTS = Corpus(
    name=CORPUS,
    rows=Chunk,
    vectors=EMBEDDED,
    hit=DocumentHit,
    where=DocumentFilter,
    show=_show,
    unit="id_at_origin",
    languages=_spoken,
    moment=func.coalesce(Document.document_date, Document.created_at),
    reach=lambda statement: statement.join(Document, Document.id == Chunk.document_id),
    groups={"document": Group(by=Chunk.document_id), "parent": Group(by=_WHOLE, shown=_WHOLE)},
    sequel=Sequel(
        within=("document_id", "level"), place="position", where=lambda passage: passage.deleted_at.is_(None)
    ),
)
"""The chunks of documents as they are searched; a document is what people judge."""
