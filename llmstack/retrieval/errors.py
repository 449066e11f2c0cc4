"""What can go wrong around a search."""

from __future__ import annotations

import uuid

from ..db.translate import register_constraints
from ..errors import LLMStackError, NotFound


class RetrievalError(LLMStackError):
    """A reranker or an expander failed; a search goes on without it."""


class SearchNotFound(NotFound):
    """No logged search of this owner and corpus has this id; another's is as good as absent."""

    def __init__(self, search_id: uuid.UUID) -> None:
        super().__init__(f"no logged search has id {search_id}; is search_log on, and within its retention?")
        self.search_id = search_id


class CalibrationNotFound(NotFound):
    """The corpus has no calibration that could be undone."""

    def __init__(self) -> None:
        super().__init__("there is no calibration to undo")


register_constraints(
    {"fk_search_feedback_owner_id_search_id_search_log": lambda: NotFound("this owner has no such logged search")}
)
