"""What the model misses after each meal and at the same hour of each day: kernels, draws, and that it is learned and carried on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.courses import Act, in_order
from core.hyper import (
    QUIET_BODY,
    SEARCH,
    Meal,
    Noise,
    course_cov,
    disturbance_cov,
    level_cov,
    likeliest,
    ln_prior,
    sensor_cov,
)
from core.patient import Therapy
from core.refine import Reading, Refined, _Problem, refine
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from tests.core.people import START_US, live
from tests.core.test_refine import acts_of, track_at_start

BUMP_MGDL = 30.0
FROM_H, TO_H = 9.0, 13.0  # after the span's start, each day


def test_kernels_by_hand() -> None:
    noise = Noise(10.0, 20.0, level=6.0)
    at = np.array([0, 6, 12, 24], dtype=np.int64) * US_PER_H
    width = 2.0 * math.pi * 1.5 / 24.0
    quarter = 36.0 * math.exp(-2.0 * 0.5 / width**2)  # sin²(π/4) = 1/2
    half = 36.0 * math.exp(-2.0 / width**2)
    np.testing.assert_allclose(level_cov(noise, at[:1], at)[0], [36.0, quarter, half, 36.0], rtol=1e-12)
    two = np.array([0, 20], dtype=np.int64) * US_PER_MIN
    expected = [100.0 + 9.0, 100.0 * 2.0 * math.exp(-1.0) + 9.0]
    np.testing.assert_allclose(sensor_cov(noise, two)[0], expected, rtol=1e-12)


def test_a_meals_course_errs_in_proportion_to_the_meal_and_alike_after_each() -> None:
    noise = Noise(fast=0.002, daily=0.0, course=0.001)
    meals = [Meal(0, 2.0), Meal(US_PER_DAY, 3.0)]
    minutes = [-20, 0, 20, 30, 60, 360, 1440 + 20, 1440 + 60]
    at = np.array(minutes, dtype=np.int64) * US_PER_MIN
    found = course_cov(noise, at, meals) / noise.course**2
    between = math.exp(-0.5 * (40.0 / 45.0) ** 2)  # of 20 and 60 min after a meal
    np.testing.assert_allclose(
        found[2], [0, 0, 4, 2 + 2 * math.exp(-0.5 * (20 / 45) ** 2), 4 * between, 0, 6, 6 * between]
    )
    assert not found[[0, 1, 5]].any()  # before, at, and long after a meal nothing errs
    np.testing.assert_allclose(found[7, 7], 9.0)
    whole = disturbance_cov(noise, at, meals) - disturbance_cov(noise, at)
    np.testing.assert_allclose(whole, course_cov(noise, at, meals), atol=1e-15)
    assert not course_cov(noise, at, ()).any()
    assert not course_cov(noise._replace(course=0.0), at, meals).any()


def test_a_level_is_looked_for_only_where_asked_and_the_search_finds_the_peak() -> None:
    wanted = Noise(11.0, 35.0, 0.004, 60.0, 0.006, 0.35)

    def evidence(trial: Noise) -> float:
        far = sum((math.log(a / b)) ** 2 for a, b in zip(trial, wanted, strict=True) if b)
        missed = (trial.level - 8.0) ** 2 * (trial.level > 0.0)
        return -far - missed - (1e3 * trial.course - 2.0) ** 2 * (trial.course > 0.0)

    assert likeliest(evidence, Noise()) == wanted
    assert likeliest(evidence, Noise(level=4.0, course=0.001)) == wanted._replace(level=8.0, course=0.002)
    assert not {"level", "course"} & set(SEARCH)
    assert ln_prior(Noise()) == 0.0
    doubled = ln_prior(Noise(level=8.0)) - ln_prior(Noise(level=4.0))
    assert doubled == pytest.approx(-0.5 * (math.log(2.0) / 2.0) ** 2)
    assert ln_prior(Noise(level=4.0)) == ln_prior(Noise(level=4.0, course=0.001))
    assert ln_prior(QUIET_BODY) < 0.0


def test_sizes_of_two_kinds_of_people_by_hand() -> None:
    usual, quiet = (
        Noise(fast=f, meals=m, level=4.0, course=0.001) for f, m in ((0.008, 1.0), (0.00025, 0.06))
    )
    assert ln_prior(usual) == pytest.approx(math.log(0.95), abs=1e-6)
    assert ln_prior(quiet) == pytest.approx(math.log(0.05), abs=1e-6)
    careful = usual._replace(meals=0.35)  # who logs with care is of the first kind still
    apart = -0.5 * (math.log(0.35) / 0.5) ** 2
    assert ln_prior(careful) == pytest.approx(math.log(0.95) + apart, abs=1e-3)
    # Half-way between, as one wide prior would have it, is less likely than either.
    assert ln_prior(usual._replace(fast=0.0014, meals=0.25)) < min(ln_prior(usual), ln_prior(quiet)) - 3.0
    # Where the model is not said to err, all is left to the disturbance: one wide prior.
    assert ln_prior(Noise(fast=0.0014)) == pytest.approx(-0.5 * (math.log(0.0014 / 0.012) / 2.0) ** 2)


def sizes(disturbance: float, meal_error: float, every: int = 1) -> Noise:
    """What is found of a day of a simulated person; ``every``: of how many readings one is kept."""
    life = live(1.5, seed=8, disturbance=disturbance, meal_error=meal_error)
    acts = acts_of(life)
    readings = [Reading(s.time_us, s.value) for s in life.samples if s.kind == "cgm_mgdl"][::every]
    meals = sum(a.kind == "carbs_g" for a in acts)
    end_us = START_US + 36 * US_PER_H
    return refine(track_at_start(), acts, readings, Therapy(), end_us, meals, model_errs=True).fit.noise


def test_readings_tell_who_lives_without_the_unrecorded_and_few_of_them_do_not() -> None:
    quiet, usual, few = sizes(0.0, 0.0), sizes(0.010, 0.2), sizes(0.0, 0.0, every=54)
    assert max(quiet.fast / 0.0005, quiet.meals / 0.1) <= 1.0
    assert min(usual.fast / 0.004, usual.meals / 0.35) >= 1.0
    assert min(few.fast / 0.004, few.meals / 0.6) >= 1.0


@pytest.fixture(scope="module")
def refined() -> Refined:
    life = live(1.0, seed=4, sensitivity=1.1)
    inputs = [s for s in life.samples if s.kind != "cgm_mgdl"]
    meals = [s for s in inputs if s.kind == "carbs_g"]
    acts = in_order([Act(s.time_us, s.kind, s.value, meals.index(s) if s in meals else -1) for s in inputs])
    readings = [Reading(s.time_us, s.value) for s in life.samples if s.kind == "cgm_mgdl"]
    end_us = START_US + 2 * US_PER_DAY
    return refine(track_at_start(), acts, readings, Therapy(), end_us, len(meals), model_errs=True)


def test_what_a_body_cannot_explain_is_expected_at_the_same_hour_of_the_next_day(refined: Refined) -> None:
    work, noise = refined.work, Noise(sensor_mgdl=8.0, level=16.0)
    x = np.repeat(refined.mean[:, None], 200, axis=1)
    times_us = START_US + US_PER_DAY + np.arange(0, 24 * 60, 15, dtype=np.int64) * US_PER_MIN
    hour = (times_us - START_US) / US_PER_H % 24
    before = work.level(x, times_us, noise, np.random.default_rng(1)).mean(axis=1)
    kept = work.value
    read_h = (work.time_us - START_US) / US_PER_H
    work.value = kept + BUMP_MGDL * ((read_h >= FROM_H) & (read_h < TO_H))
    try:
        after = work.level(x, times_us, noise, np.random.default_rng(1)).mean(axis=1)
    finally:
        work.value = kept
    gained = after - before
    assert gained[(hour > FROM_H + 1) & (hour < TO_H - 1)].min() > 0.5 * BUMP_MGDL
    assert np.abs(gained[(hour < FROM_H - 4) | (hour > TO_H + 4)]).max() < 0.1 * BUMP_MGDL


def test_a_second_rise_after_each_meal_is_expected_after_the_next_days_meals() -> None:
    """Meals of the second day are known, its readings are not; a stomach in two waves is what no absorption time can do."""
    life = live(2.0, seed=4, sensitivity=1.1)
    acts = acts_of(life)
    meals_us = np.array([a.time_us for a in acts if a.kind == "carbs_g"])
    readings = []
    for s in life.samples:
        if s.kind == "cgm_mgdl" and s.time_us <= START_US + US_PER_DAY:
            since = (s.time_us - meals_us) / US_PER_MIN
            wave = BUMP_MGDL * float(np.exp(-0.5 * ((since - 240.0) / 30.0) ** 2).sum())
            readings.append(Reading(s.time_us, s.value + wave))
    end_us = START_US + 2 * US_PER_DAY
    work = _Problem(track_at_start(), acts, readings, Therapy(), end_us, meals_us.size)
    nodes_us = work.spread.times_us()
    wave = {}
    for course in (0.0, 0.002):
        x, _ = work.mode(work.prior_mean, Noise(fast=0.001, daily=0.00001, meals=0.2, course=course), 6)
        later = [m for m in meals_us if m > START_US + US_PER_DAY]
        since = [(nodes_us - m) / US_PER_MIN for m in later]
        d = x[work.places.disturbance :]
        wave[course] = np.array([d[(s > 180.0) & (s < 240.0)].mean() for s in since])
    assert wave[0.002].min() > 0.001  # mmol/kg/min: over an hour some 7 mg/dL
    assert np.abs(wave[0.0]).max() < 0.25 * wave[0.002].min()


def test_draws_of_the_level_are_a_gaussian_process_given_the_rest(refined: Refined) -> None:
    """Against conditioning by hand: one joint covariance of readings and later times, blocks taken apart."""
    work, noise = refined.work, refined.fit.noise
    times_us = START_US + US_PER_DAY + np.array([3, 11, 18], dtype=np.int64) * US_PER_H
    x = np.repeat(refined.mean[:, None], 4000, axis=1)
    drawn = refined.level(x, times_us, np.random.default_rng(3))
    both = np.concatenate([work.time_us, times_us])
    joint = level_cov(noise, both, both)
    n = work.n
    joint[:n, :n] = work.reading_cov(noise)[:n, :n]
    precision = np.linalg.inv(joint + 1e-9 * np.eye(joint.shape[0]))
    cov = np.linalg.inv(precision[n:, n:])
    unexplained = work.value - work.mode_at[:n]
    mean = -cov @ precision[n:, :n] @ unexplained
    np.testing.assert_allclose(drawn.mean(axis=1), mean, atol=5.0 * noise.level / math.sqrt(4000))
    np.testing.assert_allclose(np.cov(drawn), cov, atol=0.12 * noise.level**2)


def test_nights_know_no_level() -> None:
    found = refine(track_at_start(), [], [], Therapy(), START_US + 6 * US_PER_H, 0)
    times_us = np.array([START_US, START_US + US_PER_H], dtype=np.int64)
    assert found.fit.noise.level == 0.0 == found.fit.noise.course
    assert not found.level(found.mean[:, None], times_us, np.random.default_rng(0)).any()
