"""The data layer of an LLM application on one PostgreSQL."""

from __future__ import annotations

from importlib.metadata import version as _version

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

__version__ = _version("llmstack")

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
