"""The pages of the documentation: their shape, their links, and tables that are what the code says."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from benchmarks.__main__ import PARTS, parser
from pages import BENCH, HOUSE, INSTALL, MODULES, PACKAGES, PAGES, ROOT, Page, broken_links, page, rows

from llmstack import Settings

SHAPE = ("Example", "Concepts", "Verbs", "Recipes", "Limits", "Reference")
INTERNAL = {"providers"}
"""Packages that no host imports."""
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]


def test_the_first_page_can_be_read_in_one_sitting() -> None:
    assert len(ROOT.text.splitlines()) <= 300


def test_every_package_has_a_page_that_the_first_page_links() -> None:
    packages = {path.parent.name for path in HOUSE.glob("llmstack/*/__init__.py")}
    assert {one.path.parent.name for one in PACKAGES} == packages - INTERNAL
    assert {str(one) for one in MODULES} <= {target.partition("#")[0] for target in ROOT.links}


@pytest.mark.parametrize("one", MODULES, ids=str)
def test_the_pages_of_modules_have_one_shape(one: Page) -> None:
    assert [title for title in one.headings(2) if title not in SHAPE] == []
    assert one.headings(2) == [title for title in SHAPE if title in one.headings(2)]
    assert {*SHAPE} - {*one.headings(2)} <= {"Recipes"}


@pytest.mark.parametrize("one", PAGES, ids=str)
def test_no_link_of_a_page_leads_nowhere(one: Page) -> None:
    assert one.links
    assert len(set(one.anchors)) == len(one.anchors)
    assert list(broken_links(one)) == []


@pytest.mark.parametrize("one", PAGES, ids=str)
def test_what_nox_is_asked_for_exists(one: Page) -> None:
    defined = re.findall(r"^@nox\.session.*(?:\n@.*)*\ndef (\w+)\(", _text("noxfile.py"), re.MULTILINE)
    for command in one.commands("nox -s"):
        sessions, _, _ = command.removeprefix("nox -s ").partition(" -- ")
        assert set(sessions.split()) <= set(defined), command


@pytest.mark.parametrize("one", PAGES, ids=str)
def test_what_the_benchmark_is_asked_for_exists(one: Page) -> None:
    for command in one.commands(BENCH):
        chosen = parser().parse_args(shlex.split(command.removeprefix(BENCH).removeprefix(" -- ")))
        assert set(chosen.parts) <= set(PARTS), command


def test_the_table_of_the_benchmarks_parts_is_complete() -> None:
    assert [row[0].strip("`") for row in rows(page("tests/benchmarks").section("Verbs"))] == list(PARTS)


@pytest.mark.parametrize("one", PAGES, ids=str)
def test_an_extra_that_is_to_be_installed_exists(one: Page) -> None:
    for command in one.commands(INSTALL.strip()):
        if (wanted := command.removeprefix(INSTALL)) != "nox":
            named = re.fullmatch(r"'(?:llmstack|\.)\[([a-z,]+)\]'", wanted)
            assert named, command
            assert set(named[1].split(",")) <= set(PROJECT["optional-dependencies"])


def test_ci_runs_the_test_command_of_the_first_page() -> None:
    command = f"{INSTALL}nox && nox -s tests"
    assert f"\n{command}\n" in ROOT.text
    assert command in _text(".ci/run").splitlines()


def _text(name: str) -> str:
    return (HOUSE / name).read_text()


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
    assert rows(page("llmstack/db").section("Configuration")) == setting_rows()


@pytest.mark.parametrize("one", PAGES, ids=str)
def test_every_variable_that_a_page_names_is_a_setting(one: Page) -> None:
    known = {row[0].strip("`") for row in setting_rows()}
    known |= {"LLMSTACK_TEST_DATABASE_URL", "LLMSTACK_TEST_POSTGRES_VERSION"}
    named = set(re.findall(r"\bLLMSTACK_[A-Z_]*[A-Z]\b(?!_)", one.text))
    assert named <= known


def packages(requirements: list[str]) -> set[str]:
    return {str(re.match(r"[a-z0-9-]+", requirement)[0]) for requirement in requirements}  # type: ignore[index]


def test_the_dependency_table_gives_a_reason_for_every_package() -> None:
    extras = {name: packages(listed) for name, listed in PROJECT["optional-dependencies"].items() if name != "all"}
    written: dict[str, set[str]] = {}
    for extra, package, reason in rows(ROOT.section("Dependencies")):
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

    listed = [row[0].strip("`") for row in rows(page("llmstack/cli").section("Verbs"))]
    assert sorted(listed) == sorted(name for name, does in verbs(get_command(app), "llmstack") if does)


def test_the_table_of_exit_statuses_is_what_the_command_line_says() -> None:
    from llmstack.cli.exits import EXIT_CODES

    assert rows(page("llmstack/cli").section("Exit statuses")) == [
        (str(code), text) for code, text in EXIT_CODES.items()
    ]


def test_the_table_of_errors_names_every_error() -> None:
    from llmstack import errors

    named = set(re.findall(r"`(\w+)`", page("llmstack/db").section("Errors")))
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert {one.__name__ for one in classes if issubclass(one, errors.LLMStackError)} <= named
