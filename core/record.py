"""The person's record in time order, whatever order it arrives in.

A late record, an amendment or a deletion moves ``dirty_us`` back: everything computed from that time on has
to be computed again. The order of events never depends on the order of arrival.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from typing import Final, NamedTuple

from core.errors import InputError
from core.messages import Sample
from core.units import check_value

# Order at one instant: what drives the model first, readings next, acts last (a dose at the time of a
# reading cannot have moved it yet).
RANK: Final = {
    "basal_uph": 0, "heart_rate_bpm": 1, "weight_kg": 1, "smbg_mgdl": 2, "cgm_mgdl": 3,
    "long_acting_u": 4, "bolus_u": 5, "carbs_g": 6, "drug_mg": 7,
}  # fmt: skip
MIN_TIME_US: Final = 0
MAX_TIME_US: Final = 253_402_300_799_000_000  # end of year 9999: beyond it no calendar can show it
MAX_SEQ: Final = 1 << 63

Key = tuple[str, str, int]


class Entry(NamedTuple):
    """One event in the order of processing. Comparison order is field order."""

    time_us: int
    rank: int
    source: str
    seq: int
    kind: str
    value: float
    quality: int


QUARTER_US: Final = 15 * 60_000_000


def cgm_quarters(entries: Iterable[Entry]) -> int:
    """Quarters of an hour with a CGM reading: how much was seen, whatever the sensor's interval."""
    return len({e.time_us // QUARTER_US for e in entries if e.kind == "cgm_mgdl"})


class Record:
    """Sorted events with amendments applied. ``seen`` keeps keys so that duplicates are ignored."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.seen: dict[Key, int] = {}  # key -> time of the event, of everything kept
        self.cancelled: dict[Key, int] = {}  # amended or deleted originals -> time of the amendment
        self.floor_us: int | None = None  # nothing before this time can be used any more
        self.ignored_old = 0

    def add(self, samples: Iterable[Sample]) -> int | None:
        """Insert samples; returns the earliest time touched, or None when nothing changed.

        All samples are checked before the first is inserted: InputError leaves the record as it was.
        """
        batch = list(samples)
        for sample in batch:
            if not (sample.deleted and sample.amends is not None):
                check_value(sample.kind, sample.value, "observe")
            if not MIN_TIME_US <= sample.time_us <= MAX_TIME_US:
                raise InputError("time is outside the calendar", where="observe", mend="microseconds UTC")
            if not -MAX_SEQ <= sample.seq < MAX_SEQ:
                raise InputError("sequence number needs more than 64 bits", where="observe")
        dirty: int | None = None
        for sample in batch:
            touched = self._add_one(sample)
            if touched is not None:
                dirty = touched if dirty is None else min(dirty, touched)
        return dirty

    def _add_one(self, sample: Sample) -> int | None:
        if sample.key in self.seen:
            return None
        if self.floor_us is not None and sample.time_us < self.floor_us:
            self.ignored_old += 1
            return None
        self.seen[sample.key] = sample.time_us
        dirty: int | None = None
        if sample.amends is not None:
            original: Key = (sample.amends[0], sample.kind, sample.amends[1])
            if original != sample.key:
                self.cancelled[original] = sample.time_us
                dirty = self._remove(original)
        if not sample.deleted and sample.key not in self.cancelled and sample.kind in RANK:
            insort(
                self.entries,
                Entry(
                    sample.time_us,
                    RANK[sample.kind],
                    sample.source,
                    sample.seq,
                    sample.kind,
                    sample.value,
                    sample.quality,
                ),
            )
            dirty = sample.time_us if dirty is None else min(dirty, sample.time_us)
        return dirty

    def _remove(self, key: Key) -> int | None:
        time_us = self.seen.get(key)
        if time_us is None:
            return None
        low = bisect_left(self.entries, time_us, key=_time)
        for index in range(low, len(self.entries)):
            entry = self.entries[index]
            if entry.time_us != time_us:
                break
            if (entry.source, entry.kind, entry.seq) == key:
                del self.entries[index]
                return time_us
        return None

    def first_after(self, time_us: int) -> int:
        """Index of the first event later than ``time_us``."""
        return bisect_right(self.entries, time_us, key=_time)

    def between(self, start_us: int, end_us: int) -> list[Entry]:
        """Events with start < time ≤ end."""
        return self.entries[self.first_after(start_us) : self.first_after(end_us)]

    def forget_before(self, time_us: int) -> None:
        """Drop what is older than ``time_us``; it can no longer be amended."""
        self.floor_us = time_us
        del self.entries[: bisect_left(self.entries, time_us, key=_time)]
        self.seen = {key: at for key, at in self.seen.items() if at >= time_us}
        self.cancelled = {key: at for key, at in self.cancelled.items() if at >= time_us}


def _time(entry: Entry) -> int:
    return entry.time_us
