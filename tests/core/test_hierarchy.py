"""The population is what was drawn, whoever is absurd, however the people are cut into chunks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import hierarchy as h
from core.errors import InputError

N = 3
SD = np.array([0.7, 0.25, 0.2])
ANCHOR = h.anchor_of(np.zeros(N), np.diag(SD**2), (h.TAU,) * 4)


class Drawn(NamedTuple):
    people: h.People
    precision: np.ndarray
    vector: np.ndarray
    stratum: np.ndarray
    means: np.ndarray
    covariance: np.ndarray


def draw(count: int, seed: int, absurd: float = 0.0, strata_differ: float = 0.2) -> Drawn:
    """People of a known population: full-rank information of very different size and direction."""
    rng = np.random.default_rng(seed)
    factor = np.diag([0.5, 0.2, 0.15]) @ np.linalg.cholesky(0.4 * np.ones((N, N)) + 0.6 * np.eye(N))
    means = np.array([0.3, -0.15, 0.1]) + strata_differ * SD * rng.standard_normal((4, N))
    stratum = rng.integers(4, size=count)
    theta = means[stratum] + rng.standard_normal((count, N)) @ factor.T
    turn = np.eye(N) + 0.3 * rng.standard_normal((count, N, N))
    power = np.array([40.0, 30.0, 60.0]) * rng.uniform(0.3, 3.0, (count, 1))
    precision = np.einsum("ija,ia,ika->ijk", turn, power, turn)
    noise = np.linalg.cholesky(np.linalg.inv(precision))
    seen = theta + np.einsum("ijk,ik->ij", noise, rng.standard_normal((count, N)))
    wild = round(absurd * count)
    seen[:wild] += 12 * SD  # all on one side, and very sure of it
    precision[:wild] *= 50
    vector = np.einsum("ijk,ik->ij", precision, seen)
    people = h.stack(precision, vector, stratum, ANCHOR)
    return Drawn(people, precision, vector, stratum, means, factor @ factor.T)


def sd_of(fitted: h.Fit, stratum: int = 0) -> np.ndarray:
    return np.sqrt(np.diag(h.predictive(fitted, ANCHOR, stratum)[1]))


def part_of(people: h.People, chosen: slice) -> h.People:
    return h.People(*(field[chosen] for field in people))


def test_the_population_that_was_drawn_is_found() -> None:
    drawn = draw(1500, 1)
    fitted = h.fit([drawn.people], ANCHOR)
    assert fitted.converged
    means = np.array([h.predictive(fitted, ANCHOR, g)[0] for g in range(4)])
    assert means == pytest.approx(drawn.means, abs=0.06)
    covariance = h.predictive(fitted, ANCHOR, 0)[1]
    assert np.sqrt(np.diag(covariance)) == pytest.approx(np.sqrt(np.diag(drawn.covariance)), rel=0.1)
    scale = np.sqrt(np.diag(covariance))
    assert covariance[0, 1] / (scale[0] * scale[1]) == pytest.approx(0.4, abs=0.12)
    assert h.NU_GRID[fitted.point.nu] >= 20  # Gaussian people are seen to be Gaussian


def test_new_people_fall_into_the_predictive_as_often_as_it_says() -> None:
    inside = []
    for seed in range(12):
        drawn = draw(12, seed)  # few people: the doubt about the means counts
        fitted = h.fit([drawn.people], ANCHOR)
        rng = np.random.default_rng(1000 + seed)
        factor = np.linalg.cholesky(drawn.covariance)
        for g in range(4):
            mean, covariance = h.predictive(fitted, ANCHOR, g)
            new = drawn.means[g] + rng.standard_normal((40, N)) @ factor.T
            inside.append(np.abs(new - mean) <= 1.645 * np.sqrt(np.diag(covariance)))
    assert 0.86 <= np.mean(inside) <= 0.94


def test_five_percent_of_absurd_people_do_not_move_the_prior() -> None:
    clean, soiled = draw(1000, 3), draw(1000, 3, absurd=0.05)
    right, robust = h.fit([clean.people], ANCHOR), h.fit([soiled.people], ANCHOR)
    assert np.all(np.abs(robust.mean - right.mean) < 0.1 * SD)
    assert sd_of(robust) == pytest.approx(sd_of(right), rel=0.15)
    # What a plain mean would have made of them:
    seen = np.linalg.solve(soiled.precision, soiled.vector[:, :, None])[:, :, 0]
    assert np.all(seen.mean(axis=0) - right.mean > 0.4 * SD)


@pytest.mark.parametrize("count", [60, 120])
def test_the_usual_peoples_spread_is_found_in_every_direction_whoever_is_absurd(count: int) -> None:
    # Absurd in the second parameter alone: neither does it look wider, nor do the others look narrower.
    drawn = draw(1200, 13, strata_differ=0.0)
    wild = slice(0, count)
    vector = drawn.vector.copy()
    vector[wild] += np.einsum("ijk,k->ij", drawn.precision[wild], np.array([0.0, 30 * SD[1], 0.0]))
    soiled = h.stack(drawn.precision, vector, drawn.stratum, ANCHOR)
    right, robust = h.fit([drawn.people], ANCHOR), h.fit([soiled], ANCHOR)
    assert sd_of(robust) == pytest.approx(sd_of(right), rel=0.05)
    assert sd_of(robust) == pytest.approx(np.sqrt(np.diag(drawn.covariance)), rel=0.06)
    assert h.NU_GRID[robust.point.nu] >= 20
    assert robust.sums.people.sum() == pytest.approx(1200 - count, abs=10)  # the absurd are nobody


def test_the_scale_of_a_t_by_hand() -> None:
    # k = 2: χ²/2 is exponential, and E[χ²/(2z + χ²)] = 1 − z eᶻ E₁(z). At z = 1, with E₁(1) = 0.2193839344
    # (Abramowitz & Stegun, table 5.1): 0.4036526 = 2/(ν + 2), so that ν = 2.9547552, and c = 2z/ν.
    assert h.usual_scale(2.9547552, 2) == pytest.approx(2 / 2.9547552, rel=1e-6)
    # k = 1, z = 1/2: 1 − z eᶻ E_½(z) with E_½(z) = √(π/z)·erfc(√z): erfc(√½) = 0.3173105079, so 0.3443205.
    nu = 1 / 0.3443205 - 1
    assert h.usual_scale(nu, 1) == pytest.approx(1 / nu, rel=1e-5)
    assert h.usual_scale(1e6, 3) == pytest.approx(1.0, abs=1e-5)
    assert h.usual_scale(3.0, 0) == 1.0  # who says nothing


@pytest.mark.parametrize("nu", [0, 2, 4])
def test_normal_people_keep_their_covariance_under_any_tail(nu: int) -> None:
    # One step from the truth stays there; without ``usual_scale`` it would shrink.
    rng = np.random.default_rng(14)
    count = 40_000
    covariance = np.diag((0.6 * SD) ** 2)
    theta = 0.6 * SD * rng.standard_normal((count, N))
    precision = np.repeat(np.diag(np.array([40.0, 0.0, 60.0]))[None], count, axis=0)  # of different depth
    precision[::2] *= 0.2
    noise = rng.standard_normal((count, N)) * np.sqrt(precision[:, range(N), range(N)])
    vector = precision[:, range(N), range(N)] * theta + noise
    people = h.stack(precision, vector, np.zeros(count, int), ANCHOR)
    sums = h.sums_of(people, h.Point(np.zeros((4, N)), covariance, nu))
    found = sums.scatter / sums.people.sum()
    assert np.diag(found) == pytest.approx(np.diag(covariance), rel=0.015)


def test_chunks_anywhere_give_the_same_as_all_at_once() -> None:
    people = draw(300, 4).people
    whole = h.fit([people], ANCHOR)
    cuts = [part_of(people, slice(k, k + 37)) for k in range(0, 300, 37)]
    cut = h.fit(cuts, ANCHOR)
    elsewhere = h.fit((), ANCHOR, each=lambda point: (h.sums_of(c, point) for c in reversed(cuts)))
    for other in (cut, elsewhere):
        for a, b in zip(h.predictive(whole, ANCHOR, 1), h.predictive(other, ANCHOR, 1), strict=True):
            assert a == pytest.approx(b, abs=1e-9)


def test_no_pass_lowers_the_objective() -> None:
    people = draw(120, 5, absurd=0.05).people
    seen: list[float] = []

    def each(point: h.Point) -> list[h.Sums]:
        sums = h.sums_of(people, point)
        seen.append(h.objective(sums, point, ANCHOR))
        return [sums]

    fitted = h.fit((), ANCHOR, each=each)
    assert fitted.converged
    taken = np.maximum.accumulate(seen)  # a leap that was refused is no step
    assert seen[-1] == pytest.approx(taken[-1], abs=1e-6)
    best = h.objective(fitted.sums, fitted.point, ANCHOR)
    rng = np.random.default_rng(0)
    for _ in range(20):  # and no point near the end is better
        shift = 0.02 * SD * rng.standard_normal((4, N))
        swell = np.exp(0.05 * rng.standard_normal())
        near = h.Point(fitted.point.means + shift, swell * fitted.point.covariance, fitted.point.nu)
        assert h.objective(h.sums_of(people, near), near, ANCHOR) < best


def test_with_nobody_it_is_the_published_distribution() -> None:
    mean, covariance = h.predictive(h.fit((), ANCHOR), ANCHOR, 2)
    assert mean == pytest.approx(np.zeros(N), abs=1e-15)
    assert covariance == pytest.approx(ANCHOR.covariance, rel=1e-12)


def test_people_who_say_nothing_change_nothing() -> None:
    silent = h.stack(np.zeros((50, N, N)), np.full((50, N), 3.0), [0] * 50, ANCHOR)
    mean, covariance = h.predictive(h.fit([silent], ANCHOR), ANCHOR, 0)
    assert mean == pytest.approx(np.zeros(N), abs=1e-9)
    assert covariance == pytest.approx(ANCHOR.covariance, rel=1e-3)


def test_a_stratum_of_few_is_drawn_to_all_and_one_of_many_is_itself() -> None:
    rng = np.random.default_rng(6)
    distance = []
    for count in (2, 200):
        stratum = np.array([0] * 400 + [1] * count)
        theta = np.where(stratum[:, None] == 1, 0.8 * SD, 0.0) + 0.3 * SD * rng.standard_normal(
            (stratum.size, N)
        )
        precision = np.repeat(np.diag(30 / SD**2)[None], stratum.size, axis=0)
        people = h.stack(precision, np.einsum("ijk,ik->ij", precision, theta), stratum, ANCHOR)
        fitted = h.fit([people], ANCHOR)
        means = [h.predictive(fitted, ANCHOR, g)[0] / SD for g in (0, 1)]
        distance.append(float(np.mean(means[1] - means[0])))
    assert 0.1 < distance[0] < 0.7
    assert distance[1] == pytest.approx(0.8, abs=0.05)


def test_leaving_one_out_is_as_if_that_one_had_never_been_there() -> None:
    drawn = draw(60, 7)
    fitted = h.fit([drawn.people], ANCHOR)
    one = part_of(drawn.people, slice(5, 6))
    g = int(drawn.stratum[5])
    rest = h.People(*(np.delete(field, 5, axis=0) for field in drawn.people))
    exact, spread = h.predictive(h.fit([rest], ANCHOR), ANCHOR, g)
    mean, covariance = h.predictive(fitted, ANCHOR, g, without=h.sums_of(one, fitted.point))
    with_all = h.predictive(fitted, ANCHOR, g)[0]
    assert np.max(np.abs(mean - exact) / SD) < 0.1 * np.max(np.abs(with_all - exact) / SD) + 1e-3
    assert np.sqrt(np.diag(covariance)) == pytest.approx(np.sqrt(np.diag(spread)), rel=0.03)


def test_a_fit_goes_on_from_an_earlier_one_and_ends_at_the_same_place() -> None:
    people = draw(200, 8).people
    early = h.fit([part_of(people, slice(0, 190))], ANCHOR)
    cold, warm = h.fit([people], ANCHOR), h.fit([people], ANCHOR, start=early.point)
    assert warm.passes < cold.passes
    assert warm.point.means == pytest.approx(cold.point.means, abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=6),
    st.lists(st.floats(-1e7, 1e7), min_size=N, max_size=N),
)
def test_any_finite_person_leaves_a_proper_prior(lower: list[float], vector: list[float]) -> None:
    matrix = np.zeros((N, N))
    matrix[np.tril_indices(N)] = lower
    odd = h.stack((matrix @ matrix.T / 1e6)[None], np.array([vector]), [0], ANCHOR)
    usual = part_of(draw(20, 9).people, slice(0, 20))
    mean, covariance = h.predictive(h.fit([usual, odd], ANCHOR), ANCHOR, 0)
    assert np.all(np.isfinite(mean))
    assert np.min(np.linalg.eigvalsh(covariance)) > 0


def test_shares_say_how_much_is_data() -> None:
    after = np.diag(SD**2 * np.array([0.1, 1.0, 1.3]))  # learnt, not learnt, less sure than the prior
    assert h.shares(ANCHOR.covariance, after) == pytest.approx([0.9, 0.0, 0.0])


def test_an_anchor_that_is_no_distribution_is_refused() -> None:
    with pytest.raises(InputError):
        h.anchor_of(np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), (0.1,))
    with pytest.raises(InputError):
        h.anchor_of(np.zeros(2), np.eye(3), (0.1,))
