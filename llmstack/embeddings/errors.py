"""What can go wrong with embedding spaces."""

from __future__ import annotations

from ..db.translate import register_constraints
from ..errors import ConfigurationError, Conflict, EmbeddingError, NotFound


class SpaceNotFound(NotFound):
    """No embedding space has this name."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(f"no embedding space is named {name!r}" if name else "no embedding space is the default")
        self.name = name


class SpaceNotServing(ConfigurationError, EmbeddingError):
    """The embedder's space does not serve, and this process does not know the embedder of the one that does."""

    def __init__(self, name: str, state: str, *, serving: str | None) -> None:
        instead = (
            f"space {serving!r} serves; name its embedder in LLMSTACK_EMBEDDER or LLMSTACK_OTHER_EMBEDDERS, or pass it "
            "as embedder=... or in other_embedders=[...]"
            if serving
            else "no space serves yet; cut over to one"
        )
        where = "in the shadow" if state == "shadow" else state
        super().__init__(f"embedding space {name!r} is {where}, and {instead}")
        self.name = name
        self.serving = serving


register_constraints(
    {
        "uq_embedding_spaces_name": lambda: Conflict("an embedding space of this name exists already"),
        "uq_embedding_spaces_default": lambda: Conflict("another embedding space is the default already"),
    }
)
