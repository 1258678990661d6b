"""The SQLite file: one writer, durable commits, every failure a StoreError that says how to mend it.

Nothing here knows what a record means. Order of opening: lock, then look at the version, then migrate, then
connect for good with the file held exclusively (so there is no shared-memory file beside it).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

from core.errors import (
    InputError,
    NewerVersionError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    TamperedError,
)
from edge.store.files import give_to_owner_of, identity, open_new, open_regular
from edge.store.keys import sync_folder
from edge.store.migrations import (
    APPLICATION_ID,
    SCHEMA_OBJECTS,
    SCHEMA_VERSION,
    SET_NAME,
    STEP_NAMES,
    migrate,
)
from edge.store.wal import close_unmerged

NO_SPACE: Final = "no space left"
PAGE_BYTES: Final = 4096  # SQLite's default, which our files have
# A quarter MiB of pages: a fold touches about twenty, of 4 KiB; the hub as a whole lives within 60 MiB.
_CACHE_KIB: Final = 256
# Pages in the write-ahead log before it is copied into the file: 4 MiB. Larger saves writes (a page that
# changes often is copied once), smaller saves space and the time to open after a power cut.
_CHECKPOINT_PAGES: Final = 1000
# Less than this is a full disk: one commit may write a fold, some twenty pages of 4 KiB.
_LEAST_ROOM_BYTES: Final = 128 * 1024
# CONSTRAINT and MISMATCH: a row lies where none of ours can be.
_DAMAGE: Final = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
)
# What SQLite's calls raise. The second where its word for damage quotes a name that is no text any more.
SQLITE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
# A sector that the disk cannot read any more: SQLite says CORRUPT itself, but not of the first page.
_UNREADABLE: Final = "SQLITE_IOERR_CORRUPTFS"


class WriterLock:
    """The right to be the one process with this store; the kernel takes it back when the process dies."""

    def __init__(self, path: Path) -> None:
        name = path.with_name(path.name + ".lock")
        try:
            self._handle = open_regular(name, os.O_RDWR | os.O_CREAT)
        except OSError as err:
            raise InputError(
                f"store cannot be locked: {err.strerror}",
                where=str(name),
                mend="check the folder and its owner",
            ) from None
        give_to_owner_of(path if path.exists() else path.parent, self._handle)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            if err.errno != errno.EWOULDBLOCK:
                os.close(self._handle)
                raise InputError(
                    f"store cannot be locked: {err.strerror}",
                    where=str(name),
                    mend="a file system without locks (some network shares) cannot hold a store",
                ) from None
            holder = os.pread(self._handle, 20, 0).decode("ascii", "replace").strip()
            os.close(self._handle)
            raise StoreBusyError(
                f"another process{f' ({holder})' if holder.isdigit() else ''} holds this store",
                where=str(path),
                mend="stop that one first",
            ) from None
        if os.fstat(self._handle).st_nlink != 1:  # its other name may be somebody's file
            return
        with contextlib.suppress(OSError):  # who holds it is only for people to read; the disk may be full
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others open the store."""
        os.close(self._handle)

    close = release


class reported:  # named like the function it is used as; a generator would cost 2 us in every commit
    """Turn SQLite's errors into ours. Their texts hold no data: all values are bound parameters."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, SQLITE_ERRORS):
            raise _told(error, self._path) from None


def _told(err: sqlite3.Error | UnicodeDecodeError, path: Path) -> StoreError:
    code = getattr(err, "sqlite_errorcode", 0) & 0xFF
    name = getattr(err, "sqlite_errorname", type(err).__name__)
    where = str(path)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusyError("another process uses the file", where=where, mend="stop that one first")
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and is_full(path)):
        return no_space(path)
    # A file that may only be read gives IOERR_LOCK. Effective rights: those that a service gave up do not count.
    closed = (
        code == sqlite3.SQLITE_IOERR and path.exists() and not os.access(path, os.W_OK, effective_ids=True)
    )
    if closed or code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        # Also in the middle of work: a disk with errors is mounted anew to be read only.
        return StoreClosedError(
            f"store cannot be opened for writing ({name})", where=where, mend="check its owner and mode"
        )
    if code in _DAMAGE or name == _UNREADABLE or isinstance(err, UnicodeDecodeError):
        return TamperedError(
            f"file is damaged ({name})", where=where, mend="keep it aside and restore a copy"
        )
    if code == sqlite3.SQLITE_ERROR:
        # A statement that fits our schema does not fit this file's.
        return TamperedError(
            "tables are not as we made them", where=where, mend="keep it aside and restore a copy"
        )
    return StoreError(f"disk refuses ({name})", where=where, mend="check the disk and its rights")


def no_space(path: Path) -> StoreError:
    """The disk is full: nothing of the last call was stored, and the store goes on once there is space."""
    return StoreError(
        NO_SPACE,
        where=str(path),
        mend="free some space on that disk; the store then goes on by itself",
    )


def is_full(path: Path) -> bool:
    """Some file systems notice only at the flush that there is no space, and SQLite calls that an I/O error."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _LEAST_ROOM_BYTES


def open_database(path: Path, fill: Callable[[sqlite3.Connection], None]) -> tuple[sqlite3.Connection, bool]:
    """The store's file, held exclusively, of the current schema; True when it had to be made.

    ``fill`` writes the first records of a new store. A new file gets its name only when it is whole, so a cut
    in between leaves nothing, and an empty file under that name is damage, not a beginning.
    """
    beside = path.with_name(path.name + "-wal")
    made = not path.exists()
    if made and path.is_symlink():
        raise InputError(
            "store is a link to a file that is not there",
            where=str(path),
            mend="mount or put back the disk it is on",
        )
    if made:
        if beside.exists() and beside.stat().st_size:
            raise TamperedError(
                "write-ahead log without its store", where=str(beside), mend="put the store file back"
            )
        with reported(path):
            _create(path, fill)
    if path.stat().st_size == 0:
        raise TamperedError("file is empty", where=str(path), mend="restore a copy, or move it away")
    with reported(path):
        db = _attach(path)
        try:
            if _version(db, path) < SCHEMA_VERSION:
                db.close()
                migrate(path)
                db = _attach(path)
                if _version(db, path) != SCHEMA_VERSION:
                    raise TamperedError("version does not match the steps recorded", where=str(path))
            _settle(db, path)
            _check_schema(db, path)
        except BaseException:
            close_unmerged(db, identity(beside))
            raise
        return db, made


def open_alone(path: Path) -> sqlite3.Connection:
    """The file as it is without its log, to be looked at only. TamperedError when even so it is none of ours."""
    with reported(path):
        db = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
        db.text_factory = lambda data: data.decode("utf-8", "replace")
        try:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA cell_size_check = ON")
            _check_schema(db, path)
        except BaseException:
            db.close()
            raise
        return db


def _attach(path: Path) -> sqlite3.Connection:
    """The file as it is, locked; nothing in it changes yet, it might be somebody else's."""
    # One thread at a time calls (the store has its own lock), but not always the same thread.
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    # We store no text in cells of our own; a hostile file may, in any bytes. It must not raise while fetched.
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cell_size_check = ON")
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise TamperedError("file is not a store", where=str(path), mend="check store.path")
    except BaseException:
        close_unmerged(db, identity(f"{path}-wal"))
        raise
    return db


def _version(db: sqlite3.Connection, path: Path) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        if _steps(db) == STEP_NAMES:  # a newer program would have recorded its own
            raise TamperedError("version does not match the steps recorded", where=str(path))
        raise NewerVersionError(
            f"store has schema {version}, this program knows {SCHEMA_VERSION}",
            where=str(path),
            mend="install the newer version again",
        )
    return version


def _steps(db: sqlite3.Connection) -> tuple[str, ...]:
    """The steps of the schema that this file has seen, as it says itself."""
    query = "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id"
    # Fetched whole: a cursor left half-way would keep the file locked after its connection is closed.
    return tuple(name for (name,) in db.execute(query, (SET_NAME,)).fetchall())


def _settle(db: sqlite3.Connection, path: Path) -> None:
    """From now on every commit is on the disk before it returns."""
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    db.execute("PRAGMA temp_store = MEMORY")
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StoreError("disk does not support write-ahead logging", where=str(path))
    # FULL: in WAL mode NORMAL would lose the last commits at a power cut.
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    db.execute("BEGIN IMMEDIATE")  # takes the exclusive lock now, not at the first write
    db.execute("COMMIT")


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    """TamperedError when the file holds tables, triggers or steps that are not ours."""
    # Fetched whole, as in _steps.
    found = {(kind, name) for kind, name in db.execute("SELECT type, name FROM sqlite_master").fetchall()}
    if found != SCHEMA_OBJECTS or _steps(db) != STEP_NAMES:
        raise TamperedError(
            "tables are not as we made them", where=str(path), mend="keep it aside and restore a copy"
        )


def _create(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    fresh = path.with_name(path.name + ".new")
    make_database(fresh, fill)
    give_to_owner_of(path.parent, fresh)
    try:
        fresh.rename(path)
        sync_folder(path.parent)
    except OSError as err:
        raise StoreError(
            f"store cannot be made: {err.strerror}", where=str(path), mend="check the disk and its space"
        ) from None


def make_database(fresh: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """A whole file of the current schema at ``fresh``, filled in one transaction, closed and on the disk."""
    try:
        for suffix in ("-wal", "-shm", "-journal"):  # of an attempt that was cut
            fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
        os.close(open_new(fresh))
    except OSError as err:
        raise InputError(
            f"store cannot be made: {err.strerror}", where=str(fresh), mend="check the folder and its owner"
        ) from None
    migrate(fresh)
    with contextlib.closing(_attach(fresh)) as db:
        _settle(db, fresh)
        db.execute("BEGIN IMMEDIATE")
        fill(db)
        db.execute("COMMIT")
        # Closing would do this too, but silently not when the disk refuses, and the log does not come along.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
