"""Counting of warnings: what is an episode, a true warning, a false one."""

from __future__ import annotations

import numpy as np
import pytest

from bench import hypo
from bench.hypo import episodes, judge
from bench.real import BLIND, NEAR_MIN, TWIN, Forecasts, Person
from bench.recordings import Recording
from core.correction import neutral

DAY = 20_000


def person(glucose: dict[int, float]) -> Person:
    minutes = np.arange(DAY * 1440, DAY * 1440 + 600, 5, dtype=float)
    values = np.full(len(minutes), 120.0)
    for minute, value in glucose.items():
        values[minute // 5] = value
    who = Recording("x", (), minutes, values, np.array([DAY - 1]), np.array([DAY]))
    return Person(who, minutes, values, np.zeros((len(minutes), 0)), {}, neutral())


def score(who: Person, *at: int) -> np.ndarray:
    out = np.zeros(len(who.times))
    out[[minute // 5 for minute in at]] = 1.0
    return out


def test_lows_less_than_half_an_hour_apart_are_one_episode() -> None:
    who = person({100: 65.0, 105: 64.0, 130: 66.0, 300: 60.0})
    assert list(episodes(who) - DAY * 1440) == [100.0, 300.0]


def test_a_warning_counts_within_half_an_hour_before_the_episode_only() -> None:
    who = person({100: 65.0, 300: 60.0})
    found = judge([who], [score(who, 60, 275, 450)], 0.5)
    assert (found.episodes, found.warned, found.true, found.false) == (2, 1, 1, 2)
    assert list(found.lead_min) == [25.0]


def test_a_warning_silences_further_ones_for_half_an_hour() -> None:
    who = person({100: 65.0})
    found = judge([who], [score(who, 200, 205, 225, 230)], 0.5)
    assert found.false == 2


def test_a_reading_that_is_low_already_is_no_warning() -> None:
    who = person({100: 65.0})
    found = judge([who], [score(who, 100)], 0.5)
    assert (found.warned, found.true, found.false) == (0, 0, 0)


def test_the_section_judges_the_twins_own_chance_at_every_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    minutes = list(range(0, 600, 5))
    who = person({m: 60.0 + abs(m % 200 - 100) for m in minutes if 80 <= m % 200 <= 120})
    soon = np.array([any(60.0 <= (m + a) % 200 - 40 <= 80.0 for a in (5, 10, 15)) for m in minutes])
    near = np.full((3, len(minutes), len(NEAR_MIN)), 100.0)
    near[1] -= 20.0
    flat = np.full((len(minutes), 5), 100.0)
    known = Forecasts(flat, flat - 20.0, flat + 20.0, near, 0.0, np.where(soon, 0.9, 0.1))
    everybody = dict.fromkeys((TWIN, BLIND, "ridge"), known)
    there = Person(who.who, who.times, who.now, who.target, everybody, who.prior)
    monkeypatch.setattr(hypo, "measured", lambda _quick: (there,))
    section = hypo.run(quick=True)
    assert sum("sensitivity at" in figure.name for figure in section.figures) == len(hypo.FALSE_PER_DAY)
    given = section.tables[1].rows
    assert [row[0] for row in given] == ["10–30 %", "60–100 %"]
