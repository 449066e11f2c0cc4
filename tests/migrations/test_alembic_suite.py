"""pytest-alembic's own tests, where its first expects a single head with one head for each branch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from alembic.config import Config
from migration_support import REVISIONS, empty_database_for_sync_test, make_engine
from pytest_alembic import MigrationContext, tests
from pytest_alembic.plugin.error import AlembicTestFailure
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack.db.migrate import alembic_config as our_config
from llmstack.db.modules import MODULES
from llmstack.settings import Settings


@pytest.fixture
def alembic_config() -> Config:
    config = our_config()
    config.attributes.update(settings=Settings(), schema="Svc A")
    return config


@pytest.fixture
def alembic_engine(llmstack_server_url: str) -> Iterator[AsyncEngine]:
    with empty_database_for_sync_test(llmstack_server_url) as url:
        yield make_engine(url)


def test_each_branch_has_a_single_head(alembic_runner: MigrationContext) -> None:
    heads = alembic_runner.command_executor.script.get_heads()
    assert sorted(head.rpartition("_")[0] for head in heads) == sorted(MODULES)


def test_the_history_goes_up_from_base_to_all_heads(alembic_runner: MigrationContext) -> None:
    tests.test_upgrade(alembic_runner)


def test_each_revision_goes_up_down_and_up_by_itself(alembic_runner: MigrationContext) -> None:
    """Downgrades go to the base of the revision's branch, where the original names the revision before it."""
    history = alembic_runner.history.revisions[1:-1]
    assert sorted(history) == list(REVISIONS)
    executor = alembic_runner.command_executor
    for revision in history:
        executor.upgrade(revision)
    for revision in reversed(history):
        before = executor.script.get_revision(revision).down_revision
        executor.downgrade(str(before or f"{revision.rpartition('_')[0]}@base"))
    assert alembic_runner.current == "base"
    for revision in history:
        executor.upgrade(revision)


def test_models_match_the_ddl(alembic_runner: MigrationContext) -> None:
    def is_empty(context: Any, revision: Any, directives: Any) -> None:
        operations = directives[0].upgrade_ops
        if not operations.is_empty():
            raise AlembicTestFailure(f"models and migrations differ: {operations.as_diffs()}")

    tests.test_upgrade(alembic_runner)
    alembic_runner.generate_revision(
        message="compare", head="documents@head", autogenerate=True, prevent_file_generation=True,
        process_revision_directives=is_empty,
    )  # fmt: skip
