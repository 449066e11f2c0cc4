"""Synthetic corpora: Zipf-distributed words, some of the text's topic; a text's vector follows from its words."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TERMS, TOPICS, TOPIC_TERMS, WORDS, DIMENSIONS = 20_000, 200, 60, 120, 384
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Passage:
    """One chunk of a corpus, or one query."""

    number: int
    text: str


class Generator:
    """The same corpus for the same seed, passage by passage."""

    def __init__(self, seed: int = 7) -> None:
        rng = np.random.default_rng(seed)
        self._seed = seed
        self._words = [_word(number) for number in range(TERMS)]
        self._numbers = {word: number for number, word in enumerate(self._words)}
        shares = 1.0 / np.arange(1, TERMS + 1) ** 1.05
        reach = shares.cumsum()
        self._reach = reach / reach[-1]
        rarity = np.log(shares.sum() / shares)
        self._weights = ((rarity / rarity.max()) ** 2).astype(np.float32)
        self._directions = rng.standard_normal((TERMS, DIMENSIONS)).astype(np.float32)
        self._topics = [rng.choice(np.arange(300, TERMS), TOPIC_TERMS, replace=False) for _ in range(TOPICS)]

    def passages(self, count: int) -> Iterator[Passage]:
        """The first `count` passages."""
        for number in range(count):
            rng = np.random.default_rng((self._seed, number))
            terms = self._reach.searchsorted(rng.random(WORDS), side="right")
            topical = rng.random(WORDS) < 0.35
            terms[topical] = rng.choice(self._topics[rng.integers(TOPICS)], int(topical.sum()))
            yield Passage(number, self._text(terms))

    def queries(self, count: int, *, words: int = 3) -> list[Passage]:
        """Queries of a few words of one topic."""
        found = []
        for number in range(count):
            rng = np.random.default_rng((self._seed, 10_000_000 + number))
            terms = rng.choice(self._topics[rng.integers(TOPICS)], words, replace=False)
            found.append(Passage(number, self._text(terms)))
        return found

    def _text(self, terms: NDArray[np.int64]) -> str:
        return " ".join(self._words[term] for term in terms)

    def vector(self, text: str) -> Floats:
        """The normalised sum of the directions of the text's words, rare words first."""
        terms = [self._numbers[word] for word in text.split()]
        total: Floats = (self._directions[terms] * self._weights[terms, None]).sum(0)
        return total / np.float32(np.linalg.norm(total) + 1e-9)


def _word(number: int) -> str:
    """A pronounceable word that no stemmer joins with another."""
    syllables = [c + v for c in "bdfgklmnprtvz" for v in "aou"]
    digest = hashlib.sha256(str(number).encode()).digest()
    return "".join(syllables[byte % len(syllables)] for byte in digest[:3]) + syllables[number % len(syllables)] + "k"


class Corpus:
    """Passages made beforehand, texts and vectors, so that no clock counts their making."""

    def __init__(self, generator: Generator, count: int) -> None:
        self.texts = [passage.text for passage in generator.passages(count)]
        # As halfvec keeps them.
        self.vectors = np.empty((count, DIMENSIONS), np.float16)
        for number, text in enumerate(self.texts):
            self.vectors[number] = generator.vector(text)

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, count: int) -> Corpus:
        """The same passages, fewer of them."""
        part = copy.copy(self)
        part.texts, part.vectors = self.texts[:count], self.vectors[:count]
        return part


class Computed:
    """An embedder for a synthetic corpus: what was made beforehand is looked up. A chunk's title does not count."""

    name = "benchmark/computed"
    provider = "benchmark"
    model = "computed"
    dimensions = DIMENSIONS

    def __init__(self, generator: Generator, corpus: Corpus | None = None, *, queries: Sequence[Passage] = ()) -> None:
        self._generator = generator
        self._vectors = None if corpus is None else corpus.vectors
        self._places = {} if corpus is None else {text: place for place, text in enumerate(corpus.texts)}
        self._of_query = {query.text: generator.vector(query.text) for query in queries}

    async def embed(self, texts: Sequence[str], *, kind: str = "document") -> list[list[float]]:
        """One vector for each text."""
        return [self._vector(text.split("\n", 1)[-1]) for text in texts]

    def _vector(self, text: str) -> list[float]:
        place = self._places.get(text)
        known = self._of_query.get(text) if place is None or self._vectors is None else self._vectors[place]
        found: list[float] = (self._generator.vector(text) if known is None else known).tolist()
        return found


class Given:
    """An embedder that looks up the vectors that come with a collection."""

    provider = "benchmark"
    model = "given"

    def __init__(self, *, name: str, vectors: Mapping[str, Floats]) -> None:
        self.name = name
        self.dimensions = len(next(iter(vectors.values())))
        self._vectors = vectors

    async def embed(self, texts: Sequence[str], *, kind: str = "document") -> list[list[float]]:
        """The vector given for each text."""
        return [self._vectors[text.split("\n", 1)[-1]].tolist() for text in texts]
