"""`llmstack calibrate`, `searches`, `feedback` and `reweigh`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_support import HereCommandLine

OWNER = ("--owner", "acme")
TEXT = ("--embedder", "none")


@pytest.fixture
def notes(here: HereCommandLine, tmp_path: Path) -> HereCommandLine:
    """Texts that say something of a word often, and titles that are about it."""
    for number in range(25):
        (tmp_path / f"topic{number}.txt").write_text("filler " * 30)
        (tmp_path / f"other{number}.txt").write_text(f"topic{number} " * 3 + "filler " * 20)
    assert here.run("ingest", tmp_path, *OWNER, *TEXT, "--relative-to", tmp_path).status == 0
    return here


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    path = tmp_path / "judged.jsonl"
    lines = [{"owner_id": "acme", "query": f"topic{n}", "relevant": {f"other{n}.txt": 1}} for n in range(25)]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


def test_it_calibrates_shows_and_undoes(notes: HereCommandLine, judged: Path) -> None:
    tried = notes.run("calibrate", "--judged", judged, *TEXT, "--dry-run", "--json").json
    assert (tried["id"], tried["evidence"]["queries"], tried["evidence"]["source"]) == (None, 25, "given")
    assert notes.run("calibrate", "--show", *TEXT).output == "there is no calibration\n"
    done = notes.run("calibrate", "--judged", judged, *TEXT)
    assert done.status == 0
    assert "25 queries" in done.output
    assert "nDCG@10" in done.output
    (shown,) = notes.run("calibrate", "--show", *TEXT, "--json").json["calibrations"]
    assert shown["after"] == tried["after"]
    assert notes.run("calibrate", "--undo", *TEXT, "--json").json["undone_at"] is not None
    again = notes.run("calibrate", "--undo", *TEXT)
    assert (again.status, again.errors) == (1, "error: there is no calibration to undo\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "line 1 is not"),
        ("[1]", "line 1 is not"),
        ('{"query": "a", "relevant": {"b": 1}}', "line 1 is not"),
        ('{"owner_id": "acme", "query": "a", "relevant": {"b": -1}}', "a grade is a number"),
        ('{"owner_id": "acme", "query": "a", "relevant": ["b"]}', "1 judged queries are too few; 20 are needed"),
        ("", "0 judged queries are too few"),
    ],
)
def test_a_file_that_it_cannot_use_is_named_by_line(
    notes: HereCommandLine, tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    done = notes.run("calibrate", "--judged", path, *TEXT)
    assert done.status == 2
    assert said in done.errors


def test_verbs_that_exclude_one_another_are_wrong_usage(notes: HereCommandLine, judged: Path) -> None:
    for options in (("--show", "--undo"), ("--undo", "--dry-run"), ("--show", "--judged", judged)):
        assert notes.run("calibrate", *options, *TEXT).status == 2
    assert "cannot be read" in notes.run("calibrate", "--judged", "nowhere.jsonl", *TEXT).errors


def test_searches_are_listed_and_graded(notes: HereCommandLine) -> None:
    assert notes.run("searches", *OWNER, *TEXT).output == "0 of 0 logged searches\n"
    notes.run("search", "topic3", *OWNER, *TEXT, LLMSTACK_SEARCH_LOG="true")
    (search,) = notes.run("searches", *OWNER, *TEXT, "--json").json["searches"]
    assert search["query"] == "topic3"
    graded = notes.run("feedback", search["id"], "other3.txt=2", *OWNER, *TEXT)
    assert (graded.status, graded.output) == (0, "recorded 1 grade\n")
    listed = notes.run("searches", *OWNER, *TEXT)
    assert "topic3" in listed.output
    assert "1 of 1 logged search" in listed.output
    for bad in ("other3.txt", "other3.txt=x", "=1", "absent=1", "other3.txt=-1"):
        assert notes.run("feedback", search["id"], bad, *OWNER, *TEXT).status == 2
    assert notes.run("feedback", search["id"], "other3.txt=1", "--owner", "mallory", *TEXT).status == 1
    too_few = notes.run("calibrate", *OWNER, *TEXT)
    assert (too_few.status, "1 judged queries are too few" in too_few.errors) == (2, True)


def test_parameters_are_set_and_refused(notes: HereCommandLine) -> None:
    done = notes.run("reweigh", "--k1", "0.9", "--b", "0.4", "--context-weight", "2", *TEXT, "--json")
    assert done.json["rewritten"] >= 50
    assert notes.run("reweigh", *TEXT).output == "rewrote the weights of 0 rows\n"
    refused = notes.run("reweigh", "--b", "2", *TEXT)
    assert (refused.status, refused.errors) == (2, "error: b: it must be from 0 to 1, not 2.0\n")
