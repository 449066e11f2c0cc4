"""What every integration keeps its messages in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..conversations import ConversationService, Message, MessageInput, ThreadNotFound


class OwnedThread:
    """A thread of one owner, named by its id_at_origin: made by the first message, and empty until then."""

    def __init__(
        self,
        session_id: str,
        *,
        conversations: ConversationService,
        owner_id: str,
        user_id: str | None = None,
        agent_id: str | None = None,
    ) -> None:
        self.session_id = session_id
        self.owner_id = owner_id
        self.user_id = user_id
        self.agent_id = agent_id
        self._conversations = conversations

    async def _messages(self, last: int | None = None) -> Sequence[Message]:
        with contextlib.suppress(ThreadNotFound):
            return await self._conversations.history(owner_id=self.owner_id, thread=self.session_id, last=last)
        return ()

    async def _append(self, messages: Iterable[MessageInput]) -> None:
        said = [replace(message, user_id=self.user_id, agent_id=self.agent_id) for message in messages]
        # Of no messages an empty thread would be made.
        if said:
            await self._conversations.append(
                owner_id=self.owner_id,
                thread=self.session_id,
                messages=said,
                user_id=self.user_id,
                agent_id=self.agent_id,
            )

    async def _clear(self) -> None:
        with contextlib.suppress(ThreadNotFound):
            await self._conversations.clear(owner_id=self.owner_id, thread=self.session_id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r}, owner_id={self.owner_id!r})"
