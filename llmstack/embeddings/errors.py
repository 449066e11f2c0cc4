"""What can go wrong with embedding spaces."""

from __future__ import annotations

from ..db.translate import register_constraints
from ..errors import Conflict, NotFound


class SpaceNotFound(NotFound):
    """No embedding space has this name."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(f"no embedding space is named {name!r}" if name else "no embedding space is the default")
        self.name = name


register_constraints(
    {
        "uq_embedding_spaces_name": lambda: Conflict("an embedding space of this name exists already"),
        "uq_embedding_spaces_default": lambda: Conflict("another embedding space is the default already"),
    }
)
