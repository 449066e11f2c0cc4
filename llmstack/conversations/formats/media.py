"""Images, files and sound: where a part of any dialect has them."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_to_bytes

from .stored import mapping, text

_HOLDERS = ("source", "image_url", "file", "input_audio", "audio", "extras")
_SOUNDS = {"mp3": "audio/mpeg", "wav": "audio/wav"}


@dataclass(frozen=True, slots=True)
class Media:
    """One of url, data, file_id and text is set; none of them where the part does not say."""

    url: str = ""
    data: str = ""
    """In base64."""
    media_type: str = ""
    file_id: str = ""
    text: str = ""
    name: str = ""

    @property
    def data_url(self) -> str:
        return f"data:{self.media_type};base64,{self.data}"

    @property
    def sound_format(self) -> str | None:
        """The name that OpenAI has for it, None where it takes no such sound."""
        names = {name for name, media_type in _SOUNDS.items() if media_type == self.media_type}
        return next(iter(names), None) if self.data else None

    @property
    def file_name(self) -> str:
        return self.name or f"file{mimetypes.guess_extension(self.media_type) or ''}"


NO_MEDIA = Media()


def read_media(part: Mapping[str, Any]) -> Media:
    """Find it by the keys that the dialects use."""
    said = {**part}
    for holder in _HOLDERS:
        said |= mapping(part.get(holder))
    name = _first(said, "filename", "title", "name")
    media_type = _first(said, "mime_type", "media_type") or _SOUNDS.get(text(said.get("format")), "")
    found = Media(
        url=_first(said, "url", "image_url", "file_url"),
        data=_first(said, "base64", "data", "file_data"),
        media_type=media_type or mimetypes.guess_type(name)[0] or "",
        file_id=_first(said, "file_id"),
        text=_first(said, "text"),
        name=name,
    )
    return _settled(found, is_text=mapping(part.get("source")).get("type") == "text")


def decoded(media: Media) -> str | None:
    """The text of a file that is one, None for any other."""
    if media.text or not media.media_type.startswith("text/"):
        return media.text or None
    try:
        return base64.b64decode(media.data, validate=True).decode() or None
    except ValueError:
        return None


def _first(said: Mapping[str, Any], *keys: str) -> str:
    return next((value for key in keys if (value := text(said.get(key)))), "")


def _settled(media: Media, *, is_text: bool) -> Media:
    if is_text:
        return replace(media, data="", text=media.data, media_type="text/plain")
    inline = next((value for value in (media.url, media.data) if value.startswith("data:")), None)
    if inline is None:
        return media
    head, _, data = inline.removeprefix("data:").partition(",")
    if not head.endswith(";base64"):
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    return replace(media, url="", data=data, media_type=head.partition(";")[0] or media.media_type)
