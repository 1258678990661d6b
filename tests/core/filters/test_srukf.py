"""The structured square-root filter against a plain one and against filterpy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from core.filters import srukf
from core.models import hovorka as model
from tests.oracles import ukf as oracle

CONSTS = model.make_consts()
NODES = np.zeros((5, model.N_INPUT))
DYNAMICS = np.zeros((model.N_LINEAR, 3))
DYNAMICS[: model.N_THETA, 1] = model.PRIOR_TAU_MIN
DYNAMICS[: model.N_THETA, 2] = model.PRIOR_SD
DYNAMICS[model.SENSOR_SLOW : model.SENSOR + 1] = (0.0, 11.0, 5.0)
DYNAMICS[model.DISTURBANCE] = (0.0, 30.0, 0.01)


def start(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A state far enough from zero that no sigma point is clipped, and a full random factor."""
    rng = np.random.default_rng(seed)
    mean = np.zeros(model.N)
    mean[: model.N_THETA] = 0.1 * rng.standard_normal(model.N_THETA)
    x = model.steady_state(CONSTS, 16.0, 0.0, 0.0, 8.0)
    x[model.D1], x[model.D2] = 2.0, 2.0
    mean[model.N_LINEAR :] = x
    size = np.concatenate([DYNAMICS[:, 2], 0.02 * x])
    factor = np.triu(rng.standard_normal((model.N, model.N)) * 0.2 + np.eye(model.N)) * size
    model.drive(np.zeros(4), np.array([16.0, 10.0, 70.0, 6.0]), CONSTS, 5.0, 2, NODES)
    return mean, factor


def flow(point: np.ndarray) -> np.ndarray:
    """One whole-state step of the model, as an outside filter would call it."""
    phi, noise = np.zeros((model.N_LINEAR,) * 2), np.zeros((model.N_LINEAR,) * 2)
    model.transition(5.0, DYNAMICS, phi, noise)
    column = np.ascontiguousarray(point[:, None])
    model.sweep(column, NODES, CONSTS, 2.5, 2, np.zeros(model.WORK_SIZE))
    column[: model.N_LINEAR, 0] = phi @ point[: model.N_LINEAR]
    return column[:, 0]


def process_noise() -> np.ndarray:
    phi, noise = np.zeros((model.N_LINEAR,) * 2), np.zeros((model.N_LINEAR,) * 2)
    model.transition(5.0, DYNAMICS, phi, noise)
    q = np.zeros((model.N, model.N))
    q[: model.N_LINEAR, : model.N_LINEAR] = noise @ noise.T
    return q


def predict(mean: np.ndarray, factor: np.ndarray) -> None:
    model.predict(mean, factor, NODES, CONSTS, DYNAMICS, 5.0, 2, np.zeros(model.WORK_SIZE))


def assert_same(factor: np.ndarray, cov: np.ndarray, rtol: float) -> None:
    mine = factor.T @ factor
    scale = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    assert np.abs((mine - cov) / scale).max() < rtol


@pytest.mark.parametrize("seed", range(5))
def test_prediction_and_update_equal_the_plain_filter(seed: int) -> None:
    mean, factor = start(seed)
    plain_mean, plain_cov = mean.copy(), factor.T @ factor
    row = model.cgm_row()
    for reading in (150.0, 158.0, 149.0):
        predict(mean, factor)
        plain_mean, plain_cov = oracle.predict(plain_mean, plain_cov, flow, process_noise())
        np.testing.assert_allclose(mean, plain_mean, rtol=1e-9, atol=1e-12)
        assert_same(factor, plain_cov, 1e-9)
        expected = row @ plain_cov @ row + 4.0
        found = srukf.update(mean, factor, row, reading - row @ mean, 4.0, np.zeros(2 * model.N))
        plain_mean, plain_cov = oracle.update(plain_mean, plain_cov, row, reading, 4.0)
        assert found == pytest.approx(expected, rel=1e-9)
        np.testing.assert_allclose(mean, plain_mean, rtol=1e-9, atol=1e-12)
        assert_same(factor, plain_cov, 1e-9)
        assert not np.tril(factor, -1).any()
        assert np.diag(factor).min() >= 0.0


def filterpy_filter(mean: np.ndarray, cov: np.ndarray, row: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from filterpy.kalman import UnscentedKalmanFilter

    class Cubature:
        """2n points of equal weight, in filterpy's own interface."""

        n = model.N
        Wm = Wc = np.full(2 * model.N, 1.0 / (2 * model.N))

        def num_sigmas(self) -> int:
            return 2 * self.n

        def sigma_points(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
            return oracle.points(x, p)

    reference = UnscentedKalmanFilter(
        dim_x=model.N,
        dim_z=1,
        dt=5.0,
        hx=lambda x: np.array([row @ x]),
        fx=lambda x, dt: flow(x),
        points=Cubature(),
    )
    reference.x, reference.P, reference.Q = mean.copy(), cov.copy(), process_noise()
    reference.R = np.array([[4.0]])
    return reference


def test_estimate_equals_filterpy_to_1e_8() -> None:
    mean, factor = start(11)
    row = model.cgm_row()
    reference = filterpy_filter(mean, factor.T @ factor, row)
    for reading in (150.0, 155.0, 161.0, 158.0, 152.0, 149.0):
        predict(mean, factor)
        reference.predict()
        srukf.update(mean, factor, row, reading - row @ mean, 4.0, np.zeros(2 * model.N))
        reference.update(np.array([reading]))
        np.testing.assert_allclose(mean, reference.x, rtol=1e-8, atol=1e-11)
        assert_same(factor, reference.P, 1e-8)


def test_noise_added_to_a_factor_adds_to_the_covariance() -> None:
    _, factor = start(2)
    vector = np.random.default_rng(1).standard_normal(model.N) * np.diag(factor)
    expected = factor.T @ factor + np.outer(vector, vector)
    srukf.add_noise(factor, vector.copy())
    assert_same(factor, expected, 1e-12)
    assert not np.tril(factor, -1).any()


def test_state_without_variance_stays_without_nan() -> None:
    mean, factor = start(4)
    for i in (model.N_LINEAR + model.D1, model.N_LINEAR + model.D2):
        mean[i] = 1e-300
        factor[i] = 0.0
        factor[:, i] = 0.0
        factor[i, i] = 1e-200
    for _ in range(50):
        predict(mean, factor)
        srukf.update(mean, factor, model.cgm_row(), 5.0, 4.0, np.zeros(2 * model.N))
    assert np.isfinite(mean).all()
    assert np.isfinite(factor).all()


def test_output_variance_is_the_quadratic_form() -> None:
    _, factor = start(6)
    row = model.blood_row(CONSTS)
    assert srukf.output_variance(factor, row) == pytest.approx(row @ factor.T @ factor @ row)
