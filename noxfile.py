"""What a developer runs: `nox -s demo tests lint types newest matrix floor pythons rerank wheel bench revision`."""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["tests", "lint", "types"]

HERE = Path(__file__).parent
TEST_TOOLS = (
    "anthropic>=0.40",
    "hypothesis>=6.100",
    "pytest>=8.2",
    "pytest-alembic>=0.12",
    "pytest-asyncio>=0.24",
    "pytest-xdist>=3.6",
)
AT_ONCE = ("--numprocesses", "2")
"""Processes of tests, each with a server of its own."""
FAST = ("tests/unit", "tests/integration/db", "tests/integration/search")
"""What a later Python may break first, in a few minutes."""
LINT_TOOLS = ("import-linter>=2.1", "ruff>=0.9")
TYPE_TOOLS = ("mypy>=1.15", "types-psutil")


@nox.session
def demo(session: nox.Session) -> None:
    """Ingest this repository into an embedded PostgreSQL and answer questions over it."""
    session.install("-e", ".[all]")
    session.run("llmstack", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test on an embedded PostgreSQL 18."""
    session.install("-e", ".[all]", *TEST_TOOLS, *LINT_TOOLS, "hatchling", "build")
    session.run("pytest", *AT_ONCE, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, and that imports follow the layers."""
    session.install("-e", ".", *LINT_TOOLS)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    session.install("-e", ".[all]", *TEST_TOOLS, *TYPE_TOOLS, "nox")
    session.run("mypy")
    for conftest in sorted((HERE / "tests").rglob("conftest.py")):
        session.run("mypy", "--exclude", "^$", str(conftest))


@nox.session
@nox.parametrize("postgres", ["16", "18"])
@nox.parametrize("sqlalchemy", ["2.0", "2.1"])
def matrix(session: nox.Session, sqlalchemy: str, postgres: str) -> None:
    """Run every test on each supported pair of SQLAlchemy and PostgreSQL."""
    session.install(
        "-e", ".[all]", *TEST_TOOLS, *LINT_TOOLS, "hatchling", "build", f"sqlalchemy[asyncio]~={sqlalchemy}.0"
    )
    session.run("pytest", *AT_ONCE, *session.posargs, env={"LLMSTACK_TEST_POSTGRES_VERSION": postgres})


@nox.session
def floor(session: nox.Session) -> None:
    """Run the tests on the oldest SQLAlchemy that is supported."""
    session.install("-e", ".[all]", *TEST_TOOLS, *LINT_TOOLS, "hatchling", "build", "sqlalchemy[asyncio]==2.0.53")
    session.run("pytest", *AT_ONCE, *(session.posargs or ("tests/unit", "tests/integration")))


@nox.session(python=["3.12", "3.13"])
def pythons(session: nox.Session) -> None:
    """Run the tests on each later Python that is supported."""
    session.install("-e", ".[all]", *TEST_TOOLS, *LINT_TOOLS, "hatchling", "build")
    session.run("pytest", *AT_ONCE, *(session.posargs or ("tests/unit", "tests/integration")))


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """Run the fast part of the tests on the newest Python that is supported."""
    session.install("-e", ".[all]", *TEST_TOOLS, *LINT_TOOLS, "hatchling", "build")
    session.run("pytest", *AT_ONCE, *(session.posargs or FAST))


@nox.session
def rerank(session: nox.Session) -> None:
    """Run the tests of the cross-encoder with the extra that it needs."""
    session.install("-e", ".[rerank]", *TEST_TOOLS)
    session.run("pytest", "tests/unit/retrieval", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and run the acceptance tests against it in a clean environment."""
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", str(HERE / "dist"), str(HERE))
    newest = max((HERE / "dist").glob("*.whl"), key=os.path.getmtime)
    session.install(f"{newest}[all]", *TEST_TOOLS, *LINT_TOOLS, "hatchling", "build")
    session.run("pytest", "tests/acceptance", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure quality, speed, ingest and peers side by side; prints tables and writes JSON."""
    session.install("-e", ".[all]", "bm25s", "numpy")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session
def revision(session: nox.Session) -> None:
    """Write a new revision: `nox -s revision -- documents "add language to chunks"`."""
    if len(session.posargs) != 2:
        session.error('usage: nox -s revision -- <module> "message"')
    module, message = session.posargs
    session.install("-e", ".[embedded]")
    session.run("python", "-m", "llmstack.db.new_revision", module, message)
