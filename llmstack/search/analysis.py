"""Words that stand inside of others, or are written in another way: the further words of a text and of a query.

PostgreSQL's parser takes an identifier, a path or a sentence without spaces for one word. The same function reads
texts and queries, so that what it adds meets: parts and joined forms of compounds (as Lucene's word-delimiter graph),
letters without their marks and in one Unicode form (as ICU's folding), pairs of letters of scripts without spaces (as
Lucene's CJK bigrams).
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

MAX_JOINED = 32
"""Letters; a longer compound is found by its parts."""
MAX_TOKEN = 500
"""ASCII characters without a space; what is longer, such as base64, has no words inside."""
MAX_FURTHER = 50_000
"""Characters of all further words of a text or a query: PostgreSQL searches no more than 1 MB."""
NEIGHBOURS = 2
"""Words on each side of an unusual one that are repeated beside its parts, so that phrases across them are found."""

# Soft hyphen, zero-width characters, marks of direction, variation selectors; Hebrew and Arabic points, tatweel.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufe00-\ufe0f\u0591-\u05bd\u05bf\u05c1\u05c2"
    "\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]+"
)
_MARKS = re.compile("[\u0300-\u036f\u0483-\u0487\u0653-\u0655\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+")
# Letters that Unicode does not take apart.
_LETTERS = str.maketrans({
    "ß": "ss", "ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ŧ": "t", "ŋ": "n", "æ": "ae", "œ": "oe",
    "þ": "th", "ẞ": "SS", "Ł": "L", "Ø": "O", "Đ": "D", "Ð": "D", "Ħ": "H", "Ŧ": "T", "Ŋ": "N", "Æ": "AE", "Œ": "OE",
    "Þ": "TH", "ς": "σ",
})  # fmt: skip

# Thai, Lao, Tibetan, Burmese, Khmer; Korean, whose particles stick to words; Chinese and Japanese.
_UNSPACED = (
    "[\u0e00-\u0e7f]+|[\u0e80-\u0eff]+|[\u0f00-\u0fff]+|[\u1000-\u109f\uaa60-\uaa7f]+|[\u1780-\u17ff]+|[\uac00-\ud7a3]+"
    "|[\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_LETTER = rf"(?:{_UNSPACED}|[^\W_])+"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u00ab\u00bb"
_APOSTROPHE = "'\u2018\u2019\u02bc"
_HYPHEN = "-\u2010\u2011"
_COMPOUND = re.compile(rf"{_LETTER}(?:(?:::|//|\\\\|[{_HYPHEN}_./\\@:#+&,{_APOSTROPHE}]){_LETTER})*")
_PART = re.compile(rf"\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?(?![\d,])|\d+(?:\.\d+)*|{_UNSPACED}|(?:(?!{_UNSPACED})[^\W\d_])+")
_SINGLE_RUN = re.compile(_UNSPACED)
_WORDS = re.compile(r"[^\W_]+")
_SPACE = re.compile(r"[ \t\n\r\f\v]+")
# A sign of a number, a path from the root, a tag: words behind them are hidden from PostgreSQL.
_HIDDEN = re.compile(r"(?<!\w)[-+]\d|(?<!\w)/\w|<[/\w]")
# A dash or three dots of a typographer, which a database of the locale C takes for a letter.
_DASHED = re.compile(rf"\w[^\w\x00-\x7f{_APOSTROPHE}]\w")
_CHUNK = re.compile(r"[/\\:@,#]+")
_SEGMENT = re.compile(rf"[{_HYPHEN}_.&+{_APOSTROPHE}]+")
_CAMEL = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")
_READ_AS_ONE = re.compile(rf"[./@]|[{_HYPHEN}]\d")
_VERSION = re.compile(r"\d+\.\d+(?=\.\d)")


class _Reading(NamedTuple):
    """What stands between two spaces: its parts, its joined forms, whether PostgreSQL takes it apart otherwise.

    `whole` is the joined form of all of it, if people write one.
    """

    words: tuple[str, ...]
    joined: tuple[str, ...]
    whole: str | None
    is_unusual: bool


def stored_words(context: str, content: str) -> str:
    """What is kept beside a row: eight digits of its text's hash, words of the content, on a second line the context's.

    Empty where there is nothing further. Words of another text than the row's own do not count.
    """
    words, above = further_words(content), further_words_of_context(context)
    if not words and not above:
        return ""
    digest = hashlib.md5(f"{context}\n{content}".encode(), usedforsecurity=False).hexdigest()
    return f"{digest[:8]}{words}\n{above}" if above else f"{digest[:8]}{words}"


def further_words(text: str) -> str:
    """What a text holds besides the words that PostgreSQL reads; unusual words come with their neighbours."""
    readings = _readings(text)
    if not readings:
        return ""
    tokens = _tokens(text)
    words: list[str] = []
    shown = 0
    for place, reading in readings.items():
        if reading.is_unusual:
            for near in range(max(shown, place - NEIGHBOURS), min(place + NEIGHBOURS + 1, len(tokens))):
                words += readings[near].words if near in readings else _simple(tokens[near])
                shown = near + 1
        words += reading.joined
    return _bounded(words)


# Every chunk of a section has the same.
further_words_of_context = functools.lru_cache(maxsize=256)(further_words)


def further_query(text: str) -> str:
    """What a query asks for besides its own words: parts of more than one letter, and joined forms."""
    words: dict[str, None] = {}
    for reading in _readings(text).values():
        if reading.is_unusual:
            words |= dict.fromkeys(word for word in reading.words if len(word) > 1)
        words |= dict.fromkeys(reading.joined)
    return _bounded(words)


def _bounded(words: Iterable[str]) -> str:
    joined = " ".join(words)
    return joined if len(joined) <= MAX_FURTHER else joined[: MAX_FURTHER + 1].rpartition(" ")[0]


def renderings(phrase: str) -> Sequence[str]:
    """The ways in which a text may hold this phrase: as it is, taken apart, and joined."""
    readings = _readings(phrase)
    if not readings:
        return (phrase,)
    tokens = _tokens(phrase)
    apart: list[str] = []
    joined: list[str] = []
    for place, token in enumerate(tokens):
        words = readings[place].words if place in readings else _simple(token)
        apart += words
        whole = readings[place].whole if place in readings else None
        joined += words if whole is None else (whole,)
    return tuple(dict.fromkeys((phrase, " ".join(apart), " ".join(joined))))


def _tokens(text: str) -> list[str]:
    # Not at the spaces that PostgreSQL takes for letters, where it knows ASCII alone.
    return text.split() if text.isascii() else _SPACE.split(text.strip(" \t\n\r\f\v"))


def _readings(text: str) -> dict[int, _Reading]:
    """Those of the words that are more than one word of letters, by their place."""
    found = {}
    for place, token in enumerate(_tokens(text)):
        if token.isascii():
            word = token if token.isalpha() else token.strip(_PUNCTUATION)
            if token[:1].isalnum() or not _HIDDEN.search(token):
                if word.isalpha() and (word.islower() or word[1:].islower() or word.isupper()):
                    continue
                if word.isdecimal() or not word or len(word) > MAX_TOKEN:
                    continue
            else:
                word = token.rstrip(_PUNCTUATION)
        else:
            word = token
        reading = _read(word) if len(word) > MAX_JOINED else _read_before(word)
        if reading.is_unusual or reading.joined:
            found[place] = reading
    return found


def _simple(token: str) -> tuple[str, ...]:
    word = token.strip(_PUNCTUATION).lower()
    return (word,) if word.isalnum() else _read(token).words


def _read(token: str) -> _Reading:
    plain = token if token.isascii() else _folded(token)
    words: list[str] = []
    joined: list[str] = []
    is_changed = _lower(plain) != token.lower() and _WORDS.findall(_lower(plain)) != _WORDS.findall(token.lower())
    is_unusual = is_changed or _HIDDEN.search(token) is not None or _DASHED.search(token) is not None
    compounds = _COMPOUND.findall(plain)
    for compound in compounds:
        parts = list(_parts(compound))
        words += parts
        if len(parts) > 1:
            is_unusual = is_unusual or _is_one_word(compound)
            joined += _joined(compound, is_changed=is_changed)
        elif "," in compound:
            is_unusual = True
    if not is_unusual and any(letter > "\x7f" and (letter.isupper() or not letter.isalnum()) for letter in token):
        # Such a database takes quotation marks for letters, too, and knows no letter's other case.
        joined = [*words, *joined]
    whole = next(_whole(compounds[0]), None) if len(compounds) == 1 else None
    return _Reading(tuple(words), tuple(dict.fromkeys(joined)), whole, is_unusual)


_read_before = functools.lru_cache(maxsize=8192)(_read)


def _folded(token: str) -> str:
    """Without marks, in Unicode's form of compatibility; the case stays."""
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", token))
    if plain.isascii():
        return plain
    without = _MARKS.sub("", unicodedata.normalize("NFD", plain))
    return unicodedata.normalize("NFC", without).translate(_LETTERS)


def _parts(compound: str) -> Iterator[str]:
    for part in _PART.findall(compound):
        if part[0].isdecimal():
            yield part.replace(",", "")
        elif part.isascii():
            if part.islower() or part.isupper() or part[1:].islower():
                yield part.lower()
            else:
                yield from _CAMEL.sub(" ", part).lower().split()
        elif _SINGLE_RUN.fullmatch(part):
            yield from (part[at : at + 2] for at in range(max(1, len(part) - 1)))
        else:
            yield from _lower(_CAMEL.sub(" ", part)).split()


def _lower(text: str) -> str:
    # Only Python knows the sigma that ends a word.
    return text.lower().replace("ς", "σ")


def _is_one_word(compound: str) -> bool:
    """Whether PostgreSQL does not take it apart as we do."""
    if _READ_AS_ONE.search(compound):
        return True
    return any(len(list(_parts(segment))) > 1 for chunk in _CHUNK.split(compound) for segment in _SEGMENT.split(chunk))


def _joined(compound: str, *, is_changed: bool) -> Iterator[str]:
    chunks = _CHUNK.split(compound)
    for chunk in chunks:
        segments = _SEGMENT.split(chunk)
        if is_changed or len(segments) > 1 or len(chunks) > 1:
            yield from (segment.lower() for segment in segments if _is_mixed(segment))
        yield from _VERSION.findall(chunk)
        yield from _whole(chunk)


def _whole(compound: str) -> Iterator[str]:
    """The compound as one word, where people also write it so: `e-mail`, `O'Neill`, `U.S.A`, `Node.js`."""
    segments = _SEGMENT.split(compound)
    whole = _lower("".join(segments))
    if len(segments) == 1 or len(whole) > MAX_JOINED or whole.isdecimal() or _CHUNK.search(compound):
        return
    if any(mark in compound for mark in _APOSTROPHE) and not (segments[0] in "oO" or segments[1][:1].isupper()):
        return
    if all(len(segment) == 1 for segment in segments):
        # Not `e.g.`
        if compound.isupper():
            yield whole
    elif "." not in compound or len(segments) == 2:
        yield whole


def _is_mixed(segment: str) -> bool:
    return segment.isascii() and len(list(_parts(segment))) > 1
