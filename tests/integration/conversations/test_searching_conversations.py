from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from conversation_support import NOON, append, changed, said
from document_support import MakeStack, Words

from llmstack import LLMStack
from llmstack.conversations import ConversationHit, MessageFilter
from llmstack.errors import ValidationError
from llmstack.retrieval import CallableReranker, Recency
from llmstack.search import RRF


async def found(stack: LLMStack, query: str, **more: Any) -> list[ConversationHit]:
    return list(await stack.conversations.search(**{"owner_id": "acme", "query": query, "limit": 100, **more}))


async def texts(stack: LLMStack, query: str, **more: Any) -> list[str]:
    return [hit.content for hit in await found(stack, query, **more)]


async def test_a_message_is_found_by_what_it_answers(stack: LLMStack) -> None:
    await append(stack, "t", "When does the lease of the office end?", "In March.")
    await append(stack, "u", "What is for lunch?", "Soup.")
    await stack.conversations.settle()
    for mode in ("text", "vector", "hybrid"):
        best, second = (await found(stack, "lease office", mode=mode))[:2]
        assert (best.content, second.content) == ("When does the lease of the office end?", "In March."), mode
        assert (second.thread_id, second.seq, second.role) == (best.thread_id, 2, "assistant")


async def test_a_hit_shows_its_thread_and_the_turns_around(stack: LLMStack) -> None:
    await append(
        stack, "t", "one", "two lease", "three", title="Lease", user_id="ann",
    )  # fmt: skip
    await append(stack, "t", said(content="four", user_id="bob", metadata={"a": 1}, created_at=NOON))
    await stack.conversations.pop(owner_id="acme", thread="t")
    (hit, *_) = await found(stack, "lease", mode="text", neighbours=2)
    assert (hit.id_at_origin, hit.title, hit.seq, hit.first_seq) == ("t", "Lease", 2, 2)
    assert (hit.before, hit.after) == (("one",), ("three",))


async def test_searches_are_filtered_by_thread_and_by_message(stack: LLMStack) -> None:
    day = dt.timedelta(days=1)
    for number in range(4):
        await append(
            stack, f"t{number}", said(content=f"lease {number}", created_at=NOON + number * day),
            said("assistant", f"answer {number} on the lease", created_at=NOON + number * day),
            user_id=("ann", "bob")[number % 2], agent_id=("x", "y")[number // 2], metadata={"n": number},
        )  # fmt: skip
    asked = {"mode": "text", "roles": "user"}
    assert await texts(stack, "lease", thread="t2", **asked) == ["lease 2"]
    made = await stack.conversations.get(owner_id="acme", thread="t3")
    assert await texts(stack, "lease", thread=made.id, **asked) == ["lease 3"]
    assert sorted(await texts(stack, "lease", user_id="bob", **asked)) == ["lease 1", "lease 3"]
    assert sorted(await texts(stack, "lease", agent_id=["x"], **asked)) == ["lease 0", "lease 1"]
    assert await texts(stack, "lease", metadata={"n": {"$gt": 2}}, **asked) == ["lease 3"]
    assert await texts(stack, "lease", since=NOON + 3 * day, **asked) == ["lease 3"]
    assert await texts(stack, "lease", until=NOON, **asked) == ["lease 0"]
    assert len(await texts(stack, "lease", mode="text", roles=["user", "assistant"])) == 8
    assert await texts(stack, "lease", thread="absent") == []
    assert await found(stack, "lease", owner_id="other") == []


async def test_a_thread_is_found_once_by_its_best_message(stack: LLMStack) -> None:
    await append(stack, "t", "lease lease lease", "the lease", "of the lease")
    await append(stack, "u", "a lease of another kind of thing altogether")
    hits = await found(stack, "lease", mode="text", group_by="thread")
    assert [(hit.id_at_origin, hit.passages) for hit in hits] == [("t", 3), ("u", 1)]
    best = await found(stack, "lease", mode="text", thread="t")
    assert hits[0].id == best[0].id


async def test_summaries_are_found_beside_messages(stack: LLMStack) -> None:
    await append(stack, "t", "what of the garage", "it is let", "and the rent", "a hundred")
    await append(stack, "u", "nothing of the kind", "no")

    async def brief(request: Any) -> str:
        return "The garage is let for a hundred euros."

    await stack.conversations.summarise(owner_id="acme", thread="t", summariser=brief)
    await stack.conversations.settle()
    for mode in ("text", "hybrid"):
        hits = await found(stack, "garage hundred euros", mode=mode)
        summary = hits[0]
        assert summary.content == "The garage is let for a hundred euros."
        assert (summary.role, summary.first_seq, summary.seq, summary.id_at_origin) == (None, 1, 4, "t")
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert len({hit.id for hit in hits}) == len(hits)
    grouped = await found(stack, "garage hundred euros", group_by="thread")
    assert grouped[0].content == "The garage is let for a hundred euros."
    assert [hit.id_at_origin for hit in grouped].count("t") == 1
    assert grouped[0].passages > 1
    assert all(hit.role is not None for hit in await found(stack, "garage", summaries=False))
    assert len(await found(stack, "garage", limit=1)) == 1
    only = await stack.conversations.summaries.search(owner_id="acme", query="garage")
    assert [hit.role for hit in only] == [None]


async def test_a_former_summary_is_found_no_more(stack: LLMStack) -> None:
    await append(stack, "t", "one", "two")

    async def first(request: Any) -> str:
        return "of walruses"

    async def second(request: Any) -> str:
        return "of otters"

    await stack.conversations.summarise(owner_id="acme", thread="t", summariser=first)
    await stack.conversations.settle()
    await append(stack, "t", "three")
    await stack.conversations.summarise(owner_id="acme", thread="t", summariser=second)
    await stack.conversations.settle()
    search = stack.conversations.summaries.search
    for mode in ("text", "vector"):
        hits = await search(owner_id="acme", query="walruses otters", mode=mode)
        assert [hit.content for hit in hits] == ["of otters"]


async def test_the_query_is_embedded_once_for_both(make_stack: MakeStack, words: Words) -> None:
    stack = make_stack()
    await append(stack, "t", "one", "two")
    await stack.conversations.summarise(owner_id="acme", thread="t")
    await stack.conversations.settle()
    words.texts.clear()
    await found(stack, "one")
    assert words.texts == ["one"]


async def test_what_the_corpus_machinery_gives_is_given_here(stack: LLMStack) -> None:
    for number in range(6):
        moment = NOON - dt.timedelta(days=100 * number)
        await append(stack, f"t{number}", said(content=f"lease number {number}", created_at=moment))
    await stack.conversations.settle()

    async def longest(query: str, passages: list[str]) -> list[float]:
        return [float(passage[-1]) for passage in passages]

    reranked = await found(stack, "lease", reranker=CallableReranker(longest))
    assert [hit.content[-1] for hit in reranked] == list("543210")
    fresh = await found(stack, "lease", mode="text", recency=Recency(half_life=dt.timedelta(days=30), weight=5.0))
    assert fresh[0].content == "lease number 0"
    varied = await found(stack, "lease", diversity=0.5, limit=3)
    assert len(varied) == 3
    explained = await stack.conversations.search(owner_id="acme", query="lease", explain=True)
    assert explained.explanation is not None
    assert explained[0].matched
    expanded = await found(stack, "nothing", expand=["lease"], mode="text")
    assert len(expanded) == 6
    assert await found(stack, "lease -number", mode="text") == []


async def test_searches_are_logged_and_judged_by_message(make_stack: MakeStack) -> None:
    stack = make_stack(search_log=True)
    await append(stack, "t", "the lease", "of the office")
    hits = await stack.conversations.search(owner_id="acme", query="lease", thread="t")
    assert hits.search_id is not None
    messages = stack.conversations.messages
    graded = await messages.record_feedback(owner_id="acme", search_id=hits.search_id, grades={str(hits[0].id): 2.0})
    assert graded == 1
    (recorded,) = (await messages.searches(owner_id="acme")).items
    assert recorded.query == "lease"
    assert MessageFilter.from_json({"id_at_origin": "t"}) == MessageFilter(id_at_origin="t")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"query": " "}, "query"), ({"thread": ""}, "thread"), ({"roles": "poet"}, "roles"),
        ({"since": NOON.replace(tzinfo=None)}, "since"), ({"group_by": "user"}, "group_by"),
        ({"alpha": 0.5, "fusion": RRF()}, "alpha"), ({"metadata": {"$bad": 1}}, "metadata"), ({"limit": 0}, "limit"),
    ],
    ids=str,
)  # fmt: skip
async def test_a_search_says_which_argument_is_wrong(stack: LLMStack, given: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        await found(stack, **{"query": "lease", **given})
    assert caught.value.field == field


async def test_messages_and_summaries_are_weighed_as_messages_were_calibrated(stack: LLMStack) -> None:
    await append(stack, "t", "the lease of the office", "a lease", "nothing at all")

    async def brief(request: Any) -> str:
        return "office matters"

    await stack.conversations.summarise(owner_id="acme", thread="t", summariser=brief)
    await stack.conversations.settle()
    await stack.conversations.messages.refresh_statistics()
    for alpha in (0.0, 0.3, 1.0):
        await changed(stack, f"UPDATE llmstack.corpus_statistics SET fusion_alpha = {alpha} WHERE corpus = 'messages'")
        assert (await stack.conversations.messages.fusion()).alpha == pytest.approx(alpha)
        calibrated = await found(stack, "office lease")
        named = await found(stack, "office lease", alpha=alpha)
        assert [hit.role for hit in calibrated].count(None) == 1
        scores = {hit.id: hit.score for hit in named}
        assert {hit.id: hit.score for hit in calibrated} == pytest.approx(scores, abs=1e-6)
