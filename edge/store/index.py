"""What the store keeps in memory to find samples: the tail, and one line per segment and series.

Plain arrays: a year of minute-by-minute readings is some 2,000 segments and under half a MiB.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, repeat
from operator import gt

from core.messages import Sample
from core.units import US_PER_DAY
from edge.store import aggregates
from edge.store.known import Known
from edge.store.segment import Summary

Series = tuple[str, str]  # source, kind
Key = tuple[str, str, int]  # source, kind, seq


class _Spans:
    """The segments that hold one series, oldest first."""

    def __init__(self) -> None:
        self.segment = array("q")
        self.seq_min = array("q")
        self.seq_max = array("q")
        self.seq_peak = array("q")  # the greatest so far: what lies before is no greater
        self.time_min_us = array("q")
        self.time_max_us = array("q")

    def _columns(self) -> tuple[array[int], ...]:
        return (self.segment, self.seq_min, self.seq_max, self.seq_peak, self.time_min_us, self.time_max_us)

    def without(self, low: int, high: int, shift: int) -> _Spans:
        """A copy without the segments low..high-1; the places of later ones moved by ``shift``."""
        kept = [i for i, place in enumerate(self.segment) if not low <= place < high]
        copy = _Spans()
        for mine, column in zip(copy._columns(), self._columns(), strict=True):
            mine.extend(column[i] for i in kept)
        for i, place in enumerate(copy.segment):
            if place >= high:
                copy.segment[i] = place + shift
        return copy

    def in_order(self) -> _Spans:
        """A copy with rising places, and peaks that are right again."""
        order = sorted(range(len(self.segment)), key=self.segment.__getitem__)
        copy = _Spans()
        for mine, column in zip(copy._columns(), self._columns(), strict=True):
            mine.extend(column[i] for i in order)
        copy.seq_peak = array("q", accumulate(copy.seq_max, max))
        return copy


class Index:
    """Rows start at 1 and rise. Segments hold the first ones, the tail the rest.

    Rows may be missing between segments: thinned to aggregates, or lost to damage.
    """

    def __init__(self) -> None:
        self.first_rows = array("q")  # of each segment
        self.sizes = array("q")
        self.tail: list[Sample] = []
        self.tail_first_row = 1
        self._tail_keys: set[Key] = set()
        self._spans: dict[Series, _Spans] = {}
        self._cursors: dict[Series, int] = {}
        self.thinned: dict[Series, Known] = {}  # what is left only as aggregates
        self._amended: dict[Key, int] = {}  # key -> row of its last amendment

    @property
    def last_row(self) -> int:
        return self.tail_first_row + len(self.tail) - 1

    def add_segment(self, first_row: int, summary: Summary) -> None:
        """The next segment, in row order; the tail must be empty or begin with these very rows."""
        place = len(self.first_rows)
        self.first_rows.append(first_row)
        self.sizes.append(summary.size)
        self._add_spans(place, summary)
        for amendment in summary.amendments:
            self._note_amendment(amendment.target, first_row + amendment.position)
        self._tail_keys.difference_update(s.key for s in self.tail[: summary.size])
        del self.tail[: summary.size]
        self.tail_first_row = first_row + summary.size

    def _add_spans(self, place: int, summary: Summary) -> None:
        for span in summary.spans:
            series = (span.source, span.kind)
            spans = self._spans.setdefault(series, _Spans())
            spans.segment.append(place)
            spans.seq_min.append(span.seq_min)
            spans.seq_max.append(span.seq_max)
            spans.seq_peak.append(max(span.seq_max, spans.seq_peak[-1] if spans.seq_peak else span.seq_max))
            spans.time_min_us.append(span.time_min_us)
            spans.time_max_us.append(span.time_max_us)
            self._cursors[series] = max(self._cursors.get(series, span.seq_max), span.seq_max)

    def replace(self, places: Sequence[int], summaries: Sequence[tuple[int, Summary]]) -> None:
        """Put segments (first row, summary) in the place of neighbours, whose rows they do not leave."""
        low, high = places[0], places[-1] + 1
        first_row, end = self.first_rows[low], self.first_rows[high - 1] + self.sizes[high - 1]
        shift = len(summaries) - (high - low)
        before = self._spans
        self._spans = {}
        for series, spans in before.items():
            self._spans[series] = spans.without(low, high, shift)
        self.first_rows[low:high] = array("q", [row for row, _ in summaries])
        self.sizes[low:high] = array("q", [summary.size for _, summary in summaries])
        for place, (_, summary) in enumerate(summaries, low):
            self._add_spans(place, summary)
        self._spans = {
            series: spans.in_order() for series, spans in self._spans.items() if len(spans.segment)
        }
        self._amended = {k: row for k, row in self._amended.items() if not first_row <= row < end}
        for row, summary in summaries:
            for amendment in summary.amendments:
                self._note_amendment(amendment.target, row + amendment.position)

    def newest_us(self, place: int) -> int:
        """Time of the newest sample in a segment."""
        return max((spans.time_max_us[at] for _, spans, at in self._of(place)), default=0)

    def has_kinds(self, place: int, kinds: Collection[str]) -> bool:
        """Whether a segment holds samples of any of these kinds."""
        return any(kind in kinds for kind, _, _ in self._of(place))

    def _of(self, place: int) -> Iterator[tuple[str, _Spans, int]]:
        """Kind and span of each series in a segment."""
        for (_, kind), spans in self._spans.items():
            at = bisect_left(spans.segment, place)
            if at < len(spans.segment) and spans.segment[at] == place:
                yield kind, spans, at

    def days(self, kinds: Collection[str]) -> set[int]:
        """Days since 1970 that surely have readings of these kinds; of a segment only its first and last."""
        days = {s.time_us // US_PER_DAY for s in self.tail if s.kind in kinds}
        for (_, kind), spans in self._spans.items():
            if kind in kinds:
                days.update(
                    t // US_PER_DAY for column in (spans.time_min_us, spans.time_max_us) for t in column
                )
        for (_, kind), known in self.thinned.items():
            if kind in kinds:
                days.update(known.days())
        return days

    def amended_rows(self) -> list[tuple[Key, int]]:
        """Keys that were amended, with the row of their last amendment."""
        return list(self._amended.items())

    def is_amended(self, key: Key) -> bool:
        """Whether a later record replaces or deletes this one."""
        return key in self._amended

    def add_aggregate(self, aggregate: aggregates.Series) -> None:
        """Samples of this series in its buckets are only there as aggregates: they are known, not new."""
        series, seq_max = (aggregate.source, aggregate.kind), aggregate.seq_max
        self.thinned.setdefault(series, Known()).add(aggregate)
        self._cursors[series] = max(self._cursors.get(series, seq_max), seq_max)

    def add_tail(self, sample: Sample, row: int | None = None) -> None:
        """The next sample; ``row`` is that of the tail's first, when rows are missing before it."""
        if row is not None and not self.tail:
            self.tail_first_row = row
        self.tail.append(sample)
        self._tail_keys.add(sample.key)
        series = (sample.source, sample.kind)
        self._cursors[series] = max(self._cursors.get(series, sample.seq), sample.seq)
        if sample.amends is not None:
            self._note_amendment((sample.amends[0], sample.kind, sample.amends[1]), self.last_row)

    def cursors(self, source: str) -> dict[str, int]:
        """Greatest sequence number by kind."""
        return {kind: seq for (name, kind), seq in self._cursors.items() if name == source}

    @property
    def sources(self) -> set[str]:
        """All that ever gave a sample."""
        return {source for source, _ in self._cursors}

    def cursor_before(self, row: int, source: str) -> int | None:
        """Greatest sequence number of ``source`` among segments that begin before ``row``."""
        place = bisect_right(self.first_rows, row) - 1
        seqs = [
            seq
            for (name, _), spans in self._spans.items()
            if name == source
            for at, seq in zip(spans.segment, spans.seq_max, strict=True)
            if at <= place
        ]
        return max(
            seqs + [known.seq_max for (name, _), known in self.thinned.items() if name == source],
            default=None,
        )

    def are_new(self, samples: Sequence[Sample]) -> bool:
        """Whether surely none of these is here, nor twice among them: each comes after all of its series."""
        series, seqs = [(s.source, s.kind) for s in samples], [s.seq for s in samples]
        newest = map(self._cursors.get, series, repeat(-math.inf))
        return all(map(gt, seqs, newest)) and len(set(zip(series, seqs, strict=True))) == len(seqs)

    def is_new(self, sample: Sample) -> bool | None:
        """True: no such sample. False: the tail has it, or an aggregate. None: ask the ``suspects``."""
        key = sample.key
        cursor = self._cursors.get(key[:2])
        if cursor is None or key[2] > cursor:
            return True
        known = self.thinned.get(key[:2])
        if known is not None and known.holds(sample):
            return False
        return False if key in self._tail_keys else None

    def suspects(self, key: Key) -> Iterator[int]:
        """Places of the segments that may hold ``key``, newest first: doubles are mostly recent."""
        spans = self._spans.get(key[:2])
        if spans is None:
            return
        seq = key[2]
        for i in range(len(spans.segment) - 1, -1, -1):
            if spans.seq_peak[i] < seq:
                return
            if spans.seq_min[i] <= seq <= spans.seq_max[i]:
                yield spans.segment[i]

    def overlapping(self, start_us: int, end_us: int, kinds: Iterable[str]) -> list[int]:
        """Places of the segments with samples of these kinds (all when empty) in [start, end)."""
        wanted = frozenset(kinds)
        places: set[int] = set()
        for (_, kind), spans in self._spans.items():
            if wanted and kind not in wanted:
                continue
            low, high = spans.time_min_us, spans.time_max_us
            places.update(
                spans.segment[i] for i in range(len(low)) if low[i] < end_us and high[i] >= start_us
            )
        return sorted(places)

    def place_from(self, row: int) -> int | None:
        """Place of the first segment that holds ``row`` or a later one; None when only the tail does."""
        place = bisect_right(self.first_rows, row) - 1
        if place < 0 or row >= self.first_rows[place] + self.sizes[place]:
            place += 1
        return place if place < len(self.first_rows) else None

    def missing(self) -> list[tuple[int, int]]:
        """First and last row of each gap."""
        gaps, expected = [], 1
        for first, size in zip(self.first_rows, self.sizes, strict=True):
            if first > expected:
                gaps.append((expected, first - 1))
            expected = first + size
        if self.tail_first_row > expected:
            gaps.append((expected, self.tail_first_row - 1))
        return gaps

    def is_live(self, row: int, sample: Sample) -> bool:
        """Whether the sample still stands: not replaced, no deletion, and no later amendment of its target.

        Two corrections of one record both stay in the store, but only the last one counts: a meal or a dose
        must never count twice.
        """
        if sample.deleted or sample.key in self._amended:
            return False
        if sample.amends is None:
            return True
        target = (sample.amends[0], sample.kind, sample.amends[1])
        return target == sample.key or self._amended[target] == row

    def _note_amendment(self, target: Key, row: int) -> None:
        self._amended[target] = max(row, self._amended.get(target, row))
