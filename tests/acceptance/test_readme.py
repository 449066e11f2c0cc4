"""Everything in the pages of the documentation that can be run is run, each page by itself."""

from __future__ import annotations

import ast
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import HOUSE, PAGES, ROOT, SNIPPETS, Page, Snippet
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack import LLMStack
from llmstack.db.schemas import quote
from llmstack.testing import servers

SESSIONS = [page for page in PAGES if any(snippet.is_session for snippet in page.snippets)]


class Readers:
    """What readers have before them, each of one page: databases, and a checkout with the files of the page."""

    def __init__(self, server_url: str, template: str, folder: Path) -> None:
        self._server_url = server_url
        self._template = template
        self._folder = folder
        self._names: dict[tuple[Page, str], str] = {}

    def url(self, page: Page, purpose: str, *, migrated: bool = False) -> str:
        """A database for one purpose, the same when asked for again; empty, or migrated already."""
        name = self._names.get((page, purpose))
        if name is None:
            name = self._names[page, purpose] = servers.unique_name()
            servers.run_apart(
                servers.create_copy(self._server_url, name, template=self._template)
                if migrated
                else servers.execute(self._server_url, f"CREATE DATABASE {quote(name)}")
            )
        return make_url(self._server_url).set(database=name).render_as_string(hide_password=False)

    def checkout(self, page: Page) -> Path:
        """A copy of the repository's parts, with the files that the page asks to write."""
        place = self._folder / str(page).replace("/", "-")
        if place.exists():
            return place
        for part in ("alembic", "llmstack"):
            shutil.copytree(HOUSE / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("README.md", "alembic.ini"):
            shutil.copy(HOUSE / name, place)
        for snippet in page.snippets:
            if snippet.file:
                written = place / snippet.file
                (written.parent / "versions").mkdir(parents=True, exist_ok=True)
                written.write_text(snippet.text)
        return place

    def leave(self) -> None:
        """Drop the databases."""
        for name in self._names.values():
            servers.run_apart(servers.drop(self._server_url, name))


@pytest.fixture(scope="module")
def readers(llmstack_server_url: str, llmstack_template: str) -> Iterator[Readers]:
    with tempfile.TemporaryDirectory(prefix="llmstack-readme-") as folder:
        found = Readers(llmstack_server_url, llmstack_template, Path(folder))
        yield found
        found.leave()


def for_asyncpg(url: str) -> str:
    return make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMSTACK_")}
    path = os.pathsep.join((str(Path(sys.executable).parent), kept.get("PATH", "")))
    return {**kept, "PATH": path, "PYTEST_ADDOPTS": "-p no:cacheprovider", **variables}


def run(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_there_is_something_of_every_kind() -> None:
    assert {snippet.language for snippet in SNIPPETS} == {"python", "bash", "ini", "text"}
    assert all(snippet.file for snippet in SNIPPETS if snippet.language == "ini")
    for kind in ("file", "is_script", "is_session", "is_run"):
        assert [snippet for snippet in SNIPPETS if getattr(snippet, kind)], kind


@pytest.mark.parametrize("snippet", [one for one in SNIPPETS if one.is_script], ids=str)
def test_a_script_runs_on_an_embedded_server(snippet: Snippet, readers: Readers) -> None:
    with tempfile.TemporaryDirectory(prefix="llmstack-readme-") as folder:
        checkout = readers.checkout(snippet.page)
        done = run(sys.executable, "-c", snippet.text, cwd=checkout, LLMSTACK_DATA_DIR=f"{folder}/data")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("README.md") >= 3
    assert f"{folder}/data" in done.stderr


@pytest.mark.parametrize("page", SESSIONS, ids=str)
async def test_the_session_of_a_page_runs_from_its_first_snippet_to_its_last(
    page: Page, readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = [snippet for snippet in page.snippets if snippet.is_session]
    # So that a reader of this page alone has the tables, although only the root's reader waits for them here.
    assert ".migrate()" in session[0].text
    url = readers.url(page, "session", migrated=page != ROOT)
    monkeypatch.setenv("LLMSTACK_DATABASE_URL", url)
    monkeypatch.setenv("SHOP_DATABASE_URL", for_asyncpg(url))
    module = types.ModuleType("readme_session")
    # SQLAlchemy looks for the names of annotations in the module of their class.
    monkeypatch.setitem(sys.modules, module.__name__, module)
    try:
        for snippet in session:
            await execute(snippet, module.__dict__)
    finally:
        await close(module.__dict__.values())


async def execute(snippet: Snippet, namespace: dict[str, Any]) -> None:
    """Run a block as `python -m asyncio` would; tracebacks show the page's own lines."""
    text = "\n" * (snippet.line - 1) + snippet.text
    code = compile(text, str(snippet.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(code, namespace)
    if code.co_flags & inspect.CO_COROUTINE:
        await result


async def close(values: Any) -> None:
    values = list(values)
    for stack in values:
        if isinstance(stack, LLMStack):
            await stack.close()
    for engine in values:
        if isinstance(engine, AsyncEngine):
            await engine.dispose()


@pytest.mark.parametrize("snippet", [one for one in SNIPPETS if one.is_run], ids=str)
def test_a_shell_snippet_runs(snippet: Snippet, readers: Readers, llmstack_server_url: str) -> None:
    done = run(
        "bash", "-euo", "pipefail", "-c", snippet.text,
        cwd=readers.checkout(snippet.page),
        LLMSTACK_DATABASE_URL=readers.url(snippet.page, "shell"),
        LLMSTACK_TEST_DATABASE_URL=llmstack_server_url,
        SHOP_DATABASE_URL=for_asyncpg(readers.url(snippet.page, "host")),
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
