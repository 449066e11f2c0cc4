"""${message}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
from llmstack.db.revisions import scoped

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


@scoped
def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


@scoped
def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
