"""Searching a corpus: other wordings before the statement, another order after it, and tuning by judgements."""

from __future__ import annotations

from .corpus import Corpus as Corpus
from .corpus import Group as Group
from .corpus import Sequel as Sequel
from .diversity import maximal_marginal_relevance as maximal_marginal_relevance
from .errors import CalibrationNotFound as CalibrationNotFound
from .errors import RetrievalError as RetrievalError
from .errors import SearchNotFound as SearchNotFound
from .expansion import Expander as Expander
from .expansion import KeywordExpander as KeywordExpander
from .expansion import LLMExpander as LLMExpander
from .expansion import wordings as wordings
from .filters import Filter as Filter
from .hits import Leg as Leg
from .hits import MatchedTerm as MatchedTerm
from .hits import PlanStep as PlanStep
from .hits import QueryTerm as QueryTerm
from .hits import SearchExplanation as SearchExplanation
from .hits import SearchHit as SearchHit
from .hits import SearchHits as SearchHits
from .request import Recency as Recency
from .request import Search as Search
from .rerankers import CallableReranker as CallableReranker
from .rerankers import CrossEncoderReranker as CrossEncoderReranker
from .rerankers import LiteLLMReranker as LiteLLMReranker
from .rerankers import Reranker as Reranker
from .rerankers import rerank_scores as rerank_scores
from .service import CorpusService as CorpusService
from .statements import search_in as search_in
from .tuning.calibration import Calibration as Calibration
from .tuning.decision import Tuning as Tuning
from .tuning.feedback import Feedback as Feedback
from .tuning.feedback import JudgedQuery as JudgedQuery
from .tuning.feedback import RecordedHit as RecordedHit
from .tuning.feedback import RecordedSearch as RecordedSearch

__all__ = [
    "Calibration",
    "CalibrationNotFound",
    "CallableReranker",
    "Corpus",
    "CorpusService",
    "CrossEncoderReranker",
    "Expander",
    "Feedback",
    "Filter",
    "Group",
    "JudgedQuery",
    "KeywordExpander",
    "LLMExpander",
    "Leg",
    "LiteLLMReranker",
    "MatchedTerm",
    "PlanStep",
    "QueryTerm",
    "Recency",
    "RecordedHit",
    "RecordedSearch",
    "Reranker",
    "RetrievalError",
    "Search",
    "SearchExplanation",
    "SearchHit",
    "SearchHits",
    "SearchNotFound",
    "Sequel",
    "Tuning",
    "maximal_marginal_relevance",
    "rerank_scores",
    "search_in",
    "wordings",
]
