"""`llmstack threads show` and `search`: what was said, as a person reads it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group as Lines
from rich.padding import Padding
from rich.text import Text

from .invocation import Invocation, Owner, verb
from .output import Answer, counted, plain, printable
from .search import SearchMode, hits_as_json, passage, summary
from .snippets import terms_of
from .threads import Name, Role, Since, Users, get_thread, moment, thread_as_json

if TYPE_CHECKING:
    from ..conversations import ConversationHit, Message

_ARGUMENTS = 200
"""Characters of a call's arguments that are shown."""
_COLORS = {"user": "bold cyan", "assistant": "bold green", "tool": "bold magenta"}


def register(app: typer.Typer) -> None:
    """Add the verbs to those of threads."""
    verb(app, "show")(show_thread)
    verb(app, "search")(search_threads)


async def show_thread(
    call: Invocation,
    thread: Name,
    *,
    owner: Owner,
    last: Annotated[int, typer.Option("--last", min=1, help="How many of the last messages.")] = 20,
) -> Answer:
    """Show a thread and its last messages."""
    async with call.stack() as stack:
        found = await get_thread(stack, owner, thread)
        messages = await stack.conversations.history(owner_id=owner, thread=found.id, last=last)
    value = {**thread_as_json(found), "messages": [_message_as_json(message) for message in messages]}
    facts = {**thread_as_json(found), "message_count": f"{found.message_count:,}"}
    head = [
        Text.assemble((f"{name.replace('_', ' '):<16} ", "bold"), printable(value))
        for name, value in facts.items()
        if value not in (None, {}, 0)
    ]
    shown = [*head, Text(""), *(_told(message) for message in messages)]
    if len(messages) < found.message_count:
        more = call.options.command("threads", "show", thread, "--owner", owner, "--last", str(found.message_count))
        shown.append(Text(f"the last {len(messages):,} of {counted(found.message_count, 'message')}", style="bold"))
        shown.append(Text(f"all of them: {more}"))
    return Answer(value, shown)


_MESSAGE_FIELDS = (
    "id", "seq", "role", "content", "parts", "name", "tool_call_id", "user_id", "agent_id", "provider", "model",
    "tokens_input", "tokens_output", "important", "client_key", "created_at",
)  # fmt: skip


def _message_as_json(message: Message) -> dict[str, Any]:
    return {**{name: plain(getattr(message, name)) for name in _MESSAGE_FIELDS}, "metadata": message.metadata_}


def _told(message: Message) -> Lines:
    """A message as a person reads it: who, when, what, and the tools that it calls."""
    who = " ".join(filter(None, (message.role, message.name)))
    moment = f"{message.created_at.astimezone():%Y-%m-%d %H:%M}"
    about = [moment, message.model, "important" if message.important else None]
    head = Text.assemble(
        (f"[{message.seq}] ", "dim"),
        (printable(who), _COLORS.get(message.role, "bold")),
        (f"  {printable('  '.join(filter(None, about)))}", "dim"),
    )
    lines = [Text(printable(message.content))] if message.content else []
    lines += [Text(printable(said), style="magenta") for said in _beside(message)]
    return Lines(head, *(Padding(line, (0, 0, 0, 4), expand=False) for line in lines), Text(""))


def _beside(message: Message) -> Iterator[str]:
    """What a message has beside its text, a line each."""
    from ..conversations.formats.parts import read_parts

    if message.tool_call_id:
        yield f"answers {message.tool_call_id}"
    for part in read_parts(message.parts or ()):
        if part.kind == "call":
            given = part.arguments if isinstance(part.arguments, str) else json.dumps(part.arguments)
            cut = f"{given[:_ARGUMENTS]}…" if len(given) > _ARGUMENTS else given
            yield f"calls {part.name}({cut})"
        elif part.kind == "result":
            yield f"answers {part.id}"
        elif part.kind != "text":
            yield part.label[:_ARGUMENTS]


async def search_threads(
    call: Invocation,
    query: Annotated[str, typer.Argument(help='Words that rank; `"..."` must occur, `-word` must not.')],
    *,
    owner: Owner,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Hits at most.")] = 10,
    thread: Annotated[list[str] | None, typer.Option(help="Only in these threads.", show_default=False)] = None,
    user: Users = None,
    role: Annotated[list[Role] | None, typer.Option(help="Only messages of these roles.", show_default=False)] = None,
    since: Since = None,
    mode: Annotated[
        SearchMode | None,
        typer.Option(help="Without it hybrid, or text where there is no embedder.", show_default=False),
    ] = None,
) -> Answer:
    """Find the best messages of an owner's threads, and their summaries where no role is asked for."""
    earliest = moment(since)
    async with call.stack(migrate=call.embedded) as stack:
        within = [(await get_thread(stack, owner, one)).id for one in thread or ()]
        started = time.perf_counter()
        hits = await stack.conversations.search(
            owner_id=owner,
            query=query,
            thread=within or None,
            user_id=user or None,
            roles=role or None,
            since=earliest,
            limit=limit,
            mode=mode.value if mode else None,
        )
        elapsed = time.perf_counter() - started
    terms = terms_of(query)
    shown: list[Any] = [_shown_hit(rank, hit, terms) for rank, hit in enumerate(hits, 1)]
    shown.append(Text(summary(hits, elapsed), style="dim") if hits else "nothing found")
    return Answer(hits_as_json(query, owner, elapsed, hits), shown)


def _shown_hit(rank: int, hit: ConversationHit, terms: Sequence[str]) -> Lines:
    title = printable(hit.title or hit.id_at_origin)
    place = f"{hit.id_at_origin}  " if hit.title else ""
    said = f"message {hit.seq}, {' '.join(filter(None, (hit.role, hit.name)))}"
    if hit.role is None:
        said = f"summary of messages {hit.first_seq} to {hit.seq}"
    said = f"{place}{said}, {hit.created_at.astimezone():%Y-%m-%d %H:%M}"
    lines = [Text(printable(said), style="dim"), passage(hit.content, terms)]
    head = Text.assemble((f"{rank:>2}. ", "bold"), (title, "bold cyan"), (f"  {hit.score:.3f}", "dim"))
    return Lines(head, *(Padding(line, (0, 0, 0, 4), expand=False) for line in lines), Text(""))
