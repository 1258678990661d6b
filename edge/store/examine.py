"""Reading a store with distrust: every record authenticated, every count and sum compared with the head."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from core.errors import DecodeError, TamperedError
from core.messages import Sample, decode
from edge.store.aggregates import Series, decode_aggregates
from edge.store.chain import unchained
from edge.store.database import reported
from edge.store.head import COMMITTED, HEAD_ROW, Head
from edge.store.journal import hash_of, read_line
from edge.store.sealing import Sealer, Table, marks, row_ident
from edge.store.segment import Summary, decode_segment, read_summary
from edge.store.slots import Ring, slot_of

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

    def __init__(self, db: sqlite3.Connection, path: Path, ring: Ring, sealer: Sealer) -> None:
        self._db, self._path, self._ring, self._sealer = db, path, ring, sealer
        self._records: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()
        self._next_row = 1
        self._samples = 0
        self.first_error: TamperedError | None = None
        self.head = Head(sealer.commitment_key)
        self.head_sealed = b""
        self.blob_marks: dict[bytes, bytes] = {}
        self._found = Head(sealer.commitment_key)
        self._tail_begun = False
        self._journal_hash = b""

    def run(
        self,
        on_segment: Callable[[int, Summary], None],
        on_tail: Callable[[Sample, int], None],
        on_aggregate: Callable[[Series], None] = lambda _: None,
        on_archive: Callable[[int, bytes], None] = lambda *_: None,
        *,
        deep: bool,
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
        self._scan(Table.AGGREGATES, lambda number, sealed: self._aggregate(number, sealed, on_aggregate))
        self._scan(Table.JOURNAL, self._journal)
        self._scan(
            Table.ARCHIVE,
            lambda number, sealed: on_archive(number, self._opened(Table.ARCHIVE, number, sealed)),
        )
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
        outer = self._ring.outers.get(slot_of(number))
        if outer is not None:  # other slots' records: only those who hold their keys can tell more
            outer.unwrap(number, sealed)
        elif not isinstance(sealed, bytes):
            raise TamperedError("record is too short", where=f"keyring {number}")
        self._found.add(Table.KEYRING, row_ident(number), marks(sealed))

    def _segment(
        self, number: int, sealed: bytes, pass_on: Callable[[int, Summary], None], deep: bool
    ) -> None:
        plain = self._opened(Table.SEGMENTS, number, sealed)
        self._expect_row(Table.SEGMENTS, number)
        try:
            _, segment = unchained(plain)
            summary = read_summary(segment)
            if deep:
                decode_segment(segment)
            pass_on(number, summary)
        except (DecodeError, OverflowError) as err:
            what = err.what if isinstance(err, DecodeError) else "holds a number without end"
            raise TamperedError(what, where=f"segments {number}") from None
        self._next_row = number + summary.size
        self._samples += summary.size

    def _tail(self, number: int, sealed: bytes, pass_on: Callable[[Sample, int], None]) -> None:
        plain = self._opened(Table.TAIL, number, sealed)
        self._expect_row(Table.TAIL, number)
        try:
            pass_on(decode(plain, Sample), number)
        except DecodeError as err:
            raise TamperedError(err.what, where=f"tail {number}") from None
        self._tail_begun = True
        self._next_row = number + 1
        self._samples += 1

    def _outbox(self, number: int, sealed: bytes) -> None:
        self._opened(Table.OUTBOX, number, sealed)

    def _aggregate(self, number: int, sealed: bytes, pass_on: Callable[[Series], None]) -> None:
        plain = self._opened(Table.AGGREGATES, number, sealed)
        try:
            for series in decode_aggregates(plain):
                pass_on(series)
        except DecodeError as err:
            raise TamperedError(err.what, where=f"aggregates {number}") from None

    def _journal(self, number: int, sealed: bytes) -> None:
        plain = self._opened(Table.JOURNAL, number, sealed)
        try:
            line = plain.decode()
            entry = read_line(line)
        except (UnicodeDecodeError, DecodeError):
            raise TamperedError("entry is not one of ours", where=f"journal {number}") from None
        if entry.number != number or entry.previous != self._journal_hash.hex():
            raise TamperedError("does not follow on the entry before", where=f"journal {number}")
        self._journal_hash = hash_of(line)

    def _blob(self, name_hash: int | bytes, sealed: bytes) -> None:
        if not isinstance(name_hash, bytes) or len(name_hash) != _NAME_HASH_BYTES:
            raise TamperedError("name is not one of ours", where="blobs")
        self._sealer.open(Table.BLOBS, name_hash, sealed)
        self._found.add(Table.BLOBS, name_hash, marks(sealed))
        self.blob_marks[name_hash] = marks(sealed)

    def _opened(self, table: Table, number: int, sealed: bytes) -> bytes:
        if not isinstance(number, int) or not 0 < number < HEAD_ROW:  # the table itself may be damaged
            raise TamperedError("number is not one of ours", where=f"{table.name.lower()} {number}")
        plain = self._sealer.open(table, row_ident(number), sealed)
        self._found.add(table, row_ident(number), marks(sealed))
        return plain

    def _expect_row(self, table: Table, number: int) -> None:
        # Rows may be missing (thinned, or lost and said so); what should be there, the head's sums tell.
        if number < self._next_row or (self._tail_begun and number != self._next_row):
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
            newest = self._next_row - 1
            fits = head.last_row == newest if self._tail_begun else head.last_row >= newest
            if not self._bad and (not fits or head.sample_pointer > head.last_row):
                raise TamperedError("head does not match the samples", where="head")
            if not self._bad and head.journal_hash != self._journal_hash:
                raise TamperedError("audit log does not end as it should", where="journal")
