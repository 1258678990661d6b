"""What a repaired store is made of: the rows that are kept, those that are missing, and the report in it from its beginning."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from core.errors import DecodeError
from core.messages import Sample, decode, encode
from edge.store import refill
from edge.store.aggregates import decode_aggregates
from edge.store.chain import remembered, unchained
from edge.store.gather import Kept, ident_of
from edge.store.head import HEAD_ROW, Head
from edge.store.index import Index
from edge.store.journal import Detail, hash_of, make_line
from edge.store.refill import Refill, Wanted
from edge.store.sealing import Sealer, Table, marks, row_ident
from edge.store.segment import encode_segment, read_summary
from edge.store.slots import KeyRecords
from edge.store.store import BATCH_SAMPLES, blob_plain

US_PER_MS: Final = 1000
REPAIR_BLOB: Final = "repair"  # where the hub remembers the last report


class RepairReport(msgspec.Struct, frozen=True):
    """What a repair found and did. Counts are records, by table."""

    time_us: int
    reason: str  # why the store could not be opened: place and kind of damage
    set_aside: str  # the damaged file's new name
    kept: dict[str, int]
    damaged: dict[str, int]  # could not be read, or failed authentication
    distrusted: dict[str, int]  # authentic, but not of this state of the store
    # Samples that no record holds any more since this damage. None: nobody knows, as only the head tells.
    rows_lost: int | None
    first_lost_row: int  # 0 when none is
    # Records of the other tables that the head knows of and that are not kept; segments: of before a thinning, rows uncounted.
    others_lost: dict[str, int] = {}
    missing: tuple[tuple[int, int], ...] = ()  # all spans of lost rows, those of earlier repairs included
    unproven: int = (
        0  # segments that authenticate, but what could vouch for them is damaged as well: not used
    )

    @property
    def tampered(self) -> bool:
        """Whether somebody, not the card, did it: nothing wears out into authentic records."""
        return bool(self.distrusted)


def told(report: RepairReport) -> dict[str, Detail]:
    """For the audit log."""
    return {
        "reason": report.reason,
        "set_aside": report.set_aside,
        "rows_lost": "unknown" if report.rows_lost is None else report.rows_lost,
        "others_lost": sum(report.others_lost.values()),
        "damaged": sum(report.damaged.values()),
        "distrusted": sum(report.distrusted.values()),
        "unproven": report.unproven,
    }


def size_of(plain: bytes) -> int:
    """How many rows a segment holds."""
    return read_summary(unchained(plain)[1]).size


class Rows:
    """Rows of the new store: segments as they are, and of the tail what lies behind its last hole."""

    def __init__(
        self, kept: dict[Table, list[Kept]], old: Head | None, before: Sequence[tuple[int, int]]
    ) -> None:
        segments, tail = kept[Table.SEGMENTS], kept[Table.TAIL]
        spans = [(row, row + size_of(plain) - 1) for row, _, plain in segments]
        end = spans[-1][1] if spans else 0
        tail = [item for item in tail if item[0] > end]
        rows = [row for row, _, _ in tail]
        newest = max([end, *rows])
        self.last_row = newest if old is None else max(newest, old.last_row)
        runs: list[list[Kept]] = []  # rows that follow on one another
        for item in tail:
            if runs and item[0] == runs[-1][-1][0] + 1:
                runs[-1].append(item)
            else:
                runs.append([item])
        spans += [(run[0][0], run[-1][0]) for run in runs]
        self.tail: list[Kept] = runs.pop() if runs and runs[-1][-1][0] == self.last_row else []
        # A tail has no holes: each run before one becomes a segment at its own rows.
        self.folded = runs
        first_kept = 1 if old is None else min([old.chain_from or 1, self.last_row + 1])
        self.missing: list[tuple[int, int]] = []
        expected = first_kept
        for first, last in [*spans, (self.last_row + 1, self.last_row)]:
            if first > expected:
                self.missing.append((expected, first - 1))
            expected = max(expected, last + 1)
        self.first_lost = self.missing[0][0] if self.missing else 0
        new = list(_beyond(self.missing, before))
        self.lost = sum(last - first + 1 for first, last in new)
        self.first_newly_lost = new[0][0] if new else 0


def _beyond(missing: list[tuple[int, int]], before: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans of rows without those of ``before``; both in rising order."""
    for first, last in missing:
        for start, end in before:
            if start <= last and end >= first:
                if start > first:
                    yield first, start - 1
                first = end + 1
        if first <= last:
            yield first, last


def missing_before(blobs: list[Kept], sealer: Sealer) -> tuple[tuple[int, int], ...]:
    """What an earlier repair did not find any more."""
    ident = sealer.name_hash(REPAIR_BLOB)
    for place, _, plain in blobs:
        if place == ident:
            with contextlib.suppress(DecodeError):
                return decode(plain[1 + plain[0] :], RepairReport).missing
    return ()


def fill(
    db: sqlite3.Connection,
    records: KeyRecords,
    kept: dict[Table, list[Kept]],
    rows: Rows,
    old: Head | None,
    sealer: Sealer,
    report: RepairReport,
) -> None:
    """All of a new store, and that it was repaired: a cut right after this must not lose what is to be told and asked."""
    head = Head(sealer.commitment_key)
    db.execute("INSERT INTO identity VALUES (1, ?)", (records.store_id,))
    db.executemany("INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?)", records.slots)
    kept = {**kept, Table.TAIL: rows.tail, Table.KEYRING: [(n, sealed, b"") for n, sealed in records.keyring]}
    for _, _, plain in kept[Table.SEGMENTS]:
        if unchained(plain)[0]:
            head.links = remembered(head.links, plain)
    for run in rows.folded:
        samples = [decode(content, Sample) for _, _, content in run]
        plain = encode_segment(
            samples
        )  # no witness: they may be so short that one page holds all that speak for another
        sealed = sealer.seal(Table.SEGMENTS, row_ident(run[0][0]), plain)
        kept[Table.SEGMENTS] = [*kept[Table.SEGMENTS], (run[0][0], sealed, plain)]
    blobs = {REPAIR_BLOB: encode(report)}
    if rows.first_lost:
        blobs[refill.BLOB] = bytes(_ask_again(kept, rows.first_lost, report.time_us))
    kept[Table.BLOBS] = _with_blobs(kept[Table.BLOBS], blobs, sealer)
    journal = kept[Table.JOURNAL]
    head.journal_last = len(journal) + 1
    before = hash_of(journal[-1][2].decode()) if journal else b""
    line = make_line(head.journal_last, report.time_us, "hub", "store.repaired", told(report), before)
    head.journal_hash = hash_of(line)
    sealed = sealer.seal(Table.JOURNAL, row_ident(head.journal_last), line.encode())
    kept[Table.JOURNAL] = [*journal, (head.journal_last, sealed, line.encode())]
    for table, items in kept.items():
        for place, sealed, _ in items:
            head.add(table, ident_of(table, place), marks(sealed))
        db.executemany(
            f"INSERT INTO {table.name.lower()} VALUES (?, ?)",  # noqa: S608 - constants
            [(place, sealed) for place, sealed, _ in items],
        )
    now_ms = report.time_us // US_PER_MS
    numbers = [number for number, _, _ in kept[Table.OUTBOX]]
    head.last_row = rows.last_row
    head.archive_last = max([n for n, _, _ in kept[Table.ARCHIVE]], default=0)
    if old is None:
        # Numbers that the cloud knows must not come again: time does not repeat itself (Store._next).
        head.generation, head.last_outbox = now_ms, max([now_ms, *numbers])
    else:
        head.generation, head.counters = old.generation + 1, old.counters
        head.last_outbox, head.chain_from = max([old.last_outbox, *numbers]), old.chain_from
        head.archive_last = max(head.archive_last, old.archive_last)
        # Messages that are gone held the newest of the samples that were sent: these are sent again.
        gone = old.counts[Table.OUTBOX] != len(numbers)
        again = old.counts[Table.OUTBOX] * BATCH_SAMPLES if gone else 0
        head.sample_pointer = max(0, min(old.sample_pointer, rows.last_row) - again)
    db.execute("INSERT INTO tail VALUES (?, ?)", (HEAD_ROW, head.seal(sealer)))


def _with_blobs(kept: list[Kept], blobs: dict[str, bytes], sealer: Sealer) -> list[Kept]:
    """The blobs with these in place of those of the same names."""
    fresh = []
    for name, data in blobs.items():
        ident, plain = sealer.name_hash(name), blob_plain(name.encode(), data)
        fresh.append((ident, sealer.seal(Table.BLOBS, ident, plain), plain))
    names = {ident for ident, _, _ in fresh}
    return [*(item for item in kept if item[0] not in names), *fresh]


def _ask_again(kept: dict[Table, list[Kept]], first_lost_row: int, now_us: int) -> Refill:
    """Sensors are asked from before the gap. What was asked for before lies within what is asked for now."""
    index = Index()
    for row, _, plain in kept[Table.SEGMENTS]:
        index.add_segment(row, read_summary(unchained(plain)[1]))
    for row, _, plain in kept[Table.TAIL]:
        index.add_tail(decode(plain, Sample), row)
    for _, _, plain in kept[Table.AGGREGATES]:
        for one in decode_aggregates(plain):
            index.add_aggregate(one)
    wanted = {}
    for source in sorted(index.sources):
        newest = max(index.cursors(source).values())
        floor = index.cursor_before(first_lost_row, source)
        if floor != newest:
            wanted[source] = Wanted(floor, newest)
    return Refill(now_us, wanted)
