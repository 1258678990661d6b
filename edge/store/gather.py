"""All records of a damaged store that authenticate: those that SQLite reaches, and what hangs on its bad pages (leaves.py).

A free page may hold records that were folded, thinned, done with or written anew since, and all of them authenticate. They
are told from those that live by the list of free pages. Where that is damaged as well, by the head: by its sums, by the
rows that the tail can have, by what thinning would have left. Of what it still cannot tell nothing is used. Without list and
head there is nothing to tell by, and the newest of each place is taken.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from core.errors import DecodeError, TamperedError
from core.messages import Sample, decode
from edge.store.aggregates import decode_aggregates, may_thin
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

    def __init__(self) -> None:
        self._by_place: dict[Any, tuple[tuple[int, ...], Kept]] = {}

    def add(self, rowid: int, kept: Kept, table: Table) -> None:
        place, sealed, plain = kept
        # A blob that is written anew gets a greater rowid. A record that is sealed anew, a greater number of its key.
        age: tuple[int, ...] = (rowid, sealed[1])
        if table is Table.AGGREGATES:
            age += (max((one.width_us for one in decode_aggregates(plain)), default=0),)
        if place not in self._by_place or age > self._by_place[place][0]:
            self._by_place[place] = age, kept

    def newest(self) -> list[Kept]:
        return [self._by_place[place][1] for place in sorted(self._by_place)]


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
    newest, tail = 0, _Offers()
    for cell in leaves.cells():
        if kept := opened(Table.TAIL, cell.place, cell.sealed, sealer):
            newest = max(newest, kept[0])
            if _in_tail(kept, head):
                tail.add(cell.rowid, kept, Table.TAIL)
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
    Table.SEGMENTS: lambda plain: decode_segment(unchained(plain)[1]),
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
    for table in ROW_TABLES:
        rows, whole = read_rows(db, table)
        walked = [(rowid, kept) for rowid, *row in rows if (kept := opened(table, row[0], row[1], sealer))]
        good = [kept for _, kept in walked]
        found[table] = Found(good, len(rows) - len(good) + (not whole))
        if not whole or (old is not None and not agrees(old, table, good, sealer)):
            hiding[table] = _Offers()
            for rowid, kept in [] if leaves.sure else walked:
                hiding[table].add(rowid, kept, table)
    for cell in leaves.cells() if hiding else ():
        for table, offers in hiding.items():
            if isinstance(cell.place, bytes) == (table is Table.BLOBS) and (
                kept := opened(table, cell.place, cell.sealed, sealer)
            ):
                offers.add(cell.rowid, kept, table)
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
        ends = (
            b.start_us + s.width_us
            for _, _, plain in averages
            for s in decode_aggregates(plain)
            for b in s.buckets
        )
        end_us = max(ends, default=0)
        reached = {row for row, _, _ in walked}
        return [kept for kept in offered if kept[0] in reached or not _was_thinned(kept, old, end_us)]
    return offered


def _in_tail(kept: Kept, head: Head) -> bool:
    row: int = kept[0]
    return head.last_row - head.counts[Table.TAIL] < row <= head.last_row


def _was_thinned(kept: Kept, old: Head | None, end_us: int) -> bool:
    """Whether a segment holds readings of which averages (up to ``end_us``) have taken the place."""
    if old is not None and kept[0] >= old.chain_from:
        return False
    samples = decode_segment(unchained(kept[2])[1])
    return any(may_thin(one) and (old is not None or one.time_us < end_us) for one in samples)
