"""The text leg: BM25 over a generated sparsevec, with candidates from the GIN index.

score = sum over query lexemes of idf * query frequency * tf (k1 + 1) / (tf + k1 (1 - b + b dl / avgdl)),
idf = ln(1 + (N - df + 0.5) / (df + 0.5))                    (Robertson and Zaragoza 2009, as in Lucene)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pgvector.sqlalchemy import SPARSEVEC
from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Float,
    Integer,
    Text,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import TSQUERY, aggregate_order_by
from sqlalchemy.types import ARRAY

from ..db.models import CorpusStatistics, TermStatistics
from ..db.schemas import schema_function
from ..errors import ValidationError
from .columns import LEXICAL_DIMENSIONS

# PostgreSQL's own limit for a tsvector or a tsquery is 1 MB, and text can triple on the way there.
MAX_QUERY_BYTES = 200_000
MAX_CLAUSES = 32
MAX_CLAUSE_BYTES = 8_000
MAX_CANDIDATE_TERMS = 256
MAX_WEIGHTED_TERMS = 16_000

# A phrase in double quotes, or a word or phrase behind a minus that begins a word.
_CLAUSE = re.compile(r'(?<!\S)-"([^"]*)"|(?<!\S)-([^\s"]+)|"([^"]*)"')
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_LONG = re.compile(r"\S{500,}")


@dataclass(frozen=True, slots=True)
class ParsedQuery:
    """What a user typed: words that rank, phrases that must occur, phrases that must not."""

    words: str
    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether all of it only ranks."""
        return not self.required and not self.forbidden


def parse_query(query: str, *, operators: bool = True) -> ParsedQuery:
    """Read `"required phrase"` and `-forbidden`; everything else ranks. Any other punctuation is only text.

    Without `operators` quotation marks and hyphens are punctuation too, as in a question written as prose.
    Clauses beyond `MAX_CLAUSES` or `MAX_CLAUSE_BYTES` in all only rank, or are left out if forbidden.
    """
    query = _UNSTORABLE.sub(" ", query)
    # PostgreSQL measures a word before it lower-cases it, and cuts one that then grows beyond 2 kB inside a
    # character; in lower case it is left out.
    query = _LONG.sub(lambda match: match[0].lower(), query)
    if (size := len(query.encode())) > MAX_QUERY_BYTES:
        raise ValidationError("query", f"it has {size} bytes; {MAX_QUERY_BYTES} are the most")
    if not operators:
        return ParsedQuery(words=query)
    required: list[str] = []
    forbidden: list[str] = []

    def take(match: re.Match[str]) -> str:
        excluded = match[1] if match[1] is not None else match[2]
        phrase = match[3] if excluded is None else excluded
        taken = [*required, *forbidden, phrase]
        if len(taken) <= MAX_CLAUSES and sum(len(part.encode()) for part in taken) <= MAX_CLAUSE_BYTES:
            (required if excluded is None else forbidden).append(phrase)
        return f" {phrase} " if excluded is None else " "

    words = _CLAUSE.sub(take, query)
    return ParsedQuery(words=words, required=tuple(required), forbidden=tuple(forbidden))


@dataclass(frozen=True, slots=True)
class LexicalQuery:
    """The text leg's side of a statement; null where no word of the query is indexable.

    `candidates` is bounded by the budget, `everything` holds all terms.
    """

    weights: ColumnElement[Any]
    candidates: ColumnElement[Any]
    everything: ColumnElement[Any]


def _constant(text: str) -> ColumnElement[str]:
    return literal_column("'" + text.replace("'", "''") + "'", Text())


def quoted_lexeme(lexeme: ColumnElement[str]) -> ColumnElement[str]:
    """A lexeme as a tsquery reads it, whatever characters it has."""
    # quote_literal would write E'...' for a backslash, which a tsquery does not understand.
    escaped = func.replace(func.replace(lexeme, _constant("\\"), _constant("\\\\")), _constant("'"), _constant("''"))
    return _constant("'").concat(escaped).concat(_constant("'"))


@dataclass(frozen=True, slots=True)
class QueryTerms:
    """The lexemes of one query in one corpus, as parts of a statement.

    `terms`: (lexeme, frequency, df). `admitted`: (lexeme, cost, fits), rarest first; those that fit make the
    candidates. `idf` is an expression on `terms` joined with `corpus`.
    """

    owned: ColumnElement[str]
    corpus: CTE
    terms: CTE
    admitted: CTE

    @property
    def idf(self) -> ColumnElement[float]:
        """How much a term tells."""
        total = func.greatest(self.corpus.c.rows, self.terms.c.df)
        weight: ColumnElement[float] = func.ln(1.0 + (total - self.terms.c.df + 0.5) / (self.terms.c.df + 0.5))
        return weight


def query_terms(
    words: BindParameter[str],
    *,
    corpus: str,
    owner: ColumnElement[str],
    languages: CTE,
    budget: int,
    floor: int,
    suffix: str = "",
) -> QueryTerms:
    """Terms enter the candidates from rarest to most common until `budget` rows of the owner are estimated.

    One term more enters while fewer than `floor` rows are expected. `suffix` tells the parts of several queries in
    one statement apart.
    """
    owned = schema_function("owner_lexeme", owner, type_=Text)
    measured = _corpus(corpus, owned, name=f"corpus{suffix}")
    terms = _terms(words, corpus=corpus, languages=languages, name=f"terms{suffix}")
    admitted = _admitted(terms, measured, budget=budget, floor=floor, name=f"admitted{suffix}")
    return QueryTerms(owned=owned, corpus=measured, terms=terms, admitted=admitted)


def lexical_query(given: QueryTerms, *, suffix: str = "") -> LexicalQuery:
    """The query's side of the text leg; all terms count in the score."""
    admitted = given.admitted
    query = (
        select(
            select(_sparse(_weighted(given))).scalar_subquery().label("weights"),
            _any_of(given.owned, admitted.c.lexeme, admitted.c.fits).label("candidates"),
            _any_of(given.owned, admitted.c.lexeme, None).label("everything"),
        )
        .cte(f"query{suffix}")
        .prefix_with("MATERIALIZED")
    )
    return LexicalQuery(
        weights=select(query.c.weights).scalar_subquery(),
        candidates=select(query.c.candidates).scalar_subquery(),
        everything=select(query.c.everything).scalar_subquery(),
    )


def _corpus(corpus: str, owner: ColumnElement[str], *, name: str) -> CTE:
    """One row: how many rows the corpus had, and which share of them the owner had."""
    rows = select(CorpusStatistics.row_count).where(CorpusStatistics.corpus == corpus).scalar_subquery()
    owned = (
        select(TermStatistics.document_count)
        .where(TermStatistics.corpus == corpus, TermStatistics.lexeme == owner)
        .scalar_subquery()
    )
    counted = select(cast(func.coalesce(rows, 1), Float).label("rows"), cast(owned, Float).label("owned")).subquery()
    # An owner that the statistics do not know is new or too small for their sample: any term may enter.
    share = func.least(1.0, func.coalesce(counted.c.owned, 0.0) / func.greatest(counted.c.rows, 1.0))
    return select(counted.c.rows, share.label("share")).cte(name).prefix_with("MATERIALIZED")


def _any_of(owner: Any, lexeme: ColumnElement[str], condition: ColumnElement[bool] | None) -> ColumnElement[Any]:
    """The owner's lexeme and any of these."""
    listed: Any = func.string_agg(quoted_lexeme(lexeme), _constant(" | "))
    listed = listed if condition is None else listed.filter(condition)
    together = quoted_lexeme(owner).concat(_constant(" & (")).concat(listed).concat(_constant(")"))
    return select(cast(together, TSQUERY)).scalar_subquery()


def _terms(words: BindParameter[str], *, corpus: str, languages: CTE, name: str) -> CTE:
    document = func.to_tsvector(
        schema_function("text_search_config", languages.c.language),
        cast(words, Text),
    )
    lexemes = func.unnest(document).table_valued("lexeme", "positions", "weights", name="t").render_derived().lateral()
    counted = (
        select(
            lexemes.c.lexeme.label("lexeme"),
            func.max(func.cardinality(cast(lexemes.c.positions, ARRAY(Integer)))).label("frequency"),
        )
        .select_from(languages.join(lexemes, true()))
        .group_by(lexemes.c.lexeme)
        .subquery()
    )
    # A subquery for each term, not a join: a join may read every term of the corpus.
    known = (
        select(TermStatistics.document_count)
        .where(TermStatistics.corpus == corpus, TermStatistics.lexeme == counted.c.lexeme)
        .scalar_subquery()
    )
    return (
        select(
            cast(counted.c.lexeme, Text).label("lexeme"),
            counted.c.frequency,
            # Lexemes that occur once are not stored.
            cast(func.coalesce(known, 1), Float).label("df"),
        )
        .select_from(counted)
        .cte(name)
        .prefix_with("MATERIALIZED")
    )


def _weighted(given: QueryTerms) -> Any:
    terms = given.terms
    dimension = schema_function("lexeme_dimension", terms.c.lexeme, type_=Integer)
    weighed = (
        select(dimension.label("dimension"), (given.idf * terms.c.frequency).label("weight"))
        .select_from(terms.join(given.corpus, true()))
        .subquery()
    )
    weight = func.sum(weighed.c.weight)
    return (
        select(weighed.c.dimension, weight.label("weight"))
        .group_by(weighed.c.dimension)
        .order_by(weight.desc())
        .limit(MAX_WEIGHTED_TERMS)
        .subquery()
    )


def _sparse(weighted: Any) -> ColumnElement[Any]:
    pair = cast(weighted.c.dimension, Text).concat(_constant(":")).concat(cast(weighted.c.weight, Text))
    listed = func.string_agg(pair, aggregate_order_by(_constant(","), weighted.c.dimension))
    return cast(
        _constant("{").concat(listed).concat(_constant(f"}}/{LEXICAL_DIMENSIONS}")),
        SPARSEVEC(LEXICAL_DIMENSIONS),
    )


def _admitted(terms: CTE, corpus: CTE, *, budget: int, floor: int, name: str) -> CTE:
    costs = (
        select(terms.c.lexeme, terms.c.df, (terms.c.df * corpus.c.share).label("cost"))
        .select_from(terms.join(corpus, true()))
        .subquery()
    )
    order = (costs.c.df, costs.c.lexeme)
    ranked = select(
        costs.c.lexeme,
        costs.c.cost,
        func.sum(costs.c.cost).over(order_by=order).label("total"),
        func.row_number().over(order_by=order).label("place"),
    ).subquery()
    fits = or_(ranked.c.total <= cast(budget, Float), ranked.c.total - ranked.c.cost < cast(floor, Float))
    chosen = select(ranked.c.lexeme, ranked.c.cost, fits.label("fits")).where(ranked.c.place <= MAX_CANDIDATE_TERMS)
    return chosen.cte(name).prefix_with("MATERIALIZED")


def single_term(lexeme: ColumnElement[str]) -> ColumnElement[Any]:
    """A sparsevec that holds 1 for the lexeme, whose inner product with a row is the row's weight of it."""
    dimension = cast(schema_function("lexeme_dimension", lexeme, type_=Integer), Text)
    return cast(
        _constant("{").concat(dimension).concat(_constant(f":1}}/{LEXICAL_DIMENSIONS}")), SPARSEVEC(LEXICAL_DIMENSIONS)
    )


def required_clause(parsed: ParsedQuery, *, languages: CTE) -> ColumnElement[Any] | None:
    """A tsquery of required and forbidden phrases; null where they hold stop words only, None without any."""
    if not parsed.required and not parsed.forbidden:
        return None
    clauses = [_phrase(phrase, languages, "(") for phrase in parsed.required]
    clauses += [_phrase(phrase, languages, "!(") for phrase in parsed.forbidden]
    listed = func.nullif(func.concat_ws(_constant(" & "), *clauses), _constant(""))
    clause = select(cast(listed, TSQUERY).label("clause")).cte("required").prefix_with("MATERIALIZED")
    return select(clause.c.clause).scalar_subquery()


def _phrase(phrase: str, languages: CTE, opening: str) -> ColumnElement[Any]:
    read = (
        select(
            func.phraseto_tsquery(
                schema_function("text_search_config", languages.c.language), cast(literal(phrase), Text)
            ).label("read")
        )
        .select_from(languages)
        .subquery()
    )
    each = _constant("(").concat(cast(read.c.read, Text)).concat(_constant(")"))
    listed = func.string_agg(each, _constant(" | ")).filter(func.numnode(read.c.read) > 0)
    return select(_constant(opening).concat(listed).concat(_constant(")"))).scalar_subquery()
