"""embeddings: say how a space's vectors are quantized, and until when it served"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from llmstack.db.revisions import scoped

revision = "embeddings_0002"
down_revision = "embeddings_0001"
branch_labels = None
depends_on = None


@scoped
def upgrade() -> None:
    op.add_column("embedding_spaces", sa.Column("quantization", sa.Text()))
    op.add_column("embedding_spaces", sa.Column("served_until", sa.DateTime(timezone=True)))
    op.create_check_constraint("ck_embedding_spaces_quantization", "embedding_spaces", "quantization IN ('binary')")


@scoped
def downgrade() -> None:
    op.drop_constraint("ck_embedding_spaces_quantization", "embedding_spaces", type_="check")
    op.drop_column("embedding_spaces", "served_until")
    op.drop_column("embedding_spaces", "quantization")
