"""A reader in a process of its own may hang, take all memory or crash: its file fails, the next one is read."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from file_support import Writer, pdf_bytes

from llmstack.documents.readers import SourceText, read_apart, sources
from llmstack.errors import MissingExtra, ValidationError


async def read(path: Path, *, seconds: float = 60) -> SourceText:
    (source,) = sources(path)
    return await read_apart(source, seconds=seconds)


async def test_what_is_parsed_is_parsed_by_another_process(write: Writer) -> None:
    source = await read(write("a.html", "<title>T</title><p>text"))
    assert (source.text, source.title) == ("text", "T")
    assert (await read(write("a.txt", "plain"))).text == "plain"


def endless_pdf() -> bytes:
    """A page whose content takes many seconds to read."""
    return pdf_bytes(") Tj (a" * 400_000)


async def test_a_file_that_takes_too_long_fails_and_the_next_is_read(write: Writer) -> None:
    began = time.monotonic()
    with pytest.raises(ValidationError, match=r"a\.pdf takes longer than 0\.5 seconds to read; --time-limit"):
        await read(write("a.pdf", endless_pdf()), seconds=0.5)
    # Its start is not counted, and is far from what the page would take.
    assert time.monotonic() - began < 60
    assert (await read(write("b.pdf", pdf_bytes("Sick leave")))).text == "Sick leave"


@pytest.mark.parametrize("way", ["dies", "takes too much memory"])
async def test_a_reader_that_breaks_down_costs_its_file_alone(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    does = {"dies": "import os; os._exit(9)", "takes too much memory": "x = bytearray(20 << 30)"}[way]
    (tmp_path / "pypdf.py").write_text(does)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValidationError, match=r"a\.pdf cannot be read: its reader took more than 3 GB of memory, or"):
        await read(write("a.pdf", b"%PDF"))
    assert (await read(write("b.html", "<p>next"))).text == "next"


async def test_errors_of_the_process_arrive_as_they_were_raised(write: Writer) -> None:
    with pytest.raises(ValidationError, match=r"a\.pdf is not a readable PDF file") as caught:
        await read(write("a.pdf", b"broken"))
    assert (caught.value.field, caught.value.message.split()[1:3]) == ("path", ["is", "not"])


async def test_an_absent_library_is_named_from_there(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kreuzberg.py").write_text("raise ImportError('absent')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtra, match=r"llmstack\[files\]") as caught:
        await read(write("a.rtf", rb"{\rtf1 x}"))
    assert caught.value.extra == "files"


async def test_what_never_ends_is_nested_or_left_open_is_read(write: Writer) -> None:
    unclosed = "".join(f"<font color=red>line {number} " for number in range(2000))
    assert (await read(write("a.html", unclosed))).text.endswith("line 1999")
    with pytest.raises(ValidationError, match="nested too deeply"):
        await read(write("b.html", "<div>" * 100_000 + "deep" + "</div>" * 100_000))


async def test_a_process_serves_one_file_after_another(write: Writer) -> None:
    await read(write("a.html", "<p>x"))
    children = set(_children())
    await read(write("b.html", "<p>y"))
    assert children
    assert set(_children()) == children


def _children() -> list[str]:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
