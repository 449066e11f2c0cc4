"""What the parts share: settings, and who owns which passage of a synthetic corpus."""

from __future__ import annotations

from typing import Any

from llmstack.settings import Settings

OWNER = "owner-0"


def settings() -> Settings:
    """Defaults, whatever the environment says, without a limit on building indexes."""
    return Settings(statement_timeout=0)


def metadata_of(place: int) -> dict[str, Any]:
    """A field with a hundred values, each as frequent as the others and unrelated to the text."""
    return {"hundredth": place % 100}
