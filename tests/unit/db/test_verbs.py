"""A repository's verbs taken over by a service: the same face, and a session of its own each."""

from __future__ import annotations

import inspect
from typing import Any

from llmstack.db.verbs import reading, writing
from llmstack.documents import DocumentRepository, DocumentService


class Repository:
    """Counts in one session."""

    def __init__(self, session: Any) -> None:
        self.session = session

    async def count(self, *, owner_id: str, least: int = 0) -> str:
        """How many the owner has."""
        return f"{owner_id} {least} in {self.session}"


class Counting:
    """A domain of two verbs."""

    async def _read(self, work: Any) -> Any:
        return await work(Repository("a read"))

    async def _write(self, work: Any) -> Any:
        return await work(Repository("a transaction"))

    count = reading(Repository.count)
    counted = writing(Repository.count)


async def test_each_verb_has_a_session_of_its_kind() -> None:
    domain = Counting()
    assert await domain.count(owner_id="acme") == "acme 0 in a read"
    assert await domain.counted(owner_id="acme", least=2) == "acme 2 in a transaction"


def test_the_face_of_a_verb_is_the_repositorys() -> None:
    for name in ("get", "list", "delete_many", "update_metadata"):
        ours, theirs = getattr(DocumentService, name), getattr(DocumentRepository, name)
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert ours.__doc__ == theirs.__doc__
        assert inspect.iscoroutinefunction(ours)
