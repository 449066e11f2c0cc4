"""`llmstack threads` over a few conversations."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_support import SCRIPT, CommandLine, Finished, HereCommandLine

OWNER = ("--owner", "acme")
TEXT = ("--embedder", "none")
CALL = {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": '{"lease": 42}'}}
RECORDS: list[dict[str, Any]] = [
    {"kind": "thread", "id_at_origin": "lease", "title": "The lease", "user_id": "ann"},
    {"kind": "message", "role": "user", "content": "When does it end?", "created_at": "2026-03-01T12:00:00Z"},
    {"kind": "message", "role": "assistant", "parts": [CALL], "model": "gpt-5"},
    {"kind": "message", "role": "tool", "content": "31 March", "tool_call_id": "c1"},
    {"kind": "message", "role": "assistant", "content": "The tenancy ends in March."},
    {"kind": "thread", "id_at_origin": "soup", "user_id": "bob"},
    {"kind": "message", "role": "user", "content": "What is for lunch, \x1b[31msoup?"},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two threads as they are exported."""
    return written(tmp_path / "threads.jsonl", *RECORDS)


def written(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return path


def names(done: Finished) -> list[str]:
    return sorted(one["id_at_origin"] for one in done.json["threads"])


def test_what_is_imported_is_listed_shown_and_found(here: HereCommandLine, file: Path) -> None:
    done = here.run("threads", "import", file, *OWNER, *TEXT)
    assert (done.status, done.output) == (0, "2 threads, 2 new: 5 messages stored\n")
    listed = here.run("threads", "list", *OWNER)
    assert listed.output.splitlines()[-1] == "2 of 2 threads"
    assert "assistant: The tenancy ends in March." in listed.output
    assert names(here.run("threads", "list", *OWNER, "--user", "ann", "--json")) == ["lease"]
    shown = here.run("threads", "show", "lease", *OWNER)
    assert "[1] user  2026-03-01" in shown.output
    assert 'calls lookup({"lease": 42})' in shown.output
    assert "answers c1" in shown.output
    by_id = here.run("threads", "show", here.run("threads", "show", "lease", *OWNER, "--json").json["id"], *OWNER)
    assert by_id.output == shown.output
    last = here.run("threads", "show", "lease", *OWNER, "--last", "1").output.splitlines()
    assert last[-2:] == [
        "the last 1 of 4 messages",
        "all of them: llmstack threads show lease --owner acme --last 4",
    ]
    assert "\x1b" not in here.run("threads", "show", "soup", *OWNER).output
    assert here.run("threads", "show", "lease", "--owner", "other").status == 1


def test_messages_are_searched_within_threads_users_and_roles(here: HereCommandLine, file: Path) -> None:
    here.run("threads", "import", file, *OWNER, *TEXT)

    def seqs(*arguments: object) -> list[tuple[str, int]]:
        hits = here.run("threads", "search", "march lunch end", *OWNER, *TEXT, "--json", *arguments).json["hits"]
        return sorted((hit["id_at_origin"], hit["seq"]) for hit in hits)

    assert seqs() == [("lease", 1), ("lease", 3), ("lease", 4), ("soup", 1)]
    assert seqs("--thread", "soup") == seqs("--user", "bob") == [("soup", 1)]
    assert seqs("--role", "user", "--since", "2026-03-02") == [("soup", 1)]
    assert here.run("threads", "search", "march", *OWNER, *TEXT, "--thread", "nowhere").status == 1
    shown = here.run("threads", "search", "tenancy", *OWNER, *TEXT).output.splitlines()
    assert shown[0].startswith(" 1. The lease  ")
    assert shown[1].strip().startswith("lease  message 4, assistant, ")
    assert shown[-1].endswith("mode text")


def test_an_export_can_be_imported_and_an_import_repeated(here: HereCommandLine, file: Path, tmp_path: Path) -> None:
    here.run("threads", "import", file, *OWNER, *TEXT)
    copy = tmp_path / "copy.jsonl"
    told = here.run("threads", "export", *OWNER, "--output", copy)
    assert (told.output, told.errors) == ("", f"exported 7 lines to {copy}\n")
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == ["copy.jsonl"]
    for said in ("2 new: 5 messages stored", "0 new: 0 messages stored, 5 there already"):
        done = here.run("threads", "import", copy, "--owner", "other", *TEXT)
        assert done.output == f"2 threads, {said}\n"
    assert here.run("threads", "export", "--owner", "other").output == copy.read_text()
    chosen = here.run("threads", "export", "lease", *OWNER, "--format", "openai")
    assert [one["role"] for one in json.loads(chosen.output)["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert here.run("threads", "export", "nowhere", *OWNER).status == 1
    assert here.run("threads", "export", *OWNER, "--output", tmp_path / "no" / "such").status == 2


def test_what_is_refused_is_named_with_its_line(here: HereCommandLine, tmp_path: Path) -> None:
    naive = {**RECORDS[1], "created_at": "2026-03-01T12:00:00"}
    file = written(tmp_path / "bad.jsonl", RECORDS[0], naive, RECORDS[3], "oops")
    done = here.run("threads", "import", file, *OWNER, *TEXT)
    assert done.status == 1
    rows = [line.split() for line in done.output.splitlines()]
    assert [row[:2] for row in rows if row and row[0].isdigit()][:2] == [["2", "lease"], ["4", "line:"]]
    assert done.output.splitlines()[-1] == "1 thread, 1 new: 1 message stored, 2 lines refused"
    mended = written(tmp_path / "good.jsonl", *RECORDS[:2], RECORDS[3])
    again = here.run("threads", "import", mended, *OWNER, *TEXT, "--json").json
    assert (again["messages"], again["known"], again["refused"]) == (1, 1, 0)
    (tmp_path / "latin.jsonl").write_bytes("{}\nü\n".encode("latin-1"))
    latin = here.run("threads", "import", tmp_path / "latin.jsonl", *OWNER, *TEXT)
    assert (latin.status, latin.errors) == (2, "error: file: line 2 is not UTF-8; convert the file\n")


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_of_messages_is_told_by_its_beginning(here: HereCommandLine, tmp_path: Path, indent: int) -> None:
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    (tmp_path / "chat.json").write_text(json.dumps(chat, indent=indent))
    assert here.run("threads", "import", tmp_path / "chat.json", *OWNER, *TEXT).status == 0
    (one,) = here.run("threads", "list", *OWNER, "--json").json["threads"]
    assert (one["message_count"], one["last_content"]) == (2, "hi")


def test_messages_are_appended_from_arguments_and_from_standard_input(migrated: CommandLine) -> None:
    made = migrated.run("threads", "append", "t", "hello", *OWNER, *TEXT, "--user", "ann", "--key", "k")
    assert (made.status, made.output) == (0, "made thread t; message 1 of t\n")
    command = [str(SCRIPT), "threads", "append", "t", *OWNER, *TEXT, "--role", "assistant", "--json"]
    piped = subprocess.run(command, env=migrated.environment(), input="hi\nthere\n", capture_output=True, text=True)
    assert json.loads(piped.stdout)["messages"][0]["seq"] == 2
    again = migrated.run("threads", "append", "t", "hello", *OWNER, *TEXT, "--key", "k")
    assert again.output == "message 1 of t, which was there\n"
    shown = migrated.run("threads", "show", "t", *OWNER, "--json").json
    assert [one["content"] for one in shown["messages"]] == ["hello", "hi\nthere"]
    assert migrated.run("threads", "append", "t", *OWNER, *TEXT).status == 2


def test_threads_are_deleted_restored_and_purged(here: HereCommandLine, file: Path) -> None:
    here.run("threads", "import", file, *OWNER, *TEXT)
    key = here.run("threads", "show", "lease", *OWNER, "--json").json["id"]
    gone = here.run("threads", "delete", "lease", "nowhere", *OWNER)
    assert (gone.status, gone.output) == (1, "deleted 1 thread\n")
    assert gone.errors == "error: owner 'acme' has no such thread: nowhere\n"
    assert names(here.run("threads", "list", *OWNER, "--deleted", "--json")) == ["lease"]
    refused = here.run("threads", "import", file, *OWNER, *TEXT)
    assert (refused.status, "restore it" in refused.output) == (1, True)
    assert here.run("threads", "restore", key, *OWNER, "--json").json["restored"] == [key]
    here.run("threads", "delete", key, *OWNER)
    assert here.run("threads", "purge", *OWNER).status == 2
    assert here.run("threads", "purge", *OWNER, "--yes", "--days", "1").output == "purged 0 threads\n"
    assert here.run("threads", "purge", *OWNER, "--yes").output == "purged 1 thread\n"
    assert here.run("threads", "restore", key, *OWNER).status == 1


def test_threads_are_summarised_by_name_or_as_they_are_due(here: HereCommandLine, file: Path) -> None:
    here.run("threads", "import", file, *OWNER, *TEXT)
    one = here.run("threads", "summarise", "lease", *OWNER, *TEXT)
    assert one.status == 0
    assert "messages 1 to 4\nWhen does it end?\nThe tenancy ends in March.\n" in one.output
    assert one.output.endswith("summarised 1 thread\n")
    assert here.run("threads", "summarise", "--due", *OWNER, *TEXT).output == "summarised 0 threads\n"
    found = here.run("threads", "search", "end tenancy", "--thread", "lease", *OWNER, *TEXT).output
    assert "summary of messages 1 to 4" in found
    refused = here.run("threads", "summarise", *OWNER)
    assert (refused.status, refused.errors) == (2, "error: name the threads, or give --due\n")
    failed = here.run("threads", "append", "lease", "And now?", *OWNER, *TEXT)
    assert failed.status == 0
    failed = here.run("threads", "summarise", "lease", *OWNER, *TEXT, "--model", "nobody/nothing", "--json")
    assert (failed.status, len(failed.json["failed"])) == (1, 1)
    assert "'nobody/nothing' failed" in failed.errors
