"""What makes a summary of messages: a function, a chat model, or the thread's own first and last words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from ..errors import ValidationError
from ..providers.chat import ChatModel
from ..providers.failures import describe
from .errors import SummaryError
from .models import Message

_ASK = (
    "Summarise the conversation below in at most {characters} characters, in its own language, for somebody who goes "
    "on with it: what was asked, decided and promised, with names, numbers and dates. Where there is an earlier "
    "summary, write one that covers both. No introduction, no comments."
)
_ELLIPSIS = " ..."


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRequest:
    """Messages in order, what was said before them as it was summarised, and how long a summary may be."""

    messages: Sequence[Message]
    previous: str | None
    characters: int

    @property
    def transcript(self) -> str:
        """What was said, a paragraph a message, after its role; messages without a text are left out."""
        return "\n\n".join(f"{message.role}: {message.content}" for message in self.messages if message.content)


Summariser = Callable[[SummaryRequest], Awaitable[str]]


class LLMSummariser:
    """Summaries by a chat model through litellm, such as `openai/gpt-4o-mini`; `options` go to every call."""

    def __init__(
        self, model: str, *, api_key: str | SecretStr | None = None, api_base: str | None = None, **options: Any
    ) -> None:
        self.model = model
        options = {"api_base": api_base, "temperature": 0.2, **options}
        self._chat = ChatModel(model, error=SummaryError, api_key=api_key, options=options)

    async def __call__(self, request: SummaryRequest) -> str:
        """Ask the model once; what it says is the summary."""
        earlier = f"Earlier summary: {request.previous}\n\n" if request.previous else ""
        said = earlier + request.transcript
        return (await self._chat.ask(_ASK.format(characters=request.characters), said, private=[said])).strip()

    def __repr__(self) -> str:
        return f"LLMSummariser({self.model!r})"


async def first_and_last(request: SummaryRequest) -> str:
    """Without a model: what the user first and last asked, and the last answer, each cut to its share."""
    asked = [message.content for message in request.messages if message.role == "user" and message.content]
    answered = [message.content for message in request.messages if message.role == "assistant" and message.content]
    said = [request.previous] if request.previous else asked[:1]
    said += [text for text in (*asked[-1:], *answered[-1:]) if text not in said]
    said = said or [message.content for message in request.messages if message.content][-1:]
    share = request.characters // max(len(said), 1) - 1
    return "\n".join(_shortened(" ".join(text.split()), share) for text in said)


def _shortened(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    return text[: characters - len(_ELLIPSIS)].rpartition(" ")[0].rstrip(",;:") + _ELLIPSIS


async def summary_of(summariser: Summariser, request: SummaryRequest, *, seconds: float) -> str:
    """What the summariser makes of the request, or SummaryError; cut to its length where it says more."""
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            said = await summariser(request)
    except SummaryError:
        raise
    except Exception as error:
        reason = (
            f"no answer within {seconds:g} s" if deadline.expired() else describe(error, texts=[request.transcript])
        )
        raise SummaryError(f"{summariser!r:.100} made no summary: {reason}") from None
    if not isinstance(said, str):
        raise ValidationError("summariser", f"it must return a text, not {type(said).__name__}")
    if not said.strip():
        raise SummaryError(f"{_name(summariser)} made no summary: it is empty")
    return _shortened(said.strip(), 2 * request.characters)


def _name(summariser: Summariser) -> str:
    return str(getattr(summariser, "__name__", None) or repr(summariser))[:100]
