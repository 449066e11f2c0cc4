"""Errors of the conversations domain."""

from __future__ import annotations

import uuid

from ..db.translate import register_constraints
from ..errors import Conflict, LLMStackError, NotFound, ValidationError


class ThreadNotFound(NotFound):
    """No living thread of this owner has this id; another owner's is as good as absent."""

    def __init__(self, thread: uuid.UUID | str) -> None:
        named = "id" if isinstance(thread, uuid.UUID) else "id_at_origin"
        super().__init__(f"no thread has {named} {str(thread)!r:.200}")
        self.thread = thread


class MessageNotFound(NotFound):
    """No living message of this owner has this id."""

    def __init__(self, message_id: uuid.UUID | str) -> None:
        super().__init__(f"no message has id {message_id}")
        self.message_id = message_id


class ThreadDeleted(Conflict):
    """The thread was deleted, and its id_at_origin is still taken by it."""

    def __init__(self, id_at_origin: str) -> None:
        super().__init__(f"thread {id_at_origin!r:.200} was deleted; restore it, or purge it to begin anew")
        self.id_at_origin = id_at_origin


class ClientKeyReused(Conflict):
    """A client_key names another message of its thread already."""

    def __init__(self, client_key: str) -> None:
        super().__init__(f"client_key {client_key!r:.200} was given to another message of this thread")
        self.client_key = client_key


class PlaceTaken(Conflict):
    """The thread has another message at this seq than the import."""

    def __init__(self, seq: int) -> None:
        super().__init__(
            f"message {seq} of the thread that is there is another one; import it under another id_at_origin"
        )
        self.seq = seq


class HistoryEdited(Conflict):
    """A window of messages differs from what was stored before its end; `seq` is the last message that is alike.

    It is 0 where the very first message differs.
    """

    def __init__(self, seq: int) -> None:
        super().__init__(
            f"the window differs from the history after message {seq}; give on_edit='branch' to keep both, "
            "or append what is new alone"
        )
        self.seq = seq


class HistoryChanged(Conflict):
    """Messages of a thread were taken out, or all of it, while something was made of them."""

    def __init__(self, thread_id: uuid.UUID) -> None:
        super().__init__(f"thread {thread_id} lost messages meanwhile; make the summary anew")
        self.thread_id = thread_id


class SummaryError(LLMStackError):
    """A summariser failed or took too long; nothing was written."""


register_constraints(
    {
        "uq_threads_owner_id_id_at_origin": lambda: Conflict(
            "this owner has a thread of this id_at_origin already; stack.conversations.append adds to it"
        ),
        "uq_messages_thread_id_seq": lambda: Conflict("the thread has a message of this seq already"),
        "uq_messages_owner_id_thread_id_client_key": lambda: Conflict(
            "the thread has a message of this client_key already"
        ),
        "uq_thread_summaries_current": lambda: Conflict("the thread has a current summary already"),
        "ck_messages_role": lambda: ValidationError("role", "it is not one that the table knows"),
        "ck_messages_says_something": lambda: ValidationError("content", "a message has content or parts"),
        "fk_messages_owner_id_thread_id_threads": lambda: NotFound("this owner has no such thread"),
        "fk_thread_summaries_owner_id_thread_id_threads": lambda: NotFound("this owner has no such thread"),
        "fk_message_embeddings_owner_id_row_id_messages": lambda: NotFound("this owner has no such message"),
        "fk_message_embeddings_space_id_embedding_spaces": lambda: NotFound("there is no such embedding space"),
    }
)
