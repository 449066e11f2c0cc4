"""`llmstack threads`: list, append, delete, restore, purge."""

from __future__ import annotations

import datetime as dt
import enum
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError, NotFound, ValidationError
from .invocation import Invocation, Owner, verb
from .output import Answer, counted, page, plain, printable, table
from .removal import change_each, confirm_purge
from .search import parsed_object

if TYPE_CHECKING:
    from ..conversations import Thread, ThreadPreview
    from ..conversations.records import ThreadRef
    from ..stack import LLMStack

Name = Annotated[str, typer.Argument(metavar="THREAD", help="Its id at the origin, or its id.", show_default=False)]
Names = Annotated[list[str], typer.Argument(metavar="THREAD...", help="Ids at the origin, or ids.", show_default=False)]
Users = Annotated[list[str] | None, typer.Option("--user", help="Only threads of these users.", show_default=False)]
Since = Annotated[
    str | None,
    typer.Option(metavar="MOMENT", help="As ISO 8601; without an offset in local time.", show_default=False),
]

app = typer.Typer(help="List, show, search, write, move and delete conversations.", no_args_is_help=True)
_PREVIEW = 60
_ARGUMENTS = 200


class Role(enum.StrEnum):
    """Who says something."""

    system = "system"
    developer = "developer"
    user = "user"
    assistant = "assistant"
    tool = "tool"


def refs(given: str) -> Iterator[ThreadRef]:
    """What may be meant: a name at the origin, and then an id."""
    yield given
    try:
        yield uuid.UUID(given)
    except ValueError:
        return


async def find_thread(stack: LLMStack, owner: str, given: str) -> Thread | None:
    """The living thread of this name or id, if there is one."""
    for ref in refs(given):
        if (thread := await stack.conversations.find(owner_id=owner, thread=ref)) is not None:
            return thread
    return None


async def get_thread(stack: LLMStack, owner: str, given: str) -> Thread:
    """The living thread of this name or id; NotFound."""
    found = await find_thread(stack, owner, given)
    if found is None:
        raise NotFound(f"owner {owner!r} has no such thread: {given}")
    return found


def moment(given: str | None, *, field: str = "since") -> dt.datetime | None:
    """The moment that was given, in local time where it has no offset."""
    if given is None:
        return None
    try:
        found = dt.datetime.fromisoformat(given)
        return found if found.tzinfo else found.astimezone()
    except (ValueError, OverflowError):
        said = f"{given!r:.60} is no moment of ISO 8601, such as 2026-03-01 or 2026-03-01T12:00"
        raise ValidationError(field, said) from None


@verb(app, "list")
async def list_threads(
    call: Invocation,
    *,
    owner: Owner,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Threads of one page.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(help="Only this user's.", show_default=False)] = None,
    agent: Annotated[str | None, typer.Option(help="Only this agent's.", show_default=False)] = None,
    session: Annotated[str | None, typer.Option(help="Only this session's.", show_default=False)] = None,
    metadata: Annotated[
        str | None, typer.Option(help='Filter as JSON, for instance {"team": "hr"}.', show_default=False)
    ] = None,
    since: Since = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Those that can be restored.")] = False,
) -> Answer:
    """List an owner's threads, the last spoken in first, a page at a time."""
    wanted, earliest = parsed_object("metadata", metadata), moment(since)
    async with call.stack() as stack:
        found = await stack.conversations.list_threads(
            owner_id=owner,
            user_id=user,
            agent_id=agent,
            session_id=session,
            metadata=wanted,
            since=earliest,
            limit=limit,
            cursor=cursor,
            deleted=deleted,
        )
    columns = ["thread", "title", "user", "messages", "last", "last message"]
    return page(
        found,
        name="threads",
        noun="thread",
        items=[_preview_as_json(one) for one in found.items],
        rows=table(columns, map(_row, found.items), right=["messages"]),
        command=call.options.command("threads", "list", "--owner", owner),
    )


def _row(preview: ThreadPreview) -> Sequence[object]:
    thread = preview.thread
    said = " ".join((preview.last_content or "").split())
    last = f"{preview.last_role}: {said[:_PREVIEW]}{'…' if len(said) > _PREVIEW else ''}" if preview.last_role else ""
    moment = f"{thread.last_message_at.astimezone():%Y-%m-%d %H:%M}"
    return thread.id_at_origin, thread.title or "", thread.user_id or "", f"{thread.message_count:,}", moment, last


_FIELDS = (
    "id", "owner_id", "id_at_origin", "title", "user_id", "agent_id", "session_id", "language", "message_count",
    "tokens_input", "tokens_output", "created_at", "last_message_at", "deleted_at",
)  # fmt: skip


def thread_as_json(thread: Thread) -> dict[str, Any]:
    """What `--json` has of a thread."""
    return {**{name: plain(getattr(thread, name)) for name in _FIELDS}, "metadata": thread.metadata_}


def _preview_as_json(preview: ThreadPreview) -> dict[str, Any]:
    return {**thread_as_json(preview.thread), "last_role": preview.last_role, "last_content": preview.last_content}


@verb(app, "append")
async def append_message(
    call: Invocation,
    thread: Name,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What is said; without it, or as -, from standard input.")
    ] = None,
    *,
    owner: Owner,
    role: Annotated[Role, typer.Option(help="Who says it.")] = Role.user,
    name: Annotated[str | None, typer.Option(help="The name of who says it.", show_default=False)] = None,
    tool_call: Annotated[
        str | None, typer.Option(metavar="ID", help="The call that a tool's message answers.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model that says it.", show_default=False)] = None,
    key: Annotated[
        str | None, typer.Option(help="A message of a known key is not stored again.", show_default=False)
    ] = None,
    user: Annotated[str | None, typer.Option(help="The user of a thread that is made.", show_default=False)] = None,
    title: Annotated[str | None, typer.Option(help="The title of a thread that is made.", show_default=False)] = None,
) -> Answer:
    """Add a message to a thread; one of a new name is made."""
    from ..conversations import MessageInput

    said = _standard_input() if text in (None, "-") else text
    message = MessageInput(
        role=role.value, content=said or "", name=name, tool_call_id=tool_call, model=model, client_key=key
    )
    async with call.stack(migrate=call.embedded) as stack:
        known = await find_thread(stack, owner, thread)
        ref = thread if known is None else known.id
        done = await stack.conversations.append(
            owner_id=owner, thread=ref, messages=[message], user_id=user, title=title
        )
    (placed,) = done.messages
    made = f"made thread {done.id_at_origin}; " if done.is_new else ""
    there = "" if placed.is_new else ", which was there"
    return Answer(done, [printable(f"{made}message {placed.seq} of {done.id_at_origin}{there}")])


def _standard_input() -> str:
    if sys.stdin.isatty():
        raise ConfigurationError("give the text, or pipe it in")
    return sys.stdin.read().removesuffix("\n")


async def _each(call: Invocation, owner: str, threads: Sequence[str], done: str) -> Answer:
    async with call.stack() as stack:
        change: Callable[..., Awaitable[int]] = stack.conversations.delete
        if done == "restored":
            change = stack.conversations.restore

        async def change_one(given: str) -> int:
            for ref in refs(given):
                if number := await change(owner_id=owner, thread=ref):
                    return number
            return 0

        return await change_each(threads, change_one, owner=owner, done=done, noun="thread")


@verb(app, "delete")
async def delete_threads(call: Invocation, threads: Names, *, owner: Owner) -> Answer:
    """Hide threads from every search and list until they are restored or purged."""
    return await _each(call, owner, threads, "deleted")


@verb(app, "restore")
async def restore_threads(call: Invocation, threads: Names, *, owner: Owner) -> Answer:
    """Bring deleted threads back, with what was deleted with them."""
    return await _each(call, owner, threads, "restored")


@verb(app, "purge")
async def purge_threads(
    call: Invocation,
    *,
    owner: Owner,
    days: Annotated[float, typer.Option(min=0, help="Only what was deleted at least this long ago.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> Answer:
    """Delete for good the threads, and the messages of living ones, that were deleted before."""
    if not yes:
        confirm_purge(owner, "threads and messages")
    async with call.stack() as stack:
        number = await stack.conversations.purge(owner_id=owner, older_than=dt.timedelta(days=days))
    return Answer({"purged": number}, [f"purged {counted(number, 'thread')}"])
