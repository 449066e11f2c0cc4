"""What can go wrong around a search."""

from __future__ import annotations

from ..errors import LLMStackError


class RetrievalError(LLMStackError):
    """A reranker or an expander failed; a search goes on without it."""
