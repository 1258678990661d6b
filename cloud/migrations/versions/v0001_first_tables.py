"""The first tables.

Revision ID: 0001
Revises:

Written out rather than taken from cloud/tables.py: that file moves on, a migration never does.
Sealed columns are plain bytes to the database.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _hub(table: str) -> list[sa.Column | sa.ForeignKeyConstraint]:
    return [
        sa.Column("hub_id", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["hub_id"], ["hubs.hub_id"], name=f"fk_{table}_hub_id"),
    ]


def _number(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.BigInteger(), nullable=nullable, autoincrement=False)


def _row_id(table: str) -> list[sa.Column | sa.PrimaryKeyConstraint]:
    return [
        sa.Column("id", ROW_ID, nullable=False),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
    ]


def _sealed(name: str = "body", nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.LargeBinary(), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_meta"),
    )
    op.create_table(
        "hubs",
        sa.Column("hub_id", sa.String(32), nullable=False),
        sa.Column("person", sa.String(80), nullable=False),
        _number("last_seen_us"),
        _number("last_number"),
        _number("last_down"),
        _sealed("status", nullable=True),
        sa.PrimaryKeyConstraint("hub_id", name="pk_hubs"),
    )
    op.create_table(
        "uplinks",
        *_hub("uplinks"),
        _number("number"),
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        _number("received_us"),
        sa.PrimaryKeyConstraint("hub_id", "number", name="pk_uplinks"),
    )
    op.create_table(
        "rejected",
        *_row_id("rejected"),
        *_hub("rejected"),
        _number("number"),
        _number("received_us"),
        sa.Column("reason", sa.String(80), nullable=False),
        _sealed(),
    )
    op.create_table(
        "samples",
        *_row_id("samples"),
        *_hub("samples"),
        sa.Column("source", sa.String(80), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        _number("seq"),
        _number("time_us"),
        _sealed("value"),
        sa.Column("quality", sa.Integer(), nullable=False),
        _number("received_us"),
        sa.Column("amends_source", sa.String(80), nullable=True),
        _number("amends_seq", nullable=True),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        _number("uplink_number"),
        sa.UniqueConstraint("hub_id", "source", "kind", "seq", name="uq_samples_hub_id_source_kind_seq"),
    )
    op.create_index("ix_samples_hub_id_kind_time_us", "samples", ["hub_id", "kind", "time_us"])
    op.create_table("estimates", *_row_id("estimates"), *_hub("estimates"), _number("time_us"), _sealed())
    op.create_index("ix_estimates_hub_id_time_us", "estimates", ["hub_id", "time_us"])
    op.create_table("forecasts", *_row_id("forecasts"), *_hub("forecasts"), _number("made_at_us"), _sealed())
    op.create_index("ix_forecasts_hub_id_made_at_us", "forecasts", ["hub_id", "made_at_us"])
    op.create_table(
        "alarms",
        *_hub("alarms"),
        _number("number"),
        _number("time_us"),
        _sealed(),
        sa.PrimaryKeyConstraint("hub_id", "number", name="pk_alarms"),
    )
    op.create_index("ix_alarms_hub_id_time_us", "alarms", ["hub_id", "time_us"])
    op.create_table(
        "contributions",
        *_row_id("contributions"),
        *_hub("contributions"),
        _number("time_us"),
        sa.Column("model", sa.String(40), nullable=False),
        _number("prior_version"),
        _sealed(),
        sa.UniqueConstraint("hub_id", "time_us", "model", name="uq_contributions_hub_id_time_us_model"),
    )
    op.create_table(
        "priors",
        *_hub("priors"),
        _number("version"),
        _number("created_us"),
        _sealed(),
        sa.PrimaryKeyConstraint("hub_id", "version", name="pk_priors"),
    )
    op.create_table(
        "advice",
        sa.Column("advice_id", sa.String(64), nullable=False),
        *_hub("advice"),
        _number("created_us"),
        sa.Column("state", sa.String(16), nullable=False),
        _sealed(),
        sa.Column("decided_by", sa.String(80), nullable=True),
        _number("decided_us", nullable=True),
        sa.Column("note", sa.String(2000), nullable=True),
        sa.PrimaryKeyConstraint("advice_id", name="pk_advice"),
    )
    op.create_index("ix_advice_hub_id_created_us", "advice", ["hub_id", "created_us"])
    op.create_table(
        "downlinks",
        *_hub("downlinks"),
        _number("number"),
        _sealed(),
        _number("issued_us"),
        _number("expires_us"),
        sa.Column("acked", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("hub_id", "number", name="pk_downlinks"),
    )
    op.create_table(
        "audit",
        *_row_id("audit"),
        _number("time_us"),
        sa.Column("who", sa.String(80), nullable=False),
        sa.Column("what", sa.String(400), nullable=False),
    )


def downgrade() -> None:
    for table in (
        "audit",
        "downlinks",
        "advice",
        "priors",
        "contributions",
        "alarms",
        "forecasts",
        "estimates",
        "samples",
        "rejected",
        "uplinks",
        "hubs",
        "meta",
    ):
        op.drop_table(table)
