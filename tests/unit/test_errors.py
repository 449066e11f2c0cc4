"""The tree of errors: what a caller may catch, and what each carries."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from llmstack import errors
from llmstack.documents import DocumentNotFound, NothingToRead
from llmstack.errors import (
    DatabaseUnavailable,
    LLMStackError,
    LLMStackWarning,
    MissingExtra,
    StatementTimeout,
    ValidationError,
)

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and value.__module__ == errors.__name__
}
BUILTINS = {
    "ConfigurationError": ValueError,
    "MissingExtra": ImportError,
    "ValidationError": ValueError,
    "NotFound": LookupError,
    "DatabaseUnavailable": ConnectionError,
    "StatementTimeout": TimeoutError,
    "MigrationLockTimeout": TimeoutError,
}


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"LLMStackWarning"}))
def test_every_error_has_the_one_root_and_says_what_it_means(name: str) -> None:
    assert issubclass(CLASSES[name], LLMStackError)
    assert (CLASSES[name].__doc__ or "").endswith(".")


@pytest.mark.parametrize(("name", "builtin"), BUILTINS.items())
def test_an_error_is_caught_as_the_builtin_that_a_caller_expects(name: str, builtin: type[Exception]) -> None:
    assert issubclass(CLASSES[name], builtin)


def test_the_drawn_tree_shows_every_error_under_its_parent() -> None:
    parents = ["LLMStackError"]
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│ ]*)[├└]── (\w+)", line):
            depth = len(found[1]) // 4 + 1
            parents[depth:] = [found[2]]
            drawn[found[2]] = parents[depth - 1]
    roots = (LLMStackError, LLMStackWarning)
    declared = {name: cls.__mro__[1].__name__ for name, cls in CLASSES.items() if cls not in roots}
    assert {name: parent for name, parent in drawn.items() if name in CLASSES} == declared


def test_a_validation_error_carries_field_and_message() -> None:
    error = ValidationError("limit", "is negative")
    assert (error.field, error.message, str(error)) == ("limit", "is negative", "limit: is negative")


@pytest.mark.parametrize(
    "error",
    [
        ValidationError("limit", "is negative"),
        MissingExtra(feature="reading PDF", extra="files"),
        NothingToRead("a.txt is empty"),
        DocumentNotFound("7"),
        StatementTimeout("too long"),
        DatabaseUnavailable("away"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_passes_from_process_to_process_as_it_is(error: LLMStackError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_a_missing_extra_says_what_to_install() -> None:
    error = MissingExtra(feature="reading PDF", extra="files")
    assert str(error) == "reading PDF needs an optional dependency: pip install 'llmstack[files]'"
    assert error.extra == "files"


def test_the_warning_is_no_error() -> None:
    assert issubclass(LLMStackWarning, UserWarning)
    assert not issubclass(LLMStackWarning, LLMStackError)
