"""Metadata filters: containment, and comparison operators as SQL expressions.

`{"team": "hr"}` is containment. `{"year": {"$gte": 2020}, "draft": {"$exists": False}}` compares. Nested keys nest.
A value is compared only with values of its own JSON type; strings by code point.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, cast, collate, false, func, literal, not_, or_, true
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from ..errors import ValidationError

MAX_DEPTH = 20

_COMPARISONS: dict[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "$gt": lambda left, right: left > right,
    "$gte": lambda left, right: left >= right,
    "$lt": lambda left, right: left < right,
    "$lte": lambda left, right: left <= right,
}
OPERATORS = ("$eq", "$ne", *_COMPARISONS, "$in", "$nin", "$exists", "$and", "$or", "$not")


def metadata_filter(column: Any, condition: Mapping[str, Any]) -> ColumnElement[bool]:
    """The condition as an expression that is true or false, never null. Raises ValidationError on bad input."""
    return _conjunction(column, condition, (), 0)


def _fail(message: str) -> ValidationError:
    return ValidationError("metadata", message)


def _conjunction(column: Any, condition: Any, path: tuple[str, ...], depth: int) -> ColumnElement[bool]:
    if not isinstance(condition, Mapping):
        raise _fail(f"a filter is an object, not {type(condition).__name__}")
    if depth > MAX_DEPTH:
        raise _fail(f"the filter is nested deeper than {MAX_DEPTH} levels")
    return and_(true(), *(_term(column, key, value, path, depth) for key, value in condition.items()))


def _term(column: Any, key: Any, value: Any, path: tuple[str, ...], depth: int) -> ColumnElement[bool]:
    if not isinstance(key, str):
        raise _fail(f"keys are strings, not {type(key).__name__}")
    if key in ("$and", "$or"):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise _fail(f"{key} takes a list of filters")
        parts = [_conjunction(column, part, path, depth + 1) for part in value]
        return and_(true(), *parts) if key == "$and" else or_(false(), *parts)
    if key == "$not":
        return not_(_conjunction(column, value, path, depth + 1))
    if key.startswith("$"):
        return _compare(column, key, value, path)
    below = (*path, storable_text(key))
    if isinstance(value, Mapping) and _has_operator(value, depth):
        return _conjunction(column, value, below, depth + 1)
    return func.coalesce(column.contains(_nested(below, _json(value)), type_=JSONB), false())


def _has_operator(value: Any, depth: int) -> bool:
    if depth > MAX_DEPTH:
        raise _fail(f"the filter is nested deeper than {MAX_DEPTH} levels")
    return isinstance(value, Mapping) and any(
        (isinstance(key, str) and key.startswith("$")) or _has_operator(inner, depth + 1) for key, inner in value.items()
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
        return found.is_not(None) if value else found.is_(None)
    if operator in ("$in", "$nin"):
        if not isinstance(value, Sequence | set | frozenset) or isinstance(value, str):
            raise _fail(f"{operator} takes a list")
        within = or_(false(), *(_equal(found, item) for item in value))
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
        return and_(kind == "string", compare(plain, cast(storable_text(value), Text)))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _fail(f"{operator} compares numbers or strings, not {type(value).__name__}")
    return and_(kind == "number", compare(found, cast(literal(_json(value), JSONB), JSONB)))


def _nested(path: tuple[str, ...], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def storable_text(text: str) -> str:
    """The text, if PostgreSQL can hold it; NUL and lone surrogates raise."""
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise _fail("it contains a NUL character or a lone surrogate, which PostgreSQL cannot store")
    return text


def _json(value: Any) -> Any:
    try:
        storable_text(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\\u0000", "\x00"))
    except (TypeError, RecursionError) as error:
        raise _fail(f"it is not JSON: {error}") from None
    except ValueError as error:
        if isinstance(error, ValidationError):
            raise
        raise _fail("it is not JSON: NaN and infinity have no form in it") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise _fail("it is not JSON: NaN and infinity have no form in it")
    return value
