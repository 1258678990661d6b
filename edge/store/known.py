"""What of one series is only there as aggregates, and so is known: spans of time, and the greatest number in them.

Numbers alone cannot tell: many sensors have none, their readings are numbered by time, and a hub whose clock is behind
(a Pi boots in 1970) or once was ahead numbers new readings below old ones. Such a reading must be stored.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from core.messages import Quality, Sample
from core.units import US_PER_DAY
from edge.store.aggregates import FINE_US, Series

# Spans that one series may have in memory. Beyond, those with the least time between them are told as one: a reading
# that comes late for so short a gap, long ago, is lost then.
MOST_SPANS: Final = 4096
# A history told again is of the past. What arrives as it is made is new, whatever its time says: the clock may have
# been set to where there are readings already. No finer than that, as a hub that is busy stores late.
LIVE_US: Final = FINE_US


class Known:
    """Spans [start, end) in rising order, apart from one another."""

    def __init__(self) -> None:
        self.seq_max = -(1 << 63)
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, aggregate: Series) -> None:
        """Buckets of this series hold readings; adjacent ones become one span."""
        self.seq_max = max(self.seq_max, aggregate.seq_max)
        width_us = aggregate.width_us
        added = [(bucket.start_us, bucket.start_us + width_us) for bucket in aggregate.buckets]
        begin = len(self._starts) - 1  # usually it is later than all before: only the last span can grow
        if begin < 0 or not added or added[0][0] < self._starts[begin]:
            begin = 0
        spans = zip(self._starts[begin:], self._ends[begin:], strict=True)
        joined = list(_joined(sorted([*spans, *added])))
        self._starts[begin:], self._ends[begin:] = [s for s, _ in joined], [e for _, e in joined]
        if len(self._starts) > MOST_SPANS:
            self._join_the_nearest()

    def holds(self, sample: Sample) -> bool:
        """Whether this reading is part of an aggregate, as far as that can be told."""
        if sample.seq > self.seq_max:
            return False
        at = bisect_right(self._starts, sample.time_us) - 1
        if at < 0 or sample.time_us >= self._ends[at]:
            return False
        is_old = sample.received_us - sample.time_us > LIVE_US
        return is_old or bool(sample.quality & (Quality.BACKFILLED | Quality.RETURNED))

    def days(self) -> Iterator[int]:
        """Days since 1970 with such readings, newest first, some more than once."""
        for start_us, end_us in zip(reversed(self._starts), reversed(self._ends), strict=True):
            yield from range((end_us - 1) // US_PER_DAY, start_us // US_PER_DAY - 1, -1)

    def _join_the_nearest(self) -> None:
        """Half as many spans."""
        starts, ends = self._starts, self._ends
        gaps = sorted(range(1, len(starts)), key=lambda i: starts[i] - ends[i - 1])
        closed = set(gaps[: len(starts) - MOST_SPANS // 2])
        kept = [i for i in range(len(starts)) if i not in closed]
        lasts = [*(i - 1 for i in kept[1:]), len(starts) - 1]
        self._starts, self._ends = [starts[i] for i in kept], [ends[i] for i in lasts]


def _joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Rising spans, those that touch as one."""
    start_us = end_us = None
    for start, end in spans:
        if end_us is None or start_us is None:
            start_us, end_us = start, end
        elif start <= end_us:
            end_us = max(end_us, end)
        else:
            yield start_us, end_us
            start_us, end_us = start, end
    if start_us is not None and end_us is not None:
        yield start_us, end_us
