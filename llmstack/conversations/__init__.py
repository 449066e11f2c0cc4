"""Conversations: threads, their messages and summaries, and the search over them."""

from __future__ import annotations

from .corpus import MESSAGE_CORPUS as MESSAGE_CORPUS
from .corpus import SUMMARY_CORPUS as SUMMARY_CORPUS
from .corpus import ConversationHit as ConversationHit
from .corpus import MessageFilter as MessageFilter
from .corpus import SummaryFilter as SummaryFilter
from .corpus import ThreadFilter as ThreadFilter
from .errors import ClientKeyReused as ClientKeyReused
from .errors import HistoryChanged as HistoryChanged
from .errors import HistoryEdited as HistoryEdited
from .errors import MessageNotFound as MessageNotFound
from .errors import PlaceTaken as PlaceTaken
from .errors import SummaryError as SummaryError
from .errors import ThreadDeleted as ThreadDeleted
from .errors import ThreadNotFound as ThreadNotFound
from .history import Context as Context
from .history import History as History
from .models import Message as Message
from .models import MessageEmbedding as MessageEmbedding
from .models import MessageEmbeddingJob as MessageEmbeddingJob
from .models import SummaryEmbedding as SummaryEmbedding
from .models import SummaryEmbeddingJob as SummaryEmbeddingJob
from .models import Thread as Thread
from .models import ThreadSummary as ThreadSummary
from .records import AppendedMessage as AppendedMessage
from .records import AppendProgress as AppendProgress
from .records import AppendResult as AppendResult
from .records import ConversationStatistics as ConversationStatistics
from .records import ImportResult as ImportResult
from .records import MessageInput as MessageInput
from .records import ThreadInput as ThreadInput
from .records import ThreadPreview as ThreadPreview
from .repository import ConversationRepository as ConversationRepository
from .service import ConversationService as ConversationService
from .summaries import DueSummary as DueSummary
from .summarisers import LLMSummariser as LLMSummariser
from .summarisers import Summariser as Summariser
from .summarisers import SummaryRequest as SummaryRequest
from .summarisers import first_and_last as first_and_last

__all__ = [
    "MESSAGE_CORPUS",
    "SUMMARY_CORPUS",
    "AppendProgress",
    "AppendResult",
    "AppendedMessage",
    "ClientKeyReused",
    "Context",
    "ConversationHit",
    "ConversationRepository",
    "ConversationService",
    "ConversationStatistics",
    "DueSummary",
    "History",
    "HistoryChanged",
    "HistoryEdited",
    "ImportResult",
    "LLMSummariser",
    "Message",
    "MessageEmbedding",
    "MessageEmbeddingJob",
    "MessageFilter",
    "MessageInput",
    "MessageNotFound",
    "PlaceTaken",
    "Summariser",
    "SummaryEmbedding",
    "SummaryEmbeddingJob",
    "SummaryError",
    "SummaryFilter",
    "SummaryRequest",
    "Thread",
    "ThreadDeleted",
    "ThreadFilter",
    "ThreadInput",
    "ThreadNotFound",
    "ThreadPreview",
    "ThreadSummary",
    "first_and_last",
]
