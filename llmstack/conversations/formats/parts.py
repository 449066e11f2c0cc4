"""One reading of a part, whichever dialect it is in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .media import NO_MEDIA, Media, read_media
from .stored import mapping, text, type_of

Kind = Literal["text", "image", "file", "audio", "call", "result", "reasoning", "refusal", "other"]


@dataclass(frozen=True, slots=True)
class Part:
    """What a part means; `given` is the part itself."""

    kind: Kind
    given: Mapping[str, Any]
    text: str = ""
    """Of a text, reasoning or refusal, and of sound what is said in it."""
    id: str = ""
    """The call's id, of a result that of the call it answers."""
    name: str = ""
    arguments: Any = None
    """A call's: JSON text, or the object itself."""
    media: Media = NO_MEDIA
    inner: tuple[Part, ...] = ()
    """What a result holds."""
    is_list: bool = False
    """Whether a result holds a list, not a text."""
    failed: bool = False
    signature: str = ""

    @property
    def type(self) -> str:
        return type_of(self.given)

    @property
    def label(self) -> str:
        """Names the part where it cannot be."""
        said = self.name or self.media.name or self.media.url or self.media.file_id or self.media.media_type
        return f"[{' '.join(filter(None, (self.kind if self.kind != 'other' else self.type or 'part', said)))}]"


def read_parts(parts: Iterable[Mapping[str, Any]]) -> Iterator[Part]:
    """Give the parts in their order; a Responses message gives those that it holds."""
    for part in parts:
        if type_of(part) == "message":
            yield from read_parts(as_list(part.get("content")))
        elif type_of(part) == "non_standard":
            yield from read_parts([mapping(part.get("value"))])
        else:
            yield _READERS.get(type_of(part), _other)(part)


def text_of(parts: Iterable[Mapping[str, Any]]) -> str:
    """The text that is searched: of text parts and of tools' results, a line each."""
    return joined(read_parts(parts))


def joined(parts: Iterable[Part]) -> str:
    """The text of parts that are read already."""
    texts = (part.text if part.kind == "text" else joined(part.inner) for part in parts)
    return "\n".join(filter(None, texts))


def as_list(content: Any) -> list[Mapping[str, Any]]:
    """A content as parts; a text is one of them unless it is empty."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list | tuple) else []


def _other(part: Mapping[str, Any]) -> Part:
    return Part("other", part, name=text(part.get("name")))


def _text(part: Mapping[str, Any]) -> Part:
    return Part("text", part, text=text(part.get("text")))


def _refusal(part: Mapping[str, Any]) -> Part:
    return Part("refusal", part, text=text(part.get("refusal")))


def _media(kind: Kind) -> Callable[[Mapping[str, Any]], Part]:
    def read(part: Mapping[str, Any]) -> Part:
        found = read_media(part)
        said = text(mapping(part.get("audio")).get("transcript"))
        # A document may be made of blocks of text.
        blocks = joined(read_parts(as_list(mapping(part.get("source")).get("content"))))
        media = Media(text=blocks, name=found.name) if blocks else found
        return Part(kind, part, text=said, media=media)

    return read


def _call(part: Mapping[str, Any]) -> Part:
    called = part
    for holder in ("function", "custom", "function_call"):
        called = mapping(part.get(holder)) or called
    keys = ("arguments", "input", "args")
    arguments = next((called[key] for key in keys if called.get(key) is not None), "")
    # A custom tool takes text that need not be JSON.
    if "custom" in type_of(part):
        arguments = {"input": arguments}
    identity = text(part.get("call_id")) or text(part.get("id"))
    return Part("call", part, id=identity, name=text(called.get("name")), arguments=arguments)


def _result(part: Mapping[str, Any]) -> Part:
    content = part.get("content", part.get("output"))
    return Part(
        "result",
        part,
        id=text(part.get("tool_use_id")) or text(part.get("call_id")),
        inner=tuple(read_parts(as_list(content))),
        is_list=isinstance(content, list | tuple),
        failed=part.get("is_error") is True,
    )


def _reasoning(part: Mapping[str, Any]) -> Part:
    said = text(part.get("thinking")) or text(part.get("reasoning")) or text(part.get("reasoning_content"))
    summary = [*as_list(part.get("summary")), *as_list(part.get("content"))]
    signature = text(part.get("signature")) or text(mapping(part.get("extras")).get("signature"))
    return Part(
        "reasoning",
        part,
        text=said or "\n".join(text(one.get("text")) for one in summary),
        signature=signature,
    )


_READERS: dict[str, Callable[[Mapping[str, Any]], Part]] = {
    **dict.fromkeys(("text", "input_text", "output_text"), _text),
    "refusal": _refusal,
    **dict.fromkeys(("image_url", "input_image", "image"), _media("image")),
    **dict.fromkeys(("file", "input_file", "document", "text-plain"), _media("file")),
    **dict.fromkeys(("input_audio", "audio"), _media("audio")),
    **dict.fromkeys(("function", "custom", "function_call", "custom_tool_call"), _call),
    **dict.fromkeys(("tool_use", "tool_call", "invalid_tool_call"), _call),
    **dict.fromkeys(("tool_result", "function_call_output", "custom_tool_call_output"), _result),
    **dict.fromkeys(("thinking", "redacted_thinking", "reasoning", "reasoning_content"), _reasoning),
}
