"""Tables for people."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import sqlalchemy

import llmstack


def about() -> dict[str, Any]:
    """What the figures were measured with."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or None,
        "llmstack": llmstack.__version__,
        "sqlalchemy": sqlalchemy.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows with the union of their keys as columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)] if rows else []
    sys.stdout.write(f"\n{title}\n")
    for line in [columns, *cells] if rows else []:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")
    sys.stdout.flush()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_cell(part) for part in value) + "]"
    return str(value)
