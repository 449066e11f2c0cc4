"""EXPLAIN as a statement."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ClauseElement, Executable, Select
from sqlalchemy.ext.compiler import compiles


class Explain(Executable, ClauseElement):
    """The plan of a statement, a line in each row; with `analyze` the statement is executed, and one row is JSON."""

    inherit_cache = False

    def __init__(self, statement: Select[Any], *, analyze: bool = False) -> None:
        self.statement = statement
        self.modifiers = "(ANALYZE, FORMAT JSON) " if analyze else ""


@compiles(Explain)
def _compile_explain(element: Explain, compiler: Any, **keywords: Any) -> str:
    return f"EXPLAIN {element.modifiers}{compiler.process(element.statement, **keywords)}"
