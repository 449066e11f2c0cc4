"""Rules that the whole package keeps and that no single test of a part would notice."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

HOUSE = Path(__file__).parents[2]
PACKAGE = HOUSE / "llmstack"
SOURCES = sorted(PACKAGE.rglob("*.py"))
DOORS = [path for path in SOURCES if path.name == "__init__.py" and "__all__" in path.read_text()]
BESIDES = {"llmstack", "pgvector", "sqlalchemy", "tenacity", "uuid_utils"}

_IMPORT = """
import sys
import sqlalchemy.orm, sqlalchemy.ext.asyncio, pydantic_settings
before = set(sys.modules)
from llmstack import *
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
"""


def relative(path: Path) -> str:
    return path.relative_to(HOUSE).as_posix()


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(HOUSE).parent.parts)


def public_names(tree: ast.Module) -> Iterator[str]:
    """What a door defines or takes in under its own name."""
    body = [*tree.body, *(line for node in tree.body if isinstance(node, ast.If) for line in node.body)]
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("door", DOORS, ids=relative)
def test_a_door_lists_what_it_exports_sorted(door: Path) -> None:
    module = importlib.import_module(dotted(door))
    listed = list(module.__all__)
    assert listed == sorted(set(listed), key=_constants_then_classes)
    tree = ast.parse(door.read_text())
    found = {name for name in public_names(tree) if not name.startswith("_")}
    # What a door computes when it is asked, it can only list.
    computed = {"__version__"} if "__getattr__" in public_names(tree) else set()
    assert found == set(listed) - computed
    assert [name for name in listed if not hasattr(module, name)] == []


def _constants_then_classes(name: str) -> tuple[bool, bool, str]:
    return not name.isupper(), not name[0].isupper(), name


def test_every_domain_has_a_door() -> None:
    doors = {dotted(door) for door in DOORS}
    assert doors >= {
        "llmstack",
        "llmstack.db",
        "llmstack.documents",
        "llmstack.embeddings",
        "llmstack.search",
    }


def test_importing_llmstack_with_all_its_names_loads_little_besides_what_it_stands_on() -> None:
    run = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True)
    # What is loaded is what an import costs; neither litellm nor Alembic nor a command line is part of it.
    assert set(run.stdout.split()) == BESIDES


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_file_is_longer_than_600_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 600


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_settings_alone_read_the_environment(path: Path) -> None:
    # The plugin has variables of its own, which must not be settings of the application under test.
    if path.parent.name == "testing":
        return
    tree = ast.parse(path.read_text())
    written = {id(node.value) for node in ast.walk(tree) if _tells_litellm(node)}
    assert [ast.dump(node) for node in ast.walk(tree) if _is_environment(node) and id(node) not in written] == []


def _tells_litellm(node: ast.AST) -> TypeGuard[ast.Subscript]:
    """Whether the line sets the one variable that keeps litellm from the network when it is imported."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.ctx, ast.Store):
        return False
    return getattr(node.slice, "value", None) == "LITELLM_LOCAL_MODEL_COST_MAP" and _is_environment(node.value)


def _is_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        return any(alias.name in ("environ", "environb", "getenv") for alias in node.names)
    return isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")


# They write SQL text for a schema, each name quoted by `db/schemas.py`.
WRITERS_OF_SCHEMAS = ("db/schemas.py", "db/revisions.py", "db/grants.py")


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_schema_name_is_pasted_into_text(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() in WRITERS_OF_SCHEMAS:
        return
    tree = ast.parse(path.read_text())
    keys = {id(part) for node in ast.walk(tree) if _is_lock_key(node) for part in ast.walk(node)}
    pasted = [
        (node.lineno, ast.unparse(node.value))
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue) and node.conversion != ord("r")
        if _names_schema(node.value) and id(node) not in keys
    ]
    assert pasted == [], "write {schema!r} in a message; let the translate map or quote() write it in SQL"


def _is_lock_key(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", None) == "lock_key"


def _names_schema(value: ast.expr) -> bool:
    name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
    return bool(re.search(r"(^|_)schema(_name)?$", name))


def _own_tables() -> set[str]:
    from llmstack.db.autogenerate import target_metadata

    return {table.name for table in target_metadata(None).tables.values()}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_text_names_a_table_of_ours_without_its_schema(path: Path) -> None:
    # Revisions run with their own schema alone on the search path.
    if path.parent.name == "migrations":
        return
    statement = re.compile(rf"\b(?:FROM|JOIN|INTO|UPDATE|TABLE) \"?({'|'.join(_own_tables())})\b")
    texts = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    found = [node.lineno for node in texts if isinstance(node.value, str) and statement.search(node.value)]
    assert found == []


def _written_files() -> list[Path]:
    kinds = ("*.py", "*.md", "*.toml", "*.ini", "*.mako")
    roots = [PACKAGE, HOUSE / "tests", HOUSE / "alembic"]
    return [
        *(path for path in HOUSE.iterdir() if path.is_file()),
        *(p for r in roots for k in kinds for p in r.rglob(k)),
    ]


def test_no_file_mentions_a_private_path() -> None:
    private = re.compile(r"(?<![\w.$}])/(?:root|work|mnt|Users)/\w")
    found = [relative(path) for path in _written_files() if private.search(path.read_text(errors="replace"))]
    assert found == []
