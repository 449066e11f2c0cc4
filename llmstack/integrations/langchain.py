"""LangChain's history of chat messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from ..conversations import MessageInput
from ..conversations.formats import as_messages, empty_text, read_message
from ..errors import LLMStackError, MissingExtra
from .threads import OwnedThread

try:
    from langchain_core.chat_history import BaseChatMessageHistory
    from langchain_core.messages import BaseMessage
except ImportError as error:
    raise MissingExtra(feature="a history of LangChain", extra="langchain") from error


class AsyncOnly(LLMStackError, NotImplementedError):
    """The database is reached by async calls alone."""

    def __init__(self, name: str, instead: str) -> None:
        super().__init__(f"{name} is not there: the database is reached by async calls alone; await {instead}")


class ConversationHistory(OwnedThread, BaseChatMessageHistory):
    """Keeps messages in a thread and gives them back equal; for what awaits, such as `ainvoke` and `astream`.

    The thread is made by the first messages, with the `user_id` and the `agent_id`, which every message has, too.
    """

    async def aget_messages(self) -> list[BaseMessage]:
        """Give the messages in order."""
        return as_messages(await self._messages(), "langchain")

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append the messages, all or none."""
        await self._append(map(_as_message, messages))

    async def aclear(self) -> None:
        """Take every message out; the thread stays, and can be gone on with."""
        await self._clear()

    @property
    def messages(self) -> NoReturn:  # type: ignore[override]  # the base has it as an attribute that can be set
        """Raise AsyncOnly."""
        raise AsyncOnly("messages", "aget_messages()")

    def add_messages(self, messages: Sequence[BaseMessage]) -> NoReturn:
        """Raise AsyncOnly."""
        raise AsyncOnly("add_messages", "aadd_messages(...)")

    def clear(self) -> NoReturn:
        """Raise AsyncOnly."""
        raise AsyncOnly("clear", "aclear()")

    # That of the base reads the messages.
    __str__ = OwnedThread.__repr__


def _as_message(message: BaseMessage) -> MessageInput:
    read: dict[str, Any] = read_message(message)
    if not read["content"].strip() and not read.get("parts"):
        # A message has to have something; tools return nothing, and models say nothing, often enough.
        read = empty_text(read)
    return MessageInput(**read)
