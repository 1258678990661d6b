"""The chance of a low: bounds, direction, memory, and what is said without fresh readings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import correction as corr
from core import lows
from core.correction_prior import POPULATION
from core.lows_prior import WEIGHTS
from core.messages import Sample
from core.twin import Patient, Twin
from tests.core.people import MIN_US, START_US

FALL = (-1.5, -1.5)
MEAN, HALF = np.array([90.0, 80.0, 72.0]), np.array([10.0, 18.0, 25.0])


def chance(now: float, slopes: tuple[float, float], mean: np.ndarray, half: np.ndarray = HALF) -> float:
    return lows.chance(lows.features(now, *slopes, mean, half), WEIGHTS)


@given(st.floats(70.0, 600.0), st.floats(-20.0, 20.0), st.floats(-200.0, 600.0), st.floats(0.0, 300.0))
def test_any_forecast_gives_a_chance(now: float, slope: float, ahead: float, half: float) -> None:
    value = chance(now, (slope, slope), np.full(3, ahead), np.full(3, half))
    assert 0.0 < value < 1.0


def test_a_fall_towards_the_limit_is_likelier_to_end_low_than_a_calm_evening() -> None:
    assert chance(100.0, FALL, MEAN) > 0.15
    assert chance(78.0, (-2.0, -2.0), np.array([62.0, 52.0, 48.0])) > 0.6
    assert chance(150.0, (0.0, 0.0), np.full(3, 150.0)) < 0.01


def test_a_fit_finds_planted_weights() -> None:
    rng = np.random.default_rng(3)
    planted = np.zeros(lows.N)
    planted[[0, 2, 6]] = (-2.0, 1.5, -1.0)
    people = []
    for _ in range(3):
        x = rng.standard_normal((20_000, lows.N))
        x[:, 0] = 1.0
        people.append((x, rng.uniform(size=len(x)) < 1.0 / (1.0 + np.exp(-x @ planted))))
    assert lows.fit(people) == pytest.approx(planted, abs=0.12)


def test_weights_survive_their_own_source() -> None:
    scope: dict[str, object] = {}
    exec(lows.to_source(np.array(WEIGHTS)), scope)
    assert scope["WEIGHTS"] == pytest.approx(WEIGHTS, rel=1e-5)


def test_slopes_come_from_readings_and_are_zero_across_a_gap() -> None:
    learn = corr.fresh(POPULATION)
    for minute in (0.0, 5.0, 10.0, 15.0):
        corr.note_reading(learn, minute, 120.0 - 2.0 * minute)
    assert lows.slopes(learn) == pytest.approx((-2.0, -2.0))
    corr.note_reading(learn, 90.0, 60.0)
    assert lows.slopes(learn) == (0.0, 0.0)


def falling_twin() -> tuple[Twin, int]:
    twin = Twin(Patient(timezone="UTC"))
    values = [150.0] * 60 + [150.0 - 6.0 * n for n in range(1, 12)]
    twin.observe(
        Sample(START_US + 5 * MIN_US * n, "cgm_mgdl", value, "cgm", n) for n, value in enumerate(values)
    )
    return twin, START_US + 5 * MIN_US * (len(values) - 1)


def test_the_twin_warns_of_a_fall_says_one_when_low_and_still_answers_when_stale() -> None:
    twin, end = falling_twin()
    calm = twin.forecast(end - 60 * MIN_US, (30.0,)).forecast.low_chance
    falling = twin.forecast(end, (30.0,)).forecast.low_chance  # 84 mg/dL, falling
    assert calm < 0.05 < 0.3 < falling
    stale = twin.forecast(end + 60 * MIN_US, (30.0,)).forecast.low_chance
    assert 0.0 < stale < 1.0
    twin.observe(
        Sample(end + 5 * MIN_US * n, "cgm_mgdl", 84.0 - 6.0 * n, "cgm", 1000 + n) for n in range(1, 4)
    )
    assert twin.forecast(end + 15 * MIN_US, (30.0,)).forecast.low_chance == 1.0
    assert math.isfinite(Twin().forecast(end, (30.0,)).forecast.low_chance)


def test_asking_for_more_horizons_changes_no_answer() -> None:
    twin, end = falling_twin()
    one, two = twin.forecast(end, (30.0,)), twin.forecast(end, (10.0, 30.0, 360.0))
    assert one.forecast.low_chance == two.forecast.low_chance
    assert one.forecast.mean[0] == two.forecast.mean[1]
