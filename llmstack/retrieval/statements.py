"""The statement of a search: kept where only its values differ from search to search."""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Result, Select, Text, bindparam
from sqlalchemy.ext.asyncio import AsyncSession

from ..embeddings import Space
from ..errors import ConfigurationError, ValidationError
from ..search import SearchOptions, Variant, hybrid
from ..search.lexical import parse_query
from ..search.vectors import QUERY_VECTOR, check_vector
from ..settings import Settings
from .corpus import Corpus
from .hits import Hit, Leg, SearchHits
from .request import Search, Shape, Where
from .stages import top, with_texts

MAX_LEG_ROWS = 10_000
"""More than all legs together return, so that a stage which chooses among rows sees every one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A search as a statement with its values."""

    shape: Shape
    statement: Select[Any]
    values: Mapping[str, Any]


def prepare(
    corpus: Corpus[Hit, Where],
    search: Search[Where],
    shape: Shape,
    *,
    where: Sequence[ColumnElement[bool]],
    vector: Sequence[float] | None = None,
    variants: Sequence[Variant] = (),
) -> Prepared:
    """The statement of a search; the vector leg needs the query's `vector` in the shape's space."""
    parsed = None if shape.mode == "vector" else parse_query(search.query, operators=search.operators)
    if shape.mode == "text":
        vector = None
    if where or variants or not (parsed is None or parsed.plain):
        query = None if parsed is None else search.query
        made = _made(corpus, shape, owner=search.owner_id, query=query, vector=vector, variants=variants, where=where)
        return Prepared(shape, made, {})
    values: dict[str, Any] = {"owner_id": search.owner_id}
    if parsed is not None:
        values |= {"words": parsed.words, "further_words": parsed.further_words}
    if vector is not None and (source := corpus.source(shape.space)) is not None:
        values["vector"] = check_vector(source, vector)
    return Prepared(shape, _kept(corpus, shape), values)


@functools.lru_cache(maxsize=256)
def _kept(corpus: Corpus[Any, Any], shape: Shape) -> Select[Any]:
    """A search without filters, for its parameters `owner_id`, `words`, `further_words` and `vector`.

    Building one is dear.
    """
    return _made(
        corpus,
        shape,
        owner=bindparam("owner_id", type_=Text),
        query=None if shape.mode == "vector" else bindparam("words", type_=Text),
        vector=None if shape.space is None else bindparam("vector", type_=QUERY_VECTOR),
    )


def _made(
    corpus: Corpus[Any, Any],
    shape: Shape,
    *,
    owner: str | BindParameter[str],
    query: str | BindParameter[str] | None,
    vector: Sequence[float] | BindParameter[Any] | None,
    variants: Sequence[Variant] = (),
    where: Sequence[ColumnElement[bool]] = (),
) -> Select[Any]:
    """The whole search with the texts of its hits."""
    ranked = hybrid(
        corpus.rows,
        corpus=corpus.name,
        terms=corpus.terms,
        owner_id=owner,
        query=query,
        further_words=bindparam("further_words", type_=Text) if isinstance(query, BindParameter) else None,
        vector=vector,
        source=corpus.source(shape.space),
        variants=variants,
        languages=corpus.spoken(owner),
        where=where,
        limit=shape.limit,
        rows=MAX_LEG_ROWS if shape.chooses else shape.rows,
        fusion=shape.fusion,
        options=shape.options,
    )
    return with_texts(corpus, top(corpus, ranked, shape), shape)


async def execute(session: AsyncSession, corpus: Corpus[Hit, Any], prepared: Prepared) -> SearchHits[Hit]:
    """The hits of the statement, best first; ties by id."""
    connection = await session.connection()
    return _hits(corpus.hit, await connection.execute(prepared.statement, prepared.values), prepared.shape)


def _hits(kind: type[Hit], rows: Result[Any], shape: Shape) -> SearchHits[Hit]:
    columns = list(rows.keys())
    legs = [name.removesuffix("_rank") for name in columns if name.endswith("_rank")]
    wanted = {field.name for field in dataclasses.fields(kind)}
    arrays = [name for name in ("before", "after", "similarities") if name in columns]
    found: SearchHits[Hit] = SearchHits(mode=shape.mode)
    for row in rows:
        values = dict(zip(columns, row, strict=True))
        shown = {name: value for name, value in values.items() if name in wanted}
        shown |= {name: tuple(values[name] or ()) for name in arrays}
        ranks = ((leg, values[f"{leg}_rank"]) for leg in legs)
        places = {leg: Leg(values[f"{leg}_score"], rank) for leg, rank in ranks if rank is not None}
        found.vector_path = values["vector_path"]
        found.append(kind(**shown, fused_score=values["score"], legs=places))
    return found


def check_corpus(corpus: Corpus[Any, Any]) -> None:
    """ConfigurationError where its parts do not belong together: rows, vectors, and what a hit must have."""
    if corpus.rows.__corpus__ != corpus.name:
        raise ConfigurationError(
            f"{corpus!r}: rows of {corpus.rows.__name__} are weighed as those of {corpus.rows.__corpus__!r}; "
            f"give the model __corpus__ = {corpus.name!r}"
        )
    rows: Any = corpus.rows
    if rows.id.type.python_type is not uuid.UUID:
        raise ConfigurationError(f"{corpus!r}: {rows.__name__}.id is no UUID, by which hits are logged and judged")
    if corpus.vectors is not None and corpus.vectors.rows is not corpus.rows:
        raise ConfigurationError(f"{corpus!r}: its vectors are those of {corpus.vectors.rows.__name__}")
    search: Search[Any] = Search(owner_id="-", query="-")
    shape = search.shape(mode="text", space=None, options=SearchOptions())
    shown = [column.name for column in _kept(corpus, shape).selected_columns]
    if twice := sorted(name for name in set(shown) if shown.count(name) > 1):
        raise ConfigurationError(f"{corpus!r} shows two columns named {twice[0]!r}; give its own another label")
    columns = {*shown, "fused_score", "legs"}
    for field in dataclasses.fields(corpus.hit):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in columns:
            raise ConfigurationError(
                f"{corpus!r} shows no column {field.name!r}, which a {corpus.hit.__name__} needs; add it in show="
            )
    if corpus.unit not in {field.name for field in dataclasses.fields(corpus.hit)}:
        raise ConfigurationError(f"{corpus!r}: a {corpus.hit.__name__} has no field {corpus.unit!r} to judge by")


async def search_in(
    session: AsyncSession,
    corpus: Corpus[Hit, Where],
    search: Search[Where],
    *,
    vector: Sequence[float] | None = None,
    space: Space | None = None,
    variants: Sequence[Variant] = (),
    settings: Settings | None = None,
) -> SearchHits[Hit]:
    """Search in one statement of the caller's session, with the query's `vector` in `space` if there is one.

    What works around the statement needs `stack.corpus(...)`: to expand, to rerank, to diversify, to explain.
    """
    if search.reorders or search.expand is not None or search.explain:
        raise ValidationError("search", "it asks for more than one statement; search by the service of the corpus")
    mode = search.mode or ("text" if vector is None else "hybrid")
    if mode != "text" and (vector is None or space is None):
        raise ValidationError("vector", f"mode {mode!r} needs the query's vector and its space")
    where = corpus.narrowed(search)
    shape = search.shape(mode=mode, space=space, options=search.options(settings or Settings()))
    prepared = prepare(corpus, search, shape, where=where, vector=vector, variants=variants)
    return await execute(session, corpus, prepared)
