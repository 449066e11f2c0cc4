"""The pages of the documentation: their snippets, headings, links and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HOUSE = Path(__file__).parents[2]
INSTALL = "python -m pip install "
BENCH = "nox -s bench"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")

Row = tuple[str, ...]


@dataclass(frozen=True)
class Snippet:
    """A fenced block: its page, its language, its text, and the line of the page that it begins on."""

    page: Page
    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the block is, where its first line says so."""
        match = re.match(r"# (\S+\.(?:py|ini))\n", self.text)
        return match[1] if match else None

    @property
    def is_script(self) -> bool:
        """Whether it is a program by itself."""
        return self.language == "python" and "asyncio.run(" in self.text and not self.file

    @property
    def is_session(self) -> bool:
        """Whether it continues the Python before it on its page."""
        return self.language == "python" and not self.is_script and not self.file

    @property
    def is_run(self) -> bool:
        """Whether it is a shell's that a test can run: one that installs or measures takes too long."""
        return self.language == "bash" and not self.text.startswith((INSTALL, BENCH))

    def __str__(self) -> str:
        return f"{self.page} line {self.line}: {self.text.splitlines()[0]}"


@dataclass(frozen=True)
class Page:
    """A Markdown file of the repository."""

    path: Path

    @cached_property
    def text(self) -> str:
        """All of it."""
        return self.path.read_text()

    @cached_property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    @cached_property
    def snippets(self) -> list[Snippet]:
        """The fenced blocks, in order."""
        return [
            Snippet(self, match[1], match[2], self.text.count("\n", 0, match.start()) + 2)
            for match in _FENCE.finditer(self.text)
        ]

    def headings(self, level: int) -> list[str]:
        """The titles of one level, in order."""
        return re.findall(rf"^#{{{level}}} (.+)$", self.prose, re.MULTILINE)

    @cached_property
    def anchors(self) -> list[str]:
        """What a link can lead to within the page, as GitHub and package indexes name it."""
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]

    @cached_property
    def links(self) -> list[str]:
        """The targets of all links to places in the repository."""
        return [target for target in _LINK.findall(self.prose) if "://" not in target]

    def commands(self, beginning: str) -> list[str]:
        """Every command in a shell's snippet or between backticks that begins with these words."""
        quoted = re.findall(r"`([^`\n]+)`", self.prose)
        shell = [line for one in self.snippets if one.language == "bash" for line in one.text.splitlines()]
        found = (command for line in (*quoted, *shell) for command in line.split(" && "))
        return [command for command in found if f"{command} ".startswith(f"{beginning} ")]

    def section(self, title: str) -> str:
        """What stands under the heading of any level, to the next heading."""
        (found,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", self.prose, re.MULTILINE | re.DOTALL)
        return str(found)

    def __str__(self) -> str:
        return self.path.relative_to(HOUSE).as_posix()


def page(name: str = "") -> Page:
    """The page of a folder; without one, the root's."""
    return Page(HOUSE / name / "README.md")


ROOT = page()
PACKAGES = [Page(path) for path in sorted(HOUSE.glob("llmstack/*/README.md"))]
MODULES = [*PACKAGES, page("tests/benchmarks")]
PAGES = [ROOT, *MODULES]
SNIPPETS = [snippet for one in PAGES for snippet in one.snippets]


def rows(text: str) -> list[Row]:
    """The cells of every table row but the headings."""
    found = [
        tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        for line in text.splitlines()
        if line.startswith("|")
    ]
    rules = [index for index, row in enumerate(found) if set("".join(row)) <= set("-:")]
    return [row for index, row in enumerate(found) if index not in rules and index + 1 not in rules]


def broken_links(one: Page) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    for target in one.links:
        file, _, anchor = target.partition("#")
        place = (one.path.parent / file).resolve() if file else one.path
        if not place.is_relative_to(HOUSE) or not place.exists() or (anchor and anchor not in Page(place).anchors):
            yield target
