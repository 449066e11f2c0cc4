"""The server is killed in the middle: what was given together is whole or absent, and a repeat stores it once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from conversation_support import append, appended, broken_threads, contents, fetched, history, said
from document_support import Words, kill
from sqlalchemy import text

from llmstack import LLMStack
from llmstack.conversations import AppendResult, MessageInput, SummaryRequest, ThreadInput, loading
from llmstack.db.embedded import EmbeddedServer, start
from llmstack.errors import DatabaseUnavailable

THREADS, TURNS, LONG = 180, 5, 5_000
SLEEPS_AT = (
    "CREATE FUNCTION llmstack.sleep() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_sleep(50); RETURN new; END $$",
    "CREATE TRIGGER sleep BEFORE INSERT ON llmstack.messages FOR EACH ROW "
    "WHEN (new.content = '{content}') EXECUTE FUNCTION llmstack.sleep()",
)
ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


def turn(thread: int | str, number: int) -> MessageInput:
    role = ("assistant", "user")[number % 2]
    return said(role, f"thread{thread} turn{number}", client_key=f"{number}", tokens_input=number)


def inputs() -> Iterator[ThreadInput]:
    for number in range(THREADS):
        messages = [turn(number, place) for place in range(TURNS)]
        yield ThreadInput(owner_id="acme", thread=f"t{number}", messages=messages)


async def execute(stack: LLMStack, *statements: str) -> None:
    async with stack.service.session() as session:
        for statement in statements:
            await session.execute(text(statement))
        await session.commit()


async def asleep(stack: LLMStack) -> None:
    """Wait until a message sleeps on its way into the table."""
    for _ in range(3000):
        if await fetched(stack, ASLEEP) != [(0,)]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nothing ever slept")


async def restarted(server: EmbeddedServer, words: Words | None = None) -> AsyncIterator[LLMStack]:
    """A stack on a new server over what the dead one left."""
    again = start(server.data_dir, announce=False)
    try:
        async with LLMStack.open(server.url, embedder=words.embedder() if words else "none") as stack:
            yield stack
    finally:
        again.release()


async def whole_threads(stack: LLMStack) -> set[str]:
    """The names of the threads, each of which has all its turns once, in their order."""
    said_in: dict[str, list[str]] = {}
    rows = """
        SELECT t.id_at_origin, m.content FROM llmstack.threads t
        LEFT JOIN llmstack.messages m ON m.thread_id = t.id ORDER BY m.thread_id, m.seq"""
    for name, content in await fetched(stack, rows):
        said_in.setdefault(name, []).append(content)
    for name, found in said_in.items():
        assert found == [f"thread{name[1:]} turn{number}" for number in range(TURNS)]
    assert await broken_threads(stack) == []
    return set(said_in)


async def found_in(stack: LLMStack, query: str) -> set[str]:
    hits = await stack.conversations.messages.search(owner_id="acme", query=query, mode="text", limit=20)
    return {hit.id_at_origin for hit in hits}


async def repeated(stack: LLMStack) -> list[AppendResult]:
    # The pool may still hold a connection to the server that died.
    try:
        return await appended(stack, inputs())
    except DatabaseUnavailable:
        return await appended(stack, inputs())


async def run_until_killed(stack: LLMStack, server: EmbeddedServer, *, after: int) -> set[str]:
    """The names that were told to be stored before the server died."""
    seen: list[AppendResult] = []

    async def run() -> None:
        async for result in stack.conversations.append_many(inputs()):
            assert result.error is None
            seen.append(result)
            if len(seen) == after:
                kill(server)

    with pytest.raises(DatabaseUnavailable):
        await run()
    assert len(seen) >= after
    return {str(result.id_at_origin) for result in seen}


# The rows go in one statement below two hundred messages, else by COPY.
@pytest.mark.parametrize("batch", [100, 300])
async def test_after_a_kill_every_thread_is_whole_or_absent_and_the_run_can_be_repeated(
    server: EmbeddedServer, words: Words, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(loading, "BATCH_MESSAGES", batch)
    async with LLMStack.open(server.url, embedder=words.embedder()) as stack:
        survivors: set[str] = set()
        for moment in (45, 100):
            survivors |= await run_until_killed(stack, server, after=moment)
            async for again in restarted(server, words):
                found = await whole_threads(again)
                assert survivors <= found
                # A batch is one transaction.
                assert len(found) % (batch // TURNS) == 0
        async for again in restarted(server, words):
            before = await whole_threads(again)
            results = await repeated(again)
            assert {result.error for result in results} == {None}
            assert {result.id_at_origin for result in results if not result.appended} == before
            assert len(await whole_threads(again)) == THREADS
            await again.conversations.settle()
            assert await found_in(again, '"thread77 turn3"') == {"t77"}


@pytest.mark.parametrize("batch", [100, 300])
async def test_a_kill_while_messages_are_written_leaves_nothing_of_their_batch(
    server: EmbeddedServer, words: Words, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(loading, "BATCH_MESSAGES", batch)
    async with LLMStack.open(server.url, embedder=words.embedder()) as stack:
        await execute(stack, *(line.format(content="thread130 turn3") for line in SLEEPS_AT))
        writing = asyncio.create_task(appended(stack, inputs()))
        await asleep(stack)
        kill(server)
        with pytest.raises(DatabaseUnavailable):
            await writing
        async for again in restarted(server, words):
            assert await whole_threads(again) == {f"t{number}" for number in range(120)}
            await execute(again, "DROP TRIGGER sleep ON llmstack.messages")
            # The stack that lost its server goes on with the new one.
            results = await repeated(stack)
            assert [result.appended for result in results] == [0] * 120 + [TURNS] * (THREADS - 120)
            assert len(await whole_threads(again)) == THREADS


async def test_a_kill_during_one_large_append_leaves_nothing_of_it(server: EmbeddedServer) -> None:
    messages = [turn("", number) for number in range(LONG)]
    async with LLMStack.open(server.url, embedder="none") as stack:
        await append(stack, "t", "first", "second")
        await execute(stack, *(line.format(content=f"thread turn{LONG - 10}") for line in SLEEPS_AT))
        writing = asyncio.create_task(append(stack, "t", *messages))
        await asleep(stack)
        kill(server)
        with pytest.raises(DatabaseUnavailable):
            await writing
        async for again in restarted(server):
            assert await contents(again, "t") == ["first", "second"]
            assert await fetched(again, "SELECT count(*) FROM llmstack.messages") == [(2,)]
            assert await broken_threads(again) == []
            await execute(again, "DROP TRIGGER sleep ON llmstack.messages")
            assert (await append(again, "t", *messages)).appended == LONG
            assert (await append(again, "t", *messages)).appended == 0
            found = await history(again, "t")
            assert [message.seq for message in found] == list(range(1, LONG + 3))
            assert [message.content for message in found[2:]] == [message.content for message in messages]
            assert await broken_threads(again) == []


async def test_a_kill_while_a_summary_is_written_leaves_the_former_one(server: EmbeddedServer) -> None:
    async with LLMStack.open(server.url, embedder="none") as stack:
        await append(stack, "t", "first", "second")
        former = await stack.conversations.summarise(owner_id="acme", thread="t")
        await append(stack, "t", "third", "fourth")
        await execute(
            stack,
            *(
                line.format(content="new").replace("llmstack.messages", "llmstack.thread_summaries")
                for line in SLEEPS_AT
            ),
        )

        async def new(request: SummaryRequest) -> str:
            return "new"

        writing = asyncio.create_task(stack.conversations.summarise(owner_id="acme", thread="t", summariser=new))
        await asleep(stack)
        kill(server)
        with pytest.raises(DatabaseUnavailable):
            await writing
        async for again in restarted(server):
            (kept,) = await again.conversations.versions(owner_id="acme", thread="t")
            assert former is not None
            assert (kept.id, kept.is_current, kept.last_seq) == (former.id, True, 2)
            await execute(again, "DROP TRIGGER sleep ON llmstack.thread_summaries")
            made = await again.conversations.summarise(owner_id="acme", thread="t", summariser=new)
            assert made is not None
            assert (made.content, made.first_seq, made.last_seq) == ("new", 1, 4)
            versions = await again.conversations.versions(owner_id="acme", thread="t")
            assert [one.is_current for one in versions] == [True, False]
