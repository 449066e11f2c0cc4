"""What a file does to its reader stays that file's failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmstack.cli.intake import FileReading, read_only
from llmstack.documents.readers import Source, SourceText, reading
from llmstack.settings import Settings


async def test_an_error_that_no_reader_expects_is_the_failure_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(source: Source) -> SourceText:
        raise KeyError(f"no such table in {source.path.name}")

    monkeypatch.setitem(reading._READERS, "markdown", explode)
    broken, whole = tmp_path / "a.md", tmp_path / "b.txt"
    broken.write_text("# Leave")
    whole.write_text("sixteen weeks")
    outcomes = await read_only(FileReading(owner_id="acme"), [broken, whole], Settings())
    assert [one.outcome for one in outcomes] == ["failed", "readable"]
    assert outcomes[0].note == "cannot be read: KeyError: 'no such table in a.md'"
