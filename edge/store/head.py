"""The head: one sealed record, written in every transaction, that commits to everything else in the store.

For each table it holds the number of records and the sum modulo 2**256 of a keyed hash of every live record's
place, nonce and tag (MSet-Add-Hash of Clarke et al., ASIACRYPT 2003). A record that is changed, dropped,
doubled, put back, or taken from an older copy of the file makes a sum differ. Adding or removing a record
costs one hash, whatever the size of the store. What it cannot see: the whole store, head included, put back
to an older state. ``generation`` rises with every transaction, so whoever remembers one can tell.
"""

from __future__ import annotations

import hashlib
from operator import itemgetter
from typing import Final

import msgspec

from core.errors import DecodeError, TamperedError
from core.messages import decode, encode
from edge.store.sealing import Sealer, Table

# The head lies in the tail's tree after the newest sample, so both share a page: one page per commit in the
# write-ahead log, not two (bench/store.py).
HEAD_ROW: Final = 1 << 62
_SUM_BYTES: Final = 32
_MODULUS: Final = 1 << (8 * _SUM_BYTES)
_IDENT: Final = b"head"
COMMITTED: Final = (
    Table.KEYRING,
    Table.TAIL,
    Table.SEGMENTS,
    Table.OUTBOX,
    Table.BLOBS,
    Table.AGGREGATES,
    Table.JOURNAL,
    Table.ARCHIVE,
)
_NUMBERS: Final = tuple(int(table) for table in COMMITTED)
_TABLES: Final = max(_NUMBERS) + 1
_in_order: Final = itemgetter(*_NUMBERS)


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed. New fields go to the end, with a default."""

    generation: int
    last_row: int
    last_outbox: int
    sample_pointer: int
    counters: dict[str, int]
    counts: tuple[int, ...]  # in the order of COMMITTED
    sums: tuple[bytes, ...]  # empty bytes for zero: most stores have empty tables
    links: bytes = b""
    chain_from: int = 0
    journal_last: int = 0
    journal_hash: bytes = b""
    archive_last: int = 0


class Head:
    """A state of the store. A transaction works on a copy and keeps it only once it is durable."""

    def __init__(self, commitment_key: bytes) -> None:
        self._keyed = _keyed(commitment_key)
        self.generation = 0
        self.last_row = 0
        self.last_outbox = 0
        self.sample_pointer = 0
        self.counters: dict[str, int] = {}
        self.links = b""  # of the newest segments, newest first (chain.py)
        self.chain_from = 0  # segments before this row were written anew: no later one links to them
        self.journal_last = 0
        self.journal_hash = b""  # of the newest entry of the audit log
        self.archive_last = 0
        # By number of the table. Lists: hashing members of an enumeration would cost more than the hash function.
        self.counts = [0] * _TABLES
        self._sums = [0] * _TABLES
        self._sealed_sums = [b""] * _TABLES

    def copy(self) -> Head:
        """An independent copy, one generation later."""
        other = Head.__new__(Head)
        other.__dict__.update(self.__dict__)
        other.generation += 1
        other.counters = dict(self.counters)
        other.counts, other._sums = self.counts.copy(), self._sums.copy()
        other._sealed_sums = self._sealed_sums.copy()
        return other

    def add(self, table: Table, ident: bytes, sealed_marks: bytes) -> None:
        """The record with these marks (sealing.marks) now lives at ``ident``."""
        self.counts[table] += 1
        self._set(table, self._sums[table] + self._element(table, ident, sealed_marks))

    def remove(self, table: Table, ident: bytes, sealed_marks: bytes) -> None:
        """It lives no more."""
        self.counts[table] -= 1
        self._set(table, self._sums[table] - self._element(table, ident, sealed_marks))

    def clear(self, table: Table) -> None:
        """No record of ``table`` lives any more."""
        self.counts[table] = 0
        self._set(table, 0)

    def _set(self, table: int, total: int) -> None:
        total %= _MODULUS
        self._sums[table] = total
        self._sealed_sums[table] = total.to_bytes(_SUM_BYTES, "big") if total else b""

    def rekey(self, commitment_key: bytes) -> None:
        """Commit by another key from now on: every live record has to be added again."""
        self._keyed = _keyed(commitment_key)
        for table in COMMITTED:
            self.clear(table)

    def agrees(self, other: Head, table: Table) -> bool:
        """Both commit to the same records of ``table``."""
        return (self.counts[table], self._sums[table]) == (other.counts[table], other._sums[table])

    def seal(self, sealer: Sealer, nonce: bytes = b"") -> bytes:
        """The record to write."""
        stored = _Stored(
            self.generation,
            self.last_row,
            self.last_outbox,
            self.sample_pointer,
            self.counters,
            _in_order(self.counts),
            _in_order(self._sealed_sums),
            self.links,
            self.chain_from,
            self.journal_last,
            self.journal_hash,
            self.archive_last,
        )
        return sealer.seal(Table.HEAD, _IDENT, encode(stored), nonce)

    @staticmethod
    def open(sealer: Sealer, sealed: object) -> Head:
        """The head in a record; TamperedError when it is not one of ours."""
        plain = sealer.open(Table.HEAD, _IDENT, sealed)
        try:
            stored = decode(plain, _Stored)
        except DecodeError as err:
            raise TamperedError(err.what, where="head") from None
        head = Head(sealer.commitment_key)
        head.generation, head.last_row = stored.generation, stored.last_row
        head.last_outbox, head.sample_pointer = stored.last_outbox, stored.sample_pointer
        head.counters = dict(stored.counters)
        head.links, head.chain_from = stored.links, stored.chain_from
        head.journal_last, head.journal_hash = stored.journal_last, stored.journal_hash
        head.archive_last = stored.archive_last
        # A head of before a table existed is shorter: that table was empty.
        for number, count, total in zip(_NUMBERS, stored.counts, stored.sums, strict=False):
            head.counts[number] = count
            head._set(number, int.from_bytes(total, "big"))
        return head

    def _element(self, table: Table, ident: bytes, sealed_marks: bytes) -> int:
        digest = self._keyed.copy()
        digest.update(bytes((table, len(ident))) + ident + sealed_marks)
        return int.from_bytes(digest.digest(), "big")


def _keyed(key: bytes) -> hashlib.blake2b:
    """To be copied for each record: the key is a block of its own, hashed once."""
    return hashlib.blake2b(key=key, digest_size=_SUM_BYTES)
