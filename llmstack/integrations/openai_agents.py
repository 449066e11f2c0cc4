"""Sessions of the OpenAI Agents SDK."""

from __future__ import annotations

import contextlib
from typing import Any, cast

from ..conversations import ConversationService, Message, MessageInput, ThreadNotFound
from ..conversations.formats import read_message
from ..conversations.formats.parts import text_of
from ..errors import MissingExtra, ValidationError
from .threads import OwnedThread

try:
    from agents import SessionSettings, TResponseInputItem
except ImportError as error:
    raise MissingExtra(feature="a session of the OpenAI Agents SDK", extra="agents") from error


class ConversationSession(OwnedThread):
    """Keeps the items of runs in a thread, a message each, and gives them back equal: `Runner.run(session=...)`.

    The thread is made by the first items, with the `user_id` and the `agent_id`, which every message has, too.
    """

    def __init__(
        self,
        session_id: str,
        *,
        conversations: ConversationService,
        owner_id: str,
        user_id: str | None = None,
        agent_id: str | None = None,
        session_settings: SessionSettings | None = None,
    ) -> None:
        super().__init__(session_id, conversations=conversations, owner_id=owner_id, user_id=user_id, agent_id=agent_id)
        self.session_settings = session_settings

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Give the items in order: the last so many, by the settings where no limit is given, or all."""
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        if limit is not None and limit < 1:
            return []
        return [_as_item(message) for message in await self._messages(limit)]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append the items, all or none."""
        await self._append(_as_message(cast(dict[str, Any], item)) for item in items)

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the last item out; None where there is none."""
        with contextlib.suppress(ThreadNotFound):
            message = await self._conversations.pop(owner_id=self.owner_id, thread=self.session_id)
            return None if message is None else _as_item(message)
        return None

    async def clear_session(self) -> None:
        """Take every item out; the thread stays, and can be gone on with."""
        await self._clear()


def _as_message(item: dict[str, Any]) -> MessageInput:
    """A text alone needs no parts; every other item is the one part of its message."""
    role, content, tool_call_id = _read(item)
    is_text = item == {"role": role, "content": content} and content.strip()
    return MessageInput(role=role, content=content, tool_call_id=tool_call_id, parts=None if is_text else [item])


def _read(item: dict[str, Any]) -> tuple[str, str, str | None]:
    """Role, text and the id of the answered call; an item that nobody knows is the assistant's."""
    try:
        read = read_message({"type": "message", **item})
    except ValidationError:
        held = [{"type": "message", "content": item.get(key)} for key in ("content", "output", "text")]
        return "assistant", text_of(held), None
    return read["role"], read["content"], read.get("tool_call_id")


def _as_item(message: Message) -> TResponseInputItem:
    parts = message.parts or ()
    item = parts[0] if len(parts) == 1 else {"role": message.role, "content": message.content}
    return cast(TResponseInputItem, item)
