"""The text leg: BM25 over a generated sparsevec, with candidates from the GIN index.

score = sum over query lexemes of idf * query frequency * tf (k1 + 1) / (tf + k1 (1 - b + b dl / avgdl)),
idf = ln(1 + (N - df + 0.5) / (df + 0.5))                    (Robertson and Zaragoza 2009, as in Lucene)
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgvector.sqlalchemy import SPARSEVEC
from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    Float,
    Integer,
    Select,
    TableValuedAlias,
    Text,
    case,
    cast,
    column,
    func,
    literal,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY, UUID, array

from ..db.checks import UNSTORABLE
from ..db.models import TermStatistics
from ..db.schemas import schema_function
from ..errors import ValidationError
from .analysis import further_query, renderings
from .columns import LEXICAL_DIMENSIONS, constant

# PostgreSQL's own limit for a tsvector or a tsquery is 1 MB, and text can triple on the way there.
MAX_QUERY_BYTES = 200_000
MAX_CLAUSES = 32
"""Required and forbidden phrases: each is read once for every language of the owner."""
MAX_CLAUSE_BYTES = 8_000
"""Of all of them together."""

INNER_WEIGHT = 0.25
"""What a word counts that a row holds inside of others alone, as in `bm25_weights`."""

# A phrase in double quotes, or a word or phrase behind a minus that begins a word.
_CLAUSE = re.compile(r'(?<!\S)-"([^"]*)"|(?<!\S)-([^\s"]+)|"([^"]*)"')
_LONG = re.compile(r"\S{500,}")


@dataclass(frozen=True, slots=True)
class ParsedQuery:
    """What a user typed: words that rank, phrases that must occur, phrases that must not.

    `further_words` rank, too: they stand inside of the words, or are other ways of writing them.
    """

    words: str
    further_words: str = ""
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
    query = UNSTORABLE.sub(" ", query)
    # PostgreSQL measures a word before it lower-cases it, and cuts one that then grows beyond 2 kB inside a
    # character; in lower case it is left out.
    query = _LONG.sub(lambda match: match[0].lower(), query)
    if (size := len(query.encode())) > MAX_QUERY_BYTES:
        raise ValidationError("query", f"it has {size} bytes; {MAX_QUERY_BYTES} are the most")
    if not operators:
        return ParsedQuery(words=query, further_words=further_query(query))
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
    return ParsedQuery(
        words=words, further_words=further_query(words), required=tuple(required), forbidden=tuple(forbidden)
    )


@dataclass(frozen=True, slots=True)
class LexicalQuery:
    """The text leg's side of a statement; null where no word of the query is indexable.

    `candidates` is bounded by the budget, `everything` holds all terms. While the corpus `is_mixed`, some rows are
    stored with weights by other parameters than its own.
    """

    weights: ColumnElement[Any]
    is_mixed: ColumnElement[bool]
    candidates: ColumnElement[Any]
    everything: ColumnElement[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryReading:
    """Words to be read under these languages, for one owner in one corpus.

    Terms are candidates until `budget` rows of the owner are estimated, and one term more while fewer than `floor`
    rows are expected.
    """

    words: ColumnElement[str]
    further_words: ColumnElement[str]
    corpus: str
    owner: ColumnElement[str]
    languages: CTE
    budget: int
    floor: int

    def call(self, name: str) -> schema_function:
        """A call of one of the schema's functions that read a query."""
        spoken = func.array(select(self.languages.c.language).scalar_subquery(), type_=ARRAY(Text))
        bounds = cast(self.budget, Float), cast(self.floor, Float)
        words = cast(self.words, Text), cast(self.further_words, Text)
        return schema_function(name, cast(self.corpus, Text), self.owner, *words, spoken, *bounds)


def lexical_query(reading: QueryReading, *, naming: str = "{}") -> LexicalQuery:
    """The query's side of the text leg: all terms count in the score, and those that are candidates bring rows.

    `naming` tells several queries in one statement apart.
    """
    columns = (
        column("weights", Text()),
        column("is_mixed", Boolean()),
        column("candidates", TSQUERY()),
        column("everything", TSQUERY()),
    )
    read = reading.call("lexical_query").table_valued(*columns, name=naming.format("read"))
    weights = cast(read.c.weights, SPARSEVEC(LEXICAL_DIMENSIONS)).label("weights")
    query = select(weights, read.c.is_mixed, read.c.candidates, read.c.everything).cte(naming.format("query"))
    query = query.prefix_with("MATERIALIZED")
    return LexicalQuery(
        weights=select(query.c.weights).scalar_subquery(),
        is_mixed=select(query.c.is_mixed).scalar_subquery(),
        candidates=select(query.c.candidates).scalar_subquery(),
        everything=select(query.c.everything).scalar_subquery(),
    )


def query_terms(reading: QueryReading) -> TableValuedAlias:
    """The lexemes of a query, a row each, rarest first.

    The columns are lexeme, quoted (as a tsquery reads it), dimension (in the weights of a row), frequency,
    document_count, idf, estimated_rows, is_candidate and place.
    """
    columns = (
        column("lexeme", Text()),
        column("quoted", Text()),
        column("dimension", Integer()),
        column("frequency", Integer()),
        column("document_count", BigInteger()),
        column("idf", Float()),
        column("estimated_rows", Float()),
        column("is_candidate", Boolean()),
        column("place", BigInteger()),
    )
    return reading.call("query_terms").table_valued(*columns, name="terms")


def owned_rows(corpus: str, owner: ColumnElement[str]) -> ColumnElement[int]:
    """How many rows of the corpus the owner had when they were last counted; null for one not known."""
    lexeme = schema_function("owner_lexeme", owner, type_=Text)
    counted = select(TermStatistics.document_count)
    return counted.where(TermStatistics.corpus == corpus, TermStatistics.lexeme == lexeme).scalar_subquery()


def term_counts(model: type[Any], *, owner_id: str, ids: Sequence[uuid.UUID], lexemes: Sequence[str]) -> Select[Any]:
    """What BM25 is made of: (id, length, context_length, {lexeme: [frequency, frequency in the context]}).

    A lexeme that the row holds inside of other words alone counts a quarter of its frequency, and none of the length.
    """
    unnested = func.unnest(model.search_vector).table_valued("lexeme", "positions", "weights", name="t")
    read = unnested.render_derived().lateral()

    def labelled(label: str) -> ColumnElement[int]:
        return func.cardinality(func.array_positions(cast(read.c.weights, ARRAY(Text)), constant(label)))

    length, context_length = labelled("A") + labelled("D"), labelled("A")
    frequency = case((length > 0, length), else_=INNER_WEIGHT * cast(labelled("B") + labelled("C"), Float))
    in_context = case((length > 0, context_length), else_=INNER_WEIGHT * cast(labelled("C"), Float))
    asked = read.c.lexeme == func.any(cast(list(lexemes), ARRAY(Text)))
    terms = func.jsonb_object_agg(read.c.lexeme, func.to_jsonb(array([frequency, in_context])))
    return (
        select(
            model.id,
            func.sum(length).label("length"),
            func.sum(context_length).label("context_length"),
            terms.filter(asked).label("terms"),
        )
        .select_from(model)
        .join(read, true())
        .where(model.owner_id == owner_id, model.id == func.any(cast(list(ids), ARRAY(UUID))))
        .where(read.c.positions.is_not(None))
        .group_by(model.id)
    )


def single_term(dimension: ColumnElement[int]) -> ColumnElement[Any]:
    """A sparsevec that holds 1 for the lexeme, whose inner product with a row is the row's weight of it."""
    return cast(
        constant("{").concat(cast(dimension, Text)).concat(constant(f":1}}/{LEXICAL_DIMENSIONS}")),
        SPARSEVEC(LEXICAL_DIMENSIONS),
    )


def required_clause(parsed: ParsedQuery, *, languages: CTE, naming: str = "{}") -> ColumnElement[Any] | None:
    """A tsquery of required and forbidden phrases; null where they hold stop words only, None without any."""
    if not parsed.required and not parsed.forbidden:
        return None
    # A text may hold a phrase as it is, taken apart, or joined.
    clauses = [_phrase(phrase, languages, "(") for phrase in parsed.required]
    clauses += [_phrase(phrase, languages, "!(") for phrase in parsed.forbidden]
    listed = func.nullif(func.concat_ws(constant(" & "), *clauses), constant(""))
    clause = select(cast(listed, TSQUERY).label("clause")).cte(naming.format("required")).prefix_with("MATERIALIZED")
    return select(clause.c.clause).scalar_subquery()


def _phrase(phrase: str, languages: CTE, opening: str) -> ColumnElement[Any]:
    config = schema_function("text_search_config", languages.c.language)
    read = union_all(
        *(
            select(func.phraseto_tsquery(config, cast(literal(one), Text)).label("read")).select_from(languages)
            for one in renderings(phrase)
        )
    ).subquery()
    each = constant("(").concat(cast(read.c.read, Text)).concat(constant(")"))
    listed = func.string_agg(each, constant(" | ")).filter(func.numnode(read.c.read) > 0)
    return select(constant(opening).concat(listed).concat(constant(")"))).scalar_subquery()
