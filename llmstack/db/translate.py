"""Driver errors become ours once, by SQLSTATE or constraint name; what we do not know passes through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ..errors import (
    ConfigurationError,
    Conflict,
    DatabaseBehind,
    DatabaseError,
    DatabaseUnavailable,
    LLMStackError,
    StatementTimeout,
    ValidationError,
)

RETRYABLE = frozenset({"40001", "40P01"})


def _behind(said: str) -> LLMStackError:
    return DatabaseBehind(f"{said}; run `llmstack migrate` on this schema first")


def _conflict(said: str) -> LLMStackError:
    return Conflict(f"other transactions changed the same rows meanwhile: {said}")


_BY_STATE: dict[str, Callable[[str], LLMStackError]] = {
    "40001": _conflict,
    "40P01": _conflict,
    "57014": lambda said: StatementTimeout(f"the statement was cancelled: {said}"),
    "42P01": _behind,
    "42883": _behind,
    "3F000": _behind,
    "42703": _behind,
    "42501": lambda said: DatabaseError(f"{said}; see `llmstack migrate grants --role ROLE`"),
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
    return str(getattr(orig, "__cause__", None) or orig).partition("\n")[0]


def _meaning(error: Exception) -> LLMStackError | None:
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("no connection became free in time; raise pool_size or close sessions")
    if isinstance(error, OSError):
        return DatabaseUnavailable(f"the database cannot be reached: {str(error) or 'no answer in time'}")
    if isinstance(error, DBAPIError):
        return _broken(error) or _by_state(error)
    # SQLAlchemy 2.0 lets asyncpg's own errors pass while it connects.
    if not type(error).__module__.startswith("asyncpg"):
        return None
    return ConfigurationError(str(error)) if isinstance(error, ValueError) else _by_state(error)


def _broken(error: DBAPIError) -> LLMStackError | None:
    if not error.connection_invalidated:
        if sqlstate(error) is not None or not isinstance(error, InterfaceError):
            return None
        # asyncpg did not like an argument or a call; only one of the connection can be set right by settings.
        if isinstance(getattr(error.orig, "__cause__", None), ValueError):
            return ConfigurationError(_said(error)) if error.statement is None else None
        if error.statement is not None:
            return None
    return DatabaseUnavailable(f"the connection to the database broke: {_said(error)}")


def _by_state(error: Exception) -> LLMStackError | None:
    state = sqlstate(error) or ""
    if state.startswith(_UNAVAILABLE):
        return DatabaseUnavailable(f"the database is not available: {_said(error)}")
    make = _BY_STATE.get(state)
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
