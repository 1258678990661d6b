"""Sealing of records: which cipher, which key, bound to which place.

A sealed record is ``format and cipher (1) | key number (1) | nonce (12) | ciphertext | tag (16)``. Its
associated data names store, hub, table and place, so a record opens only where it was written. Keys are an
envelope: each key that a person holds (slots.py) wraps the random data keys, so it can be changed later
without touching a record.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import InputError, TamperedError
from edge.store.keys import KEY_BYTES

RECORD_FORMAT: Final = 1
NONCE_BYTES: Final = 12  # random: 2**32 records under one data key keep a repeat below 2**-32
TAG_BYTES: Final = 16
HEADER_BYTES: Final = 2
OVERHEAD_BYTES: Final = HEADER_BYTES + NONCE_BYTES + TAG_BYTES
STORE_ID_BYTES: Final = 16
CHECK_BYTES: Final = 16
FIRST_KEY: Final = 1
LAST_KEY: Final = 255  # a record names its data key in one byte


class Cipher(IntEnum):
    """Written into every record, so that a store moves between machines. Never renumber."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


class Table(IntEnum):
    """Kinds of records, part of the associated data. Never renumber."""

    KEYRING = 1
    HEAD = 2
    TAIL = 3
    SEGMENTS = 4
    OUTBOX = 5
    BLOBS = 6
    AGGREGATES = 7
    JOURNAL = 8
    ARCHIVE = 9


def best_cipher(cpuinfo: Path = Path("/proc/cpuinfo")) -> Cipher:
    """AES-GCM where the processor has AES instructions (not on a Pi 4), else ChaCha20 (3x faster there)."""
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return Cipher.CHACHA20_POLY1305
    has_aes = re.search(r"^(flags|Features)\s*:.*\baes\b", text, re.MULTILINE)
    return Cipher.AES_256_GCM if has_aes else Cipher.CHACHA20_POLY1305


def derive(key: bytes, store_id: bytes, purpose: str, size: int = KEY_BYTES) -> bytes:
    """A subkey of ``key`` for one purpose in one store (HKDF-SHA256)."""
    return HKDF(SHA256(), size, store_id, f"hometwin/store/1/{purpose}".encode()).derive(key)


def marks(sealed: bytes) -> bytes:
    """Nonce and tag: what tells this sealing of a record from every other one."""
    return sealed[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES] + sealed[-TAG_BYTES:]


def looks_sealed(sealed: bytes) -> bool:
    """Whether these bytes begin as a record does: all that can be seen without a key."""
    return len(sealed) >= OVERHEAD_BYTES and sealed[0] in [RECORD_FORMAT << 4 | cipher for cipher in Cipher]


def row_ident(number: int) -> bytes:
    """The place of a numbered record within its table."""
    return number.to_bytes(8, "big")


class OuterKey:
    """A key that wraps data keys (a key-encryption key): says whether it fits, wraps and unwraps."""

    def __init__(self, key: bytes, store_id: bytes, hub_id: str) -> None:
        if len(key) != KEY_BYTES:
            raise InputError(
                f"store key has {len(key)} bytes, not {KEY_BYTES}", mend="make one: hometwin keys new"
            )
        # Of the key alone: a damaged store id must not pass for a wrong key, nor a wrong key for damage.
        self.check_value = derive(key, b"", "check", CHECK_BYTES)
        self.hub_check = derive(key, b"", f"hub/{hub_id}", CHECK_BYTES)
        self._place = _Place(store_id, hub_id)
        self._key = _Key(derive(key, store_id, "wrap"))

    def wrap(self, number: int, data_key: bytes, cipher: Cipher) -> bytes:
        """The sealed record of a data key at place ``number`` of the keyring (slots.ring_number)."""
        return _seals_with(self._key, cipher, 0, self._place)(Table.KEYRING, row_ident(number), data_key, b"")

    def unwrap(self, number: int, sealed: bytes) -> bytes:
        """The data key; TamperedError when the record was changed or another key wrapped it."""
        return _open({0: self._key}, self._place, Table.KEYRING, row_ident(number), sealed)


class Sealer:
    """Seals and opens the records of one store. ``data_keys`` by number; the greatest seals new records.

    The smallest one names blobs and makes commitments: it stays until a rotation has sealed everything anew.
    """

    def __init__(
        self, data_keys: dict[int, bytes], store_id: bytes, hub_id: str, cipher: Cipher | None = None
    ) -> None:
        self.cipher = cipher or best_cipher()
        self._place = _Place(store_id, hub_id)
        self._keys = {number: _Key(derive(key, store_id, "seal")) for number, key in data_keys.items()}
        self.active = max(data_keys)
        self.oldest = min(data_keys)
        self._seal = _seals_with(self._keys[self.active], self.cipher, self.active, self._place)
        first = data_keys[self.oldest]
        self._name_key = derive(first, store_id, "names")
        self.commitment_key = derive(first, store_id, "commitment")

    def seal(self, table: Table, ident: bytes, plain: bytes, nonce: bytes = b"") -> bytes:
        """A record for exactly this place. ``nonce``: 12 bytes just drawn, of a caller who drew for several at once."""
        return self._seal(table, ident, plain, nonce)

    def open(self, table: Table, ident: bytes, sealed: object) -> bytes:
        """The record's content; TamperedError (and nothing else) when it is not what we wrote here."""
        return _open(self._keys, self._place, table, ident, sealed)

    def name_hash(self, name: str) -> bytes:
        """Sixteen bytes that find ``name`` again without telling it."""
        return hashlib.blake2b(name.encode(), key=self._name_key, digest_size=16).digest()


class _Key:
    """One key under both ciphers: a store that moved holds records of both."""

    def __init__(self, key: bytes) -> None:
        self.by_cipher: dict[int, AESGCM | ChaCha20Poly1305] = {
            Cipher.AES_256_GCM: AESGCM(key),
            # The same key under two ciphers is sound only while neither sees the other's output as input;
            # a subkey each costs nothing and needs no such argument.
            Cipher.CHACHA20_POLY1305: ChaCha20Poly1305(hashlib.sha256(b"hometwin chacha20" + key).digest()),
        }


class _Place:
    """The constant part of the associated data."""

    def __init__(self, store_id: bytes, hub_id: str) -> None:
        hub = hub_id.encode()
        if len(hub) > 255:
            raise InputError("hub id is longer than 255 bytes", where="hub_id")
        fixed = b"hometwin/store\0" + store_id + bytes([len(hub)]) + hub
        # Every part has a fixed or written length and the ident comes last, so two places never read alike.
        # A list: looking up members of an enumeration would cost as much as sealing.
        self.by_table = [fixed + bytes([number]) for number in range(max(Table) + 1)]


def _seals_with(
    key: _Key, cipher: Cipher, number: int, place: _Place
) -> Callable[[Table, bytes, bytes, bytes], bytes]:
    """What seals a record; all that does not change from one to the next is made once."""
    header = bytes((RECORD_FORMAT << 4 | cipher, number))
    encrypt, by_table = key.by_cipher[cipher].encrypt, [header + fixed for fixed in place.by_table]

    def seal(table: Table, ident: bytes, plain: bytes, nonce: bytes) -> bytes:
        nonce = nonce or os.urandom(NONCE_BYTES)
        return header + nonce + encrypt(nonce, plain, by_table[table] + ident)

    return seal


def _open(keys: dict[int, _Key], place: _Place, table: Table, ident: bytes, sealed: object) -> bytes:
    # SQLite stores any type in any column, so a hostile file may hold a number or a text here.
    if not isinstance(sealed, bytes) or len(sealed) < OVERHEAD_BYTES:
        raise TamperedError("record is too short", where=_where(table, ident))
    cipher, number = sealed[0] & 15, sealed[1]
    key = keys.get(number)
    if sealed[0] >> 4 != RECORD_FORMAT or key is None or cipher not in key.by_cipher:
        raise TamperedError("record names an unknown format, cipher or key", where=_where(table, ident))
    header = sealed[:HEADER_BYTES]
    nonce = sealed[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES]
    body = sealed[HEADER_BYTES + NONCE_BYTES :]
    try:
        return key.by_cipher[cipher].decrypt(nonce, body, header + place.by_table[table] + ident)
    except InvalidTag:
        raise TamperedError("record fails authentication", where=_where(table, ident)) from None


def _where(table: Table, ident: bytes) -> str:
    return f"{table.name.lower()} {place_text(ident)}"


def place_text(ident: bytes) -> str:
    """A place for people: the row number, or the first digits of a hashed name."""
    return str(int.from_bytes(ident, "big")) if len(ident) == 8 else ident.hex()[:8]
