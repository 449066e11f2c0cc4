"""The text leg as SQL."""

from __future__ import annotations

from sql_support import compiled, cte, search_sql, searched

from llmstack.search import SearchOptions


def test_candidates_come_from_the_text_index_and_scores_from_the_sparse_vector() -> None:
    body = cte(search_sql(query="tax"), "budgeted")
    assert "llmstack.chunks.search_vector @@ (SELECT query.candidates" in body
    assert "ELSE llmstack.chunks.lexical END <#> (SELECT query.weights" in body
    assert "ts_rank" not in body


def test_the_owner_is_a_condition_of_every_arm_and_no_second_index_scan() -> None:
    sql = search_sql(query="tax")
    for name in ("budgeted", "unbudgeted"):
        assert "llmstack.chunks.owner_id IS NOT DISTINCT FROM" in cte(sql, name)
        assert "llmstack.chunks.owner_id =" not in cte(sql, name)
    assert "llmstack.lexical_query(" in cte(sql, "query")


def test_each_arm_is_ordered_totally_before_it_is_limited() -> None:
    body = cte(search_sql(query="tax"), "budgeted")
    order = body.split("ORDER BY ")[1].split(" LIMIT")[0]
    assert "ELSE llmstack.chunks.lexical END <#> " in order
    assert order.endswith(", llmstack.chunks.id")


def test_all_terms_are_used_only_when_the_budgeted_ones_gave_a_short_page() -> None:
    sql = search_sql(query="tax", limit=7)
    assert "(SELECT count(*) AS count_1 FROM budgeted) <" in cte(sql, "unbudgeted")
    assert "query.everything" in cte(sql, "unbudgeted")
    assert "query.everything" not in cte(sql, "budgeted")
    assert "UNION ALL" in cte(sql, "text")


def test_nothing_of_the_query_is_in_the_sql_itself() -> None:
    hostile = """'); DROP TABLE chunks; -- "'need" -'never"""
    sql = search_sql(query=hostile)
    assert not {word for word in ("DROP", "need", "never") if word in sql}
    sent = " ".join(map(str, compiled(searched(query=hostile)).params.values()))
    assert {word for word in ("DROP", "need", "never") if word in sent} == {"DROP", "need", "never"}


def test_a_clause_joins_the_conditions_of_both_arms() -> None:
    sql = search_sql(query='tax "law court" -reform')
    assert "phraseto_tsquery" in cte(sql, "required")
    for name in ("budgeted", "unbudgeted"):
        assert "(SELECT required.clause" in cte(sql, name)
    plain = search_sql(query='tax "law court"', options=SearchOptions(operators=False))
    assert "phraseto_tsquery" not in plain


def test_every_function_of_ours_has_a_schema_that_is_mapped() -> None:
    text = str(
        compiled(searched(query="tax"), schema_translate_map={"llmstack": "Svc A"}, render_schema_translate=True)
    )
    assert '"Svc A".lexical_query(' in text
    assert '"Svc A".chunks' in text
    assert "llmstack." not in text
