"""A segment: up to a few hundred samples in store order, as columns, compressed. Its bytes are sealed later.

Samples of one series (source and kind) resemble each other, so every field is packed per series; the order
across series is one small column. Nothing is rounded: what comes out equals what went in, bit for bit.
The bytes are a contract: docs/store-format.md, tests/vectors/store_segment.json.

Format 2 holds steady times as well, and writes units shorter, which pays for them; samples without any steady time
are written as format 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import islice
from operator import sub
from typing import Final, NamedTuple

from core.errors import DecodeError
from core.messages import Sample
from edge.store.columns import ColumnReader, ColumnWriter, Habits, Plan, plan_column

PLAIN_FORMAT, STEADY_FORMAT = 1, 2  # the first byte
MAX_SAMPLES: Final = 4096  # far above the 256 of a fold; bounds what reading may allocate
_MAX_HEAD_BYTES: Final = 1 << 20
_US_PER_MIN: Final = 60_000_000

# Names that most stores use, so that they cost two bytes each. Part of the format: never edit, only by a new
# segment format.
_DICTIONARY: Final = (
    b"plasma_ngmldrug_mgstepstemp_cweight_kgspo2_pctdbp_mmhgsbp_mmhglong_acting_usmbg_mgdlcarbs_gbolus_u"
    b"basal_uphheart_rate_bpmcgm_mgdlhandwatchmeterstrappumpcgm"
)

_SEQ_PLAIN, _SEQ_TIME, _SEQ_MINUTES = range(3)  # what a sequence number is predicted from
_MAX_DECIMALS: Final = 6
_RAW: Final = 7  # values that are no short decimals: eight bytes each
_MAX_ZEROS: Final = 18
_HAS_AMENDS, _IS_DELETED = 1, 2
# How arrivals are told: as they are, or after the sample's own time, in one column (no longer written) or one a series.
_BY_ARRIVAL, _BY_LATENESS, _BY_SERIES = range(3)
_AS_ARRIVED: Final = -1  # in place of every series' number: the order is that of the arrivals


class SeriesSpan(NamedTuple):
    """What one segment holds of one series; enough to know whether to look inside."""

    source: str
    kind: str
    size: int
    seq_min: int
    seq_max: int
    time_min_us: int
    time_max_us: int


class Amendment(NamedTuple):
    """The sample at ``position`` (0 is the segment's first) replaces the one with key ``target``."""

    position: int
    target: tuple[str, str, int]


class Summary(NamedTuple):
    """The head of a segment, readable without unpacking its columns."""

    size: int  # samples
    spans: tuple[SeriesSpan, ...]
    amendments: tuple[Amendment, ...]


class _Mark(NamedTuple):
    position: int
    amends: tuple[str, int] | None
    deleted: bool


class _Series:
    """Samples of one source and kind as columns."""

    def __init__(self, source: str, kind: str, members: Sequence[Sample], habits: Habits | None) -> None:
        self.source, self.kind, self.members, self._habits = source, kind, members, habits
        self.times_us = [s.time_us for s in members]
        self.low_us, self.high_us = min(self.times_us), max(self.times_us)
        self.seqs = [s.seq for s in members]
        self.low, self.high = min(self.seqs), max(self.seqs)
        self.mode, self.residuals = self._planned_seqs()

    def plan(self, values: list[int], name: str) -> Plan:
        """The packing of one of its columns."""
        return plan_column(values, habits=self._habits, name=(self.source, self.kind, name))

    def span(self) -> SeriesSpan:
        return SeriesSpan(
            self.source, self.kind, len(self.members), self.low, self.high, self.low_us, self.high_us
        )

    def _planned_seqs(self) -> tuple[int, Plan]:
        """What the numbers are best predicted from, and the column of what is left."""
        if self.seqs == self.times_us:
            return _SEQ_TIME, plan_column([0] * len(self.seqs))
        low = self.low
        plain = self.plan([seq - low for seq in self.seqs], "seq")
        if plain.bits:
            pairs = zip(self.seqs, self.times_us, strict=True)
            minutes = self.plan([seq - time_us // _US_PER_MIN for seq, time_us in pairs], "minutes")
            if minutes.bits < plain.bits:
                return _SEQ_MINUTES, minutes
        return _SEQ_PLAIN, plain


def encode_segment(samples: Sequence[Sample]) -> bytes:
    """The samples' bytes. 1..4096 of them."""
    return pack_segment(samples)[0]


def pack_segment(samples: Sequence[Sample], habits: Habits | None = None) -> tuple[bytes, Summary]:
    """The samples' bytes, and what ``read_summary`` would read in them. ``habits``: those of segments before."""
    if not 0 < len(samples) <= MAX_SAMPLES:
        raise ValueError(f"a segment holds 1..{MAX_SAMPLES} samples, not {len(samples)}")
    pairs = [(s.source, s.kind) for s in samples]
    order = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
    places = [order[pair] for pair in pairs]
    members: list[list[Sample]] = [[] for _ in order]
    add = [part.append for part in members]
    for sample, place in zip(samples, places, strict=True):
        add[place](sample)
    series = [_Series(*pair, part, habits) for pair, part in zip(order, members, strict=True)]
    marks = [
        _Mark(i, s.amends, s.deleted) for i, s in enumerate(samples) if s.amends is not None or s.deleted
    ]
    head = ColumnWriter()
    head.number(len(samples))
    head.number(len(series))
    base_us = 0
    for one in series:
        base_us = _write_span(head, one, base_us)
    _write_marks(head, marks, places)
    # A small window is enough and sooner ready.
    packer = zlib.compressobj(9, zlib.DEFLATED, -10, 5, zdict=_DICTIONARY)
    packed_head = packer.compress(bytes(head)) + packer.flush()
    steadies = [s.steady_us for s in samples]
    steady = any(steadies)
    received = [s.received_us for s in samples]
    arrivals = _planned_arrivals(received, steadies, series, places, habits)
    out = ColumnWriter()
    out.planned(arrivals.places)
    for one in series:
        low_us = one.low_us
        since_us = [t - low_us for t in one.times_us]
        unit_us = math.gcd(*since_us) or 1
        _write_unit(out, unit_us, steady)
        out.planned(one.plan(since_us if unit_us == 1 else [t // unit_us for t in since_us], "time"))
        out.planned(one.residuals)
        out.column([s.quality for s in one.members])
        _write_values(out, one)
    _write_unit(out, arrivals.unit_us, steady)
    out.number(arrivals.way)
    for planned in arrivals.columns:
        out.planned(planned)
    if steady:
        unit_us = arrivals.unit_us
        near = series[0].low_us // unit_us
        offsets = list(map(sub, received, steadies))
        out.column(_mapped(offsets, lambda offset: offset // unit_us - near))
    data = bytes((STEADY_FORMAT if steady else PLAIN_FORMAT,)) + packed_head + bytes(out)
    amendments = tuple(
        Amendment(m.position, (m.amends[0], samples[m.position].kind, m.amends[1])) for m in marks if m.amends
    )
    return data, Summary(len(samples), tuple(one.span() for one in series), amendments)


def read_summary(data: bytes) -> Summary:
    """Only the head of ``encode_segment``'s bytes; DecodeError for any other bytes."""
    return _read_head(data)[0]


def decode_segment(data: bytes) -> list[Sample]:
    """The samples, in the order in which they were stored; DecodeError for any other bytes."""
    summary, marks, modes, reader = _read_head(data)
    column, sizes = reader.column(summary.size), [span.size for span in summary.spans]
    places = None if column and column.count(_AS_ARRIVED) == len(column) else column
    counts = sizes if places is None else [places.count(place) for place in range(len(sizes))]
    if sum(counts) != summary.size or counts != sizes:
        raise DecodeError("segment contradicts its own head")
    steady, columns = data[0] == STEADY_FORMAT, []
    for span, mode in zip(summary.spans, modes, strict=True):
        unit_us = _read_unit(reader, steady)
        times_us = [span.time_min_us + unit_us * step for step in reader.column(span.size)]
        residuals = reader.column(span.size)
        seqs = [r + _predicted(mode, t, span.seq_min) for r, t in zip(residuals, times_us, strict=True)]
        qualities = reader.column(span.size)
        columns.append((times_us, _read_values(reader, span.size), seqs, qualities))
    places, arrivals = _read_received(reader, places, [column[0] for column in columns], steady)
    reader.end()
    mark_at = {mark.position: mark for mark in marks}
    cursor = [0] * len(columns)
    samples = []
    for position, (place, (received_us, steady_us)) in enumerate(zip(places, arrivals, strict=True)):
        at = cursor[place]
        cursor[place] = at + 1
        times_us, values, seqs, qualities = columns[place]
        span, mark = summary.spans[place], mark_at.get(position)
        samples.append(
            Sample(
                times_us[at],
                span.kind,
                values[at],
                span.source,
                seqs[at],
                qualities[at],
                received_us,
                mark.amends if mark else None,
                mark.deleted if mark else False,
                steady_us,
            )
        )
    return samples


def _inflated_head(data: bytes) -> tuple[bytes, bytes]:
    """The head, and the columns that follow it."""
    if not data or data[0] not in (PLAIN_FORMAT, STEADY_FORMAT):
        raise DecodeError("segment has an unknown format")
    try:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS, zdict=_DICTIONARY)
        head = unpacker.decompress(data[1:], _MAX_HEAD_BYTES)
    except zlib.error:
        raise DecodeError("segment cannot be inflated") from None
    if not unpacker.eof:
        raise DecodeError("segment ends too early")
    return head, unpacker.unused_data


def _predicted(mode: int, time_us: int, lowest: int) -> int:
    """What a sequence number is expected to be: many sensors count minutes, live values use their time."""
    if mode == _SEQ_TIME:
        return time_us
    return time_us // _US_PER_MIN if mode == _SEQ_MINUTES else lowest


def _write_span(out: ColumnWriter, series: _Series, base_us: int) -> int:
    low_us, high_us, mode = series.low_us, series.high_us, series.mode
    out.text(series.source)
    out.text(series.kind)
    out.number(len(series.members))
    out.number(low_us - base_us)
    out.number(high_us - low_us)
    out.number(mode)
    out.number(series.low - _predicted(mode, low_us, 0))
    out.number(series.high - _predicted(mode, high_us, series.low))
    return low_us


def _read_head(data: bytes) -> tuple[Summary, list[_Mark], list[int], ColumnReader]:
    """Summary, marks, sequence modes, and a reader that stands before the columns."""
    head, columns = _inflated_head(data)
    reader = ColumnReader(head)
    count = reader.size(MAX_SAMPLES)
    spans, modes, base_us = [], [], 0
    for _ in range(reader.size(count)):
        source, kind, members = reader.text(), reader.text(), reader.size(count)
        base_us += reader.number()
        high_us = base_us + reader.number()
        mode = reader.number()
        if mode not in (_SEQ_PLAIN, _SEQ_TIME, _SEQ_MINUTES):
            raise DecodeError("segment names an unknown packing")
        low = reader.number() + _predicted(mode, base_us, 0)
        high = reader.number() + _predicted(mode, high_us, low)
        modes.append(mode)
        spans.append(SeriesSpan(source, kind, members, low, high, base_us, high_us))
    marks = _read_marks(reader, count)
    kinds = reader.column(len(marks))
    amendments = []
    for mark, place in zip(marks, kinds, strict=True):
        if not 0 <= place < len(spans):
            raise DecodeError("segment names a series that it does not hold")
        if mark.amends:
            source, seq = mark.amends
            amendments.append(Amendment(mark.position, (source, spans[place].kind, seq)))
    reader.end()
    return Summary(count, tuple(spans), tuple(amendments)), marks, modes, ColumnReader(columns)


def _write_marks(out: ColumnWriter, marks: Sequence[_Mark], places: Sequence[int]) -> None:
    """Amendments and deletions are rare: a list in the head, with the series of each."""
    out.number(len(marks))
    for mark in marks:
        out.number(mark.position)
        out.number(_HAS_AMENDS * (mark.amends is not None) | _IS_DELETED * mark.deleted)
        if mark.amends is not None:
            out.text(mark.amends[0])
            out.number(mark.amends[1])
    out.column([places[mark.position] for mark in marks])


def _read_marks(reader: ColumnReader, count: int) -> list[_Mark]:
    marks = []
    for _ in range(reader.size(count)):
        position, flags = reader.size(count - 1), reader.size(_HAS_AMENDS | _IS_DELETED)
        amends = (reader.text(), reader.number()) if flags & _HAS_AMENDS else None
        marks.append(_Mark(position, amends, bool(flags & _IS_DELETED)))
    return marks


def _decimals(values: Sequence[float]) -> tuple[int, list[int]]:
    """The fewest decimals that hold every value exactly, with the values as integers; _RAW when none does."""
    if not all(map(math.isfinite, values)) or max(values) >= 1e9 or min(values) <= -1e9:
        return _RAW, []
    if 0 in values and any(v == 0 and math.copysign(1, v) < 0 for v in values):
        return _RAW, []
    whole = list(map(int, values))
    if whole == values:
        return 0, whole
    for decimals in range(1, _MAX_DECIMALS + 1):
        scale = 10**decimals
        whole = [round(v * scale) for v in values]
        # The very division that reading does, so equality here means equality there.
        if [w / scale for w in whole] == values:
            return decimals, whole
    return _RAW, []


def _write_values(out: ColumnWriter, series: _Series) -> None:
    values = [s.value for s in series.members]
    decimals, whole = _decimals(values)
    out.number(decimals)
    if decimals == _RAW:
        rows = b"".join(struct.pack(">d", v) for v in values)
        # Byte planes: signs and exponents lie side by side, which deflate likes.
        out.raw(b"".join(rows[plane::8] for plane in range(8)))
    else:
        out.planned(series.plan(whole, f"values {decimals}"))


def _read_values(reader: ColumnReader, count: int) -> list[float]:
    decimals = reader.number()
    if decimals == _RAW:
        planes = reader.raw(8 * count)
        rows = bytes(planes[count * plane + i] for i in range(count) for plane in range(8))
        return list(struct.unpack(f">{count}d", rows))
    if not 0 <= decimals <= _MAX_DECIMALS:
        raise DecodeError("segment names an unknown packing")
    scale = 10**decimals
    try:
        return [whole / scale for whole in reader.column(count)]
    except OverflowError:
        raise DecodeError("segment holds a value beyond all bounds") from None


def _write_unit(out: ColumnWriter, unit_us: int, short: bool) -> None:
    """Usual units are round: five minutes are 3 and eight zeros."""
    zeros = 0
    while short and zeros < _MAX_ZEROS and unit_us % 10 == 0:
        unit_us, zeros = unit_us // 10, zeros + 1
    if short:
        out.number(zeros)
    out.number(unit_us)


def _read_unit(reader: ColumnReader, short: bool) -> int:
    zeros = reader.size(_MAX_ZEROS) if short else 0
    return int(reader.number() * 10**zeros)


class _Arrivals(NamedTuple):
    unit_us: int
    way: int
    columns: list[Plan]
    places: Plan  # which series is next: or only that arrivals tell it


def _planned_arrivals(
    received: list[int],
    steadies: list[int],
    series: Sequence[_Series],
    places: list[int],
    habits: Habits | None,
) -> _Arrivals:
    """Live samples come shortly after their time, each sensor in its own way; a backfill comes all at once. The way
    that packs better wins.

    Wall time less steady time stays the same until the clock is set. Its distance to the first time is short: how
    long the machine had been up.
    """
    unit_us = math.gcd(*received, *steadies) or 1
    as_they_are = plan_column(_mapped(received, lambda t: t // unit_us), grid=False)
    late = []
    if as_they_are.bits:
        late = [
            one.plan([s.received_us // unit_us - s.time_us // unit_us for s in one.members], "late")
            for one in series
        ]
    if not late or sum(column.bits for column in late) >= as_they_are.bits:
        return _Arrivals(
            unit_us, _BY_ARRIVAL, [as_they_are], plan_column(places, habits=habits, name="places")
        )
    if received == sorted(received):  # else the wall clock was set back meanwhile
        _, together = _as_arrived([[s.received_us for s in one.members] for one in series])
        told = [places[at] for group in together for at in group]
        if 2 * len(told) <= len(places):
            as_arrived = plan_column([_AS_ARRIVED] * len(places))
            return _Arrivals(unit_us, _BY_SERIES, [*late, plan_column(told)], as_arrived)
    return _Arrivals(unit_us, _BY_SERIES, late, plan_column(places, habits=habits, name="places"))


def _mapped(values: Sequence[int], change: Callable[[int], int]) -> list[int]:
    """``change`` of each; once, where all are equal, as they often are."""
    first = values[0]
    return [change(first)] * len(values) if values.count(first) == len(values) else list(map(change, values))


def _as_arrived(arrivals: Sequence[Sequence[int]]) -> tuple[list[int], list[range]]:
    """Series in the order of their arrivals, and the places where several came at once: there it is not known."""
    merged = sorted((arrival, place) for place, part in enumerate(arrivals) for arrival in part)
    order, together, begin = [place for _, place in merged], [], 0
    for end in range(1, len(merged) + 1):
        if end == len(merged) or merged[end][0] != merged[begin][0]:
            if order[begin] != order[end - 1]:
                together.append(range(begin, end))
            begin = end
    return order, together


def _read_received(
    reader: ColumnReader, places: list[int] | None, times_us: Sequence[list[int]], steady: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    """Series number, and wall and steady time of arrival, of each sample in store order."""
    unit_us, count = _read_unit(reader, steady), sum(map(len, times_us))
    if unit_us < 1:
        raise DecodeError("segment names an unknown packing")
    way = reader.size(_BY_SERIES)
    if places is None and way != _BY_SERIES:
        raise DecodeError("segment names an unknown packing")
    if way == _BY_ARRIVAL:
        column = reader.column(count)
    else:
        joined = iter(reader.column(count) if way == _BY_LATENESS else ())
        arrivals = []
        for part_us in times_us:
            late = reader.column(len(part_us)) if way == _BY_SERIES else list(islice(joined, len(part_us)))
            arrivals.append([more + t // unit_us for more, t in zip(late, part_us, strict=True)])
        if places is None:
            places, together = _as_arrived(arrivals)
            told = iter(reader.column(sum(map(len, together))))
            for group in together:
                begin, end = group.start, group.stop
                ours = list(islice(told, len(group)))
                if sorted(ours) != places[begin:end]:
                    raise DecodeError("segment contradicts its own arrivals")
                places[begin:end] = ours
        by_series = [iter(part) for part in arrivals]
        column = [next(by_series[place]) for place in places]
    places = places or []
    if not steady:
        return places, [(unit_us * arrival, 0) for arrival in column]
    near = min(times_us[0]) // unit_us if times_us and times_us[0] else 0
    offsets = reader.column(count)
    return places, [(unit_us * a, unit_us * (a - o - near)) for a, o in zip(column, offsets, strict=True)]
