from __future__ import annotations

import asyncio
import datetime as dt
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from conversation_support import NOON, append, broken_threads, contents, fetched, history, said
from document_support import MakeStack

from llmstack import LLMStack
from llmstack.conversations import ImportResult, ThreadFilter, ThreadNotFound, ThreadSummary, loading
from llmstack.errors import ValidationError

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": [{"type": "text", "text": "Is it cold? ü\u2028"}, IMAGE], "name": "ann"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "-3", "tool_call_id": "call_1"},
    {"role": "assistant", "content": "Yes, three below."},
]


async def exported(stack: LLMStack, owner_id: str = "acme", **more: Any) -> list[str]:
    return [line async for line in stack.conversations.export(owner_id=owner_id, **more)]


async def imported(stack: LLMStack, lines: Any, owner_id: str = "other", **more: Any) -> list[ImportResult]:
    return [result async for result in stack.conversations.import_(owner_id=owner_id, lines=lines, **more)]


async def refused(stack: LLMStack, *records: Any, **more: Any) -> dict[int, str]:
    """Import records, or lines as they are; line numbers with what is said against them."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    return {one.line: one.error for one in await imported(stack, lines, **more) if one.error is not None}


def thread_line(name: str = "t", **more: Any) -> dict[str, Any]:
    return {"kind": "thread", "id_at_origin": name, **more}


def message_line(content: str = "a few words", **more: Any) -> dict[str, Any]:
    return {"kind": "message", "role": "user", "content": content, **more}


async def furnish(stack: LLMStack) -> None:
    """A thread with all that there is, one that was edited, an empty one, and one that is deleted."""
    about = {"user_id": "ann", "agent_id": "clerk", "session_id": "s", "title": "Oslo", "metadata": {"team": [1, None]}}
    first = said("user", "Hello", created_at=NOON, client_key="k", important=True, metadata={"trace": "x"})
    answer = said("assistant", "Yes", model="gpt-5", provider="openai", tokens_input=7, tokens_output=2, agent_id="a")
    made = await append(stack, "t", first, *CHAT, answer, language="german", **about)
    versions = [("It began.", 1, 3, False, 1), ("It is cold.", 1, 7, True, 2)]
    async with stack.service.session() as session, session.begin():
        session.add_all(
            ThreadSummary(
                owner_id="acme", thread_id=made.thread_id, content=content, first_seq=first_seq, last_seq=last_seq,
                token_count=3, model="gpt-5", is_current=current, created_at=NOON + dt.timedelta(hours=hours),
            )
            for content, first_seq, last_seq, current, hours in versions
        )  # fmt: skip
    await append(stack, "edited", "one", "two")
    await stack.conversations.pop(owner_id="acme", thread="edited")
    await append(stack, "edited", "three")
    await append(stack, "empty")
    await append(stack, "gone", "one")
    await stack.conversations.delete(owner_id="acme", thread="gone")


async def test_an_export_of_the_import_is_the_export(stack: LLMStack) -> None:
    await furnish(stack)
    lines = await exported(stack)
    results = await imported(stack, lines)
    assert [(one.id_at_origin, one.is_new, one.messages, one.summaries, one.error) for one in results] == [
        ("edited", True, 2, 0, None), ("empty", True, 0, 0, None), ("t", True, 7, 2, None),
    ]  # fmt: skip
    assert await exported(stack, "other") == lines
    assert [json.loads(line)["kind"] for line in lines].count("summary") == 2
    assert [json.loads(line)["seq"] for line in lines[1:3]] == [1, 3]
    assert "".join(lines).splitlines() == ["".join(lines)]
    assert await broken_threads(stack) == []


async def test_what_was_imported_is_found(stack: LLMStack) -> None:
    await furnish(stack)
    await imported(stack, await exported(stack))
    await stack.conversations.settle()
    found = await stack.conversations.messages.search(owner_id="other", query="three below")
    assert found[0].content == "Yes, three below."
    summaries = await stack.conversations.summaries.search(owner_id="other", query="cold")
    assert [(one.content, one.first_seq, one.seq) for one in summaries] == [("It is cold.", 1, 7)]


async def test_a_repeat_doubles_nothing_and_neither_does_an_import_into_the_source(stack: LLMStack) -> None:
    await furnish(stack)
    lines = await exported(stack)
    for owner in ("other", "other", "acme"):
        results = await imported(stack, lines, owner)
    assert [(one.is_new, one.messages, one.known, one.summaries) for one in results] == [
        (False, 0, 2, 0), (False, 0, 0, 0), (False, 0, 7, 0),
    ]  # fmt: skip
    assert await exported(stack, "other") == await exported(stack) == lines


async def test_a_thread_that_went_on_meanwhile_keeps_what_it_has(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two")
    lines = await exported(stack)
    await append(stack, "t", "three")
    assert [one.known for one in await imported(stack, lines, "acme")] == [2]
    assert await contents(stack, "t") == ["one", "two", "three"]


async def test_a_thread_with_another_history_is_refused_from_there_on(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two", "three", "four")
    await append(stack, "u", "fine")
    lines = await exported(stack)
    await append(stack, "t", "one", "another", owner_id="other")
    bad, good = await imported(stack, lines)
    assert (bad.line, bad.id_at_origin, good.messages) == (3, "t", 1)
    assert bad.error is not None
    assert bad.error.startswith("message 2 of the thread that is there is another one")
    assert await contents(stack, "t", owner_id="other") == ["one", "another"]


async def test_a_deleted_thread_is_not_brought_back(stack: LLMStack) -> None:
    await append(stack, "t", "one")
    lines = await exported(stack)
    await stack.conversations.delete(owner_id="acme", thread="t")
    (result,) = await imported(stack, lines, "acme")
    assert "was deleted; restore it" in str(result.error)


async def test_a_line_that_was_mended_is_filled_in_where_it_belongs(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two", "three")
    lines = await exported(stack)
    broken = [*lines[:2], lines[2][:-1], *lines[3:]]
    first, *_ = await imported(stack, broken)
    assert (first.line, str(first.error)[:24]) == (3, "line: it is not JSON: Ex")
    assert await contents(stack, "t", owner_id="other") == ["one", "three"]
    (mended,) = await imported(stack, lines)
    assert (mended.messages, mended.known) == (1, 2)
    assert await exported(stack, "other") == lines
    assert [message.context for message in await history(stack, "t", owner_id="other")][1] == "one"


async def test_threads_are_chosen_by_name_or_by_filter(stack: LLMStack) -> None:
    for name, user in (("a", "ann"), ("b", "bob"), ("c", "ann")):
        await append(stack, name, "one", user_id=user)
    b = await stack.conversations.get(owner_id="acme", thread="b")

    async def names(**wanted: Any) -> list[str]:
        records = map(json.loads, await exported(stack, **wanted))
        return [record["id_at_origin"] for record in records if record["kind"] == "thread"]

    assert await names() == ["a", "b", "c"]
    assert await names(threads=["c", b.id]) == ["b", "c"]
    assert await names(where=ThreadFilter(user_id="ann")) == ["a", "c"]
    assert await names(threads=["a", "b"], where=ThreadFilter(user_id="bob")) == ["b"]
    assert await names(threads=[]) == []
    with pytest.raises(ThreadNotFound, match="'nowhere'"):
        await names(threads=["a", "nowhere"])
    with pytest.raises(ThreadNotFound):
        await exported(stack, "other", threads=["a"])
    with pytest.raises(ValidationError, match="known are jsonl, openai"):
        await exported(stack, format="xml")


async def test_more_threads_than_a_page_come_each_once(stack: LLMStack) -> None:
    lines = [json.dumps(one) for n in range(250) for one in (thread_line(f"t{n:03}"), message_line(f"text {n}"))]
    await imported(stack, lines, "acme")
    kept = [json.loads(line) for line in await exported(stack)]
    assert [one["id_at_origin"] for one in kept[::2]] == [f"t{n:03}" for n in range(250)]
    assert [one["content"] for one in kept[1::2]] == [f"text {n}" for n in range(250)]


async def test_a_thread_is_exported_as_it_was_at_one_moment(stack: LLMStack) -> None:
    await append(stack, "t", *(f"text {n}" for n in range(450)))
    lines = stack.conversations.export(owner_id="acme")
    begun = [await anext(lines), await anext(lines)]
    await stack.conversations.clear(owner_id="acme", thread="t")
    assert len([*begun, *[line async for line in lines]]) == 451


async def test_a_reader_may_take_its_time(make_stack: MakeStack) -> None:
    stack = make_stack(idle_in_transaction_session_timeout=0.2)
    await append(stack, "t", *(f"text {n}" for n in range(450)))
    number = 0
    async for _ in stack.conversations.export(owner_id="acme"):
        if not number:
            await asyncio.sleep(0.5)
        number += 1
    assert number == 451


async def test_lines_that_cannot_be_read_are_told_and_stop_nothing(stack: LLMStack) -> None:
    large = "x" * 10_000_000
    told = await refused(
        stack,
        message_line("too early"),
        thread_line("t"),
        message_line("one"),
        "",
        message_line("naive", created_at="2026-03-01T12:00:00"),
        message_line("a day", created_at="2026-03-01"),
        message_line(large),
        message_line(7),  # type: ignore[arg-type]
        message_line("x", role="bot"),
        message_line("x", colour="red"),
        message_line("x", tokens_input="7"),
        message_line("x", seq=3),
        message_line("x", metadata={"a": "\0"}),
        {"kind": "message", "content": "x"},
        message_line("last", created_at="2026-03-01T12:00:00Z"),
        {"kind": "summary", "content": "x", "first_seq": 3, "last_seq": 2},
        thread_line(""),
        message_line("passed over"),
        thread_line("u", colour="red"),
        {"kind": "thread"},
        {"kind": "poem"},
        [1, 2],
        thread_line("v", created_at="yesterday"),
        thread_line("w"),
        "[" * 100_000,
        message_line("whose?"),
        message_line("of another", thread="x"),
        message_line("mine", thread="w"),
    )
    beginnings = {
        1: "thread: no line of a thread stands before it",
        5: "created_at: '2026-03-01T12:00:00' is no ISO 8601 moment with an offset",
        6: "created_at: '2026-03-01' is no ISO 8601",
        7: "content: it is larger than 4000000 bytes",
        8: "content: it must be a text, not int",
        9: "role: 'bot' is unknown",
        10: "colour: no message has this key",
        11: "tokens_input: it must be a number",
        12: "seq: 3 is no whole number above 8",
        13: "metadata: it contains a NUL",
        14: "role: it is missing",
        16: "last_seq: it must be from 3",
        17: "thread: it is empty",
        19: "colour: no thread has this key",
        20: "id_at_origin: it is missing",
        21: "kind: 'poem' is unknown; use one of thread, message, summary",
        22: "kind: it is missing",
        23: "created_at: 'yesterday' is no ISO 8601",
        25: "line: it is JSON that cannot be read",
        26: "thread: line 25 cannot be read, and may have begun its thread",
        27: "thread: the line of 'x' does not stand before it",
    }
    assert {line: error[: len(beginnings.get(line, ""))] for line, error in told.items()} == beginnings
    assert await contents(stack, "t", owner_id="other") == ["one", "last"]
    assert await contents(stack, "w", owner_id="other") == ["mine"]
    assert await fetched(stack, "SELECT count(*) FROM llmstack.threads") == [(2,)]
    assert [one.created_at for one in await history(stack, "t", owner_id="other")][1] == NOON


async def test_characters_that_cannot_be_stored_are_removed(stack: LLMStack) -> None:
    lines = [json.dumps(thread_line()), r'{"kind": "message", "role": "user", "content": "a\u0000b\ud800c"}']
    assert [one.cleaned for one in await imported(stack, lines)] == [True]
    assert [one.known for one in await imported(stack, lines)] == [1]
    assert await contents(stack, "t", owner_id="other") == ["abc"]


async def test_the_chat_format_comes_back(stack: LLMStack) -> None:
    await append(stack, "t", *CHAT, title="Oslo", metadata={"tools": [{"type": "function"}], "team": 1})
    await append(stack, "empty")
    (line,) = await exported(stack, format="openai")
    chat = json.loads(line)
    assert (chat["messages"], chat["tools"]) == (CHAT, [{"type": "function"}])
    assert (chat["metadata"]["id_at_origin"], chat["metadata"]["title"]) == ("t", "Oslo")
    for number in (5, 0):
        assert [one.messages for one in await imported(stack, [line], format="openai")] == [number]
    assert await exported(stack, "other", format="openai") == [line]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("shape", [lambda chat: {"messages": chat}, lambda chat: chat], ids=["objects", "lists"])
async def test_an_array_of_chats_is_read_whatever_its_lines(stack: LLMStack, shape: Any, indent: int | None) -> None:
    chats = [CHAT, [{"role": "user", "content": '"[{\\"'}], [{"role": "bot"}], [{"role": "user", "content": "last"}]]
    lines = ["\ufeff", *json.dumps([shape(chat) for chat in chats], indent=indent).splitlines(keepends=True)]
    results = await imported(stack, lines, format="openai")
    assert [one.messages for one in results] == [5, 1, 0, 1]
    assert "messages[0].role: 'bot' is unknown" in str(results[2].error)
    assert [one.line for one in results] == sorted(one.line for one in results)
    again = await imported(stack, lines, format="openai")
    assert [(one.messages, one.known) for one in again] == [(0, 5), (0, 1), (0, 0), (0, 1)]


async def test_an_array_of_messages_is_one_chat(stack: LLMStack) -> None:
    (result,) = await imported(stack, json.dumps(CHAT, indent=1).splitlines(), format="openai")
    assert (result.messages, str(result.id_at_origin)[:7]) == (5, "import:")
    lines = [json.dumps(CHAT[:1]), json.dumps({"messages": CHAT[:2]}), json.dumps(CHAT)]
    assert [(one.line, one.messages, one.known) for one in await imported(stack, lines, format="openai")] == [
        (1, 1, 0), (2, 2, 0), (3, 0, 5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['[{"messages": []},'], [(1, "messages: there are none"), (1, "line: the array that it is a part of does")]),
        (["[]", "[] oops"], [(2, "line: something follows the end")]),
        (['[{"messages": [{"role": "user", "content": "a"}]},', "oops]"], [(2, "line: it is not JSON")]),
        (["{}", "17"], [(1, "messages: there are none"), (2, "messages: there are none")]),
        ([json.dumps({"messages": CHAT, "metadata": 7})], [(1, "metadata: it must be an object")]),
        ([json.dumps({"messages": [{**CHAT[0], "created_at": "noon"}]})], [(1, "messages[0].created_at: 'noon'")]),
    ],
)
async def test_chats_that_cannot_be_read_are_told(
    stack: LLMStack, lines: list[str], told: list[tuple[int, str]]
) -> None:
    found = [one for one in await imported(stack, lines, format="openai") if one.error is not None]
    assert [one.line for one in found] == [line for line, _ in told]
    for one, (_, beginning) in zip(found, told, strict=True):
        assert str(one.error).startswith(beginning)


async def test_an_import_that_was_stopped_is_finished_by_its_repeat(
    stack: LLMStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmstack.conversations.transfer.importing.BATCH_MESSAGES", 40)
    await append(stack, "t", *(f"text {n}" for n in range(150)))
    lines = await exported(stack)
    results = stack.conversations.import_(owner_id="other", lines=lines)
    taken = [await anext(results), await anext(results)]
    await results.aclose()  # type: ignore[attr-defined]
    assert sum(one.messages for one in taken) == 79
    written = asyncio.Event()
    task = asyncio.create_task(imported(stack, _until(written, lines[:121])))
    async with asyncio.timeout(10):
        await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    finished = await imported(stack, lines)
    assert (sum(one.known for one in finished), sum(one.messages for one in finished)) == (119, 31)
    assert await exported(stack, "other") == lines
    assert await broken_threads(stack) == []


async def _until(reached: asyncio.Event, lines: Iterable[str]) -> AsyncIterator[str]:
    """The lines, and then none for ever."""
    for line in lines:
        yield line
    reached.set()
    await asyncio.Event().wait()


async def test_a_thread_that_is_refused_midway_is_not_gone_on_with(
    stack: LLMStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmstack.conversations.transfer.importing.BATCH_MESSAGES", 20)
    await append(stack, "t", *(f"text {n}" for n in range(60)))
    await append(stack, "u", "one")
    lines = await exported(stack)
    await append(stack, "t", "another", owner_id="other")
    bad, good = await imported(stack, lines)
    assert (bad.line, good.id_at_origin, good.messages) == (2, "u", 1)
    assert await contents(stack, "t", owner_id="other") == ["another"]


async def test_memory_does_not_grow_with_the_number_of_messages(
    make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = make_stack(embedder="none")
    monkeypatch.setattr(loading, "BATCH_MESSAGES", 2_000)

    def source(name: str, count: int) -> Iterator[str]:
        yield json.dumps(thread_line(name))
        for number in range(count):
            yield json.dumps(message_line(f"number {number} "))

    async def peak(work: Any) -> int:
        gc.collect()
        tracemalloc.reset_peak()
        base = tracemalloc.get_traced_memory()[0]
        async for _ in work:
            pass
        return tracemalloc.get_traced_memory()[1] - base

    service = stack.conversations
    for work in (service.import_(owner_id="acme", lines=source("first", 4_000)), service.export(owner_id="acme")):
        async for _ in work:
            pass
    tracemalloc.start()
    try:
        written = [await peak(service.import_(owner_id="acme", lines=source(f"t{n}", n))) for n in (4_000, 16_000)]
        read = [await peak(service.export(owner_id="acme", threads=[f"t{n}"])) for n in (4_000, 16_000)]
    finally:
        tracemalloc.stop()
    # The larger thread would take 30 MB.
    assert written[1] < written[0] + 3_000_000
    assert read[1] < read[0] + 1_000_000
    assert await fetched(stack, "SELECT message_count FROM llmstack.threads ORDER BY 1") == [
        (4_000,),
        (4_000,),
        (16_000,),
    ]
