"""What llmstack asks of an embedder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

Kind = Literal["document", "query"]
"""Some models embed what is stored and what is asked differently."""


class Embedder(Protocol):
    """Turns texts into vectors of one space.

    `name` is the name of the space; `dimensions` may be 0 until the first call has shown them.
    """

    @property
    def name(self) -> str: ...

    @property
    def provider(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str], *, kind: Kind = "document") -> list[list[float]]:
        """One vector for each text, in the order of the texts."""
        ...
