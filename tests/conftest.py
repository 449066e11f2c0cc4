"""What every test shares; the fixtures come from `llmstack.testing.plugin`."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # pytest-alembic would add a collector to this file, which fails on pytest 9; its fixtures stay.
    config.option.pytest_alembic_tests_path = "none"


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_the_environment() -> None:
    for name in list(os.environ):
        if name.startswith("LLMSTACK_") and not name.startswith("LLMSTACK_TEST_"):
            del os.environ[name]
