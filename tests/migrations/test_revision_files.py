from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

import pytest
from alembic.script import Script
from migration_support import CHECKOUT
from sqlalchemy import Column, MetaData

from llmstack.db.autogenerate import target_metadata
from llmstack.db.history import scripts
from llmstack.db.migrate import version_locations
from llmstack.db.modules import MODULES

FILES = [path for folder in version_locations() for path in sorted(Path(folder).glob("*.py"))]
ALLOWED_IMPORTS = {
    "__future__", "alembic", "datetime", "sqlalchemy", "sqlalchemy.dialects.postgresql", "pgvector.sqlalchemy",
    "llmstack.db.ddl", "llmstack.db.revisions", "llmstack.db.schemas",
}  # fmt: skip

LANDED = {
    "kernel_0001_create_kernel": "1d3c3d162ba9441f",
    "kernel_0002_add_search_tuning": "c9e41061b0bf037a",
    "kernel_0003_add_lexical_query": "a9ab2b4ef7543dd7",
    "kernel_0004_rename_judged_rows": "3fddb0a537d17d06",
    "kernel_0005_rename_logged_hits": "f46c0fda73cdfb7c",
    "kernel_0006_read_further_words": "cabf127faff1cf57",
    "kernel_0007_leave_terms_unchecked": "9a0204a8a5821632",
    "documents_0001_create_documents": "e116d2942733f33e",
    "documents_0002_leave_vectors_unanalyzed": "af452ba2346ed2cc",
    "documents_0003_depend_on_lexical_query": "d446ae8d0f3c07e0",
    "documents_0004_rename_embedding_jobs": "9534d85a9e993da2",
    "documents_0005_search_further_words": "3a9f302b5c597562",
    "conversations_0001_create_threads": "5f48243cdba2610c",
    "embeddings_0001_create_spaces": "9b650b5b7fe4304b",
    "embeddings_0002_add_space_columns": "27c4001b99702515",
}
"""Databases stand on these, so their files never change: the start of each file's SHA-256. A new one is added here."""


def script(path: Path) -> Script:
    return next(found for found in scripts().walk_revisions() if Path(found.path) == path)


def module_of(revision: str) -> str:
    return revision.rpartition("_")[0]


def test_every_module_has_one_branch_with_one_head() -> None:
    assert sorted(module_of(head) for head in scripts().get_heads()) == sorted(MODULES)
    for module in MODULES:
        assert scripts().get_revisions(f"{module}@head")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestEveryRevisionFile:
    def test_is_named_after_module_number_verb_and_object(self, path: Path) -> None:
        match = re.fullmatch(r"([a-z]+)_(\d{4})_[a-z]+(_[a-z0-9]+)+", path.stem)
        assert match, path.name
        revision = script(path)
        assert revision.revision == f"{match[1]}_{match[2]}"
        assert path.parent.parent.name == MODULES[match[1]]

    def test_is_what_it_was_when_it_landed(self, path: Path) -> None:
        assert LANDED[path.stem] == hashlib.sha256(path.read_bytes()).hexdigest()[:16], (
            "mend it by a revision of its own"
        )

    def test_says_in_its_docstring_what_it_is_for(self, path: Path) -> None:
        assert (script(path).module.__doc__ or "").startswith(f"{module_of(script(path).revision)}: ")

    def test_imports_no_model(self, path: Path) -> None:
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, "a relative import leaves the frozen letter"
                imported.add(node.module or "")
        assert imported <= ALLOWED_IMPORTS

    def test_has_a_real_downgrade(self, path: Path) -> None:
        functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        does = {
            name: any(isinstance(node, ast.Call) for statement in functions[name].body for node in ast.walk(statement))
            for name in ("upgrade", "downgrade")
        }
        assert not any(isinstance(node, ast.Pass) for node in ast.walk(functions["downgrade"]))
        # One that only depends on another has nothing to undo.
        assert does["downgrade"] == does["upgrade"]

    def test_numbers_follow_one_another_inside_the_branch(self, path: Path) -> None:
        revision = script(path)
        number = int(revision.revision[-4:])
        expected = None if number == 1 else f"{module_of(revision.revision)}_{number - 1:04d}"
        assert revision.down_revision == expected
        assert (module_of(revision.revision) in revision.branch_labels) or number > 1

    def test_depends_on_lower_branches_alone(self, path: Path) -> None:
        revision = script(path)
        needed = revision.dependencies or ()
        order = list(MODULES)
        for dependency in (needed,) if isinstance(needed, str) else needed:
            assert order.index(module_of(dependency)) < order.index(module_of(revision.revision))

    def test_names_no_schema(self, path: Path) -> None:
        assert not re.search(r"(?<!llmstack_)schema=|\bllmstack\.(?!db\.)\w+|\bpublic\.", path.read_text())


def test_foreign_keys_between_modules_follow_the_dependencies_of_branches() -> None:
    order = list(MODULES)
    metadata = target_metadata(None)
    for column in all_columns(metadata):
        for key in column.foreign_keys:
            assert order.index(owner(key.column.table.name)) <= order.index(owner(column.table.name))


def all_columns(metadata: MetaData) -> list[Column[object]]:
    return [column for table in metadata.tables.values() for column in table.columns]


def owner(table: str) -> str:
    """The module whose revision files create the table, or give it this name."""
    for path in FILES:
        source = path.read_text()
        renamed = "rename_table" in source and f'"{table}"' in source
        if renamed or re.search(rf'(create_table\(\s*"|CREATE TABLE |vectors="|jobs="){table}\b', source):
            return module_of(script(path).revision)
    return pytest.fail(f"no revision creates {table}")


def test_the_checkout_lists_the_same_folders_as_the_package() -> None:
    listed = (CHECKOUT / "alembic.ini").read_text().split("version_locations =")[1].split("file_template")[0].split()
    assert [Path(line.replace("%(here)s", str(CHECKOUT))) for line in listed] == [
        Path(folder) for folder in version_locations()
    ]
