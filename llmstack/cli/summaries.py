"""`llmstack threads summarise`: by a chat model, or by what was first and last said."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ..errors import ConfigurationError, LLMStackError
from .exits import FAILED, OK, say
from .invocation import Invocation, Owner, verb
from .output import Answer, counted, plain, printable
from .threads import get_thread

if TYPE_CHECKING:
    from ..conversations import ThreadSummary
    from ..conversations.summarisers import Summariser
    from ..stack import LLMStack


def register(app: typer.Typer) -> None:
    """Add the verb to those of threads."""
    verb(app, "summarise")(summarise)


async def summarise(
    call: Invocation,
    threads: Annotated[
        list[str] | None,
        typer.Argument(metavar="[THREAD]...", help="Ids at the origin, or ids.", show_default=False),
    ] = None,
    *,
    owner: Owner,
    due: Annotated[bool, typer.Option("--due", help="All that are due, the most important first.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Threads that are due at most.")] = 50,
    model: Annotated[
        str | None,
        typer.Option(help="A chat model of litellm, such as `openai/gpt-4o-mini`.", show_default=False),
    ] = None,
) -> Answer:
    """Make summaries anew from the last one and what was said since.

    Without a model a summary is what was first and last said.
    """
    if due == bool(threads):
        raise ConfigurationError("name the threads, or give --due")
    made: list[dict[str, Any]] = []
    failed: list[str] = []
    async with call.stack() as stack:
        async for key in _wanted(stack, owner, threads, limit=limit):
            try:
                summary = await _summary(stack, owner, key, model)
            except LLMStackError as error:
                say(f"error: {key}: {error}", color="red")
                failed.append(str(key))
                continue
            if summary is not None:
                made.append(_as_json(summary))
    shown: list[Any] = [line for one in made for line in _shown(one)]
    shown.append(f"summarised {counted(len(made), 'thread')}{f', {len(failed)} failed' if failed else ''}")
    return Answer({"summaries": made, "failed": failed}, shown, FAILED if failed else OK)


async def _wanted(
    stack: LLMStack, owner: str, threads: Sequence[str] | None, *, limit: int
) -> AsyncIterator[uuid.UUID]:
    if threads:
        for given in threads:
            yield (await get_thread(stack, owner, given)).id
    else:
        for one in await stack.conversations.due_summaries(owner_id=owner, limit=limit):
            yield one.thread_id


async def _summary(stack: LLMStack, owner: str, key: uuid.UUID, model: str | None) -> ThreadSummary | None:
    from ..conversations import LLMSummariser, first_and_last

    summariser: Summariser = first_and_last if model is None else LLMSummariser(model)
    return await stack.conversations.summarise(owner_id=owner, thread=key, summariser=summariser)


def _as_json(summary: ThreadSummary) -> dict[str, Any]:
    names = ("thread_id", "content", "first_seq", "last_seq", "token_count", "model", "created_at")
    return {name: plain(getattr(summary, name)) for name in names}


def _shown(made: dict[str, Any]) -> list[Any]:
    head = f"{made['thread_id']}  messages {made['first_seq']} to {made['last_seq']}"
    return [Text(head, style="bold cyan"), Text(printable(made["content"])), Text("")]
