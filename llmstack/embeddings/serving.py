"""Which space this process searches in and embeds into, and the embedders that it knows."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..errors import ConfigurationError, MissingExtra
from ..settings import Settings
from .batches import embed_all
from .errors import SpaceNotServing
from .local import local_is_installed
from .models import EmbeddingSpace
from .protocol import Embedder, Kind
from .spaces import Space, SpaceRepository, check_dimensions

logger = logging.getLogger("llmstack.embeddings")


class Serving:
    """The serving space, asked for again after `space_refresh` seconds, so that every process follows a cut-over.

    It is the default space where its embedder is known, else that of the process' own embedder.
    """

    def __init__(
        self, service: Service, embedder: Embedder | None, others: Iterable[Embedder], settings: Settings
    ) -> None:
        self._service = service
        self._settings = settings
        self._answer: Space | None = None
        self._asked_at = -math.inf
        self._asking = asyncio.Lock()
        self._warned_of: str | None = None
        self.embedder = embedder
        self.known: dict[str, Embedder] = {}
        for one in (*([] if embedder is None else [embedder]), *others):
            self.know(one)

    def know(self, embedder: Embedder) -> None:
        """Add an embedder; of one that is there already under this name, the first stays."""
        self.check(embedder)
        self.known.setdefault(embedder.name, embedder)

    def check(self, embedder: Embedder) -> None:
        """Refuse an embedder that would make other vectors under a known name."""
        before = self.known.get(embedder.name, embedder)
        lengths = {before.dimensions, embedder.dimensions} - {0}
        if (before.provider, before.model) != (embedder.provider, embedder.model) or len(lengths) > 1:
            raise ConfigurationError(
                f"two embedders are named {embedder.name!r} and make other vectors; give one of them another name"
            )

    async def space(self) -> Space:
        """The space to search in and to embed into at this moment; SpaceNotServing where there is none."""
        if self._answer is None or self._is_stale():
            async with self._asking:
                if self._answer is None or self._is_stale():
                    asked_at = time.monotonic()
                    self._answer = await self._ask()
                    self._asked_at = asked_at
        return self._answer

    def forget(self) -> None:
        """Ask again at the next use."""
        self._asked_at = -math.inf

    def embedder_of(self, name: str) -> Embedder:
        """The embedder of a space, or ConfigurationError."""
        if name in self.known:
            return self.known[name]
        known = f"knows {', '.join(map(repr, self.known))} alone" if self.known else "has none"
        raise ConfigurationError(
            f"the embedder of space {name!r} is not known to this process, which {known}; name it in "
            "LLMSTACK_OTHER_EMBEDDERS, or pass it in other_embedders=[...]"
        )

    def required(self) -> Embedder:
        """The process' own embedder, or an error that says how to have one."""
        if self.embedder is not None:
            return self.embedder
        if self._settings.embedder is None and not local_is_installed():
            raise MissingExtra(
                feature="vector search without an embedder of your own (LLMSTACK_EMBEDDER, or embedder=...)",
                extra="local",
            )
        raise ConfigurationError(
            "vector search has no embedder; set LLMSTACK_EMBEDDER to `local` or to a litellm model such as "
            "openai/text-embedding-3-small, or pass embedder=..."
        )

    async def embed(self, texts: Sequence[str], *, space: Space, kind: Kind = "document") -> list[list[float]]:
        """Vectors that fit the space, in the order of the texts; all or EmbeddingError."""
        embedder = self.embedder_of(space.name)
        return await embed_all(
            embedder, texts, kind=kind, settings=self._settings, dimensions=space.dimensions, storage=space.storage
        )

    async def measure(self, embedder: Embedder) -> None:
        """Let an embedder whose dimensions are not known yet show them."""
        if not embedder.dimensions:
            await embed_all(embedder, ["How long are the vectors?"], settings=self._settings)

    def _is_stale(self) -> bool:
        return time.monotonic() - self._asked_at >= self._settings.space_refresh

    async def _ask(self) -> Space:
        own = self.required()
        default, mine = await self._service.read(
            lambda session: SpaceRepository(session).default_and(own.name), single_statements=True
        )
        if default is not None and default.name in self.known:
            check_dimensions(default, self.known[default.name])
            return Space.of(default)
        if mine is not None:
            check_dimensions(mine, own)
            if mine.state != "active":
                raise SpaceNotServing(mine.name, mine.state, serving=default.name if default is not None else None)
        if default is not None:
            self._warn(own, default)
        return Space.of(mine) if mine is not None else await self._make(own)

    async def _make(self, own: Embedder) -> Space:
        await self.measure(own)

        async def ensure(session: AsyncSession) -> EmbeddingSpace:
            return await SpaceRepository(session).ensure(own)

        return Space.of(await self._service.transaction(ensure))

    def _warn(self, own: Embedder, default: EmbeddingSpace) -> None:
        if self._warned_of != default.name:
            self._warned_of = default.name
            logger.warning(
                "space %r serves, but its embedder is not known here: this process searches %r", default.name, own.name
            )
