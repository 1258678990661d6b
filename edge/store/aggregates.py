"""The second generation: what is left of old readings, per series and span of time. Pure; bytes in docs/store-format.md.

Only dense readings of sensors are thinned. Doses, meals, readings by hand and everything that was amended stay
as they are for ever: their time and size mean something by themselves, and they are few.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from core.errors import DecodeError
from core.messages import Quality, Sample
from core.units import US_PER_H, US_PER_MIN
from edge.store.columns import ColumnReader, ColumnWriter

AGGREGATE_FORMAT: Final = 1
DENSE_KINDS: Final = frozenset({"cgm_mgdl", "heart_rate_bpm", "spo2_pct", "temp_c", "steps"})
FINE_US: Final = 5 * US_PER_MIN
COARSE_US: Final = US_PER_H
_DOUBT: Final = Quality.SENSOR_WARNING | Quality.CLOCK_DOUBT | Quality.OUTLIER
_SCALE: Final = 1000  # numbers are kept to 0.001 of their unit, finer than any sensor of these kinds
# Beyond this no reading is one, whatever a sensor's float says (IEEE 11073 reaches 8e133): columns hold 64 bits.
_MOST: Final = 1e12
_MAX_SERIES: Final = 4096
_MAX_BUCKETS: Final = 1 << 16


class Bucket(NamedTuple):
    """Readings with start <= time < start + width. ``sd`` is by n. ``doubtful`` ones are counted, not averaged."""

    start_us: int
    size: int
    mean: float  # nan, like the next three, when size is 0
    low: float
    high: float
    sd: float
    doubtful: int


class Series(NamedTuple):
    """Buckets of one source and kind, in time order. ``seq_max``: greatest number of the readings in them."""

    source: str
    kind: str
    width_us: int
    seq_max: int
    buckets: tuple[Bucket, ...]


def may_thin(sample: Sample) -> bool:
    """Whether this reading may become part of an aggregate."""
    by_hand = sample.quality & Quality.BY_HAND
    return sample.kind in DENSE_KINDS and not by_hand and sample.amends is None and not sample.deleted


def aggregate(samples: Iterable[Sample], width_us: int = FINE_US) -> tuple[Series, ...]:
    """Series of the samples, all of which may be thinned."""
    members: dict[tuple[str, str], dict[int, list[Sample]]] = {}
    for sample in samples:
        by_start = members.setdefault((sample.source, sample.kind), {})
        by_start.setdefault(sample.time_us - sample.time_us % width_us, []).append(sample)
    return tuple(
        Series(
            source,
            kind,
            width_us,
            max(s.seq for group in by_start.values() for s in group),
            tuple(_bucket(start, group) for start, group in sorted(by_start.items())),
        )
        for (source, kind), by_start in sorted(members.items())
    )


def coarser(series: Sequence[Series], width_us: int = COARSE_US) -> tuple[Series, ...]:
    """The same in wider buckets: counts, means and extremes exactly, sd by pooling."""
    members: dict[tuple[str, str], dict[int, list[Bucket]]] = {}
    seqs: dict[tuple[str, str], int] = {}
    for one in series:
        key = (one.source, one.kind)
        seqs[key] = max(one.seq_max, seqs.get(key, one.seq_max))
        for bucket in one.buckets:
            start = bucket.start_us - bucket.start_us % width_us
            members.setdefault(key, {}).setdefault(start, []).append(bucket)
    return tuple(
        Series(*key, width_us, seqs[key], tuple(_pooled(t, b) for t, b in sorted(members[key].items())))
        for key in sorted(members)
    )


def _bucket(start_us: int, members: Sequence[Sample]) -> Bucket:
    values = [s.value for s in members if not s.quality & _DOUBT and abs(s.value) < _MOST]  # nan is not
    return _summed(start_us, values, len(members) - len(values))


def _summed(start_us: int, values: Sequence[float], doubtful: int) -> Bucket:
    if not values:
        return Bucket(start_us, 0, math.nan, math.nan, math.nan, math.nan, doubtful)
    mean = math.fsum(values) / len(values)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    return Bucket(start_us, len(values), mean, min(values), max(values), sd, doubtful)


def _pooled(start_us: int, parts: Sequence[Bucket]) -> Bucket:
    doubtful = sum(b.doubtful for b in parts)
    full = [b for b in parts if b.size]
    if not full:
        return _summed(start_us, (), doubtful)
    count = sum(b.size for b in full)
    mean = math.fsum(b.size * b.mean for b in full) / count
    variance = math.fsum(b.size * (b.sd**2 + (b.mean - mean) ** 2) for b in full) / count
    low, high = min(b.low for b in full), max(b.high for b in full)
    return Bucket(start_us, count, mean, low, high, math.sqrt(variance), doubtful)


def encode_aggregates(series: Sequence[Series]) -> bytes:
    """The record's bytes."""
    out = ColumnWriter()
    out.number(len(series))
    for one in series:
        out.text(one.source)
        out.text(one.kind)
        out.number(one.width_us)
        out.number(one.seq_max)
        out.number(len(one.buckets))
        out.column([b.start_us // one.width_us for b in one.buckets])
        out.column([b.size for b in one.buckets])
        out.column([b.doubtful for b in one.buckets])
        for name in ("mean", "low", "high", "sd"):
            out.column([round(getattr(b, name) * _SCALE) for b in one.buckets if b.size])
    return bytes((AGGREGATE_FORMAT,)) + bytes(out)


def decode_aggregates(data: bytes) -> tuple[Series, ...]:
    """The series; DecodeError for any other bytes."""
    if not data or data[0] != AGGREGATE_FORMAT:
        raise DecodeError("aggregates have an unknown format")
    reader = ColumnReader(data[1:])
    series = []
    for _ in range(reader.size(_MAX_SERIES)):
        source, kind, width_us, seq_max = reader.text(), reader.text(), reader.number(), reader.number()
        size = reader.size(_MAX_BUCKETS)
        starts, counts, doubtful = reader.column(size), reader.column(size), reader.column(size)
        full = sum(count > 0 for count in counts)
        columns = [iter(reader.column(full)) for _ in range(4)]
        buckets = []
        for start, count, doubts in zip(starts, counts, doubtful, strict=True):
            try:
                mean, low, high, sd = (next(c) / _SCALE if count > 0 else math.nan for c in columns)
            except OverflowError:
                raise DecodeError("aggregates hold a value beyond all bounds") from None
            buckets.append(Bucket(start * width_us, count, mean, low, high, sd, doubts))
        series.append(Series(source, kind, width_us, seq_max, tuple(buckets)))
    reader.end()
    return tuple(series)
