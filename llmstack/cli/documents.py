"""`llmstack documents`: list, show, delete, restore, purge, refresh, reweigh."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ..errors import ConfigurationError, NotFound
from .exits import FAILED, OK, say
from .invocation import Invocation, Json, Owner, verb
from .output import counted, emit_json, plain, printable, show, table

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
    json: Json = False,
) -> None:
    """List an owner's documents, newest first, a page at a time."""
    from ..documents import DocumentFilter

    async with call.stack() as stack:
        page = await stack.documents.list(
            owner_id=owner,
            where=DocumentFilter(document_type=type or None, language=language or None),
            limit=limit,
            cursor=cursor,
            deleted=deleted,
        )
    if json:
        emit_json({"total": page.total, "cursor": page.cursor, "documents": [_as_json(one) for one in page.items]})
        return
    if page.items:
        columns = ["id", "name", "type", "language", "bytes", "updated", "id at origin"]
        show(table(columns, [_row(document) for document in page.items], right=["bytes"]))
    show(Text(f"{len(page.items):,} of {counted(page.total, 'document')}", style="bold"))
    if page.cursor is not None:
        command = call.options.command("documents", "list", "--owner", owner, "--cursor", page.cursor)
        typer.echo(f"next page: {command}")


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
    json: Json = False,
) -> None:
    """Show one document."""
    async with call.stack() as stack:
        document_id = await _resolved(stack, owner, document)
        if isinstance(document_id, str):
            raise NotFound(f"owner {owner!r} has no document of this id: {document}")
        found = await stack.documents.get(owner_id=owner, document_id=document_id)
        passages = await stack.documents.chunks(owner_id=owner, document_id=found.id)
    if json:
        listed = {"chunks": [_chunk_as_json(chunk) for chunk in passages]} if chunks else {}
        emit_json({**_as_json(found), "chunk_count": len(passages), **listed})
        return
    facts = {**_as_json(found), "chunks": len(passages)}
    for name, value in facts.items():
        if value not in (None, {}):
            show(Text.assemble((f"{name.replace('_', ' '):<14} ", "bold"), printable(value)))
    for chunk in passages if chunks else ():
        head = f"\n[{chunk.position}] {chunk.context}  ({counted(chunk.token_count, 'token')})"
        show(Text(printable(head), style="cyan"), Text(printable(chunk.content)))


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


async def _each(call: Invocation, owner: str, ids: Sequence[str], done: str, *, json: bool) -> int:
    """Delete or restore each; one that is absent is named and does not stop the others."""
    changed: list[str] = []
    absent: list[str] = []
    async with call.stack() as stack:
        change = stack.documents.delete if done == "deleted" else stack.documents.restore
        for given in ids:
            key = await _resolved(stack, owner, given)
            # What is neither a UUID nor known at the origin matches nothing.
            number = 0 if isinstance(key, str) else await change(owner_id=owner, document_id=key)
            (changed if number else absent).append(given)
    if json:
        emit_json({done: changed, "not_found": absent})
    else:
        typer.echo(f"{done} {counted(len(changed), 'document')}")
    for given in absent:
        say(f"error: owner {owner!r} has no such document: {given}", color="red")
    return FAILED if absent else OK


@verb(app, "delete")
async def delete_documents(call: Invocation, ids: Ids, *, owner: Owner, json: Json = False) -> int:
    """Hide documents from every search and list until they are restored or purged."""
    return await _each(call, owner, ids, "deleted", json=json)


@verb(app, "restore")
async def restore_documents(call: Invocation, ids: Ids, *, owner: Owner, json: Json = False) -> int:
    """Bring deleted documents back, with their vectors; by id alone."""
    return await _each(call, owner, ids, "restored", json=json)


@verb(app, "purge")
async def purge_documents(
    call: Invocation,
    *,
    owner: Owner,
    days: Annotated[float, typer.Option(min=0, help="Only what was deleted at least this long ago.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete for good what was deleted before."""
    if not yes:
        _confirm(owner)
    async with call.stack() as stack:
        number = await stack.documents.purge(owner_id=owner, older_than=dt.timedelta(days=days))
    if json:
        emit_json({"purged": number})
    else:
        typer.echo(f"purged {counted(number, 'document')}")


def _confirm(owner: str) -> None:
    import sys

    if not sys.stdin.isatty():
        raise ConfigurationError("purge cannot be undone; give --yes where nobody can be asked")
    typer.confirm(f"Delete the deleted documents of {owner!r} for good?", abort=True, err=True)


@verb(app, "refresh")
async def refresh_statistics(call: Invocation, *, json: Json = False) -> None:
    """Read the term statistics that text search ranks by anew; ingesting does so by itself."""
    async with call.stack() as stack:
        refreshed = await stack.documents.refresh_statistics()
    if json:
        emit_json(refreshed)
    elif refreshed is None:
        typer.echo("another process is doing so right now")
    else:
        typer.echo(f"read {counted(refreshed.row_count, 'chunk')}, {refreshed.average_length:.0f} words on average")


@verb(app, "reweigh")
async def reweigh(
    call: Invocation,
    *,
    k1: Annotated[float | None, typer.Option(help="How fast repetition counts less.", show_default=False)] = None,
    b: Annotated[float | None, typer.Option(help="Length normalisation, 0 to 1.", show_default=False)] = None,
    average_length: Annotated[
        float | None, typer.Option(help="Words of a chunk; without it as measured.", show_default=False)
    ] = None,
    context_weight: Annotated[
        float | None, typer.Option(help="Weight of name and section.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Give the corpus other BM25 parameters and rewrite its weights, a batch at a time; call again to resume."""
    async with call.stack() as stack:
        number = await stack.documents.reweigh(k1=k1, b=b, average_length=average_length, context_weight=context_weight)
    if json:
        emit_json({"rewritten": number})
    else:
        typer.echo(f"rewrote the weights of {counted(number, 'chunk')}")
