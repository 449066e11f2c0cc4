"""Everything in README.md that can be run is run, and its tables are complete."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack import LLMStack, Settings
from llmstack.db.schemas import quote
from llmstack.testing import servers

HOUSE = Path(__file__).parents[2]
README = (HOUSE / "README.md").read_text()
INSTALL = "python -m pip install "


@dataclass(frozen=True)
class Snippet:
    """A fenced block: its language, its text, and the line of the README that it begins on."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the block is, where its first line says so."""
        match = re.match(r"# (\S+\.(?:py|ini))\n", self.text)
        return match[1] if match else None

    def __str__(self) -> str:
        return f"line {self.line}: {self.text.splitlines()[0]}"


def snippets(text: str) -> list[Snippet]:
    return [
        Snippet(match[1], match[2], text.count("\n", 0, match.start()) + 2)
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


SNIPPETS = snippets(README)
HEADINGS = re.findall(r"^##+ (.+)$", README, re.MULTILINE)
FILES = [snippet for snippet in SNIPPETS if snippet.file]
SCRIPTS = [one for one in SNIPPETS if one.language == "python" and "asyncio.run(" in one.text and not one.file]
SESSION = [one for one in SNIPPETS if one.language == "python" and one not in SCRIPTS and one not in FILES]
SHELL = [snippet for snippet in SNIPPETS if snippet.language == "bash"]
INSTALLS = [one for one in SHELL if one.text.startswith(INSTALL)]


@pytest.fixture(scope="module")
def urls(llmstack_server_url: str) -> Iterator[dict[str, str]]:
    """Empty databases: of the Python session, of the shell, and of a host."""
    names = {purpose: servers.unique_name() for purpose in ("session", "shell", "host")}
    for name in names.values():
        servers.run_apart(servers.execute(llmstack_server_url, f"CREATE DATABASE {quote(name)}"))
    url = make_url(llmstack_server_url)
    yield {purpose: url.set(database=name).render_as_string(hide_password=False) for purpose, name in names.items()}
    for name in names.values():
        servers.run_apart(servers.drop(llmstack_server_url, name))


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """What a reader has before him, with the files that the README asks him to write."""
    with tempfile.TemporaryDirectory(prefix="llmstack-readme-") as folder:
        place = Path(folder)
        for part in ("alembic", "llmstack"):
            shutil.copytree(HOUSE / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("README.md", "alembic.ini"):
            shutil.copy(HOUSE / name, place)
        for snippet in FILES:
            written = place / str(snippet.file)
            (written.parent / "versions").mkdir(parents=True, exist_ok=True)
            written.write_text(snippet.text)
        yield place


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
    assert {snippet.language for snippet in SNIPPETS} == {"python", "bash", "ini"}
    assert all((FILES, SCRIPTS, SESSION, SHELL, INSTALLS))
    assert all(snippet.file for snippet in SNIPPETS if snippet.language == "ini")


@pytest.mark.parametrize("snippet", SCRIPTS, ids=str)
def test_a_script_runs_on_an_embedded_server(snippet: Snippet, checkout: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="llmstack-readme-") as folder:
        done = run(sys.executable, "-c", snippet.text, cwd=checkout, LLMSTACK_DATA_DIR=f"{folder}/data")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("README.md") >= 3
    assert f"{folder}/data" in done.stderr


async def test_the_session_runs_from_its_first_snippet_to_its_last(
    urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSTACK_DATABASE_URL", urls["session"])
    monkeypatch.setenv("SHOP_DATABASE_URL", for_asyncpg(urls["session"]))
    module = types.ModuleType("readme_session")
    # SQLAlchemy looks for the names of annotations in the module of their class.
    monkeypatch.setitem(sys.modules, module.__name__, module)
    try:
        for snippet in SESSION:
            await execute(snippet, module.__dict__)
    finally:
        await close(module.__dict__.values())


async def execute(snippet: Snippet, namespace: dict[str, Any]) -> None:
    """Run a block as `python -m asyncio` would; tracebacks show the README's own lines."""
    text = "\n" * (snippet.line - 1) + snippet.text
    code = compile(text, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
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


@pytest.mark.parametrize("snippet", [one for one in SHELL if one not in INSTALLS], ids=str)
def test_a_shell_snippet_runs(snippet: Snippet, checkout: Path, urls: dict[str, str], llmstack_server_url: str) -> None:
    done = run(
        "bash", "-euo", "pipefail", "-c", snippet.text,
        cwd=checkout,
        LLMSTACK_DATABASE_URL=urls["shell"],
        LLMSTACK_TEST_DATABASE_URL=llmstack_server_url,
        SHOP_DATABASE_URL=for_asyncpg(urls["host"]),
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
NOX = INSTALL + "nox && nox -s "


@pytest.mark.parametrize("snippet", INSTALLS, ids=str)
def test_what_an_installation_names_exists(snippet: Snippet) -> None:
    for line in snippet.text.splitlines():
        if line.startswith(NOX):
            assert re.search(rf"^@nox\.session.*\ndef {line.removeprefix(NOX)}\(", _text("noxfile.py"), re.MULTILINE)
        else:
            named = re.fullmatch(r"'(?:llmstack|\.)\[([a-z,]+)\]'", line.removeprefix(INSTALL))
            assert named, line
            assert set(named[1].split(",")) <= set(PROJECT["optional-dependencies"])


def test_ci_runs_the_readmes_test_command() -> None:
    command = NOX + "tests"
    assert f"{command}\n" in README
    assert command in _text(".ci/run").splitlines()


def _text(name: str) -> str:
    return (HOUSE / name).read_text()


def section(title: str) -> str:
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[tuple[str, ...]]:
    """The cells of every table row but the headings."""
    found = [
        tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        for line in text.splitlines()
        if line.startswith("|")
    ]
    rules = [index for index, row in enumerate(found) if set("".join(row)) <= set("-:")]
    return [row for index, row in enumerate(found) if index not in rules and index + 1 not in rules]


def setting_rows() -> list[tuple[str, ...]]:
    """The table of settings as the class itself says it."""
    prefix = Settings.model_config["env_prefix"]
    return [
        (
            f"`{field.validation_alias or prefix + name.upper()}`",
            "" if field.default is None else f"`{str(field.default).lower()}`",
            str(field.description),
        )
        for name, field in Settings.model_fields.items()
    ]


def test_the_configuration_table_is_what_the_settings_are() -> None:
    assert rows(section("Configuration")) == setting_rows()


def packages(requirements: list[str]) -> set[str]:
    return {str(re.match(r"[a-z0-9-]+", requirement)[0]) for requirement in requirements}  # type: ignore[index]


def test_the_dependency_tables_give_a_reason_for_every_package() -> None:
    extras = {name: packages(listed) for name, listed in PROJECT["optional-dependencies"].items() if name != "all"}
    written: dict[str, set[str]] = {}
    for extra, package, reason in rows(section("Dependencies")):
        assert reason
        written.setdefault(extra.strip("`"), set()).add(package.strip("`"))
    assert written == {"": packages(PROJECT["dependencies"]), **extras}
    (everything,) = PROJECT["optional-dependencies"]["all"]
    # Torch, which a cross-encoder brings along, is larger than all else together.
    assert set(everything.removeprefix("llmstack[").removesuffix("]").split(",")) == set(extras) - {"rerank"}


def verbs(command: Any, name: str) -> Iterator[tuple[str, bool]]:
    """Every verb of the command line, and whether it does something by itself."""
    for word, below in getattr(command, "commands", {}).items():
        does = not getattr(below, "commands", None) or below.invoke_without_command
        yield f"{name} {word}", does
        yield from verbs(below, f"{name} {word}")


def test_the_command_line_table_names_every_verb() -> None:
    from typer.main import get_command

    from llmstack.cli.main import app

    listed = [row[0].strip("`") for row in rows(section("Command line")) if row[0].startswith("`llmstack")]
    assert sorted(listed) == sorted(name for name, does in verbs(get_command(app), "llmstack") if does)


def test_the_table_of_exit_statuses_is_what_the_command_line_says() -> None:
    from llmstack.cli.exits import EXIT_CODES

    listed = {int(row[0]): row[1] for row in rows(section("Command line")) if row[0].isdigit()}
    assert listed == EXIT_CODES


def test_every_link_to_a_section_has_one() -> None:
    titles = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in HEADINGS}
    linked = set(re.findall(r"\]\(#([^)]+)\)", README))
    assert linked
    assert linked <= titles
