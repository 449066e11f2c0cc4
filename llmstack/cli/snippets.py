"""The part of a passage that shows why it was found."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
_COMMON = """
    a about an and are as at be been but by can do does each for from had has have how i if in into is it its
    may more no not of on or our that the their them then there these they this to was we were what when where
    which while who whom why will with you your
"""
_TOO_COMMON = frozenset(_COMMON.split())
_LONGEST_ENDING = 3
"""Letters by which an inflected word may differ from the query's."""
_SHORTEST_STEM = 3

Span = tuple[int, int]


def terms_of(query: str) -> list[str]:
    """The words of the query worth marking; forbidden ones and the most common are not."""
    from ..search.lexical import parse_query

    parsed = parse_query(query)
    words = _WORD.findall(" ".join((parsed.words, *parsed.required)).casefold())
    return [word for word in dict.fromkeys(words) if word not in _TOO_COMMON]


def marked(text: str, terms: Sequence[str]) -> list[Span]:
    """Where words of the text agree with a term but for their endings."""
    known: dict[str, bool] = {}
    spans = []
    for match in _WORD.finditer(text):
        word = match[0].casefold()
        if word not in known:
            known[word] = any(_agree(word, term) for term in terms)
        if known[word]:
            spans.append(match.span())
    return spans


def _agree(word: str, term: str) -> bool:
    if word == term:
        return True
    common = 0
    for one, other in zip(word, term, strict=False):
        if one != other:
            break
        common += 1
    # The shorter the stem, the less of an ending it may have: "care" is not a form of "car".
    ending = min(_LONGEST_ENDING, common - 2)
    return common >= _SHORTEST_STEM and max(len(word), len(term)) - common <= ending


def snippet(text: str, terms: Sequence[str], *, length: int = 300) -> str:
    """The stretch of about `length` characters with the most different terms, in one line."""
    flat = " ".join(text.split())
    if len(flat) <= length:
        return flat
    start = _best_start(flat, marked(flat, terms), length)
    end = min(len(flat), start + length)
    if start:
        start = flat.find(" ", start, start + 30) + 1 or start
    if end < len(flat):
        end = max(flat.rfind(" ", end - 30, end), start) or end
    return f"{'… ' if start else ''}{flat[start:end]}{' …' if end < len(flat) else ''}"


def _best_start(flat: str, spans: Sequence[Span], length: int) -> int:
    best, found = 0, 0
    for first, _ in spans:
        inside = {flat[a:b].casefold() for a, b in spans if first <= a and b <= first + length * 3 // 4}
        if len(inside) > found:
            best, found = first, len(inside)
    return max(0, min(best - length // 6, len(flat) - length))
