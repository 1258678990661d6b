"""Who may open a store: each slot is one key or passphrase that wraps every data key.

A key-encryption key is changed by adding a slot, putting the new key in the old one's place, and dropping the
old slot: at every moment in between at least one key that a person holds opens the store. A passphrase in a
slot of its own is a second way in when the key file is lost.

The slots, the identity and the wrapped keys are worth more than all the rest: a copy of them lies in a small file
beside the store (``save_copy``), so that one bad page does not take everything.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import sqlite3
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from core.errors import DecodeError, InputError, TamperedError, WrongKeyError
from core.messages import decode, encode
from edge.store.database import reported
from edge.store.files import give_to_owner_of, open_new, open_regular
from edge.store.keys import SALT_BYTES, SCRYPT_LOG2_N, Passphrase, Secret, replace_overwriting
from edge.store.sealing import CHECK_BYTES, LAST_KEY, STORE_ID_BYTES, Cipher, OuterKey, Sealer, best_cipher

MAX_SLOTS: Final = 16  # more than a person has keys; bounds the effort that a hostile file can ask for
_LAST_SLOT: Final = 1 << 40
_KEY_BITS: Final = 8  # of a ring number: the data key; above them the slot
COPY_SUFFIX: Final = ".keys"
# 16 slots with 255 data keys each, wrapped in some 70 bytes; what is longer was not made by us.
_LONGEST_COPY_BYTES: Final = 1 << 20


class SlotKind(IntEnum):
    """What fills a slot. Never renumber."""

    KEY = 1
    PASSPHRASE = 2


_NEWEST: Final = {
    SlotKind.KEY: "use its newest key (one that was retired opens nothing), or hometwin keys recover by the passphrase",
    SlotKind.PASSPHRASE: "type it as it was set; one that was retired opens nothing",
}


class Slot(NamedTuple):
    """A slot as it lies in the file, in clear. ``salt`` and ``cost`` are of a passphrase's scrypt."""

    number: int
    kind: int
    salt: bytes | None
    cost: int | None
    check_value: bytes
    hub_check: bytes

    def outer(self, secret: Secret, store_id: bytes, hub_id: str) -> OuterKey:
        """What ``secret`` is for this slot."""
        forms = (
            secret.stretched(self.salt or b"", self.cost or 0) if isinstance(secret, Passphrase) else [secret]
        )
        outers = [OuterKey(form, store_id, hub_id) for form in forms]
        return next((o for o in outers if hmac.compare_digest(o.check_value, self.check_value)), outers[0])


class Ring:
    """The keys of an open store: data keys, the slots, and for which slots we hold the key."""

    def __init__(
        self,
        store_id: bytes,
        hub_id: str,
        slots: dict[int, Slot],
        data_keys: dict[int, bytes],
        outers: dict[int, OuterKey],
    ) -> None:
        self.store_id, self.hub_id = store_id, hub_id
        self.slots, self.data_keys, self.outers = slots, data_keys, outers

    def sealer(self) -> Sealer:
        """Seals with the newest data key, opens with all."""
        return Sealer(self.data_keys, self.store_id, self.hub_id)

    def copy(self) -> Ring:
        """A draft: kept once what it stands for is durable."""
        return Ring(self.store_id, self.hub_id, dict(self.slots), dict(self.data_keys), dict(self.outers))

    def wraps(self, slot: int, cipher: Cipher) -> list[tuple[int, bytes]]:
        """The keyring's records of one slot."""
        outer = self.outers[slot]
        numbered = [(ring_number(slot, key), data_key) for key, data_key in sorted(self.data_keys.items())]
        return [(number, outer.wrap(number, data_key, cipher)) for number, data_key in numbered]

    def new_slot(self, secret: Secret) -> Slot:
        """A slot for ``secret``, the next number; it is part of the ring from now on."""
        if len(self.slots) >= MAX_SLOTS:
            raise InputError(f"{MAX_SLOTS} keys open this store already", mend="hometwin keys retire")
        number = max(self.slots, default=0) + 1
        by_words = isinstance(secret, Passphrase)
        salt, cost = (secrets.token_bytes(SALT_BYTES), SCRYPT_LOG2_N) if by_words else (None, None)
        kind = SlotKind.PASSPHRASE if by_words else SlotKind.KEY
        outer = Slot(number, kind, salt, cost, b"", b"").outer(secret, self.store_id, self.hub_id)
        slot = Slot(number, kind, salt, cost, outer.check_value, outer.hub_check)
        self.slots[number], self.outers[number] = slot, outer
        return slot

    def find(self, secret: Secret) -> int | None:
        """The slot that ``secret`` opens."""
        kind = SlotKind.PASSPHRASE if isinstance(secret, Passphrase) else SlotKind.KEY
        for slot in self.slots.values():
            if slot.kind == kind and hmac.compare_digest(
                slot.outer(secret, self.store_id, self.hub_id).check_value, slot.check_value
            ):
                return slot.number
        return None


def ring_number(slot: int, key: int) -> int:
    """The place of data key ``key``, wrapped by ``slot``, in the keyring."""
    return slot << _KEY_BITS | key


def slot_of(number: int) -> int:
    """The slot of a place in the keyring."""
    return number >> _KEY_BITS


def new_ring(secret: Secret, hub_id: str) -> Ring:
    """The ring of a new store: one data key, one slot."""
    ring = Ring(secrets.token_bytes(STORE_ID_BYTES), hub_id, {}, {1: secrets.token_bytes(32)}, {})
    ring.new_slot(secret)
    return ring


class KeyRecords(NamedTuple):
    """Identity, slots and keyring as they lie in a file: nothing of it is of use without a key."""

    store_id: Any
    slots: list[tuple[Any, ...]]
    keyring: list[tuple[Any, Any]]


def read_records(db: sqlite3.Connection, path: Path) -> KeyRecords:
    """From the store's own tables."""
    with reported(path):
        ids = db.execute("SELECT store_id FROM identity").fetchall()
        slots = db.execute("SELECT number, kind, salt, cost, check_value, hub_check FROM slots").fetchall()
        ring = db.execute("SELECT number, sealed FROM keyring ORDER BY number").fetchall()
    return KeyRecords(ids[0][0] if len(ids) == 1 else None, slots, ring)


def unlock(found: KeyRecords, path: Path, secret: Secret, hub_id: str) -> Ring:
    """The ring that ``secret`` opens. WrongKeyError when it or ``hub_id`` is not the store's own."""
    where = str(path)
    store_id = found.store_id
    if not isinstance(store_id, bytes) or len(store_id) != STORE_ID_BYTES:
        raise TamperedError("identity is missing or damaged", where=where)
    slots = {slot.number: slot for slot in (_slot(row, where) for row in found.slots)}
    numbers = {number for number, _ in found.keyring if isinstance(number, int) and number > 0}
    by_slot = {slot: {n & LAST_KEY for n in numbers if slot_of(n) == slot} for slot in map(slot_of, numbers)}
    # Only after the attempt: a damaged check value must not pass for a wrong key.
    key_fits = hub_fits = False
    damage: TamperedError | None = None
    if len(numbers) != len(found.keyring) or not 0 < len(slots) <= MAX_SLOTS:
        damage = TamperedError("keyring is missing or damaged", where=where)
    elif by_slot.keys() != slots.keys() or len({frozenset(keys) for keys in by_slot.values()}) != 1:
        damage = TamperedError("slots and keyring do not match", where=where)
    wanted = SlotKind.PASSPHRASE if isinstance(secret, Passphrase) else SlotKind.KEY
    if wanted == SlotKind.PASSPHRASE and len(slots) > MAX_SLOTS:
        raise TamperedError("keyring is damaged", where=where)  # each stretching takes its time
    for slot in slots.values():
        if slot.kind != wanted:
            continue
        outer = slot.outer(secret, store_id, hub_id)
        its_key = hmac.compare_digest(slot.check_value, outer.check_value)
        its_hub = hmac.compare_digest(slot.hub_check, outer.hub_check)
        key_fits, hub_fits = key_fits or its_key, hub_fits or its_hub
        try:
            keys = {
                number & LAST_KEY: outer.unwrap(number, sealed)
                for number, sealed in found.keyring
                if slot_of(number) == slot.number
            }
        except (TamperedError, TypeError, OverflowError):
            continue
        if damage is not None or not keys:
            break
        if not its_key or not its_hub:
            raise TamperedError("identity is damaged", where=where)
        return Ring(store_id, hub_id, slots, keys, {slot.number: outer})
    else:
        if slots and not key_fits:
            what, newest = f"the {wanted.name.lower()} does not open this store", _NEWEST[wanted]
            raise WrongKeyError(what, where=where, mend=newest)
        if slots and not hub_fits:
            raise WrongKeyError(
                "the store was made for another hub_id",
                where=where,
                mend="set the hub_id that it was made with",
            )
    raise damage or TamperedError("keyring is missing or damaged", where=where)


def _slot(row: tuple[Any, ...], where: str) -> Slot:
    number, kind, salt, cost, check_value, hub_check = row
    good = (
        isinstance(number, int)
        and 0 <= number < _LAST_SLOT
        and kind in (SlotKind.KEY, SlotKind.PASSPHRASE)
        and (kind == SlotKind.KEY or (isinstance(salt, bytes) and isinstance(cost, int)))
        and all(isinstance(v, bytes) and len(v) == CHECK_BYTES for v in (check_value, hub_check))
    )
    if not good:
        raise TamperedError("slots are missing or damaged", where=where)
    return Slot(*row)


def insert_ring(db: sqlite3.Connection, ring: Ring) -> list[tuple[int, bytes]]:
    """Write identity, slots and keyring of a new store; returns the keyring's records."""
    db.execute("INSERT INTO identity VALUES (1, ?)", (ring.store_id,))
    db.executemany("INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?)", list(ring.slots.values()))
    wraps = [wrap for slot in ring.slots for wrap in ring.wraps(slot, best_cipher())]
    db.executemany("INSERT INTO keyring VALUES (?, ?)", wraps)
    return wraps


# --- the copy beside the store


class _Copy(msgspec.Struct, frozen=True, array_like=True):
    store_id: bytes
    slots: tuple[tuple[int, int, bytes | None, int | None, bytes, bytes], ...]
    keyring: tuple[tuple[int, bytes], ...]
    first_page: bytes = b""


def copy_path(path: Path) -> Path:
    """Where the copy of a store's wrapped keys lies."""
    return path.with_name(path.name + COPY_SUFFIX)


def save_copy(path: Path, records: KeyRecords, first_page: bytes) -> bool:
    """Write the copy anew when it differs; False when the disk refuses (it is only a second chance).

    ``first_page`` of the file: SQLite's own table of tables, without which nothing in it can be found.
    """
    data = encode(_Copy(records.store_id, tuple(records.slots), tuple(records.keyring), first_page))
    place = copy_path(path)
    with contextlib.suppress(OSError, InputError):
        if _read_copy(place) == data:
            return True
    fresh = place.with_name(place.name + ".new")
    try:
        with os.fdopen(open_new(fresh), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            give_to_owner_of(path, file.fileno())
        replace_overwriting(place, fresh)
    except OSError:
        return False
    return True


def load_copy(path: Path) -> KeyRecords | None:
    """The copy of the keys, or None when there is no usable one."""
    copy = _load(path)
    return KeyRecords(copy.store_id, list(copy.slots), list(copy.keyring)) if copy else None


def load_first_page(path: Path) -> bytes:
    """The copy of the file's first page; empty when there is none."""
    copy = _load(path)
    return copy.first_page if copy else b""


def _load(path: Path) -> _Copy | None:
    try:
        return decode(_read_copy(copy_path(path)), _Copy)
    except (OSError, InputError, DecodeError):
        return None


def _read_copy(place: Path) -> bytes:
    with os.fdopen(open_regular(place, os.O_RDONLY), "rb") as file:
        return file.read(_LONGEST_COPY_BYTES + 1)
