"""What misses after meals and misses of all hours say about width and centre, from made-up tracks of record."""

from __future__ import annotations

import numpy as np
import pytest

from core import correction as corr
from core.correction_prior import POPULATION
from core.meal_record import FEWEST, HORIZONS_MIN, MealRecord, Stated
from core.messages import Sample
from core.patient import Patient
from core.predictive import Z90, Care, MealMisses, Outlook, under_care
from core.record import Record
from core.twin import Twin
from core.units import US_PER_H, US_PER_MIN
from firmware_sim.person import VirtualPerson
from tests.core.people import START_US

MEALS = 12


def told(readings: float, spread: float, meals: int = MEALS) -> MealMisses | None:
    """Meals stated at 140 ± 20 mg/dL; what came was ``readings``, one meal above and the next below by ``spread``."""
    record, made = Record(), MealRecord.__new__(MealRecord)
    width = np.full(HORIZONS_MIN.size, 20.0 * Z90)
    made.stated, number = [], 0
    for k in range(meals):
        at = START_US + k * 8 * US_PER_H
        made.stated.append(Stated(at, np.full(HORIZONS_MIN.size, 140.0), width, width))
        samples = []
        for minute in range(0, 305, 5):
            number += 1
            value = readings + (spread if k % 2 else -spread)
            samples.append(Sample(at + minute * US_PER_MIN, "cgm_mgdl", value, "cgm", number))
        record.add(samples)
    return made.misses(record, START_US + meals * 8 * US_PER_H)


def test_a_steady_person_gets_a_narrower_width_and_an_unsteady_one_a_wider() -> None:
    steady, as_stated, wild = told(140.0, 5.0), told(140.0, 20.0), told(140.0, 40.0)
    assert steady is not None
    assert as_stated is not None
    assert wild is not None
    for side in ("low", "high"):
        assert np.all(getattr(steady, side) < 0.6)
        # The upper end of what twelve meals can tell, not their mean: a little wider than stated.
        assert np.all((getattr(as_stated, side) > 1.0) & (getattr(as_stated, side) < 1.3))
        assert np.all(getattr(wild, side) == pytest.approx(1.6))
    np.testing.assert_allclose(steady.bias, 0.0, atol=1e-9)


def test_a_bias_moves_the_centre_by_less_than_was_seen() -> None:
    found = told(165.0, 5.0)
    assert found is not None
    np.testing.assert_allclose(found.bias, 25.0 * MEALS / (MEALS + 8.0))
    view = Outlook(np.full(2, 100.0), np.full(2, 30.0), np.full(2, 30.0))
    moved = found.applied(view, np.array([0.0, 300.0]))
    assert moved.mean[0] == 100.0  # nothing is known to be wrong about now
    assert moved.mean[1] == pytest.approx(100.0 + found.bias[-1])


def test_few_meals_say_nothing() -> None:
    assert told(140.0, 5.0, FEWEST - 1) is None


def test_the_own_width_follows_misses_and_is_cautious_when_few() -> None:
    fresh = corr.own_width(corr.fresh(POPULATION))
    np.testing.assert_allclose(fresh, 1.0)
    learn = corr.fresh(POPULATION)
    record = learn[corr.AT_OWN : corr.AT_RING].reshape(corr.H, 3)
    record[:] = (200.0, 200.0 * 0.25 / (2 * Z90**2), 200.0 * 1.0 / (2 * Z90**2))
    low, high = corr.own_width(learn)
    assert np.all((low > 0.5) & (low < 0.85))
    assert np.all((high > 1.0) & (high < 1.4))
    record *= 0.05
    assert np.all(corr.own_width(learn)[0] > low)


@pytest.fixture(scope="module")
def twin() -> Twin:
    made = Twin(Patient())
    events = VirtualPerson(905).events(START_US, 4)
    made.observe([Sample(t, k, v, k, i) for i, (t, k, v) in enumerate(events)])
    return made


def test_courses_stand_on_the_usual_dose_and_less_insulin_lifts_them(twin: Twin) -> None:
    t = START_US + (3 * 24 + 17) * US_PER_H
    usual = [(t, "bolus_u", 4.0), (t, "carbs_g", 50.0)]
    futures = twin.futures(t, 300.0, 400, care=Care(usual, eaten=True))
    stated = under_care(twin._at(t), 5.0 * np.arange(1.0, 61.0), Care(usual, eaten=True))
    base = futures.paths(usual)
    np.testing.assert_allclose(base.std(axis=0), (stated.low + stated.high) / (2 * Z90), rtol=0.35)
    less = futures.paths([(t, "bolus_u", 2.0), (t, "carbs_g", 50.0)])
    assert less[:, -1].mean() > base[:, -1].mean() + 5.0
    halved = twin.futures(t, 300.0, 400, care=Care(usual, eaten=True, effect=0.5))
    lift = halved.paths([(t, "bolus_u", 2.0), (t, "carbs_g", 50.0)]).mean(axis=0) - base.mean(axis=0)
    np.testing.assert_allclose(lift, 0.5 * (less.mean(axis=0) - base.mean(axis=0)), atol=1e-6)


def test_the_record_of_meals_rests_on_nothing_later(twin: Twin) -> None:
    t = START_US + (3 * 24 + 17) * US_PER_H
    found = twin.meal_misses(t)
    known = Twin(Patient())
    events = VirtualPerson(905).events(START_US, 4)
    known.observe([Sample(s, k, v, k, i) for i, (s, k, v) in enumerate(events) if s <= t])
    again = known.meal_misses(t)
    assert found is not None
    assert again is not None
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, other)
