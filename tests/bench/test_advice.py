"""What the bench of advice counts and how it judges, without a simulation."""

from __future__ import annotations

import numpy as np
import pytest

from bench.advice import _p, _safety
from bench.closed_loop import START_US, BasalBolus, Calculator, Day, Given, Outcome, episodes
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
