"""The whole data layer of an application: one database, and a service for each domain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from .conversations.embedding import EMBEDDED_MESSAGES, EMBEDDED_SUMMARIES
from .conversations.service import ConversationService
from .db.database import Database
from .documents.embedding import EMBEDDED
from .documents.service import DocumentService
from .embeddings import Embedder, EmbeddingService, default_embedder, named_embedder
from .embeddings import other_embedders as embedders_of
from .errors import ConfigurationError, DatabaseBehind
from .retrieval import Corpus, CorpusService
from .retrieval.corpus import named_corpora
from .retrieval.hits import Hit
from .retrieval.request import Where
from .retrieval.tuning.search_log import SearchLog
from .settings import Settings


class LLMStack:
    """Every domain and a host's corpora, with their embeddings, in one schema. A host's engine is never closed."""

    def __init__(
        self,
        url: str | None = None,
        *,
        engine: AsyncEngine | None = None,
        schema: str | None = None,
        embedder: Embedder | str | None = None,
        other_embedders: Iterable[Embedder | str] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.database = Database(url, engine=engine, settings=self.settings)
        self.service = self.database.service(schema)
        own = self._embedder(embedder)
        # `none` switches vectors off, whatever else is named in the environment.
        others = [] if own is None and other_embedders is None else self._others(other_embedders)
        self.embeddings = EmbeddingService(
            self.service, [EMBEDDED, EMBEDDED_MESSAGES, EMBEDDED_SUMMARIES], own, self.settings, others
        )
        self.search_log = SearchLog(self.service, self.settings)
        self.documents = DocumentService(self.service, self.embeddings, self.settings, self.search_log)
        self.conversations = ConversationService(self.service, self.embeddings, self.settings, self.search_log)
        ours: tuple[CorpusService[Any, Any], ...] = (
            self.documents,
            self.conversations.messages,
            self.conversations.summaries,
        )
        self.corpora: dict[str, CorpusService[Any, Any]] = {one.corpus.name: one for one in ours}
        for corpus in named_corpora(self.settings.corpora):
            self.corpus(corpus)

    def corpus(self, corpus: Corpus[Hit, Where]) -> CorpusService[Hit, Where]:
        """The search of a table of the host's own, whose vectors are kept with ours from now on.

        Asked for again it is the same object; ConfigurationError where another corpus has its name.
        """
        known = self.corpora.get(corpus.name)
        if known is not None and known.corpus is not corpus:
            raise ConfigurationError(f"two corpora are named {corpus.name!r}; give one of them another name")
        if known is None:
            known = CorpusService(
                corpus,
                service=self.service,
                embeddings=self.embeddings,
                settings=self.settings,
                log=self.search_log,
            )
            if corpus.vectors is not None:
                self.embeddings.register(corpus.vectors)
            self.corpora[corpus.name] = known
        return known

    def _embedder(self, given: Embedder | str | None) -> Embedder | None:
        if given is None:
            return default_embedder(self.settings)
        if isinstance(given, str):
            return default_embedder(self.settings.model_copy(update={"embedder": given}))
        return _checked(given)

    def _others(self, given: Iterable[Embedder | str] | None) -> list[Embedder]:
        if given is None:
            return embedders_of(self.settings)
        if isinstance(given, str):
            raise ConfigurationError("other_embedders is a list of embedders or of their names")
        return [named_embedder(one, self.settings) if isinstance(one, str) else _checked(one) for one in given]

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        url: str | None = None,
        schema: str | None = None,
        embedder: Embedder | str | None = None,
        migrate: bool = True,
        data_dir: Path | str | None = None,
        *,
        other_embedders: Iterable[Embedder | str] | None = None,
        settings: Settings | None = None,
    ) -> AsyncIterator[LLMStack]:
        """Connect, migrate and close at the end. Without a URL an embedded PostgreSQL serves from `data_dir`.

        `url` defaults to `LLMSTACK_DATABASE_URL`, `schema` to `LLMSTACK_SCHEMA` or `llmstack`. With `migrate` off,
        a schema that is behind raises DatabaseBehind.
        """
        settings = settings or Settings()
        if url is None and settings.database_url is not None:
            url = settings.database_url.get_secret_value()
        if url is not None and data_dir is not None:
            raise ConfigurationError("data_dir is for the embedded server; give a url or a data_dir, not both")
        async with contextlib.AsyncExitStack() as opened:
            if url is None:
                url = await opened.enter_async_context(_embedded(Path(data_dir) if data_dir else settings.data_dir))
            stack = await opened.enter_async_context(
                cls(url, schema=schema, embedder=embedder, other_embedders=other_embedders, settings=settings)
            )
            await (stack.migrate() if migrate else stack.require_current())
            await stack.database.check_pool()
            yield stack

    async def migrate(self) -> bool:
        """Bring the schema up to date; False when it was. Safe to call from many processes at once."""
        from .db.migrate import upgrade

        return await upgrade(self.database.engine, schema=self.service.schema, settings=self.settings)

    async def require_current(self) -> None:
        """Raise DatabaseBehind or DatabaseNewer unless the schema is what this code was written for."""
        from .db.migrate import status

        report = await status(self.database.engine, schema=self.service.schema)
        if behind := [module.module for module in report if module.pending]:
            raise DatabaseBehind(
                f"schema {self.service.schema!r} has pending migrations in {', '.join(behind)}; run `llmstack migrate`"
            )

    async def close(self) -> None:
        """Finish background work and close what this object opened."""
        try:
            await self.conversations.settle()
            for corpus in self.corpora.values():
                await corpus.settle()
        finally:
            await self.database.close()

    async def __aenter__(self) -> LLMStack:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"LLMStack({self.service!r})"


def _checked(given: Embedder) -> Embedder:
    if not hasattr(given, "embed"):
        raise ConfigurationError("embedder must be an Embedder; wrap a function in CallableEmbedder")
    return given


@contextlib.asynccontextmanager
async def _embedded(data_dir: Path | None) -> AsyncIterator[str]:
    from .db import embedded

    server = await asyncio.to_thread(embedded.start, data_dir)
    try:
        yield server.url
    finally:
        await asyncio.to_thread(server.release)
