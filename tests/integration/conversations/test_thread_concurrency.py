"""Many writers of the same threads at once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conversation_support import append, appended, blocked, broken_threads, contents, fetched, history, said, turns
from conversation_support import thread as of_thread

from llmstack import LLMStack
from llmstack.conversations import (
    ConversationRepository,
    HistoryEdited,
    ThreadDeleted,
    ThreadInput,
    ThreadNotFound,
    loading,
)
from llmstack.conversations.records import ThreadRef

WRITERS = 50


@contextlib.asynccontextmanager
async def transaction(stack: LLMStack) -> AsyncIterator[ConversationRepository]:
    """A repository in a transaction that goes on until the block ends."""
    async with stack.service.session() as session:
        yield ConversationRepository(session)
        await session.commit()


async def check_order(stack: LLMStack, name: ThreadRef, number: int) -> None:
    """Messages from 1 without a gap, each with the end of the one before it."""
    found = await history(stack, name)
    assert [message.seq for message in found] == list(range(1, number + 1))
    assert [message.context for message in found] == ["", *(message.content for message in found[:-1])]
    assert len({message.content for message in found}) == number
    assert await broken_threads(stack) == []


@pytest.mark.parametrize("is_there", [False, True])
async def test_fifty_writers_of_one_thread_leave_no_gap_and_no_double(stack: LLMStack, is_there: bool) -> None:
    if is_there:
        await append(stack, "t", "first", "second")
    results = await asyncio.gather(
        *(append(stack, "t", f"question {number}", f"answer {number}") for number in range(WRITERS))
    )
    assert sum(result.is_new for result in results) == (not is_there)
    assert len({result.thread_id for result in results}) == 1
    await check_order(stack, "t", 2 * WRITERS + 2 * is_there)
    # What one call gave stands together.
    found = await contents(stack, "t")
    pairs = zip(found[::2], found[1::2], strict=True)
    assert all(answer == question.replace("question", "answer") for question, answer in pairs if question != "first")
    for result in results:
        first, second = result.messages
        assert second.seq == first.seq + 1


async def test_writers_by_name_and_by_id_are_in_one_order(stack: LLMStack) -> None:
    made = await append(stack, "t", "first")
    assert made.thread_id is not None
    await asyncio.gather(
        *(append(stack, "t" if number % 2 else made.thread_id, f"turn {number}") for number in range(WRITERS))
    )
    await check_order(stack, "t", WRITERS + 1)


async def test_large_and_small_appends_are_in_one_order(stack: LLMStack) -> None:
    sizes = [1, 250, 3, 400, 1, 2, 250, 5]
    given = [[f"turn {writer} {number}" for number in range(size)] for writer, size in enumerate(sizes)]
    await asyncio.gather(*(append(stack, "t", *contents) for contents in given))
    await check_order(stack, "t", sum(sizes))


async def test_writers_of_other_threads_do_not_wait(stack: LLMStack) -> None:
    await append(stack, "held", "first")
    await append(stack, "other", "first")
    async with transaction(stack) as holding:
        await holding.append(owner_id="acme", thread="held", messages=turns("second"))
        await holding.append(owner_id="acme", thread="made", messages=turns("first"))
        waiting = [asyncio.create_task(append(stack, name, "later")) for name in ("held", "made")]
        await blocked(stack, 2)
        async with asyncio.timeout(30):
            await asyncio.gather(
                append(stack, "other", "second"),
                append(stack, "new", "first"),
                append(stack, "held", "another owner's", owner_id="other"),
                stack.conversations.pop(owner_id="acme", thread="other"),
                stack.conversations.append_window(owner_id="acme", thread="window", messages=turns("one")),
                appended(stack, [of_thread("many 1", "one"), of_thread("many 2", "one"), of_thread("other", "one")]),
            )
            # Whoever reads never waits.
            assert await contents(stack, "held") == ["first"]
        assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)
    assert await contents(stack, "held") == ["first", "second", "later"]
    assert await contents(stack, "made") == ["first", "later"]
    assert await broken_threads(stack) == []


async def test_a_message_that_twenty_clients_send_is_stored_once(stack: LLMStack) -> None:
    given = said(content="once", client_key="k")
    for name in ("new", "there"):
        if name == "there":
            await append(stack, name, "first")
        results = await asyncio.gather(*(append(stack, name, given, said(content="x" * (n + 1))) for n in range(20)))
        assert sum(result.messages[0].is_new for result in results) == 1
        assert len({result.messages[0].id for result in results}) == 1
        assert (await contents(stack, name)).count("once") == 1
    assert await broken_threads(stack) == []


async def test_a_retry_of_many_threads_at_once_stores_each_message_once(stack: LLMStack) -> None:
    inputs = [
        ThreadInput(owner_id="acme", thread=f"t{number}", messages=[said(content=f"turn {n}", client_key=f"{n}")] * 2)
        for number in range(15)
        for n in range(3)
    ]
    runs = await asyncio.gather(*(appended(stack, inputs) for _ in range(6)))
    assert {result.error for run in runs for result in run} == {None}
    assert sum(result.appended for run in runs for result in run) == 45
    for number in range(15):
        await check_order(stack, f"t{number}", 3)


@pytest.mark.parametrize("batch", [10, 2_000])
async def test_many_threads_in_any_order_end_without_an_error(
    stack: LLMStack, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BATCH_MESSAGES", batch)
    await appended(stack, [of_thread(f"t{number}", f"first {number}") for number in range(0, 30, 2)])
    orders = random.Random(7)

    async def write(writer: int) -> None:
        inputs = [of_thread(f"t{number}", f"turn {writer} of {number}") for number in range(30)]
        if writer < 2:
            inputs = inputs[:: 1 - 2 * writer]
        else:
            orders.shuffle(inputs)
        results = await appended(stack, inputs)
        assert [result.id_at_origin for result in results] == [given.thread for given in inputs]
        assert {result.error for result in results} == {None}

    await asyncio.gather(*(write(writer) for writer in range(6)))
    for number in range(30):
        await check_order(stack, f"t{number}", 6 + (number % 2 == 0))


async def test_many_threads_by_name_and_by_id_in_any_order_end_without_an_error(stack: LLMStack) -> None:
    made = await appended(stack, [of_thread(f"t{number}", "first") for number in range(20)])
    ids = [result.thread_id for result in made]
    orders = random.Random(11)

    async def write(writer: int) -> None:
        refs: list[Any] = [f"t{n}" if (n + writer) % 2 else key for n, key in enumerate(ids)]
        inputs = [ThreadInput(owner_id="acme", thread=ref, messages=turns(f"turn {writer}")) for ref in refs]
        orders.shuffle(inputs)
        assert {result.error for result in await appended(stack, inputs)} == {None}

    await asyncio.gather(*(write(writer) for writer in range(8)))
    for number in range(20):
        await check_order(stack, f"t{number}", 9)


async def test_a_thread_by_its_name_and_by_its_id_in_one_call_is_one_thread(stack: LLMStack) -> None:
    made = await append(stack, "t", "one")
    inputs = [
        ThreadInput(owner_id="acme", thread=ref, messages=turns(content))
        for ref, content in (("t", "two"), (made.thread_id, "three"), ("t", "four"))
    ]
    results = await appended(stack, inputs)
    assert [(result.error, result.appended) for result in results] == [(None, 1)] * 3
    assert await contents(stack, "t") == ["one", "two", "three", "four"]
    await check_order(stack, "t", 4)


async def test_a_tool_call_and_its_answer_may_come_in_one_call(stack: LLMStack) -> None:
    call = {"type": "tool_use", "id": "c1", "name": "find", "input": {}}
    messages = [said("assistant", "", parts=[call])], [said("tool", "found", tool_call_id="c1")]
    inputs = [ThreadInput(owner_id="acme", thread="t", messages=given) for given in messages]
    assert [result.without_call for result in await appended(stack, inputs)] == [(), ()]
    await append(stack, "u", "first")
    inputs = [ThreadInput(owner_id="acme", thread="u", messages=given) for given in messages]
    assert [result.without_call for result in await appended(stack, inputs)] == [(), ()]


async def test_one_window_sent_at_once_is_stored_once(stack: LLMStack) -> None:
    window = turns("question", "answer", "thanks", "welcome", "thanks")

    async def send(*messages: Any) -> Any:
        return await stack.conversations.append_window(owner_id="acme", thread="t", messages=list(messages))

    results = await asyncio.gather(*(send(*window) for _ in range(20)))
    assert sum(result.is_new for result in results) == 1
    assert await contents(stack, "t") == [message.content for message in window]
    longer = [*window[2:], said("assistant", "bye")]
    results = await asyncio.gather(*(send(*longer) for _ in range(20)))
    assert sum(result.appended for result in results) == 1
    assert {message.id for result in results for message in result.messages[-1:]} == {
        (await history(stack, "t"))[-1].id
    }
    assert (await contents(stack, "t"))[5:] == ["bye"]
    assert await broken_threads(stack) == []


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("first", ["pop", "clear"])
async def test_whoever_waited_for_a_removal_goes_on_from_what_is_left(stack: LLMStack, first: str, by_id: bool) -> None:
    made = await append(stack, "t", "one", "two", "three")
    assert made.thread_id is not None
    async with transaction(stack) as holding:
        await getattr(holding, first)(owner_id="acme", thread="t")
        waiting = asyncio.create_task(append(stack, made.thread_id if by_id else "t", "later"))
        await blocked(stack)
    await waiting
    last = (await history(stack, "t"))[-1]
    assert (last.content, last.seq, last.context) == ("later", 4, "two" if first == "pop" else "")
    assert await broken_threads(stack) == []


async def test_whoever_waited_for_a_thread_to_be_restored_goes_on_from_its_last_turn(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two")
    await stack.conversations.delete(owner_id="acme", thread="t")
    async with transaction(stack) as holding:
        await holding.restore(owner_id="acme", thread="t")
        waiting = asyncio.create_task(append(stack, "t", "three"))
        await blocked(stack)
    await waiting
    await check_order(stack, "t", 3)


async def test_whoever_waited_for_an_append_goes_on_from_its_last_turn(stack: LLMStack) -> None:
    await append(stack, "t", "one")
    async with transaction(stack) as holding:
        await holding.pop(owner_id="acme", thread="t")
        await holding.append(owner_id="acme", thread="t", messages=turns("two"))
        waiting = asyncio.create_task(append(stack, "t", "three"))
        await blocked(stack)
    await waiting
    found = await history(stack, "t")
    assert [(message.content, message.seq, message.context) for message in found] == [
        ("two", 2, ""), ("three", 3, "two"),
    ]  # fmt: skip


async def test_whoever_waited_for_a_deletion_is_told_so(stack: LLMStack) -> None:
    made = await append(stack, "t", "one")
    async with transaction(stack) as holding:
        await holding.delete(owner_id="acme", thread="t")
        by_name = asyncio.create_task(append(stack, "t", "two"))
        by_id = asyncio.create_task(append(stack, made.thread_id, "two"))
        popping = asyncio.create_task(stack.conversations.pop(owner_id="acme", thread="t"))
        forking = asyncio.create_task(stack.conversations.fork(owner_id="acme", thread="t"))
        await blocked(stack, 4)
    for task, error in ((by_name, ThreadDeleted), (by_id, ThreadNotFound), (popping, ThreadNotFound)):
        with pytest.raises(error):
            await task
    with pytest.raises(ThreadNotFound):
        await forking
    await stack.conversations.restore(owner_id="acme", thread="t")
    assert await contents(stack, "t") == ["one"]
    assert await broken_threads(stack) == []


async def test_whoever_waited_for_a_purge_makes_the_thread_anew(stack: LLMStack) -> None:
    made = await append(stack, "t", "one")
    await stack.conversations.delete(owner_id="acme", thread="t")
    async with transaction(stack) as holding:
        await holding.purge(owner_id="acme")
        by_name = asyncio.create_task(append(stack, "t", "two"))
        by_id = asyncio.create_task(append(stack, made.thread_id, "two"))
        await blocked(stack, 2)
    assert (await by_name).is_new
    with pytest.raises(ThreadNotFound):
        await by_id
    await check_order(stack, "t", 1)


async def test_a_thread_that_another_one_made_and_gave_up_is_made(stack: LLMStack) -> None:
    async with stack.service.session() as session:
        await ConversationRepository(session).append(owner_id="acme", thread="t", messages=turns("given up"))
        waiting = asyncio.create_task(append(stack, "t", "kept"))
        await blocked(stack)
        await session.rollback()
    assert (await waiting).is_new
    assert await contents(stack, "t") == ["kept"]


async def test_two_threads_that_two_hosts_write_in_opposite_orders_are_written(stack: LLMStack) -> None:
    """A deadlock between units of work of several appends is run again."""
    await append(stack, "a", "first")
    await append(stack, "b", "first")
    both = asyncio.Barrier(2)
    tries = 0

    async def write(*names: str) -> None:
        async def work(session: Any) -> None:
            nonlocal tries
            tries += 1
            repository = ConversationRepository(session)
            await repository.append(owner_id="acme", thread=names[0], messages=turns(f"from {names[0]}"))
            if tries <= 2:
                await both.wait()
            await repository.append(owner_id="acme", thread=names[1], messages=turns(f"from {names[0]}"))

        await stack.service.transaction(work)

    await asyncio.gather(write("a", "b"), write("b", "a"))
    assert tries == 3
    await check_order(stack, "a", 3)
    await check_order(stack, "b", 3)


async def test_what_was_popped_before_a_deletion_in_the_same_transaction_stays_popped(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two", "three")
    async with transaction(stack) as working:
        await working.pop(owner_id="acme", thread="t")
        await working.delete(owner_id="acme", thread="t")
    await stack.conversations.restore(owner_id="acme", thread="t")
    assert await contents(stack, "t") == ["one", "two"]
    assert await broken_threads(stack) == []


class Storm:
    """Verbs at random on a few threads; errors are those that somebody else's deletion explains."""

    def __init__(self, stack: LLMStack, seed: int) -> None:
        self.conversations = stack.conversations
        self.random = random.Random(seed)
        self.stack = stack

    def name(self) -> str:
        return f"t{self.random.randrange(3)}"

    async def step(self) -> None:
        name, number = self.name(), self.random.randrange(1000)
        match self.random.choice(("append", "append", "append", "many", "window", *VERBS)):
            case "append":
                keyed = said(content=f"keyed {number % 9}", client_key=f"{number % 9}")
                await append(self.stack, name, keyed, *turns(f"turn {number}", "yes"))
            case "many":
                names = self.random.sample(range(3), 3)
                results = await appended(self.stack, [of_thread(f"t{n}", f"turn {number}", "yes") for n in names])
                assert all(result.error is None or "was deleted" in result.error for result in results)
            case "window":
                await self.window(name)
            case "purge":
                await self.conversations.purge(owner_id="acme")
            case verb:
                await getattr(self.conversations, verb)(owner_id="acme", thread=name)

    async def window(self, name: str) -> None:
        said_so_far = await history(self.stack, name, last=4)
        window = [said(message.role, message.content) for message in said_so_far]
        with contextlib.suppress(HistoryEdited):
            await self.conversations.append_window(
                owner_id="acme",
                thread=name,
                messages=[*window, said(content="more")],
            )

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            with contextlib.suppress(ThreadDeleted, ThreadNotFound):
                await self.step()


VERBS = ("pop", "clear", "fork", "delete", "restore", "restore", "purge")


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_happens_at_once_threads_stay_whole(stack: LLMStack, seed: int) -> None:
    for number in range(3):
        await append(stack, f"t{number}", "one", "two")
    await asyncio.gather(*(Storm(stack, 100 * seed + writer).run(25) for writer in range(8)))
    assert await broken_threads(stack) == []
    await stack.conversations.settle()
    assert await broken_threads(stack) == []
    # Whatever is left can be written, and its vectors are there.
    for number in range(3):
        await stack.conversations.restore(owner_id="acme", thread=f"t{number}")
        await append(stack, f"t{number}", "last")
    await stack.conversations.settle()
    owed = """
        SELECT m.content FROM llmstack.message_embedding_jobs j JOIN llmstack.messages m ON m.id = j.row_id
        WHERE m.search_vector IS NOT NULL"""
    assert await fetched(stack, owed) == []
    assert await broken_threads(stack) == []


async def test_forks_of_a_thread_that_grows_are_beginnings_of_it(stack: LLMStack) -> None:
    await append(stack, "t", "turn 0")

    async def grow() -> None:
        for number in range(1, 40):
            await append(stack, "t", f"turn {number}")

    async def fork() -> list[uuid.UUID]:
        return [(await stack.conversations.fork(owner_id="acme", thread="t")).id for _ in range(10)]

    _, *forks = await asyncio.gather(grow(), fork(), fork())
    for made in [key for keys in forks for key in keys]:
        found = await contents(stack, made)
        await check_order(stack, made, len(found))
        assert found == [f"turn {number}" for number in range(len(found))]
