"""The online correction: it learns what an oracle learns, later and never from the future."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core import correction as corr
from core import population
from core.correction_prior import POPULATION
from tests.oracles import rls as oracle

RNG_SEED = 20


def small_population(rng: np.random.Generator) -> corr.Population:
    cov = 0.02 * np.eye(corr.K)
    return corr.Population(
        np.zeros(corr.K),
        np.ones(corr.K),
        rng.standard_normal((corr.K, corr.H)),
        cov,
        np.full(corr.H, 400.0),
        np.zeros((corr.N_PSI, corr.H)),
        np.full((corr.H, corr.N_BIN), 30.0),
        np.full((corr.H, corr.N_BIN), 30.0),
    )


def note(learn: np.ndarray, x: np.ndarray, base: np.ndarray, pop: corr.Population) -> None:
    out = np.zeros((4, corr.H))
    corr.correct(learn, x, np.zeros(corr.N_PSI), pop.beta, 1, out)
    corr.push(learn, x, base, out, 1)


def test_weights_follow_the_plain_regression_once_all_targets_are_known() -> None:
    rng = np.random.default_rng(RNG_SEED)
    pop = small_population(rng)
    learn = corr.fresh(pop)
    weights, cov = pop.weights.copy(), pop.cov.copy()
    limits = corr.HUBER_SD * np.sqrt(pop.var)
    glucose = 150 + 40 * np.sin(np.arange(200) / 9.0)
    notes = []
    for step, value in enumerate(glucose):
        corr.note_reading(learn, 5.0 * step, float(value))
        learnt = corr.mature(learn, pop.cov, pop.var, np.zeros(corr.K))
        for _ in range(learnt):
            x, base, at = notes.pop(0)
            targets = np.array([glucose[at + round(h / 5)] for h in corr.HORIZONS_MIN]) - base
            weights, cov = oracle.step(weights, cov, x, targets, corr.NOISE_INFLATION, limits)
        if step % 3 == 0:
            x = rng.standard_normal(corr.K)
            base = 150 + 20 * rng.standard_normal(corr.H)
            note(learn, x, base, pop)
            notes.append((x, base, step))
    assert len(notes) < 60
    np.testing.assert_allclose(learn[corr.AT_W : corr.AT_LOW].reshape((corr.K, corr.H)), weights, rtol=1e-9)
    np.testing.assert_allclose(learn[corr.AT_P : corr.AT_W].reshape((corr.K, corr.K)), cov, atol=1e-12)


def test_nothing_is_learnt_before_the_last_target() -> None:
    pop = small_population(np.random.default_rng(1))
    learn = corr.fresh(pop)
    corr.note_reading(learn, 0.0, 120.0)
    note(learn, np.ones(corr.K), np.full(corr.H, 90.0), pop)
    for minute in range(5, 360, 5):
        corr.note_reading(learn, float(minute), 120.0)
        assert corr.mature(learn, pop.cov, pop.var, np.zeros(corr.K)) == 0
    corr.note_reading(learn, 360.0, 120.0)
    assert corr.mature(learn, pop.cov, pop.var, np.zeros(corr.K)) == 1


def test_targets_inside_a_gap_are_never_invented() -> None:
    pop = small_population(np.random.default_rng(1))
    learn = corr.fresh(pop)
    corr.note_reading(learn, 0.0, 120.0)
    note(learn, np.ones(corr.K), np.full(corr.H, 120.0), pop)
    for minute in (10.0, 20.0, 75.0, 90.0):  # nothing from 20 to 75
        corr.note_reading(learn, minute, 100.0 + minute)
    row = corr.AT_QUEUE + 2 + corr.K + corr.H
    target = dict(zip(corr.HORIZONS_MIN, learn[row : row + corr.H], strict=True))
    assert target[15.0] == pytest.approx(115.0)
    assert math.isnan(target[30.0])
    assert math.isnan(target[60.0])
    assert target[90.0] == pytest.approx(190.0)
    assert math.isnan(target[120.0])


def test_band_finds_the_tails_of_a_skewed_error() -> None:
    pop = small_population(np.random.default_rng(1))
    learn = corr.fresh(pop)
    rng = np.random.default_rng(4)
    x, gain = np.zeros(corr.K), np.zeros(corr.K)  # no feature: the mean cannot be learnt away
    minute, outside_low, outside_high, count = 0.0, 0, 0, 0
    for day in range(4000):
        corr.note_reading(learn, minute, 150.0)
        note(learn, x, np.full(corr.H, 150.0), pop)
        came = 150.0 + 30.0 * (rng.exponential() - 1.0)
        minute += 15.0
        corr.note_reading(learn, minute, came)
        minute += 500.0
        corr.note_reading(learn, minute, 150.0)
        low, high = learn[corr.AT_LOW + 1], learn[corr.AT_HIGH + 1]
        if day > 1000:
            count += 1
            outside_low += came < 150 - low
            outside_high += came > 150 + high
        corr.mature(learn, pop.cov, pop.var, gain)
    assert outside_low / count == pytest.approx(corr.MISS_EACH_SIDE, abs=0.02)
    assert outside_high / count == pytest.approx(corr.MISS_EACH_SIDE, abs=0.02)
    assert learn[corr.AT_HIGH + 1] > 1.5 * learn[corr.AT_LOW + 1]


def test_lags_are_read_between_readings_and_unknown_across_gaps() -> None:
    learn = corr.fresh(POPULATION)
    for minute in (0.0, 60.0, 75.0, 90.0, 105.0):
        corr.note_reading(learn, minute, 100.0 + minute)
    x, psi = np.zeros(corr.K), np.zeros(corr.N_PSI)
    flat = np.stack([np.zeros(corr.K), np.full(corr.K, 100.0)])
    corr.features(learn, np.zeros(corr.N_SIGNAL), np.zeros(corr.H), 12.0, flat, x, psi)
    lags = x[10:16] * 100.0
    np.testing.assert_allclose(lags, [-15.0, -30.0, -45.0, 0.0, 0.0, 0.0], atol=1e-9)


def test_a_fit_recovers_a_planted_weight() -> None:
    rng = np.random.default_rng(6)
    people = []
    for _ in range(3):
        n = 3000
        x = rng.standard_normal((n, corr.K))
        x[:, 0] = 1.0
        base = np.full((n, corr.H), 150.0)
        target = base + 12.0 * x[:, 5:6] + 10.0 * rng.standard_normal((n, corr.H))
        psi = np.zeros((n, corr.N_PSI))
        psi[:, 0] = 1.0
        rows = population.Rows(np.arange(n) * 9e8, x, psi, base, target, np.ones(n), np.full(n, 150.0))
        people.append(rows)
    fitted = population.fit(people)
    assert fitted.weights[5] == pytest.approx(12.0, abs=0.6)
    assert np.abs(np.delete(fitted.weights, 5, axis=0)).max() < 1.5
    assert np.sqrt(fitted.var) == pytest.approx(10.0, abs=0.7)
    half_width = fitted.high[:, 1] * np.exp(fitted.beta[0])
    assert half_width == pytest.approx(16.4, abs=1.5)


def test_the_shipped_prior_survives_its_own_source() -> None:
    scope: dict[str, object] = {}
    exec(population.to_source(POPULATION), scope)
    again = scope["POPULATION"]
    assert isinstance(again, corr.Population)
    np.testing.assert_allclose(again.weights, POPULATION.weights, rtol=1e-6)
    np.testing.assert_allclose(again.cov, POPULATION.cov, rtol=1e-6)
    assert np.linalg.eigvalsh(POPULATION.cov).min() > 0


def test_only_real_meals_and_doses_are_remembered_and_they_fade() -> None:
    flat = np.stack([np.zeros(corr.K), np.ones(corr.K)])

    def memory(learn: np.ndarray, t_min: float) -> np.ndarray:
        corr.note_reading(learn, t_min, 120.0)
        x, psi = np.zeros(corr.K), np.zeros(corr.N_PSI)
        corr.features(learn, np.zeros(corr.N_SIGNAL), np.zeros(corr.H), 12.0, flat, x, psi)
        return x[63:67]

    learn = corr.fresh(POPULATION)
    never = memory(learn, 0.0)
    corr.note_act(learn, 5.0, "carbs_g", 2.0)
    corr.note_act(learn, 5.0, "basal_uph", 9.0)
    assert memory(learn, 10.0) == pytest.approx(never)
    corr.note_act(learn, 15.0, "carbs_g", 40.0)
    corr.note_act(learn, 20.0, "bolus_u", 4.0)
    assert memory(learn, 75.0) == pytest.approx(np.exp([-60 / 60, -60 / 150, -55 / 60, -55 / 150]))


def test_a_fit_lets_people_differ_where_people_do() -> None:
    rng = np.random.default_rng(9)
    people = []
    for own in (-10.0, 10.0, -4.0, 4.0):
        n = 3000
        x = rng.standard_normal((n, corr.K))
        x[:, 0] = 1.0
        base = np.full((n, corr.H), 150.0)
        target = base + own * x[:, 5:6] + 10.0 * rng.standard_normal((n, corr.H))
        psi = np.zeros((n, corr.N_PSI))
        psi[:, 0] = 1.0
        people.append(population.Rows(np.arange(n) * 9e8, x, psi, base, target, np.ones(n), base[:, 0]))
    spread = np.diag(population.fit(people).cov)
    assert spread[5] > 10.0 * np.delete(spread, 5).max()


def test_a_fit_survives_people_without_a_complete_row() -> None:
    n = 50
    x = np.ones((n, corr.K))
    rows = population.Rows(
        np.arange(n) * 9e8,
        x,
        np.zeros((n, corr.N_PSI)),
        np.full((n, corr.H), 150.0),
        np.full((n, corr.H), np.nan),
        np.ones(n),
        np.full(n, 150.0),
    )
    full = rows._replace(target=np.full((n, corr.H), 160.0))
    fitted = population.fit([rows, full])
    assert np.isfinite(fitted.weights).all()
    assert np.linalg.eigvalsh(fitted.cov).min() > 0
