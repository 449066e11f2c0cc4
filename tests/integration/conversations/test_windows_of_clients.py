from __future__ import annotations

import pytest
from conversation_support import append, broken_threads, contents, history, said, turns

from llmstack import LLMStack
from llmstack.conversations import AppendResult, HistoryEdited
from llmstack.errors import ValidationError


async def sent(stack: LLMStack, *texts: str, thread: str = "t", **more: object) -> AppendResult:
    return await stack.conversations.append_window(
        owner_id="acme",
        thread=thread,
        messages=turns(*texts),
        **more,  # type: ignore[arg-type]
    )


async def test_a_client_that_sends_its_last_messages_each_turn_doubles_nothing(stack: LLMStack) -> None:
    conversation = [f"m{number}" for number in range(25)]
    for end in range(1, len(conversation) + 1, 2):
        start = max(0, end - 10)
        # Roles go by the place, so a window begins with a user's message.
        start -= start % 2
        done = await sent(stack, *conversation[start:end])
        assert done.appended == min(2, end)
    assert await contents(stack, "t") == conversation
    assert await broken_threads(stack) == []


async def test_what_was_sent_already_comes_back_with_its_place(stack: LLMStack) -> None:
    first = await sent(stack, "a", "b")
    again = await sent(stack, "a", "b", "c")
    assert first.is_new
    assert not again.is_new
    assert [(message.seq, message.is_new) for message in again.messages] == [(1, False), (2, False), (3, True)]
    assert again.messages[:2] == tuple(type(one)(one.id, one.seq, is_new=False) for one in first.messages)


async def test_the_same_window_again_is_nothing_new(stack: LLMStack) -> None:
    await sent(stack, "a", "b", "c")
    assert (await sent(stack, "a", "b", "c")).appended == 0
    assert await contents(stack, "t") == ["a", "b", "c"]


async def test_messages_that_repeat_by_right_survive(stack: LLMStack) -> None:
    await sent(stack, "ask", "answer", "thanks", "welcome")
    await sent(stack, "ask", "answer", "thanks", "welcome", "thanks", "welcome", "thanks")
    assert await contents(stack, "t") == ["ask", "answer", "thanks", "welcome", "thanks", "welcome", "thanks"]


async def test_a_window_without_anything_known_is_new(stack: LLMStack) -> None:
    await sent(stack, "a", "b")
    await sent(stack, "c", "d")
    assert await contents(stack, "t") == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("window", "seq"),
    [
        (("a", "b", "C", "d", "e"), 2),
        (("A", "b", "c", "d", "e"), 0),
        (("a", "B"), 1),
        (("a",), 1),
        (("a", "b", "c", "D", "e"), 3),
        (("c", "D", "e"), 3),
    ],
    ids=lambda value: "".join(value) if isinstance(value, tuple) else str(value),
)
async def test_an_edited_history_is_a_conflict(stack: LLMStack, window: tuple[str, ...], seq: int) -> None:
    await sent(stack, "a", "b", "c", "d")
    if window == ("c", "D", "e"):
        # One message alone is no evidence: it may be a repeat.
        assert (await sent(stack, *window)).appended == 3
        return
    with pytest.raises(HistoryEdited) as caught:
        await sent(stack, *window)
    assert caught.value.seq == seq
    assert await contents(stack, "t") == ["a", "b", "c", "d"]


async def test_an_edited_history_becomes_a_branch_where_it_is_asked_for(stack: LLMStack) -> None:
    await sent(stack, "a", "b", "c", "d", user_id="ann")
    done = await sent(stack, "a", "b", "C", "d", on_edit="branch")
    assert done.thread_id is not None
    source = await stack.conversations.get(owner_id="acme", thread="t")
    branch = await stack.conversations.get(owner_id="acme", thread=done.thread_id)
    assert (done.is_new, done.branch_of) == (True, source.id)
    assert [(message.seq, message.is_new) for message in done.messages] == [
        (1, False),
        (2, False),
        (3, True),
        (4, True),
    ]
    assert branch.metadata_ == {"forked_from": {"thread_id": str(source.id), "seq": 2}}
    assert branch.user_id == "ann"
    assert await contents(stack, branch.id) == ["a", "b", "C", "d"]
    assert await contents(stack, "t") == ["a", "b", "c", "d"]
    # From there on it is a thread as others.
    again = await sent(stack, "a", "b", "C", "d", "e", thread=str(branch.id_at_origin))
    assert again.appended == 1
    await stack.conversations.settle()
    assert await broken_threads(stack) == []


async def test_a_branch_may_leave_at_the_very_beginning(stack: LLMStack) -> None:
    await sent(stack, "a", "b", "c", "d")
    done = await sent(stack, "A", "b", "c", on_edit="branch")
    assert done.thread_id is not None
    assert await contents(stack, done.thread_id) == ["A", "b", "c"]


async def test_tool_calls_tell_messages_without_a_text_apart(stack: LLMStack) -> None:
    calls = [
        said("assistant", "", parts=[{"type": "tool_use", "id": one, "name": "find", "input": {}}]) for one in "xyz"
    ]
    window = stack.conversations.append_window
    await window(owner_id="acme", thread="t", messages=calls[:2])
    done = await window(owner_id="acme", thread="t", messages=[calls[1], calls[2]])
    assert done.appended == 1
    assert [message.parts[0]["id"] for message in await history(stack, "t") if message.parts] == ["x", "y", "z"]


async def test_client_keys_count_in_a_window_too(stack: LLMStack) -> None:
    window = stack.conversations.append_window
    await append(stack, "t", said(content="a", client_key="1"), said("assistant", "b", client_key="2"))
    given = [said("assistant", "b", client_key="2"), said(content="c", client_key="3")]
    for appended in (1, 0):
        assert (await window(owner_id="acme", thread="t", messages=given)).appended == appended
    assert await contents(stack, "t") == ["a", "b", "c"]


async def test_popped_messages_are_no_part_of_what_a_client_sees(stack: LLMStack) -> None:
    await sent(stack, "a", "bad")
    await stack.conversations.pop(owner_id="acme", thread="t")
    await sent(stack, "a", "good")
    assert await contents(stack, "t") == ["a", "good"]


async def test_what_happens_on_an_edit_is_named_rightly(stack: LLMStack) -> None:
    with pytest.raises(ValidationError, match='use "conflict" or "branch"'):
        await sent(stack, "a", on_edit="merge")
