"""Settings: defaults, environment, bounds."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from llmstack.settings import Settings

DEFAULTS = {
    "schema_name": "llmstack",
    "pool_size": 20,
    "max_overflow": 10,
    "pool_timeout": 30.0,
    "pool_recycle": 3600,
    "statement_timeout": 60.0,
    "idle_in_transaction_session_timeout": 60.0,
    "application_name": "llmstack",
    "behind_pooler": False,
    "transaction_attempts": 5,
    "tls": None,
    "reader_url": None,
}


@pytest.mark.parametrize(("name", "value"), DEFAULTS.items())
def test_the_documented_default_holds(name: str, value: Any) -> None:
    assert getattr(Settings(), name) == value


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("LLMSTACK_POOL_SIZE", "3", "pool_size", 3),
        ("LLMSTACK_SCHEMA", "Support", "schema_name", "Support"),
        ("LLMSTACK_BEHIND_POOLER", "true", "behind_pooler", True),
        ("LLMSTACK_TLS", "verify-full", "tls", "verify-full"),
        ("LLMSTACK_STATEMENT_TIMEOUT", "1.5", "statement_timeout", 1.5),
    ],
)
def test_the_environment_sets_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, name: str, value: Any
) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(Settings(), name) == value


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSTACK_POOL_SIZE", "3")
    assert Settings(pool_size=4).pool_size == 4


def test_the_schema_can_be_given_by_its_attributes_name() -> None:
    assert Settings(schema_name="support").schema_name == "support"


def test_a_database_url_in_the_environment_stays_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSTACK_DATABASE_URL", "postgresql://ann:s3cret@db/app")
    settings = Settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://ann:s3cret@db/app"
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool_size", 0),
        ("max_overflow", -1),
        ("pool_timeout", 0),
        ("statement_timeout", -1),
        ("transaction_attempts", 0),
        ("tls", "always"),
        ("ef_search", 1001),
        ("pool_sise", 3),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().pool_size = 3  # type: ignore[misc]


def test_reading_settings_loads_no_database_library() -> None:
    heavy = ("asyncpg", "alembic", "litellm")
    program = f"import sys, llmstack.settings; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
