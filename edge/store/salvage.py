"""Reading what can be read of a damaged SQLite file: around bad pages, row by row, by distrustful eyes.

Nothing here decides what may be used; repair.py does.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edge.store.database import PAGE_BYTES, SQLITE_ERRORS
from edge.store.files import copy_readable, identity, open_new
from edge.store.head import COMMITTED, HEAD_ROW
from edge.store.sealing import Table
from edge.store.slots import KeyRecords
from edge.store.untold import is_marked
from edge.store.wal import close_unmerged, fold_in, lost_commits, set_log_aside

# Tries to find readable rows between two bad places; each costs one descent of a tree.
_MOST_PROBES: Final = 2000
_CHANGE_COUNTER: Final = slice(24, 28)  # of the header, SQLite file format 1.3
_SIZE_VALID_FOR: Final = slice(92, 96)
_TABLES: Final = slice(100, None)  # behind the header
Row = tuple[int, Any, Any]  # rowid, key, sealed
# As they are now; as the one key of a store of schema 1, whose migration failed, becomes slot 0.
_SLOTS: Final = (
    "SELECT number, kind, salt, cost, check_value, hub_check FROM slots",
    "SELECT 0, 1, NULL, NULL, check_value, hub_check FROM identity",
)


def fold_log(path: Path) -> bool:
    """Fold in the log of a damaged store, before anything lets SQLite end it; whether it has lost commits, and is set aside."""
    beside = path.with_name(path.name + "-wal")
    if not beside.exists() or not beside.stat().st_size:
        return False
    db = _connect(path)
    try:
        return fold_in(db, path, unreadable=is_marked(path))
    except SQLITE_ERRORS:  # it cannot begin without the first page, and yet folds the log in when it ends
        lost = lost_commits(path)
        if lost:
            set_log_aside(path, stays=True)
        return lost
    finally:
        close_unmerged(db, identity(beside))


def attach(path: Path) -> sqlite3.Connection:
    """The file, held exclusively, its log folded in as far as it is whole."""
    db = _connect(path)
    with contextlib.suppress(*SQLITE_ERRORS):
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return db


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA cell_size_check = ON")
    return db


def with_first_page(path: Path, first_page: bytes, mended: Path) -> sqlite3.Connection | None:
    """A copy of the file with its first page from elsewhere, when its own is not as it was; None when it is.

    The tables that it tells of never change. It may be older than the file: SQLite is told to count pages itself, and
    what it knows of free pages does not matter to one who only reads.
    """
    own_page = b""
    with contextlib.suppress(*SQLITE_ERRORS, OSError):
        with contextlib.closing(attach(path)) as db:
            whole = _tells_of_all(db)
        with path.open("rb") as file:
            own_page = file.read(PAGE_BYTES) if whole else b""
    if len(first_page) != PAGE_BYTES or first_page[_TABLES] == own_page[_TABLES]:
        return None
    for end in ("-wal", "-shm", "-journal"):
        mended.with_name(mended.name + end).unlink(missing_ok=True)
    with os.fdopen(open_new(mended), "wb") as new:
        copy_readable(path, new)
    page = bytearray(first_page)
    page[_CHANGE_COUNTER] = b"\0\0\0\1"
    page[_SIZE_VALID_FOR] = b"\0\0\0\0"
    with mended.open("r+b") as file:
        file.write(page)
    db = attach(mended)
    if own_page and not _tells_of_all(db):  # it is the copy that is damaged
        db.close()
        return None
    return db


def _tells_of_all(db: sqlite3.Connection) -> bool:
    """Whether the file knows of all tables, and by what they are ordered."""
    with contextlib.suppress(*SQLITE_ERRORS):
        found = db.execute(
            "SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE c.pk = 1"
            " AND (c.name = 'name_hash' OR c.name = 'number' AND c.type = 'INTEGER')"
        ).fetchall()
        return {table.name.lower() for table in COMMITTED} <= {name for (name,) in found}
    return False


def read_rows(db: sqlite3.Connection, table: Table) -> tuple[list[Row], bool]:
    """All readable rows of a table in order, the head's excluded; False when some could not be read."""
    with contextlib.suppress(*SQLITE_ERRORS):
        query = "SELECT count(*) FROM sqlite_master WHERE name = ?"
        if db.execute(query, (table.name.lower(),)).fetchone() == (0,):
            return (
                [],
                True,
            )  # of before this table was; a table that somebody took away is missing in the head's sums
    walker = _Walker(db, table)
    walker.walk()
    return [walker.rows[rowid] for rowid in sorted(walker.rows)], walker.whole


def read_head_record(db: sqlite3.Connection) -> Any:
    """The head's record, or None."""
    with contextlib.suppress(*SQLITE_ERRORS):
        row = db.execute("SELECT sealed FROM tail WHERE number = ?", (HEAD_ROW,)).fetchone()
        return row[0] if row else None
    return None


def read_key_records(db: sqlite3.Connection) -> KeyRecords | None:
    """Identity, slots and keyring, when all of them can be read."""
    for query in _SLOTS:
        with contextlib.suppress(*SQLITE_ERRORS):
            ids = db.execute("SELECT store_id FROM identity").fetchall()
            slots = db.execute(query).fetchall()
            ring = db.execute("SELECT number, sealed FROM keyring ORDER BY number").fetchall()
            return KeyRecords(ids[0][0] if len(ids) == 1 else None, slots, ring)
    return None


class _Walker:
    def __init__(self, db: sqlite3.Connection, table: Table) -> None:
        self._db = db
        column = "name_hash" if table is Table.BLOBS else "number"
        self._select = f"SELECT rowid, {column}, sealed FROM {table.name.lower()}"  # noqa: S608 - constants
        self.rows: dict[int, Row] = {}
        self.whole = True
        self._probes = 0

    def walk(self) -> None:
        """Upwards from the first row and downwards from the last; then between the bad places."""
        low, whole = self._run(0, HEAD_ROW, up=True)
        if whole:
            return
        self.whole = False
        high, _ = self._run(low, HEAD_ROW, up=False)
        self._between(low, high)

    def _between(self, low: int, high: int) -> None:
        if high - low <= 1 or self._probes >= _MOST_PROBES:
            return
        self._probes += 1
        middle = (low + high) // 2
        top, _ = self._run(middle, high, up=True)
        bottom, _ = self._run(low, middle + 1, up=False)
        self._between(low, min(bottom, middle))
        if top > middle:
            self._between(top, high)
        else:
            self._between(middle, high)

    def _run(self, low: int, high: int, *, up: bool) -> tuple[int, bool]:
        """Rows between two places, exclusive, until one cannot be read; the last place, and whether all came."""
        at = low if up else high
        order = "" if up else " DESC"
        query = f"{self._select} WHERE rowid > ? AND rowid < ? ORDER BY rowid{order}"
        try:
            for row in self._steps(query, low, high):
                self.rows[row[0]] = row
                at = row[0]
        except (*SQLITE_ERRORS, OverflowError):
            return at, False
        return at, True

    def _steps(self, query: str, low: int, high: int) -> Iterator[Row]:
        cursor = self._db.execute(query, (low, high))
        try:
            yield from cursor
        finally:
            cursor.close()
