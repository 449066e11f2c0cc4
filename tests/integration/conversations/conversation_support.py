"""Conversations to write and to look at."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from llmstack import LLMStack
from llmstack.conversations import AppendResult, Message, MessageInput, ThreadInput
from llmstack.conversations.records import ThreadRef

NOON = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


def said(role: str = "user", content: str = "a few words", **more: Any) -> MessageInput:
    return MessageInput(role=role, content=content, **more)


def turns(*contents: str) -> list[MessageInput]:
    """Messages of a user and an assistant in turn."""
    return [said(("user", "assistant")[place % 2], content) for place, content in enumerate(contents)]


def thread(name: str, *contents: str, owner_id: str = "acme", **more: Any) -> ThreadInput:
    return ThreadInput(owner_id=owner_id, thread=name, messages=turns(*contents), **more)


async def append(stack: LLMStack, name: ThreadRef | None, *messages: Any, **more: Any) -> AppendResult:
    """Append messages, or the turns of texts."""
    given = turns(*messages) if messages and isinstance(messages[0], str) else messages
    return await stack.conversations.append(**{"owner_id": "acme", "thread": name, "messages": given, **more})


async def appended(stack: LLMStack, inputs: Any, **more: Any) -> list[AppendResult]:
    return [result async for result in stack.conversations.append_many(inputs, **more)]


async def history(stack: LLMStack, name: ThreadRef, **more: Any) -> Sequence[Message]:
    return await stack.conversations.history(**{"owner_id": "acme", "thread": name, **more})


async def contents(stack: LLMStack, name: ThreadRef, **more: Any) -> list[str]:
    return [message.content for message in await history(stack, name, **more)]


async def fetched(stack: LLMStack, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    async with stack.service.session() as session:
        return [tuple(row) for row in await session.execute(text(statement), values)]


async def changed(stack: LLMStack, statement: str) -> None:
    """Change rows as only time does."""

    async def run(session: AsyncSession) -> None:
        await session.execute(text(statement))

    await stack.service.transaction(run)


async def broken_threads(stack: LLMStack) -> list[str]:
    """Threads whose counts, seqs, vectors or jobs are not those of their messages."""
    statement = """
        SELECT t.id_at_origin FROM llmstack.threads t
        LEFT JOIN LATERAL (
            SELECT count(*) FILTER (WHERE m.deleted_at IS NULL) AS living, count(*) AS stored,
                   coalesce(max(m.seq), 0) AS last_seq, coalesce(min(m.seq), 1) AS first_seq,
                   coalesce(sum(m.tokens_input) FILTER (WHERE m.deleted_at IS NULL), 0) AS tokens_input,
                   coalesce(sum(m.tokens_output) FILTER (WHERE m.deleted_at IS NULL), 0) AS tokens_output
            FROM llmstack.messages m WHERE m.thread_id = t.id
        ) said ON true
        WHERE t.deleted_at IS NULL AND (
            (t.message_count, t.tokens_input, t.tokens_output) <> (said.living, said.tokens_input, said.tokens_output)
            OR said.last_seq > t.last_seq OR said.last_seq - said.first_seq + 1 < said.stored)
        UNION ALL
        SELECT t.id_at_origin FROM llmstack.threads t JOIN llmstack.messages m ON m.thread_id = t.id
        CROSS JOIN llmstack.embedding_spaces s
        WHERE (m.search_vector IS NOT NULL AND NOT EXISTS (
                SELECT FROM llmstack.message_embeddings e WHERE e.row_id = m.id AND e.space_id = s.id AND e.searchable)
            AND NOT EXISTS (
                SELECT FROM llmstack.message_embedding_jobs j WHERE j.row_id = m.id AND j.space_id = s.id))
            OR (m.search_vector IS NULL AND EXISTS (
                SELECT FROM llmstack.message_embeddings e WHERE e.row_id = m.id AND e.searchable))
    """
    return [row[0] for row in await fetched(stack, statement)]
