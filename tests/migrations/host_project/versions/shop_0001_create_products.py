"""shop: create products"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "ae1027a6acf"
down_revision = None
branch_labels = ("shop",)
# The table refers to llmstack's documents, so those come first.
depends_on = "documents_0001"


def upgrade() -> None:
    op.create_table(
        "products",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("manual_id", sa.Uuid),
        sa.ForeignKeyConstraint(["manual_id"], ["llmstack.documents.id"], name="fk_products_manual_id"),
    )


def downgrade() -> None:
    op.drop_table("products")
