"""Many bodies in step are the same bodies as each alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from core.crowd import Crowd
from core.errors import InputError
from core.models import hovorka as model
from core.solvers.rk4 import NARROW
from tests.oracles import hovorka as oracle

N = 11  # no multiple of the vector's width


class Alone:
    """One body moved by the filter's own kernels."""

    def __init__(self, consts: model.Array, theta: model.Array, basal: float, glucose: float) -> None:
        self.consts, self.theta = consts, theta
        self.points = np.zeros((model.N, 1))
        self.points[: model.N_THETA, 0] = theta
        self.points[model.N_LINEAR :, 0] = model.steady_state(
            consts, basal, theta[model.LN_S], theta[model.LN_TI], glucose
        )
        self.drivers, self.held = np.zeros(4), np.array([basal, 0.0, 70.0, 5.0])
        self.nodes, self.work = np.zeros((5, model.N_INPUT)), np.zeros(model.WORK_SIZE)

    def advance(self, minutes: float) -> None:
        while minutes > 0.0:
            dt_min = min(minutes, 5.0)
            n_steps = 1 if dt_min <= 2.5 else 2
            model.drive(self.drivers, self.held, self.consts, dt_min, n_steps, self.nodes)
            model.sweep_one(self.points, self.nodes, self.consts, dt_min / n_steps, n_steps, self.work)
            self.points[model.DISTURBANCE] *= np.exp(-dt_min / self.consts[model.TAU_D])
            self.held[model.LOCAL_H] = (self.held[model.LOCAL_H] + dt_min / 60.0) % 24.0
            minutes -= dt_min


def people(n: int = N) -> tuple[Crowd, list[Alone], np.random.Generator]:
    rng = np.random.default_rng(2)
    consts = np.array(
        [
            model.make_consts(
                bw=rng.uniform(20.0, 110.0), k12=rng.uniform(0.03, 0.09), circ_ln=rng.uniform(0.0, 0.4)
            )
            for _ in range(n)
        ]
    )
    theta = 0.3 * rng.standard_normal((n, model.N_THETA))
    theta[n // 3] = theta[n // 4]  # the same parameters in other bodies
    glucose = rng.uniform(5.0, 11.0, n)
    basal = np.array(
        [model.basal_from_glucose(c, 7.0, t[0], t[1]) for c, t in zip(consts, theta, strict=True)]
    )
    alone = [Alone(c, t, b, g) for c, t, b, g in zip(consts, theta, basal, glucose, strict=True)]
    return Crowd(consts, theta, basal, glucose, hour=5.0), alone, rng


def test_each_of_a_crowd_moves_as_it_would_alone() -> None:
    crowd, alone, rng = people()
    units, grams, pen = rng.uniform(0.0, 9.0, N), rng.uniform(0.0, 90.0, N), rng.uniform(0.0, 20.0, N)
    beats, flux = rng.uniform(0.0, 60.0, N), rng.normal(0.0, 0.02, N)

    def advance(minutes: float) -> None:
        crowd.advance(minutes)
        for one in alone:
            one.advance(minutes)

    advance(47.0)
    crowd.bolus(units)
    crowd.meal(grams)
    crowd.disturb(flux)
    for k, one in enumerate(alone):
        one.points[model.N_LINEAR + model.S1] += 1000.0 * units[k]
        one.points[model.N_LINEAR + model.D1] += model.meal_mmol_per_kg(
            one.consts, grams[k], one.theta[model.LN_AG]
        )
        one.points[model.DISTURBANCE] = flux[k]
    advance(62.0)
    crowd.long_acting(pen)
    crowd.heart(beats, 61.0)
    for k, one in enumerate(alone):
        one.drivers[model.L1] += 1000.0 * pen[k]
        one.held[model.HR_EXCESS], one.held[model.HR_REST] = beats[k], 61.0
    advance(33.0)
    crowd.heart(0.0, 61.0)
    crowd.basal(0.7)
    for one in alone:
        one.held[model.HR_EXCESS], one.held[model.BASAL] = 0.0, 0.7 * 1000.0 / 60.0
    advance(200.0)
    expected = np.array([one.points[model.N_LINEAR :, 0] for one in alone]).T
    np.testing.assert_allclose(crowd.state, expected, rtol=1e-9, atol=1e-12)
    assert np.ptp(crowd.plasma_mgdl) > 20.0  # they are not all one person
    np.testing.assert_allclose(crowd.sensed_mgdl, expected[model.C] * 18.0156, rtol=1e-9)


@pytest.mark.parametrize("n", [1, NARROW, 2 * NARROW + 5])
def test_a_crowd_of_any_size_follows_the_plain_equations(n: int) -> None:
    rng = np.random.default_rng(n)
    weight, transfer = rng.uniform(20.0, 110.0, n), rng.uniform(0.03, 0.09, n)
    consts = np.array(
        [model.make_consts(bw=w, k12=k, circ_ln=0.0) for w, k in zip(weight, transfer, strict=True)]
    )
    theta = 0.2 * rng.standard_normal((n, model.N_THETA))
    basal, glucose = rng.uniform(5.0, 20.0, n), rng.uniform(5.0, 16.0, n)
    crowd = Crowd(consts, theta, basal, glucose)
    crowd.bolus(rng.uniform(0.0, 5.0, n))
    crowd.meal(rng.uniform(0.0, 60.0, n))
    before = crowd.state
    crowd.advance(30.0)
    for j in range(n):
        s, egp, tg, _, ti = np.exp(theta[j])
        par = oracle.W10 | {"BW": weight[j], "k12": transfer[j]}
        alone = oracle.rk4(before[:, j], par, 2.5, 12, u=basal[j], s=s, egp=egp, tg=tg, ti=ti)
        np.testing.assert_allclose(crowd.state[:, j], alone, rtol=1e-9)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda crowd: crowd.bolus(-1.0),
        lambda crowd: crowd.meal(np.nan),
        lambda crowd: crowd.advance(-5.0),
        lambda crowd: crowd.disturb(np.inf),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(spoil: Callable[[Crowd], None]) -> None:
    crowd, _, _ = people()
    before = crowd.state
    with pytest.raises(InputError):
        spoil(crowd)
    np.testing.assert_array_equal(crowd.state, before)


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError):
        Crowd(np.zeros((2, model.N_CONST)), np.zeros((3, model.N_THETA)), np.ones(2), np.ones(2))
