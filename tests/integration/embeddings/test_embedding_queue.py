"""What the queue promises: nothing lost, nothing twice, no bad text in the way of others."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_asyncio
from embedding_support import QUEUES, Counting, Queue, count_of, seconds_from_now, vector_of
from sqlalchemy import ClauseElement, delete, func, select, text, update

from llmstack.db import Service
from llmstack.embeddings import PendingCounts, ProcessResult
from llmstack.embeddings.queue import claim


@pytest_asyncio.fixture(params=QUEUES)
async def queue(request: pytest.FixtureRequest, llmstack_service: Service) -> Queue:
    """The queue of our chunks, and that of a host's notes."""
    made = QUEUES[request.param](llmstack_service)
    await made.prepare()
    return made


async def test_processing_stores_the_vector_of_every_waiting_row_and_empties_the_queue(
    queue: Queue,
) -> None:
    embeddings = queue.service_with(Counting())
    ids = await queue.add(["leave", "salary"])
    assert await embeddings.backfill() == 2
    assert await embeddings.process_pending() == ProcessResult(embedded=2, failed=0, remaining=0, set_aside=0)
    async with queue.service.session() as session:
        stored = {row.row_id: row.embedding for row in await session.scalars(select(queue.vectors))}
    assert stored[ids[0]] == pytest.approx(vector_of("\nleave"), rel=1e-3)
    assert stored[ids[1]] == pytest.approx(vector_of("\nsalary"), rel=1e-3)
    assert await embeddings.pending() == PendingCounts(waiting=0, leased=0, set_aside=0)


async def test_a_backfill_asks_once_for_each_wanted_row_without_vector_or_job(
    queue: Queue,
) -> None:
    embeddings = queue.service_with(Counting())
    ids = await queue.add(["embedded already", "deleted", "or a parent", "missing"])
    await embeddings.backfill()
    await embeddings.process_pending(limit=4)
    async with queue.service.session() as session:
        await session.execute(delete(queue.vectors).where(queue.vectors.row_id != ids[0]))
        for id_, values in zip(ids[1:3], queue.unwanted, strict=True):
            await session.execute(update(queue.rows).where(queue.rows.id == id_).values(values))
        await session.commit()
    assert await embeddings.backfill() == 1
    assert await embeddings.backfill() == 0
    assert (await queue.job_of(ids[3])).attempts == 0


async def test_processing_can_be_limited_to_an_owner_and_to_a_number_of_rows(
    queue: Queue,
) -> None:
    counting = Counting()
    embeddings = queue.service_with(counting, embedding_batch_size=2)
    await queue.add(["a1", "a2", "a3"], owner_id="a")
    await queue.add(["b1"], owner_id="b")
    assert await embeddings.backfill(owner_id="a") == 3
    assert await embeddings.backfill() == 1
    assert await embeddings.process_pending(owner_id="b") == ProcessResult(1, 0, 0, 0)
    assert counting.texts == ["\nb1"]
    assert await embeddings.process_pending(limit=2) == ProcessResult(2, 0, 1, 0)
    assert (await embeddings.pending(owner_id="b")).waiting == 0


async def test_workers_at_the_same_time_never_embed_a_row_twice(queue: Queue) -> None:
    counting = Counting(pause=0.005)
    workers = [queue.service_with(counting, embedding_batch_size=7, embedding_concurrency=3) for _ in range(2)]
    await queue.add([f"chunk {number}" for number in range(200)])
    await workers[0].backfill()
    results = await asyncio.gather(*(worker.process_pending() for worker in workers))
    assert sum(result.embedded for result in results) == 200
    assert len(counting.texts) == len(set(counting.texts)) == 200
    assert await count_of(queue.service, queue.vectors) == 200


async def test_one_poisonous_text_fails_alone(queue: Queue) -> None:
    embeddings = queue.service_with(Counting())
    ids = await queue.add(["first", "poison", "last"])
    await embeddings.backfill()
    assert await embeddings.process_pending() == ProcessResult(embedded=2, failed=1, remaining=1, set_aside=0)
    job = await queue.job_of(ids[1])
    assert job.attempts == 1
    assert "ValueError" in (job.last_error or "")


async def test_a_failed_job_waits_longer_each_time_and_is_set_aside_at_last(
    queue: Queue,
) -> None:
    counting = Counting()
    embeddings = queue.service_with(counting, embedding_attempts=3)
    [chunk_id] = await queue.add(["poison"])
    await embeddings.backfill()
    for pause in (5, 10):
        assert (await embeddings.process_pending()).failed == 1
        job = await queue.job_of(chunk_id)
        assert seconds_from_now(job.leased_until) == pytest.approx(pause, abs=2)
        assert (await embeddings.process_pending()).failed == 0
        await queue.end_leases()
    assert await embeddings.process_pending() == ProcessResult(0, 1, 0, 1)
    assert await embeddings.process_pending() == ProcessResult(0, 0, 0, 1)
    assert counting.calls == 3
    assert await embeddings.retry_set_aside(owner_id="another") == 0
    assert await embeddings.retry_set_aside() == 1
    assert await embeddings.pending() == PendingCounts(waiting=1, leased=0, set_aside=0)


async def test_a_claim_does_not_read_what_is_set_aside(queue: Queue) -> None:
    embeddings = queue.service_with(Counting())
    await queue.add([f"chunk {number}" for number in range(3000)])
    await embeddings.backfill()
    statement = claim(queue.table, await embeddings.space(), owner_id=None, limit=10, lease=300.0, attempts=5)
    assert isinstance(statement, ClauseElement)
    engine = queue.service.engine.sync_engine
    sql = statement.compile(engine, compile_kwargs={"literal_binds": True}, schema_translate_map=None)
    async with queue.service.session() as session:
        waiting = select(queue.jobs.row_id).order_by(queue.jobs.row_id).limit(5)
        aside = update(queue.jobs).where(queue.jobs.row_id.not_in(waiting))
        await session.execute(aside.values(attempts=5))
        await session.execute(text(f"ANALYZE {queue.place}.{queue.jobs.__tablename__}"))
        explain = text(
            "EXPLAIN (ANALYZE, FORMAT JSON) " + re.sub(r"(?<!:):(?!:)", r"\:", str(sql).replace("::", "\\:\\:"))
        )
        (plan,) = (await session.execute(explain)).scalar_one()
        await session.rollback()
    assert max(_rows_read(plan["Plan"], queue.jobs.__tablename__)) <= 10


def _rows_read(plan: dict[str, Any], table: str) -> Iterator[float]:
    """For each scan of the table: the rows that it gave or threw away."""
    if plan.get("Relation Name") == table and "Scan" in plan["Node Type"]:
        yield (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    for child in plan.get("Plans", ()):
        yield from _rows_read(child, table)


async def test_an_embedder_that_is_out_of_order_costs_few_calls_and_few_attempts(
    queue: Queue,
) -> None:
    counting = Counting()
    counting.broken = True
    embeddings = queue.service_with(counting, embedding_batch_size=10, embedding_concurrency=1)
    await queue.add([f"chunk {number}" for number in range(50)])
    await embeddings.backfill()
    result = await embeddings.process_pending()
    assert result == ProcessResult(embedded=0, failed=30, remaining=50, set_aside=0)
    assert counting.calls == 3 * (1 + 3)
    async with queue.service.session() as session:
        attempts = (await session.scalars(select(queue.jobs.attempts).where(queue.jobs.attempts > 0))).all()
    assert attempts == [1] * 9
    counting.broken = False
    await queue.end_leases()
    assert (await embeddings.process_pending()).embedded == 50


async def test_what_a_killed_worker_held_is_embedded_after_its_lease(queue: Queue) -> None:
    counting = Counting()
    embeddings = queue.service_with(counting)
    await queue.add(["held"])
    await embeddings.backfill()
    async with queue.service.session() as session:
        later = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, 60)
        await session.execute(update(queue.jobs).values(leased_until=later, attempts=1))
        await session.commit()
    assert await embeddings.pending() == PendingCounts(waiting=0, leased=1, set_aside=0)
    assert (await embeddings.process_pending()).embedded == 0
    await queue.end_leases()
    assert (await embeddings.process_pending()).embedded == 1
    assert await count_of(queue.service, queue.jobs) == 0


async def test_a_worker_that_lost_its_lease_stores_nothing(queue: Queue) -> None:
    counting = Counting(pause=0.2)
    embeddings = queue.service_with(counting)
    await queue.add(["old text"])
    await embeddings.backfill()
    running = asyncio.create_task(embeddings.process_pending())
    await counting.called.wait()
    async with queue.service.session() as session:
        await session.execute(update(queue.rows).values(content="new text"))
        await session.execute(update(queue.jobs).values(leased_until=None, attempts=0))
        await session.commit()
    await running
    assert counting.texts[-1] == "\nnew text"
    async with queue.service.session() as session:
        stored = (await session.scalars(select(queue.vectors))).one()
    assert stored.embedding == pytest.approx(vector_of("\nnew text"), rel=1e-3)


async def test_a_row_that_is_deleted_while_it_is_embedded_leaves_nothing(queue: Queue) -> None:
    counting = Counting(pause=0.2)
    embeddings = queue.service_with(counting)
    ids = await queue.add(["deleted", "hidden", "kept"])
    await embeddings.backfill()
    running = asyncio.create_task(embeddings.process_pending())
    await counting.called.wait()
    async with queue.service.session() as session:
        await session.execute(delete(queue.rows).where(queue.rows.id == ids[0]))
        await session.execute(update(queue.rows).where(queue.rows.id == ids[1]).values(deleted_at=func.now()))
        await session.commit()
    assert (await running).embedded == 2
    async with queue.service.session() as session:
        stored = {row.row_id: row.searchable for row in await session.scalars(select(queue.vectors))}
    assert stored == {ids[1]: False, ids[2]: True}
    assert await count_of(queue.service, queue.jobs) == 0


async def test_a_cancelled_worker_gives_its_leases_back(queue: Queue) -> None:
    counting = Counting(pause=30)
    embeddings = queue.service_with(counting)
    [chunk_id] = await queue.add(["slow"])
    await embeddings.backfill()
    running = asyncio.create_task(embeddings.process_pending())
    await counting.called.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    job = await queue.job_of(chunk_id)
    assert (job.attempts, job.leased_until) == (0, None)


async def test_neither_logs_nor_recorded_errors_quote_a_text(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    embeddings = queue.service_with(Counting())
    [chunk_id] = await queue.add(["poison of the private diary"])
    await embeddings.backfill()
    await embeddings.process_pending()
    error = (await queue.job_of(chunk_id)).last_error or ""
    assert "the model cannot read" in error
    assert "diary" not in error
    assert "diary" not in caplog.text


async def test_progress_tells_what_is_done_and_what_there_is_to_do(queue: Queue) -> None:
    embeddings = queue.service_with(Counting(), embedding_batch_size=2, embedding_concurrency=1)
    await queue.add(["one", "two", "three"])
    await embeddings.backfill()
    told: list[tuple[int, int]] = []
    await embeddings.process_pending(progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 3), (3, 3)]
