"""What was done about advice and how it came out; standing policies; the audit log becomes a chain.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("advice", sa.Column("confirmed_us", sa.BigInteger(), nullable=True))
    op.add_column("advice", sa.Column("took_u", sa.LargeBinary(), nullable=True))
    op.add_column("advice", sa.Column("outcome", sa.LargeBinary(), nullable=True))
    op.add_column("audit", sa.Column("evidence", sa.String(400), nullable=True))
    op.add_column("audit", sa.Column("chain", sa.LargeBinary(), nullable=True))
    op.create_table(
        "policies",
        sa.Column("policy_id", sa.String(64), nullable=False),
        sa.Column("hub_id", sa.String(32), nullable=False),
        sa.Column("approved_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("sent", sa.Boolean(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["hub_id"], ["hubs.hub_id"], name="fk_policies_hub_id"),
        sa.PrimaryKeyConstraint("policy_id", name="pk_policies"),
    )
