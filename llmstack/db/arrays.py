"""Rows as values of a statement: an array for each column, so that it is the same statement for any number of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, cast, column, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine


def given_rows(columns: Mapping[str, TypeEngine[Any]], *, name: str = "given") -> TableValuedAlias:
    """A table of the rows that `row_values` gives as parameters under the same name."""
    # Of one dimension, else a JSON list would be an array inside of it.
    types = {one: ARRAY(type_, dimensions=1) for one, type_ in columns.items()}
    arrays = [cast(bindparam(f"{name}_{one}", type_=type_), type_) for one, type_ in types.items()]
    typed = [column(one, type_) for one, type_ in columns.items()]
    return func.unnest(*arrays).table_valued(*typed, name=name).render_derived()


def row_values(names: Iterable[str], rows: Iterable[Sequence[Any]], *, name: str = "given") -> dict[str, list[Any]]:
    """Parameters for `given_rows`; not values of the statement, whose cache would keep the first ones alive."""
    keys = [f"{name}_{one}" for one in names]
    found: list[tuple[Any, ...]] = list(zip(*rows, strict=True)) or [()] * len(keys)
    return {key: list(values) for key, values in zip(keys, found, strict=True)}
