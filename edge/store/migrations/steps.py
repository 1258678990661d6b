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


@steps(name=STEP_NAMES[1])
def slots_and_generations(db: Database) -> None:
    """Several keys may open a store; room for aggregates, the audit log and what is kept with a budget.

    The one key of before becomes slot 0, whose places in the keyring are the old ones: nothing is sealed anew.
    """
    columns = {
        "number": int,
        "kind": int,
        "salt": bytes,
        "cost": int,
        "check_value": bytes,
        "hub_check": bytes,
    }
    db["slots"].create(columns, pk="number", not_null={"kind"})
    db.execute("INSERT INTO slots SELECT 0, 1, NULL, NULL, check_value, hub_check FROM identity")
    db.execute("ALTER TABLE identity DROP COLUMN check_value")
    db.execute("ALTER TABLE identity DROP COLUMN hub_check")
    for name in ("aggregates", "journal", "archive"):
        db[name].create({"number": int, "sealed": bytes}, pk="number", not_null={"sealed"})
    db.execute("PRAGMA user_version = 2")
