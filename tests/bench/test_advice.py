"""What the bench of advice counts and how it judges, without a simulation."""

from __future__ import annotations

import numpy as np
import pytest

from bench.advice import _p, _safety
from bench.closed_loop import START_US, BasalBolus, Calculator, Day, Given, Outcome, episodes
from bench.knowing import Knowing
from core.units import US_PER_MIN


def test_an_episode_needs_a_quarter_of_an_hour_below_and_one_above_to_end() -> None:
    course = np.full(300, 100.0)
    course[20:34] = 50.0  # 14 min: none
    assert episodes(course, 54.0) == 0
    course[100:130] = 50.0
    course[135:150] = 50.0  # five minutes between: the same
    assert episodes(course, 54.0) == 1
    course[200:220] = 50.0
    assert episodes(course, 54.0) == 2


def test_the_calculators_differ_by_insulin_on_board() -> None:
    day = Day(600, 200.0, [(START_US + 540 * US_PER_MIN, 4.0)])
    assert BasalBolus(10.0, 30.0).meal(day, 50.0) == pytest.approx(5.0 + 2.0)
    with_iob = Calculator(10.0, 30.0).meal(day, 50.0)
    assert 5.0 <= with_iob < 7.0
    assert Calculator(10.0, 30.0).between(day, correct=False) == (0.0, 0.0)


def outcome(lows: int, n: int, bound: float) -> Outcome:
    given = tuple(Given(k, bound, bound, 60.0 if k < lows else 100.0) for k in range(n))
    return Outcome("g", "p", "twin, advice", 7, 80.0, 1.0, 0.1, 19.0, 0, 0, 0, 140.0, 100.0, given)


def test_the_safety_test_fails_when_lows_exceed_what_was_stated_and_only_then() -> None:
    assert _p(0, 20, 0.05) == 1.0
    assert _p(1, 20, 0.05) == pytest.approx(1 - 0.95**20)
    assert _safety([outcome(1, 40, 0.05)], "")[0].reached is True
    assert _safety([outcome(9, 40, 0.05)], "")[0].reached is False
    assert _safety([outcome(0, 19, 0.05)], "")[0].reached is None  # too few to prove anything
    assert _safety([outcome(5, 19, 0.05)], "")[0].reached is False


class Plain:
    """A gram lifts glucose by 4 mg/dL, a unit lowers it by 40, at once and for good."""

    carb_ratio, correction = 10.0, 40.0

    def __init__(self, plasma_mgdl: float) -> None:
        self.plasma_mgdl = plasma_mgdl

    def alone(self, dose_u: float, carbs_g: float) -> np.ndarray:
        return np.full(60, self.plasma_mgdl + 4.0 * carbs_g - 40.0 * dose_u)


def test_one_who_knows_the_body_gives_what_the_bounds_allow_over_what_a_meal_may_hold() -> None:
    day = Day(600, 120.0)
    # 80 g counted: one in a hundred holds 80 (1 - .25 * 2.326) = 33.5 g, one in twenty 47.1 g.
    # From 80 mg/dL that leaves 80 + 134 - 54 = 160 mg/dL or 80 + 188 - 70 = 198 to lower by: 4.0 U.
    given_u = Knowing(Plain(80.0)).meal(day, 80.0)
    assert 3.7 < given_u <= 4.0
    assert Knowing(Plain(300.0)).meal(day, 80.0) > given_u
    assert Knowing(Plain(60.0)).meal(day, 0.0) == 0.0
    assert Knowing(Plain(200.0)).between(Day(600, 200.0), correct=True)[0] == pytest.approx(2.0, abs=0.4)
    assert Knowing(Plain(60.0)).between(Day(600, 65.0), correct=False) == (0.0, 15.0)
    assert Knowing(Plain(90.0)).between(Day(600, 65.0), correct=False) == (0.0, 0.0)
