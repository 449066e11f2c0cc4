"""Count tokens as `cl100k_base` does, without a network."""

from __future__ import annotations

import base64
import functools
import importlib.util
import re
import threading
from collections.abc import Callable
from pathlib import Path

# litellm's wheel carries the encoding under the name that tiktoken's cache would give it.
_RANKS = Path("litellm_core_utils", "tokenizers", "9b5ad71b2ce5302211f9c61530b329a4922fc6a4")
_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|"""
    r""" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)
_ESTIMATE = re.compile(r"[a-zA-Z]{1,6}|[0-9]{1,3}|\S")
_LOADING = threading.Lock()
# The tokenizer's work grows faster than its input where one word runs on without end.
_BLOCK = 50_000
_PASSAGE = 4_000
"""Characters of a text that is counted more than once: to find where to cut, and as the piece that came of it."""


def count_tokens(text: str) -> int:
    """Count the tokens; over 50,000 characters in blocks, a token or two too many for each."""
    if len(text) <= _PASSAGE:
        return _of_passage(text)
    count = counter()
    return sum(count(text[at : at + _BLOCK]) for at in range(0, len(text), _BLOCK))


@functools.lru_cache(maxsize=256)
def _of_passage(text: str) -> int:
    return counter()(text)


def counter() -> Callable[[str], int]:
    """Load the encoding once per process."""
    with _LOADING:
        return _load(_ranks_file())


@functools.cache
def _ranks_file() -> Path | None:
    spec = importlib.util.find_spec("litellm")
    folders = spec.submodule_search_locations if spec else None
    return next((file for folder in folders or () if (file := Path(folder) / _RANKS).is_file()), None)


@functools.cache
def _load(ranks_file: Path | None) -> Callable[[str], int]:
    """Without the file, estimate a token for six letters, three digits, or any other sign."""
    if ranks_file is None:
        return lambda text: sum(1 for _ in _ESTIMATE.finditer(text))
    import tiktoken

    words = ranks_file.read_bytes().split()
    ranks = dict(zip(map(base64.b64decode, words[::2]), map(int, words[1::2]), strict=True))
    encoding = tiktoken.Encoding("cl100k_base", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})
    return lambda text: len(encoding.encode_ordinary(text))
