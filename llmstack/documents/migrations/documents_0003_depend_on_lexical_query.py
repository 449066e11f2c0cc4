"""documents: depend on the functions that read a query"""

from __future__ import annotations

revision = "documents_0003"
down_revision = "documents_0002"
branch_labels = None
depends_on = "kernel_0003"


def upgrade() -> None:
    """Nothing of its own: who migrates this branch alone gets what its search calls."""


def downgrade() -> None:
    """Nothing either."""
