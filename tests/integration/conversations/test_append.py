from __future__ import annotations

import datetime as dt
import json
import uuid
from typing import Any

import pytest
from conversation_support import NOON, append, broken_threads, contents, fetched, history, said, turns
from document_support import MakeStack, Words
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from llmstack import LLMStack
from llmstack.conversations import (
    ClientKeyReused,
    ConversationRepository,
    Message,
    Thread,
    ThreadDeleted,
    ThreadNotFound,
)
from llmstack.errors import NotFound


async def test_messages_follow_one_another_from_one(stack: LLMStack) -> None:
    first = await append(stack, "t", "When does the lease end?", "In March.")
    second = await append(stack, "t", said(content="Thanks"))
    assert (first.is_new, second.is_new) == (True, False)
    assert [message.seq for message in (*first.messages, *second.messages)] == [1, 2, 3]
    assert await contents(stack, "t") == ["When does the lease end?", "In March.", "Thanks"]
    assert await broken_threads(stack) == []


async def test_a_thread_is_named_by_its_id_or_by_its_origin(stack: LLMStack) -> None:
    made = await append(stack, "t", "one")
    assert made.thread_id is not None
    assert (await append(stack, made.thread_id, "two")).thread_id == made.thread_id
    assert await contents(stack, made.thread_id) == await contents(stack, "t") == ["one", "two"]


async def test_a_thread_without_a_name_is_named_by_an_id_of_its_own(stack: LLMStack) -> None:
    one, other = [await append(stack, None, "one") for _ in range(2)]
    assert one.thread_id != other.thread_id
    assert one.id_at_origin is not None
    assert await contents(stack, one.id_at_origin) == ["one"]


async def test_an_id_that_is_not_there_is_not_made(stack: LLMStack) -> None:
    unknown = uuid.uuid4()
    with pytest.raises(ThreadNotFound, match=str(unknown)):
        await append(stack, unknown, "one")
    assert await fetched(stack, "SELECT count(*) FROM llmstack.threads") == [(0,)]


async def test_what_is_said_of_a_thread_counts_for_one_that_is_made(stack: LLMStack) -> None:
    about = {"user_id": "ann", "agent_id": "clerk", "session_id": "s", "title": "Lease", "metadata": {"team": 1}}
    await append(stack, "t", "one", language="german", **about)
    await append(stack, "t", "two", user_id="bob", title="Other", metadata={"team": 2})
    thread = await stack.conversations.get(owner_id="acme", thread="t")
    assert (thread.user_id, thread.agent_id, thread.session_id, thread.title, thread.metadata_, thread.language) == (
        "ann", "clerk", "s", "Lease", {"team": 1}, "german",
    )  # fmt: skip


async def test_every_part_of_a_message_comes_back(stack: LLMStack) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "https://example.org/ä.png"}}, {"type": "x", "deep": [[1.5]]}]
    given = said(
        "assistant", "Here.", parts=parts, name="clerk", user_id="ann", agent_id="a", provider="openai",
        model="gpt-5", tokens_input=7, tokens_output=3, important=True, client_key="k", metadata={"trace": "1"},
        created_at=NOON,
    )  # fmt: skip
    await append(stack, "t", given, said("tool", "42", tool_call_id="call-1", name="sum"))
    message, answer = await history(stack, "t")
    for name in (
        "role", "content", "name", "user_id", "agent_id", "provider", "model", "tokens_input", "tokens_output",
        "important", "client_key", "created_at",
    ):  # fmt: skip
        assert getattr(message, name) == getattr(given, name), name
    assert (message.parts, message.metadata_) == (parts, {"trace": "1"})
    assert (answer.tool_call_id, answer.name, answer.parts) == ("call-1", "sum", None)


async def test_messages_of_chat_apis_are_taken_as_they_are(stack: LLMStack) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}
    await append(
        stack, "t",
        {"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "text", "text": "this"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "client_key": "k"},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
    )  # fmt: skip
    asked, calling, answer = await history(stack, "t")
    assert asked.content == "See\nthis"
    assert (calling.content, calling.parts, calling.client_key) == ("", [call], "k")
    assert (answer.role, answer.tool_call_id, answer.content) == ("tool", "c1", "found")


async def test_the_context_is_the_end_of_the_turn_before(stack: LLMStack) -> None:
    long = " ".join(f"word{number}" for number in range(500))
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    await append(stack, "t", said(content="First"), said("assistant", long))
    await append(stack, "t", said(content="Third"), said("assistant", "", parts=[call]))
    await append(stack, "t", said("tool", "Fifth", tool_call_id="c1"))
    contexts = [message.context for message in await history(stack, "t")]
    assert (contexts[0], contexts[1]) == ("", "First")
    assert long.endswith(contexts[2])
    assert 900 < len(contexts[2]) <= 1_000
    # A call has no words; whoever comes after it goes on from what was said before.
    assert contexts[3:] == ["Third", "Third"]


async def test_a_message_of_a_client_key_is_stored_once(stack: LLMStack) -> None:
    first = await append(stack, "t", said(content="one", client_key="k1"))
    again = await append(stack, "t", said(content="one", client_key="k1"), said(content="two", client_key="k2"))
    assert [message.is_new for message in again.messages] == [False, True]
    assert again.messages[0] == type(again.messages[0])(first.messages[0].id, 1, is_new=False)
    assert again.appended == 1
    assert await contents(stack, "t") == ["one", "two"]
    # Other threads have keys of their own.
    assert (await append(stack, "u", said(content="one", client_key="k1"))).appended == 1


async def test_a_client_key_twice_in_one_call_is_one_message(stack: LLMStack) -> None:
    done = await append(stack, "t", *[said(content="one", client_key="k")] * 2)
    assert [(message.seq, message.is_new) for message in done.messages] == [(1, True), (1, False)]
    assert await contents(stack, "t") == ["one"]


async def test_a_client_key_does_not_stand_for_another_message(stack: LLMStack) -> None:
    await append(stack, "t", said(content="one", client_key="k"))
    with pytest.raises(ClientKeyReused, match="'k'"):
        await append(stack, "t", said(content="zero"), said(content="other", client_key="k"))
    assert await contents(stack, "t") == ["one"]
    assert await broken_threads(stack) == []


async def test_the_key_of_a_message_that_was_popped_is_free(stack: LLMStack) -> None:
    await append(stack, "t", said(content="one", client_key="k"))
    await stack.conversations.pop(owner_id="acme", thread="t")
    assert (await append(stack, "t", said(content="other", client_key="k"))).appended == 1
    assert [message.seq for message in await history(stack, "t")] == [2]


async def test_counts_and_moments_are_those_of_the_messages(stack: LLMStack) -> None:
    later = NOON + dt.timedelta(hours=1)
    await append(
        stack, "t", said(created_at=later, tokens_input=5), said("assistant", tokens_output=7, created_at=NOON)
    )
    thread = await stack.conversations.get(owner_id="acme", thread="t")
    assert (thread.message_count, thread.last_seq, thread.tokens_input, thread.tokens_output) == (2, 2, 5, 7)
    # Clocks go backwards; the order is that of the seqs, and the last moment stays the last.
    assert (thread.last_message_at, thread.created_at) == (later, NOON)
    assert [message.created_at for message in await history(stack, "t")] == [later, NOON]


async def test_an_answer_without_its_call_is_kept_and_told(stack: LLMStack) -> None:
    call = {"type": "tool_use", "id": "c1", "name": "find", "input": {}}
    await append(stack, "t", said("assistant", "", parts=[call]))
    done = await append(stack, "t", said("tool", "a", tool_call_id="c1"), said("tool", "b", tool_call_id="c2"))
    assert (done.appended, done.without_call) == (2, ("c2",))


async def test_what_cannot_be_stored_is_taken_out_and_told(stack: LLMStack) -> None:
    parts = [{"type": "text", "text": "a\x00b\ud800", "inner": [{"k\x00": "\udfff"}]}]
    done = await append(stack, "t", said(content="a\x00b\ud800c", parts=parts))
    assert done.cleaned
    (message,) = await history(stack, "t")
    assert (message.content, message.parts) == ("abc", [{"type": "text", "text": "ab", "inner": [{"k": ""}]}])
    assert not (await append(stack, "t", said(content="plain", parts=[{"type": "text", "text": "x"}]))).cleaned


async def test_a_deleted_thread_keeps_its_name_until_it_is_purged(stack: LLMStack) -> None:
    made = await append(stack, "t", "one")
    assert made.thread_id is not None
    await stack.conversations.delete(owner_id="acme", thread="t")
    with pytest.raises(ThreadDeleted, match="restore it, or purge it"):
        await append(stack, "t", "two")
    with pytest.raises(ThreadNotFound):
        await append(stack, made.thread_id, "two")
    await stack.conversations.purge(owner_id="acme")
    assert (await append(stack, "t", "two")).is_new


async def test_owners_have_threads_of_their_own(stack: LLMStack) -> None:
    mine = await append(stack, "t", "mine")
    assert mine.thread_id is not None
    other = await append(stack, "t", "theirs", owner_id="other")
    assert other.is_new
    assert await contents(stack, "t", owner_id="other") == ["theirs"]
    with pytest.raises(ThreadNotFound):
        await append(stack, mine.thread_id, "intruding", owner_id="other")
    assert await contents(stack, "t") == ["mine"]


async def test_the_database_keeps_a_message_in_its_owners_thread(stack: LLMStack) -> None:
    made = await append(stack, "t", "mine")
    assert made.thread_id is not None
    theirs = Message(owner_id="other", thread_id=made.thread_id, seq=9, role="user", content="x", content_hash=b"")

    async def intrude(session: AsyncSession) -> None:
        session.add(theirs)

    with pytest.raises(NotFound, match="this owner has no such thread"):
        await stack.service.transaction(intrude)


async def test_a_host_appends_in_its_own_transaction(stack: LLMStack) -> None:
    async with stack.service.session() as session:
        conversations = ConversationRepository(session)
        await conversations.append(owner_id="acme", thread="kept", messages=turns("one"))
        await session.commit()
        await conversations.append(owner_id="acme", thread="gone", messages=turns("two"))
        await session.rollback()
        threads = (await session.scalars(select(Thread.id_at_origin))).all()
    assert threads == ["kept"]


async def test_vectors_are_of_the_message_with_the_turn_before_it(make_stack: MakeStack, words: Words) -> None:
    stack = make_stack()
    await append(stack, "t", "When does the lease end?", "In March.")
    await stack.conversations.settle()
    assert sorted(words.texts) == ["When does the lease end?", "When does the lease end?\nIn March."]
    assert await fetched(stack, "SELECT count(*) FROM llmstack.message_embedding_jobs") == [(0,)]


async def test_closing_a_stack_finishes_its_vectors(make_stack: MakeStack) -> None:
    stack, other = make_stack(), make_stack()
    await append(stack, "t", "one", "two")
    await stack.close()
    assert await fetched(other, "SELECT count(*) FROM llmstack.message_embeddings") == [(2,)]


async def test_a_failing_embedder_costs_nothing_but_vectors(make_stack: MakeStack, words: Words) -> None:
    stack = make_stack()
    words.fault = lambda texts: [[0.0]]
    assert (await append(stack, "t", "one", "two")).appended == 2
    await stack.conversations.settle()
    assert await broken_threads(stack) == []
    words.fault = None
    await fetched(stack, "SELECT 1")
    assert [hit.content for hit in await stack.conversations.messages.search(owner_id="acme", query="two")] == ["two"]


async def test_very_long_messages_are_kept_and_embedded_by_their_beginning(make_stack: MakeStack, words: Words) -> None:
    stack = make_stack()
    numbered = " ".join(f"w{number}" for number in range(60_000))
    await append(stack, "t", said(content=numbered), said("assistant", "short"))
    await stack.conversations.settle()
    assert (await history(stack, "t"))[0].content == numbered
    # A text that PostgreSQL cannot read as words is not searched, so it wants no vector either.
    assert len(numbered) > 300_000
    assert await fetched(stack, "SELECT count(*) FROM llmstack.messages WHERE search_vector IS NULL") == [(1,)]
    assert max(map(len, words.texts)) <= 6_000
    long = " ".join(["word"] * 10_000)
    await append(stack, "u", said(content=long))
    await stack.conversations.settle()
    assert long[:6_000] in words.texts


async def test_parts_round_trip_whatever_json_they_are(stack: LLMStack) -> None:
    parts: list[dict[str, Any]] = [
        {"type": "any", "numbers": [0, -1, 2.5e10, 0.1], "none": None, "text": 'q"\\u0041\n', "nested": {"a": {}}}
    ]
    await append(stack, "t", said("assistant", "", parts=parts))
    (message,) = await history(stack, "t")
    assert json.dumps(message.parts, sort_keys=True) == json.dumps(parts, sort_keys=True)


async def test_an_empty_result_of_a_tool_is_a_result(stack: LLMStack) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    given = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
    ]
    await append(stack, "t", *given)
    assert (await stack.conversations.history(owner_id="acme", thread="t")).as_messages("openai") == given
