"""A segment gives back exactly the samples that went in; its head tells what is inside."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DecodeError
from core.messages import Sample
from edge.store.columns import Habits
from edge.store.segment import MAX_SAMPLES, decode_segment, encode_segment, pack_segment, read_summary
from tests.edge.store.conftest import START_US, reading

VECTORS = Path(__file__).parents[2] / "vectors" / "store_segment.json"
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
NAMES = st.sampled_from(["cgm", "pump", "hand", "", "größe", "x" * 200])
SAMPLES = st.builds(
    Sample,
    time_us=st.one_of(st.integers(START_US, START_US + 10**9), INT64),
    kind=st.sampled_from(["cgm_mgdl", "bolus_u", "other"]),
    value=st.one_of(st.floats(), st.integers(0, 4000).map(lambda n: n / 10)),
    source=NAMES,
    seq=st.one_of(st.integers(0, 100), INT64),
    quality=st.integers(0, 31),
    received_us=st.one_of(st.integers(0, 10**9).map(lambda n: n * 100_000), st.integers(0, 1 << 62)),
    amends=st.one_of(st.none(), st.tuples(NAMES, INT64)),
    deleted=st.booleans(),
    steady_us=st.one_of(
        st.just(0), st.integers(0, 10**7).map(lambda n: n * 100_000), st.integers(0, 1 << 62)
    ),
)


def exact(sample: Sample) -> tuple[object, ...]:
    """Comparable to the bit: NaN and minus zero included."""
    return (
        *(getattr(sample, f) for f in sample.__struct_fields__ if f != "value"),
        struct.pack(">d", sample.value),
    )


@given(st.lists(SAMPLES, min_size=1, max_size=40))
def test_any_samples_come_back_to_the_bit(samples: list[Sample]) -> None:
    data = encode_segment(samples)
    assert [exact(s) for s in decode_segment(data)] == [exact(s) for s in samples]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 40)), min_size=1, max_size=80))
def test_live_samples_come_back_in_the_order_of_their_arrival_ties_included(
    arrivals: list[tuple[int, int, int]],
) -> None:
    samples, received = [], START_US // 100_000
    for n, (device, pause, lateness) in enumerate(arrivals):
        received += pause
        time_us = received * 100_000 - lateness * 70_001
        samples.append(
            Sample(time_us, "cgm_mgdl", 1.0, f"sensor-{device}", n, 0, received * 100_000, None, False, n + 1)
        )
    data = encode_segment(samples)
    assert decode_segment(data) == samples


def test_that_order_costs_next_to_nothing() -> None:
    """Two sensors that measure together and whose readings come in any order, or always in the same one."""

    def size(later: int) -> int:
        rng = random.Random(7)
        live = [
            reading(
                n,
                source=f"sensor-{device}",
                received_us=START_US + n * 300_000_000 + (rng.randrange(100) + later * device) * 100_000,
            )
            for n in range(256)
            for device in range(2)
        ]
        live.sort(key=lambda sample: sample.received_us)
        data = encode_segment(live)
        assert decode_segment(data) == live
        return len(data)

    assert size(later=0) < size(later=100) + 20


@given(st.lists(SAMPLES, min_size=1, max_size=40))
def test_the_summary_spans_exactly_what_is_inside(samples: list[Sample]) -> None:
    summary = read_summary(encode_segment(samples))
    assert summary.size == len(samples)
    for span in summary.spans:
        members = [s for s in samples if (s.source, s.kind) == (span.source, span.kind)]
        assert len(members) == span.size
        assert (min(s.seq for s in members), max(s.seq for s in members)) == (span.seq_min, span.seq_max)
        times = [s.time_us for s in members]
        assert (min(times), max(times)) == (span.time_min_us, span.time_max_us)
    assert sum(span.size for span in summary.spans) == len(samples)
    amending = [(i, (s.amends[0], s.kind, s.amends[1])) for i, s in enumerate(samples) if s.amends]
    assert [tuple(a) for a in summary.amendments] == amending


@given(st.lists(st.lists(SAMPLES, min_size=1, max_size=40), min_size=2, max_size=4))
def test_the_habits_of_other_segments_change_no_sample(segments: list[list[Sample]]) -> None:
    habits = Habits()
    for samples in segments:
        data, summary = pack_segment(samples, habits)
        assert [exact(s) for s in decode_segment(data)] == [exact(s) for s in samples]
        assert summary == read_summary(data)


@given(st.lists(SAMPLES, min_size=1, max_size=12), st.data())
def test_changed_bytes_give_a_value_or_a_decode_error(samples: list[Sample], data: st.DataObject) -> None:
    changed = bytearray(encode_segment(samples))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    for read in (decode_segment, read_summary):
        with contextlib.suppress(DecodeError):
            read(bytes(changed))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_decode_error(data: bytes) -> None:
    for candidate in (data, b"\x01" + data, b"\x02" + data):
        with contextlib.suppress(DecodeError):
            decode_segment(candidate)


def test_every_cut_is_refused() -> None:
    data = encode_segment([reading(n, value=n / 3) for n in range(20)])
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            decode_segment(data[:size])
    with pytest.raises(DecodeError):
        decode_segment(data + b"\x00")


@pytest.mark.parametrize("size", [0, MAX_SAMPLES + 1])
def test_size_is_bounded(size: int) -> None:
    with pytest.raises(ValueError, match="holds 1"):
        encode_segment([reading(n) for n in range(size)])


def test_a_day_of_a_pump_and_a_sensor_packs_below_four_bytes_a_sample() -> None:
    rng = random.Random(3)
    samples, level = [], 120.0
    for n in range(288):
        level = min(350.0, max(50.0, level + rng.gauss(0, 5)))
        time_us = START_US + n * 300_000_000
        received_us = time_us + rng.randrange(30) * 100_000
        samples.append(
            Sample(time_us, "cgm_mgdl", float(round(level)), "cgm", time_us // 60_000_000, 0, received_us)
        )
        beat_us = time_us + rng.randrange(10**6)
        samples.append(
            Sample(beat_us, "heart_rate_bpm", float(60 + rng.randrange(30)), "strap", beat_us, 0, received_us)
        )
        if n % 6 == 0:
            samples.append(
                Sample(time_us, "basal_uph", rng.choice([0.8, 0.85, 1.1]), "pump", n, 0, received_us)
            )
    parts = [samples[at : at + 256] for at in range(0, 512, 256)]
    size = sum(len(encode_segment(part)) for part in parts)
    print(f"{size / 512:.2f} bytes per sample")
    assert size / 512 < 4.0


@pytest.mark.parametrize("vector", json.loads(VECTORS.read_text())["vectors"], ids=lambda v: v["name"])
def test_old_vectors_keep_their_meaning(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    if vector["expect"] != "ok":
        with pytest.raises(DecodeError):
            decode_segment(data)
        return
    wanted = [
        Sample(*fields[:7], tuple(fields[7]) if fields[7] else None, *fields[8:])
        for fields in vector["samples"]
    ]
    assert decode_segment(data) == wanted
    # What is written today is read the same, and no longer (zlib's own bytes differ between versions).
    again = encode_segment(wanted)
    assert decode_segment(again) == wanted
    assert len(again) <= len(data) + 4
