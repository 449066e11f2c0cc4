"""Cursors: a place in one list's order, and no other's."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from sqlalchemy.dialects import postgresql

from llmstack.db.models import LoggedSearch
from llmstack.db.paging import Keyset
from llmstack.errors import ValidationError

NEWEST = Keyset("newest", (LoggedSearch.created_at, LoggedSearch.id))
OLDEST = Keyset("oldest", (LoggedSearch.created_at, LoggedSearch.id), descending=False)
BY_QUERY = Keyset("query", (LoggedSearch.query, LoggedSearch.id))
MOMENT = dt.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=dt.timezone(dt.timedelta(hours=5)))
ID = uuid.UUID(int=7)


def compiled(conditions: list[Any]) -> tuple[str, list[Any]]:
    (condition,) = conditions
    made = condition.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    return str(made), list(made.params.values())


@pytest.mark.parametrize(("order", "sign"), [(NEWEST, "<"), (OLDEST, ">")])
def test_a_page_begins_behind_the_row_whose_place_it_was_given(order: Keyset, sign: str) -> None:
    sql, values = compiled(order.after(order.cursor(MOMENT, ID)))
    assert f".id) {sign} (" in sql
    assert values == [MOMENT, ID]


def test_without_a_cursor_a_list_begins_at_its_beginning() -> None:
    assert NEWEST.after(None) == []


@pytest.mark.parametrize("query", ["", "ünï", '"; --', "a" * 5000])
def test_texts_are_kept_as_they_are(query: str) -> None:
    assert compiled(BY_QUERY.after(BY_QUERY.cursor(query, ID)))[1] == [query, ID]


@pytest.mark.parametrize(
    "cursor",
    [
        NEWEST.cursor(MOMENT, ID), OLDEST.cursor(MOMENT), OLDEST.cursor(MOMENT, ID, ID), OLDEST.cursor(ID, MOMENT),
        OLDEST.cursor(MOMENT.replace(tzinfo=None), ID), OLDEST.cursor("0001-01-01T00:00:00+05:00", ID),
        OLDEST.cursor("\0", ID), "", "x", "bm9wZQ==", "ünï", "\ud800", 5, "e30=", "W10=", "[" * 5000,
    ],
)  # fmt: skip
def test_what_this_list_did_not_give_is_refused(cursor: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        OLDEST.after(cursor)
    assert refused.value.field == "cursor"
