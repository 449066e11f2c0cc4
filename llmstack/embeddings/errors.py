"""What can go wrong with embedding spaces."""

from __future__ import annotations

from ..errors import NotFound


class SpaceNotFound(NotFound):
    """No embedding space has this name."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(f"no embedding space is named {name!r}" if name else "no embedding space is the default")
        self.name = name
