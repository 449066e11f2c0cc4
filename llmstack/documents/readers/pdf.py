"""The text of PDF files."""

from __future__ import annotations

import warnings

from llmstack.errors import ValidationError

from .needs import explained, needed
from .sources import Source, SourceText


def read_pdf(source: Source) -> SourceText:
    """The text of the pages in their order; a scanned page has none."""
    with needed("PDF files"):
        import pypdf
    with explained(source.name, "PDF"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = pypdf.PdfReader(source.path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValidationError("path", f"{source.name} is encrypted; save it without a password first")
        text = "\n\n".join(page.extract_text() for page in reader.pages)
        information = reader.metadata
        title = str(information.title or "") if information else ""
        return SourceText(text, "pdf", title or source.path.stem, metadata={"pages": len(reader.pages)})
