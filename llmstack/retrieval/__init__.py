"""Around a search: other wordings of the query before it, another order of the hits after it."""

from __future__ import annotations

from .diversity import maximal_marginal_relevance as maximal_marginal_relevance
from .errors import RetrievalError as RetrievalError
from .expansion import Expander as Expander
from .expansion import KeywordExpander as KeywordExpander
from .expansion import LLMExpander as LLMExpander
from .expansion import wordings as wordings
from .rerankers import CallableReranker as CallableReranker
from .rerankers import CrossEncoderReranker as CrossEncoderReranker
from .rerankers import LiteLLMReranker as LiteLLMReranker
from .rerankers import Reranker as Reranker
from .rerankers import rerank_scores as rerank_scores

__all__ = [
    "CallableReranker",
    "CrossEncoderReranker",
    "Expander",
    "KeywordExpander",
    "LLMExpander",
    "LiteLLMReranker",
    "Reranker",
    "RetrievalError",
    "maximal_marginal_relevance",
    "rerank_scores",
    "wordings",
]
