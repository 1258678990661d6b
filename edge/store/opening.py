"""Opening a store's file: folder, lock, database, keys, in this order, and all given back when one fails."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

import structlog

from core.errors import InputError, TamperedError
from edge.store.database import WriterLock, open_database
from edge.store.examine import CheckReport, Examination, unlock
from edge.store.head import HEAD_ROW, Head
from edge.store.keys import KEY_BYTES
from edge.store.sealing import FIRST_KEY, STORE_ID_BYTES, OuterKey, Sealer, Table, marks, row_ident

log = structlog.get_logger()


def open_file(
    path: Path, key: bytes, hub_id: str
) -> tuple[WriterLock, sqlite3.Connection, tuple[OuterKey, Sealer]]:
    """The file at ``path`` (made when there is none), locked, of the current schema, with its keys."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise InputError(f"store folder cannot be made: {err.strerror}", where=str(path.parent)) from None
    lock = WriterLock(path)
    try:
        db, made = open_database(path, lambda db: _found(db, key, hub_id))
        if made:
            log.warning("store.made", path=str(path))
        try:
            return lock, db, unlock(db, path, key, hub_id)
        except BaseException:
            db.close()
            raise
    except BaseException:
        lock.release()
        raise


def audit(path: Path | str, key: bytes, *, hub_id: str) -> CheckReport:
    """Examine a store that ``Store.open`` may refuse. Errors of key, lock and version are raised."""
    path = Path(path).absolute()
    if not path.exists():
        raise InputError("no store here", where=str(path), mend="check store.path")
    try:
        lock, db, keys = open_file(path, key, hub_id)
    except TamperedError as err:
        return CheckReport({}, {"file": 1}, 0, 0, str(err))
    try:
        return examined(db, path, *keys)
    finally:
        db.close()
        lock.release()


def examined(db: sqlite3.Connection, path: Path, outer: OuterKey, sealer: Sealer) -> CheckReport:
    """Everything on the disk, read and authenticated, segments unpacked."""
    return Examination(db, path, outer, sealer).run(lambda _: None, lambda _: None, deep=True)


def _found(db: sqlite3.Connection, key: bytes, hub_id: str) -> None:
    """The first records of a new store: who it is, its first data key, an empty head."""
    store_id = secrets.token_bytes(STORE_ID_BYTES)
    outer = OuterKey(key, store_id, hub_id)
    data_key = secrets.token_bytes(KEY_BYTES)
    sealer = Sealer({FIRST_KEY: data_key}, store_id, hub_id)
    wrapped = outer.wrap(FIRST_KEY, data_key, sealer.cipher)
    head = Head(sealer.commitment_key)
    head.add(Table.KEYRING, row_ident(FIRST_KEY), marks(wrapped))
    db.execute("INSERT INTO identity VALUES (1, ?, ?, ?)", (store_id, outer.check_value, outer.hub_check))
    db.execute("INSERT INTO keyring VALUES (?, ?)", (FIRST_KEY, wrapped))
    db.execute("INSERT INTO tail VALUES (?, ?)", (HEAD_ROW, head.seal(sealer)))
