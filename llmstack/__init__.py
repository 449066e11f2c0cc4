"""The data layer of an LLM application on one PostgreSQL."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .db.database import Database as Database
    from .errors import ConfigurationError as ConfigurationError
    from .errors import DatabaseError as DatabaseError
    from .errors import EmbeddingError as EmbeddingError
    from .errors import LLMStackError as LLMStackError
    from .errors import MigrationError as MigrationError
    from .errors import NotFound as NotFound
    from .errors import ValidationError as ValidationError
    from .settings import Settings as Settings
    from .stack import LLMStack as LLMStack

__all__ = [
    "ConfigurationError",
    "Database",
    "DatabaseError",
    "EmbeddingError",
    "LLMStack",
    "LLMStackError",
    "MigrationError",
    "NotFound",
    "Settings",
    "ValidationError",
    "__version__",
]

_MODULES = {"Database": ".db.database", "LLMStack": ".stack", "Settings": ".settings"}


# The pytest plugin imports this package in every test run of a host, so names load when they are asked for.
def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("llmstack")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, ".errors"), __name__), name)


def __dir__() -> list[str]:
    return __all__
