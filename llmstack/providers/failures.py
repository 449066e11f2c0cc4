"""What an embedder's error may say: its class and message, without secrets and without the texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..errors import EmbeddingError

_LENGTH = 500
"""Characters of a provider's message that are kept."""
_WORD = re.compile(r"\w+")
_RUN = 3
"""Words in a row by which a text is recognised."""
_SECRETS = (
    re.compile(r"\b(?:sk|pk|rk|xai|gsk|hf|pa|jina|AIza)[-_]?[A-Za-z0-9_\-]{12,}"),
    re.compile(r"(?i)\bbearer\s+\S+"),
    re.compile(r"(?i)(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"(?i)\b(?:x-)?(?:api[-_ ]?key|token|secret|password|authorization)['\"]?\s*[=:]\s*['\"]?[^\s'\",;&]+"),
)


def describe(error: BaseException, *, texts: Sequence[str] = (), secrets: Iterable[str] = ()) -> str:
    """One line of bounded length; three words in a row that stand in one of the texts are left out."""
    # Longer messages are cut before anything is compared, so that an error that quotes 50 MB costs nothing.
    message = " ".join(str(error)[: 8 * _LENGTH].split())
    for secret in filter(None, secrets):
        message = message.replace(secret, "[secret]")
    for pattern in _SECRETS:
        message = pattern.sub("[secret]", message)
    message = _without(message, texts)[:_LENGTH]
    if isinstance(error, EmbeddingError):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _without(message: str, texts: Sequence[str]) -> str:
    """The message with every quotation of a text replaced by `[text]`."""
    for text in sorted({" ".join(text.split()) for text in texts}, key=len, reverse=True):
        if 2 < len(text) <= len(message):
            message = message.replace(text, "[text]")
    words = list(_WORD.finditer(message))
    runs: dict[tuple[str, ...], list[int]] = {}
    for start in range(len(words) - _RUN + 1):
        runs.setdefault(tuple(word.group() for word in words[start : start + _RUN]), []).append(start)
    quoted = {start + step for text in texts for start in _shared(runs, text) for step in range(_RUN)}
    for place in sorted(quoted, reverse=True):
        message = message[: words[place].start()] + "[text]" + message[words[place].end() :]
    return re.sub(r"\[text\](?:\W{1,3}\[text\])+", "[text]", message)


def _shared(runs: dict[tuple[str, ...], list[int]], text: str) -> Iterable[int]:
    if not runs:
        return
    found = _WORD.findall(text)
    for start in range(len(found) - _RUN + 1):
        yield from runs.get(tuple(found[start : start + _RUN]), ())
