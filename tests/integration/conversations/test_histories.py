from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from conversation_support import NOON, append, contents, history, said, turns

from llmstack import LLMStack
from llmstack.conversations import MessageInput, ThreadNotFound
from llmstack.conversations.history import MESSAGE_TOKENS
from llmstack.errors import ValidationError


def words(text: str) -> int:
    return len(text.split())


def called(*ids: str) -> MessageInput:
    parts = [{"type": "function", "id": one, "function": {"name": "find", "arguments": ""}} for one in ids]
    return said("assistant", "calling", parts=parts)


def answered(call: str, content: str = "found") -> MessageInput:
    return said("tool", content, tool_call_id=call)


def texts(messages: Sequence[Any]) -> list[str]:
    return [message.content for message in messages]


async def test_a_history_is_cut_by_number_place_moment_and_role(stack: LLMStack) -> None:
    hour = dt.timedelta(hours=1)
    given = [said(("user", "assistant")[n % 2], f"m{n}", created_at=NOON + n * hour) for n in range(1, 7)]
    await append(stack, "t", *given)
    assert await contents(stack, "t") == ["m1", "m2", "m3", "m4", "m5", "m6"]
    assert await contents(stack, "t", last=2) == ["m5", "m6"]
    assert await contents(stack, "t", before=4) == ["m1", "m2", "m3"]
    assert await contents(stack, "t", after=4) == ["m5", "m6"]
    assert await contents(stack, "t", after=1, before=5, last=2) == ["m3", "m4"]
    assert await contents(stack, "t", since=NOON + 5 * hour) == ["m5", "m6"]
    assert await contents(stack, "t", roles="assistant") == ["m1", "m3", "m5"]
    assert await contents(stack, "t", roles=["user", "tool"], last=1) == ["m6"]
    assert await contents(stack, "t", after=6) == []


async def test_a_budget_is_spent_from_the_end(stack: LLMStack) -> None:
    await append(stack, "t", *(said(content=" ".join(["w"] * 6)) for _ in range(5)))
    cost = 6 + MESSAGE_TOKENS
    for budget, number in ((0, 0), (cost - 1, 0), (cost, 1), (3 * cost + 1, 3), (100 * cost, 5)):
        assert len(await history(stack, "t", tokens=budget, counter=words)) == number


async def test_a_budget_reads_on_until_it_is_spent(stack: LLMStack) -> None:
    await append(stack, "t", *(said(content=f"m{number}") for number in range(450)))
    found = texts(await history(stack, "t", tokens=430 * (1 + MESSAGE_TOKENS), counter=words))
    assert found == [f"m{number}" for number in range(20, 450)]
    limited = texts(await history(stack, "t", tokens=10**6, last=300, counter=words))
    assert limited == [f"m{number}" for number in range(150, 450)]


async def test_a_budget_never_cuts_between_a_call_and_its_result(stack: LLMStack) -> None:
    given = [said(content="ask"), called("a", "b"), answered("a"), answered("b"), said("assistant", "so")]
    await append(stack, "t", *given)
    whole = await history(stack, "t")
    for budget in range(120):
        found = texts(await history(stack, "t", tokens=budget, counter=words))
        assert found in ([], ["so"], ["calling", "found", "found", "so"], texts(whole)), budget
    assert texts(await history(stack, "t", last=2)) == ["found", "so"], "a number is a number"


async def test_a_result_behind_other_messages_goes_with_its_call(stack: LLMStack) -> None:
    await append(stack, "t", called("a"), said(content="meanwhile"), answered("a"), said("assistant", "end"))
    for budget in range(80):
        found = texts(await history(stack, "t", tokens=budget, counter=words))
        assert found in ([], ["end"], ["calling", "meanwhile", "found", "end"]), budget


async def test_a_result_whose_call_was_never_made_is_no_reason_to_cut(stack: LLMStack) -> None:
    await append(stack, "t", said(content="ask"), answered("gone"), said("assistant", "end"))
    assert texts(await history(stack, "t", tokens=2 * (1 + MESSAGE_TOKENS), counter=words)) == ["found", "end"]


async def test_roles_choose_among_calls_and_results(stack: LLMStack) -> None:
    await append(stack, "t", said(content="ask"), called("a"), answered("a"), said("assistant", "so"))
    for roles, expected in (
        ("tool", ["found"]),
        (["tool", "user"], ["ask", "found"]),
        ("assistant", ["calling", "so"]),
    ):
        assert texts(await history(stack, "t", roles=roles, tokens=1_000, counter=words)) == expected


async def test_parts_count_as_their_json(stack: LLMStack) -> None:
    await append(stack, "t", said(content="a", parts=[{"type": "text", "text": "one two three"}]))
    assert await history(stack, "t", tokens=10, counter=words) == []
    assert len(await history(stack, "t", tokens=11, counter=words)) == 1


async def test_tokens_are_counted_as_cl100k_does_unless_a_counter_is_given(stack: LLMStack) -> None:
    await append(stack, "t", said(content="hello world"), said("assistant", "hello world"))
    assert len(await history(stack, "t", tokens=2 + MESSAGE_TOKENS)) == 1
    assert len(await history(stack, "t", tokens=1 + MESSAGE_TOKENS)) == 0


async def test_a_history_is_what_chat_apis_take(stack: LLMStack) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q":  1}'}}
    given = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Find it"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        {"role": "assistant", "content": "Here."},
    ]
    await append(stack, "t", *given)
    found = await stack.conversations.history(owner_id="acme", thread="t")
    assert found.as_messages("openai") == given
    assert found.as_messages("anthropic") == {
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "Find it"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "find", "input": {"q": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "found"}]},
            {"role": "assistant", "content": "Here."},
        ],
    }
    assert [message.type for message in found.as_messages("langchain")] == ["system", "human", "ai", "tool", "ai"]


async def test_absent_deleted_and_strange_threads_have_no_history(stack: LLMStack) -> None:
    made = await append(stack, "t", "one")
    await append(stack, "gone", "two")
    await stack.conversations.delete(owner_id="acme", thread="gone")
    assert made.thread_id is not None
    names: list[uuid.UUID | str] = ["never", "gone", uuid.uuid4()]
    for owner, name in [*(("acme", name) for name in names), ("other", "t"), ("other", made.thread_id)]:
        with pytest.raises(ThreadNotFound):
            await history(stack, name, owner_id=owner)
        with pytest.raises(ThreadNotFound):
            await stack.conversations.get(owner_id=owner, thread=name)
        assert await stack.conversations.find(owner_id=owner, thread=name) is None


async def test_threads_are_listed_by_recency_with_their_last_message(stack: LLMStack) -> None:
    for number, name in enumerate("abc"):
        moment = NOON + dt.timedelta(hours=number)
        await append(stack, name, said(content=f"first of {name}", created_at=moment), title=name.upper())
    await append(stack, "a", said("assistant", "x" * 500, created_at=NOON + dt.timedelta(days=1)))
    page = await stack.conversations.list_threads(owner_id="acme")
    assert (page.total, page.cursor) == (3, None)
    assert [one.thread.id_at_origin for one in page.items] == ["a", "c", "b"]
    assert [(one.last_role, one.last_content) for one in page.items] == [
        ("assistant", "x" * 200), ("user", "first of c"), ("user", "first of b"),
    ]  # fmt: skip
    assert [(one.thread.title, one.thread.message_count) for one in page.items] == [("A", 2), ("C", 1), ("B", 1)]


async def test_a_list_is_filtered(stack: LLMStack) -> None:
    for number in range(6):
        await append(
            stack, f"t{number}", said(created_at=NOON + dt.timedelta(days=number)),
            user_id=("ann", "bob")[number % 2], agent_id=("x", "y", "z")[number % 3], session_id=str(number // 3),
            metadata={"number": number},
        )  # fmt: skip

    async def names(**filters: Any) -> list[str]:
        page = await stack.conversations.list_threads(owner_id="acme", **filters)
        assert page.total == len(page.items)
        return [one.thread.id_at_origin for one in page.items]

    assert await names(user_id="ann") == ["t4", "t2", "t0"]
    assert await names(agent_id="y") == ["t4", "t1"]
    assert await names(session_id="1", user_id="bob") == ["t5", "t3"]
    assert await names(metadata={"number": {"$gte": 4}}) == ["t5", "t4"]
    assert await names(since=NOON + dt.timedelta(days=5)) == ["t5"]
    assert await names(user_id="nobody") == []
    assert await names(deleted=True) == []


async def test_pages_do_not_shift_and_know_the_total_past_the_last(stack: LLMStack) -> None:
    for number in range(7):
        await append(stack, f"t{number}", said(created_at=NOON + dt.timedelta(hours=number // 2)))
    seen: list[str] = []
    cursor = None
    while True:
        page = await stack.conversations.list_threads(owner_id="acme", limit=3, cursor=cursor)
        seen += [one.thread.id_at_origin for one in page.items]
        # What comes meanwhile is in front of it.
        await append(stack, f"new{len(seen)}", said(created_at=NOON + dt.timedelta(days=1)))
        if (cursor := page.cursor) is None:
            break
    assert sorted(seen) == [f"t{number}" for number in range(7)]
    last = (await stack.conversations.list_threads(owner_id="acme", limit=1000)).items[-1].thread
    from llmstack.conversations.queries import RECENCY

    behind = await stack.conversations.list_threads(
        owner_id="acme", cursor=RECENCY.cursor(last.last_message_at, last.id)
    )
    assert (behind.items, behind.total, behind.cursor) == ([], 10, None)


@pytest.mark.parametrize(
    "given",
    [
        {"last": 0}, {"last": -1}, {"last": 10**9}, {"tokens": -1}, {"tokens": 1.5}, {"before": -1}, {"after": "x"},
        {"roles": "poet"}, {"since": NOON.replace(tzinfo=None)}, {"thread": ""}, {"thread": 7}, {"owner_id": ""},
    ],
    ids=str,
)  # fmt: skip
async def test_a_history_says_which_argument_is_wrong(stack: LLMStack, given: dict[str, Any]) -> None:
    (field,) = given
    with pytest.raises(ValidationError) as caught:
        await stack.conversations.history(**{"owner_id": "acme", "thread": "t", **given})
    assert caught.value.field == field


async def test_a_context_is_the_summary_and_what_fits_beside_it(stack: LLMStack) -> None:
    await append(stack, "t", *turns(*(f"message {number}" for number in range(20))))
    whole = await stack.conversations.context(owner_id="acme", thread="t", tokens=10_000)
    assert (len(whole.messages), whole.summary, whole.left_out) == (20, None, 0)

    async def brief(request: Any) -> str:
        return "They counted."

    await stack.conversations.summarise(owner_id="acme", thread="t", summariser=brief)
    await append(stack, "t", *turns(*(f"later {number}" for number in range(10))))
    for tokens in range(0, 240, 7):
        context = await stack.conversations.context(owner_id="acme", thread="t", tokens=tokens, counter=words)
        assert context.tokens <= tokens
        assert texts(context.messages) == (await contents(stack, "t"))[30 - len(context.messages) :]
        if context.summary is not None:
            assert context.as_messages("openai")[0]["content"].endswith("They counted.")
        covered = 20 if context.summary is not None else 0
        assert context.left_out == max(0, 30 - len(context.messages) - covered)
    assert context.summary is None, "all of it fits"
    assert context.left_out == 0


async def test_statistics_count_what_is_living(stack: LLMStack) -> None:
    await append(stack, "a", said(tokens_input=3), said("assistant", tokens_output=5, provider="p", model="m"))
    await append(stack, "b", said(), said("tool", "x", tool_call_id="c"))
    await append(stack, "gone", "one")
    await append(stack, "theirs", "one", owner_id="other")
    await stack.conversations.pop(owner_id="acme", thread="b")
    await stack.conversations.delete(owner_id="acme", thread="gone")
    await stack.conversations.summarise(owner_id="acme", thread="a")
    await stack.conversations.settle()
    found = await stack.conversations.statistics(owner_id="acme")
    assert (found.threads, found.messages, found.summaries, found.tokens_input, found.tokens_output) == (2, 3, 1, 3, 5)
    assert (found.by_role, found.by_model, found.embedded) == ({"user": 2, "assistant": 1}, {"m": 1}, {"words": 3})
