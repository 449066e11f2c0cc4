"""What readers of all formats say where a library is absent or a file is broken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from llmstack.errors import LLMStackError, MissingExtra, ValidationError


@contextlib.contextmanager
def needed(feature: str) -> Iterator[None]:
    """Turn an absent library into the name of the extra that brings it."""
    try:
        yield
    except ImportError as error:
        raise MissingExtra(feature=f"reading {feature}", extra="files") from error


@contextlib.contextmanager
def explained(name: str, kind: str) -> Iterator[None]:
    """Turn whatever a parser raises on a broken file into an error that names the file."""
    try:
        yield
    except (LLMStackError, OSError, MemoryError):
        raise
    except RecursionError as error:
        raise ValidationError("path", f"{name} is not a readable {kind} file: it is nested too deeply") from error
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise ValidationError("path", f"{name} is not a readable {kind} file: {reason}") from error
