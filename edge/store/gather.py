"""All records of a damaged store that authenticate: those that SQLite reaches, and what hangs on its bad pages (leaves.py).

A free page may hold records that were folded, thinned, done with or written anew since, and all of them authenticate. They
are told from those that live by the list of free pages. Where that is damaged as well, by the head: by its sums, by the
rows that the tail can have, by the averages that stand for readings. Of what it still cannot tell nothing is used. Without list and
head there is nothing to tell by, and the newest of each place is taken.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from core.errors import DecodeError, TamperedError
from core.messages import Sample, decode
from edge.store.aggregates import COARSE_US, FINE_US, decode_aggregates, may_thin
from edge.store.chain import unchained
from edge.store.head import COMMITTED, Head
from edge.store.journal import read_line
from edge.store.leaves import Leaves
from edge.store.salvage import read_head_record, read_rows
from edge.store.sealing import Sealer, Table, marks, row_ident
from edge.store.segment import decode_segment, read_summary

ROW_TABLES: Final[tuple[Table, ...]] = tuple(t for t in COMMITTED if t is not Table.KEYRING)
# Their records say nothing of their age: an old one is told from a live one by the sums alone.
_AGELESS: Final = (Table.OUTBOX, Table.BLOBS, Table.ARCHIVE)
Kept = tuple[Any, bytes, bytes]  # number or name hash, record, content


class Found(NamedTuple):
    """Of one table: records that authenticate, and how many do not."""

    good: list[Kept]
    bad: int


class _Offers:
    """Of one table: at each place the newest record."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._by_place: dict[Any, tuple[int, Kept]] = {}

    def add(self, rowid: int, kept: Kept) -> None:
        there = self._by_place.get(kept[0])
        if there is None or self._age(rowid, kept) > self._age(*there):
            self._by_place[kept[0]] = rowid, kept

    def newest(self) -> list[Kept]:
        return [self._by_place[place][1] for place in sorted(self._by_place)]

    def _age(self, rowid: int, kept: Kept) -> tuple[int, ...]:
        """A blob that is written anew gets a greater rowid; a record that is sealed anew, a greater number of its key."""
        plain, thinned = kept[2], (0, 0)
        if self._table is Table.AGGREGATES:
            thinned = max((one.width_us for one in decode_aggregates(plain)), default=0), 0
        elif self._table is Table.SEGMENTS:
            thinned = not _is_linked(plain), -sum(map(may_thin, _samples(plain)))
        return rowid, kept[1][1], *thinned


def _samples(plain: bytes) -> list[Sample]:
    return decode_segment(unchained(plain)[1])


def read_head(db: sqlite3.Connection, sealer: Sealer, leaves: Leaves) -> Head | None:
    """The head, or None when it is damaged or sealed with another key."""
    lying = [head for record in leaves.heads if (head := _opened_head(record, sealer))]
    newest = max(lying, key=lambda head: head.generation, default=None)
    if newest is not None and leaves.sure:
        return newest
    reached = _opened_head(read_head_record(db), sealer)
    return reached or (newest if newest is not None and _is_newest(newest, sealer, leaves) else None)


def _opened_head(record: object, sealer: Sealer) -> Head | None:
    try:
        return Head.open(sealer, record)
    except TamperedError:
        return None


def _is_newest(head: Head, sealer: Sealer, leaves: Leaves) -> bool:
    """Whether a head from a page that may be free is one that the newest samples know."""
    newest, tail = 0, _Offers(Table.TAIL)
    for cell in leaves.cells():
        if kept := opened(Table.TAIL, cell.place, cell.sealed, sealer):
            newest = max(newest, kept[0])
            if _in_tail(kept, head):
                tail.add(cell.rowid, kept)
        elif kept := opened(Table.SEGMENTS, cell.place, cell.sealed, sealer):
            newest = max(newest, kept[0] + read_summary(unchained(kept[2])[1]).size - 1)
    return newest == head.last_row and agrees(head, Table.TAIL, tail.newest(), sealer)


def agrees(head: Head, table: Table, records: Iterable[Kept], sealer: Sealer) -> bool:
    """Whether the head commits to these records of a table, no more and no fewer."""
    sums = Head(sealer.commitment_key)
    for place, sealed, _ in records:
        sums.add(table, ident_of(table, place), marks(sealed))
    return sums.agrees(head, table)


def ident_of(table: Table, place: Any) -> bytes:
    """A place as it is sealed."""
    ident: bytes = place if table is Table.BLOBS else row_ident(place)
    return ident


_CHECKS: Final[dict[Table, Callable[[bytes], Any]]] = {
    Table.SEGMENTS: _samples,
    Table.TAIL: lambda plain: decode(plain, Sample),
    Table.AGGREGATES: decode_aggregates,
    Table.JOURNAL: lambda plain: read_line(plain.decode()),
}


def opened(table: Table, place: Any, sealed: object, sealer: Sealer) -> Kept | None:
    """The record with its content; None when it does not authenticate at this place."""
    try:
        plain = sealer.open(table, ident_of(table, place), sealed)
        _CHECKS.get(table, lambda _: None)(plain)
    except (TamperedError, DecodeError, TypeError, AttributeError, OverflowError, ValueError):
        return None
    assert isinstance(sealed, bytes)
    return place, sealed, plain


def gather(db: sqlite3.Connection, leaves: Leaves, old: Head | None, sealer: Sealer) -> dict[Table, Found]:
    """Of each table what authenticates and lives. What is left out as it may be old does not count as bad."""
    found, hiding = {}, dict[Table, _Offers]()
    known: dict[Table, dict[Any, Kept]] = {}  # opened once is enough: years of data take minutes on a Pi
    for table in ROW_TABLES:
        rows, whole = read_rows(db, table)
        walked = [(rowid, kept) for rowid, *row in rows if (kept := opened(table, row[0], row[1], sealer))]
        good = [kept for _, kept in walked]
        found[table] = Found(good, len(rows) - len(good) + (not whole))
        if not whole or (old is not None and not agrees(old, table, good, sealer)):
            hiding[table] = _Offers(table)
            known[table] = {kept[0]: kept for kept in good}
            for rowid, kept in [] if leaves.sure else walked:
                hiding[table].add(rowid, kept)
    for cell in leaves.cells() if hiding else ():
        for table, offers in hiding.items():
            if isinstance(cell.place, bytes) != (table is Table.BLOBS):
                continue
            kept = known[table].get(cell.place)
            if kept is None or kept[1] != cell.sealed:
                kept = opened(table, cell.place, cell.sealed, sealer)
            if kept is not None:
                offers.add(cell.rowid, kept)
                break
    offered = {table: offers.newest() for table, offers in hiding.items()}
    averages = offered.get(Table.AGGREGATES, found[Table.AGGREGATES].good)
    for table, records in offered.items():
        seen = found[table]
        if not leaves.sure:
            records = _living(table, records, seen.good, old, sealer, averages)
        lost = old is None or not agrees(old, table, records, sealer)
        # Where not all of it was reached there is damage, whatever the rest says.
        changed = {place: sealed for place, sealed, _ in records} != {
            place: sealed for place, sealed, _ in seen.good
        }
        found[table] = Found(records, max(seen.bad, changed) * lost)
    return found


def _living(
    table: Table,
    offered: list[Kept],
    walked: list[Kept],
    old: Head | None,
    sealer: Sealer,
    averages: list[Kept],
) -> list[Kept]:
    """Of records some of which may lie on free pages, those that live."""
    if table in _AGELESS and old is not None:
        newest = offered[len(offered) - old.counts[table] :] if len(offered) > old.counts[table] else offered
        return newest if agrees(old, table, newest, sealer) else walked
    if table is Table.TAIL and old is not None:
        return [kept for kept in offered if _in_tail(kept, old)]
    if table is Table.SEGMENTS:
        return _unthinned(offered, {row for row, _, _ in walked}, old, averages)
    return offered


def _unthinned(offered: list[Kept], walked: set[int], old: Head | None, averages: list[Kept]) -> list[Kept]:
    """Without segments of before a thinning: averages took the place of readings in them, and the rest lives elsewhere."""
    averaged: dict[tuple[str, str, int], set[int]] = {}
    for _, _, plain in averages:
        for one in decode_aggregates(plain):
            starts = averaged.setdefault((one.source, one.kind, one.width_us), set())
            starts.update(bucket.start_us for bucket in one.buckets)
    living, keys = list[Kept](), set[tuple[str, str, int]]()
    # What thinning wrote comes before what it may have been made of.
    for kept in sorted(offered, key=lambda kept: (kept[0] not in walked, _is_linked(kept[2]), kept[0])):
        samples = _samples(kept[2])
        its_keys = {one.key for one in samples}
        may_be_old = kept[0] not in walked and (old is None or kept[0] < old.chain_from)
        if may_be_old and (its_keys & keys or any(_is_averaged(one, averaged) for one in samples)):
            continue
        living.append(kept)
        keys |= its_keys
    return sorted(living)


def _is_averaged(sample: Sample, averaged: dict[tuple[str, str, int], set[int]]) -> bool:
    return may_thin(sample) and any(
        sample.time_us - sample.time_us % width_us in averaged.get((sample.source, sample.kind, width_us), ())
        for width_us in (FINE_US, COARSE_US)
    )


def _is_linked(plain: bytes) -> bool:
    """Whether a segment is linked to others, as those that thinning writes are not."""
    return any(map(any, unchained(plain)[0]))


def _in_tail(kept: Kept, head: Head) -> bool:
    row: int = kept[0]
    return head.last_row - head.counts[Table.TAIL] < row <= head.last_row
