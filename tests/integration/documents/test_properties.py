"""Whatever is added, changed and asked for: what comes back is what a simple model in Python says."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from document_support import added, contents, document, found
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import cast, column, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB

from llmstack import LLMStack
from llmstack.db import Service
from llmstack.documents import DocumentFilter
from llmstack.search import metadata_filter


def rules(examples: int) -> settings:
    """The same examples in every run, whatever time each takes."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


# --- metadata filters -----------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "c", "ä'\"", "$.a", "a.b"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1.0, -1.5, "", "a", "A", "b", "ä", "z", "Z", "1", "null", "\\u0000", "\U0001f600", "\uffff"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS.filter(lambda key: key[0] != "$"), inner, max_size=3)
    ),
    max_leaves=5,
)
METADATA = st.dictionaries(KEYS.filter(lambda key: key[0] != "$"), VALUES, max_size=4)
PLAIN = KEYS.filter(lambda key: key[0] != "$")
ORDERED = st.one_of(
    st.integers(-3, 3), st.floats(-3, 3), st.sampled_from(["", "A", "a", "ä", "b", "\U0001f600", "\uffff"])
)
COMPARISONS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), VALUES),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ORDERED),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(VALUES, max_size=3)),
    st.tuples(st.just("$exists"), st.booleans()),
).map(lambda pair: dict([pair]))


def _operators(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    combined = st.one_of(
        st.tuples(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("$not"), inner),
    ).map(lambda pair: dict([pair]))
    return combined | st.dictionaries(PLAIN, inner, min_size=1, max_size=2)


UNDER_A_KEY = st.recursive(COMPARISONS, _operators, max_leaves=3)
FILTERS = st.recursive(
    st.dictionaries(PLAIN, VALUES | UNDER_A_KEY, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("$not"), inner),
    ).map(lambda pair: dict([pair])),
    max_leaves=3,
)
ABSENT = object()


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return Decimal(json.dumps(value))


def same(left: Any, right: Any) -> bool:
    """Equality of JSON: numbers by value, true is not 1."""
    if (one := _number(left)) is not None or _number(right) is not None:
        return one is not None and one == _number(right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and bool(left == right)


def holds(whole: Any, part: Any) -> bool:
    """Containment of JSON: objects by key, arrays as sets."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and holds(whole[key], value) for key, value in part.items())
    if isinstance(whole, list) and isinstance(part, list):
        return all(any(holds(have, want) for have in whole) for want in part)
    return not isinstance(part, dict | list) and same(whole, part)


def at(metadata: Any, path: Iterable[str]) -> Any:
    for key in path:
        if not isinstance(metadata, dict) or key not in metadata:
            return ABSENT
        metadata = metadata[key]
    return metadata


def has_operator(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        key.startswith("$") or has_operator(inner) for key, inner in value.items()
    )


def ordered(value: Any, operator: str, bound: Any) -> bool:
    left: Any = value if isinstance(bound, str) else _number(value)
    right: Any = bound if isinstance(bound, str) else _number(bound)
    if left is None or type(left) is not type(right):
        return False
    return bool({"$gt": left > right, "$gte": left >= right, "$lt": left < right, "$lte": left <= right}[operator])


def compares(value: Any, operator: str, bound: Any) -> bool:
    match operator:
        case "$exists":
            return (value is not ABSENT) is bound
        case "$eq":
            return same(value, bound)
        case "$ne":
            return not same(value, bound)
        case "$in":
            return any(same(value, item) for item in bound)
        case "$nin":
            return not any(same(value, item) for item in bound)
    return ordered(value, operator, bound)


def matches(metadata: Any, condition: Mapping[str, Any], path: tuple[str, ...] = ()) -> bool:
    return all(term(metadata, key, value, path) for key, value in condition.items())


def term(metadata: Any, key: str, value: Any, path: tuple[str, ...]) -> bool:
    match key:
        case "$and":
            return all(matches(metadata, part, path) for part in value)
        case "$or":
            return any(matches(metadata, part, path) for part in value)
        case "$not":
            return not matches(metadata, value, path)
    if key.startswith("$"):
        return compares(at(metadata, path), key, value)
    if has_operator(value):
        return matches(metadata, value, (*path, key))
    part = value
    for above in reversed((*path, key)):
        part = {above: part}
    return holds(metadata, part)


@rules(200)
@given(st.lists(METADATA, min_size=1, max_size=6), st.lists(FILTERS, min_size=1, max_size=4))
async def test_a_metadata_filter_means_what_a_simple_evaluator_says(
    llmstack_service: Service, metadata: list[Any], conditions: list[Any]
) -> None:
    listed = func.jsonb_array_elements(cast(literal(metadata, JSONB), JSONB))
    rows = listed.table_valued(column("value", JSONB), with_ordinality="place", name="rows").render_derived()
    tests = [metadata_filter(rows.c.value, condition) for condition in conditions]
    async with llmstack_service.session() as session:
        found_rows = (await session.execute(select(*tests).select_from(rows).order_by(rows.c.place))).all()
    for value, answers in zip(metadata, found_rows, strict=True):
        for condition, answer in zip(conditions, answers, strict=True):
            assert answer is matches(value, condition), (value, condition)


# --- adding, changing, removing and searching -----------------------------------------------------------

VOCABULARY = ["giraffe", "zebra", "walrus", "lemur", "quokka", "ibex"]
OWNERS = ["one", "two"]
ORIGINS = ["x", "y", "z"]


@dataclasses.dataclass
class Known:
    """What the model knows of one document."""

    passages: list[list[str]]
    metadata: dict[str, Any]
    deleted: bool = False

    @property
    def words(self) -> set[str]:
        return {word for passage in self.passages for word in passage}


Model = dict[tuple[str, str], Known]

PLACES = st.tuples(st.sampled_from(OWNERS), st.sampled_from(ORIGINS))
PASSAGES = st.lists(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=3), min_size=1, max_size=3)
NUMBERS = st.fixed_dictionaries({"n": st.integers(0, 3)})
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.tuples(PLACES, PASSAGES, NUMBERS), min_size=1, max_size=4)),
        st.tuples(st.sampled_from(["delete", "restore"]), PLACES),
        st.tuples(st.just("purge"), st.sampled_from(OWNERS)),
        st.tuples(st.just("update"), st.tuples(PLACES, NUMBERS)),
        st.tuples(st.just("delete many"), st.tuples(st.sampled_from(OWNERS), st.integers(0, 3))),
    ),
    min_size=2,
    max_size=8,
)


class Play:
    """Does every step to the database and to the model, under owners that nobody else has."""

    def __init__(self, stack: LLMStack) -> None:
        self.stack = stack
        self.model: Model = {}
        self.ids: dict[tuple[str, str], uuid.UUID] = {}
        self.prefix = uuid.uuid4().hex

    def owner(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    async def step(self, verb: str, given: Any) -> None:
        await {
            "add": self.add,
            "delete": self.delete,
            "restore": self.restore,
            "purge": self.purge,
            "update": self.update,
            "delete many": self.delete_many,
        }[verb](given)

    async def add(self, given: Any) -> None:
        inputs = []
        for (owner, origin), passages, metadata in given:
            content = "\n".join(" ".join(passage) for passage in passages)
            inputs.append(
                document(origin, content, owner_id=self.owner(owner), metadata=metadata, chunking=str.splitlines)
            )
        results = await added(self.stack, inputs)
        for (place, passages, metadata), result in zip(given, results, strict=True):
            assert (result.error, result.embedding_error) == (None, None)
            assert result.document is not None
            before, now = self.model.get(place), Known(passages, metadata)
            assert result.unchanged is (before == now)
            assert self.ids.get(place, result.document.id) == result.document.id
            self.model[place], self.ids[place] = now, result.document.id

    async def _toggled(self, place: tuple[str, str], verb: Any, *, deleted: bool) -> None:
        known = self.model.get(place)
        count = await verb(owner_id=self.owner(place[0]), document_id=self.ids.get(place, uuid.uuid4()))
        assert count == int(known is not None and known.deleted is not deleted)
        if known is not None:
            known.deleted = deleted

    async def delete(self, place: Any) -> None:
        await self._toggled(place, self.stack.documents.delete, deleted=True)

    async def restore(self, place: Any) -> None:
        await self._toggled(place, self.stack.documents.restore, deleted=False)

    async def purge(self, owner: Any) -> None:
        gone = [place for place, known in self.model.items() if place[0] == owner and known.deleted]
        assert await self.stack.documents.purge(owner_id=self.owner(owner)) == len(gone)
        for place in gone:
            del self.model[place], self.ids[place]

    async def update(self, given: Any) -> None:
        place, metadata = given
        known = self.model.get(place)
        if known is None or known.deleted:
            return
        await self.stack.documents.update_metadata(
            owner_id=self.owner(place[0]), document_id=self.ids[place], metadata=metadata
        )
        known.metadata = {**known.metadata, **metadata}

    async def delete_many(self, given: Any) -> None:
        owner, least = given
        gone = [
            known
            for place, known in self.model.items()
            if place[0] == owner and not known.deleted and known.metadata["n"] >= least
        ]
        where = DocumentFilter(metadata={"n": {"$gte": least}})
        count = await self.stack.documents.delete_many(owner_id=self.owner(owner), where=where)
        assert count == len(gone)
        for known in gone:
            known.deleted = True

    def living(self, owner: str) -> dict[str, Known]:
        return {origin: known for (who, origin), known in self.model.items() if who == owner and not known.deleted}

    async def check(self, owner: str) -> None:
        living, owner_id = self.living(owner), self.owner(owner)
        page = await self.stack.documents.list(owner_id=owner_id, order_by="name", descending=False)
        assert [item.id_at_origin for item in page.items] == sorted(living)
        assert page.total == len(living)
        statistics = await self.stack.documents.statistics(owner_id=owner_id)
        leaves = sum(len(known.passages) for known in living.values())
        assert (statistics.documents, statistics.chunks) == (len(living), leaves)
        assert statistics.embedded == ({"words": leaves} if leaves else {})
        for item in page.items:
            chunks = await self.stack.documents.chunks(owner_id=owner_id, document_id=item.id)
            known = living[item.id_at_origin]
            assert [chunk.content.split() for chunk in chunks] == known.passages
            assert item.metadata_ == known.metadata
        for word in VOCABULARY:
            holders = sorted(origin for origin, known in living.items() if word in known.words)
            assert await found(self.stack, word, mode="text", owner_id=owner_id) == holders
            assert await found(self.stack, word, mode="vector", owner_id=owner_id) == sorted(living)
        few = sorted(origin for origin, known in living.items() if known.metadata["n"] < 2)
        under_two = DocumentFilter(metadata={"n": {"$lt": 2}})
        found_few = await found(self.stack, " ".join(VOCABULARY), owner_id=owner_id, where=under_two)
        assert found_few == few


@rules(15)
@given(STEPS)
async def test_whatever_is_done_search_finds_exactly_the_living_documents_that_hold_the_word(
    stack: LLMStack, steps: list[Any]
) -> None:
    play = Play(stack)
    for verb, given_ in steps:
        await play.step(verb, given_)
    for owner in OWNERS:
        await play.check(owner)


TEXTS = st.text(st.characters(), max_size=60) | st.lists(
    st.sampled_from(["\x00", "\ud800", " ", "\n", "# ", "a", "ä", "\U0001f600", "'", "\\", "\u2028", "word"]),
    max_size=30,
).map("".join)


@rules(40)
@given(TEXTS, st.sampled_from(["text", "markdown", "code", "email", "chat"]))
async def test_any_text_is_stored_as_it_is_but_for_what_cannot_be_stored(
    stack: LLMStack, text: str, document_type: str
) -> None:
    storable = "".join(character for character in text if character != "\x00" and not "\ud800" <= character <= "\udfff")
    origin = uuid.uuid4().hex
    (result,) = await added(stack, [document(origin, text, document_type=document_type)])
    if not storable.strip():
        assert result.error is not None
        assert await stack.documents.find(owner_id="acme", id_at_origin=origin) is None
        return
    assert (result.error, result.embedding_error) == (None, None)
    assert result.cleaned is (storable != text)
    assert result.document is not None
    assert await stack.documents.text(owner_id="acme", document_id=result.document.id) == storable
    visible = "".join("".join(await contents(stack, result)).split())
    assert visible == "".join(storable.split())
