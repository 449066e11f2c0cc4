from __future__ import annotations

import datetime as dt

import pytest
from conversation_support import append, broken_threads, changed, contents, fetched, history, said
from document_support import Words

from llmstack import LLMStack
from llmstack.conversations import MessageNotFound, ThreadFilter, ThreadNotFound
from llmstack.errors import Conflict, ValidationError


async def found(stack: LLMStack, query: str, **more: object) -> list[str]:
    hits = await stack.conversations.search(owner_id="acme", query=query, mode="text", limit=100, **more)  # type: ignore[arg-type]
    return sorted(hit.content for hit in hits)


async def test_a_deleted_thread_is_hidden_everywhere_and_returns_whole(stack: LLMStack) -> None:
    await append(stack, "t", "the lease ends", "in March")
    await append(stack, "other", "another lease")
    await stack.conversations.summarise(owner_id="acme", thread="t")
    await append(stack, "t", "popped lease")
    await stack.conversations.pop(owner_id="acme", thread="t")
    await stack.conversations.settle()
    before = await found(stack, "lease")
    assert len(before) == 4  # two messages by their words, one by the turn before it, and the summary
    assert await stack.conversations.delete(owner_id="acme", thread="t") == 1
    assert await found(stack, "lease") == ["another lease"]
    assert (await stack.conversations.list_threads(owner_id="acme")).total == 1
    gone = await stack.conversations.list_threads(owner_id="acme", deleted=True)
    assert [one.thread.id_at_origin for one in gone.items] == ["t"]
    assert await stack.conversations.delete(owner_id="acme", thread="t") == 0
    assert await stack.conversations.restore(owner_id="acme", thread="t") == 1
    assert await stack.conversations.restore(owner_id="acme", thread="t") == 0
    assert await found(stack, "lease") == before
    # What was popped before stays so.
    assert await contents(stack, "t") == ["the lease ends", "in March"]
    await stack.conversations.settle()
    assert await broken_threads(stack) == []


async def test_a_restored_thread_is_found_by_its_vectors_without_embedding_it_anew(
    stack: LLMStack, words: Words
) -> None:
    await append(stack, "t", "the lease ends", "in March")
    await stack.conversations.settle()
    calls = words.calls
    await stack.conversations.delete(owner_id="acme", thread="t")
    assert not await stack.conversations.search(owner_id="acme", query="lease", mode="vector")
    await stack.conversations.restore(owner_id="acme", thread="t")
    await stack.conversations.settle()
    hits = await stack.conversations.search(owner_id="acme", query="lease", mode="vector")
    assert len(hits) == 2
    assert words.calls == calls + 2


async def test_purging_takes_what_was_deleted_long_enough_ago(stack: LLMStack) -> None:
    for name in ("old", "new", "kept"):
        await append(stack, name, "one", "two")
        await stack.conversations.summarise(owner_id="acme", thread=name)
    await append(stack, "old", "theirs", owner_id="other")
    for owner, name in (("acme", "old"), ("acme", "new"), ("other", "old")):
        await stack.conversations.delete(owner_id=owner, thread=name)
    await stack.conversations.pop(owner_id="acme", thread="kept")
    await changed(
        stack,
        "UPDATE llmstack.threads SET deleted_at = now() - interval '2 days' "
        "WHERE owner_id = 'acme' AND id_at_origin = 'old'",
    )
    assert await stack.conversations.purge(owner_id="acme", older_than=dt.timedelta(days=1)) == 1
    left = "SELECT owner_id, id_at_origin FROM llmstack.threads ORDER BY 1, 2"
    assert await fetched(stack, left) == [("acme", "kept"), ("acme", "new"), ("other", "old")]
    assert await stack.conversations.purge(owner_id="acme") == 1
    assert await fetched(stack, left) == [("acme", "kept"), ("other", "old")]
    # The popped message of the living thread went, too.
    counted = "SELECT count(*) FROM llmstack.messages WHERE owner_id = 'acme'"
    assert await fetched(stack, counted) == [(1,)]
    assert await fetched(stack, "SELECT count(*) FROM llmstack.thread_summaries") == [(1,)]
    await append(stack, "kept", "three")
    assert [message.seq for message in await history(stack, "kept")] == [1, 3]
    assert await broken_threads(stack) == []


async def test_many_threads_are_deleted_by_a_filter(stack: LLMStack) -> None:
    for number in range(4):
        await append(stack, f"t{number}", "one", user_id=("ann", "bob")[number % 2])
    assert await stack.conversations.delete_many(owner_id="acme", where=ThreadFilter(user_id="ann")) == 2
    assert (await stack.conversations.list_threads(owner_id="acme")).total == 2
    with pytest.raises(ValidationError, match="an empty filter would delete every thread"):
        await stack.conversations.delete_many(owner_id="acme", where=ThreadFilter())
    with pytest.raises(ValidationError, match="it is a ThreadFilter, not dict"):
        await stack.conversations.delete_many(owner_id="acme", where={"user_id": "bob"})  # type: ignore[arg-type]


async def test_popping_gives_the_last_message_and_takes_it_out(stack: LLMStack) -> None:
    await append(stack, "t", said(content="ask", tokens_input=3), said("assistant", "bad", tokens_output=9))
    popped = await stack.conversations.pop(owner_id="acme", thread="t")
    assert popped is not None
    assert (popped.seq, popped.content) == (2, "bad")
    thread = await stack.conversations.get(owner_id="acme", thread="t")
    assert (thread.message_count, thread.last_seq, thread.tokens_output) == (1, 2, 0)
    await append(stack, "t", said("assistant", "good"))
    assert [(message.seq, message.content, message.context) for message in await history(stack, "t")] == [
        (1, "ask", ""), (3, "good", "ask"),
    ]  # fmt: skip
    for _ in range(2):
        await stack.conversations.pop(owner_id="acme", thread="t")
    assert await stack.conversations.pop(owner_id="acme", thread="t") is None
    assert await contents(stack, "t") == []
    assert await broken_threads(stack) == []


async def test_a_cleared_thread_goes_on(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two", title="Kept")
    await stack.conversations.summarise(owner_id="acme", thread="t")
    assert await stack.conversations.clear(owner_id="acme", thread="t") == 2
    assert await contents(stack, "t") == []
    assert await found(stack, "one") == []
    assert (await stack.conversations.context(owner_id="acme", thread="t", tokens=100)).summary is None
    await append(stack, "t", "three")
    thread = await stack.conversations.get(owner_id="acme", thread="t")
    assert (thread.title, thread.message_count, thread.last_seq) == ("Kept", 1, 3)
    assert [message.context for message in await history(stack, "t")] == [""]


async def test_a_summary_that_speaks_of_a_popped_message_stands_no_longer(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two", "three")
    await stack.conversations.summarise(owner_id="acme", thread="t")
    await append(stack, "t", said("assistant", "four"))
    await stack.conversations.pop(owner_id="acme", thread="t")
    (version,) = await stack.conversations.versions(owner_id="acme", thread="t")
    assert version.is_current, "it spoke of what is still there"
    await stack.conversations.pop(owner_id="acme", thread="t")
    (version,) = await stack.conversations.versions(owner_id="acme", thread="t")
    assert not version.is_current


async def test_a_fork_goes_its_own_way(stack: LLMStack, words: Words) -> None:
    await append(stack, "t", "one", "two", "three", "four", user_id="ann", title="T", metadata={"a": 1})
    await stack.conversations.pop(owner_id="acme", thread="t")
    await append(stack, "t", said("assistant", "five", client_key="k", tokens_output=4))
    await stack.conversations.settle()
    embedded = words.calls
    fork = await stack.conversations.fork(owner_id="acme", thread="t", id_at_origin="f", title="F")
    await stack.conversations.settle()
    assert words.calls == embedded, "vectors are copied"
    source = await stack.conversations.get(owner_id="acme", thread="t")
    assert (fork.user_id, fork.title, fork.message_count, fork.last_seq, fork.tokens_output) == ("ann", "F", 4, 4, 4)
    assert fork.metadata_ == {"a": 1, "forked_from": {"thread_id": str(source.id), "seq": 5}}
    assert [(m.seq, m.content, m.context, m.client_key) for m in await history(stack, "f")] == [
        (1, "one", "", None), (2, "two", "one", None), (3, "three", "two", None), (4, "five", "three", "k"),
    ]  # fmt: skip
    await append(stack, "f", "six")
    await append(stack, "t", "seven")
    assert await contents(stack, "t") == ["one", "two", "three", "five", "seven"]
    assert await contents(stack, "f") == ["one", "two", "three", "five", "six"]
    early = await stack.conversations.fork(owner_id="acme", thread="t", at_seq=2)
    assert await contents(stack, early.id) == ["one", "two"]
    with pytest.raises(Conflict, match="has a thread of this id_at_origin already"):
        await stack.conversations.fork(owner_id="acme", thread="t", id_at_origin="f")
    with pytest.raises(ThreadNotFound):
        await stack.conversations.fork(owner_id="other", thread="t")
    await stack.conversations.settle()
    assert await broken_threads(stack) == []


async def test_a_fork_takes_a_summary_that_speaks_of_no_more(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two", "three", "four")
    await stack.conversations.pop(owner_id="acme", thread="t")
    await append(stack, "t", said("assistant", "five"))
    await stack.conversations.summarise(owner_id="acme", thread="t")
    await append(stack, "t", "six")
    whole = await stack.conversations.fork(owner_id="acme", thread="t")
    (copy,) = await stack.conversations.versions(owner_id="acme", thread=whole.id)
    assert (copy.is_current, copy.first_seq, copy.last_seq) == (True, 1, 4)
    early = await stack.conversations.fork(owner_id="acme", thread="t", at_seq=3)
    assert await stack.conversations.versions(owner_id="acme", thread=early.id) == []


async def test_a_thread_is_given_a_title_a_user_and_metadata(stack: LLMStack) -> None:
    await append(stack, "t", "one", metadata={"a": 1, "b": 2})
    update = stack.conversations.update
    thread = await update(owner_id="acme", thread="t", title="T", user_id="ann", metadata={"b": 3})
    assert (thread.title, thread.user_id, thread.metadata_) == ("T", "ann", {"a": 1, "b": 3})
    thread = await update(owner_id="acme", thread="t", metadata={"c": 4}, replace=True)
    assert (thread.title, thread.metadata_) == ("T", {"c": 4})
    with pytest.raises(ThreadNotFound):
        await update(owner_id="other", thread="t", title="Mine")
    with pytest.raises(ValidationError, match="title: it is empty"):
        await update(owner_id="acme", thread="t", title=" ")


async def test_a_message_is_marked_as_important(stack: LLMStack) -> None:
    done = await append(stack, "t", "one", "two")
    key = done.messages[0].id
    assert (await stack.conversations.important(owner_id="acme", message_id=key)).important
    assert (await stack.conversations.message(owner_id="acme", message_id=str(key))).important
    hits = await stack.conversations.search(owner_id="acme", query="one", important=True)
    assert [hit.content for hit in hits] == ["one"]
    assert not (await stack.conversations.important(owner_id="acme", message_id=key, important=False)).important
    with pytest.raises(MessageNotFound):
        await stack.conversations.important(owner_id="other", message_id=key)
