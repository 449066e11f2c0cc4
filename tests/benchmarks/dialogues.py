"""Which part of a conversation answers a question: messages alone, with the turn before them, and with summaries.

A collection is as those of `quality`, without vectors; its rows and queries name their conversation in `conv`, and its
rows stand in the order in which they were said. A question is asked within its conversation.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmstack import LLMStack
from llmstack.conversations import MessageInput, ThreadInput

from .measures import ndcg, paired_interval, recall
from .support import settings

DEPTH = 10

Rows = list[dict[str, Any]]
Answer = Callable[[Mapping[str, Any]], Awaitable[list[str]]]


@dataclass(frozen=True)
class Dialogues:
    """Conversations with judged questions."""

    name: str
    rows: Rows
    queries: Rows
    judged: dict[str, dict[str, int]]


def dialogues(folder: Path) -> list[Dialogues]:
    """Every collection in the folder whose rows and queries name their conversation."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found = (_read(path) for path in paths if (path / "qrels.tsv").exists())
    return [
        one for one in found if one.rows and one.queries and all("conv" in row for row in (*one.rows, *one.queries))
    ]


def _read(path: Path) -> Dialogues:
    def rows(name: str) -> Rows:
        return [json.loads(line) for line in (path / name).read_text().splitlines()]

    judged: dict[str, dict[str, int]] = {}
    for line in (path / "qrels.tsv").read_text().splitlines()[1:]:
        query, row, grade = line.split("\t")
        if int(grade) > 0:
            judged.setdefault(query, {})[row] = int(grade)
    queries = [query for query in rows("queries.jsonl") if query["id"] in judged]
    return Dialogues(path.name, rows("corpus.jsonl"), queries, judged)


async def measure(url: str, collection: Dialogues) -> Rows:
    """Ranking of each run, beside that of messages alone; a summary is no row that could be judged."""
    schema = f"dialogues_{collection.name}"
    async with LLMStack.open(url, schema=schema, embedder="local", settings=settings()) as stack:
        await _load(stack, collection)
        runs = {
            "message alone": _alone(stack),
            "with the turn before": _whole(stack, summaries=False),
            "and with summaries": _whole(stack, summaries=True),
        }
        ranked = {name: [await answer(query) for query in collection.queries] for name, answer in runs.items()}
    return [_row(collection, name, ranked) for name in ranked]


def _row(collection: Dialogues, name: str, ranked: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, Any]:
    judgements = [collection.judged[query["id"]] for query in collection.queries]

    def scores(run: str) -> list[float]:
        return [recall(items, judged, 10) for items, judged in zip(ranked[run], judgements, strict=True)]

    gains = [ndcg(items, judged) for items, judged in zip(ranked[name], judgements, strict=True)]
    row: dict[str, Any] = {"collection": collection.name, "run": name, "queries": len(judgements)}
    row |= {"r@10": float(np.mean(scores(name))), "ndcg@10": float(np.mean(gains))}
    if name != "message alone":
        row["r@10 against alone"] = float(np.mean(scores(name)) - np.mean(scores("message alone")))
        row["interval"] = paired_interval(scores(name), scores("message alone"))
    return row


async def _load(stack: LLMStack, collection: Dialogues) -> None:
    conversations: dict[str, Rows] = {}
    for row in collection.rows:
        conversations.setdefault(row["conv"], []).append(row)
    inputs = [
        ThreadInput(owner_id="whole", thread=name, messages=_messages(rows)) for name, rows in conversations.items()
    ]
    inputs += [
        ThreadInput(owner_id="alone", thread=row["id"], user_id=row["conv"], messages=_messages([row]))
        for row in collection.rows
    ]
    async for done in stack.conversations.append_many(inputs):
        assert done.error is None, done.error
    for name in conversations:
        await stack.conversations.summarise(owner_id="whole", thread=name)
    await stack.conversations.settle()
    await stack.conversations.messages.refresh_statistics()


def _messages(rows: Rows) -> list[MessageInput]:
    return [
        MessageInput(role=row.get("role", "user"), content=row["text"].strip() or "-", client_key=row["id"],
                     metadata={"id": row["id"]})
        for row in rows
    ]  # fmt: skip


def _alone(stack: LLMStack) -> Answer:
    async def answer(query: Mapping[str, Any]) -> list[str]:
        search = stack.conversations.search
        hits = await search(owner_id="alone", query=query["text"], user_id=query["conv"], summaries=False, limit=DEPTH)
        return [hit.id_at_origin for hit in hits]

    return answer


def _whole(stack: LLMStack, *, summaries: bool) -> Answer:
    async def answer(query: Mapping[str, Any]) -> list[str]:
        search = stack.conversations.search
        hits = await search(
            owner_id="whole", query=query["text"], thread=query["conv"], summaries=summaries, limit=DEPTH
        )
        return [str(hit.metadata.get("id", f"summary of {hit.id_at_origin}")) for hit in hits]

    return answer
