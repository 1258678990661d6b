"""The fixed-step solver: its order, its accuracy at the step in use, and its batch."""

from __future__ import annotations

import numpy as np

from core.models import hovorka as model
from tests.core.models.test_hovorka import CONSTS, at_rest, bolus, fly, glucose_of, meal


def disturbed() -> tuple[float, np.ndarray]:
    basal, rest = at_rest(140.0)
    return basal, bolus(meal(rest, 60), 5)


def test_error_falls_with_the_fourth_power_of_the_step() -> None:
    basal, x0 = disturbed()
    reference = glucose_of(fly(x0, basal, 300, step_min=0.125))[-1]
    errors = [abs(glucose_of(fly(x0, basal, 300, step_min=h))[-1] - reference) for h in (5.0, 2.5, 1.25)]
    orders = np.log2([errors[0] / errors[1], errors[1] / errors[2]])
    assert (orders > 3.6).all()
    assert (orders < 4.9).all()


def test_error_at_the_step_in_use_is_far_below_any_reading() -> None:
    basal, x0 = disturbed()
    coarse = glucose_of(fly(x0, basal, 360))
    fine = glucose_of(fly(x0, basal, 360, step_min=0.25))[9::10]
    assert np.abs(coarse - fine).max() < 5e-3


def test_agrees_with_a_tight_adaptive_reference() -> None:
    from scipy.integrate import solve_ivp

    from tests.oracles import hovorka as oracle

    basal, x0 = disturbed()

    def slope(_: float, x: np.ndarray) -> list[float]:
        named = oracle.derivative(dict(zip(oracle.STATES, x, strict=True)), oracle.W10, u=basal)
        return [named[name] for name in oracle.STATES]

    tight = solve_ivp(slope, (0.0, 240.0), x0, rtol=1e-10, atol=1e-12)
    mine = fly(x0, basal, 240)[-1]
    assert abs(mine[model.Q1] - tight.y[model.Q1, -1]) / CONSTS[model.VG] < 3e-4  # mmol/L


def test_columns_of_a_batch_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(3)
    basal, x0 = disturbed()
    points = np.zeros((model.N, 7))
    points[: model.N_THETA] = 0.3 * rng.standard_normal((model.N_THETA, 7))
    points[model.N_LINEAR :] = x0[:, None] * rng.uniform(0.5, 1.5, (model.N_STATE, 7))
    nodes, work = np.zeros((5, model.N_INPUT)), np.zeros(model.WORK_SIZE)
    model.drive(np.zeros(4), np.array([basal, 0.0, 70.0, 12.0]), CONSTS, 5.0, 2, nodes)
    together = points.copy()
    model.sweep(together, nodes, CONSTS, 2.5, 2, work)
    for j in range(7):
        alone = np.ascontiguousarray(points[:, j : j + 1])
        model.sweep(alone, nodes, CONSTS, 2.5, 2, work)
        np.testing.assert_array_equal(alone[:, 0], together[:, j])


def test_coasting_moves_the_mean_as_the_sweep_does() -> None:
    basal, x0 = disturbed()
    mean = np.zeros(model.N)
    mean[model.N_LINEAR :] = x0
    dynamics = np.tile([0.0, 60.0, 0.1], (model.N_LINEAR, 1))
    out, work = np.zeros(12), np.zeros(model.COAST_SIZE)
    held = np.array([basal, 0.0, 70.0, 12.0])
    model.coast(mean, np.zeros(4), held, CONSTS, dynamics, 5.0, out, work)
    states = fly(x0, basal, 60)
    np.testing.assert_allclose(mean[model.N_LINEAR :], states[-1], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(out, states[:, model.C] * 18.0156, rtol=1e-12)
