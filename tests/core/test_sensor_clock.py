"""A sensor whose clock is wrong is found by when its readings arrive, and put right; others are left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from core.messages import Sample
from core.twin import Patient, Twin
from tests.core.people import DAY_US, MIN_US, START_US, live

HOUR_MIN = 60


def arriving(days: float, ahead_min: Callable[[float], float], seed: int = 0) -> list[Sample]:
    """Readings each 5 min of a sensor whose clock is ahead by so much (by minute of the record)."""
    rng = np.random.default_rng(seed)
    out = []
    late_until = 0.0
    for k in range(round(days * 288)):
        minute = 5.0 * k
        if rng.random() < 0.01:
            late_until = minute + 40.0  # out of reach: then everything comes at once
        received = max(minute + rng.exponential(0.4), late_until)
        stamp = START_US + round((minute + ahead_min(minute)) * MIN_US)
        out.append(
            Sample(stamp, "cgm_mgdl", 120.0, "cgm", k, received_us=START_US + round(received * MIN_US))
        )
    return sorted(out, key=lambda s: s.received_us)


def told(samples: list[Sample]) -> tuple[Twin, list[float]]:
    """The twin, and how far (min) each reading's time is from the truth in its record."""
    twin = Twin(Patient(timezone="UTC"))
    for sample in samples:
        twin.observe([sample])
    error = [(e.time_us - START_US) / MIN_US - 5.0 * e.seq for e in twin.record.entries]
    return twin, error


@pytest.mark.parametrize("ahead", [5.0, -5.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_clock_that_goes_wrong_by_five_minutes_is_found_within_hours_and_put_right(
    ahead: float, seed: int
) -> None:
    wrong_from = 12 * HOUR_MIN
    twin, error = told(arriving(1.0, lambda m: ahead if m >= wrong_from else 0.0, seed))
    found = twin.clock_offsets["cgm"]
    assert found.confident
    assert abs(found.offset_min - ahead) < 2.0 * found.sd_min + 0.5
    assert found.sd_min < 1.5
    assert max(abs(e) for e in error[: wrong_from // 5]) < 0.1
    assert max(abs(e) for e in error[-12:]) < 1.0
    late = [k for k, e in enumerate(error) if k * 5 >= wrong_from and abs(e) > 2.0]
    assert len(late) * 5 < 4 * HOUR_MIN


def test_clock_that_drifts_is_followed() -> None:
    _, error = told(arriving(6.0, lambda m: -m / 1440.0, 4))  # a minute a day behind
    assert max(abs(e) for e in error) < 4.5
    assert abs(error[-1]) < 1.5


def test_clock_that_is_put_right_again_is_believed_again() -> None:
    _, error = told(arriving(1.5, lambda m: 7.0 if 6 * HOUR_MIN <= m < 20 * HOUR_MIN else 0.0, 5))
    assert abs(error[-1]) < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_right_clock_is_left_alone(seed: int) -> None:
    twin, error = told(arriving(3.0, lambda m: 0.0, seed))
    assert not twin.clock_offsets["cgm"].confident
    assert max(abs(e) for e in error) < 1e-3


def test_slow_transport_is_not_taken_for_a_slow_clock_and_imports_say_nothing() -> None:
    slow = [
        Sample(s.time_us, s.kind, s.value, s.source, s.seq, received_us=s.received_us + 6 * MIN_US)
        for s in arriving(1.0, lambda m: 0.0, 6)
    ]
    twin, error = told(slow)
    assert twin.clock_offsets["cgm"].offset_min < -4.0  # said
    assert not twin.clock_offsets["cgm"].confident  # not acted upon
    assert max(abs(e) for e in error) < 1e-3
    imported = [
        Sample(s.time_us, s.kind, s.value, s.source, s.seq, received_us=START_US + 40 * DAY_US) for s in slow
    ]
    assert told(imported)[0].clock_offsets["cgm"].sd_min == np.inf


def test_bytes_keep_what_is_known_of_clocks_and_old_records_know_nothing() -> None:
    samples = arriving(1.0, lambda m: 5.0, 7)
    twin, _ = told(samples[:200])
    other = Twin.restore(twin.snapshot())
    assert other.clock_offsets == twin.clock_offsets
    assert other.clock_offsets["cgm"].confident
    for sample in samples[200:]:
        twin.observe([sample])
        other.observe([sample])
    assert other.record.entries == twin.record.entries
    plain = Twin(Patient(timezone="UTC"))
    plain.observe(live(0.2).samples)
    assert plain.clock_offsets == {}
