"""Why a hub set a piece of advice aside.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("advice", sa.Column("set_aside", sa.String(80), nullable=True))


def downgrade() -> None:
    op.drop_column("advice", "set_aside")
