"""Errors of the documents domain."""

from __future__ import annotations

import uuid

from ..db.translate import register_constraints
from ..errors import Conflict, NotFound, ValidationError


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


class NothingToRead(ValidationError):
    """The file is empty; a document has text."""

    def __init__(self, message: str) -> None:
        super().__init__("path", message)


register_constraints(
    {
        "uq_documents_owner_id_id_at_origin": lambda: Conflict(
            "this owner has a document of this id_at_origin already; stack.documents.add replaces it"
        ),
        "uq_chunks_document_id_content_hash": lambda: Conflict("the document has a chunk of this hash already"),
        "ck_documents_document_type": lambda: ValidationError("document_type", "it is not one that the table knows"),
        "fk_chunks_owner_id_document_id_documents": lambda: NotFound("this owner has no such document"),
        "fk_chunks_owner_id_parent_id_chunks": lambda: NotFound("this owner has no such parent chunk"),
        "fk_chunk_embeddings_owner_id_row_id_chunks": lambda: NotFound("this owner has no such chunk"),
        "fk_chunk_embeddings_space_id_embedding_spaces": lambda: NotFound("there is no such embedding space"),
    }
)
