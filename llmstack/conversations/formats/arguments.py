"""What a tool is called with, as an object."""

from __future__ import annotations

import json
from typing import Any


def parsed(arguments: Any) -> dict[str, Any] | None:
    """Give the object, of no arguments an empty one; None where it is no JSON object."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            return None
    return dict(arguments) if isinstance(arguments, dict) else None


def as_object(arguments: Any) -> dict[str, Any]:
    """Give the object; what is none is its only value."""
    found = parsed(arguments)
    return {"arguments": arguments} if found is None else found
