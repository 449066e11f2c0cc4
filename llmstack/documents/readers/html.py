"""Pages, and what is written in their markup elsewhere, as Markdown."""

from __future__ import annotations

import codecs
import contextlib
import re

from llmstack.errors import MissingExtra

from .encodings import decode
from .needs import explained, needed
from .plain import encoding_of
from .sources import Source, SourceText

_NO_TEXT = ["head", "script", "style", "nav", "noscript", "template", "svg"]


def read_html(source: Source) -> SourceText:
    """A page without its scripts and its navigation; its title, else its first heading, is the title."""
    with needed("HTML files"):
        from bs4.dammit import EncodingDetector
    with explained(source.name, "HTML"):
        data = source.read()
        declared = EncodingDetector.find_declared_encoding(data, is_html=True)
        text, encoding = _decoded(data, source.encoding, declared)
        markdown, title, language = convert(text)
        return SourceText(markdown, "html", title or source.path.stem, language, encoding_of(encoding))


def convert(html: str) -> tuple[str, str, str | None]:
    """Give Markdown, title and declared language."""
    with needed("HTML"):
        from bs4 import BeautifulSoup, FeatureNotFound
        from markdownify import MarkdownConverter
    try:
        # It ends elements where HTML lets their end be implied.
        soup = BeautifulSoup(html, "lxml")
    except FeatureNotFound as error:
        raise MissingExtra(feature="reading HTML", extra="files") from error
    root = soup.find("html")
    language = root.get("lang") if root else None
    named = soup.title or soup.find("h1")
    title = named.get_text(" ", strip=True) if named else ""
    for tag in soup(_NO_TEXT):
        tag.decompose()
    text: str = MarkdownConverter(heading_style="ATX").convert_soup(soup)
    return re.sub(r"\n{3,}", "\n\n", text).strip(), title, language if isinstance(language, str) else None


def _decoded(data: bytes, encoding: str | None, declared: str | None) -> tuple[str, str]:
    """What the caller says counts, then what the page says, where it is so."""
    if encoding is None and declared is not None:
        with contextlib.suppress(LookupError, ValueError):
            return data.decode(declared), codecs.lookup(declared).name
    return decode(data, encoding)
