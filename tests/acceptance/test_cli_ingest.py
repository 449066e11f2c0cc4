"""What `llmstack ingest` says of the files that it does not read, and how it is told to read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_support import CommandLine, HereCommandLine

OWNER = ("--owner", "acme")
TEXT = ("--embedder", "none")
RUSSIAN = "Все люди рождаются свободными и равными."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A text, and files of kinds that are not read."""
    place = tmp_path / "files"
    (place / "deep").mkdir(parents=True)
    (place / "a.txt").write_text("The canteen opens at noon.")
    for name in ("one.png", "two.png", "deep/three.PNG", "film.mp4", "deep/NOTES"):
        (place / name).write_bytes(b"x")
    (place / "__init__.py").write_text("")
    (place / "blank.py").write_text("\n")
    return place


@pytest.fixture
def nowhere() -> CommandLine:
    """A dry run needs no database."""
    return HereCommandLine("postgresql://nobody@127.0.0.1:1/nothing")


KINDS = {".png": 3, "empty": 2, ".mp4": 1, "without a known name": 1}


@pytest.mark.parametrize("arguments", [TEXT, ("--dry-run",)], ids=["ingest", "dry run"])
def test_what_is_passed_over_is_counted_by_kind(here: HereCommandLine, folder: Path, arguments: tuple[str]) -> None:
    done = here.run("ingest", folder, *OWNER, *arguments)
    assert done.status == 0
    assert done.output.splitlines()[-1].startswith("7 passed over: 3 .png, 2 empty, 1 ")
    assert "film" not in done.output
    told = here.run("ingest", folder, *OWNER, *arguments, "--json").json["passed_over"]
    assert told == {"count": 7, "kinds": KINDS}


def test_verbose_names_each(nowhere: CommandLine, folder: Path) -> None:
    arguments = ("ingest", folder, *OWNER, "--dry-run", "--verbose")
    told = nowhere.run(*arguments, "--json").json["passed_over"]["files"]
    assert {Path(one["path"]).name: one["kind"] for one in told} == {
        "NOTES": "without a known name",
        "__init__.py": "empty",
        "blank.py": "empty",
        "film.mp4": ".mp4",
        "one.png": ".png",
        "three.PNG": ".png",
        "two.png": ".png",
    }
    assert nowhere.run(*arguments).output.count("passed over  ") == 7


def test_kinds_cannot_steer_the_terminal_or_flood_it(nowhere: CommandLine, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"file.\x1b[3{number}m").write_text("x")
    done = nowhere.run("ingest", tmp_path, *OWNER, "--dry-run", "--verbose")
    assert "\x1b" not in done.output
    assert done.output.splitlines()[-1].endswith(", and 8 kinds more")


def test_an_empty_file_that_is_named_is_passed_over_too(nowhere: CommandLine, folder: Path) -> None:
    done = nowhere.run("ingest", folder / "__init__.py", *OWNER, "--dry-run")
    assert (done.status, done.output.splitlines()) == (0, ["0 files: nothing to read", "1 passed over: 1 empty"])


def test_a_folder_of_which_nothing_is_read_is_no_failure(nowhere: CommandLine, folder: Path) -> None:
    done = nowhere.run("ingest", folder / "deep", *OWNER, "--dry-run")
    assert done.status == 0
    assert done.output.splitlines()[0] == "0 files: nothing to read"


def test_a_mailbox_becomes_a_document_for_each_message(here: HereCommandLine, tmp_path: Path) -> None:
    message = (
        "From ann Thu Jan  1 00:00:00 2026\nFrom: ann@example.org\nMessage-ID: <{0}@x>\nSubject: S{0}\n\nBody {0}\n\n"
    )
    (tmp_path / "a.mbox").write_text("".join(map(message.format, (1, 2))))
    arguments = ("ingest", tmp_path / "a.mbox", *OWNER, *TEXT, "--relative-to", tmp_path)
    first = here.run(*arguments)
    assert first.output.splitlines()[-1] == "1 file with 2 documents: 2 added"
    (tmp_path / "a.mbox").write_text("".join(map(message.format, (1, 2, 3))))
    files = here.run(*arguments, "--json").json["files"]
    assert [(one["id_at_origin"], one["part"], one["outcome"]) for one in files] == [
        ("a.mbox#1@x", "1@x", "unchanged"),
        ("a.mbox#2@x", "2@x", "unchanged"),
        ("a.mbox#3@x", "3@x", "added"),
    ]


def test_an_uncertain_encoding_is_refused_until_it_is_named(here: HereCommandLine, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Да".encode("koi8-r"))
    refused = here.run("ingest", tmp_path, *OWNER, *TEXT)
    assert refused.status == 1
    assert "its encoding is uncertain" in refused.output
    assert "name it by --encoding" in " ".join(refused.output.split())
    assert here.run("ingest", tmp_path, *OWNER, *TEXT, "--encoding", "KOI8-R").status == 0
    shown = here.run("documents", "show", tmp_path / "a.txt", *OWNER, "--chunks", "--json").json
    assert shown["metadata"] == {"encoding": "koi8-r"}
    assert [chunk["content"] for chunk in shown["chunks"]] == ["Да"]
    wrong = here.run("ingest", tmp_path, *OWNER, *TEXT, "--encoding", "klingon")
    assert (wrong.status, "'klingon' is unknown" in wrong.errors) == (2, True)


def test_a_text_in_an_old_encoding_is_found_by_its_words(here: HereCommandLine, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(RUSSIAN.encode("cp1251"))
    assert here.run("ingest", tmp_path, *OWNER, *TEXT).status == 0
    (hit,) = here.run("search", "свободными", *OWNER, *TEXT, "--json").json["hits"]
    assert hit["content"] == RUSSIAN


def test_links_out_of_the_folder_are_followed_on_request(nowhere: CommandLine, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("outside")
    os.symlink(tmp_path / "outside.txt", folder / "link.txt")
    arguments = ("ingest", folder, *OWNER, "--dry-run", "--json")
    assert nowhere.run(*arguments).json["passed_over"]["kinds"] == {**KINDS, "link out of its folder": 1}
    followed = nowhere.run(*arguments, "--follow-links").json
    assert [Path(one["path"]).name for one in followed["files"]] == ["a.txt", "link.txt"]


def test_a_file_has_its_time(nowhere: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<div>" * 300_000)
    (tmp_path / "b.txt").write_text("read all the same")
    done = nowhere.run("ingest", tmp_path, *OWNER, "--dry-run", "--time-limit", "0.1", "--json")
    late, read = done.json["files"]
    assert late["note"] == "takes longer than 0.1 seconds to read; --time-limit gives it more"
    assert (done.status, read["outcome"]) == (1, "readable")
    assert nowhere.run("ingest", tmp_path, *OWNER, "--dry-run", "--time-limit", "0").status == 2
