"""Driver errors become ours once, by SQLSTATE or constraint name; what we do not know passes through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ..errors import (
    ConfigurationError,
    DatabaseBehind,
    DatabaseError,
    DatabaseUnavailable,
    LLMStackError,
    StatementTimeout,
    ValidationError,
)

RETRYABLE = frozenset({"40001", "40P01"})

_BY_STATE: dict[str, Callable[[str], LLMStackError]] = {
    "57014": lambda said: StatementTimeout(f"the statement was cancelled: {said}"),
    "42P01": lambda said: DatabaseBehind(f"{said}; run `llmstack migrate` on this schema first"),
    "42883": lambda said: DatabaseBehind(f"{said}; run `llmstack migrate` on this schema first"),
    "3F000": lambda said: DatabaseBehind(f"{said}; run `llmstack migrate` on this schema first"),
    "42703": lambda said: DatabaseBehind(f"{said}; run `llmstack migrate` on this schema first"),
    "42501": lambda said: DatabaseError(f"{said}; `llmstack migrate grants --role ROLE` prints what the role needs"),
    "28P01": lambda said: ConfigurationError(f"the server refused the password: {said}"),
    "28000": lambda said: ConfigurationError(f"the server refused the user: {said}"),
    "3D000": lambda said: ConfigurationError(f"{said}; create it with createdb"),
    "53100": lambda said: DatabaseError(f"the server's disk is full: {said}"),
    "54000": lambda said: ValidationError("content", f"it is too large for PostgreSQL: {said}"),
}
_UNAVAILABLE = ("08", "57P", "53300")


def sqlstate(error: BaseException) -> str | None:
    """The five-character code that PostgreSQL sent, wherever the layers put it."""
    orig = getattr(error, "orig", error)
    return getattr(orig, "sqlstate", None) or getattr(getattr(orig, "__cause__", None), "sqlstate", None)


def violated_constraint(error: IntegrityError) -> str | None:
    """The name of the constraint that was violated, on SQLAlchemy 2.0 and 2.1 alike."""
    driver = getattr(error.orig, "driver_exception", None) or getattr(error.orig, "__cause__", None)
    return getattr(driver, "constraint_name", None)


def _said(error: BaseException) -> str:
    orig = getattr(error, "orig", error)
    return str(getattr(orig, "__cause__", None) or orig).splitlines()[0]


def _meaning(error: Exception) -> LLMStackError | None:
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("no connection became free in time; raise pool_size or look for leaked sessions")
    if isinstance(error, OSError):
        return DatabaseUnavailable(f"the database cannot be reached: {error}")
    if not isinstance(error, DBAPIError):
        # asyncpg raises its own errors while it connects.
        state = sqlstate(error) if type(error).__module__.startswith("asyncpg") else None
        if state is None:
            return None
    else:
        state = sqlstate(error)
        if error.connection_invalidated or (state is None and isinstance(error, InterfaceError)):
            return DatabaseUnavailable(f"the connection to the database broke: {_said(error)}")
    if state is not None and state.startswith(_UNAVAILABLE):
        return DatabaseUnavailable(f"the database is not available: {_said(error)}")
    make = _BY_STATE.get(state or "")
    return make(_said(error)) if make else None


@contextlib.contextmanager
def translating(constraints: Mapping[str, Callable[[], LLMStackError]] | None = None) -> Iterator[None]:
    """Raise the domain error registered for a violated constraint, or what the SQLSTATE means."""
    try:
        yield
    except LLMStackError:
        raise
    except IntegrityError as error:
        make = (constraints or {}).get(violated_constraint(error) or "")
        if make is None:
            raise
        raise make() from error
    except Exception as error:
        meaning = _meaning(error)
        if meaning is None:
            raise
        raise meaning from error
