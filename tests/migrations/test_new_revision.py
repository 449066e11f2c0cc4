"""The developer's command that writes the next revision, on a copy of the package."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from migration_support import CHECKOUT, empty_database, fetch, make_engine

from llmstack.db.history import scripts

PACKAGE = Path("llmstack")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(CHECKOUT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


(HEAD,) = [revision.revision for revision in scripts().get_revisions("documents@head") if revision is not None]
FOLLOWING = f"documents_{int(HEAD[-4:]) + 1:04d}"


@pytest.fixture
async def url(llmstack_server_url: str) -> AsyncIterator[str]:
    async with empty_database(llmstack_server_url) as created:
        yield created


def new_revision(copy: Path, *arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmstack.db.new_revision", *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "LLMSTACK_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


def bodies(path: Path) -> list[str]:
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return [ast.unparse(function.body) for function in functions]  # type: ignore[arg-type]


async def test_nothing_changed_makes_an_empty_revision_with_the_next_number(copy: Path, url: str) -> None:
    done = new_revision(copy, "documents", "add language to chunks", url=url)
    assert done.returncode == 0, done.stderr
    path = copy / PACKAGE / "documents" / "migrations" / f"{FOLLOWING}_add_language_to_chunks.py"
    assert str(path) in done.stdout
    assert path.read_text().startswith('"""documents: add language to chunks"""\n')
    assert f"revision = {FOLLOWING!r}\ndown_revision = {HEAD!r}\n" in path.read_text()
    assert bodies(path) == ["pass", "pass"]
    left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'revision%'"
    assert await fetch(make_engine(url), left) == 0


async def test_only_the_modules_own_tables_are_compared_and_no_schema_is_named(copy: Path, url: str) -> None:
    for module, marker in (("documents", "    summary: Mapped"), ("embeddings", "    provider: Mapped")):
        models = copy / PACKAGE / module / "models.py"
        text = models.read_text()
        assert marker in text
        models.write_text(text.replace(marker, f"    tint: Mapped[str | None]\n{marker}", 1))
    done = new_revision(copy, "documents", "add tint", url=url)
    assert done.returncode == 0, done.stderr
    (path,) = (copy / PACKAGE / "documents" / "migrations").glob(f"{FOLLOWING}_*.py")
    assert bodies(path) == [
        "op.add_column('chunks', sa.Column('tint', sa.Text(), nullable=True))",
        "op.drop_column('chunks', 'tint')",
    ]


def test_an_unknown_module_is_named_without_a_traceback(copy: Path) -> None:
    done = new_revision(copy, "unheard_of", "add language", url="postgresql://nowhere.invalid/x")
    assert done.returncode == 1
    assert done.stderr == "there is no module 'unheard_of'; use one of kernel, embeddings, documents, conversations\n"
