"""Rows whose text is edited, or that are hidden and shown: what is searched is what they say now."""

from __future__ import annotations

import asyncio
import uuid

from embedding_support import TABLE, Counting, add_chunks, count_of, service_with, vector_of
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from llmstack.db import Service
from llmstack.documents.models import Chunk, ChunkEmbedding, ChunkEmbeddingJob
from llmstack.embeddings import EmbeddingService, hide, renew, show


async def embedded(embeddings: EmbeddingService, service: Service, contents: list[str]) -> list[uuid.UUID]:
    ids = await add_chunks(service, contents)
    await embeddings.backfill()
    await embeddings.process_pending()
    return ids


async def edit(service: Service, row_id: uuid.UUID, content: str, *, owner_id: str = "acme") -> None:
    async def work(session: AsyncSession) -> None:
        await session.execute(update(Chunk).where(Chunk.id == row_id).values(content=content))
        await renew(session, TABLE, owner_id=owner_id, row_ids=[row_id])

    await service.transaction(work)


async def stored(service: Service) -> dict[uuid.UUID, list[float]]:
    async with service.session() as session:
        return {row.row_id: list(row.embedding or ()) for row in await session.scalars(select(ChunkEmbedding))}


def near(found: list[float], content: str) -> bool:
    return all(abs(one - other) < 0.01 for one, other in zip(found, vector_of("\n" + content), strict=True))


async def test_an_edited_text_is_embedded_anew_and_its_neighbour_is_not(llmstack_service: Service) -> None:
    counting = Counting()
    embeddings = service_with(llmstack_service, counting)
    first, second = await embedded(embeddings, llmstack_service, ["parental leave", "sick leave"])
    counting.texts.clear()
    await edit(llmstack_service, first, "travel costs")
    assert set(await stored(llmstack_service)) == {second}
    assert (await embeddings.pending()).waiting == 1
    await embeddings.process_pending()
    assert counting.texts == ["\ntravel costs"]
    found = await stored(llmstack_service)
    assert near(found[first], "travel costs")
    assert near(found[second], "sick leave")


async def test_an_edit_under_a_workers_lease_wins(llmstack_service: Service) -> None:
    counting = Counting(pause=0.3)
    embeddings = service_with(llmstack_service, counting)
    [row] = await add_chunks(llmstack_service, ["old text"])
    await embeddings.backfill()
    working = asyncio.create_task(embeddings.process_pending())
    await asyncio.wait_for(counting.called.wait(), 10)
    await edit(llmstack_service, row, "new text")
    result = await working
    # The same run may have taken the job up again; the old text's vector is not stored by anybody.
    await embeddings.process_pending()
    assert result.embedded <= 1
    assert near((await stored(llmstack_service))[row], "new text")
    assert await count_of(llmstack_service, ChunkEmbeddingJob) == 0


async def test_a_text_that_was_set_aside_is_tried_again_when_it_is_edited(llmstack_service: Service) -> None:
    embeddings = service_with(llmstack_service, Counting(), embedding_attempts=1)
    [row] = await add_chunks(llmstack_service, ["poison"])
    await embeddings.backfill()
    await embeddings.process_pending()
    assert (await embeddings.pending()).set_aside == 1
    await edit(llmstack_service, row, "medicine")
    assert (await embeddings.process_pending()).embedded == 1


async def test_a_hidden_row_that_is_edited_is_owed_nothing_until_it_is_shown(llmstack_service: Service) -> None:
    embeddings = service_with(llmstack_service, Counting())
    [row] = await embedded(embeddings, llmstack_service, ["old text"])

    async def put_away(session: AsyncSession) -> None:
        await session.execute(update(Chunk).values(deleted_at=func.now()))
        await hide(session, TABLE, owner_id="acme", row_ids=[row])

    async def bring_back(session: AsyncSession) -> None:
        await session.execute(update(Chunk).values(deleted_at=None))
        await show(session, TABLE, owner_id="acme", row_ids=[row])

    await llmstack_service.transaction(put_away)
    async with llmstack_service.session() as session:
        assert list(await session.scalars(select(ChunkEmbedding.searchable))) == [False]
    await edit(llmstack_service, row, "new text")
    assert await count_of(llmstack_service, ChunkEmbeddingJob) == 0
    await llmstack_service.transaction(bring_back)
    assert (await embeddings.process_pending()).embedded == 1
    assert near((await stored(llmstack_service))[row], "new text")


async def test_another_owners_rows_keep_their_vectors(llmstack_service: Service) -> None:
    embeddings = service_with(llmstack_service, Counting())
    [row] = await embedded(embeddings, llmstack_service, ["old text"])
    async with llmstack_service.session() as session:
        await hide(session, TABLE, owner_id="mallory", row_ids=[row])
        await session.commit()
        assert list(await session.scalars(select(ChunkEmbedding.searchable))) == [True]
