"""`llmstack documents`: list, show, delete, restore, purge."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ..errors import NotFound
from .invocation import Invocation, Owner, verb
from .output import Answer, counted, page, plain, printable, table
from .removal import change_each, confirm_purge

if TYPE_CHECKING:
    from ..documents import Chunk, Document
    from ..stack import LLMStack

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, or ids at the origin.", show_default=False)]

app = typer.Typer(help="List, show, delete, restore and purge documents.", no_args_is_help=True)


@verb(app, "list")
async def list_documents(
    call: Invocation,
    *,
    owner: Owner,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Documents of one page.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.", show_default=False)] = None,
    type: Annotated[list[str] | None, typer.Option(help="Only these types.", show_default=False)] = None,
    language: Annotated[list[str] | None, typer.Option(help="Only these languages.", show_default=False)] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Those that can be restored.")] = False,
) -> Answer:
    """List an owner's documents, newest first, a page at a time."""
    from ..documents import DocumentFilter

    async with call.stack() as stack:
        found = await stack.documents.list(
            owner_id=owner,
            where=DocumentFilter(document_type=type or None, language=language or None),
            limit=limit,
            cursor=cursor,
            deleted=deleted,
        )
    columns = ["id", "name", "type", "language", "bytes", "updated", "id at origin"]
    return page(
        found,
        name="documents",
        noun="document",
        items=[_as_json(one) for one in found.items],
        rows=table(columns, map(_row, found.items), right=["bytes"]),
        command=call.options.command("documents", "list", "--owner", owner),
    )


def _row(document: Document) -> Sequence[object]:
    return (
        document.id,
        document.name,
        document.document_type,
        document.language,
        f"{document.content_bytes:,}",
        f"{document.updated_at:%Y-%m-%d %H:%M}",
        document.id_at_origin,
    )


_FIELDS = (
    "id", "owner_id", "id_at_origin", "name", "document_type", "document_date", "language", "content_bytes",
    "chunking", "created_at", "updated_at", "deleted_at",
)  # fmt: skip


def _as_json(document: Document) -> dict[str, Any]:
    return {**{name: plain(getattr(document, name)) for name in _FIELDS}, "metadata": document.metadata_}


@verb(app, "show")
async def show_document(
    call: Invocation,
    document: Annotated[str, typer.Argument(metavar="ID", help="Its id, or its id at the origin.")],
    *,
    owner: Owner,
    chunks: Annotated[bool, typer.Option("--chunks", help="Its passages too, in reading order.")] = False,
) -> Answer:
    """Show one document."""
    async with call.stack() as stack:
        document_id = await _resolved(stack, owner, document)
        if isinstance(document_id, str):
            raise NotFound(f"owner {owner!r} has no document of this id: {document}")
        found = await stack.documents.get(owner_id=owner, document_id=document_id)
        passages = await stack.documents.chunks(owner_id=owner, document_id=found.id)
    listed = {"chunks": [_chunk_as_json(chunk) for chunk in passages]} if chunks else {}
    facts = {**_as_json(found), "chunks": len(passages)}
    shown = [
        Text.assemble((f"{name.replace('_', ' '):<14} ", "bold"), printable(value))
        for name, value in facts.items()
        if value not in (None, {})
    ]
    for chunk in passages if chunks else ():
        head = f"\n[{chunk.position}] {chunk.context}  ({counted(chunk.token_count, 'token')})"
        shown += [Text(printable(head), style="cyan"), Text(printable(chunk.content))]
    return Answer({**_as_json(found), "chunk_count": len(passages), **listed}, shown)


def _chunk_as_json(chunk: Chunk) -> dict[str, Any]:
    names = ("id", "parent_id", "position", "context", "content", "token_count", "start_offset", "end_offset")
    return {name: getattr(chunk, name) for name in names}


async def _resolved(stack: LLMStack, owner: str, given: str) -> uuid.UUID | str:
    """The id; what is no UUID is looked up as an id at the origin."""
    try:
        return uuid.UUID(given)
    except ValueError:
        found = await stack.documents.find(owner_id=owner, id_at_origin=given)
        return given if found is None else found.id


async def _each(call: Invocation, owner: str, ids: Sequence[str], done: str) -> Answer:
    async with call.stack() as stack:
        change = stack.documents.delete if done == "deleted" else stack.documents.restore

        async def change_one(given: str) -> int:
            key = await _resolved(stack, owner, given)
            # What is neither a UUID nor known at the origin matches nothing.
            return 0 if isinstance(key, str) else await change(owner_id=owner, document_id=key)

        return await change_each(ids, change_one, owner=owner, done=done, noun="document")


@verb(app, "delete")
async def delete_documents(call: Invocation, ids: Ids, *, owner: Owner) -> Answer:
    """Hide documents from every search and list until they are restored or purged."""
    return await _each(call, owner, ids, "deleted")


@verb(app, "restore")
async def restore_documents(call: Invocation, ids: Ids, *, owner: Owner) -> Answer:
    """Bring deleted documents back, with their vectors; by id alone."""
    return await _each(call, owner, ids, "restored")


@verb(app, "purge")
async def purge_documents(
    call: Invocation,
    *,
    owner: Owner,
    days: Annotated[float, typer.Option(min=0, help="Only what was deleted at least this long ago.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> Answer:
    """Delete for good what was deleted before."""
    if not yes:
        confirm_purge(owner, "documents")
    async with call.stack() as stack:
        number = await stack.documents.purge(owner_id=owner, older_than=dt.timedelta(days=days))
    return Answer({"purged": number}, [f"purged {counted(number, 'document')}"])
