"""Batch refinement: the prior where nothing was read, the person where something was."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.consolidate import base_of
from core.correction import neutral
from core.courses import Act, in_order, make_world, run
from core.models import hovorka as model
from core.nominal import Tuning, make_nominal
from core.patient import LocalTime, Patient, Therapy
from core.refine import (
    CONSTANTS,
    LN_RCL,
    MAX_READINGS,
    N_CONSTANTS,
    Places,
    Reading,
    Refined,
    bodies_of,
    constant_names,
    consts_with,
    nodes_for,
    refine,
)
from core.therapy_facts import facts_of, predicted_facts, probe
from core.track import Track
from core.units import MGDL_PER_MMOLL, US_PER_DAY, US_PER_H
from tests.core.people import START_US, Life, live

END_US = START_US + US_PER_DAY


def track_at_start(patient: Patient | None = None) -> Track:
    who = patient if patient is not None else Patient(weight_kg=75.0)
    local = LocalTime("UTC")
    return Track(who, local, make_nominal(who, (), local, Tuning(), None), Tuning(), START_US - 1, neutral())


def acts_of(life: Life) -> list[Act]:
    inputs = [s for s in life.samples if s.kind != "cgm_mgdl"]
    meals = [s for s in inputs if s.kind == "carbs_g"]
    return in_order([Act(s.time_us, s.kind, s.value, meals.index(s) if s in meals else -1) for s in inputs])


@pytest.fixture(scope="module")
def life() -> Life:
    return live(1.0, seed=4, sensitivity=1.1)


@pytest.fixture(scope="module")
def refined(life: Life) -> Refined:
    readings = [Reading(s.time_us, s.value) for s in life.samples if s.kind == "cgm_mgdl"]
    readings[100] = Reading(readings[100].time_us, readings[100].value_mgdl + 150.0)  # one of them is wild
    return refine(track_at_start(), acts_of(life), readings, Therapy(), END_US, 3)


def test_what_a_night_takes_off_as_prior_is_the_batch_own() -> None:
    """With a basal rate known the filter's sensitivity moves less than people differ: no information may come of it."""
    patient = Patient(weight_kg=75.0, therapy=Therapy(basal_profile=(("00:00", 0.9),)))
    track = track_at_start(patient)
    found = refine(track, [], [], Therapy(), START_US + 6 * US_PER_H, 0)
    mean, sd, _ = base_of(track)
    np.testing.assert_allclose(found.mean[: len(mean)], mean, atol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.diag(found.cov))[: len(sd)], sd, rtol=1e-6)


def test_without_readings_and_therapy_the_answer_is_the_prior() -> None:
    found = refine(track_at_start(), [], [], Therapy(), START_US + 6 * US_PER_H, 0)
    at = found.places.theta
    nominal = track_at_start().nominal.dynamics
    np.testing.assert_allclose(found.mean[at : at + 5], nominal[:5, 0], atol=1e-9)
    sd = np.sqrt(np.diag(found.cov))
    np.testing.assert_allclose(sd[:N_CONSTANTS], [s for _, s in CONSTANTS], rtol=1e-6)
    np.testing.assert_allclose(sd[at], nominal[0, 2], rtol=1e-6)
    assert dict(zip(constant_names(), found.mean[:N_CONSTANTS], strict=True))["rcl"] == LN_RCL
    drawn = found.draws(np.random.default_rng(0), 2, 40)
    assert np.all(np.ptp(drawn[:, 0], axis=1) == 0.0)  # constants are shared inside a group
    assert drawn[0, 0, 0] != drawn[1, 0, 0]
    assert 0.6 < drawn[:, at].std() / nominal[0, 2] < 1.4


def test_drawn_people_fit_what_was_read(life: Life, refined: Refined) -> None:
    track, rms = track_at_start(), []
    world = make_world(track, acts_of(life), END_US)
    for x in refined.draws(np.random.default_rng(1), 3, 40):
        bodies = bodies_of(x, refined.places, refined.state, refined.ln_s)
        course = MGDL_PER_MMOLL * run(
            world, bodies, refined.spread, consts_with(refined.consts, x[:N_CONSTANTS, 0])
        )
        # Row k of the course is 5 min later than START − 1 µs + 5 k min: the same step of the life.
        rms.append(
            np.sqrt(np.mean((course[: life.interstitial.size] - life.interstitial[:, None]) ** 2, axis=0))
        )
    assert np.median(rms) < 12.0
    assert refined.fit.rmse_mgdl < 25.0  # the wild reading is in it
    assert refined.fit.outliers >= 1
    assert refined.fit.readings == 288 <= MAX_READINGS


def test_readings_narrow_what_is_not_known(refined: Refined) -> None:
    sd = {name: s for name, (_, s) in refined.parameters().items()}
    assert sd["ln_s"] < 0.8 * track_at_start().nominal.dynamics[model.LN_S, 2]
    assert sd["ln_tg"] < 0.25
    mean, spread = refined.parameters()["ln_s"]
    assert abs(mean - math.log(1.1)) < 3.0 * spread
    eigenvalues = np.linalg.eigvalsh(0.5 * (refined.cov + refined.cov.T))
    assert eigenvalues.min() > -1e-9


def test_the_same_record_gives_the_same_person(life: Life) -> None:
    readings = [Reading(s.time_us, s.value) for s in life.samples if s.kind == "cgm_mgdl"][:72]
    one, two = (
        refine(track_at_start(), acts_of(life)[:1], readings, Therapy(), START_US + 6 * US_PER_H, 0)
        for _ in range(2)
    )
    assert one.mean.tobytes() == two.mean.tobytes()
    assert one.fit.noise == two.fit.noise


def test_therapy_facts_are_what_a_test_dose_would_show() -> None:
    """The definition, by the full simulator: rest at 140 mg/dL, one unit, the largest fall within 5 h."""
    consts = model.make_consts(circ_ln=0.0)
    theta = np.array([math.log(1.4), 0.0, 0.0, 0.0, 0.0])
    fall, rise = probe(consts, theta)
    basal = model.basal_from_glucose(consts, 140.0 / MGDL_PER_MMOLL, theta[0])
    patient = Patient(
        weight_kg=75.0, therapy=Therapy(basal_profile=(("00:00", basal * 0.06),), target_mgdl=140.0)
    )
    track = track_at_start(patient)
    points = np.zeros((model.N, 1))
    points[model.N_LINEAR :, 0] = model.steady_state(consts, basal, theta[0], 0.0, 140.0 / MGDL_PER_MMOLL)
    track.time_us = START_US
    bodies = bodies_of(np.zeros((N_CONSTANTS + 8 + 2, 1)), Places(0, 2), points[model.N_LINEAR :, 0], 0.0)
    bodies.theta[:, 0] = theta
    bodies.points[:] = points
    end_us = START_US + 5 * US_PER_H
    course = run(
        make_world(track, [Act(START_US, "bolus_u", 1.0)], end_us),
        bodies,
        nodes_for(START_US, START_US)._replace(held=2),
        consts,
    )
    drop = 140.0 - MGDL_PER_MMOLL * course[:, 0]
    np.testing.assert_allclose(fall, drop, atol=0.05)
    facts = facts_of(Therapy(correction_mgdl_per_u=40.0, carb_ratio_g_per_u=10.0))
    assert [(f.kind, f.ln_value) for f in facts] == [
        ("correction", math.log(40.0)),
        ("ratio", math.log(10.0)),
    ]
    found = predicted_facts(facts, consts, theta)
    assert found[0] == pytest.approx(math.log(fall.max()))
    assert found[1] == pytest.approx(math.log(fall.sum() / rise.sum()))
    assert predicted_facts((), consts, theta).size == 0
