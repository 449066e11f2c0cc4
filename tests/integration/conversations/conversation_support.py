"""Conversations to write and to look at."""

from __future__ import annotations

import asyncio
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


_COUNTED_WRONGLY = """
    SELECT t.id_at_origin FROM llmstack.threads t
    LEFT JOIN LATERAL (
        SELECT count(*) AS stored, count(*) FILTER (WHERE m.deleted_at IS NULL) AS living,
               count(*) FILTER (WHERE is_counted) AS counted, max(m.created_at) FILTER (WHERE is_counted) AS last_at,
               coalesce(max(m.seq), 0) AS last_seq, coalesce(min(m.seq), 1) AS first_seq,
               coalesce(sum(m.tokens_input) FILTER (WHERE is_counted), 0) AS tokens_input,
               coalesce(sum(m.tokens_output) FILTER (WHERE is_counted), 0) AS tokens_output
        FROM llmstack.messages m, LATERAL (SELECT m.deleted_at IS NOT DISTINCT FROM t.deleted_at AS is_counted) AS state
        WHERE m.thread_id = t.id
    ) said ON true
    WHERE (t.message_count, t.tokens_input, t.tokens_output) <> (said.counted, said.tokens_input, said.tokens_output)
        OR t.last_message_at <> coalesce(said.last_at, t.created_at)
        OR said.last_seq > t.last_seq OR said.last_seq - said.first_seq + 1 < said.stored
        OR (t.deleted_at IS NOT NULL AND said.living > 0)"""
_WITHOUT_VECTORS = """
    SELECT t.id_at_origin FROM llmstack.threads t JOIN llmstack.messages m ON m.thread_id = t.id
    CROSS JOIN llmstack.embedding_spaces s
    WHERE s.state <> 'retired' AND m.search_vector IS NOT NULL
        AND NOT EXISTS (
            SELECT FROM llmstack.message_embeddings e WHERE e.row_id = m.id AND e.space_id = s.id AND e.searchable)
        AND NOT EXISTS (SELECT FROM llmstack.message_embedding_jobs j WHERE j.row_id = m.id AND j.space_id = s.id)"""
_FOUND_THOUGH_HIDDEN = """
    SELECT t.id_at_origin FROM llmstack.threads t JOIN llmstack.messages m ON m.thread_id = t.id
    WHERE (m.search_vector IS NOT NULL)
            <> (m.deleted_at IS NULL AND m.content <> '' AND octet_length(m.content) <= 300000)
        OR (m.search_vector IS NULL AND EXISTS (
            SELECT FROM llmstack.message_embeddings e WHERE e.row_id = m.id AND e.searchable))"""
_OF_ANOTHER_CONTEXT = """
    SELECT t.id_at_origin FROM llmstack.threads t JOIN llmstack.messages m ON m.thread_id = t.id
    LEFT JOIN LATERAL (
        SELECT b.content FROM llmstack.messages b
        WHERE b.thread_id = t.id AND b.seq < m.seq AND b.deleted_at IS NULL AND b.content <> ''
        ORDER BY b.seq DESC LIMIT 1
    ) before ON true
    WHERE m.deleted_at IS NULL AND CASE
        WHEN length(before.content) > 1000
        THEN length(m.context) NOT BETWEEN 1 AND 1000 OR right(before.content, length(m.context)) <> m.context
        ELSE m.context <> coalesce(before.content, '') END"""
_SUMMARISED_THOUGH_HIDDEN = """
    SELECT t.id_at_origin FROM llmstack.threads t JOIN llmstack.thread_summaries s ON s.thread_id = t.id
    WHERE (s.deleted_at IS NULL) AND (t.deleted_at IS NOT NULL OR s.is_current AND EXISTS (
        SELECT FROM llmstack.messages m
        WHERE m.thread_id = t.id AND m.deleted_at > s.created_at AND m.seq BETWEEN s.first_seq AND s.last_seq))"""
_BROKEN = " UNION ALL ".join(
    (_COUNTED_WRONGLY, _WITHOUT_VECTORS, _FOUND_THOUGH_HIDDEN, _OF_ANOTHER_CONTEXT, _SUMMARISED_THOUGH_HIDDEN)
)


async def broken_threads(stack: LLMStack) -> list[str]:
    """Threads whose counts, seqs, contexts, summaries, vectors or jobs are not those of their messages."""
    return [row[0] for row in await fetched(stack, _BROKEN)]


_WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND state = 'active'"""


async def blocked(stack: LLMStack, number: int = 1) -> None:
    """Wait until so many connections to this database wait for a lock."""
    for _ in range(3000):
        if (await fetched(stack, _WAITING))[0][0] >= number:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{number} connections never waited")
