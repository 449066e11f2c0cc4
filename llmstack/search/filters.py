"""Metadata filters: containment, and comparison operators as SQL expressions.

`{"team": "hr"}` is containment. `{"year": {"$gte": 2020}, "draft": {"$exists": False}}` compares. Nested keys
nest; of an array, a key of digits is a place. A value is compared only with values of its own JSON type;
strings by code point. `$ne`, `$nin` and `$not` also hold where the key is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Text,
    and_,
    cast,
    collate,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from ..db.checks import check_text, storable_json
from ..errors import ValidationError

MAX_DEPTH = 20
"""Levels of a filter: more is a mistake, and would exhaust the compiler's recursion."""
MAX_BRANCHES = 1000
"""Conditions of a filter: each is an expression that the server plans."""
_COMPARISONS: dict[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "$gt": lambda left, right: left > right,
    "$gte": lambda left, right: left >= right,
    "$lt": lambda left, right: left < right,
    "$lte": lambda left, right: left <= right,
}
OPERATORS = ("$eq", "$ne", *_COMPARISONS, "$in", "$nin", "$exists", "$and", "$or", "$not")


def metadata_filter(column: Any, condition: Mapping[str, Any]) -> ColumnElement[bool]:
    """The condition as an expression that is true or false, never null; ValidationError on bad input."""
    return _conjunction(column, condition, (), 0)


def _fail(message: str) -> ValidationError:
    return ValidationError("metadata", message)


def _conjunction(column: Any, condition: Any, path: tuple[str, ...], depth: int) -> ColumnElement[bool]:
    if not isinstance(condition, Mapping):
        raise _fail(f"a filter is an object, not {type(condition).__name__}")
    if depth > MAX_DEPTH:
        raise _fail(f"the filter is nested deeper than {MAX_DEPTH} levels")
    if depth and not condition:
        raise _fail("a filter inside of a filter is empty")
    return and_(true(), *(_term(column, key, value, path, depth) for key, value in condition.items()))


def _term(column: Any, key: Any, value: Any, path: tuple[str, ...], depth: int) -> ColumnElement[bool]:
    if not isinstance(key, str):
        raise _fail(f"keys are strings, not {type(key).__name__}")
    if key in ("$and", "$or"):
        if not _is_list(value) or not 1 <= len(value) <= MAX_BRANCHES:
            raise _fail(f"{key} takes a list of 1 to {MAX_BRANCHES} filters")
        parts = [_conjunction(column, part, path, depth + 1) for part in value]
        return and_(true(), *parts) if key == "$and" else or_(false(), *parts)
    if key == "$not":
        return not_(_conjunction(column, value, path, depth + 1))
    if key.startswith("$"):
        return _compare(column, key, value, path)
    below = (*path, check_text("metadata", key))
    if isinstance(value, Mapping) and _has_operator(value, depth):
        return _conjunction(column, value, below, depth + 1)
    part = cast(literal(_nested(below, _json(value)), JSONB), JSONB)
    contained: ColumnElement[bool] = column.op("@>", return_type=Boolean())(part)
    # Bare where it can be, for an index answers nothing else.
    return func.coalesce(contained, false()) if getattr(_plain(column), "nullable", True) else contained


def _plain(column: Any) -> Any:
    return getattr(column, "expression", column)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes)


def _has_operator(value: Any, depth: int) -> bool:
    if depth > MAX_DEPTH:
        raise _fail(f"the filter is nested deeper than {MAX_DEPTH} levels")
    return isinstance(value, Mapping) and any(
        (isinstance(key, str) and key.startswith("$")) or _has_operator(inner, depth + 1)
        for key, inner in value.items()
    )


def _compare(column: Any, operator: str, value: Any, path: tuple[str, ...]) -> ColumnElement[bool]:
    if operator not in OPERATORS:
        raise _fail(f"unknown operator {operator!r}; known are {', '.join(OPERATORS)}")
    if not path:
        raise _fail(f"{operator} stands under a key: {{'year': {{{operator!r}: ...}}}}")
    found: Any = column.op("#>", return_type=JSONB())(cast(list(path), ARRAY(Text)))
    if operator == "$exists":
        if not isinstance(value, bool):
            raise _fail("$exists takes true or false")
        exists: ColumnElement[bool] = found.is_not(None) if value else found.is_(None)
        return exists
    if operator in ("$in", "$nin"):
        if not _is_list(value):
            raise _fail(f"{operator} takes a list")
        listed = cast(literal([_json(item) for item in value], JSONB), JSONB)
        within = func.coalesce(found.in_(select(func.jsonb_array_elements(listed))), false())
        return within if operator == "$in" else not_(within)
    if operator in ("$eq", "$ne"):
        return _equal(found, value) if operator == "$eq" else not_(_equal(found, value))
    return func.coalesce(_ordered(found, operator, value), false())


def _equal(found: Any, value: Any) -> ColumnElement[bool]:
    return func.coalesce(found == cast(literal(_json(value), JSONB(none_as_null=False)), JSONB), false())


def _ordered(found: Any, operator: str, value: Any) -> ColumnElement[bool]:
    compare = _COMPARISONS[operator]
    kind = func.jsonb_typeof(found)
    if isinstance(value, str):
        # By code point, as Python compares; the database's own collation is anybody's guess.
        plain = collate(found.op("#>>", return_type=Text())(cast([], ARRAY(Text))), "C")
        return and_(kind == "string", compare(plain, cast(check_text("metadata", value), Text)))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _fail(f"{operator} compares numbers or strings, not {type(value).__name__}")
    return and_(kind == "number", compare(found, cast(literal(_json(value), JSONB), JSONB)))


def _nested(path: tuple[str, ...], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _json(value: Any) -> Any:
    storable_json(value)
    return value
