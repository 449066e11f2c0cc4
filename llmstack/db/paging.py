"""Pages that follow one another by the last row's place, so that rows which come or go meanwhile shift none."""

from __future__ import annotations

import base64
import datetime as dt
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from ..errors import ValidationError
from .checks import check_date, check_text

Item = TypeVar("Item")
Column = ColumnElement[Any] | InstrumentedAttribute[Any]


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page; `total` counts all that match, `cursor` asks for the next page and is None on the last."""

    items: Sequence[Item]
    total: int
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Keyset:
    """A total order: columns of texts, moments or UUIDs that are unique together; a cursor is of this `name` alone."""

    name: str
    columns: tuple[Column, ...]
    descending: bool = True

    def order(self, columns: Sequence[Column] | None = None) -> list[ColumnElement[Any]]:
        """What to order by; `columns` are the same ones of a subquery or an alias."""
        return [column.desc() if self.descending else column.asc() for column in columns or self.columns]

    def after(self, cursor: str | None) -> list[ColumnElement[bool]]:
        """The condition on rows behind the cursor, none without one; ValidationError for another list's."""
        if cursor is None:
            return []
        here, place = tuple_(*self.columns), tuple_(*self._read(cursor))
        return [here < place if self.descending else here > place]

    def cursor(self, *values: Any) -> str:
        """The opaque place right behind a row with these values of the columns."""
        shown = [value.isoformat() if isinstance(value, dt.datetime) else str(value) for value in values]
        return base64.urlsafe_b64encode(json.dumps([self.name, *shown]).encode()).decode()

    def _read(self, cursor: str) -> list[Any]:
        try:
            name, *values = json.loads(base64.urlsafe_b64decode(cursor.encode()))
            if name != self.name:
                raise ValueError(name)
            pairs = zip(self.columns, values, strict=True)
            return [_value(column.type.python_type, check_text("cursor", value)) for column, value in pairs]
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValidationError("cursor", "it is not one that this list gave for this order") from error


def _value(kind: type[Any], text: str) -> Any:
    if kind is dt.datetime:
        return check_date("cursor", dt.datetime.fromisoformat(text))
    return uuid.UUID(text) if kind is uuid.UUID else text
