"""The whole search as SQL."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sql_support import BOTH, SOURCE, VECTOR, compiled, cte, search_sql, searched, sql_of
from sqlalchemy import bindparam, select, union_all

from llmstack.db.checks import MAX_LIMIT
from llmstack.documents.models import Chunk, Document
from llmstack.errors import ValidationError
from llmstack.search import SearchOptions, Variant

COLUMNS = ["id", "score", "text_score", "text_rank", "vector_score", "vector_rank", "vector_path"]
MODES: list[dict[str, Any]] = [{"query": "tax"}, {"vector": VECTOR, "source": SOURCE}, BOTH]


@pytest.mark.parametrize("arguments", MODES, ids=["text", "vector", "hybrid"])
def test_every_mode_is_one_statement_with_the_same_columns_in_a_total_order(
    arguments: dict[str, Any],
) -> None:
    statement = searched(**arguments)
    sql = sql_of(statement)
    assert statement.subquery().c.keys() == COLUMNS
    assert ";" not in sql
    last = sql.rsplit("ORDER BY", 1)[1]
    assert "score DESC" in last
    assert ".id LIMIT" in last


def test_a_leg_that_is_not_asked_for_is_not_there() -> None:
    assert "chunk_embeddings" not in search_sql(query="tax")
    assert "lexical_query" not in search_sql(vector=VECTOR, source=SOURCE)


def test_conditions_are_in_every_arm() -> None:
    sql = search_sql(**BOTH, where=[Chunk.position > 3])
    for name in ("budgeted", "unbudgeted", "reach", "near", "exact"):
        assert "llmstack.chunks.position > " in cte(sql, name)


def test_the_owner_is_in_every_arm() -> None:
    sql = search_sql(**BOTH)
    for name in ("budgeted", "unbudgeted", "reach", "near", "exact"):
        assert "owner_id" in cte(sql, name)
    assert list(compiled(searched(**BOTH)).params.values()).count("acme") == 1


def test_a_parameter_of_the_host_keeps_its_own_value() -> None:
    hit = searched(**BOTH).subquery()
    owner: Any = bindparam("owner_id", "host")
    params = compiled(select(hit).join(Document, Document.owner_id == owner)).params
    assert params["owner_id"] == "host"
    assert "acme" in params.values()


def test_languages_may_be_a_list_a_query_or_nothing() -> None:
    assert "UNION ALL" in cte(search_sql(query="tax", languages=["english", "german"]), "languages")
    assert "documents" in cte(search_sql(query="tax", languages=select(Document.language)), "languages")
    assert "simple" in compiled(searched(query="tax", languages=[])).params.values()


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1, 10**9])
def test_a_page_size_that_no_one_can_bear_is_refused(limit: int) -> None:
    with pytest.raises(ValidationError, match="limit"):
        searched(query="tax", limit=limit)


@pytest.mark.parametrize("arguments", [{}, {"vector": VECTOR}, {"source": SOURCE}, {"query": "tax", "vector": VECTOR}])
def test_half_a_question_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        searched(**arguments)


@pytest.mark.parametrize(
    "values",
    [{"candidates": 0}, {"budget": -1}, {"exact_rows": -1}, {"ef_search": 0}, {"exact_rows": 10**10}],
)
def test_options_without_meaning_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        SearchOptions(**values)  # type: ignore[arg-type]


def test_the_limit_raises_the_candidates_with_it() -> None:
    params = compiled(searched(query="tax", limit=300, options=SearchOptions(candidates=5))).params
    assert 300 in params.values()
    assert 5 not in params.values()


def test_two_searches_that_have_names_stand_in_one_statement() -> None:
    others = [Variant(query="court", vector=VECTOR)]
    one, other = (searched(**BOTH, variants=others, name=name).subquery() for name in ("", "notes"))
    sql = sql_of(union_all(select(one.c.id, one.c.score), select(other.c.id, other.c.score)))
    names = re.findall(r"(\w+) AS (?:MATERIALIZED )?\(", sql)
    assert len(names) == len(set(names))
    assert {"reach_2", "notes_reach_2", "blend", "notes_blend"} <= set(names)


@pytest.mark.parametrize("name", ["a b", "Notes", '"', "{0}", "n" * 41])
def test_a_name_that_is_no_plain_identifier_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name: it must be of at most 40"):
        searched(**BOTH, name=name)
