"""Driver errors become ours once, by SQLSTATE or constraint name; what we do not know passes through."""

from __future__ import annotations

import contextlib
import re
import traceback
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
from .base import Base

RETRYABLE = frozenset({"40001", "40P01"})


def _conflict(said: str) -> LLMStackError:
    return Conflict(f"other transactions changed the same rows meanwhile: {said}")


_BY_STATE: dict[str, Callable[[str], LLMStackError]] = {
    "40001": _conflict,
    "40P01": _conflict,
    "57014": lambda said: StatementTimeout(f"the statement was cancelled: {said}"),
    "42501": lambda said: DatabaseError(f"{said}; see `llmstack migrate grants --role ROLE`"),
    "28P01": lambda said: ConfigurationError(f"the server refused the password: {said}"),
    "28000": lambda said: ConfigurationError(f"the server refused the user: {said}"),
    "3D000": lambda said: ConfigurationError(f"{said}; create it with createdb"),
    "53100": lambda said: DatabaseError(f"the server's disk is full: {said}"),
    "54000": lambda said: ValidationError("value", f"it is too large for PostgreSQL: {said}"),
}
_NO_RELATION = "42P01"
_ABSENT = frozenset({"42883", "3F000", "42703"})
"""A function, schema or column that the statement names does not exist; of a host's own statement that is its error."""

_RELATION = re.compile(r'relation "(?:[^"]*\.)?([^".]+)" does not exist')
_UNAVAILABLE = ("08", "57P", "53300")


def sqlstate(error: BaseException) -> str | None:
    """The five-character code that PostgreSQL sent, wherever the layers put it."""
    orig = getattr(error, "orig", error)
    return getattr(orig, "sqlstate", None) or getattr(getattr(orig, "__cause__", None), "sqlstate", None)


def lock_was_taken(error: BaseException) -> bool:
    """Whether a statement gave up after lock_timeout."""
    return sqlstate(error) == "55P03"


def violated_constraint(error: IntegrityError) -> str | None:
    """The name of the constraint that was violated, on SQLAlchemy 2.0 and 2.1 alike."""
    driver = getattr(error.orig, "driver_exception", None) or getattr(error.orig, "__cause__", None)
    return getattr(driver, "constraint_name", None)


def said(error: BaseException) -> str:
    """The first line of what the server or driver said: without the statement, and without the rows' values."""
    orig = getattr(error, "orig", error)
    return str(getattr(orig, "__cause__", None) or orig).partition("\n")[0]


def _meaning(error: Exception) -> LLMStackError | None:
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("no connection became free in time; raise pool_size or close sessions")
    if isinstance(error, OSError):
        if not _came_from_the_driver(error):
            return None
        return DatabaseUnavailable(f"the database cannot be reached: {str(error) or 'no answer in time'}")
    if isinstance(error, DBAPIError):
        return _broken(error) or _by_state(error)
    # SQLAlchemy 2.0 lets asyncpg's own errors pass while it connects.
    if not type(error).__module__.startswith("asyncpg"):
        return None
    return ConfigurationError(str(error)) if isinstance(error, ValueError) else _by_state(error)


def _came_from_the_driver(error: BaseException) -> bool:
    """Whether the error was raised below asyncpg, and not by the caller's own work in a session."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").startswith("asyncpg") for frame, _ in frames)


def _names_us(statement: str | None) -> bool:
    """Whether one of our tables stands in the statement; a COPY, which we alone send, comes without one."""
    if statement is None:
        return True
    # Ours are always written with their schema.
    names = "|".join(re.escape(table.name) for table in Base.metadata.tables.values())
    return re.search(rf"\.({names})\b", statement) is not None


def _broken(error: DBAPIError) -> LLMStackError | None:
    if not error.connection_invalidated:
        if sqlstate(error) is not None or not isinstance(error, InterfaceError):
            return None
        # asyncpg did not like an argument or a call; only one of the connection can be set right by settings.
        if isinstance(getattr(error.orig, "__cause__", None), ValueError):
            return ConfigurationError(said(error)) if error.statement is None else None
        if error.statement is not None:
            return None
    return DatabaseUnavailable(f"the connection to the database broke: {said(error)}")


def _by_state(error: Exception) -> LLMStackError | None:
    state = sqlstate(error) or ""
    if state.startswith(_UNAVAILABLE):
        return DatabaseUnavailable(f"the database is not available: {said(error)}")
    if state == _NO_RELATION or (state in _ABSENT and _names_us(getattr(error, "statement", None))):
        return DatabaseBehind(f"{said(error)}; {_who_makes(said(error))}")
    make = _BY_STATE.get(state)
    return make(said(error)) if make else None


def _who_makes(message: str) -> str:
    """The way out where a relation is absent: a host's own table stands in our statements, too."""
    named = _RELATION.search(message)
    if named is None or named[1] in {table.name for table in Base.metadata.tables.values()}:
        return "run `llmstack migrate` on this schema first"
    return "create it by the migrations that it belongs to"


_CONSTRAINTS: dict[str, Callable[[], LLMStackError]] = {}


def register_constraints(errors: Mapping[str, Callable[[], LLMStackError]]) -> None:
    """What it means when a constraint of this name is violated; each domain says so for its own tables."""
    _CONSTRAINTS.update(errors)


@contextlib.contextmanager
def translating() -> Iterator[None]:
    """Raise the domain error registered for a violated constraint, or what the SQLSTATE means."""
    try:
        yield
    except LLMStackError:
        raise
    except IntegrityError as error:
        make = _CONSTRAINTS.get(violated_constraint(error) or "")
        if make is None:
            raise
        raise make() from error
    except Exception as error:
        meaning = _meaning(error)
        if meaning is None:
            raise
        raise meaning from error
