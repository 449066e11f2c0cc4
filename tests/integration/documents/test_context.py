"""What is searched and embedded with each passage: names that somebody gave, sections, and what a path says."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from document_support import MakeStack, Words, add
from sqlalchemy import select

from llmstack import LLMStack
from llmstack.documents import Chunk, ChunkingConfig
from llmstack.errors import ValidationError

GUIDE = "\n\n".join(f"# {section}\n\n{word * 60}" for section, word in (("Care", "kettle "), ("Repair", "fuse ")))
SMALL = ChunkingConfig(chunk_size=70, overlap=0, parent_size=140)


async def contexts(stack: LLMStack) -> list[str]:
    async with stack.service.session() as session:
        leaves = select(Chunk.context).where(Chunk.level == 0, Chunk.deleted_at.is_(None)).order_by(Chunk.position)
        return list(dict.fromkeys(await session.scalars(leaves)))


@pytest.mark.parametrize(
    ("id_at_origin", "name", "expected"),
    [
        ("guide", "The Guide", ["The Guide > Care", "The Guide > Repair"]),
        ("99417a81-7ebf-4d2a-b815-e20f3aa01104", None, ["Care", "Repair"]),
        ("docs/kettle_care-2.md", None, ["docs kettle care > Care", "docs kettle care > Repair"]),
        ("/home/ann/docs/kettleCare.md", None, ["docs kettleCare > Care", "docs kettleCare > Repair"]),
        ("4711", "", ["Care", "Repair"]),
    ],
)
async def test_a_name_that_nobody_gave_is_no_context_and_a_path_is_one_in_words(
    stack: LLMStack, words: Words, id_at_origin: str, name: str | None, expected: list[str]
) -> None:
    await add(stack, id_at_origin, GUIDE, document_name=name, document_type="markdown", chunking_config=SMALL)
    assert await contexts(stack) == expected
    # What is embedded and what is searched is the same.
    assert {text.partition("\n")[0] for text in words.texts} == set(expected)
    page = await stack.documents.list(owner_id="acme")
    assert page.items[0].name == (name or id_at_origin)


async def test_a_random_id_is_no_word_of_its_passages(stack: LLMStack) -> None:
    origin = str(uuid.uuid4())
    await add(stack, origin, "Descale the kettle.")
    assert await contexts(stack) == [""]
    for part in (origin, *origin.split("-")):
        assert await stack.documents.search(owner_id="acme", query=part, mode="text") == []


async def test_context_none_leaves_name_and_sections_out(make_stack: MakeStack) -> None:
    stack = make_stack()
    given: dict[str, Any] = {"document_name": "The Guide", "document_type": "markdown"}
    await add(stack, "a", GUIDE, context="none", chunking_config=SMALL, **given)
    assert await contexts(stack) == [""]
    assert await stack.documents.search(owner_id="acme", query="guide", mode="text") == []
    # It is kept where the document is cut anew, and another one is a change of the document.
    (document,) = (await stack.documents.list(owner_id="acme")).items
    await stack.documents.rechunk(owner_id="acme", document_id=document.id, chunking="none")
    assert await contexts(stack) == [""]
    assert (await add(stack, "a", GUIDE, context="none", chunking="none", **given)).unchanged
    assert not (await add(stack, "a", GUIDE, chunking="none", **given)).unchanged
    assert await contexts(stack) == ["The Guide"]


async def test_the_setting_holds_for_all_that_say_nothing(make_stack: MakeStack) -> None:
    stack = make_stack(document_context="none")
    await add(stack, "a", "kettle", document_name="The Guide")
    await add(stack, "b", "teapot", document_name="The Guide", context="full")
    assert sorted(await contexts(stack)) == ["", "The Guide"]
    with pytest.raises(ValidationError, match='context: \'some\' is unknown; use "full" or "none"'):
        await add(stack, "c", "mug", context="some")
