"""The triggers that make what is searched of a row, as version 2 of a searchable table has them.

Revisions of hosts call this by `ddl`, so it never changes: another shape is another version.
"""

from __future__ import annotations

from .schemas import qualified, quote


def searchable_triggers(
    table: str,
    *,
    schema: str | None = None,
    corpus: str | None = None,
    searchable: str | None = None,
    llmstack_schema: str = "llmstack",
) -> list[str]:
    """Statements that create them; rows for which `searchable`, SQL over `NEW`, is not true stay out of the index."""
    place = quote(table) if schema is None else qualified(schema, table)
    when = "" if searchable is None else f"WHEN ({searchable}) "
    named = "" if corpus is None else "'" + corpus.replace("'", "''") + "'"
    made = [(f"{table}_searchable", when, f"{qualified(llmstack_schema, 'make_searchable')}({named})")]
    if searchable is not None:
        hidden = f"WHEN (({searchable}) IS NOT TRUE) "
        made.append((f"{table}_unsearchable", hidden, f"{qualified(llmstack_schema, 'make_unsearchable')}()"))
    return [
        f"CREATE TRIGGER {quote(name)} BEFORE INSERT OR UPDATE ON {place} FOR EACH ROW {condition}"
        f"EXECUTE FUNCTION {function}"
        for name, condition, function in made
    ]
