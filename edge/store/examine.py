"""Reading a store with distrust: every record authenticated, every count and sum compared with the head."""

from __future__ import annotations

import hmac
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from core.errors import DecodeError, TamperedError, WrongKeyError
from core.messages import Sample, decode
from edge.store.database import reported
from edge.store.head import COMMITTED, HEAD_ROW, Head
from edge.store.sealing import (
    CHECK_BYTES,
    STORE_ID_BYTES,
    OuterKey,
    Sealer,
    Table,
    marks,
    row_ident,
)
from edge.store.segment import Summary, decode_segment, read_summary

_COLUMN: Final = {Table.BLOBS: "name_hash"}  # every other table is keyed by number
_NAME_HASH_BYTES: Final = 16


class CheckReport(msgspec.Struct, frozen=True):
    """What an examination found. ``records`` and ``bad`` count by table; ``samples`` is how many rows are good."""

    records: dict[str, int]
    bad: dict[str, int]
    samples: int
    generation: int
    first_bad: str | None  # place and reason, for the person who mends it

    @property
    def ok(self) -> bool:
        return self.first_bad is None


class Examination:
    """One pass over all tables. Callbacks receive what authenticated, in row order."""

    def __init__(self, db: sqlite3.Connection, path: Path, outer: OuterKey, sealer: Sealer) -> None:
        self._db, self._path, self._outer, self._sealer = db, path, outer, sealer
        self._records: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()
        self._next_row = 1
        self._samples = 0
        self.first_error: TamperedError | None = None
        self.head = Head(sealer.commitment_key)
        self.head_sealed = b""
        self.blob_marks: dict[bytes, bytes] = {}
        self._found = Head(sealer.commitment_key)

    def run(
        self, on_segment: Callable[[Summary], None], on_tail: Callable[[Sample], None], *, deep: bool
    ) -> CheckReport:
        """Look at everything; ``deep`` also unpacks segments and asks SQLite about its own structures."""
        head_is_good = False
        with self._noting(Table.HEAD):
            self._read_head()
            head_is_good = True
        self._scan(Table.KEYRING, lambda number, sealed: self._keyring(number, sealed))
        self._scan(Table.SEGMENTS, lambda number, sealed: self._segment(number, sealed, on_segment, deep))
        self._scan(Table.TAIL, lambda number, sealed: self._tail(number, sealed, on_tail))
        self._scan(Table.OUTBOX, self._outbox)
        self._scan(Table.BLOBS, self._blob)
        if head_is_good:
            self._compare()
        if deep:
            with self._noting(Table.HEAD), reported(self._path):
                answer = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
                if answer != "ok":
                    raise TamperedError("SQLite finds its file damaged", where=str(self._path))
        return CheckReport(
            dict(self._records),
            dict(self._bad),
            self._samples,
            self.head.generation,
            str(self.first_error) if self.first_error else None,
        )

    @contextmanager
    def _noting(self, table: Table) -> Iterator[None]:
        try:
            yield
        except TamperedError as err:
            self._bad[table.name.lower()] += 1
            self.first_error = self.first_error or err

    def _scan(self, table: Table, look: Callable[[int, bytes], None]) -> None:
        column = _COLUMN.get(table, "number")
        query = f"SELECT {column}, sealed FROM {table.name.lower()} ORDER BY {column}"  # noqa: S608 - constants
        with self._noting(table), reported(self._path):
            for number, sealed in self._db.execute(query):
                if table is Table.TAIL and number == HEAD_ROW:
                    continue
                self._records[table.name.lower()] += 1
                with self._noting(table):
                    look(number, sealed)

    def _read_head(self) -> None:
        with reported(self._path):
            row = self._db.execute("SELECT sealed FROM tail WHERE number = ?", (HEAD_ROW,)).fetchone()
        if row is None:
            raise TamperedError("head is missing", where=str(self._path))
        self.head = Head.open(self._sealer, row[0])
        self.head_sealed = row[0]

    def _keyring(self, number: int, sealed: bytes) -> None:
        self._outer.unwrap(number, sealed)
        self._found.add(Table.KEYRING, row_ident(number), marks(sealed))

    def _segment(self, number: int, sealed: bytes, pass_on: Callable[[Summary], None], deep: bool) -> None:
        plain = self._opened(Table.SEGMENTS, number, sealed)
        self._expect_row(Table.SEGMENTS, number)
        try:
            summary = read_summary(plain)
            if deep:
                decode_segment(plain)
            pass_on(summary)
        except (DecodeError, OverflowError) as err:
            what = err.what if isinstance(err, DecodeError) else "holds a number without end"
            raise TamperedError(what, where=f"segments {number}") from None
        self._next_row = number + summary.size
        self._samples += summary.size

    def _tail(self, number: int, sealed: bytes, pass_on: Callable[[Sample], None]) -> None:
        plain = self._opened(Table.TAIL, number, sealed)
        self._expect_row(Table.TAIL, number)
        try:
            pass_on(decode(plain, Sample))
        except DecodeError as err:
            raise TamperedError(err.what, where=f"tail {number}") from None
        self._next_row = number + 1
        self._samples += 1

    def _outbox(self, number: int, sealed: bytes) -> None:
        self._opened(Table.OUTBOX, number, sealed)

    def _blob(self, name_hash: int | bytes, sealed: bytes) -> None:
        if not isinstance(name_hash, bytes) or len(name_hash) != _NAME_HASH_BYTES:
            raise TamperedError("name is not one of ours", where="blobs")
        self._sealer.open(Table.BLOBS, name_hash, sealed)
        self._found.add(Table.BLOBS, name_hash, marks(sealed))
        self.blob_marks[name_hash] = marks(sealed)

    def _opened(self, table: Table, number: int, sealed: bytes) -> bytes:
        if not 0 < number < HEAD_ROW:
            raise TamperedError("number is not one of ours", where=f"{table.name.lower()} {number}")
        plain = self._sealer.open(table, row_ident(number), sealed)
        self._found.add(table, row_ident(number), marks(sealed))
        return plain

    def _expect_row(self, table: Table, number: int) -> None:
        if number != self._next_row:
            raise TamperedError(
                "samples before it are missing or double", where=f"{table.name.lower()} {number}"
            )

    def _compare(self) -> None:
        for table in COMMITTED:
            if self._bad[table.name.lower()]:
                continue  # its sum cannot agree; the record itself is the better report
            with self._noting(table):
                if not self.head.agrees(self._found, table):
                    raise TamperedError(
                        "records are missing, added or put back from an older state",
                        where=table.name.lower(),
                    )
        with self._noting(Table.HEAD):
            head = self.head
            if not self._bad and (head.last_row != self._next_row - 1 or head.sample_pointer > head.last_row):
                raise TamperedError("head does not match the samples", where="head")


def unlock(db: sqlite3.Connection, path: Path, key: bytes, hub_id: str) -> tuple[OuterKey, Sealer]:
    """The keys of an open file. WrongKeyError when ``key`` or ``hub_id`` is not its own."""
    where = str(path)
    with reported(path):
        rows = db.execute("SELECT store_id, check_value, hub_check FROM identity").fetchall()
        ring = db.execute("SELECT number, sealed FROM keyring ORDER BY number").fetchall()
    sizes = (STORE_ID_BYTES, CHECK_BYTES, CHECK_BYTES)
    if len(rows) != 1 or not all(
        isinstance(v, bytes) and len(v) == size for v, size in zip(rows[0], sizes, strict=True)
    ):
        raise TamperedError("identity is missing or damaged", where=where)
    store_id, check_value, hub_check = rows[0]
    outer = OuterKey(key, store_id, hub_id)
    key_fits = hmac.compare_digest(check_value, outer.check_value)
    hub_fits = hmac.compare_digest(hub_check, outer.hub_check)
    try:
        if not ring or not all(0 < number < 256 for number, _ in ring):
            raise TamperedError("keyring is missing or damaged", where=where)
        data_keys = {number: outer.unwrap(number, sealed) for number, sealed in ring}
    except TamperedError:
        # Only after the attempt: a damaged check value must not pass for a wrong key.
        if not key_fits:
            raise WrongKeyError(
                "the key does not open this store", where=where, mend="use the key that it was made with"
            ) from None
        if not hub_fits:
            raise WrongKeyError(
                "the store was made for another hub_id",
                where=where,
                mend="set the hub_id that it was made with",
            ) from None
        raise
    if not key_fits or not hub_fits:
        raise TamperedError("identity is damaged", where=where)
    return outer, Sealer(data_keys, store_id, hub_id)
