"""Read a source by its format: here, or in a process of its own that can be ended."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator

from llmstack.errors import ValidationError

from ...db.checks import UNSTORABLE
from ..errors import NothingToRead
from .formats import PLAIN
from .html import read_html
from .mail import read_email
from .notebook import read_notebook
from .office import read_docx, read_office
from .pdf import read_pdf
from .plain import read_markdown, read_text
from .sources import Source, SourceText

_READERS: dict[str, Callable[[Source], SourceText]] = {
    "text": read_text,
    "code": read_text,
    "markdown": read_markdown,
    "html": read_html,
    "pdf": read_pdf,
    "docx": read_docx,
    "email": read_email,
    "notebook": read_notebook,
    **dict.fromkeys(("pptx", "xlsx", "epub", "odt", "rtf"), read_office),
}
_HINTS = {"pdf": "; a scanned PDF needs character recognition first"}
_MEMORY = 3 << 30
"""Bytes of address space that a reader's process may take, where the system keeps to it (Linux)."""
_NESTING = 10_000
"""Calls within one another: an element that is never closed encloses all that follows it."""


def read(source: Source) -> SourceText:
    """Read by the format; raises ValidationError, and NothingToRead where plain text is blank."""
    try:
        found = _READERS[source.format](source)
    except OSError as error:
        raise ValidationError("path", f"{source.name} cannot be read: {error.strerror or error}") from error
    text = UNSTORABLE.sub("", found.text)
    if not text.strip():
        if source.format in PLAIN:
            raise NothingToRead(f"{source.name} is empty")
        raise ValidationError("path", f"{source.name} has no text{_HINTS.get(source.format, '')}")
    title = " ".join(UNSTORABLE.sub("", found.title).split()) or source.path.name
    return SourceText(text, found.document_type, title, found.language, found.metadata)


async def read_apart(source: Source, *, seconds: float) -> SourceText:
    """Read what has to be parsed in a process of its own, which is ended after `seconds`; plain text in a thread.

    The process serves file after file until the event loop closes. Raises ValidationError as `read` does, also where
    the time is over or the process broke down.
    """
    if source.format in PLAIN:
        return await asyncio.to_thread(read, source)
    from anyio import BrokenWorkerProcess, to_process

    with _ended(source, seconds, BrokenWorkerProcess):
        # Its start is not the file's time.
        await to_process.run_sync(_prepare, cancellable=True)
        async with asyncio.timeout(seconds):
            return await to_process.run_sync(read, source, cancellable=True)


@contextlib.contextmanager
def _ended(source: Source, seconds: float, broken: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        said = f"{source.name} takes longer than {seconds:g} seconds to read; --time-limit gives it more"
        raise ValidationError("path", said) from error
    except (broken, MemoryError) as error:
        said = f"{source.name} cannot be read: its reader took more than {_MEMORY >> 30} GB of memory, or broke down"
        raise ValidationError("path", said) from error


def _prepare() -> None:
    """Bound what the process of this call may take; does nothing the second time."""
    sys.setrecursionlimit(_NESTING)
    # Not every system has such limits, or lets them be set.
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
