"""Rows for the leak suite: made once through the ORM, then written as plain values."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, insert, inspect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

RowMaker = Callable[[type[Any]], Any]

_VALUES: dict[type[Any], Callable[[], Any]] = {
    str: lambda: uuid.uuid4().hex,
    uuid.UUID: uuid.uuid4,
    int: lambda: uuid.uuid4().int % 2**31,
    float: lambda: 1.5,
    bool: lambda: True,
    bytes: lambda: b"row",
    dict: dict,
    list: list,
    decimal.Decimal: lambda: decimal.Decimal(1),
    dt.datetime: lambda: dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.date: lambda: dt.date(2024, 1, 1),
    dt.timedelta: lambda: dt.timedelta(1),
}


@dataclass(frozen=True)
class Row:
    """The values of one saved object, without those that the server computes."""

    model: type[Any]
    values: dict[str, Any]
    key: tuple[Any, ...]


def plain_row(model: type[Any]) -> Any:
    """An object of a model that refers to no other row, its required columns filled by type."""
    mapper = inspect(model)
    required = [attribute for attribute in mapper.column_attrs if _must_be_given(attribute.columns[0])]
    return model(**{attribute.key: _value(model, attribute.columns[0]) for attribute in required})


def _must_be_given(column: Column[Any]) -> bool:
    filled = column.default is not None or column.server_default is not None or column.identity is not None
    serial = column.primary_key and column is column.table.autoincrement_column
    return not (column.nullable or filled or serial)


def _value(model: type[Any], column: Column[Any]) -> Any:
    make = None if column.foreign_keys else _VALUES.get(column.type.python_type)
    if make is None:
        raise TypeError(
            f"{model.__name__}.{column.name} needs a value that cannot be guessed; "
            "give assert_schema_isolation a make_row"
        )
    return make()


async def capture(engine: AsyncEngine, make_row: RowMaker, model: type[Any]) -> list[Row]:
    """Save what `make_row` made in a transaction that is rolled back, and keep its values."""
    made = make_row(model)
    objects = list(made) if isinstance(made, Sequence) else [made]
    async with AsyncSession(engine, expire_on_commit=False, autoflush=False) as session:
        for one in objects:
            session.add(one)
            await session.flush()
        for one in objects:
            await session.refresh(one, [attribute.key for attribute in inspect(type(one)).column_attrs])
        return [_row(one) for one in objects]


def _row(one: Any) -> Row:
    mapper = inspect(type(one))
    written = [attribute for attribute in mapper.column_attrs if attribute.columns[0].computed is None]
    return Row(
        type(one),
        {attribute.key: getattr(one, attribute.key) for attribute in written},
        inspect(one).identity,
    )


async def write(engine: AsyncEngine, rows: Sequence[Row]) -> None:
    """Write the rows in order and commit."""
    async with AsyncSession(engine) as session, session.begin():
        for row in rows:
            await session.execute(insert(row.model), [row.values])


def relations(rows: Sequence[Row]) -> list[Any]:
    """The relationships of the rows' models, each as its class attribute."""
    models = list(dict.fromkeys(row.model for row in rows))
    return [
        getattr(model, relationship.key)
        for model in models
        for relationship in inspect(model).relationships
        if not relationship.viewonly
    ]
