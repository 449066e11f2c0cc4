"""Units of work: committed whole, rolled back whole, run again whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from llmstack.db import CorpusStatistics, Database, Service, translate
from llmstack.db.database import Isolation
from llmstack.db.translate import RETRYABLE, sqlstate, translating, violated_constraint
from llmstack.errors import Conflict
from llmstack.settings import Settings

Work = Callable[[AsyncSession], Awaitable[int]]


def row(corpus: str, count: int = 0) -> CorpusStatistics:
    return CorpusStatistics(corpus=corpus, row_count=count, average_length=1.0, sampled_share=1.0)


async def add_rows(service: Service, *corpora: str) -> None:
    async with service.session() as session, session.begin():
        session.add_all([row(corpus) for corpus in corpora])


async def counts(service: Service) -> dict[str, int]:
    async with service.session() as session:
        rows = await session.scalars(select(CorpusStatistics))
        return {one.corpus: one.row_count for one in rows}


def set_count(corpus: str, count: int) -> Any:
    return update(CorpusStatistics).where(CorpusStatistics.corpus == corpus).values(row_count=count)


async def test_a_unit_of_work_is_committed_and_returns_its_result(llmstack_service: Service) -> None:
    async def work(session: AsyncSession) -> str:
        session.add(row("a"))
        return "done"

    assert await llmstack_service.transaction(work) == "done"
    assert await counts(llmstack_service) == {"a": 0}


async def test_a_unit_of_work_that_raises_leaves_nothing_and_is_not_repeated(
    llmstack_service: Service,
) -> None:
    runs = 0

    async def work(session: AsyncSession) -> None:
        nonlocal runs
        runs += 1
        session.add(row("a"))
        await session.flush()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await llmstack_service.transaction(work)
    assert (runs, await counts(llmstack_service)) == (1, {})


async def test_a_session_that_is_not_committed_is_rolled_back(llmstack_service: Service) -> None:
    async with llmstack_service.session() as session:
        session.add(row("a"))
        await session.flush()
    assert await counts(llmstack_service) == {}


async def test_both_of_two_serializable_units_that_conflict_succeed(llmstack_service: Service) -> None:
    await add_rows(llmstack_service, "a", "b")
    both_have_read = asyncio.Barrier(2)
    runs = {"a": 0, "b": 0}

    def unit(mine: str) -> Work:
        async def work(session: AsyncSession) -> int:
            runs[mine] += 1
            total = await session.scalar(select(func.sum(CorpusStatistics.row_count)))
            if runs[mine] == 1:
                await both_have_read.wait()
            await session.execute(set_count(mine, int(total or 0) + 1))
            return int(total or 0)

        return work

    transaction = llmstack_service.transaction
    await asyncio.gather(*(transaction(unit(name), isolation="SERIALIZABLE") for name in "ab"))
    assert sorted(runs.values()) == [1, 2]
    assert sorted((await counts(llmstack_service)).values()) == [1, 2]


async def test_both_units_of_a_deadlock_succeed(llmstack_service: Service) -> None:
    await add_rows(llmstack_service, "a", "b")
    both_hold_one = asyncio.Barrier(2)
    runs = {"ab": 0, "ba": 0}

    def unit(order: str) -> Work:
        async def work(session: AsyncSession) -> int:
            runs[order] += 1
            await session.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
            for position, name in enumerate(order):
                increased = CorpusStatistics.row_count + 1
                await session.execute(set_count(name, increased))  # type: ignore[arg-type]
                if runs[order] == 1 and position == 0:
                    await both_hold_one.wait()
            return 0

        return work

    await asyncio.gather(*(llmstack_service.transaction(unit(order)) for order in runs))
    assert sorted(runs.values()) == [1, 2]
    assert await counts(llmstack_service) == {"a": 2, "b": 2}


@pytest.mark.parametrize("state", sorted(RETRYABLE))
async def test_repetition_is_bounded_and_ends_as_a_conflict(llmstack_database: Database, state: str) -> None:
    runs = 0

    async def work(session: AsyncSession) -> None:
        nonlocal runs
        runs += 1
        await session.execute(text(f"DO $$ BEGIN RAISE 'no' USING ERRCODE = '{state}'; END $$"))

    async with Database(llmstack_database.engine.url, settings=Settings(transaction_attempts=3)) as database:
        with pytest.raises(Conflict, match="meanwhile: no") as caught:
            await database.service().transaction(work)
    assert runs == 3
    assert isinstance(caught.value.__cause__, DBAPIError)
    assert sqlstate(caught.value.__cause__) == state


async def test_a_conflict_that_the_unit_of_work_has_translated_is_repeated_too(
    llmstack_service: Service,
) -> None:
    runs = 0

    async def work(session: AsyncSession) -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            with translating():
                await session.execute(text("DO $$ BEGIN RAISE 'no' USING ERRCODE = '40001'; END $$"))
        return runs

    assert await llmstack_service.transaction(work) == 2


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_the_isolation_level_holds_for_one_transaction(llmstack_service: Service, isolation: Isolation) -> None:
    async def level(session: AsyncSession) -> Any:
        return await session.scalar(text("SHOW transaction_isolation"))

    assert await llmstack_service.transaction(level, isolation=isolation) == isolation.lower()
    assert await llmstack_service.transaction(level) == "read committed"


async def test_an_isolated_transaction_still_reaches_the_services_schema(llmstack_database: Database) -> None:
    async def schema(session: AsyncSession) -> Any:
        return (await session.connection()).sync_engine.get_execution_options()["schema_translate_map"]

    found = await llmstack_database.service(schema="Support").transaction(schema, isolation="SERIALIZABLE")
    assert found == {"llmstack": "Support"}


async def test_a_violated_constraint_becomes_the_error_registered_for_it(
    llmstack_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(translate._CONSTRAINTS, "pk_corpus_statistics", lambda: Conflict("this corpus exists"))
    await add_rows(llmstack_service, "a")
    with pytest.raises(Conflict, match="this corpus exists"):
        await add_rows(llmstack_service, "a")


async def test_a_violated_constraint_that_nobody_registered_passes_through(llmstack_service: Service) -> None:
    await add_rows(llmstack_service, "a")
    with pytest.raises(IntegrityError) as caught:
        await add_rows(llmstack_service, "a")
    assert violated_constraint(caught.value) == "pk_corpus_statistics"


async def test_work_in_the_rolled_back_session_survives_its_own_commits(
    llmstack_session: AsyncSession,
) -> None:
    llmstack_session.add(row("a"))
    await llmstack_session.commit()
    llmstack_session.add(row("b"))
    await llmstack_session.rollback()
    assert list(await llmstack_session.scalars(select(CorpusStatistics.corpus))) == ["a"]


async def test_the_rolled_back_session_keeps_nothing(llmstack_session: AsyncSession, llmstack_service: Service) -> None:
    llmstack_session.add(row("a"))
    await llmstack_session.commit()
    assert await counts(llmstack_service) == {}
