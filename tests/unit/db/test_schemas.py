"""Schema names: what is allowed, what is refused, and that they are always quoted."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import postgresql

from llmstack.db import CorpusStatistics, Database
from llmstack.db.schemas import qualified, quote, schema_function, translate_map, validate_schema
from llmstack.errors import ConfigurationError

ALLOWED = ["llmstack", "Support", "My App", "team-1", "a.b", "_x", "v$1", "größe", "日本", "select", "a" * 63]
REFUSED = {
    "": "empty",
    " padded": "white space",
    "padded\n": "white space",
    "a" * 64: "63 bytes",
    "ä" * 32: "63 bytes",
    "pg_temp": "reserved",
    "PG_x": "reserved",
    "information_schema": "reserved",
    "1st": "begin with a letter",
    "-x": "begin with a letter",
    "$x": "begin with a letter",
    'a"; DROP SCHEMA public; --': "'\"'",
    'a"b': "'\"'",
    "a;b": "';'",
    "a'b": '"\'"',
    "a\\b": "\\\\",
    "a\x00b": "x00",
    "a\nb": "n'",
    "a%b": "'%'",
    "a\u202eb": "u202e",
    "a\ud800b": "ud800",
}


@pytest.mark.parametrize("name", ALLOWED)
def test_a_name_that_postgresql_can_store_is_kept_as_it_is(name: str) -> None:
    assert validate_schema(name) == name
    assert translate_map(name) == {"llmstack": name}


@pytest.mark.parametrize(("name", "why"), list(REFUSED.items()), ids=[ascii(name)[:20] for name in REFUSED])
def test_a_name_that_cannot_be_a_schema_is_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        validate_schema(name)
    assert why in str(caught.value)


@pytest.mark.parametrize("name", ['"; DROP SCHEMA public; --', "pg_catalog", "a" * 64])
async def test_a_service_refuses_the_name_before_it_reaches_the_server(name: str) -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(ConfigurationError, match="schema name"):
        database.service(schema=name)


def test_an_empty_schema_is_refused_and_not_taken_for_the_default() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        Database("postgresql://nobody@127.0.0.1:1/none").service(schema="")


def test_identifiers_are_always_quoted() -> None:
    assert quote("plain") == '"plain"'
    assert quote('a"b') == '"a""b"'
    assert qualified("My App", "documents") == '"My App"."documents"'


def test_a_qualified_name_is_validated() -> None:
    with pytest.raises(ConfigurationError):
        qualified('x"; DROP', "documents")


def compiled(statement: Any, schema: str) -> str:
    compiler = statement.compile(
        dialect=postgresql.dialect(),  # type: ignore[no-untyped-call]
        schema_translate_map=translate_map(schema),
        render_schema_translate=True,
    )
    return str(compiler)


def test_tables_and_functions_are_compiled_into_the_mapped_schema() -> None:
    sql = compiled(select(CorpusStatistics.corpus, schema_function("lexeme_dimension", "word")), "My App")
    assert 'FROM "My App".corpus_statistics' in sql
    assert '"My App".lexeme_dimension(' in sql
    assert "llmstack" not in sql
