"""Everything that llmstack raises on purpose.

LLMStackError
├── ConfigurationError (ValueError)       a setting, URL or combination that cannot work
│   ├── MissingExtra (ImportError)        an optional dependency is needed and absent
│   └── SpaceNotServing (EmbeddingError)  another space serves, and its embedder is not known here
├── ValidationError (ValueError)          bad input; carries .field and .message
│   └── NothingToRead
├── NotFound (LookupError)                no row matches
│   └── CalibrationNotFound, ChunkNotFound, DocumentNotFound, MessageNotFound, SearchNotFound, SpaceNotFound,
│       ThreadNotFound
├── Conflict                              the row exists already or changed meanwhile
│   └── ClientKeyReused, DocumentChanged, HistoryChanged, HistoryEdited, PlaceTaken, TextNotKept,
│       ThreadDeleted
├── EmbeddingError                        an embedder failed; the text is kept and its job is pending
├── RetrievalError                        a reranker or an expander failed; a search goes on without it
├── SummaryError                          a summariser failed; nothing was written
└── DatabaseError                         PostgreSQL said no, and we know what it means
    ├── DatabaseUnavailable (ConnectionError)
    ├── StatementTimeout (TimeoutError)
    ├── EmbeddedServerError               the embedded server cannot start
    ├── IsolationError                    one session met two schema maps
    └── MigrationError
        ├── MigrationLockTimeout (TimeoutError)
        ├── DatabaseNewer                 the database is ahead of this code
        └── DatabaseBehind                the database must be migrated first
"""

from __future__ import annotations

from typing import Any


class LLMStackError(Exception):
    """The root of every error that llmstack raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An error that passes from process to process is not made anew by arguments that it did not keep.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[LLMStackError], arguments: tuple[Any, ...], carried: dict[str, Any]) -> LLMStackError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(carried)
    return error


class ConfigurationError(LLMStackError, ValueError):
    """A setting, URL or combination that cannot work."""


class MissingExtra(ConfigurationError, ImportError):
    """An optional dependency is needed and absent."""

    def __init__(self, *, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency: pip install 'llmstack[{extra}]'")
        self.extra = extra


class ValidationError(LLMStackError, ValueError):
    """Bad input; nothing was written."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class NotFound(LLMStackError, LookupError):
    """No row matches."""


class Conflict(LLMStackError):
    """The row exists already, or changed meanwhile."""


class EmbeddingError(LLMStackError):
    """An embedder failed; the text is kept and its job stays pending."""


class DatabaseError(LLMStackError):
    """PostgreSQL refused, and we know what it means."""


class DatabaseUnavailable(DatabaseError, ConnectionError):
    """The server cannot be reached, or the connection broke."""


class StatementTimeout(DatabaseError, TimeoutError):
    """A statement ran longer than statement_timeout and was cancelled."""


class EmbeddedServerError(DatabaseError):
    """The embedded PostgreSQL cannot start on this data folder."""


class IsolationError(DatabaseError):
    """One session met two schema maps; its identity map would mix their rows."""


class MigrationError(DatabaseError):
    """A migration cannot run or did not complete."""


class MigrationLockTimeout(MigrationError, TimeoutError):
    """Another process held the lock of a migration or of an index build for longer than the timeout."""


class DatabaseNewer(MigrationError):
    """The database holds revisions that this version of llmstack does not know."""


class DatabaseBehind(MigrationError):
    """The schema has pending migrations; run `llmstack migrate` first."""


class LLMStackWarning(UserWarning):
    """Something works, but not as its user probably meant."""
