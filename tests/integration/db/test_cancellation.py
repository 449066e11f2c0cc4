"""A cancelled task gives back its connection, clean."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import QueuePool

from llmstack.db import CorpusStatistics, Database, Service
from llmstack.settings import Settings

CANCELLATIONS = 200
_BUSY = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
"""


def row(number: int) -> CorpusStatistics:
    return CorpusStatistics(corpus=f"c{number}", row_count=1, average_length=1.0, sampled_share=1.0)


async def work(session: AsyncSession, number: int) -> None:
    session.add(row(number))
    await session.flush()
    await session.execute(text("SELECT pg_sleep(0.005)"))
    session.add(row(number + 1000))
    await session.flush()
    await asyncio.sleep(0.002)


async def in_a_transaction(service: Service, number: int) -> None:
    await service.transaction(lambda session: work(session, number))


async def in_a_session(service: Service, number: int) -> None:
    async with service.session() as session:
        await work(session, number)
        await session.commit()


async def by_single_statements(service: Service, _number: int) -> None:
    async with service.single_statements() as session:
        await session.execute(text("SELECT pg_sleep(0.005)"))
        await session.execute(text("SELECT pg_sleep(0.002)"))


async def cancel_at_random_moments(run: Callable[[int], Awaitable[None]]) -> int:
    """Start one task after another, cancel each after up to 15 ms; return how many were really cancelled."""
    moments = random.Random(7)
    tasks: list[asyncio.Task[Any]] = []

    async def one(number: int) -> None:
        task = asyncio.ensure_future(run(number))
        tasks.append(task)
        await asyncio.sleep(moments.uniform(0, 0.015))
        task.cancel()
        if number % 3 == 0:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])

    limit = asyncio.Semaphore(5)

    async def limited(number: int) -> None:
        async with limit:
            await one(number)

    await asyncio.gather(*(limited(number) for number in range(CANCELLATIONS)))
    return sum(task.cancelled() for task in tasks)


@pytest.mark.parametrize(
    ("run", "is_host"),
    [
        (in_a_transaction, False),
        (in_a_session, False),
        (by_single_statements, False),
        # On a host's engine they are one transaction, which leaving has to end.
        (by_single_statements, True),
    ],
)
async def test_200_cancellations_leak_no_connection(
    llmstack_database: Database, run: Callable[[Service, int], Awaitable[None]], is_host: bool
) -> None:
    settings = Settings(pool_size=4, max_overflow=0, pool_timeout=5)
    async with Database(llmstack_database.engine.url, settings=settings) as owner:
        database = Database(engine=owner.engine) if is_host else owner
        service = database.service()
        cancelled = await cancel_at_random_moments(lambda number: run(service, number))
        assert cancelled > CANCELLATIONS / 4
        pool = database.engine.pool
        assert isinstance(pool, QueuePool)
        await eventually(lambda: as_coroutine(pool.checkedout()))
        async with llmstack_database.engine.connect() as observer:
            await observer.execution_options(isolation_level="AUTOCOMMIT")
            await eventually(lambda: observer.scalar(text(_BUSY)))
        await asyncio.gather(*(in_a_transaction(service, 5000 + number) for number in range(8)))
        async with service.session() as session:
            rows = await session.scalar(select(func.count()).select_from(CorpusStatistics))
        assert rows is not None
        assert rows % 2 == 0


async def as_coroutine(value: int) -> int:
    return value


async def eventually(read: Callable[[], Awaitable[Any]]) -> None:
    """Wait up to two seconds for zero: the server needs a moment to notice a closed connection."""
    for _ in range(100):
        if not (left := await read()):
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"{left} left")


async def test_a_cancelled_wait_for_the_pool_takes_no_connection(llmstack_database: Database) -> None:
    settings = Settings(pool_size=1, max_overflow=0)
    async with Database(llmstack_database.engine.url, settings=settings) as database:
        service = database.service()
        async with service.session() as session:
            await session.execute(text("SELECT 1"))
            waiting = asyncio.ensure_future(in_a_transaction(service, 1))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await in_a_transaction(service, 2)
        assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
