"""How far the joint mode leans, against the integral itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from core.marginal import MOST_SD, lean

READINGS = 12
ERROR_SD = 0.3


class Body:
    """Readings y = θ + h(θ)·η + e, one η ~ N(0, 1) each, θ ~ N(0, 1), h(θ) = exp(bend·θ): the same disturbance does
    more under some parameters than under others."""

    def __init__(self, bend: float) -> None:
        self.bend = bend
        self.y = 0.5 + 1.1 * np.linspace(-1.6, 1.6, READINGS)
        self.root, self.white = np.eye(1 + READINGS), np.eye(READINGS) / ERROR_SD
        self.theta = np.linspace(-4.0, 4.0, 8001)
        self.gains = np.exp(bend * self.theta)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x[0] + np.exp(self.bend * x[0]) * x[1:])

    def slopes(self, x: np.ndarray, at: np.ndarray) -> np.ndarray:
        gain = np.exp(self.bend * x[0])
        return np.column_stack([1.0 + self.bend * gain * x[1:], gain * np.eye(READINGS)])

    def joint(self) -> tuple[np.ndarray, np.ndarray]:
        """Joint mode (η given θ in closed form, θ by search) and the Gauss-Newton covariance there."""
        var = self.gains**2 + ERROR_SD**2
        cost = np.sum((self.y[:, None] - self.theta) ** 2, axis=0) / var + self.theta**2
        best = int(np.argmin(cost))
        eta = self.gains[best] * (self.y - self.theta[best]) / var[best]
        x = np.concatenate([[self.theta[best]], eta])
        a = self.white @ self.slopes(x, self.predict(x))
        return x, np.linalg.inv(np.eye(x.size) + a.T @ a)

    def truth(self) -> tuple[float, float]:
        """(mean, SD) of θ, by the integral: given θ a reading is normal."""
        var = self.gains**2 + ERROR_SD**2
        ln = (
            -0.5 * np.sum((self.y[:, None] - self.theta) ** 2 / var + np.log(var), axis=0)
            - 0.5 * self.theta**2
        )
        weight = np.exp(ln - ln.max())
        weight /= weight.sum()
        mean = float(weight @ self.theta)
        return mean, float(np.sqrt(weight @ (self.theta - mean) ** 2))


@pytest.mark.parametrize("bend", [-0.6, -0.3, 0.3, 0.6])
def test_the_lean_of_the_joint_mode_is_seen(bend: float) -> None:
    body = Body(bend)
    mode, cov = body.joint()
    mean = mode[0] + cov[0, 0] * lean(SimpleNamespace(work=body, mean=mode, cov=cov), 1)[0]  # type: ignore[arg-type]
    wanted, wanted_sd = body.truth()
    assert abs(mode[0] - wanted) > 0.3 * wanted_sd  # there is something to see
    assert abs(mean - wanted) < 0.5 * abs(mode[0] - wanted)


def test_where_the_rest_does_the_same_under_all_parameters_nothing_leans() -> None:
    body = Body(0.0)
    mode, cov = body.joint()
    found = SimpleNamespace(work=body, mean=mode, cov=cov)
    assert lean(found, 1) == pytest.approx([0.0], abs=1e-9)  # type: ignore[arg-type]


def test_a_lean_that_cannot_be_told_is_the_most_not_none() -> None:
    body = Body(0.3)
    mode, cov = body.joint()
    body.slopes = lambda x, at: np.full((READINGS, 1 + READINGS), np.nan)  # type: ignore[method-assign]
    found = SimpleNamespace(work=body, mean=mode, cov=cov)
    assert cov[0, 0] * abs(lean(found, 1)[0]) == pytest.approx(MOST_SD * np.sqrt(cov[0, 0]))  # type: ignore[arg-type]
