"""kernel: name the row and the unit of each logged hit as their columns are named"""

from __future__ import annotations

from alembic import op

from llmstack.db.revisions import own_transactions, scoped

revision = "kernel_0005"
down_revision = "kernel_0004"
branch_labels = None
depends_on = None

KEYS = (("chunk_id", "row_id"), ("id_at_origin", "unit"))
SEARCHES_AT_ONCE = 1_000


def rename(keys: tuple[tuple[str, str], ...]) -> None:
    """A batch is a transaction of its own where it may be; what has the new names is passed over, if run again."""
    old = ", ".join(f"'{name}'" for name, _ in keys)
    pairs = ", ".join(f"'{new}', hit -> '{name}'" for name, new in keys)
    with own_transactions() as may_commit:
        op.execute(f"""
DO $body$
DECLARE
    page uuid[];
    after uuid := '00000000-0000-0000-0000-000000000000';
BEGIN
    LOOP
        page := ARRAY(SELECT id FROM search_log WHERE id > after ORDER BY id LIMIT {SEARCHES_AT_ONCE});
        EXIT WHEN page = '{{}}';
        UPDATE search_log SET hits = (
            SELECT coalesce(jsonb_agg(CASE
                WHEN hit ? '{keys[0][0]}' THEN (hit - ARRAY[{old}]) || jsonb_build_object({pairs})
                ELSE hit
            END ORDER BY place), '[]')
            FROM jsonb_array_elements(hits) WITH ORDINALITY AS each (hit, place)
        )
        WHERE id = ANY (page) AND jsonb_path_exists(hits, '$[*].{keys[0][0]}');
        after := page[array_upper(page, 1)];
        {"COMMIT;" if may_commit else ""}
    END LOOP;
END
$body$
""")


@scoped
def upgrade() -> None:
    rename(KEYS)


@scoped
def downgrade() -> None:
    rename(tuple((new, old) for old, new in KEYS))
