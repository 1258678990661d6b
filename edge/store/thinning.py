"""From raw readings to aggregates: the oldest first, a few segments per transaction, events untouched.

Doses, meals, entries by hand and whatever was amended stay as records for ever (aggregates.may_thin). What is thinned
stays known by its time (known.py), so that a sensor which tells its history again adds nothing twice.

An average can never be undone, so one is made only where it is clearly smaller than the readings it stands for: 5-min
averages of a 5-min sensor need half as much again as its readings, hourly ones a sixth.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from core.errors import DecodeError, StoreError, TamperedError
from core.messages import Sample
from core.units import US_PER_DAY
from edge.store.aggregates import (
    COARSE_US,
    DENSE_KINDS,
    FINE_US,
    Series,
    aggregate,
    coarser,
    decode_aggregates,
    encode_aggregates,
    may_thin,
)
from edge.store.chain import chained, unchained
from edge.store.database import NO_SPACE, PAGE_BYTES, reported
from edge.store.head import Head
from edge.store.journal import Detail
from edge.store.sealing import Table, marks, row_ident
from edge.store.segment import encode_segment, read_summary

if TYPE_CHECKING:
    from edge.store.store import Store

# Samples of one step: some 3 MiB while they are unpacked and a tenth of a second on a Pi.
BATCH_ROWS: Final = 8192
# Room inside the file that is enough to go on with: two weeks of a CGM, six hours of a strap at one reading a second.
RESERVE_BYTES: Final = 64 << 10
# Of the averages' widths those that save enough are taken, the finest first.
YOUNG: Final = (FINE_US,)
OLD: Final = (COARSE_US,)
FOR_SPACE: Final = (FINE_US, COARSE_US)
# A series is judged by its first so many readings in a batch: packing them a second time takes longer than anything else.
_JUDGED_ROWS: Final = 2048
_NOTE_BYTES: Final = 320  # at most: the sealed line of the audit log
# Thinning itself writes to the log, some 200 kB a step. On a disk that somebody filled to the last byte it could not,
# so this much is held and given up then.
SPARE_SUFFIX: Final = ".spare"
SPARE_BYTES: Final = 512 << 10
_BLOCK_BYTES: Final = 512  # of stat(2)
# Time has come so far when there are sensors' readings of so many days within so long. A hub whose clock was ahead for
# less than that has thinned nothing; one that was off for a year thins when it was on again for as many days.
SURE_DAYS: Final = 7
SURE_WITHIN_DAYS: Final = 60
NEVER_US: Final = -(1 << 63)


def with_room(store: Store, commit: Callable[[], None]) -> None:
    """``commit``; where the disk is full, again in a log begun anew, and again with the spare room.

    The spare only where the file has room inside, so that all of it is the log's; else it is held for thinning.
    """
    ways = iter((store.begin_log_anew, store.thinner.use_spare_for_log))
    while True:
        try:
            return commit()
        except StoreError as err:
            if err.what != NO_SPACE or store._in_doubt or not any(way() for way in ways):
                raise


class Thinner:
    """Thins one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._coarse_after = 0  # records up to here are coarse, or too young when last looked at
        # By widths: the first row to look at, and the last one of the batch that was not yet full and saved nothing.
        self._looked: dict[tuple[int, ...], tuple[int, int]] = {}

    def thin(
        self,
        before_us: int,
        widths_us: tuple[int, ...] = YOUNG,
        *,
        unsent: bool = False,
        cloud: bool = True,
        why: str = "age",
    ) -> int | None:
        """Thin the next batch of readings older than ``before_us``; how many became averages. None: no batch is left.

        0: they stay as they are, since averages would save too little; what was looked at once is not looked at again.
        Only what the cloud has acknowledged, unless ``unsent``; without a ``cloud`` nothing waits to be sent.
        """
        store = self._store
        with store._mutex:
            store._check_usable()
            begin, seen = self._looked.get(widths_us, (0, 0))
            places, is_full = self._candidates(begin, before_us, unsent, cloud)
            if not places:
                return None
            last = store._index.first_rows[places[-1]] + store._index.sizes[places[-1]] - 1
            count = self._thin(places, widths_us, why) if last != seen else 0
            done = is_full or count > 0
            self._looked[widths_us] = (last + 1, 0) if done else (begin, last)
            return count if done else None

    def may(self, before_us: int, *, cloud: bool = True) -> bool:
        """Whether ``thin`` would find something older than ``before_us``."""
        with self._store._mutex:
            begin, _ = self._looked.get(YOUNG, (0, 0))
            return bool(self._candidates(begin, before_us, unsent=False, cloud=cloud)[0])

    def sure_us(self, now_us: int) -> int:
        """The latest time, by ``now_us``, that surely has come: few days of a wrong clock do not move it."""
        with self._store._mutex:
            days = self._store._index.days(DENSE_KINDS)
        past = sorted((day for day in days if day * US_PER_DAY <= now_us), reverse=True)
        for newest, oldest in zip(past, past[SURE_DAYS - 1 :], strict=False):
            if newest - oldest < SURE_WITHIN_DAYS:
                return oldest * US_PER_DAY
        return NEVER_US

    def settled_us(self) -> int:
        """Before the newest two days with readings: sensors rarely tell late what is older.

        An hour that became one average counts as known as a whole, also where a gap in it is filled only later.
        """
        with self._store._mutex:
            now_us = self._store._clock.now_us()
            days = [day for day in self._store._index.days(DENSE_KINDS) if day * US_PER_DAY <= now_us]
        return (max(days) - 1) * US_PER_DAY if days else NEVER_US

    def _candidates(self, begin: int, before_us: int, unsent: bool, cloud: bool) -> tuple[list[int], bool]:
        """Neighbouring segments with dense readings, from row ``begin`` on, and whether no more can ever join them."""
        store, index = self._store, self._store._index
        pointer = store.sample_pointer
        sent = store.acknowledged_row if cloud else store.last_row
        limit = store.last_row if unsent else sent
        found: list[int] = []
        rows = 0
        for place in range(bisect_left(index.first_rows, begin), len(index.first_rows)):
            first = index.first_rows[place]
            last = first + index.sizes[place] - 1
            if not index.has_kinds(place, DENSE_KINDS):
                if found:
                    return found, True
                continue
            if last > limit or index.newest_us(place) >= before_us:
                break
            if (rows := rows + index.sizes[place]) > BATCH_ROWS:
                return found, True
            if cloud and first <= pointer < last:
                break  # the next message is made of a part of it
            if cloud and found and (index.first_rows[found[0]] <= pointer) != (first <= pointer):
                return found, True
            found.append(place)
        return found, False

    def _thin(self, places: list[int], widths_us: tuple[int, ...], why: str) -> int:
        store, index = self._store, self._store._index
        samples = [sample for place in places for sample in store._segment(place)]
        dense: dict[tuple[str, str], list[Sample]] = {}
        for sample in samples:
            if may_thin(sample) and not index.is_amended(sample.key):
                dense.setdefault((sample.source, sample.kind), []).append(sample)
        series: list[Series] = []
        thinned: set[tuple[str, str, int]] = set()
        for _, readings in sorted(dense.items()):
            if (width_us := self._width_us(readings, widths_us)) is not None:
                series.extend(aggregate(readings, width_us))
                thinned.update(s.key for s in readings)
        if not series:
            return 0
        events = [s for s in samples if s.key not in thinned]
        first = index.first_rows[places[0]]
        end = index.first_rows[places[-1]] + index.sizes[places[-1]]
        size, seal = store.fold_samples, store._sealer.seal
        segments = [
            (first + at, chained(encode_segment(events[at : at + size]), b""))
            for at in range(0, len(events), size)
        ]
        anew = [(row, seal(Table.SEGMENTS, row_ident(row), data)) for row, data in segments]
        rows = [index.first_rows[place] for place in places]
        old = [
            (row, store._sealed("SELECT sealed FROM segments WHERE number = ?", row, f"segments {row}"))
            for row in rows
        ]
        with reported(store._path):
            [(newest,)] = store._db.execute("SELECT max(number) FROM aggregates").fetchall()
        # Their first row, unless that is taken: by what was thinned before, or as a repair without a head does not know
        # how far thinning had come.
        number = max(first, (newest or 0) + 1)
        averages = seal(Table.AGGREGATES, row_ident(number), encode_aggregates(series))
        after = sum(len(sealed) for _, sealed in anew) + len(averages) + _NOTE_BYTES
        if after >= sum(len(sealed) for _, sealed in old):
            return 0
        told: dict[str, Detail] = {
            "readings": len(thinned),
            "first_row": first,
            "last_row": end - 1,
            "why": why,
        }

        def write(head: Head) -> None:
            for row, sealed in old:
                head.remove(Table.SEGMENTS, row_ident(row), marks(sealed))
                store._db.execute("DELETE FROM segments WHERE number = ?", (row,))
            store._insert(head, Table.SEGMENTS, anew)
            store._insert(head, Table.AGGREGATES, [(number, averages)])
            head.chain_from = max(head.chain_from, end)
            store._note(head, "hub", "store.thinned", told)

        def remember() -> None:
            store._unpacked.clear()
            summaries = [(row, read_summary(unchained(data)[1])) for row, data in segments]
            index.replace(places, summaries)
            for one in series:
                index.add_aggregate(one)

        store._change(write, remember)
        return len(thinned)

    def _width_us(self, readings: Sequence[Sample], widths_us: tuple[int, ...]) -> int | None:
        """The first width whose averages take at most three quarters of the room of these readings of one series."""
        part, size = readings[:_JUDGED_ROWS], self._store.fold_samples
        raw = sum(len(encode_segment(part[at : at + size])) for at in range(0, len(part), size))
        for width_us in widths_us:
            if 4 * len(encode_aggregates(aggregate(part, width_us))) <= 3 * raw:
                return width_us
        return None

    def coarsen(self, before_us: int) -> bool:
        """Make the next record of fine aggregates hourly, if it ends before ``before_us``; False when none is left."""
        store = self._store
        with store._mutex:
            store._check_usable()
            with reported(store._path):
                row = store._db.execute(
                    "SELECT number, sealed FROM aggregates WHERE number > ? ORDER BY number LIMIT 1",
                    (self._coarse_after,),
                ).fetchone()
            if row is None:
                return False
            number, sealed = row
            series = _decoded(store, number, sealed)
            if max((b.start_us for one in series for b in one.buckets), default=0) >= before_us:
                return False
            if any(one.width_us < COARSE_US for one in series):
                ident = row_ident(number)
                anew = store._sealer.seal(Table.AGGREGATES, ident, encode_aggregates(coarser(series)))

                def write(head: Head) -> None:
                    head.remove(Table.AGGREGATES, ident, marks(sealed))
                    head.add(Table.AGGREGATES, ident, marks(anew))
                    store._db.execute("UPDATE aggregates SET sealed = ? WHERE number = ?", (anew, number))

                store._change(write)
            self._coarse_after = number
            return True

    def read(self, after: int, limit: int) -> list[tuple[int, tuple[Series, ...]]]:
        """At most ``limit`` records of aggregates with their numbers, oldest first."""
        store = self._store
        with store._mutex:
            store._check_usable()
            with reported(store._path):
                rows = store._db.execute(
                    "SELECT number, sealed FROM aggregates WHERE number > ? ORDER BY number LIMIT ?",
                    (max(0, after), max(0, limit)),
                ).fetchall()
            return [(number, _decoded(store, number, sealed)) for number, sealed in rows]

    def hold_spare(self) -> bool:
        """Hold the spare room, now that there is some; False when there is not."""
        path = self._spare
        with self._store._mutex:
            self._store._check_usable()  # an erased store leaves no file behind
            try:
                with contextlib.suppress(FileNotFoundError):
                    # Of a cut amid the making nothing may be left but the name.
                    if path.lstat().st_blocks * _BLOCK_BYTES >= SPARE_BYTES:
                        return True
                    path.unlink()
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(handle, 0, SPARE_BYTES)
                finally:
                    os.close(handle)
            except OSError:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                return False
            return True

    def use_spare_for_log(self) -> bool:
        """``use_spare``, if what is written then makes the log longer and not the file."""
        return self.reserve_bytes() >= RESERVE_BYTES and self.use_spare()

    def use_spare(self) -> bool:
        """Give the spare room to the log, and begin the log anew where it can; False when there is none to give."""
        store = self._store
        with store._mutex:
            store._check_usable()
            try:
                self._spare.unlink()
            except OSError:
                return False
            store.begin_log_anew()
            return True

    @property
    def _spare(self) -> Path:
        return self._store._path.with_name(self._store._path.name + SPARE_SUFFIX)

    def free_bytes(self) -> int:
        """On the disk, for everybody."""
        disk = os.statvfs(self._store._path.parent)
        return disk.f_bavail * disk.f_frsize

    def reserve_bytes(self) -> int:
        """Inside the file: pages that hold nothing any more and are written before the file grows."""
        store = self._store
        with store._mutex, reported(store._path):
            pages: int = store._db.execute("PRAGMA freelist_count").fetchone()[0]
            return pages * PAGE_BYTES


def _decoded(store: Store, number: int, sealed: object) -> tuple[Series, ...]:
    plain = store._sealer.open(Table.AGGREGATES, row_ident(number), sealed)
    try:
        return decode_aggregates(plain)
    except DecodeError as err:
        raise TamperedError(err.what, where=f"aggregates {number}") from None
