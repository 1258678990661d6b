"""What Alembic runs: migrate over the connection that cloud/db.py hands in, inside its transaction."""

from __future__ import annotations

from alembic import context

from cloud.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
)
context.run_migrations()
