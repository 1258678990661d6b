"""The steps themselves. A released step is never edited: old stores have seen it. Append, and name it.

Each runs in one transaction with the record of having run, and sets ``user_version`` in it.
"""

from __future__ import annotations

from pathlib import Path

from sqlite_utils import Database, Migrations

from edge.store.migrations import APPLICATION_ID, SET_NAME, STEP_NAMES

steps = Migrations(SET_NAME)


def apply_steps(path: Path) -> None:
    """Apply what is missing to the file at ``path``."""
    database = Database(str(path))
    try:
        steps.apply(database)
    finally:
        database.close()


@steps(name=STEP_NAMES[0])
def first(db: Database) -> None:
    """Identity and keys in clear or wrapped; every other column named ``sealed`` is ciphertext."""
    db["identity"].create(
        {"id": int, "store_id": bytes, "check_value": bytes, "hub_check": bytes},
        pk="id",
        not_null={"store_id"},
    )
    db["keyring"].create({"number": int, "sealed": bytes}, pk="number", not_null={"sealed"})
    db["tail"].create({"number": int, "sealed": bytes}, pk="number", not_null={"sealed"})
    db["segments"].create({"number": int, "sealed": bytes}, pk="number", not_null={"sealed"})
    db["outbox"].create({"number": int, "sealed": bytes}, pk="number", not_null={"sealed"})
    db["blobs"].create({"name_hash": bytes, "sealed": bytes}, pk="name_hash", not_null={"sealed"})
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
