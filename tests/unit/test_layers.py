"""The picture of the house, drawn once and compared with imports, foreign keys and migrations."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from llmstack.db.autogenerate import target_metadata
from llmstack.db.base import Base
from llmstack.db.history import scripts
from llmstack.db.modules import MODULES

HOUSE = Path(__file__).parents[2]
LAYERS: tuple[set[str], ...] = (
    {"cli"},
    {"stack"},
    {"testing", "integrations"},
    {"documents", "conversations"},
    {"retrieval"},
    {"embeddings"},
    {"search"},
    {"db", "providers"},
    {"errors", "settings"},
)
"""Upper may use lower, never the reverse; those of one layer never each other."""

LEVELS = {name: level for level, names in enumerate(reversed(LAYERS)) for name in names}


def contract() -> dict[str, Any]:
    linter = tomllib.loads((HOUSE / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [one for one in linter["contracts"] if one["type"] == "layers"]
    return dict(layers)


def test_import_linter_holds_the_picture() -> None:
    drawn = [{name.strip() for name in layer.split("|")} for layer in contract()["layers"]]
    assert drawn == list(LAYERS)
    assert contract()["containers"] == ["llmstack"]
    assert contract()["exhaustive"], "a new module must be given its layer"


def test_the_picture_names_every_part_of_the_package() -> None:
    package = HOUSE / "llmstack"
    parts = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    parts |= {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert parts == set(LEVELS)


def may_use(upper: str, lower: str) -> bool:
    return upper == lower or LEVELS[upper] > LEVELS[lower]


def package_of_tables() -> dict[str, str]:
    target_metadata(None)
    mappers = [mapper for mapper in Base.registry.mappers if mapper.class_.__module__.startswith("llmstack.")]
    return {table.name: mapper.class_.__module__.split(".")[1] for mapper in mappers for table in mapper.tables}


def test_foreign_keys_follow_the_picture() -> None:
    packages = package_of_tables()
    keys = [
        (packages[table.name], packages[key.column.table.name])
        for table in target_metadata(None).tables.values()
        for key in table.foreign_keys
    ]
    assert ("documents", "embeddings") in keys
    assert [pair for pair in keys if not may_use(*pair)] == []


def depended_on() -> list[tuple[str, str]]:
    """(module, module it depends on) for every revision."""
    pairs = []
    for revision in scripts().walk_revisions():
        needed = revision.dependencies or ()
        for dependency in (needed,) if isinstance(needed, str) else needed:
            pairs.append((revision.revision.rpartition("_")[0], dependency.rpartition("_")[0]))
    return pairs


def test_branches_depend_along_the_picture() -> None:
    pairs = [(MODULES[module], MODULES[needed]) for module, needed in depended_on()]
    assert pairs
    assert [pair for pair in pairs if not may_use(*pair)] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_branch_depends_on_every_module_that_its_foreign_keys_reach(module: str) -> None:
    packages = package_of_tables()
    reached = {
        packages[key.column.table.name]
        for table in target_metadata(None).tables.values()
        if packages[table.name] == MODULES[module]
        for key in table.foreign_keys
    } - {MODULES[module]}
    assert reached <= {MODULES[needed] for needed in below(module)}


def below(module: str) -> set[str]:
    """The modules whose revisions come first, directly or through others."""
    found: set[str] = set()
    pending = [module]
    while pending:
        current = pending.pop()
        new = {needed for one, needed in depended_on() if one == current} - found
        found |= new
        pending.extend(new)
    return found
