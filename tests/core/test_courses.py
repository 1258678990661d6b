"""The batch simulator: against closed forms, against finer steps, and against itself."""

from __future__ import annotations

import math

import numpy as np

from core.correction import neutral
from core.courses import Act, Bodies, Nodes, Rate, World, make_world, run
from core.models import hovorka as model
from core.nominal import Tuning, make_nominal
from core.patient import LocalTime, Patient, Therapy
from core.track import Track
from core.units import US_PER_H, US_PER_MIN
from tests.core.people import START_US

BASAL_UPH = 0.9


def track_at_rest() -> Track:
    patient = Patient(weight_kg=75.0, therapy=Therapy(basal_profile=(("00:00", BASAL_UPH),)))
    local = LocalTime("UTC")
    nominal = make_nominal(patient, (), local, Tuning(), None)
    return Track(patient, local, nominal, Tuning(), START_US, neutral())


def bodies_of(track: Track, copies: int = 1, meals: int = 1) -> Bodies:
    points = np.zeros((model.N, copies))
    points[model.N_LINEAR :] = track.mean[model.N_LINEAR :, None]
    theta = np.repeat(track.mean[: model.N_THETA, None], copies, axis=1)
    zero = np.zeros((meals, copies))
    return Bodies(points, theta, zero, zero.copy(), np.zeros((2, copies)))


SPREAD = Nodes(START_US, 24 * US_PER_H, 2)


def world(acts: list[Act], hours: float, rates: tuple[Rate, ...] = ()) -> World:
    return make_world(track_at_rest(), acts, START_US + round(hours * US_PER_H), rates)


def glucose(world: World, bodies: Bodies | None = None) -> np.ndarray:
    track = track_at_rest()
    return run(world, bodies if bodies is not None else bodies_of(track), SPREAD, track.nominal.consts)


def test_a_bolus_and_a_meal_leave_their_site_as_the_closed_form_says() -> None:
    track = track_at_rest()
    bodies = bodies_of(track)
    before = bodies.points[model.N_LINEAR :, 0].copy()
    acts = [Act(START_US, "bolus_u", 2.0), Act(START_US, "carbs_g", 30.0, 0)]
    glucose(make_world(track, acts, START_US + 2 * US_PER_H), bodies)
    after = bodies.points[model.N_LINEAR :, 0]
    consts = track_at_rest().nominal.consts
    k = 120.0 / consts[model.TI]
    # S1 holds the steady part and 2 U that decay; S2 the gamma-shaped rest.
    np.testing.assert_allclose(after[model.S1] - before[model.S1], 2000.0 * math.exp(-k), rtol=1e-5)
    np.testing.assert_allclose(after[model.S2] - before[model.S2], 2000.0 * k * math.exp(-k), rtol=1e-5)
    meal = model.meal_mmol_per_kg(consts, 30.0, 0.0)
    g = 120.0 / consts[model.TG]
    np.testing.assert_allclose(after[model.D1], meal * math.exp(-g), rtol=1e-5)
    np.testing.assert_allclose(after[model.D2], meal * g * math.exp(-g), rtol=1e-5)


def test_nothing_but_basal_keeps_a_body_at_rest_where_it_was() -> None:
    flat = world([], 3.0)
    # The dawn lowers sensitivity from about 3:00 on; before it a body at rest stays.
    course = glucose(flat)
    np.testing.assert_allclose(course[:12], np.repeat(course[:1], 12, axis=0), rtol=2e-3)


def test_steps_of_five_minutes_are_as_good_as_steps_of_one() -> None:
    acts = [
        Act(START_US + 60 * US_PER_MIN, "bolus_u", 6.0),
        Act(START_US + 65 * US_PER_MIN, "carbs_g", 60.0, 0),
    ]
    # Heart rates at rest are no stops; boluses of nothing are.
    stops = [Act(START_US + m * US_PER_MIN, "bolus_u", 0.0) for m in range(600)]
    fine = sorted([*acts, *stops], key=lambda a: a.time_us)
    difference = glucose(world(acts, 10.0)) - glucose(world(fine, 10.0))
    assert np.abs(difference).max() * 18.0 < 3e-2


def test_two_meals_at_one_instant_are_their_sum() -> None:
    at = START_US + 30 * US_PER_MIN
    one = glucose(world([Act(at, "carbs_g", 50.0, 0)], 5.0))
    two = glucose(world([Act(at, "carbs_g", 20.0, 0), Act(at, "carbs_g", 30.0, 0)], 5.0))
    np.testing.assert_allclose(two, one, rtol=1e-12)


def test_a_changed_rate_equals_the_same_rate_given_by_the_pump() -> None:
    first, last = START_US + 47 * US_PER_MIN, START_US + 155 * US_PER_MIN
    changed = world([], 6.0, (Rate(first, last, "*=", 1.5),))
    given = world([Act(first, "basal_uph", 1.5 * BASAL_UPH), Act(last, "basal_uph", BASAL_UPH)], 6.0)
    np.testing.assert_allclose(glucose(changed), glucose(given), rtol=1e-9)
    assert glucose(changed)[-1] < glucose(world([], 6.0))[-1] - 0.2
    more = world([], 6.0, (Rate(first, last, "+=", 0.45),))
    np.testing.assert_allclose(glucose(more), glucose(changed), rtol=1e-9)


def test_each_body_has_its_own_parameters_meals_and_disturbance() -> None:
    track = track_at_rest()
    wide = bodies_of(track, copies=45)  # more than one tile, the last one not full
    wide.theta[model.LN_S, 7] += 0.5
    wide.meal_ln_amount[0, 20] = math.log(1.5)
    wide.meal_ln_tg[0, 41] = 0.5
    wide.disturbance[:, 44] = 0.002
    acts = [Act(START_US + 10 * US_PER_MIN, "carbs_g", 40.0, 0)]
    many = glucose(world(acts, 4.0), wide)
    plain = glucose(world(acts, 4.0))[:, 0]
    others = [j for j in range(45) if j not in (7, 20, 41, 44)]
    np.testing.assert_allclose(many[:, others], np.repeat(plain[:, None], len(others), axis=1), rtol=1e-12)
    larger = glucose(world([Act(START_US + 10 * US_PER_MIN, "carbs_g", 60.0, 0)], 4.0))[:, 0]
    np.testing.assert_allclose(many[:, 20], larger, rtol=1e-9)
    assert many[-1, 7] < plain[-1]
    assert many[12, 41] < plain[12]  # slower: less has come after an hour
    assert many[-1, 44] > plain[-1]


def test_the_day_is_cut_where_the_grid_is_whatever_happens_between() -> None:
    acts = [
        Act(START_US + 7 * US_PER_MIN, "bolus_u", 1.0),
        Act(START_US + 7 * US_PER_MIN, "long_acting_u", 5.0),
    ]
    grid = world(acts, 1.0).grid_us
    assert grid.tolist() == [START_US + m * US_PER_MIN for m in range(5, 61, 5)]
