from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Text, column
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

from llmstack.db.checks import check_text, storable_json
from llmstack.errors import ValidationError
from llmstack.search import metadata_filter
from llmstack.search.filters import MAX_BRANCHES, MAX_DEPTH, OPERATORS

METADATA = column("metadata", JSONB)
EVIL = "'; DROP TABLE documents; --"


def compiled(condition: Any) -> tuple[str, dict[str, Any]]:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    statement = metadata_filter(METADATA, condition).compile(dialect=dialect)
    return str(statement), dict(statement.params)


@pytest.mark.parametrize(
    "condition",
    [
        {EVIL: 1},
        {"a": EVIL},
        {"a": {EVIL: EVIL}},
        {EVIL: {"$eq": EVIL}},
        {EVIL: {"$gt": EVIL}},
        {EVIL: {"$in": [EVIL, 1]}},
        {EVIL: {EVIL: {"$exists": True}}},
        {"$or": [{EVIL: EVIL}, {"$not": {EVIL: {"$ne": EVIL}}}]},
    ],
)
def test_keys_and_values_are_parameters_never_sql(condition: dict[str, Any]) -> None:
    sql, parameters = compiled(condition)
    assert "DROP" not in sql
    assert "DROP" in str(parameters)


def test_plain_values_are_one_containment_which_an_index_answers() -> None:
    sql, parameters = compiled({"a": {"b": [1, "x"]}})
    assert sql.count("@>") == 1
    assert list(parameters.values()) == [{"a": {"b": [1, "x"]}}]


def test_a_list_of_any_length_is_one_parameter() -> None:
    short, _ = compiled({"a": {"$in": [1, 2]}})
    long, parameters = compiled({"a": {"$in": list(range(50_000))}})
    assert short == long
    assert len(parameters) == 2


def test_strings_are_compared_by_code_point() -> None:
    assert 'COLLATE "C"' in compiled({"a": {"$gt": "x"}})[0]


def test_an_empty_filter_is_true() -> None:
    assert compiled({})[0] == "true"


def test_the_known_operators_are_those_of_the_documentation() -> None:
    wanted = "$eq $ne $gt $gte $lt $lte $in $nin $exists $and $or $not"
    assert sorted(OPERATORS) == sorted(wanted.split())


def _nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = {"a": inner}
    return inner


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ([], "object"),
        ("a", "object"),
        (None, "object"),
        ({1: 2}, "keys are strings"),
        ({"$near": 1}, "unknown operator"),
        ({"a": {"$near": 1}}, "unknown operator"),
        ({"a": {"b": 1, "$near": 1}}, "unknown operator"),
        ({"$eq": 1}, "under a key"),
        ({"$and": {}}, "list"),
        ({"$and": "ab"}, "list"),
        ({"$or": []}, "list"),
        ({"$or": [{"a": 1}] * (MAX_BRANCHES + 1)}, "list"),
        ({"$or": [{"a": 1}, 5]}, "object"),
        ({"$not": [{"a": 1}]}, "object"),
        ({"$not": {}}, "empty"),
        ({"$and": [{}]}, "empty"),
        ({"a": {"$exists": 1}}, "true or false"),
        ({"a": {"$in": "abc"}}, "list"),
        ({"a": {"$in": b"abc"}}, "list"),
        ({"a": {"$nin": 5}}, "list"),
        ({"a": {"$gt": True}}, "numbers or strings"),
        ({"a": {"$gt": None}}, "numbers or strings"),
        ({"a": {"$lt": [1]}}, "numbers or strings"),
        ({"a": {"$lt": float("nan")}}, "not JSON"),
        ({"a": object()}, "not JSON"),
        ({"a": {"$eq": {1, 2}}}, "not JSON"),
        ({"a": {"$in": [float("inf")]}}, "not JSON"),
        ({"a": "x\x00y"}, "NUL"),
        ({"a\x00": {"$eq": 1}}, "NUL"),
        ({"a": {"$gt": "\ud800"}}, "lone surrogate"),
        ({"a": {"b": "\udfff"}}, "lone surrogate"),
        (_nested(MAX_DEPTH + 2, {"$eq": 1}), "deeper"),
        (_nested(5000, 1), "deeper"),
    ],
)
def test_a_filter_that_means_nothing_is_refused_with_a_reason(condition: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as refused:
        metadata_filter(METADATA, condition)
    assert refused.value.field == "metadata"


def test_a_filter_may_be_as_deep_as_it_says() -> None:
    metadata_filter(METADATA, _nested(MAX_DEPTH, {"$eq": 1}))


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "\U0001f600", "\x01", ""])
def test_what_only_looks_unstorable_is_stored(text: str) -> None:
    assert check_text("metadata", text) == text
    assert storable_json({text: [text]})


@pytest.mark.parametrize("text", ["\x00", "\\\x00", "\\\\\x00", "\ud83d\ude00"])
def test_what_cannot_be_stored_is_refused_however_it_is_escaped(text: str) -> None:
    for value in (text, [text], {"a": text}, {text: 1}):
        with pytest.raises(ValidationError):
            storable_json(value)


def test_the_filter_works_on_any_column_of_json() -> None:
    assert "other" in str(metadata_filter(column("other", Text), {"a": 1}))
