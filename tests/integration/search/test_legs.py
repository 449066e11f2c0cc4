"""What each mode finds, and that both legs obey the same conditions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from search_support import Passage, add_passages, add_space, contents_of, refresh, search
from sqlalchemy import select, update

from llmstack.db import Service
from llmstack.documents import DOCUMENTS
from llmstack.documents.models import Chunk, Document
from llmstack.embeddings import Space
from llmstack.errors import ValidationError
from llmstack.search import SearchOptions, VectorSource

EAST, NORTH = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]
PASSAGES = [
    Passage("parental leave is granted for a year", vector=[1.0, 0.1, 0.0, 0.0]),
    Passage("leave requests need the consent of parental advisers", vector=[0.9, 0.3, 0.0, 0.0]),
    Passage("travel costs are paid", vector=[0.8, 0.5, 0.0, 0.0]),
    Passage("sick days are counted", vector=[0.0, 1.0, 0.0, 0.0]),
    Passage("parental leave of a stranger", owner_id="stranger", vector=[1.0, 0.0, 0.0, 0.0]),
]
OWN = [passage.content for passage in PASSAGES if passage.owner_id == "acme"]


@pytest.fixture
async def space(llmstack_service: Service) -> Space:
    """Five passages of two owners, and their vectors."""
    space = await add_space(llmstack_service)
    await add_passages(llmstack_service, PASSAGES, space=space)
    return space


async def found(service: Service, **arguments: Any) -> list[str]:
    return await contents_of(service, await search(service, **arguments))


async def test_text_mode_finds_any_word_of_the_query_and_nothing_else(llmstack_service: Service, space: Space) -> None:
    rows = await search(llmstack_service, query="leave unheard")
    assert set(await contents_of(llmstack_service, rows)) == set(OWN[:2])
    assert all(row.text_rank and row.vector_rank is None and row.vector_path is None for row in rows)
    assert [row.score for row in rows] == [row.text_score for row in rows]


async def test_vector_mode_finds_the_nearest_first(llmstack_service: Service, space: Space) -> None:
    rows = await search(llmstack_service, vector=EAST, space=space)
    assert await contents_of(llmstack_service, rows) == OWN
    assert [row.vector_rank for row in rows] == [1, 2, 3, 4]
    assert all(row.text_rank is None and row.vector_path == "exact" for row in rows)
    assert rows[0].vector_score == pytest.approx(1 / 1.01**0.5, rel=1e-3)
    assert rows[3].vector_score == pytest.approx(0.0, abs=1e-6)


async def test_hybrid_mode_returns_what_either_leg_found(llmstack_service: Service, space: Space) -> None:
    rows = await search(llmstack_service, query="sick leave", vector=EAST, space=space)
    assert sorted(await contents_of(llmstack_service, rows)) == sorted(OWN)
    legs = {text: (row.text_rank, row.vector_rank) for text, row in zip(
        await contents_of(llmstack_service, rows), rows, strict=True)}  # fmt: skip
    assert legs[OWN[2]] == (None, 3)
    assert legs[OWN[3]] == (1, 4)


@pytest.mark.parametrize("arguments", [{"query": "leave"}, {"vector": EAST}, {"query": "leave", "vector": EAST}])
async def test_no_mode_shows_another_owners_rows(
    llmstack_service: Service, space: Space, arguments: dict[str, Any]
) -> None:
    given = {**arguments, "space": space if "vector" in arguments else None}
    assert set(await found(llmstack_service, **given)) <= set(OWN)
    assert await found(llmstack_service, **given, owner_id="stranger") == [PASSAGES[4].content]
    assert await found(llmstack_service, **given, owner_id="nobody") == []
    assert await found(llmstack_service, **given, owner_id="") == []


@pytest.mark.parametrize("arguments", [{"query": "leave"}, {"vector": EAST}, {"query": "leave", "vector": EAST}])
async def test_every_mode_obeys_conditions_and_the_limit(
    llmstack_service: Service, space: Space, arguments: dict[str, Any]
) -> None:
    given = {**arguments, "space": space if "vector" in arguments else None}
    assert await found(llmstack_service, **given, where=[Chunk.position == 1]) == [OWN[1]]
    documents = select(Document.id).where(Document.owner_id == "stranger")
    assert await found(llmstack_service, **given, where=[Chunk.document_id.in_(documents)]) == []
    both = await found(llmstack_service, **given, where=[Chunk.position < 2, Chunk.language == "simple"])
    assert both == [OWN[0], OWN[1]]
    assert await found(llmstack_service, **given, limit=1) == [OWN[0]]


CLAUSES: list[tuple[str, list[str], list[str]]] = [
    ('"parental leave"', [OWN[0]], []),
    ('leave "consent of"', [OWN[1]], []),
    ("leave -consent", [OWN[0]], OWN[2:]),
    ('leave -"parental leave"', [OWN[1]], OWN[2:]),
    ('"parental leave" -year', [], []),
    ('"parental leave" "consent of"', [], []),
    ('leave "?!"', OWN[:2], OWN[2:]),
    ('leave -"?!"', OWN[:2], OWN[2:]),
]


async def test_phrases_and_exclusions_bind_both_legs(llmstack_service: Service, space: Space) -> None:
    for query, by_words, by_vectors_alone in CLAUSES:
        assert await found(llmstack_service, query=query) == by_words, query
        both = await found(llmstack_service, query=query, vector=EAST, space=space)
        assert both == by_words + by_vectors_alone, query


async def test_an_exclusion_alone_leaves_the_rest_to_the_vectors(llmstack_service: Service, space: Space) -> None:
    assert await found(llmstack_service, query="-leave") == []
    assert await found(llmstack_service, query="-leave", vector=EAST, space=space) == OWN[2:]


async def test_a_context_is_searched_with_its_content(llmstack_service: Service) -> None:
    passages = [Passage("page one", context="Holidays"), Passage("page two", context="Taxes")]
    await add_passages(llmstack_service, passages)
    assert await found(llmstack_service, query="taxes page") == ["page two", "page one"]


async def test_rows_outside_the_index_are_found_by_no_leg(llmstack_service: Service, space: Space) -> None:
    source = VectorSource(id=Chunk.id, owner_id=Chunk.owner_id, embedding=_fake_vector())
    async with llmstack_service.session() as session:
        await session.execute(update(Chunk).where(Chunk.position == 0).values(level=1))
        await session.commit()
    rows = await search(llmstack_service, query="leave", vector=[1.0], source=source)
    assert OWN[0] not in await contents_of(llmstack_service, rows)
    assert OWN[1] in await contents_of(llmstack_service, rows)


def _fake_vector() -> Any:
    """A vector in the searched table itself: the position."""
    from pgvector.sqlalchemy import VECTOR
    from sqlalchemy import Text, cast

    return cast("[" + cast(Chunk.position + 1, Text) + "]", VECTOR(1))


SPOKEN = [
    Passage("The houses were sold", language="english"),
    Passage("Die Häuser wurden verkauft", language="german"),
    Passage("Les maisons sont vendues", language="french"),
    Passage("houses", language="no such language"),
]


READINGS: list[tuple[str, list[str], set[int]]] = [
    ("house", ["english"], {0}),
    ("Haus", ["german"], {1}),
    ("maison", ["french"], {2}),
    ("house Haus maison", ["english", "german", "french"], {0, 1, 2}),
    ("houses", ["simple"], {3}),
    ("houses", ["english", "simple"], {0, 3}),
    ("houses", ["esperanto"], {3}),
    ("houses", [], {3}),
    ('"the houses"', ["english", "german"], {0}),
    ("houses Häuser -verkauft", ["english", "german"], {0}),
]


async def test_one_query_is_read_in_each_language_of_a_mixed_corpus(llmstack_service: Service) -> None:
    await add_passages(llmstack_service, SPOKEN)
    for query, languages, expected in READINGS:
        rows = await found(llmstack_service, query=query, languages=languages)
        assert set(rows) == {SPOKEN[number].content for number in expected}, (query, languages)


async def test_languages_may_come_from_the_database_itself(llmstack_service: Service) -> None:
    await add_passages(llmstack_service, SPOKEN)
    rows = await found(llmstack_service, query="house Haus", languages=DOCUMENTS.spoken("acme"))
    assert set(rows) == {SPOKEN[0].content, SPOKEN[1].content}


NASTY = [
    "",
    " \t\n",
    "'",
    '"',
    '""',
    '"""',
    '-""',
    "-",
    "--",
    "\\",
    "\\'",
    "'\\''",
    "a\\",
    "'a\\' | b",
    "!(a & b) | c:*",
    "a:*AB <-> <1> b",
    "((((((",
    "%s %(x)s $1 :words {}",
    "\x00",
    "a\x00b",
    "\ud800",
    "\udfff leave",
    "\x01owner=acme",
    "the of and",
    "?!., ;:",
    "🦄 \u200b \ufeff \u202e",
    "é" * 3000,
    "x" * 2046,
    "x" * 2047,
    "x" * 2048,
    "x" * 100_000,
    "Ⱥ" * 1000,
    '"' + "Ⱥ" * 1000 + '"',
    "leave " * 16_000,
    '"' + "leave " * 16_000 + '"',
    "-" + "y" * 5000,
    '"leave" ' * 5000,
    "-leave " * 5000,
    " ".join(f"w{number}" for number in range(15_000)),
    " ".join("\U00020000" * 150 + f"{number}-" + "\U00020001" * 150 for number in range(160)),
    "http://example.com/" + "a/" * 5000 + "?q='\"",
    "a-b-" * 5000,
    "1e999 -1e999 0x00 1.2.3.4 user@example.com </a> <b>",
]


@pytest.mark.parametrize("languages", [["english"], ["english", "german", "russian", "simple", "french"]])
async def test_nothing_that_a_user_types_raises(
    llmstack_service: Service, space: Space, languages: Sequence[str]
) -> None:
    await refresh(llmstack_service)
    for query, vector in itertools.product(NASTY, (None, EAST)):
        rows = await search(
            llmstack_service,
            query=query,
            vector=vector,
            space=space if vector else None,
            languages=languages,
        )
        assert set(await contents_of(llmstack_service, rows)) <= set(OWN)


PIECES = st.sampled_from(
    ["'", '"', "&", "|", "!", "<", ">", "(", ")", ":", "*", "\\", "-", " ", "leave", "parental", "the",
     "\x00", "\x01", "\ud800", "$1", ":x", "%s", "ß", "Ⱥ" * 700, "''", "\\'", "E'", "--", "/*", "'::tsquery"]
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.one_of(st.lists(PIECES, max_size=25).map("".join), st.text(max_size=60)), operators=st.booleans())
async def test_no_combination_of_signs_raises_or_shows_a_strangers_row(
    llmstack_service: Service, space: Space, query: str, operators: bool
) -> None:
    options = SearchOptions(operators=operators)
    rows = await search(llmstack_service, query=query, vector=EAST, space=space, options=options)
    assert set(await contents_of(llmstack_service, rows)) <= set(OWN)


WORD = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(word=WORD)
async def test_a_text_is_found_by_its_own_words_whatever_signs_are_in_them(
    llmstack_service: Service, word: str
) -> None:
    owner = word.encode().hex()
    await add_passages(llmstack_service, [Passage(f"tax {word}", owner_id=owner)])
    plain = SearchOptions(operators=False)
    rows = await search(llmstack_service, query=f"tax {word}", owner_id=owner, options=plain)
    forbidden = search(llmstack_service, query="tax -tax", owner_id=owner)
    assert (len(rows), len(await forbidden)) == (1, 0)


async def test_a_query_beyond_the_limit_is_refused_with_its_size(llmstack_service: Service) -> None:
    with pytest.raises(ValidationError, match="200001 bytes") as caught:
        await search(llmstack_service, query="x" * 200_001)
    assert caught.value.field == "query"


@pytest.mark.parametrize(
    "vector", [[], [1.0], [0.0] * 4, [float("nan"), 0, 0, 1], [float("inf"), 0, 0, 1], [1e6, 0, 0, 1]]
)
async def test_a_vector_that_compares_with_nothing_is_refused(
    llmstack_service: Service, space: Space, vector: list[float]
) -> None:
    with pytest.raises(ValidationError) as caught:
        await search(llmstack_service, vector=vector, space=space)
    assert caught.value.field == "vector"


@pytest.mark.parametrize(
    ("distance", "scores"),
    [("cosine", [1.0, 0.6, 0.0]), ("inner_product", [1.0, 3.0, 0.0]), ("l2", [0.0, -(20**0.5), -(2**0.5)])],
)
async def test_every_distance_scores_the_nearer_higher(
    llmstack_service: Service, distance: str, scores: list[float]
) -> None:
    space = await add_space(llmstack_service, distance=distance)
    passages = [
        Passage("same", vector=EAST),
        Passage("far along", vector=[3.0, 4.0, 0.0, 0.0]),
        Passage("across", vector=NORTH),
    ]
    await add_passages(llmstack_service, passages, space=space)
    rows = await search(llmstack_service, vector=EAST, space=space)
    expected = dict(zip([passage.content for passage in passages], scores, strict=True))
    names = await contents_of(llmstack_service, rows)
    assert {name: row.score for name, row in zip(names, rows, strict=True)} == pytest.approx(expected, abs=1e-5)
    assert names == sorted(expected, key=lambda name: -expected[name])


async def test_a_stored_zero_vector_is_never_the_nearest(llmstack_service: Service) -> None:
    space = await add_space(llmstack_service)
    passages = [Passage("zero", vector=[0.0] * 4), Passage("tax", vector=NORTH), Passage("law", vector=EAST)]
    await add_passages(llmstack_service, passages, space=space)
    assert await found(llmstack_service, vector=EAST, space=space) == ["law", "tax"]
    rows = await search(llmstack_service, query="zero", vector=EAST, space=space)
    assert all(row.score == row.score for row in rows)
    assert sorted(await contents_of(llmstack_service, rows)) == ["law", "tax", "zero"]
