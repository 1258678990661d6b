"""Steps of the schema, in order. ``steps`` holds them; here is only what a running hub needs to know.

``sqlite_utils`` imports numpy when it is installed (15 MiB and 0.1 s), which a hub under 60 MiB cannot carry.
So nothing here imports it: a store whose schema is current never needs it, and any other is migrated by a
short-lived process (``python -m edge.store.migrations PATH``) that takes numpy with it when it ends.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from core.errors import StoreError, TamperedError

SET_NAME: Final = "hometwin.store"
# One name per step. user_version of a store is the number of steps that it has seen.
STEP_NAMES: Final = ("0001_first", "0002_slots_and_generations")
SCHEMA_VERSION: Final = len(STEP_NAMES)
APPLICATION_ID: Final = 0x686F6D65  # "home": so that file(1) and we know the file
# Everything that a current store's schema may hold. Whatever else is there (a trigger, a view) was planted.
SCHEMA_OBJECTS: Final = frozenset(
    {
        ("table", "identity"),
        ("table", "keyring"),
        ("table", "tail"),
        ("table", "segments"),
        ("table", "outbox"),
        ("table", "blobs"),
        ("table", "slots"),
        ("table", "aggregates"),
        ("table", "journal"),
        ("table", "archive"),
        ("index", "sqlite_autoindex_blobs_1"),
        ("table", "_sqlite_migrations"),
        ("index", "idx__sqlite_migrations_migration_set_name"),
    }
)
# Steps rewrite at most the schema today; years of data on a slow card must fit as well.
_TIMEOUT_S: Final = 600
DAMAGED: Final = 3  # how that process ends when SQLite finds the file damaged


def migrate(path: Path) -> None:
    """Bring the schema of the SQLite file at ``path`` up to date. StoreError when that fails, of a damaged file TamperedError."""
    if "sqlite_utils" in sys.modules:
        # A process that carries sqlite_utils anyway (a command, a test) saves the detour.
        from edge.store.migrations.steps import apply_steps

        apply_steps(path)
        return
    command = [sys.executable, "-m", "edge.store.migrations", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603 - our own interpreter and module
    except (OSError, subprocess.TimeoutExpired) as err:
        raise StoreError(f"migration could not run: {type(err).__name__}", where=str(path)) from None
    if done.returncode == DAMAGED:
        raise TamperedError("file is damaged, and cannot be migrated", where=str(path))
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StoreError(f"migration failed: {reason}", where=str(path), mend="nothing was changed")
