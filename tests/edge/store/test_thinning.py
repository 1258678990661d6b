"""Old readings become aggregates, the oldest first; doses, meals and what a person typed stay as they were."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DecodeError, StoreError
from core.messages import Quality, Sample
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN, US_PER_S
from edge.store.aggregates import (
    COARSE_US,
    FINE_US,
    Series,
    aggregate,
    coarser,
    decode_aggregates,
    encode_aggregates,
    may_thin,
)
from edge.store.appending import FOLDS_AT_ONCE
from edge.store.database import no_space
from edge.store.head import HEAD_ROW
from edge.store.journal import read_line
from edge.store.known import MOST_SPANS, Known
from edge.store.repair import open_or_repair
from edge.store.store import BATCH_SAMPLES, FOLD_SAMPLES, Store
from edge.store.thinning import BATCH_ROWS, FOR_SPACE, OLD, RESERVE_BYTES, SPARE_BYTES, SPARE_SUFFIX, YOUNG
from tests.edge.store.conftest import HUB, KEY, START_US, FixedClock, open_store
from tests.edge.store.test_tamper import flip, sql

NEVER = 1 << 62


def life(samples: int, seed: int = 3) -> list[Sample]:
    """A strap each 5 s, a CGM each 5 min, doses, meals, an entry by hand that was corrected."""
    rng = random.Random(seed)
    made: list[Sample] = []
    step = 0
    while len(made) < samples:
        time_us = START_US + step * 5 * US_PER_S
        made.append(Sample(time_us, "heart_rate_bpm", float(rng.randrange(50, 150)), "strap", time_us))
        if step % 60 == 0:
            made.append(
                Sample(time_us, "cgm_mgdl", float(rng.randrange(60, 300)), "cgm", time_us // US_PER_MIN)
            )
        if step % 500 == 0:
            made.append(Sample(time_us, "bolus_u", rng.randrange(1, 80) / 10, "pump", step))
            made.append(Sample(time_us, "carbs_g", 40.0, "hand", step, int(Quality.BY_HAND)))
        if step % 1000 == 0:
            made.append(
                Sample(
                    time_us, "carbs_g", 45.0, "hand", step + 1, int(Quality.BY_HAND), amends=("hand", step)
                )
            )
        step += 1
    return made[:samples]


def filled(path: Path, samples: list[Sample], clock: FixedClock | None = None) -> Store:
    store = Store.open(path, KEY, hub_id=HUB, clock=clock or FixedClock())
    for at in range(0, len(samples), 500):
        store.append(samples[at : at + 500])
    return store


def test_thinning_leaves_every_event_and_exact_aggregates(path: Path) -> None:
    made = life(3000)
    store = filled(path, made)
    whole = len(made) // FOLD_SAMPLES * FOLD_SAMPLES
    events_before = [s for s in store.between(0, NEVER) if not may_thin(s)]
    raw_before = [(s.key, s.value, s.amends) for _, s in store.read(0, 10_000) if not may_thin(s)]
    assert store.thinner.thin(NEVER, cloud=False) == sum(s.kind == "heart_rate_bpm" for s in made[:whole])
    assert store.thinner.thin(NEVER, cloud=False) is None
    for again in range(2):
        assert [s for s in store.between(0, NEVER) if not may_thin(s)] == events_before
        assert [(s.key, s.value, s.amends) for _, s in store.read(0, 10_000) if not may_thin(s)] == raw_before
        rows = [row for row, _ in store.read(0, 10_000)]
        assert rows == sorted(set(rows))
        assert store.last_row == len(made)
        assert store.check().ok
        [(_, series)] = store.thinner.read(0, 99)
        assert {(one.kind, one.width_us) for one in series} == {("heart_rate_bpm", FINE_US)}
        for one in series:
            for bucket in one.buckets:
                values = [
                    s.value
                    for s in made[:whole]
                    if (s.source, s.kind) == (one.source, one.kind)
                    and bucket.start_us <= s.time_us < bucket.start_us + one.width_us
                ]
                assert bucket.size == len(values)
                assert (bucket.low, bucket.high) == (min(values), max(values))
                assert bucket.mean == pytest.approx(statistics.fmean(values), abs=6e-4)
                assert bucket.sd == pytest.approx(statistics.pstdev(values), abs=6e-4)
        if not again:
            store.close()
            store = open_store(path)
    store.close()


def test_what_was_thinned_is_known_and_sensors_are_not_asked_for_it(path: Path) -> None:
    made = [s for s in life(3000) if s.kind == "heart_rate_bpm"]
    clock = FixedClock(made[-1].time_us + US_PER_H)
    store = filled(path, made, clock)
    cursors = store.cursors("strap")
    for _ in range(2):
        store.thinner.thin(NEVER, cloud=False)
        assert store.append(made) == ()
        assert [store.append([sample]) for sample in made[:9]] == [()] * 9
        store.close()
        store = Store.open(path, KEY, hub_id=HUB, clock=clock)
        assert store.cursors("strap") == cursors
    assert store.append(
        [made[-1].__class__(made[-1].time_us + 1, "heart_rate_bpm", 60.0, "strap", made[-1].seq + 1)]
    )
    while store.thinner.coarsen(NEVER):
        pass
    store.close()
    with Store.open(path, KEY, hub_id=HUB, clock=clock) as store:
        assert store.append(made) == ()


def strap(time_us: int, **fields: int) -> Sample:
    """As sessions number what has no number of its own: by its time."""
    value = 50.0 + time_us // US_PER_MIN * 7919 % 97
    return Sample(time_us, "heart_rate_bpm", value, "strap", time_us, **fields)


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize(
    "back_us",
    [START_US, US_PER_DAY, 5 * US_PER_H + US_PER_S // 2],
    ids=["1970", "before all", "within what was thinned"],
)
def test_new_readings_under_a_clock_that_is_behind_what_was_thinned_are_kept_once(
    path: Path, back_us: int, reopened: bool
) -> None:
    clock = FixedClock()
    minutes = [START_US + n * US_PER_MIN for n in range(600)]
    store = filled(path, [strap(at_us) for at_us in minutes], clock)
    assert store.thinner.thin(NEVER, FOR_SPACE, cloud=False) == 2 * FOLD_SAMPLES
    clock.us = minutes[-1] if back_us < US_PER_DAY else START_US
    clock.us += US_PER_MIN - back_us
    if reopened:
        store.close()
        store = Store.open(path, KEY, hub_id=HUB, clock=clock)
    for _ in range(40):
        clock.us += 61 * US_PER_S
        sample = strap(clock.us, quality=int(Quality.CLOCK_DOUBT))
        assert len(store.append([sample])) == 1
        assert store.append([sample]) == ()
    assert store.last_row == 640
    store.close()


def test_once_the_clock_was_ahead_and_is_thinned_readings_are_kept_still(path: Path) -> None:
    clock = FixedClock(START_US + 366 * US_PER_DAY)
    ahead = [strap(clock.us - n * US_PER_MIN) for n in range(600, 0, -1)]
    store = filled(path, [strap(START_US + n * US_PER_MIN) for n in range(600)] + ahead, clock)
    while store.thinner.thin(NEVER, cloud=False) is not None:
        pass
    clock.us = START_US + US_PER_DAY
    assert len(store.append([strap(clock.us - n * US_PER_MIN) for n in range(50, 0, -1)])) == 50
    clock.us += 10 * US_PER_DAY
    # A history that comes late, between what was thinned before and after.
    assert len(store.append([strap(clock.us - US_PER_DAY, quality=int(Quality.BACKFILLED))])) == 1
    store.close()


def test_what_is_remembered_of_thinned_readings_is_bounded() -> None:
    rng = random.Random(5)
    known = Known()
    starts = sorted(rng.sample(range(10 * MOST_SPANS), MOST_SPANS + 900))
    bucket = aggregate([strap(START_US)])[0].buckets[0]
    for at in range(0, len(starts), 100):
        buckets = tuple(bucket._replace(start_us=n * FINE_US) for n in starts[at : at + 100])
        known.add(Series("strap", "heart_rate_bpm", FINE_US, NEVER, buckets))
    assert len(known._starts) <= MOST_SPANS
    told = [strap(n * FINE_US, received_us=NEVER) for n in starts]
    assert all(map(known.holds, told))
    assert not known.holds(strap((starts[-1] + 1) * FINE_US, received_us=NEVER))
    assert not known.holds(strap(starts[0] * FINE_US - 1, received_us=NEVER))


def test_spans_of_thinned_readings_may_come_in_any_order() -> None:
    rng = random.Random(7)
    bucket = aggregate([strap(START_US)])[0].buckets[0]
    batches = [sorted(rng.sample(range(200), 12)) for _ in range(6)]
    known = Known()
    for batch in batches:
        buckets = tuple(bucket._replace(start_us=n * FINE_US) for n in batch)
        known.add(Series("strap", "heart_rate_bpm", FINE_US, NEVER, buckets))
    held = {n for n in range(-2, 203) if known.holds(strap(n * FINE_US + 7, received_us=NEVER))}
    assert held == {n for batch in batches for n in batch}


def test_only_what_is_old_enough_is_thinned(path: Path) -> None:
    made = life(4000)
    store = filled(path, made)
    limit_us = made[2000].time_us
    thinned = store.thinner.thin(limit_us, cloud=False) or 0
    assert 0 < thinned < 2000
    kept = {s.key for s in store.between(0, NEVER)}
    assert all(
        s.key in kept for s in made if s.time_us >= limit_us and s.amends is None and s.kind != "carbs_g"
    )
    assert store.thinner.thin(limit_us, cloud=False) is None
    store.close()


def test_what_the_cloud_has_not_acknowledged_goes_last(path: Path) -> None:
    store = filled(path, life(4000))
    for row in range(BATCH_SAMPLES, 3201, BATCH_SAMPLES):
        store.enqueue(b"batch", sample_row=row)
    assert store.acknowledged_row == 0
    assert store.thinner.thin(NEVER) is None  # all wait to be sent
    store.done(number for number, _ in store.pending(8))
    assert store.acknowledged_row == 3200 - 8 * BATCH_SAMPLES
    assert store.thinner.thin(NEVER)
    assert store.thinner.thin(NEVER) is None
    rows = {row for row, _ in store.read(0, 10_000)}
    assert set(range(store.acknowledged_row + 1, 4001)) <= rows
    assert store.thinner.thin(NEVER, unsent=True)
    # What is left of the unsent rows is still sent, in order, by the pointer that stands before it.
    left = store.read(store.sample_pointer, 10_000)
    assert [row for row, _ in left] == sorted(row for row, _ in left)
    store.enqueue(b"batch", sample_row=left[10][0])
    assert store.check().ok
    store.close()


def test_one_step_is_bounded_and_steps_go_on(path: Path) -> None:
    made = [
        Sample(START_US + n * US_PER_S, "heart_rate_bpm", float(n * n * 7919 % 97), "strap", n)
        for n in range(BATCH_ROWS + 4 * FOLD_SAMPLES)
    ]
    store = filled(path, made)
    size = path.stat().st_size
    first = store.thinner.thin(NEVER, cloud=False) or 0
    assert BATCH_ROWS - FOLDS_AT_ONCE * FOLD_SAMPLES < first <= BATCH_ROWS
    assert first + (store.thinner.thin(NEVER, cloud=False) or 0) == len(made)
    assert store.thinner.reserve_bytes() > size // 4
    assert store.between(0, NEVER) == []
    assert store.append([Sample(START_US, "cgm_mgdl", 100.0, "cgm", 1)])
    assert store.check().ok
    store.close()
    open_store(path).close()


def test_fine_aggregates_become_hourly_once_they_are_old(path: Path) -> None:
    made = life(3000)
    store = filled(path, made)
    store.thinner.thin(made[1500].time_us, cloud=False)
    store.thinner.thin(NEVER, cloud=False)
    [(_, first), (_, second)] = store.thinner.read(0, 9)
    newest_us = max(b.start_us for one in first for b in one.buckets)
    assert store.thinner.coarsen(newest_us + 1)
    assert not store.thinner.coarsen(newest_us + 1)
    found = [encode_aggregates(series) for _, series in store.thinner.read(0, 9)]
    assert found == [encode_aggregates(coarser(first)), encode_aggregates(second)]
    assert store.check().ok
    store.close()


def test_a_thinned_store_can_change_its_keys_and_be_repaired(path: Path) -> None:
    store = filled(path, life(6000))
    store.thinner.thin(START_US + 3 * 3600 * US_PER_S, cloud=False)
    wanted = store.read(0, 10_000)
    store.keys.rotate_data()
    while store.keys.reseal():
        pass
    assert store.read(0, 10_000) == wanted
    store.close()
    [(number, content)] = sql(path, "SELECT number, sealed FROM segments ORDER BY number DESC LIMIT 1")
    assert isinstance(content, bytes)
    assert isinstance(number, int)
    sql(path, "UPDATE segments SET sealed = ? WHERE number = ?", values=(flip(content, 40), number))
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    assert report is not None
    lost = report.rows_lost
    assert lost in (FOLD_SAMPLES, FOLDS_AT_ONCE * FOLD_SAMPLES)
    assert store.read(0, 10_000) == [item for item in wanted if not number <= item[0] < number + lost]
    store.close()


def test_thinning_goes_on_after_a_repair_that_found_no_head(path: Path) -> None:
    """How far it had come only the head knew."""
    made = life(4000)
    store = filled(path, made)
    assert store.thinner.thin(made[1000].time_us, cloud=False)
    store.close()
    sql(path, "UPDATE tail SET sealed = x'00' WHERE number = ?", values=(HEAD_ROW,))
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    assert report is not None
    while store.thinner.thin(NEVER, FOR_SPACE, cloud=False) is not None:
        pass
    raw = [row for row, sample in store.read(0, 10_000) if sample.kind == "heart_rate_bpm"]
    assert min(raw) > store.last_row - FOLD_SAMPLES  # only the tail
    series = [one for _, record in store.thinner.read(0, 99) for one in record]
    assert sum(b.size for one in series for b in one.buckets) > 3000
    assert store.check().ok
    store.close()
    open_store(path).close()


def worn(readings: int, every_s: int, kind: str, sd: float, first: int = 0) -> list[Sample]:
    """Of a sensor: a course that wanders, as real ones do."""
    rng = random.Random(f"{kind} {every_s} {first}")
    value, made = 110.0, []
    for n in range(first, first + readings):
        value = min(250.0, max(50.0, value + rng.gauss(0, sd)))
        time_us = START_US + n * every_s * US_PER_S + (rng.randrange(2 * US_PER_S) if every_s > 10 else 0)
        made.append(Sample(time_us, kind, float(round(value)), kind, n * every_s))
    return made


def sealed_bytes(store: Store) -> int:
    """Of readings, averages and what the audit log says of them."""
    tables = ("segments", "aggregates", "journal")
    return sum(store._db.execute(f"SELECT total(length(sealed)) FROM {t}").fetchone()[0] for t in tables)


def thin_all(store: Store, *args: object) -> int:
    """And that it comes to an end."""
    thinned = 0
    for _ in range(99):
        count = store.thinner.thin(NEVER, *args, cloud=False)  # type: ignore[arg-type]
        if count is None:
            return thinned
        thinned += count
    raise AssertionError("thinning never ends")


@pytest.mark.parametrize(
    ("every_s", "kind", "sd", "young", "for_space"),
    [
        (300, "cgm_mgdl", 5.0, None, COARSE_US),
        (300, "heart_rate_bpm", 6.0, None, COARSE_US),
        (60, "cgm_mgdl", 2.0, FINE_US, FINE_US),
        (1, "heart_rate_bpm", 9.0, FINE_US, FINE_US),
    ],
    ids=["CGM each 5 min", "strap each 5 min", "CGM each minute", "strap each second"],
)
def test_readings_become_averages_only_where_these_are_smaller(
    path: Path, every_s: int, kind: str, sd: float, young: int | None, for_space: int
) -> None:
    """5-min averages of a 5-min sensor took half as much room again as its readings."""
    made = worn(3000, every_s, kind, sd)
    whole = len(made) // FOLD_SAMPLES * FOLD_SAMPLES
    store = filled(path, made)
    before = sealed_bytes(store)
    assert thin_all(store) == (whole if young else 0)
    if young:
        assert sealed_bytes(store) < 3 * before / 4
    else:
        assert sealed_bytes(store) == before
        assert len(store.read(0, 9999)) == len(made)
        assert thin_all(store, FOR_SPACE) == whole
        assert sealed_bytes(store) < before / 3
    widths = {one.width_us for _, record in store.thinner.read(0, 99) for one in record}
    assert widths == {young or for_space}
    assert store.check().ok
    store.close()
    open_store(path).close()


def test_of_two_sensors_only_that_is_averaged_whose_averages_are_smaller_and_the_other_once_it_is_old(
    path: Path,
) -> None:
    strap_all, cgm = worn(10_000, 10, "heart_rate_bpm", 3.0), worn(334, 300, "cgm_mgdl", 5.0)
    made = sorted([*strap_all, *cgm], key=lambda s: s.time_us)
    clock = FixedClock(made[-1].time_us + US_PER_H)
    store = filled(path, made, clock)
    whole = made[: len(made) // FOLD_SAMPLES * FOLD_SAMPLES]
    sizes = [sealed_bytes(store)]
    assert thin_all(store) == sum(s.kind == "heart_rate_bpm" for s in whole)
    assert [s.seq for s in store.between(0, NEVER, ["cgm_mgdl"])] == [s.seq for s in cgm]
    store.close()
    store = Store.open(path, KEY, hub_id=HUB, clock=clock)
    sizes.append(sealed_bytes(store))
    assert thin_all(store) == 0  # looked at again after a start, and left
    limit_us = made[len(whole) // 2].time_us
    assert store.thinner.thin(limit_us, OLD, cloud=False) is None  # a segment is as old as its newest reading
    assert store.thinner.thin(NEVER, OLD, cloud=False) == sum(s.kind == "cgm_mgdl" for s in whole)
    sizes.append(sealed_bytes(store))
    assert sizes == sorted(sizes, reverse=True)
    # Before and after, each reading is known, and none counts twice.
    assert store.append(made) == ()
    counts = {"heart_rate_bpm": 0, "cgm_mgdl": 0}
    for _, record in store.thinner.read(0, 99):
        for one in record:
            counts[one.kind] += sum(b.size for b in one.buckets)
    for sample in store.between(0, NEVER):
        counts[sample.kind] += 1
    assert counts == {"heart_rate_bpm": len(strap_all), "cgm_mgdl": len(cgm)}
    assert store.check().ok
    store.close()
    open_store(path).close()


def test_what_stays_raw_is_looked_at_once_and_later_readings_are_not_kept_waiting(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgm = worn(BATCH_ROWS + 2 * FOLD_SAMPLES, 300, "cgm_mgdl", 5.0)
    store = filled(path, cgm)
    looked: list[int] = []
    unpack = store._segment
    monkeypatch.setattr(store, "_segment", lambda place: looked.append(place) or unpack(place))
    assert store.thinner.thin(NEVER, cloud=False) == 0
    assert store.thinner.thin(NEVER, cloud=False) is None
    assert len(looked) == len(set(looked)) == len(store._index.first_rows)
    assert store.thinner.thin(NEVER, cloud=False) is None
    assert len(looked) == len(store._index.first_rows)
    first = len(cgm) * 300
    store.append(worn(4 * FOLD_SAMPLES, 1, "heart_rate_bpm", 2.0, first))
    assert thin_all(store) == 4 * FOLD_SAMPLES
    assert len(store.read(0, 99_999)) == len(cgm)
    store.close()


def test_the_audit_log_tells_within_which_rows_readings_became_averages(path: Path) -> None:
    made = life(3000)
    store = filled(path, made)
    thinned = thin_all(store, FOR_SPACE)
    marks = [read_line(line).detail for line in store.journal(0, 9)]
    whole = len(made) // FOLD_SAMPLES * FOLD_SAMPLES
    assert marks == [{"readings": thinned, "first_row": 1, "last_row": whole, "why": "age"}]
    # Those that were kept bear the first numbers of the span, in their order; the rest of it is missing.
    kept = [row for row, _ in store.read(0, whole)][: whole - thinned]
    assert kept == list(range(1, whole - thinned + 1))
    assert store.missing_rows() == [(whole - thinned + 1, whole)]
    store.close()


@pytest.mark.parametrize("value", [8e133, -8e133, 1e308, math.inf, math.nan, 1e13])
def test_an_absurd_reading_is_never_averaged(value: float) -> None:
    """One from a broken or hostile thermometer made aggregates that nothing could read any more."""
    samples = [
        Sample(START_US + n, "temp_c", 37.0 if n else value, "thermometer", n, quality=0) for n in range(3)
    ]
    [one] = decode_aggregates(encode_aggregates(aggregate(samples)))
    assert [b[:5] for b in one.buckets] == [(START_US, 2, 37.0, 37.0, 37.0)]
    assert one.buckets[0].doubtful == 1


@pytest.mark.parametrize("left", [Path.touch, Path.mkdir, lambda spare: spare.symlink_to("nowhere")])
def test_room_is_held_only_where_there_is_some(path: Path, left: Callable[[Path], None]) -> None:
    """A cut amid its making left a name, which passed for it."""
    spare = path.with_name(path.name + SPARE_SUFFIX)
    with open_store(path) as store:
        left(spare)
        held = store.thinner.hold_spare()
        assert held == spare.is_file() == store.thinner.hold_spare()
        assert not held or spare.stat().st_blocks * 512 >= SPARE_BYTES
        assert spare.is_dir() or held


def test_doubtful_readings_are_counted_but_never_averaged() -> None:
    samples = [
        Sample(START_US + n, "cgm_mgdl", value, "cgm", n, quality)
        for n, (value, quality) in enumerate([(100, 0), (110, 2), (900, 1), (20, 16), (math.nan, 0)])
    ]
    [one] = aggregate(samples)
    [bucket] = one.buckets
    assert (bucket.size, bucket.mean, bucket.doubtful) == (2, 105.0, 3)
    [one] = aggregate(samples[2:])
    assert one.buckets[0].size == 0
    assert math.isnan(one.buckets[0].mean)
    assert decode_aggregates(encode_aggregates([one]))[0].buckets[0].doubtful == 3


READINGS = st.builds(
    Sample,
    time_us=st.integers(0, 300).map(lambda n: START_US + n * US_PER_MIN),
    kind=st.sampled_from(["cgm_mgdl", "heart_rate_bpm"]),
    value=st.integers(20, 4000).map(lambda n: n / 10),
    source=st.sampled_from(["a", "größe"]),
    seq=st.integers(0, 1000),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(READINGS, min_size=1, max_size=80))
def test_hourly_by_way_of_five_minutes_is_hourly_at_once(samples: list[Sample]) -> None:
    direct = aggregate(samples, COARSE_US)
    pooled = coarser(aggregate(samples))
    assert [(s.source, s.kind, s.seq_max, len(s.buckets)) for s in pooled] == [
        (s.source, s.kind, s.seq_max, len(s.buckets)) for s in direct
    ]
    for a, b in zip(direct, pooled, strict=True):
        for x, y in zip(a.buckets, b.buckets, strict=True):
            assert x[:2] == y[:2]
            assert x[2:6] == pytest.approx(y[2:6], abs=1e-6)
    again = decode_aggregates(encode_aggregates(pooled))
    assert encode_aggregates(again) == encode_aggregates(pooled)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_series_or_one_error(data: bytes, marked: bool) -> None:
    try:
        decode_aggregates(b"\x01" * marked + data)
    except DecodeError:
        return


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_thinned_in_whatever_order_nothing_grows_and_every_reading_counts_once(
    path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    sensors = rng.sample([(300, "cgm_mgdl", 5.0), (10, "heart_rate_bpm", 3.0), (60, "spo2_pct", 1.0)], 2)
    hours = rng.randrange(20, 40)
    made = [s for every_s, kind, sd in sensors for s in worn(hours * 3600 // every_s, every_s, kind, sd)]
    made += [Sample(START_US + n * US_PER_H, "bolus_u", 2.5, "pump", n) for n in range(hours)]
    made.sort(key=lambda s: s.time_us)
    clock = FixedClock(made[-1].time_us + US_PER_H)
    store = filled(path, made, clock)
    before = sealed_bytes(store)
    for _ in range(12):
        limit_us = rng.choice([NEVER, made[rng.randrange(len(made))].time_us])
        store.thinner.thin(limit_us, rng.choice([YOUNG, OLD, FOR_SPACE]), cloud=False)
        after = sealed_bytes(store)
        assert after <= before
        before = after
        if rng.random() < 0.3:
            store.close()
            store = Store.open(path, KEY, hub_id=HUB, clock=clock)
    left = store.read(0, 99_999)
    assert [row for row, _ in left] == sorted({row for row, _ in left})
    assert [s.seq for _, s in left if s.kind == "bolus_u"] == list(range(hours))
    assert [s.time_us for _, s in left] == sorted(s.time_us for _, s in left)
    averaged = sum(b.size for _, record in store.thinner.read(0, 99) for one in record for b in one.buckets)
    assert averaged > 0
    assert len(left) + averaged == len(made)
    assert store.append(made) == ()
    assert store.check().ok
    store.close()


def test_a_full_disk_gets_the_spare_room_also_when_nothing_may_be_averaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(path, KEY, hub_id=HUB, clock=FixedClock()) as store:
        assert store.thinner.hold_spare()
        spare = path.with_name(path.name + SPARE_SUFFIX)
        commit = store._commit

        def full(put: object, remember: object) -> None:
            if spare.exists():
                raise no_space(path)
            commit(put, remember)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "_commit", full)
        with pytest.raises(StoreError, match="no space"):
            store.append(life(1))
        assert spare.exists()  # held for thinning, while the file has no room inside
        monkeypatch.setattr(store.thinner, "reserve_bytes", lambda: RESERVE_BYTES)
        assert len(store.append(life(1))) == 1
        assert not spare.exists()
        spare.write_bytes(b"")  # and where that does not help, it is told
        monkeypatch.setattr(store.thinner, "use_spare", lambda: False)
        with pytest.raises(StoreError, match="no space"):
            store.append(life(2))
