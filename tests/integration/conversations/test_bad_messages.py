from __future__ import annotations

from typing import Any

import pytest
from conversation_support import NOON, append, appended, contents, fetched, said, thread, turns
from document_support import MakeStack

from llmstack import LLMStack
from llmstack.conversations import MessageInput, ThreadInput
from llmstack.errors import ValidationError

NAIVE = NOON.replace(tzinfo=None)
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
DEEP: dict[str, Any] = {}
for _ in range(300):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"role": "poet"}, "role", "use one of system, user, assistant, tool, developer"),
        ({"role": None}, "role", "is unknown"),
        ({"content": ""}, "content", "a message has content or parts"),
        ({"content": " \n"}, "content", "a message has content or parts"),
        ({"content": "\x00\ud800"}, "content", "a message has content or parts"),
        ({"content": "", "parts": []}, "content", "a message has content or parts"),
        ({"content": b"bytes"}, "content", "it must be a text, not bytes"),
        ({"content": "x" * 10_000_000}, "content", "larger than 4000000 bytes (max_message_bytes)"),
        ({"parts": "text"}, "parts", "it must be a list, not str"),
        ({"parts": ["text"]}, "parts", "each part must be an object"),
        ({"parts": [{"type": "x", "value": object()}]}, "parts", "it is not JSON"),
        ({"parts": [{"type": "x", "value": float("nan")}]}, "parts", "it is not JSON"),
        ({"parts": [{"type": "x", "value": ENDLESS}]}, "parts", "nested without end"),
        ({"parts": [DEEP]}, "parts", "more than 200 levels"),
        ({"parts": [{"type": "image", "data": "x" * 5_000_000}]}, "parts", "keep images and files by reference"),
        ({"name": ""}, "name", "it is empty"),
        ({"user_id": "x" * 513}, "user_id", "longer than 512 bytes"),
        ({"tool_call_id": 7}, "tool_call_id", "it must be a text, not int"),
        ({"client_key": "k" * 1501}, "client_key", "longer than 1500 bytes"),
        ({"client_key": "a\x00"}, "client_key", "NUL"),
        ({"tokens_input": -1}, "tokens_input", "from 0 to"),
        ({"tokens_output": 2**31}, "tokens_output", "from 0 to"),
        ({"tokens_output": 1.5}, "tokens_output", "from 0 to"),
        ({"tokens_input": True}, "tokens_input", "from 0 to"),
        ({"important": "yes"}, "important", "true or false"),
        ({"metadata": []}, "metadata", "it must be a mapping"),
        ({"metadata": {"a": object()}}, "metadata", "it is not JSON"),
        ({"created_at": NAIVE}, "created_at", "with a time zone"),
        ({"created_at": 1_700_000_000}, "created_at", "with a time zone"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_a_message_says_what_is_wrong_and_nothing_is_written(
    stack: LLMStack, given: dict[str, Any], field: str, message: str
) -> None:
    wrong = MessageInput(**{"role": "user", "content": "words", **given})
    with pytest.raises(ValidationError) as caught:
        await append(stack, "t", said(content="good"), wrong)
    assert caught.value.field == f"messages[1].{field}"
    assert message in caught.value.message
    assert await fetched(stack, "SELECT count(*) FROM llmstack.threads") == [(0,)]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"owner_id": ""}, "owner_id"),
        ({"owner_id": None}, "owner_id"),
        ({"owner_id": "x" * 513}, "owner_id"),
        ({"thread": ""}, "thread"),
        ({"thread": 7}, "thread"),
        ({"thread": "x" * 1501}, "thread"),
        ({"thread": "a\x00"}, "thread"),
        ({"title": ""}, "title"),
        ({"title": "x" * 4001}, "title"),
        ({"user_id": ""}, "user_id"),
        ({"agent_id": 7}, "agent_id"),
        ({"session_id": "\ud800"}, "session_id"),
        ({"language": 7}, "language"),
        ({"metadata": "text"}, "metadata"),
        ({"messages": "text"}, "messages"),
        ({"messages": {"role": "user"}}, "messages[0].message"),
        ({"messages": ["text"]}, "messages[0].message"),
        ({"messages": [{"role": "user", "content": "x", "colour": "red"}]}, "messages[0].colour"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_a_thread_says_what_is_wrong(stack: LLMStack, given: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        await stack.conversations.append(**{"owner_id": "acme", "thread": "t", "messages": turns("one"), **given})
    assert caught.value.field == field
    assert await fetched(stack, "SELECT count(*) FROM llmstack.threads") == [(0,)]


async def test_a_key_for_two_messages_of_one_call_is_refused(stack: LLMStack) -> None:
    with pytest.raises(ValidationError, match=r"messages\[1\].client_key: 'k' stands for two messages"):
        await append(stack, "t", said(content="one", client_key="k"), said(content="two", client_key="k"))


async def test_no_messages_make_a_thread_without_any(stack: LLMStack) -> None:
    done = await append(stack, "t")
    assert (done.is_new, done.messages) == (True, ())
    page = await stack.conversations.list_threads(owner_id="acme")
    assert [(one.thread.message_count, one.last_content) for one in page.items] == [(0, None)]
    await append(stack, "t", said(created_at=NOON))
    assert (await stack.conversations.get(owner_id="acme", thread="t")).last_message_at == NOON


async def test_many_thousand_messages_in_one_call_are_one_transaction(make_stack: MakeStack) -> None:
    stack = make_stack(embedder="none")
    given = [MessageInput(role="user", content=f"number {number}") for number in range(25_000)]
    done = await stack.conversations.append(owner_id="acme", thread="t", messages=given)
    assert done.appended == 25_000
    assert [message.seq for message in done.messages] == list(range(1, 25_001))
    counted = "SELECT count(*), count(DISTINCT xmin::text), max(seq) FROM llmstack.messages"
    assert await fetched(stack, counted) == [(25_000, 1, 25_000)]
    last = await stack.conversations.history(owner_id="acme", thread="t", last=2)
    assert [(message.content, message.context) for message in last] == [
        ("number 24998", "number 24997"), ("number 24999", "number 24998"),
    ]  # fmt: skip


async def test_append_many_keeps_the_bad_from_the_good(stack: LLMStack) -> None:
    await append(stack, "gone", "one")
    await stack.conversations.delete(owner_id="acme", thread="gone")
    await append(stack, "keyed", said(content="one", client_key="k"))
    done = await appended(
        stack,
        [
            thread("a", "one", "two"),
            thread("b", ""),
            thread("gone", "three"),
            ThreadInput(owner_id="acme", thread="keyed", messages=[said(content="other", client_key="k")]),
            ThreadInput(owner_id="", thread="c", messages=turns("x")),
            thread("a", "three"),
        ],
    )
    assert [one.appended for one in done] == [2, 0, 0, 0, 0, 1]
    assert [one.error and one.error.partition(":")[0] for one in done] == [
        None, "messages[0].content", "thread 'gone' was deleted; restore it, or purge it to begin anew",
        "client_key 'k' was given to another message of this thread", "owner_id", None,
    ]  # fmt: skip
    assert [one.is_new for one in done] == [True, False, False, False, False, False]
    assert await contents(stack, "a") == ["one", "two", "three"]
    assert await contents(stack, "keyed") == ["one"]


async def test_results_of_many_batches_come_in_the_order_of_the_inputs(stack: LLMStack) -> None:
    done = await appended(stack, [thread(f"t{number}", *["text"] * 3) for number in range(1_500)])
    assert sum(one.appended for one in done) == 4_500
    assert [one.id_at_origin for one in done] == [f"t{number}" for number in range(1_500)]
    assert {one.error for one in done} == {None}
