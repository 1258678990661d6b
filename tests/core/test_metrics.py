"""Metrics against hand-worked figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.errors import InputError
from core.metrics import cgm_metrics, coverage, mard_pct, missed_targets, rmse
from core.units import US_PER_DAY, US_PER_MIN


def test_bands_follow_the_consensus_borders() -> None:
    glucose = [53.9, 54, 69.9, 70, 180, 180.1, 250, 250.1, 100, 100]
    times = [i * 5 * US_PER_MIN for i in range(10)]
    m = cgm_metrics(times, glucose, 0, 50 * US_PER_MIN)
    assert (m.very_low_pct, m.low_pct, m.in_range_pct, m.high_pct, m.very_high_pct) == (10, 20, 40, 20, 10)
    assert m.wear_pct == 100
    assert m.gmi_pct == pytest.approx(3.31 + 0.02392 * np.mean(glucose))
    assert not m.representative


def test_missing_and_foreign_readings_are_left_out_and_lower_the_wear() -> None:
    times = [0, 5, 10, 60, -5]
    m = cgm_metrics([t * US_PER_MIN for t in times], [100, math.nan, 120, 500, 500], 0, 20 * US_PER_MIN)
    assert m.readings == 2
    assert m.mean_mgdl == 110
    assert m.wear_pct == 50


def test_a_faster_sensor_does_not_wear_more_than_all_the_time() -> None:
    m = cgm_metrics([t * US_PER_MIN for t in range(60)], [100.0] * 60, 0, 120 * US_PER_MIN)
    assert m.wear_pct == 50


def test_no_reading_gives_nan_not_a_good_looking_zero() -> None:
    m = cgm_metrics([], [], 0, US_PER_DAY)
    assert m.readings == 0
    assert math.isnan(m.in_range_pct)
    assert len(missed_targets(m)) == 6


def test_perfect_control_misses_no_target() -> None:
    times = [t * 5 * US_PER_MIN for t in range(288 * 14)]
    m = cgm_metrics(times, [120.0] * len(times), 0, 14 * US_PER_DAY)
    assert m.representative
    assert missed_targets(m) == ()


def test_errors_and_coverage_by_hand() -> None:
    assert rmse([1, 2, math.nan], [3, 2, 9]) == pytest.approx(math.sqrt(2))
    assert mard_pct([110, 90], [100, 100]) == pytest.approx(10)
    assert coverage([0, 0, 0, math.nan], [1, 1, 1, 1], [0, 1, 2, 0]) == pytest.approx(2 / 3)
    assert math.isnan(rmse([], []))
    with pytest.raises(InputError):
        mard_pct([1.0], [0.0])
    with pytest.raises(InputError):
        rmse([1, 2], [1])
