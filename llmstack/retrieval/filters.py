"""Which rows a search may find: a value that is written into a log and read back."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import pydantic
import pydantic_core
from sqlalchemy import ColumnElement

from ..errors import ValidationError

Self = TypeVar("Self", bound="Filter")


@dataclass(frozen=True)
class Filter:
    """Which rows; by itself all of them. A subclass is a frozen dataclass whose parts are None where nothing is asked.

    Its annotations say how a part is read back from JSON, so they name types that pydantic knows.
    """

    def conditions(self, owner_id: str) -> list[ColumnElement[bool]]:
        """Conditions on the corpus' rows, which are this owner's anyway; ValidationError on bad values."""
        return []

    def as_json(self) -> dict[str, Any] | None:
        """The parts that were given, as JSON has them; None without any."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        parts = {name: value for name, value in given.items() if value is not None}
        # What JSON cannot hold is refused by the search itself, not by its log.
        written: dict[str, Any] = pydantic_core.to_jsonable_python(parts, fallback=str)
        return written or None

    @classmethod
    def from_json(cls: type[Self], given: Mapping[str, Any] | None) -> Self:
        """The filter that was written; ValidationError for one that this class cannot have been."""
        given = given or {}
        if strange := given.keys() - {field.name for field in fields(cls)}:
            raise ValidationError("where", f"{cls.__name__} has no part {sorted(strange)[0]!r:.60}")
        try:
            kind: Any = cls
            read: Self = _reader(kind).validate_python(dict(given))
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValidationError("where", f"{first['loc'][0]!s:.60}: {first['msg']}") from None
        return read


@functools.cache
def _reader(kind: type[Any]) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)
