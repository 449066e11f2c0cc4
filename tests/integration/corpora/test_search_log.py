"""The search log: behind every search, without text, bounded, and judged by its owner alone."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
import uuid
from typing import Any

import pytest
from corpus_support import MakeWorld, World, units
from sqlalchemy import func, select, text

from llmstack.db import LoggedSearch, SearchFeedback
from llmstack.errors import ValidationError
from llmstack.retrieval import JudgedQuery, SearchNotFound
from llmstack.retrieval.tuning import search_log
from llmstack.retrieval.tuning.feedback import FeedbackRepository

MARKER = "quagga"


@pytest.fixture
async def logged(make_world: MakeWorld) -> World:
    world = make_world(search_log=True)
    await world.add({f"d{number}": f"kettle {MARKER} number{number}" for number in range(4)})
    await world.corpus.settle()
    return world


async def search(world: World, query: str = "kettle", *, owner_id: str = "acme", **more: Any) -> uuid.UUID:
    hits = await world.corpus.search(owner_id=owner_id, query=query, **more)
    assert hits.search_id is not None
    return hits.search_id


async def rows(world: World, model: type[Any] = LoggedSearch) -> int:
    async with world.stack.service.session() as session:
        return await session.scalar(select(func.count()).select_from(model)) or 0


async def test_nothing_is_logged_unless_it_is_asked_for(world: World) -> None:
    await world.add({"1": "kettle"})
    hits = await world.corpus.search(owner_id="acme", query="kettle")
    await world.corpus.settle()
    assert hits.search_id is None
    assert await rows(world) == 0


async def test_a_search_is_read_back_with_what_it_found_and_how(logged: World) -> None:
    where = logged.where(team="hr", n={"$in": {1}})
    await search(logged, "nothing", where=where)
    hits = await logged.corpus.search(owner_id="acme", query="kettle number2", limit=3)
    page = await logged.corpus.searches(owner_id="acme")
    assert page.total == 2
    newest, oldest = page.items
    assert newest.id == hits.search_id
    assert (newest.query, newest.mode, newest.limit, newest.vector_path) == ("kettle number2", "hybrid", 3, "exact")
    assert [hit.row_id for hit in newest.hits] == [hit.id for hit in hits]
    assert [hit.score for hit in newest.hits] == [hit.score for hit in hits]
    assert newest.hits[0].ranks == {leg: place.rank for leg, place in hits[0].legs.items()}
    assert newest.elapsed_ms > 0
    assert oldest.filters == {"metadata": {"team": "hr", "n": {"$in": [1]}}}
    assert oldest.hits == []


async def test_no_text_of_a_document_gets_into_the_log(logged: World) -> None:
    await search(logged)
    await logged.corpus.settle()
    async with logged.stack.service.session() as session:
        written = await session.scalar(text("SELECT string_agg(l::text, ' ') FROM llmstack.search_log AS l"))
        texts = await session.scalar(select(func.string_agg(logged.corpus.corpus.rows.content, " ")))
    assert MARKER not in written
    assert MARKER in (texts or "")
    assert "d0" in written


async def test_pages_follow_one_another_newest_first(logged: World) -> None:
    noted = [await search(logged, f"kettle number{number}") for number in range(7)]
    found, cursor = [], None
    while True:
        page = await logged.corpus.searches(owner_id="acme", limit=3, cursor=cursor)
        found += [one.id for one in page.items]
        assert page.total == 7
        cursor = page.cursor
        if cursor is None:
            break
    assert found == noted[::-1]
    for cursor in ("x", "", "bm9wZQ=="):
        with pytest.raises(ValidationError, match="cursor"):
            await logged.corpus.searches(owner_id="acme", cursor=cursor)


async def test_feedback_is_read_back_and_a_later_grade_replaces_it(logged: World) -> None:
    hits = await logged.corpus.search(owner_id="acme", query="kettle")
    assert hits.search_id is not None
    record = logged.corpus.record_feedback
    # The search is still in the queue.
    assert await record(owner_id="acme", search_id=hits.search_id, grades={hits[0].id: 2, "d1": 0.5}) == 2
    assert await record(owner_id="acme", search_id=str(hits.search_id), grades={str(hits[0].id): 0}) == 1
    page = await logged.corpus.feedback(owner_id="acme")
    graded = {one.unit: one.grade for one in page.items}
    assert graded == {units(logged, hits)[0]: 0.0, **({"d1": 0.5} if units(logged, hits)[0] != "d1" else {})}
    assert page.items[0].query == "kettle"
    (search_again,) = (await logged.corpus.searches(owner_id="acme")).items
    assert search_again.hits[0].grade == 0.0
    assert {hit.grade for hit in search_again.hits} == {0.0, 0.5, None}


async def test_pages_of_feedback_follow_one_another(logged: World) -> None:
    for number in range(3):
        key = await search(logged, f"kettle {number}")
        grades: Any = {"d0": 1, "d1": 2}
        await logged.corpus.record_feedback(owner_id="acme", search_id=key, grades=grades)
    found, cursor = [], None
    while True:
        page = await logged.corpus.feedback(owner_id="acme", limit=4, cursor=cursor)
        found += [(one.search_id, one.row_id) for one in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(found) == len(set(found)) == page.total == 6
    only = await logged.corpus.feedback(owner_id="acme", search_id=key)
    assert only.total == 2


async def test_another_owners_search_is_as_good_as_absent(logged: World) -> None:
    key = await search(logged)
    for owner, search_id in (("mallory", key), ("acme", uuid.uuid4())):
        with pytest.raises(SearchNotFound):
            await logged.corpus.record_feedback(owner_id=owner, search_id=search_id, grades={"d0": 1})
    await logged.corpus.record_feedback(owner_id="acme", search_id=key, grades={"d0": 1})
    assert (await logged.corpus.searches(owner_id="mallory")).items == []
    assert (await logged.corpus.feedback(owner_id="mallory")).items == []
    assert (await logged.corpus.feedback(owner_id="mallory", search_id=key)).total == 0


async def test_a_search_of_another_corpus_is_as_good_as_absent(logged: World) -> None:
    theirs = uuid.uuid4()
    hits = [{"row_id": str(uuid.uuid4()), "unit": "n1", "score": 1.0, "ranks": {}}]
    values = {"owner_id": "acme", "query": "kettle", "mode": "text", "hit_limit": 1, "hits": hits, "elapsed_ms": 1.0}
    async with logged.stack.service.session() as session:
        session.add(LoggedSearch(id=theirs, corpus="letters", **values))
        await session.commit()
    with pytest.raises(SearchNotFound):
        await logged.corpus.record_feedback(owner_id="acme", search_id=theirs, grades={"n1": 1})
    assert (await logged.corpus.searches(owner_id="acme")).total == 0


@pytest.mark.parametrize(
    "grades",
    [
        {}, {"absent": 1}, {uuid.UUID(int=1): 1}, {"d0": -1}, {"d0": math.nan}, {"d0": math.inf}, {"d0": "1"},
        {"d0": True}, {"d0": 1e7}, {"": 1}, {"d\x00": 1}, {3: 1}, ["d0"],
    ],
)  # fmt: skip
async def test_a_grade_that_means_nothing_is_refused(logged: World, grades: Any) -> None:
    key = await search(logged)
    with pytest.raises(ValidationError, match="grades"):
        await logged.corpus.record_feedback(owner_id="acme", search_id=key, grades=grades)
    assert await rows(logged, SearchFeedback) == 0


async def test_one_hit_is_not_graded_twice_at_once(logged: World) -> None:
    hits = await logged.corpus.search(owner_id="acme", query="kettle")
    assert hits.search_id is not None
    grades: Any = {hits[0].id: 1, units(logged, hits)[0]: 0}
    with pytest.raises(ValidationError, match="name the same hit"):
        await logged.corpus.record_feedback(owner_id="acme", search_id=hits.search_id, grades=grades)


async def test_a_judgement_survives_the_chunk_and_goes_with_its_search(logged: World) -> None:
    key = await search(logged)
    await logged.corpus.record_feedback(owner_id="acme", search_id=key, grades={"d0": 3})
    await logged.add({"d0": "kettle of another kind"})
    (kept,) = (await logged.corpus.feedback(owner_id="acme")).items
    assert (kept.unit, kept.grade) == ("d0", 3.0)
    assert await logged.corpus.purge_search_log() == 1
    assert await rows(logged, SearchFeedback) == 0


async def judged(world: World, owner_id: str | None = None) -> list[JudgedQuery]:
    async with world.stack.service.session() as session:
        return list(await FeedbackRepository(session, world.corpus.corpus).judged(owner_id=owner_id))


async def test_feedback_becomes_judged_queries_in_which_the_last_grade_counts(logged: World) -> None:
    record = logged.corpus.record_feedback
    await logged.add({"theirs": "kettle"}, owner_id="ben")
    anything = logged.where(absent={"$exists": False})
    first, second = await search(logged), await search(logged)
    filtered = await search(logged, where=anything)
    theirs = await search(logged, owner_id="ben")
    await record(owner_id="acme", search_id=first, grades={"d0": 2, "d1": 1})
    await record(owner_id="acme", search_id=second, grades={"d0": 0, "d2": 1})
    await record(owner_id="acme", search_id=filtered, grades={"d3": 1})
    await record(owner_id="ben", search_id=theirs, grades={"theirs": 0})
    found = {one.where is None: one for one in await judged(logged)}
    assert len(found) == len(await judged(logged, "acme")) == 2
    assert found[True].relevant == {"d0": 0.0, "d1": 1.0, "d2": 1.0}
    assert found[False].where == anything
    # Nothing is relevant there.
    assert await judged(logged, "ben") == []


async def test_a_calibration_reads_recorded_feedback(logged: World) -> None:
    for number in range(20):
        key = await search(logged, f"kettle number{number % 4} w{number}")
        grades: Any = {f"d{number % 4}": 1}
        await logged.corpus.record_feedback(owner_id="acme", search_id=key, grades=grades)
    found = await logged.corpus.calibrate(owner_id="acme", dry_run=True)
    assert (found.evidence["source"], found.evidence["queries"]) == ("feedback", 20)
    with pytest.raises(ValidationError, match="0 judged queries"):
        await logged.corpus.calibrate(owner_id="mallory")


async def age(world: World, days: int) -> None:
    async with world.stack.service.session() as session:
        await session.execute(
            text("UPDATE llmstack.search_log SET created_at = created_at - make_interval(days => :days)"),
            {"days": days},
        )
        await session.commit()


async def test_the_log_keeps_its_retention_by_itself(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_log, "DELETED_AT_ONCE", 2)
    first = make_world(search_log=True, search_log_retention=30)
    for _ in range(5):
        await search(first)
    await first.corpus.settle()
    await age(first, 31)
    kept = await search(first)
    await first.corpus.settle()
    # It looks once an hour; another process looks when it first writes.
    assert await rows(first) == 6
    second = make_world(search_log=True, search_log_retention=30)
    last = await search(second)
    await second.corpus.settle()
    assert [one.id for one in (await first.corpus.searches(owner_id="acme")).items] == [last, kept]


async def test_purging_takes_what_is_old_enough(logged: World) -> None:
    await search(logged)
    await logged.corpus.settle()
    await age(logged, 3)
    await search(logged)
    assert await logged.corpus.purge_search_log(older_than=dt.timedelta(days=2)) == 1
    assert await logged.corpus.purge_search_log(older_than=dt.timedelta.max) == 0
    assert await logged.corpus.purge_search_log() == 1
    with pytest.raises(ValidationError, match="older_than"):
        await logged.corpus.purge_search_log(older_than=dt.timedelta(days=-1))


async def test_a_full_queue_drops_counts_and_says_so_once(
    logged: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(search_log, "QUEUED_AT_MOST", 2)
    monkeypatch.setattr(search_log, "LINGER", 60.0)
    with caplog.at_level(logging.WARNING, "llmstack"):
        ids = [(await logged.corpus.search(owner_id="acme", query="kettle")).search_id for _ in range(5)]
    assert [key is not None for key in ids] == [True, True, False, False, False]
    assert logged.corpus._log.dropped == 3
    assert len([one for one in caplog.records if "search log loses records" in one.message]) == 1
    await logged.corpus.settle()
    assert await rows(logged) == 2


async def test_a_log_that_cannot_be_written_fails_no_search_and_loses_nothing_at_once(
    logged: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_log, "LINGER", 0.0)
    monkeypatch.setattr(search_log, "PAUSE_AFTER_FAILURE", 60.0)
    log = logged.corpus._log
    async with logged.stack.service.session() as session:
        await session.execute(text("ALTER TABLE llmstack.search_log RENAME TO hidden"))
        await session.commit()
    await search(logged)
    async with asyncio.timeout(10):
        while log._failures == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert log.waiting == 1
    async with logged.stack.service.session() as session:
        await session.execute(text("ALTER TABLE llmstack.hidden RENAME TO search_log"))
        await session.commit()
    assert await logged.corpus.search(owner_id="acme", query="kettle")
    await logged.corpus.settle()
    assert (await rows(logged), log.waiting, log.dropped) == (2, 0, 0)
    async with logged.stack.service.session() as session:
        await session.execute(text("ALTER TABLE llmstack.search_log RENAME TO hidden"))
        await session.commit()
    await search(logged)
    with caplog.at_level(logging.WARNING, "llmstack"):
        await logged.corpus.settle()
    assert (log.waiting, log.dropped) == (0, 1)
    assert "could not be written" in caplog.text


async def test_a_writer_that_is_killed_loses_no_record(logged: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await search(logged)
    log = logged.corpus._log
    assert log._task is not None
    log._task.cancel()
    await asyncio.wait([log._task])
    await search(logged)
    await logged.corpus.settle()
    assert await rows(logged) == 2


async def test_closing_writes_what_is_waiting(make_world: MakeWorld, world: World) -> None:
    short = make_world(search_log=True)
    await search(short)
    assert await rows(world) == 0
    await short.stack.close()
    assert await rows(world) == 1


async def test_it_is_written_without_anybody_waiting_for_it(logged: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_log, "LINGER", 0.01)
    await search(logged)
    async with asyncio.timeout(10):
        while await rows(logged) == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_odd_queries_are_logged_as_far_as_postgresql_can_hold_them(logged: World) -> None:
    await search(logged, "a\x00b \ud800 kettle")
    await search(logged, "kettle " * 5_000)
    page = await logged.corpus.searches(owner_id="acme")
    assert [len(one.query) for one in page.items] == [search_log.QUERY_CHARACTERS, 12]
