"""What a searchable table is, said once: everything about searching takes it."""

from __future__ import annotations

import datetime as dt
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from sqlalchemy import BindParameter, ColumnElement, Select, true
from sqlalchemy.orm import InstrumentedAttribute

from ..embeddings import EmbeddedTable, Space
from ..embeddings.vectors import source_of
from ..errors import ConfigurationError, ValidationError
from ..search import SearchableMixin, VectorSource
from .hits import Hit
from .request import Search, Where

Expression = ColumnElement[Any] | InstrumentedAttribute[Any]
Owner = str | BindParameter[str]


@dataclass(frozen=True, eq=False, kw_only=True)
class Group:
    """Rows of which the best stands for all, by an expression on the rows.

    `shown` is the id of the row that is shown in its place, where that is another one.
    """

    by: Expression
    shown: Expression | None = None


def _every(row: Any) -> ColumnElement[bool]:
    return true()


@dataclass(frozen=True, eq=False, kw_only=True)
class Sequel:
    """Rows that follow one another: alike in the columns `within`, in the order of `place`; those that meet `where`."""

    within: Sequence[str]
    place: str
    where: Callable[[Any], ColumnElement[bool]] = _every


def _as_it_is(statement: Select[Any], *_: Any) -> Select[Any]:
    return statement


# Compared by identity: it is the key of kept statements, and column expressions have no equality.
@dataclass(frozen=True, eq=False, kw_only=True)
class Corpus(Generic[Hit, Where]):
    """A table that is searched: its rows and vectors, what a hit shows, and by what people judge it.

    `name` is the key of its statistics, its search log and its calibrations, and the `__corpus__` of its rows.
    `show` adds to a Select the columns of a hit, named as the fields of `hit`, with the joins that they need; its
    second argument is the row that is shown. `unit` is the field of a hit by which people judge, which should outlive
    the row. `languages` are those in which a query is read, or a Select of an owner's. `moment` is what recency means,
    and `reach` joins what it needs to a Select from `rows`. `terms` is the corpus whose counts of words weigh a query,
    for rows that are ranked beside those of that one; its own unless given.
    """

    name: str
    rows: type[SearchableMixin]
    hit: type[Hit]
    where: type[Where]
    vectors: EmbeddedTable | None = None
    show: Callable[[Select[Any], Any], Select[Any]] = _as_it_is
    unit: str = "id"
    languages: Callable[[Owner], Select[Any]] | Sequence[str] = ("english",)
    moment: ColumnElement[dt.datetime] | InstrumentedAttribute[Any] | None = None
    reach: Callable[[Select[Any]], Select[Any]] = _as_it_is
    groups: Mapping[str, Group] = field(default_factory=dict)
    sequel: Sequel | None = None
    terms: str | None = None

    def source(self, space: Space | None) -> VectorSource | None:
        """The rows' vectors in a space, by the expression that its index is made with."""
        return None if space is None or self.vectors is None else _source(self.vectors, space)

    def unit_of(self, hit: Hit) -> str:
        """What people judge when they judge this hit: its unit, and the row itself where it has none."""
        unit = getattr(hit, self.unit)
        return str(hit.id if unit is None else unit)

    def spoken(self, owner: Owner) -> Select[Any] | Sequence[str]:
        """The languages in which a query of this owner is read."""
        return self.languages(owner) if callable(self.languages) else self.languages

    def narrowed(self, search: Search[Where]) -> list[ColumnElement[bool]]:
        """What the search's filter asks of the rows; ValidationError for a search that this corpus cannot answer."""
        if search.group_by is not None and search.group_by not in self.groups:
            known = f"use {' or '.join(self.groups)}" if self.groups else f"{self.name} have no groups"
            raise ValidationError("group_by", f"{search.group_by!r:.60} is unknown; {known}")
        if search.recency is not None and self.moment is None:
            raise ValidationError("recency", f"{self.name} have no moment by which they age")
        if search.neighbours and self.sequel is None:
            raise ValidationError("neighbours", f"{self.name} do not follow one another")
        if search.mode in ("hybrid", "vector") and self.vectors is None:
            raise ValidationError("mode", f"{self.name} have no vectors; search them by text")
        if search.where is None:
            return []
        if not isinstance(search.where, self.where):
            raise ValidationError("where", f"it is a {self.where.__name__}, not {type(search.where).__name__}")
        return search.where.conditions(search.owner_id)

    def __repr__(self) -> str:
        return f"Corpus({self.name!r})"


def named_corpora(names: str | None) -> list[Corpus[Any, Any]]:
    """The corpora of a comma-separated list such as `shop.search:NOTES`; ConfigurationError for what is none."""
    listed = [name.strip() for name in (names or "").split(",") if name.strip()]
    return [_imported(name) for name in listed]


def _imported(name: str) -> Corpus[Any, Any]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    # Whatever the module of a host does as it is loaded.
    except Exception as error:
        raise ConfigurationError(f"LLMSTACK_CORPORA: {name!r} is not MODULE:CORPUS, or fails: {error}") from error
    if not isinstance(found, Corpus):
        raise ConfigurationError(f"LLMSTACK_CORPORA: {name!r} is a {type(found).__name__}, not a Corpus")
    return found


@functools.lru_cache(maxsize=256)
def _source(vectors: EmbeddedTable, space: Space) -> VectorSource:
    return source_of(space, vectors.embeddings)
