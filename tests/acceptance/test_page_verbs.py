"""The tables of verbs: each verb is there with the parameters that its page names, and none is left out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pages import PAGES, Page, page, rows
from typer.main import get_command

import llmstack.search
from llmstack import Database
from llmstack.cli.main import app
from llmstack.conversations import ConversationService
from llmstack.db import Service, ddl, embedded, migrate
from llmstack.documents import DocumentService
from llmstack.embeddings import EmbeddingService
from llmstack.integrations.langchain import ConversationHistory
from llmstack.integrations.openai_agents import ConversationSession
from llmstack.retrieval import CorpusService

OWNERS: dict[str, tuple[Any, ...]] = {
    "llmstack/conversations": (ConversationService,),
    "llmstack/db": (ddl,),
    "llmstack/documents": (DocumentService,),
    "llmstack/embeddings": (EmbeddingService,),
    "llmstack/integrations": (ConversationSession, ConversationHistory),
    "llmstack/retrieval": (CorpusService,),
    "llmstack/search": (CorpusService, llmstack.search),
}
"""Where a page's verbs are looked for."""
NAMED = {"database": Database, "service": Service, "migrate": migrate, "embedded": embedded}
"""What stands before a verb, and is not the owner."""


def written(one: Page, section: str) -> Iterator[tuple[str, str, list[str]]]:
    """What stands before each verb of a section's tables, its name, and its parameters."""
    for first, *_ in rows(one.section(section)):
        for before, name, parameters in re.findall(r"`(?:(\w+)\.)?(\w+)(?:\(([^)]*)\))?`", first):
            yield before, name, [part.partition("=")[0].strip() for part in parameters.split(",") if part.strip(" .")]


@pytest.mark.parametrize(
    ("folder", "section"),
    [*((folder, "Verbs") for folder in OWNERS), ("llmstack/db", "Make searchable tables in a revision of yours")],
)
def test_a_verb_takes_what_its_page_says(folder: str, section: str) -> None:
    for before, name, parameters in written(page(folder), section):
        owners = (NAMED[before],) if before in NAMED else OWNERS[folder]
        found = [getattr(owner, name) for owner in owners if hasattr(owner, name)]
        assert found, name
        if parameters:
            assert set(parameters) <= set(inspect.signature(found[0]).parameters), name


@pytest.mark.parametrize(
    "folder", [f"llmstack/{one}" for one in ("conversations", "documents", "embeddings", "retrieval")]
)
def test_no_verb_of_a_service_is_left_out(folder: str) -> None:
    (service,) = OWNERS[folder]
    public = {name: verb for name, verb in vars(service).items() if not name.startswith("_")}
    verbs = {name for name, it in public.items() if inspect.iscoroutinefunction(it) or inspect.isasyncgenfunction(it)}
    assert verbs - {name for _, name, _ in written(page(folder), "Verbs")} == set()


@pytest.mark.parametrize("one", PAGES, ids=str)
def test_a_command_that_a_page_names_exists(one: Page) -> None:
    for command in one.commands("llmstack"):
        _, *words = command.split()
        found: Any = get_command(app)
        while words and not words[0].startswith("-") and (below := getattr(found, "commands", {})):
            assert words[0] in below, command
            found = below[words.pop(0)]
