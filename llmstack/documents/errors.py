"""Errors of the documents domain."""

from __future__ import annotations

import uuid

from ..errors import Conflict, NotFound


class DocumentNotFound(NotFound):
    """No document of this owner has this id; another owner's is as good as absent."""

    def __init__(self, document_id: uuid.UUID | str) -> None:
        super().__init__(f"no document has id {document_id}")
        self.document_id = document_id


class ChunkNotFound(NotFound):
    """No chunk of this owner has this id."""

    def __init__(self, chunk_id: uuid.UUID) -> None:
        super().__init__(f"no chunk has id {chunk_id}")
        self.chunk_id = chunk_id


class TextNotKept(Conflict):
    """The original text was not stored, so it cannot be cut anew."""

    def __init__(self, document_id: uuid.UUID) -> None:
        super().__init__(f"document {document_id} was stored without its text (keep_text is off); add it anew")
        self.document_id = document_id


class DocumentChanged(Conflict):
    """The document was changed or deleted while something was made of what had been read."""

    def __init__(self, document_id: uuid.UUID) -> None:
        super().__init__(f"document {document_id} was changed or deleted meanwhile")
        self.document_id = document_id
