"""Alembic migrations, applied when the database is opened (cloud/db.py)."""
