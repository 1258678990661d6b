"""Opening a store's file: folder, lock, database, keys, in this order, and all given back when one fails."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import structlog

from core.errors import InputError, TamperedError
from edge.store.database import WriterLock, open_database
from edge.store.examine import CheckReport, Examination
from edge.store.files import real_path, refuse_odd
from edge.store.head import HEAD_ROW, Head
from edge.store.keyring import destroy_files, erasing
from edge.store.keys import Secret
from edge.store.sealing import Table, marks, row_ident
from edge.store.slots import Ring, insert_ring, new_ring, read_records, unlock

log = structlog.get_logger()


def open_file(path: Path, key: Secret, hub_id: str) -> tuple[WriterLock, sqlite3.Connection, Ring]:
    """The file at ``path`` (made when there is none), locked, of the current schema, with its keys."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise InputError(f"store folder cannot be made: {err.strerror}", where=str(path.parent)) from None
    lock = WriterLock(path)
    try:
        if erasing(path).exists():
            destroy_files(path)
            raise InputError(
                "erasing this record was begun and cut off; its files are destroyed now",
                where=str(path),
                mend="hometwin erase, which destroys the key as well",
            )
        for end in ("-wal", "-journal", "-shm") if path.is_symlink() else ("", "-wal", "-journal", "-shm"):
            refuse_odd(path.with_name(path.name + end))
        db, made = open_database(path, lambda db: _found(db, key, hub_id))
        if made:
            log.warning("store.made", path=str(path))
        try:
            return lock, db, unlock(read_records(db, path), path, key, hub_id)
        except BaseException:
            db.close()
            raise
    except BaseException:
        lock.release()
        raise


def audit(path: Path | str, key: Secret, *, hub_id: str) -> CheckReport:
    """Examine a store that ``Store.open`` may refuse. Errors of key, lock and version are raised."""
    path = real_path(path)
    if not path.exists():
        raise InputError("no store here", where=str(path), mend="check store.path")
    try:
        lock, db, ring = open_file(path, key, hub_id)
    except TamperedError as err:
        return CheckReport({}, {"file": 1}, 0, 0, str(err))
    try:
        return examined(db, path, ring)
    finally:
        db.close()
        lock.release()


def examined(db: sqlite3.Connection, path: Path, ring: Ring) -> CheckReport:
    """Everything on the disk, read and authenticated, segments unpacked."""
    return Examination(db, path, ring, ring.sealer()).run(lambda *_: None, lambda *_: None, deep=True)


def _found(db: sqlite3.Connection, key: Secret, hub_id: str) -> None:
    """The first records of a new store: who it is, its first data key, an empty head."""
    ring = new_ring(key, hub_id)
    sealer = ring.sealer()
    head = Head(sealer.commitment_key)
    for number, wrapped in insert_ring(db, ring):
        head.add(Table.KEYRING, row_ident(number), marks(wrapped))
    db.execute("INSERT INTO tail VALUES (?, ?)", (HEAD_ROW, head.seal(sealer)))
