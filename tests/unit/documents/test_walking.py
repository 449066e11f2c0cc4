"""Which files of a folder are read, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from file_support import Writer, read_file

from llmstack.documents.readers import sources, walk
from llmstack.errors import ValidationError


def walked(*paths: Path, follow_links: bool = False) -> tuple[list[str], dict[str, str]]:
    """The names of what is read, and the kind of each file that is passed over."""
    rest: dict[str, str] = {}

    def passed_over(path: Path, kind: str) -> None:
        assert path.name not in rest
        rest[path.name] = kind

    return [path.name for path in walk(paths, passed_over=passed_over, follow_links=follow_links)], rest


def test_walk_finds_readable_files_in_order_and_names_the_rest(write: Writer, tmp_path: Path) -> None:
    left_out = [".hidden.md", ".git/x.md", "node_modules/x.js", "a/__pycache__/x.py", "env/pyvenv.cfg", "env/x.py"]
    for name in ["b.md", "a/z.py", "a/b/c.txt", "a.txt", *left_out, "picture.PNG", "a/NOTES"]:
        write(name, "x")
    write("binary.txt", b"\x00\x01")
    write("a/__init__.py", "")
    os.mkfifo(tmp_path / "pipe.txt")
    found, rest = walked(tmp_path)
    assert found == ["a.txt", "b.md", "z.py", "c.txt"]
    assert rest == {
        "NOTES": "without a known name",
        "__init__.py": "empty",
        "binary.txt": ".txt that is binary",
        "picture.PNG": ".png",
        "pipe.txt": "not a regular file",
    }


def test_links_that_leave_the_folder_are_followed_on_request(write: Writer, tmp_path: Path) -> None:
    write("inside/a.md", "x")
    secret = write("outside/secret.md", "x")
    write("outside/folder/deep.md", "x")
    os.symlink(secret, tmp_path / "inside" / "link.md")
    os.symlink("/dev/zero", tmp_path / "inside" / "zero.txt")
    os.symlink(tmp_path / "outside" / "folder", tmp_path / "inside" / "linked")
    found, rest = walked(tmp_path / "inside")
    assert found == ["a.md"]
    assert rest == {
        "link.md": "link out of its folder",
        "linked": "link to a folder",
        "zero.txt": "not a regular file",
    }
    found, rest = walked(tmp_path / "inside", follow_links=True)
    assert found == ["a.md", "link.md", "deep.md"]
    assert rest == {"zero.txt": "not a regular file"}


@pytest.mark.parametrize("follow_links", [False, True])
def test_walk_survives_links_in_a_circle_and_dangling_ones(write: Writer, tmp_path: Path, follow_links: bool) -> None:
    file = write("a/x.md", "x")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(tmp_path / "gone.md", tmp_path / "dangling.md")
    os.symlink(file, tmp_path / "again.md")
    found, rest = walked(tmp_path, follow_links=follow_links)
    assert found == ["again.md"]
    assert rest["dangling.md"] == "link to nothing"


def test_a_folder_that_is_a_link_is_walked_where_it_is_named(write: Writer, tmp_path: Path) -> None:
    write("real/a.md", "x")
    os.symlink(tmp_path / "real", tmp_path / "link")
    assert walked(tmp_path / "link") == (["a.md"], {})


def test_walk_gives_a_named_file_once_and_whatever_it_is(write: Writer, tmp_path: Path) -> None:
    odd = write("a.xyz", "x")
    assert walked(odd, odd) == (["a.xyz"], {})
    with pytest.raises(ValidationError, match="does not exist"):
        walked(tmp_path / "none")


def test_what_is_text_is_told_by_the_encoding_that_is_named(write: Writer, tmp_path: Path) -> None:
    write("wide.txt", "Grüße".encode("utf-16-le"))
    write("binary.txt", b"\x00\x01\x02")
    paths = [tmp_path]
    told: list[Path] = []
    found = list(walk(paths, passed_over=lambda path, kind: told.append(path), encoding="cp1252"))
    assert (found, [path.name for path in told]) == ([], ["binary.txt", "wide.txt"])
    found = list(walk(paths, passed_over=lambda path, kind: None, encoding="utf-16-le"))
    assert [path.name for path in found] == ["binary.txt", "wide.txt"]
    assert read_file(tmp_path / "wide.txt", encoding="utf-16-le").text == "Grüße"
    with pytest.raises(ValidationError, match=r"binary\.txt is binary"):
        read_file(tmp_path / "binary.txt", encoding="cp1252")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_only_regular_files_are_read(tmp_path: Path, device: str) -> None:
    os.symlink(device, tmp_path / "a.txt")
    os.mkfifo(tmp_path / "b.txt")
    for name in ("a.txt", "b.txt"):
        with pytest.raises(ValidationError, match=f"{name} is not a regular file"):
            list(sources(tmp_path / name))


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.ipynb", "a.rtf", "a.eml"])
def test_a_text_larger_than_a_document_is_not_read(write: Writer, name: str) -> None:
    with pytest.raises(ValidationError, match=r"too large: it holds 1,001 bytes; 1,000 are read, .*MAX_TEXT_BYTES"):
        list(sources(write(name, "x" * 1001), max_bytes=1000))
