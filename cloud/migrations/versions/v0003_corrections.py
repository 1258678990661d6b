"""What each hub's data moved in its learned correction, so that a newcomer's begins where people's usually end.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "corrections",
        sa.Column("hub_id", sa.String(32), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["hub_id"], ["hubs.hub_id"], name="fk_corrections_hub_id"),
        sa.PrimaryKeyConstraint("hub_id", name="pk_corrections"),
    )


def downgrade() -> None:
    op.drop_table("corrections")
