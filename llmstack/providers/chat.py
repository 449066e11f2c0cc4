"""A chat model through litellm, asked once at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from ..errors import LLMStackError
from .failures import describe
from .litellm import load_litellm


class ChatModel:
    """A model such as `openai/gpt-4o-mini`; `options` go to every call, and what fails is raised as `error`."""

    def __init__(
        self,
        model: str,
        *,
        error: type[LLMStackError],
        api_key: str | SecretStr | None = None,
        options: Mapping[str, Any],
    ) -> None:
        self.model = model
        self._error = error
        self._key = api_key if isinstance(api_key, SecretStr) or api_key is None else SecretStr(api_key)
        self._options = options

    async def ask(self, system: str, question: str, *, private: Sequence[str]) -> str:
        """The model's answer; `private` texts are left out of what is said of a failure."""
        litellm = await asyncio.to_thread(load_litellm)
        secret = self._key.get_secret_value() if self._key is not None else None
        arguments = {"api_key": secret, "drop_params": True, **self._options}
        try:
            answer = await litellm.acompletion(
                model=self.model,
                messages=[{"role": "system", "content": system}, {"role": "user", "content": question}],
                **{key: value for key, value in arguments.items() if value is not None},
            )
        except Exception as error:
            said = describe(error, texts=private, secrets=[secret or ""])
            raise self._error(f"{self.model!r} failed: {said}") from None
        return str(answer.choices[0].message.content or "")
