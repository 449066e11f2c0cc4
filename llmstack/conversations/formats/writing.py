"""Give stored messages as the libraries take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

from llmstack.errors import ValidationError

from .anthropic_writing import write_anthropic
from .langchain_writing import write_langchain
from .openai_writing import write_openai
from .stored import Stored
from .turns import Turn, read_turns

_WRITERS: dict[str, Callable[[list[Turn]], list[Any] | dict[str, Any]]] = {
    "openai": write_openai,
    "anthropic": write_anthropic,
    "langchain": write_langchain,
}


@overload
def as_messages(messages: Sequence[Stored], format: Literal["openai", "langchain"]) -> list[Any]: ...
@overload
def as_messages(messages: Sequence[Stored], format: Literal["anthropic"]) -> dict[str, Any]: ...
def as_messages(messages: Sequence[Stored], format: str) -> list[Any] | dict[str, Any]:
    """Give a list of chat completions' messages, Anthropic's `system` and `messages`, or a list of BaseMessage.

    What was read by `read_message` in the same dialect comes back equal, apart from keys without a value and from what
    an answer of Anthropic has beyond role and content. Across dialects calls, results, images, files, sound and
    reasoning are given by their meaning:

    - A part that the dialect does not have becomes a text that names it, such as `[audio]` or `[file report.pdf]`:
      ids and URLs of files where only data is taken, files that are neither PDF nor text (Anthropic), media that no
      user sent (OpenAI), a vendor's own tools. Of sound that the model made Anthropic and LangChain get the transcript.
    - Reasoning is left out where it would be refused: by OpenAI unless it is its own, by Anthropic without a signature.
      A message that says nothing else is left out with it. LangChain keeps what it has no block for as `non_standard`.
    - Arguments that are no JSON object become `{"arguments": ...}` (Anthropic) or an invalid tool call (LangChain);
      the text of a custom tool becomes `{"input": ...}`. Calls and answers of functions without ids are numbered.
    - Names and an image's detail are OpenAI's and LangChain's alone; that a tool failed is not told to OpenAI.
    - OpenAI and LangChain get each tool result as a message of its own, in front of the message that it is a part of.
      Anthropic gets one turn where roles repeat, and the texts of system and developer, wherever they are, as `system`.
    - A type of part that is unknown counts as OpenAI's where it has a key of the same name, else as Anthropic's.

    Raises MissingExtra where langchain-core is absent.
    """
    if format not in _WRITERS:
        raise ValidationError("format", f"{format!r:.60} is unknown; known are {', '.join(_WRITERS)}")
    return _WRITERS[format](read_turns(messages))
