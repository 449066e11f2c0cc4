"""Files of a test."""

from __future__ import annotations

from pathlib import Path

import pytest
from file_support import Writer


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write a file below the folder of the test."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
