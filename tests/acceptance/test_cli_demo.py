"""`llmstack demo` and the embedded server: what a newcomer meets first."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import CommandLine

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def newcomer() -> Iterator[CommandLine]:
    """The command line without a database, with a new folder for the embedded server."""
    # Not tmp_path, whose parents are private: for root the server runs as another account.
    with tempfile.TemporaryDirectory(prefix="llmstack-test-") as folder:
        yield CommandLine(data_dir=Path(folder) / "data")


def test_the_demo_answers_three_questions_and_a_second_run_finds_nothing_new(newcomer: CommandLine) -> None:
    first = newcomer.run("demo", cwd=CHECKOUT)
    assert first.status == 0, first.errors
    assert "schema 'llmstack_demo' is migrated" in first.output
    assert " added; " in first.output
    assert sum(line.startswith("? ") for line in first.output.splitlines()) == 3
    assert sum(line.startswith(" 1. ") for line in first.output.splitlines()) == 3
    assert f"PostgreSQL 18 with its data in {newcomer.data_dir}" in first.errors
    second = newcomer.run("demo", cwd=CHECKOUT)
    assert " unchanged; " in second.output
    assert " added" not in second.output
    _run_what_it_proposes(newcomer, second.output)


def _run_what_it_proposes(newcomer: CommandLine, output: str) -> None:
    _, _, proposed = output.partition("Try next:\n")
    commands = [shlex.split(line)[1:] for line in proposed.splitlines()]
    runnable = [command for command in commands if not {"PATH", "WORDS"} & set(command)]
    assert [command[0] for command in commands] == ["search", "documents", "ingest", "search", "doctor"]
    assert [newcomer.run(*command).status for command in runnable] == [0, 0, 0]


def test_the_demo_runs_on_files_of_the_users_own_and_outside_a_checkout(newcomer: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "annual_report.txt").write_text("Revenue grew in every quarter of the year.")
    own = newcomer.run("demo", tmp_path, cwd=tmp_path)
    assert own.status == 0
    assert "1 file: 1 added; 1 chunk to search" in own.output
    assert "? annual report" in own.output
    installed = newcomer.run("demo", cwd=tmp_path)
    assert (installed.status, "llmstack/db/README.md" in installed.output) == (0, True)


def test_the_demo_leaves_the_database_of_the_environment_alone(
    newcomer: CommandLine, migrated: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("A note.")
    assert migrated.url is not None
    place: dict[str, Any] = {"LLMSTACK_DATABASE_URL": migrated.url, "LLMSTACK_SCHEMA": "llmstack"}
    assert newcomer.run("demo", tmp_path, **place).status == 0
    assert migrated.run("documents", "list", "--owner", "demo", "--json").json["total"] == 0
    given = newcomer.run("demo", tmp_path, "--url", migrated.url)
    assert given.status == 0
    assert migrated.url not in given.output + given.errors
    schema = ("--schema", "llmstack_demo")
    assert migrated.run("documents", "list", "--owner", "demo", "--json", *schema).json["total"] == 1


def test_on_the_embedded_server_ingest_and_search_migrate_by_themselves(newcomer: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "handbook.md").write_text("# Handbook\n\nParents take sixteen weeks of leave.\n")
    listed = newcomer.run("documents", "list", "--owner", "me")
    assert (listed.status, listed.errors.splitlines()[-1]) == (4, "try:   llmstack migrate")
    assert "nothing found" in newcomer.run("search", "leave", "--owner", "me").output
    assert newcomer.run("ingest", tmp_path, "--owner", "me").status == 0
    assert "sixteen weeks" in newcomer.run("search", "leave", "--owner", "me").output
    assert newcomer.run("doctor").status == 0


def test_the_data_folder_on_the_command_line_wins_over_the_environment(newcomer: CommandLine, tmp_path: Path) -> None:
    url = "postgresql://reader:hunter2@127.0.0.1:1/shop"
    done = newcomer.run(
        "migrate",
        "status",
        "--data-dir",
        newcomer.data_dir,
        LLMSTACK_DATABASE_URL=url,
        LLMSTACK_READER_URL=url,
    )
    assert (done.status, "kernel_0007" in done.output) == (0, True)
