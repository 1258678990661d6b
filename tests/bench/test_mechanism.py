"""Which acts count, and which times lie after them."""

from __future__ import annotations

import numpy as np

from bench.mechanism import acts, after
from bench.real import Person
from bench.recordings import US_PER_MIN, Recording
from core.correction import neutral
from core.messages import Sample


def person(*events: tuple[int, str, float]) -> Person:
    samples = tuple(Sample(t * US_PER_MIN, kind, value, "x", k) for k, (t, kind, value) in enumerate(events))
    minutes = np.arange(0.0, 1000.0, 5.0)
    who = Recording("x", samples, minutes, np.full(200, 120.0), np.array([0]), np.array([0]))
    return Person(who, minutes, who.cgm_mgdl, np.zeros((200, 0)), {}, neutral())


def test_a_bolus_counts_when_large_and_away_from_meals() -> None:
    who = person((100, "bolus_u", 4.0), (300, "bolus_u", 2.0), (500, "bolus_u", 5.0), (545, "carbs_g", 20.0))
    assert [act.at_min for act in acts(who, "bolus_u")] == [100.0]


def test_a_meal_brings_its_boluses_along() -> None:
    who = person((90, "bolus_u", 4.0), (100, "carbs_g", 50.0), (400, "carbs_g", 10.0), (500, "bolus_u", 1.0))
    (meal,) = acts(who, "carbs_g")
    assert sorted(s.kind for s in meal.samples) == ["bolus_u", "carbs_g"]


def test_times_count_from_the_act_until_three_hours_after() -> None:
    who = person((100, "bolus_u", 4.0))
    times = who.times[after(who, acts(who, "bolus_u"))]
    assert (times[0], times[-1]) == (100.0, 280.0)
    assert not after(who, []).any()
