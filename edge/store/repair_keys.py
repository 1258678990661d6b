"""Which wrapped keys a damaged store is repaired with: its own, or those of the copy beside it.

The copy may be older than the file: it could not be written, or somebody put an old one back. So it takes the place of
the file's own keys only where these are really damaged, and never lets a retired key in again.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from core.errors import HometwinError, StoreError, TamperedError, WrongKeyError
from edge.store.gather import read_head
from edge.store.head import Head
from edge.store.journal import hash_of, read_line
from edge.store.keys import Secret
from edge.store.leaves import Leaves
from edge.store.salvage import read_key_records, read_rows
from edge.store.sealing import LAST_KEY, Sealer, Table, marks, row_ident
from edge.store.slots import KeyRecords, Ring, load_copy, slot_of, unlock

_SHUTTING_OUT: Final = ("key.retired", "datakey.begun")  # entries of the audit log


def copy_opens(path: Path, key: Secret, hub_id: str) -> bool:
    """Whether ``key`` opens the copy of the wrapped keys."""
    records = load_copy(path)
    if records is None:
        return False
    try:
        unlock(records, path, key, hub_id)
    except StoreError:
        return False
    return True


def choose_keys(
    db: sqlite3.Connection, leaves: Leaves, path: Path, key: Secret, hub_id: str, distrusted: dict[str, int]
) -> tuple[KeyRecords, Sealer]:
    """The wrapped keys that the head vouches for: the file's own, else the copy's.

    WrongKeyError, also where ``key`` opens an older copy, when the store's own keys are whole and it opens none of them.
    """
    own, copy = read_key_records(db), load_copy(path)
    usable: list[tuple[KeyRecords, Ring]] = []
    refused: WrongKeyError | None = None
    for records in (own, copy):
        if records is not None:
            try:
                usable.append((records, unlock(records, path, key, hub_id)))
            except WrongKeyError as err:
                refused = refused or err
            except TamperedError:
                continue
    if not usable:
        if refused is not None:
            raise refused
        raise TamperedError("no wrapped key is left", where=str(path))
    for records, ring in usable:
        sealer = ring.sealer()
        head = read_head(db, sealer, leaves)
        if head is None:
            # Who opens the file's own is in. A copy that does not even open the head is another's, or older.
            if records is own or (len(usable) == 1 and (refused is None or not _looks_whole(own))):
                return records, sealer
        elif _vouched_for(records, head, sealer):
            return records, sealer
    records, ring = usable[0]
    sealer = ring.sealer()
    head = read_head(db, sealer, leaves)
    vouched = copy if records is own else own
    if head is None or (refused is not None and vouched is not None and _vouched_for(vouched, head, sealer)):
        raise refused or _retired(path)
    if records is not own and _may_be_retired(db, head, sealer, set(ring.outers)):
        raise _retired(path)
    # Somebody put slots back or in: only the way in that was just used is known to be ours.
    ours = [item for item in records.keyring if slot_of(item[0]) in ring.outers]
    distrusted["keyring"] = len(records.keyring) - len(ours)
    slots = [slot for slot in records.slots if slot[0] in ring.outers]
    return KeyRecords(records.store_id, slots, ours), sealer


def _retired(path: Path) -> WrongKeyError:
    return WrongKeyError(
        "the key opens an older copy of the wrapped keys only: it may have been retired since",
        where=str(path),
        mend="put back a copy of the folder that is newer than the last change of keys",
    )


def _vouched_for(records: KeyRecords, head: Head, sealer: Sealer) -> bool:
    """Whether the head commits to these wrapped keys, no more and no fewer."""
    sums = Head(sealer.commitment_key)
    for number, sealed in records.keyring:
        if not isinstance(number, int) or not isinstance(sealed, bytes):
            return False  # never made by us
        sums.add(Table.KEYRING, row_ident(number), marks(sealed))
    return sums.agrees(head, Table.KEYRING)


def _looks_whole(records: KeyRecords | None) -> bool:
    """Whether slots and keyring match, as far as one sees without a key."""
    if records is None:
        return False
    wraps: dict[int, set[int]] = {}
    for number, sealed in records.keyring:
        if not isinstance(number, int) or not isinstance(sealed, bytes):
            return False
        wraps.setdefault(slot_of(number), set()).add(number & LAST_KEY)
    return (
        wraps.keys() == {slot[0] for slot in records.slots} and len(set(map(frozenset, wraps.values()))) == 1
    )


def _may_be_retired(db: sqlite3.Connection, head: Head, sealer: Sealer, slots: set[int]) -> bool:
    """False when the audit log, whole, knows that none of these slots was ever given up."""
    last = b""
    for _, number, sealed in read_rows(db, Table.JOURNAL)[0]:
        try:
            line = sealer.open(Table.JOURNAL, row_ident(number), sealed).decode()
            entry = read_line(line)
            if entry.what in _SHUTTING_OUT and slots & {int(n) for n in entry.detail["gone"].split()}:
                return True
        except (HometwinError, ValueError, TypeError, AttributeError, KeyError, OverflowError):
            return True  # of before it was written down who is gone, or none of ours
        last = hash_of(line)
    return last != head.journal_hash
