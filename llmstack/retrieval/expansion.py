"""Query expansion: other wordings of a query, searched beside it in the same statement."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import SecretStr

from ..errors import ValidationError
from ..providers.chat import ChatModel
from ..providers.failures import describe
from ..search.hybrid import MAX_VARIANTS
from .errors import RetrievalError

logger = logging.getLogger("llmstack.retrieval")

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_WORD = re.compile(r"\w+(?:[-.']\w+)*")
_SHORT = 4
"""Letters from which a word is expected to tell something."""
_LIST_MARK = re.compile(r"^\s*(?:[-*\u2022]|\d{1,2}[.)])\s*")
_ASK = (
    "Write {number} other wordings of the search query below, as somebody would who looks for the same passages "
    "and knows other words for it. One on each line, no numbers, no comments. Keep its language."
)


class Expander(Protocol):
    """Makes other wordings of a query."""

    async def expand(self, query: str) -> Sequence[str]:
        """Wordings, best first; none is a good answer."""
        ...


class KeywordExpander:
    """Wordings by rule, without a model: the query's longer words alone, and each sentence of a long query."""

    async def expand(self, query: str) -> Sequence[str]:
        """Words of four letters and more, with a digit, or in capitals; then the sentences."""
        words = _WORD.findall(query)
        telling = [word for word in words if _tells(word)]
        sentences = [part.strip() for part in _SENTENCE.split(query) if len(_WORD.findall(part)) > 1]
        return [" ".join(telling), *(sentences if len(sentences) > 1 else ())]

    def __repr__(self) -> str:
        return "KeywordExpander()"


def _tells(word: str) -> bool:
    return len(word) >= _SHORT or (len(word) > 1 and word.isupper()) or any(map(str.isdigit, word))


class LLMExpander:
    """Wordings by a chat model through litellm, such as `openai/gpt-4o-mini`; `options` go to every call."""

    def __init__(
        self,
        model: str,
        *,
        number: int = 3,
        api_key: str | SecretStr | None = None,
        api_base: str | None = None,
        **options: Any,
    ) -> None:
        if not 1 <= number <= MAX_VARIANTS:
            raise ValidationError("number", f"it must be from 1 to {MAX_VARIANTS}")
        self.model = model
        self._number = number
        options = {"api_base": api_base, "temperature": 0.3, "max_tokens": 60 * number, **options}
        self._chat = ChatModel(model, error=RetrievalError, api_key=api_key, options=options)

    async def expand(self, query: str) -> Sequence[str]:
        """Ask the model once; its answer is read line by line."""
        answer = await self._chat.ask(_ASK.format(number=self._number), query, private=[query])
        return [_LIST_MARK.sub("", line).strip(" \"'") for line in answer.splitlines()][: self._number]

    def __repr__(self) -> str:
        return f"LLMExpander({self.model!r})"


async def wordings(given: Expander | Sequence[str], query: str, *, seconds: float) -> list[str]:
    """Distinct wordings other than the query itself; an expander that fails or takes too long adds none."""
    if isinstance(given, str):
        raise ValidationError("expand", "give a list of wordings, or an expander")
    found = given if isinstance(given, Sequence) else await _expanded(given, query, seconds)
    seen = {_folded(query)}
    kept = []
    for wording in found:
        if not isinstance(wording, str):
            raise ValidationError("expand", f"a wording is a text, not {type(wording).__name__}")
        if (folded := _folded(wording)) and folded not in seen:
            seen.add(folded)
            kept.append(wording)
    if isinstance(given, Sequence) and len(kept) > MAX_VARIANTS:
        raise ValidationError("expand", f"there are {len(kept)} wordings; {MAX_VARIANTS} are the most")
    return kept[:MAX_VARIANTS]


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


async def _expanded(expander: Expander, query: str, seconds: float) -> list[str]:
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return list(await expander.expand(query))
    except Exception as error:
        said = f"no answer within {seconds:g} s" if deadline.expired() else describe(error, texts=[query])
    logger.warning("%r made no other wordings: %s", expander, said)
    return []
