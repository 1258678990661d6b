"""Where a newcomer's correction begins: the algebra against learning anew, the bytes, the median."""

from __future__ import annotations

import contextlib
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import correction as corr
from core import correction_pool as pool
from core.correction_prior import POPULATION
from core.errors import DecodeError
from core.messages import Prior, Sample
from core.twin import Patient, Twin
from tests.core.people import DAY_US, MIN_US, START_US, Life, live
from tests.core.test_correction import note, small_population

AHEAD_MIN = (30.0, 60.0, 120.0)
HOURS = 22  # within a day nothing is forgotten: the algebra is exact


def lived(learn: np.ndarray, population: corr.Population, seed: int) -> None:
    """Most of a day of readings and forecasts, small enough that no error is cut off."""
    rng = np.random.default_rng(seed)
    for step in range(12 * HOURS):
        corr.note_reading(learn, 5.0 * step, 150.0 + 5.0 * float(np.sin(step / 9.0)))
        corr.mature(learn, population.cov, population.var, np.zeros(corr.K))
        if step % 3 == 0:
            note(learn, 0.3 * rng.standard_normal(corr.K), np.full(corr.H, 150.0), population)


def wide() -> corr.Population:
    """As the small one, with a residual so wide that Huber's limit cuts nothing: the algebra is linear."""
    small = small_population(np.random.default_rng(1))
    return corr.Population(
        *small.scaler, small.weights, small.cov, np.full(corr.H, 1e6), small.beta, small.low, small.high
    )


def some(seed: int, size: float = 1.0) -> pool.Start:
    rng = np.random.default_rng(seed)
    weights, low, high = (rng.standard_normal(shape) for shape in ((corr.K, corr.H), pool.CELLS, pool.CELLS))
    return pool.Start(size * weights, 0.1 * size * low, 0.1 * size * high)


def test_a_start_given_late_is_as_if_it_had_been_given_at_first() -> None:
    population = wide()
    first, late, changed = (corr.fresh(population) for _ in range(3))
    pool.begin(first, population, None, some(2))
    pool.begin(changed, population, None, some(3))
    for learn in (first, late, changed):
        lived(learn, population, 4)
    assert pool.notes(late) > 50
    pool.begin(late, population, None, some(2))
    pool.begin(changed, population, some(3), some(2))
    weights = slice(corr.AT_W, corr.AT_LOW)
    np.testing.assert_allclose(late[weights], first[weights], atol=1e-9)
    np.testing.assert_allclose(changed[weights], first[weights], atol=1e-9)


def test_what_the_own_data_moved_does_not_depend_on_the_start() -> None:
    population = wide()
    plain, begun = corr.fresh(population), corr.fresh(population)
    pool.begin(begun, population, None, some(5))
    assert (
        np.max(np.abs(pool.own(begun, population, some(5)).weights)) < 1e-9
    )  # nothing seen: nothing to tell
    for learn in (plain, begun):
        lived(learn, population, 6)
    a, b = pool.own(plain, population, None), pool.own(begun, population, some(5))
    assert np.max(np.abs(a.weights)) > 0.1
    np.testing.assert_allclose(a.weights, b.weights, atol=1e-9)


def test_a_start_for_somebody_unseen_is_taken_whole_and_fades_with_what_is_seen() -> None:
    learn = corr.fresh(POPULATION)
    start = some(7)
    pool.begin(learn, POPULATION, None, start)
    np.testing.assert_allclose(
        learn[corr.AT_W : corr.AT_LOW].reshape(corr.K, corr.H), POPULATION.weights + start.weights
    )
    np.testing.assert_allclose(np.log(learn[corr.AT_LOW : corr.AT_HIGH] / POPULATION.low.ravel()), start.low)
    seen = corr.fresh(POPULATION)
    seen[corr.AT_SEEN : corr.AT_RING] = pool.SEEN_HALF
    seen[corr.AT_P : corr.AT_W] *= 0.01
    pool.begin(seen, POPULATION, None, start)
    np.testing.assert_allclose(
        seen[corr.AT_W : corr.AT_LOW].reshape(corr.K, corr.H), POPULATION.weights + 0.01 * start.weights
    )
    np.testing.assert_allclose(
        np.log(seen[corr.AT_HIGH : corr.AT_SEEN] / POPULATION.high.ravel()), start.high / 2
    )


def test_the_pool_is_of_the_middle_half_that_three_of_twelve_cannot_move_far() -> None:
    honest = [some(10 + n) for n in range(9)]
    absurd = [some(20 + n, 100.0) for n in range(3)]
    assert pool.pooled(honest) is None  # nine are no population
    found = pool.pooled(honest + absurd)
    assert found is not None
    stack = np.stack([one.weights for one in honest])
    assert np.all(found.weights <= stack.max(axis=0) * 12 / 13 + 1e-12)
    assert np.all(found.weights >= stack.min(axis=0) * 12 / 13 - 1e-12)
    same = pool.pooled([some(30)] * 19)
    assert same is not None
    np.testing.assert_allclose(same.weights, 0.95 * some(30).weights)


def test_no_weight_that_is_sent_out_is_one_persons() -> None:
    people = [some(60 + n) for n in range(11)]
    found = pool.pooled(people)
    assert found is not None
    for one in people:
        assert np.min(np.abs(found.weights * 12 / 11 - one.weights)) > 1e-9


def test_weights_that_are_no_numbers_are_not_told() -> None:
    learn = corr.fresh(POPULATION)
    learn[corr.AT_SEEN] = pool.MIN_NOTES
    assert len(pool.told(learn, POPULATION, None)) == pool.SIZE_BYTES
    learn[corr.AT_W + 3] = np.nan
    assert pool.told(learn, POPULATION, None) == b""


def test_no_more_than_all_of_a_start_is_taken_out_whatever_forgetting_did() -> None:
    learn = corr.fresh(POPULATION)
    pool.begin(learn, POPULATION, None, some(70))
    learn[corr.AT_P : corr.AT_W] *= 3.0
    np.testing.assert_allclose(pool.own(learn, POPULATION, some(70)).weights, 0.0, atol=1e-9)


def test_bytes_come_back_and_those_of_another_shipped_prior_are_not_used() -> None:
    start = some(40)
    data = start.to_bytes(POPULATION)
    found = pool.read(data, POPULATION)
    assert found is not None
    np.testing.assert_allclose(found.weights, start.weights, rtol=1e-6)
    assert found.to_bytes(POPULATION) == data
    assert pool.read(data, small_population(np.random.default_rng(1))) is None


@given(st.integers(0, 2**32), st.one_of(st.integers(0, 64), st.just(pool.SIZE_BYTES)))
@settings(max_examples=100, deadline=None)
def test_bytes_of_a_stranger_are_refused_or_left(seed: int, size: int) -> None:
    data = random.Random(seed).randbytes(size)
    with contextlib.suppress(DecodeError):
        assert pool.read(data, POPULATION) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, 151.0, -1e30])
def test_impossible_weights_are_refused(value: float) -> None:
    start = some(41)
    start.weights[3, 4] = value
    with pytest.raises(DecodeError):
        pool.read(start.to_bytes(POPULATION), POPULATION)


# ---- the twin ---------------------------------------------------------------------------------------


def prior_with(start: pool.Start) -> Prior:
    names = ("ln_s", "ln_egp0", "ln_tg", "ln_ag", "ln_ti")
    covariance = tuple(
        sd**2 if i == j else 0.0 for i, sd in enumerate((1.0, 0.05, 0.25, 0.35, 0.2)) for j in range(i + 1)
    )
    correction = start.to_bytes(POPULATION)
    return Prior(3, "glucose/1", names, (0.0,) * 5, covariance, "all", "test", 2**62, correction)


@pytest.fixture(scope="module")
def life() -> Life:
    return live(days=6)


def test_a_newcomer_forecasts_from_the_start_and_tells_only_what_is_its_own(life: Life) -> None:
    start = some(50, 2.0)
    start.weights[0] = 30.0  # thirty mg/dL more, whatever else is so
    at_first = [s for s in life.samples if s.time_us < START_US + 2 * 60 * MIN_US]
    now = at_first[-1].time_us
    plain, begun = Twin(Patient()), Twin(Patient(), prior=prior_with(start))
    for twin in (plain, begun):
        twin.observe(at_first)
    gain = np.subtract(
        begun.forecast(now, AHEAD_MIN).forecast.mean, plain.forecast(now, AHEAD_MIN).forecast.mean
    )
    assert np.all(gain > 5.0)
    assert begun.contribution(now).correction == b""  # an hour says nothing yet
    end = life.samples[-1].time_us
    for twin in (plain, begun):
        twin.observe(life.samples)
    told = [pool.read(twin.contribution(end).correction, POPULATION) for twin in (plain, begun)]
    assert told[0] is not None
    assert told[1] is not None
    # What little differs comes from errors that were cut off (Huber) and from forgetting, which are not linear.
    apart = np.abs(told[1].weights - told[0].weights)
    assert np.median(apart) < 0.15 * np.median(np.abs(start.weights))


def test_a_start_that_comes_later_survives_rewind_and_bytes(life: Life) -> None:
    cut = len(life.samples) // 2
    twin = Twin(Patient())
    twin.observe(life.samples[:cut])
    twin.estimate(life.samples[cut - 1].time_us)
    twin.set_prior(prior_with(some(60, 3.0)))
    twin.observe(life.samples[cut:])
    end = life.samples[-1].time_us
    before = twin.forecast(end, AHEAD_MIN).forecast
    other = Twin.restore(twin.snapshot())
    assert other.forecast(end, AHEAD_MIN).forecast == before
    assert other.contribution(end) == twin.contribution(end)
    late = Sample(life.samples[cut - 40].time_us + 7 * MIN_US, "bolus_u", 0.5, "hand", 2)
    for each in (twin, other):
        each.observe([late])
    assert other.forecast(end, AHEAD_MIN).forecast == twin.forecast(end, AHEAD_MIN).forecast
    plain = Twin(Patient())
    plain.observe(life.samples)
    assert plain.forecast(end, AHEAD_MIN).forecast.mean != before.mean
    # A later prior that says nothing of the correction takes nothing away.
    quiet = msgspec.structs.replace(prior_with(some(60)), version=4, correction=b"")
    twin.set_prior(quiet)
    twin.observe(
        [Sample(START_US + 8 * DAY_US, "cgm_mgdl", 130.0, "cgm", 10**9 - 1)]
    )  # the calibration of day 7
    end = START_US + 8 * DAY_US
    twin.observe([Sample(end + 5 * MIN_US, "cgm_mgdl", 140.0, "cgm", 10**9)])
    twin.estimate(end + 5 * MIN_US)
    assert twin._track is not None
    assert twin._track.start is not None


def test_a_damaged_start_is_refused_before_anything_changes() -> None:
    twin = Twin(Patient())
    with pytest.raises(DecodeError):
        twin.set_prior(msgspec.structs.replace(prior_with(some(61)), correction=b"short"))
    assert twin.prior is None
