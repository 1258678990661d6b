"""Changing the keys of an open store: every step is one durable transaction, and the store goes on in between.

A new data key takes over at once for what is written from now on; what lies there is sealed anew a few records at a
time, in the pauses of everything else. A store that is opened in the middle goes on with it. When the last
record is done, names and commitments move to the new key and the old one is destroyed, in one transaction.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from core.errors import InputError, StoreError, TamperedError
from edge.store.database import reported
from edge.store.files import open_regular
from edge.store.head import HEAD_ROW, Head
from edge.store.keys import KEY_BYTES, Secret, shred, sync_folder
from edge.store.sealing import LAST_KEY, Sealer, Table, marks, row_ident
from edge.store.slots import COPY_SUFFIX, Ring, SlotKind, slot_of
from edge.store.untold import UNTOLD_SUFFIX

if TYPE_CHECKING:
    from edge.store.store import Store

# Records sealed anew in one transaction: some 50 kB of segments, a few milliseconds.
RESEAL_RECORDS: Final = 64
_DATA_TABLES: Final = (
    Table.SEGMENTS,
    Table.TAIL,
    Table.OUTBOX,
    Table.BLOBS,
    Table.AGGREGATES,
    Table.JOURNAL,
    Table.ARCHIVE,
)
ASIDE_SUFFIX: Final = ".damaged-"  # followed by the time; aside.py puts damaged stores there
COPYING_SUFFIX: Final = ".aside"  # of a damaged store that is being copied there


# Beside a store whose erasing has begun. It goes last, after the key file: whatever cuts it off, it can be finished.
ERASING_SUFFIX: Final = ".erasing"


def erasing(path: Path) -> Path:
    """The mark that the store at ``path`` is being erased."""
    return path.with_name(path.name + ERASING_SUFFIX)


def destroy_files(path: Path, keep: Iterable[str] = ()) -> list[str]:
    """Overwrite and remove a store's files, the copy of its keys first; needs no key. Names of what is gone.

    Before anything else it leaves the mark ``erasing``, which whoever asked for this removes when the key is gone too.
    """
    begin_erasing(path, keep)
    ends = [COPY_SUFFIX, COPY_SUFFIX + ".new", ".spare", UNTOLD_SUFFIX]
    ends += [
        of + end
        for of in (".repaired", ".mended", ".new", COPYING_SUFFIX, "")
        for end in ("-wal", "-shm", "-journal", "")
    ]
    doomed = [path.with_name(path.name + end) for end in ends]
    # What was set aside comes before the store: while that is there, people see that the erase is not done.
    doomed[-1:-1] = sorted(path.parent.glob(glob.escape(path.name + ASIDE_SUFFIX) + "*"))
    gone, refused = [], []
    for file in doomed:  # what cannot go (a folder, another's file) does not save the rest
        try:
            if shred(file):
                gone.append(file.name)
        except InputError as err:
            refused.append(err)
    if refused:
        raise refused[0]
    return gone


def begin_erasing(path: Path, keep: Iterable[str] = ()) -> None:
    """Leave the mark, durably; a disk that refuses it does not save the record.

    ``keep``: names of key files that are not this record's, for the ``erase`` that has to finish this one.
    """
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(erasing(path), flags, 0o600), "wb") as mark:
            mark.write("\n".join(keep).encode("utf-8", "surrogateescape"))
            mark.flush()
            os.fsync(mark.fileno())
        sync_folder(path.parent)


def kept_by_erasing(path: Path) -> list[str]:
    """What an erase that was cut has left in its mark."""
    try:
        with os.fdopen(open_regular(erasing(path), os.O_RDONLY), "rb") as mark:
            return mark.read(1 << 14).decode("utf-8", "surrogateescape").split("\n")
    except (OSError, InputError):
        return []


def _listed(slots: list[int]) -> str:
    """For the audit log, which repair_keys.py asks when only an older copy of the keys is left."""
    return " ".join(map(str, slots))


class StoreKeys:
    """The keys of one store. All methods may be called while others use the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._at = (0, 0)  # table and row up to which everything is sealed with the newest key

    def overview(self) -> dict[str, Any]:
        """What there is: slots with their kind, data keys by number, whether a rotation is under way."""
        ring = self._store._ring
        return {
            "slots": [
                {"number": s.number, "kind": SlotKind(s.kind).name.lower(), "in_use": s.number in ring.outers}
                for s in ring.slots.values()
            ],
            "data_keys": sorted(ring.data_keys),
            "rotating": self.rotating,
            "copied": self._store.has_key_copy,
        }

    def add(self, secret: Secret, who: str = "owner") -> int:
        """Let ``secret`` open the store as well; returns its slot, an old one when it already did."""
        store = self._store
        with store._mutex:
            known = store._ring.find(secret)
            if known is not None:
                if known not in store._ring.outers:
                    slot = store._ring.slots[known]
                    ring = store._ring
                    ring.outers[known] = slot.outer(secret, ring.store_id, ring.hub_id)
                return known
            draft = store._ring.copy()
            slot = draft.new_slot(secret)
            self._write(draft, who, "key.added", slot=slot.number, kind=SlotKind(slot.kind).name.lower())
            return slot.number

    def find(self, secret: Secret) -> int | None:
        """The slot that ``secret`` opens; None when it does not open this store."""
        with self._store._mutex:
            return self._store._ring.find(secret)

    def retire(self, keep: Secret, who: str = "owner") -> list[int]:
        """No key but ``keep`` opens the store any more; passphrases stay. Returns the slots that are gone.

        ``keep`` a passphrase: it alone of all passphrases stays, and the keys stay.
        """
        store = self._store
        with store._mutex:
            slot = store._ring.find(keep)
            if slot is None:
                raise InputError("this key does not open the store", where="keys", mend="add it first")
            draft = store._ring.copy()
            kind = draft.slots[slot].kind
            gone = [s.number for s in draft.slots.values() if s.kind == kind and s.number != slot]
            if slot not in draft.outers:
                draft.outers[slot] = draft.slots[slot].outer(keep, draft.store_id, draft.hub_id)
            for number in gone:
                del draft.slots[number]
                draft.outers.pop(number, None)
            if gone:
                self._write(draft, who, "key.retired", slots=len(gone), gone=_listed(gone))
            return gone

    @property
    def ways_in(self) -> int:
        """How many keys and passphrases open the store."""
        return len(self._store._ring.slots)

    # --- a new data key

    @property
    def rotating(self) -> bool:
        """Whether records of an older data key are left."""
        return len(self._store._ring.data_keys) > 1

    def rotate_data(self, who: str = "owner") -> list[int]:
        """Begin with a new data key. Returns the slots whose keys we do not hold: they are dropped.

        Whoever holds an old copy of the store and its key must not be able to unwrap the new data key, so only
        the keys that are known here (the one in use, and those added since) wrap it.
        """
        store = self._store
        with store._mutex:
            if self.rotating:
                return []
            draft = store._ring.copy()
            number = max(draft.data_keys) + 1
            if number > LAST_KEY:
                raise InputError("this store has had all its data keys", mend="export it and begin a new one")
            draft.data_keys[number] = secrets.token_bytes(KEY_BYTES)
            dropped = [slot for slot in draft.slots if slot not in draft.outers]
            for slot in dropped:
                del draft.slots[slot]
            self._at = (0, 0)
            detail = {"slots_dropped": len(dropped), "gone": _listed(dropped)}
            self._write(draft, who, "datakey.begun", key=number, **detail)
            return dropped

    def reseal(self, records: int = RESEAL_RECORDS) -> bool:
        """Seal the next records anew; True while there is more to do."""
        store = self._store
        with store._mutex:
            store._check_usable()
            if not self.rotating:
                return False
            place, after = self._at
            if place == len(_DATA_TABLES):
                self._finish()
                return False
            table = _DATA_TABLES[place]
            with reported(store._path):
                rows = store._db.execute(
                    f"SELECT rowid, sealed FROM {table.name.lower()} WHERE rowid > ? AND rowid < ?"  # noqa: S608 - constants
                    " ORDER BY rowid LIMIT ?",
                    (after, HEAD_ROW, records),
                ).fetchall()
            old = [(row, sealed) for row, sealed in rows if sealed[1] != store._sealer.active]
            if old:
                self._reseal(table, old)
            self._at = (place, rows[-1][0]) if len(rows) == records else (place + 1, 0)
            return True

    def _reseal(self, table: Table, rows: list[tuple[int, bytes]]) -> None:
        store = self._store
        blob_marks: dict[bytes, bytes] = {}

        def write(head: Head) -> None:
            fresh: list[tuple[bytes, int]] = []
            for row, sealed in rows:
                ident = self._ident(table, row)
                anew = store._sealer.seal(table, ident, store._sealer.open(table, ident, sealed))
                head.remove(table, ident, marks(sealed))
                head.add(table, ident, marks(anew))
                fresh.append((anew, row))
                if table is Table.BLOBS:
                    blob_marks[ident] = marks(anew)
            store._db.executemany(f"UPDATE {table.name.lower()} SET sealed = ? WHERE rowid = ?", fresh)  # noqa: S608 - constants

        store._change(write, lambda: store._blob_marks.update(blob_marks))

    def _ident(self, table: Table, row: int) -> bytes:
        if table is not Table.BLOBS:
            return row_ident(row)
        found = self._store._db.execute("SELECT name_hash FROM blobs WHERE rowid = ?", (row,)).fetchone()
        ident: bytes = found[0]
        return ident

    def _finish(self) -> None:
        """Everything is sealed with the newest key: the older ones, and all that hung on them, end here."""
        store = self._store
        draft = store._ring.copy()
        newest = max(draft.data_keys)
        draft.data_keys = {newest: draft.data_keys[newest]}
        sealer = draft.sealer()
        blob_marks: dict[bytes, bytes] = {}

        def write(head: Head) -> None:
            head.rekey(sealer.commitment_key)
            for table in _DATA_TABLES:
                if table is Table.BLOBS:
                    continue
                for number, sealed in self._all(table):
                    if sealed[1] != newest:
                        raise StoreError("a record was left behind; it is sealed anew first")
                    head.add(table, row_ident(number), marks(sealed))
            for old_ident, sealed in store._db.execute("SELECT name_hash, sealed FROM blobs").fetchall():
                plain = store._sealer.open(Table.BLOBS, old_ident, sealed)
                ident = sealer.name_hash(plain[1 : 1 + plain[0]].decode())
                anew = sealer.seal(Table.BLOBS, ident, plain)
                store._db.execute("DELETE FROM blobs WHERE name_hash = ?", (old_ident,))
                store._db.execute("INSERT INTO blobs VALUES (?, ?)", (ident, anew))
                head.add(Table.BLOBS, ident, marks(anew))
                blob_marks[ident] = marks(anew)

        def remember() -> None:
            store._blob_marks = blob_marks

        try:
            self._write(draft, "hub", "datakey.rotated", before=write, then=remember, key=newest)
        except StoreError as err:
            if isinstance(err, TamperedError):
                raise
            self._at = (0, 0)  # begin the pass again; until then both keys work
            raise

    def _all(self, table: Table) -> Iterator[tuple[int, bytes]]:
        query = f"SELECT number, sealed FROM {table.name.lower()} WHERE number < ?"  # noqa: S608 - constants
        yield from self._store._db.execute(query, (HEAD_ROW,))

    # --- the end

    def erase(self, keep: Iterable[str] = ()) -> list[str]:
        """Destroy every wrapped key, then the files: nothing of the record can be read any more, by anybody.

        The store is closed then. Returns the names of the files that are gone. The keys that persons hold (key
        file, credential, passphrase) open nothing any more; destroy the file all the same, then the mark ``erasing``.
        """
        store = self._store
        with store._mutex:
            store._check_usable()
            begin_erasing(store._path, keep)
            # A full disk takes no such write; overwriting the files needs no room.
            with contextlib.suppress(StoreError, InputError), reported(store._path):
                db = store._db
                db.execute("PRAGMA secure_delete = ON")
                db.execute("BEGIN IMMEDIATE")
                db.execute("UPDATE keyring SET sealed = randomblob(length(sealed))")
                for table in ("keyring", "slots", "identity"):
                    db.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
                db.execute("COMMIT")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with contextlib.suppress(StoreError, InputError):
                store.close()
            return destroy_files(store._path)

    # --- inside

    def _write(
        self, draft: Ring, who: str, what: str, before: Any = None, then: Any = None, **detail: Any
    ) -> None:
        """Make ``draft`` the ring, durably; what it drops is overwritten on the disk, not only unlinked.

        ``before`` belongs to the transaction, ``then`` to what is remembered of it. An error may also come after it, of
        the overwriting: the ring is the new one then.
        """
        store = self._store
        sealer: Sealer = draft.sealer()

        def write(head: Head) -> None:
            if before is not None:
                before(head)
            foreign = [
                (number, sealed)
                for number, sealed in store._db.execute("SELECT number, sealed FROM keyring").fetchall()
                if slot_of(number) in draft.slots and slot_of(number) not in draft.outers
            ]
            wraps = [wrap for slot in draft.outers for wrap in draft.wraps(slot, sealer.cipher)]
            store._db.execute("DELETE FROM keyring")
            store._db.execute("DELETE FROM slots")
            head.clear(Table.KEYRING)
            store._db.executemany("INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?)", list(draft.slots.values()))
            store._insert(head, Table.KEYRING, foreign + wraps)
            store._note(head, who, what, detail)

        def remember() -> None:
            store._ring, store._sealer = draft, sealer
            if then is not None:
                then()

        with reported(store._path):
            store._db.execute("PRAGMA secure_delete = ON")
        try:
            store._change(write, remember, sealer)
            try:
                with reported(store._path):
                    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                store.save_key_copy()
        finally:
            with reported(store._path):
                store._db.execute("PRAGMA secure_delete = OFF")
