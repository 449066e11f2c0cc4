from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conversation_support import append, changed, fetched, said, turns
from document_support import MakeStack

from llmstack import LLMStack
from llmstack.conversations import HistoryChanged, SummaryError, SummaryRequest, ThreadNotFound
from llmstack.errors import ValidationError


class Recorder:
    """A summariser that remembers what it was asked."""

    model = "recorder-1"

    def __init__(self, *answers: Any) -> None:
        self.requests: list[SummaryRequest] = []
        self.answers = list(answers)

    async def __call__(self, request: SummaryRequest) -> Any:
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else f"summary {len(self.requests)}"
        return await answer() if callable(answer) else answer


async def summarise(stack: LLMStack, summariser: Any = None, **more: Any) -> Any:
    given = {} if summariser is None else {"summariser": summariser}
    return await stack.conversations.summarise(**{"owner_id": "acme", "thread": "t", **given, **more})


async def test_a_summary_goes_on_from_the_last_one(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two", title="Counting")
    recorder = Recorder()
    first = await summarise(stack, recorder)
    await append(stack, "t", "three", "four")
    second = await summarise(stack, recorder)
    assert [(request.previous, request.transcript) for request in recorder.requests] == [
        (None, "user: one\n\nassistant: two"), ("summary 1", "user: three\n\nassistant: four"),
    ]  # fmt: skip
    assert (first.first_seq, first.last_seq, first.model, first.context) == (1, 2, "recorder-1", "Counting")
    assert (second.first_seq, second.last_seq, second.content, second.token_count) == (1, 4, "summary 2", 3)
    versions = await stack.conversations.versions(owner_id="acme", thread="t")
    assert [(one.content, one.is_current) for one in versions] == [("summary 2", True), ("summary 1", False)]


async def test_without_anything_new_the_summary_stands(stack: LLMStack) -> None:
    await append(stack, "t")
    assert await summarise(stack) is None
    await append(stack, "t", "one", "two")
    recorder = Recorder()
    first = await summarise(stack, recorder)
    assert (await summarise(stack, recorder)).id == first.id
    assert len(recorder.requests) == 1
    with pytest.raises(ThreadNotFound):
        await summarise(stack, owner_id="other")


async def test_a_long_thread_is_summarised_part_by_part(make_stack: MakeStack) -> None:
    stack = make_stack(summary_input_tokens=100)
    await append(stack, "t", *turns(*(" ".join([f"w{number}"] * 10) for number in range(20))))
    recorder = Recorder()
    summary = await summarise(stack, recorder)
    assert len(recorder.requests) > 3
    assert [request.previous for request in recorder.requests][:3] == [None, "summary 1", "summary 2"]
    seqs = [message.seq for request in recorder.requests for message in request.messages]
    assert seqs == list(range(1, 21))
    assert (summary.first_seq, summary.last_seq, summary.content) == (1, 20, f"summary {len(recorder.requests)}")


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (RuntimeError("no"), SummaryError, "made no summary: RuntimeError: no"),
        (asyncio.sleep, SummaryError, "no answer within 0.2 s"),
        ("  ", SummaryError, "it is empty"),
        (7, ValidationError, "must return a text, not int"),
    ],
    ids=["raises", "hangs", "empty", "number"],
)
async def test_a_summariser_that_fails_writes_nothing(
    make_stack: MakeStack, answer: Any, error: type[Exception], message: str
) -> None:
    stack = make_stack(summary_timeout=0.2)
    await append(stack, "t", "one", "two")

    async def given() -> Any:
        if answer is asyncio.sleep:
            await asyncio.sleep(60)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(error, match=message):
        await summarise(stack, Recorder(given))
    assert await fetched(stack, "SELECT count(*) FROM llmstack.thread_summaries") == [(0,)]
    assert (await summarise(stack)).is_current


async def test_the_summariser_holds_no_connection_and_no_lock(make_stack: MakeStack) -> None:
    stack = make_stack()
    await append(stack, "t", "one", "two")
    await stack.conversations.settle()

    async def meanwhile() -> str:
        held = "state LIKE 'idle in%' AND pid <> pg_backend_pid()"
        idle = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {held}"
        assert await fetched(stack, idle) == [(0,)]
        await append(stack, "t", "three")
        return "of two"

    summary = await summarise(stack, Recorder(meanwhile))
    assert summary.last_seq == 2


async def test_only_the_first_of_two_summaries_of_the_same_is_written(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two")
    both = asyncio.Barrier(2)

    async def wait(text: str) -> str:
        await both.wait()
        return text

    first, second = await asyncio.gather(
        summarise(stack, Recorder(lambda: wait("a"))), summarise(stack, Recorder(lambda: wait("b")))
    )
    assert first.id == second.id
    assert await fetched(stack, "SELECT count(*) FROM llmstack.thread_summaries") == [(1,)]


async def test_a_summary_of_messages_that_went_meanwhile_is_not_written(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two")

    async def popped() -> str:
        await stack.conversations.pop(owner_id="acme", thread="t")
        return "of what is gone"

    async def deleted() -> str:
        await stack.conversations.delete(owner_id="acme", thread="t")
        return "of nothing"

    for meanwhile in (popped, deleted):
        with pytest.raises(HistoryChanged, match="lost messages meanwhile"):
            await summarise(stack, Recorder(meanwhile))
    assert await fetched(stack, "SELECT count(*) FROM llmstack.thread_summaries") == [(0,)]


async def test_without_a_model_it_is_what_was_first_and_last_said(stack: LLMStack) -> None:
    await append(stack, "t", "Can I end the lease early?", "Yes.", "How?", "By a letter to " + "the landlord " * 60)
    summary = await summarise(stack)
    first, last, answer = summary.content.split("\n")
    assert (first, last) == ("Can I end the lease early?", "How?")
    assert answer.startswith("By a letter to the landlord")
    assert len(summary.content) <= 500
    assert summary.model is None
    await append(stack, "u", said("tool", "only a result", tool_call_id="x"))
    assert (await summarise(stack, thread="u")).content == "only a result"


async def test_what_is_due_is_told_by_importance_and_age(make_stack: MakeStack) -> None:
    stack = make_stack(summary_least_messages=2)
    due = stack.conversations.due_summaries
    await append(stack, "short", "one")
    await append(stack, "plain", *(f"m{number}" for number in range(4)))
    await append(stack, "weighty", *(f"m{number}" for number in range(60)))
    for message in await stack.conversations.history(owner_id="acme", thread="weighty", last=10):
        await stack.conversations.important(owner_id="acme", message_id=message.id)
    await append(stack, "theirs", *(f"m{number}" for number in range(4)), owner_id="other")
    found = await due(owner_id="acme")
    names = {(await stack.conversations.get(owner_id="acme", thread=one.thread_id)).id_at_origin for one in found}
    assert names == {"plain", "weighty"}
    # .3 for ten that were kept, .2 for fifty messages, .2 for the last of this hour.
    assert found[0].importance == pytest.approx(0.7, abs=0.01)
    assert [one.importance for one in found] == sorted((one.importance for one in found), reverse=True)
    assert found[1].importance == pytest.approx(0.2 * 4 / 50 + 0.2, abs=0.01)
    assert {one.owner_id for one in await due()} == {"acme", "other"}

    for one in await due():
        await stack.conversations.summarise(owner_id=one.owner_id, thread=one.thread_id)
    assert await due() == []
    await append(stack, "plain", "more")
    await append(stack, "weighty", "more")

    async def aged(minutes: int) -> list[str]:
        await changed(stack, f"UPDATE llmstack.thread_summaries SET updated_at = now() - interval '{minutes} minutes'")
        return [
            (await stack.conversations.get(owner_id="acme", thread=one.thread_id)).id_at_origin
            for one in await due(owner_id="acme")
        ]

    assert await aged(29) == []
    assert await aged(31) == ["weighty"]
    assert await aged(61) == ["weighty", "plain"]


async def test_a_summary_has_its_vector(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two", title="Title")
    await summarise(stack, Recorder("of otters"))
    await stack.conversations.settle()
    assert await fetched(stack, "SELECT count(*) FROM llmstack.summary_embeddings") == [(1,)]
    assert await fetched(stack, "SELECT count(*) FROM llmstack.summary_embedding_jobs") == [(0,)]
