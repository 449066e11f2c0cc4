"""The search log: behind every search, without text, bounded, and judged by its owner alone."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
import uuid
from typing import Any

import pytest
from document_support import MakeStack, add, added, document
from sqlalchemy import func, select, text

from llmstack import LLMStack
from llmstack.db import Database, LoggedSearch, SearchFeedback, migrate
from llmstack.documents import DOCUMENTS, DocumentFilter
from llmstack.errors import ValidationError
from llmstack.retrieval import JudgedQuery, SearchNotFound
from llmstack.retrieval.tuning import search_log
from llmstack.retrieval.tuning.feedback import FeedbackRepository
from llmstack.settings import Settings

MARKER = "quagga"


@pytest.fixture
async def logging_stack(make_stack: MakeStack) -> LLMStack:
    stack = make_stack(search_log=True)
    await added(stack, [document(f"d{number}", f"kettle {MARKER} number{number}") for number in range(4)])
    await stack.documents.settle()
    return stack


async def search(stack: LLMStack, query: str = "kettle", *, owner_id: str = "acme", **more: Any) -> uuid.UUID:
    hits = await stack.documents.search(owner_id=owner_id, query=query, **more)
    assert hits.search_id is not None
    return hits.search_id


async def rows(stack: LLMStack, model: type[Any] = LoggedSearch) -> int:
    async with stack.service.session() as session:
        return await session.scalar(select(func.count()).select_from(model)) or 0


async def test_nothing_is_logged_unless_it_is_asked_for(stack: LLMStack) -> None:
    await add(stack, "1", "kettle")
    hits = await stack.documents.search(owner_id="acme", query="kettle")
    await stack.documents.settle()
    assert hits.search_id is None
    assert await rows(stack) == 0


async def test_a_search_is_read_back_with_what_it_found_and_how(logging_stack: LLMStack) -> None:
    where = DocumentFilter(metadata={"team": "hr", "n": {"$in": {1}}}, document_type="text")
    await search(logging_stack, "nothing", where=where)
    hits = await logging_stack.documents.search(owner_id="acme", query="kettle number2", limit=3)
    page = await logging_stack.documents.searches(owner_id="acme")
    assert page.total == 2
    newest, oldest = page.items
    assert newest.id == hits.search_id
    assert (newest.query, newest.mode, newest.limit, newest.vector_path) == ("kettle number2", "hybrid", 3, "exact")
    assert [hit.row_id for hit in newest.hits] == [hit.id for hit in hits]
    assert [hit.score for hit in newest.hits] == [hit.score for hit in hits]
    assert newest.hits[0].ranks == {leg: place.rank for leg, place in hits[0].legs.items()}
    assert newest.elapsed_ms > 0
    assert oldest.filters == {"metadata": {"team": "hr", "n": {"$in": [1]}}, "document_type": "text"}
    assert oldest.hits == []


async def test_no_text_of_a_document_gets_into_the_log(logging_stack: LLMStack) -> None:
    await search(logging_stack)
    await logging_stack.documents.settle()
    async with logging_stack.service.session() as session:
        logged = await session.scalar(text("SELECT string_agg(l::text, ' ') FROM llmstack.search_log AS l"))
        texts = await session.scalar(text("SELECT string_agg(c::text, ' ') FROM llmstack.chunks AS c"))
    assert MARKER not in logged
    assert MARKER in texts
    assert "d0" in logged


async def test_pages_follow_one_another_newest_first(logging_stack: LLMStack) -> None:
    noted = [await search(logging_stack, f"kettle number{number}") for number in range(7)]
    found, cursor = [], None
    while True:
        page = await logging_stack.documents.searches(owner_id="acme", limit=3, cursor=cursor)
        found += [one.id for one in page.items]
        assert page.total == 7
        cursor = page.cursor
        if cursor is None:
            break
    assert found == noted[::-1]
    for cursor in ("x", "", "bm9wZQ=="):
        with pytest.raises(ValidationError, match="cursor"):
            await logging_stack.documents.searches(owner_id="acme", cursor=cursor)


async def test_feedback_is_read_back_and_a_later_grade_replaces_it(logging_stack: LLMStack) -> None:
    hits = await logging_stack.documents.search(owner_id="acme", query="kettle")
    assert hits.search_id is not None
    record = logging_stack.documents.record_feedback
    # The search is still in the queue.
    assert await record(owner_id="acme", search_id=hits.search_id, grades={hits[0].id: 2, "d1": 0.5}) == 2
    assert await record(owner_id="acme", search_id=str(hits.search_id), grades={str(hits[0].id): 0}) == 1
    page = await logging_stack.documents.feedback(owner_id="acme")
    graded = {one.unit: one.grade for one in page.items}
    assert graded == {hits[0].id_at_origin: 0.0, **({"d1": 0.5} if hits[0].id_at_origin != "d1" else {})}
    assert page.items[0].query == "kettle"
    (logged,) = (await logging_stack.documents.searches(owner_id="acme")).items
    assert logged.hits[0].grade == 0.0
    assert {hit.grade for hit in logged.hits} == {0.0, 0.5, None}


async def test_pages_of_feedback_follow_one_another(logging_stack: LLMStack) -> None:
    for number in range(3):
        key = await search(logging_stack, f"kettle {number}")
        grades: Any = {"d0": 1, "d1": 2}
        await logging_stack.documents.record_feedback(owner_id="acme", search_id=key, grades=grades)
    found, cursor = [], None
    while True:
        page = await logging_stack.documents.feedback(owner_id="acme", limit=4, cursor=cursor)
        found += [(one.search_id, one.row_id) for one in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(found) == len(set(found)) == page.total == 6
    only = await logging_stack.documents.feedback(owner_id="acme", search_id=key)
    assert only.total == 2


async def test_another_owners_search_is_as_good_as_absent(logging_stack: LLMStack) -> None:
    key = await search(logging_stack)
    for owner, search_id in (("mallory", key), ("acme", uuid.uuid4())):
        with pytest.raises(SearchNotFound):
            await logging_stack.documents.record_feedback(owner_id=owner, search_id=search_id, grades={"d0": 1})
    await logging_stack.documents.record_feedback(owner_id="acme", search_id=key, grades={"d0": 1})
    assert (await logging_stack.documents.searches(owner_id="mallory")).items == []
    assert (await logging_stack.documents.feedback(owner_id="mallory")).items == []
    assert (await logging_stack.documents.feedback(owner_id="mallory", search_id=key)).total == 0


async def test_a_search_of_another_corpus_is_as_good_as_absent(logging_stack: LLMStack) -> None:
    theirs = uuid.uuid4()
    hits = [{"row_id": str(uuid.uuid4()), "unit": "n1", "score": 1.0, "ranks": {}}]
    values = {"owner_id": "acme", "query": "kettle", "mode": "text", "hit_limit": 1, "hits": hits, "elapsed_ms": 1.0}
    async with logging_stack.service.session() as session:
        session.add(LoggedSearch(id=theirs, corpus="notes", **values))
        await session.commit()
    with pytest.raises(SearchNotFound):
        await logging_stack.documents.record_feedback(owner_id="acme", search_id=theirs, grades={"n1": 1})
    assert (await logging_stack.documents.searches(owner_id="acme")).total == 0


@pytest.mark.parametrize(
    "grades",
    [
        {}, {"absent": 1}, {uuid.UUID(int=1): 1}, {"d0": -1}, {"d0": math.nan}, {"d0": math.inf}, {"d0": "1"},
        {"d0": True}, {"d0": 1e7}, {"": 1}, {"d\x00": 1}, {3: 1}, ["d0"],
    ],
)  # fmt: skip
async def test_a_grade_that_means_nothing_is_refused(logging_stack: LLMStack, grades: Any) -> None:
    key = await search(logging_stack)
    with pytest.raises(ValidationError, match="grades"):
        await logging_stack.documents.record_feedback(owner_id="acme", search_id=key, grades=grades)
    assert await rows(logging_stack, SearchFeedback) == 0


async def test_one_hit_is_not_graded_twice_at_once(logging_stack: LLMStack) -> None:
    hits = await logging_stack.documents.search(owner_id="acme", query="kettle")
    assert hits.search_id is not None
    grades: Any = {hits[0].id: 1, hits[0].id_at_origin: 0}
    with pytest.raises(ValidationError, match="name the same hit"):
        await logging_stack.documents.record_feedback(owner_id="acme", search_id=hits.search_id, grades=grades)


async def test_a_judgement_survives_the_chunk_and_goes_with_its_search(logging_stack: LLMStack) -> None:
    key = await search(logging_stack)
    await logging_stack.documents.record_feedback(owner_id="acme", search_id=key, grades={"d0": 3})
    await add(logging_stack, "d0", "kettle of another kind")
    (kept,) = (await logging_stack.documents.feedback(owner_id="acme")).items
    assert (kept.unit, kept.grade) == ("d0", 3.0)
    assert await logging_stack.documents.purge_search_log() == 1
    assert await rows(logging_stack, SearchFeedback) == 0


async def judged(stack: LLMStack, owner_id: str | None = None) -> list[JudgedQuery]:
    async with stack.service.session() as session:
        return list(await FeedbackRepository(session, DOCUMENTS).judged(owner_id=owner_id))


async def test_feedback_becomes_judged_queries_in_which_the_last_grade_counts(logging_stack: LLMStack) -> None:
    record = logging_stack.documents.record_feedback
    await add(logging_stack, "theirs", "kettle", owner_id="ben")
    first, second = await search(logging_stack), await search(logging_stack)
    filtered = await search(logging_stack, where=DocumentFilter(document_type="unknown"))
    theirs = await search(logging_stack, owner_id="ben")
    await record(owner_id="acme", search_id=first, grades={"d0": 2, "d1": 1})
    await record(owner_id="acme", search_id=second, grades={"d0": 0, "d2": 1})
    await record(owner_id="acme", search_id=filtered, grades={"d3": 1})
    await record(owner_id="ben", search_id=theirs, grades={"theirs": 0})
    found = {one.where is None: one for one in await judged(logging_stack)}
    assert len(found) == len(await judged(logging_stack, "acme")) == 2
    assert found[True].relevant == {"d0": 0.0, "d1": 1.0, "d2": 1.0}
    assert found[False].where == DocumentFilter(document_type="unknown")
    # Nothing is relevant there.
    assert await judged(logging_stack, "ben") == []


async def test_a_calibration_reads_recorded_feedback(logging_stack: LLMStack) -> None:
    for number in range(20):
        key = await search(logging_stack, f"kettle number{number % 4} w{number}")
        grades: Any = {f"d{number % 4}": 1}
        await logging_stack.documents.record_feedback(owner_id="acme", search_id=key, grades=grades)
    found = await logging_stack.documents.calibrate(owner_id="acme", dry_run=True)
    assert (found.evidence["source"], found.evidence["queries"]) == ("feedback", 20)
    with pytest.raises(ValidationError, match="0 judged queries"):
        await logging_stack.documents.calibrate(owner_id="mallory")


async def age(stack: LLMStack, days: int) -> None:
    async with stack.service.session() as session:
        await session.execute(
            text("UPDATE llmstack.search_log SET created_at = created_at - make_interval(days => :days)"),
            {"days": days},
        )
        await session.commit()


async def test_the_log_keeps_its_retention_by_itself(make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_log, "DELETED_AT_ONCE", 2)
    first = make_stack(search_log=True, search_log_retention=30)
    for _ in range(5):
        await search(first)
    await first.documents.settle()
    await age(first, 31)
    kept = await search(first)
    await first.documents.settle()
    # It looks once an hour; another process looks when it first writes.
    assert await rows(first) == 6
    second = make_stack(search_log=True, search_log_retention=30)
    last = await search(second)
    await second.documents.settle()
    assert [one.id for one in (await first.documents.searches(owner_id="acme")).items] == [last, kept]


async def test_purging_takes_what_is_old_enough(logging_stack: LLMStack) -> None:
    await search(logging_stack)
    await logging_stack.documents.settle()
    await age(logging_stack, 3)
    await search(logging_stack)
    assert await logging_stack.documents.purge_search_log(older_than=dt.timedelta(days=2)) == 1
    assert await logging_stack.documents.purge_search_log(older_than=dt.timedelta.max) == 0
    assert await logging_stack.documents.purge_search_log() == 1
    with pytest.raises(ValidationError, match="older_than"):
        await logging_stack.documents.purge_search_log(older_than=dt.timedelta(days=-1))


async def test_a_full_queue_drops_counts_and_says_so_once(
    logging_stack: LLMStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(search_log, "QUEUED_AT_MOST", 2)
    monkeypatch.setattr(search_log, "LINGER", 60.0)
    with caplog.at_level(logging.WARNING, "llmstack"):
        ids = [(await logging_stack.documents.search(owner_id="acme", query="kettle")).search_id for _ in range(5)]
    assert [key is not None for key in ids] == [True, True, False, False, False]
    assert logging_stack.documents._log.dropped == 3
    assert len([one for one in caplog.records if "search log loses records" in one.message]) == 1
    await logging_stack.documents.settle()
    assert await rows(logging_stack) == 2


async def test_a_log_that_cannot_be_written_fails_no_search_and_loses_nothing_at_once(
    logging_stack: LLMStack, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_log, "LINGER", 0.0)
    monkeypatch.setattr(search_log, "PAUSE_AFTER_FAILURE", 60.0)
    log = logging_stack.documents._log
    async with logging_stack.service.session() as session:
        await session.execute(text("ALTER TABLE llmstack.search_log RENAME TO hidden"))
        await session.commit()
    await search(logging_stack)
    async with asyncio.timeout(10):
        while log._failures == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert log.waiting == 1
    async with logging_stack.service.session() as session:
        await session.execute(text("ALTER TABLE llmstack.hidden RENAME TO search_log"))
        await session.commit()
    assert await logging_stack.documents.search(owner_id="acme", query="kettle")
    await logging_stack.documents.settle()
    assert (await rows(logging_stack), log.waiting, log.dropped) == (2, 0, 0)
    async with logging_stack.service.session() as session:
        await session.execute(text("ALTER TABLE llmstack.search_log RENAME TO hidden"))
        await session.commit()
    await search(logging_stack)
    with caplog.at_level(logging.WARNING, "llmstack"):
        await logging_stack.documents.settle()
    assert (log.waiting, log.dropped) == (0, 1)
    assert "could not be written" in caplog.text


async def test_a_writer_that_is_killed_loses_no_record(
    logging_stack: LLMStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await search(logging_stack)
    log = logging_stack.documents._log
    assert log._task is not None
    log._task.cancel()
    await asyncio.wait([log._task])
    await search(logging_stack)
    await logging_stack.documents.settle()
    assert await rows(logging_stack) == 2


async def test_closing_writes_what_is_waiting(make_stack: MakeStack, stack: LLMStack) -> None:
    short = make_stack(search_log=True)
    await search(short)
    assert await rows(stack) == 0
    await short.close()
    assert await rows(stack) == 1


async def test_it_is_written_without_anybody_waiting_for_it(
    logging_stack: LLMStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_log, "LINGER", 0.01)
    await search(logging_stack)
    async with asyncio.timeout(10):
        while await rows(logging_stack) == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_two_schemas_share_no_log(logging_stack: LLMStack, llmstack_database: Database) -> None:
    await migrate.upgrade(llmstack_database.engine, schema="support")
    settings = Settings(search_log=True)
    other = LLMStack(engine=llmstack_database.engine, schema="support", embedder="none", settings=settings)
    key = await search(logging_stack)
    await logging_stack.documents.settle()
    assert (await other.documents.searches(owner_id="acme")).total == 0
    with pytest.raises(SearchNotFound):
        await other.documents.record_feedback(owner_id="acme", search_id=key, grades={"d0": 1})
    await other.close()


async def test_odd_queries_are_logged_as_far_as_postgresql_can_hold_them(logging_stack: LLMStack) -> None:
    await search(logging_stack, "a\x00b \ud800 kettle")
    await search(logging_stack, "kettle " * 5_000)
    page = await logging_stack.documents.searches(owner_id="acme")
    assert [len(one.query) for one in page.items] == [search_log.QUERY_CHARACTERS, 12]
