"""Languages as PostgreSQL names them: its text search configurations."""

from __future__ import annotations

import importlib
import threading
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute

from ..errors import MissingExtra

_CODES = {
    "arabic": ("ar", "ara"),
    "armenian": ("hy", "hye", "arm"),
    "basque": ("eu", "eus", "baq"),
    "catalan": ("ca", "cat"),
    "danish": ("da", "dan"),
    "dutch": ("nl", "nld", "dut"),
    "english": ("en", "eng"),
    "finnish": ("fi", "fin"),
    "french": ("fr", "fra", "fre"),
    "german": ("de", "deu", "ger"),
    "greek": ("el", "ell", "gre"),
    "hindi": ("hi", "hin"),
    "hungarian": ("hu", "hun"),
    "indonesian": ("id", "ind"),
    "irish": ("ga", "gle"),
    "italian": ("it", "ita"),
    "lithuanian": ("lt", "lit"),
    "nepali": ("ne", "nep", "npi"),
    "norwegian": ("no", "nor", "nb", "nob", "nn", "nno"),
    "portuguese": ("pt", "por"),
    "romanian": ("ro", "ron", "rum"),
    "russian": ("ru", "rus"),
    "serbian": ("sr", "srp"),
    "simple": (),
    "spanish": ("es", "spa"),
    "swedish": ("sv", "swe"),
    "tamil": ("ta", "tam"),
    "turkish": ("tr", "tur"),
    "yiddish": ("yi", "yid"),
}
_BY_CODE = {code: name for name, codes in _CODES.items() for code in codes}

LANGUAGES: tuple[str, ...] = tuple(_CODES)
"""The configurations of PostgreSQL 16, which every later version has too; sorted."""

_SAMPLE = 5_000
"""Characters by which a language is detected."""
_FEWEST_LETTERS = 20
"""Texts of fewer are in the default language."""
# In log odds against the runner-up: `e**3` is twenty to one.
_CLEAR_LEAD = 3.0
_LOADING = threading.Lock()


def normalize_language(name_or_code: str) -> str:
    """Name the configuration for a configuration or an ISO 639 code, its region apart; else `simple`."""
    name = name_or_code.strip().lower().removeprefix("pg_catalog.")
    if name in _CODES:
        return name
    return _BY_CODE.get(name.replace("_", "-").partition("-")[0], "simple")


def detect_language(text: str, *, default: str) -> str:
    """Detect from the first 5,000 characters; short or doubtful texts are in `default`.

    A language that is clear but has no configuration gives `simple`.
    """
    try:
        py3langid = importlib.import_module("py3langid")
    except ImportError as error:
        raise MissingExtra(feature="language detection", extra="languages") from error
    sample = text[:_SAMPLE]
    if sum(map(str.isalpha, sample)) < _FEWEST_LETTERS:
        return default
    with _LOADING:
        ranked = py3langid.rank(sample)
    (best, score), (second, next_score) = ranked[:2]
    same = normalize_language(best) == normalize_language(second) != "simple"
    return normalize_language(best) if same or score - next_score >= _CLEAR_LEAD else default


def spoken_in(language: InstrumentedAttribute[str], *, owned: ColumnElement[bool]) -> Select[Any]:
    """The distinct languages of an owner's rows, by one probe each of an index on owner and language."""
    first = select(func.min(language).label("language")).where(owned).cte("spoken", recursive=True)
    following = select(func.min(language)).where(owned, language > first.c.language).correlate(first).scalar_subquery()
    spoken = first.union_all(select(following).where(first.c.language.is_not(None)))
    return select(spoken.c.language).where(spoken.c.language.is_not(None))
