"""For tests of hosts: a pytest plugin with a real database per test, and the leak suite for their models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .isolation import assert_schema_isolation as assert_schema_isolation

__all__ = ["assert_schema_isolation"]


def __getattr__(name: str) -> Any:
    # Every pytest run of a host imports this package with the plugin: the suite is loaded on first use.
    if name in __all__:
        from . import isolation

        return getattr(isolation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
