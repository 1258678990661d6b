"""Opening a store's file: folder, lock, database, keys, in this order, and all given back when one fails."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import NoReturn

import structlog

from core.errors import InputError, StoreError, TamperedError, WrongKeyError
from edge.store.database import SQLITE_ERRORS, WriterLock, open_alone, open_database
from edge.store.examine import CheckReport, Examination
from edge.store.files import identity, real_path, refuse_odd
from edge.store.head import HEAD_ROW, Head
from edge.store.keyring import destroy_files, erasing
from edge.store.keys import Secret
from edge.store.salvage import read_head_record
from edge.store.sealing import Table, marks, row_ident
from edge.store.slots import KeyRecords, Ring, insert_ring, new_ring, read_records, unlock
from edge.store.wal import check_log, close_unmerged, mend_unreadable_log, set_log_aside

log = structlog.get_logger()


def open_file(path: Path, key: Secret, hub_id: str) -> tuple[WriterLock, sqlite3.Connection, Ring, bool]:
    """The file at ``path`` (made when there is none), locked, of the current schema, with its keys.

    Also, for ``check_log``, whether the disk could not read its log in places.
    """
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
        _refuse_journal(path)
        unreadable = mend_unreadable_log(path)
        try:
            db, made = open_database(path, lambda db: _found(db, key, hub_id))
            if made:
                log.warning("store.made", path=str(path))
            found: KeyRecords | None = None
            try:
                found = read_records(db, path)
                return lock, db, unlock(found, path, key, hub_id), unreadable
            except BaseException as err:
                close_unmerged(db, identity(_log_path(path)))
                if isinstance(err, WrongKeyError) and found:
                    # Perhaps a key that was retired in the log: only a log of another store is refused then.
                    _refuse_foreign_log(path, key, hub_id, other_than=found.store_id)
                raise
        except TamperedError:
            _refuse_foreign_log(path, key, hub_id)
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
        lock, db, ring, unreadable = open_file(path, key, hub_id)
    except TamperedError as err:
        return CheckReport({}, {"file": 1}, 0, 0, str(err))
    try:
        report = examined(db, path, ring)
        if report.ok:
            check_log(db, path, unreadable=unreadable)
            db.close()
        return report
    except TamperedError as err:
        return CheckReport({}, {"file": 1}, 0, 0, str(err))
    finally:
        close_unmerged(db, identity(_log_path(path)))
        lock.release()


def examined(db: sqlite3.Connection, path: Path, ring: Ring) -> CheckReport:
    """Everything on the disk, read and authenticated, segments unpacked."""
    return Examination(db, path, ring, ring.sealer()).run(lambda *_: None, lambda *_: None, deep=True)


def close_unsound(
    db: sqlite3.Connection, ring: Ring, path: Path, key: Secret, hub_id: str, why: BaseException
) -> None:
    """Close a store that was opened and is not sound. TamperedError when that is so only because of its log."""
    head_opens = _head_opens(db, ring)
    close_unmerged(db, identity(_log_path(path)))
    if isinstance(why, TamperedError):
        _refuse_foreign_log(path, key, hub_id, whole=head_opens)


def _refuse_foreign_log(
    path: Path, key: Secret, hub_id: str, *, whole: bool = False, other_than: object = None
) -> None:
    """After an opening that failed and changed nothing: TamperedError when the file opens without its log.

    Such a log is of another store, or of another state of this one, and folded in it would destroy what the file
    holds, so it is set aside. ``whole``: everything in the file must authenticate (the head did with the log, too).
    ``other_than``: the file must be of another store than this.
    """
    beside = _log_path(path)
    if beside.exists() and beside.stat().st_size and _opens_alone(path, key, hub_id, whole, other_than):
        _put_aside(path, "-wal", "log", "write-ahead log is not of this store, or not of this state of it")


def _opens_alone(path: Path, key: Secret, hub_id: str, whole: bool, other_than: object) -> bool:
    with (
        contextlib.suppress(StoreError, InputError, *SQLITE_ERRORS),
        contextlib.closing(open_alone(path)) as db,
    ):
        records = read_records(db, path)
        if records.store_id == other_than:
            return False
        ring = unlock(records, path, key, hub_id)
        if not whole:
            return _head_opens(db, ring)
        seen = Examination(db, path, ring, ring.sealer())
        return seen.run(lambda *_: None, lambda *_: None, deep=False).ok
    return False


def _head_opens(db: sqlite3.Connection, ring: Ring) -> bool:
    try:
        Head.open(ring.sealer(), read_head_record(db))
    except TamperedError:
        return False
    return True


def _refuse_journal(path: Path) -> None:
    """TamperedError where SQLite would play a rollback journal back into the file: our stores never have one."""
    journal = path.with_name(path.name + "-journal")
    if journal.exists() and journal.stat().st_size:
        _put_aside(path, "-journal", "journal", "a rollback journal lies beside the store, which has none")


def _put_aside(path: Path, suffix: str, called: str, what: str) -> NoReturn:
    aside, where = set_log_aside(path, suffix, called), f"{path}{suffix}"
    if not aside:
        raise StoreError(what, where=where, mend="move it away")
    raise TamperedError(
        what, where=where, mend=f"it was set aside ({aside}); start again: the store goes on without it"
    )


def _log_path(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _found(db: sqlite3.Connection, key: Secret, hub_id: str) -> None:
    """The first records of a new store: who it is, its first data key, an empty head."""
    ring = new_ring(key, hub_id)
    sealer = ring.sealer()
    head = Head(sealer.commitment_key)
    for number, wrapped in insert_ring(db, ring):
        head.add(Table.KEYRING, row_ident(number), marks(wrapped))
    db.execute("INSERT INTO tail VALUES (?, ?)", (HEAD_ROW, head.seal(sealer)))
