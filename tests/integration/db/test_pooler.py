"""Behind PgBouncer in transaction mode: each transaction may run on another server connection."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import NullPool

from llmstack.db import CorpusStatistics, Database, Service, migrate
from llmstack.db.urls import parse_url
from llmstack.errors import MigrationError, StatementTimeout
from llmstack.settings import Settings

SERVER_CONNECTIONS = 2
PID = text("SELECT pg_backend_pid()")


@pytest.fixture(scope="module")
def pooler_port(llmstack_server_url: str) -> Iterator[int]:
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("needs the program pgbouncer")
    server = parse_url(llmstack_server_url)
    host = str(server.query.get("host", server.host))
    target = f"host={host} port={server.query.get('port', server.port or 5432)}"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="llmstack-pooler-") as name:
        folder = Path(name)
        (folder / "users").write_text(f'"{server.username}" "{server.password or ""}"\n')
        (folder / "ini").write_text(
            "[databases]\n"
            f"* = {target}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {folder / 'users'}\n"
            f"pool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\nmax_client_conn = 200\n"
            "query_wait_timeout = 10\n"
        )
        with (folder / "log").open("w") as log:
            process = subprocess.Popen([program, str(folder / "ini")], stdout=log, stderr=log, **as_user(folder, host))
            try:
                wait_for(port, process, folder / "log")
                yield port
            finally:
                process.kill()
                process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def as_user(folder: Path, host: str) -> dict[str, Any]:
    """PgBouncer refuses to run as root: there, it runs as the account that can reach the server's socket."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwuid(Path(host).stat().st_uid) if host.startswith("/") else pwd.getpwnam("nobody")
    for path in (folder, *folder.iterdir()):
        os.chown(path, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    pytest.fail(log.read_text())


@pytest.fixture
def pooler_url(pooler_port: int, llmstack_database: Database) -> URL:
    url = llmstack_database.engine.url
    return URL.create(
        "postgresql", username=url.username, password=url.password, host="127.0.0.1", port=pooler_port,
        database=url.database,
    )  # fmt: skip


@pytest.fixture
async def service(pooler_url: URL) -> AsyncIterator[Service]:
    async with Database(pooler_url, settings=Settings(behind_pooler=True)) as database:
        yield database.service()


def row(corpus: str) -> CorpusStatistics:
    return CorpusStatistics(corpus=corpus, row_count=1, average_length=1.0, sampled_share=1.0)


async def test_many_sessions_share_few_server_connections(service: Service) -> None:
    async def unit(number: int) -> Any:
        async def work(session: AsyncSession) -> Any:
            session.add(row(f"c{number}"))
            await session.flush()
            return await session.scalar(PID)

        return await service.transaction(work)

    pids = await asyncio.gather(*(unit(number) for number in range(30)))
    assert 1 <= len(set(pids)) <= SERVER_CONNECTIONS
    async with service.session() as session:
        assert await session.scalar(select(func.count()).select_from(CorpusStatistics)) == 30


async def test_a_statement_is_repeated_by_one_session_on_another_server_connection(service: Service) -> None:
    statement = select(CorpusStatistics).where(CorpusStatistics.corpus == "c")
    async with service.session() as mover:
        await mover.scalars(statement)
        first = await mover.scalar(PID)
        await mover.commit()
        async with holding_server_connection(service, first):
            await mover.scalars(statement)
            second = await mover.scalar(PID)
            await mover.rollback()
        await mover.scalars(statement)
    assert first != second


def holding_server_connection(service: Service, pid: Any) -> Any:
    return _Holding(service, pid)


class _Holding:
    """Keeps a transaction open on the server connection `pid`, so that no other session gets that one."""

    def __init__(self, service: Service, pid: Any) -> None:
        self._sessions = [AsyncSession(service.engine) for _ in range(SERVER_CONNECTIONS)]
        self._pid = pid

    async def __aenter__(self) -> None:
        for session in self._sessions:
            if await session.scalar(PID) == self._pid:
                break
        for other in self._sessions:
            if other is not session:
                await other.close()

    async def __aexit__(self, *exception: object) -> None:
        for session in self._sessions:
            await session.close()


async def test_two_services_stay_apart_on_shared_server_connections(service: Service) -> None:
    other = service.database.service(schema="Other")
    async with service.engine.begin() as connection:
        await connection.execute(text('CREATE SCHEMA "Other"'))
        await connection.execute(
            text('CREATE TABLE "Other".corpus_statistics (LIKE llmstack.corpus_statistics INCLUDING ALL)')
        )

    async def add(place: Service, number: int) -> None:
        async with place.session() as session, session.begin():
            session.add(row(f"c{number}"))

    await asyncio.gather(*(add((service, other)[number % 2], number) for number in range(20)))
    for place, remainder in ((service, 0), (other, 1)):
        async with place.session() as session:
            found = await session.scalars(select(CorpusStatistics.corpus))
            assert set(found) == {f"c{number}" for number in range(20) if number % 2 == remainder}


async def test_isolation_levels_and_readers_work(service: Service) -> None:
    async def level(session: AsyncSession) -> Any:
        return await session.scalar(text("SHOW transaction_isolation"))

    assert await service.transaction(level, isolation="SERIALIZABLE") == "serializable"
    async with service.reader() as session:
        assert await session.scalar(text("SHOW transaction_read_only")) == "on"
    async with service.session() as session:
        assert await session.scalar(text("SHOW transaction_read_only")) == "off"
        assert await level(session) == "read committed"


async def test_single_statements_are_safe(service: Service) -> None:
    async with service.single_statements() as session:
        counts = [await session.scalar(select(func.count()).select_from(CorpusStatistics)) for _ in range(20)]
    assert counts == [0] * 20


async def test_a_slow_statement_is_still_a_statement_timeout(pooler_url: URL) -> None:
    settings = Settings(behind_pooler=True, statement_timeout=0.2)
    async with Database(pooler_url, settings=settings) as database:
        with pytest.raises(StatementTimeout, match="longer than statement_timeout"):
            async with database.service().session() as session:
                await session.execute(text("SELECT pg_sleep(5)"))
        async with database.service().session() as session:
            assert await session.scalar(text("SELECT 1")) == 1


async def test_no_client_connection_is_kept_open(service: Service) -> None:
    assert isinstance(service.database.engine.pool, NullPool)
    assert await service.database.check_pool() is None


async def test_cancelled_transactions_leave_every_server_connection_usable(service: Service) -> None:
    async def work(session: AsyncSession) -> None:
        session.add(row("never"))
        await session.flush()
        await session.execute(text("SELECT pg_sleep(0.05)"))
        raise AssertionError("the task was not cancelled")

    tasks = [asyncio.ensure_future(service.transaction(work)) for _ in range(10)]
    await asyncio.sleep(0.04)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5), service.session() as session:
        assert await session.scalar(select(func.count()).select_from(CorpusStatistics)) == 0


async def test_a_migration_through_the_pooler_is_refused_before_it_begins(service: Service) -> None:
    with pytest.raises(MigrationError, match="direct connection"):
        await migrate.upgrade(service.database.engine, schema="new", settings=service.database.settings)
