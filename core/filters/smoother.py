"""Fixed-interval smoother (Rauch–Tung–Striebel) over a tape of filter steps. It knows nothing of any model.

A step is anything that moves the distribution forward: a prediction, a dose, added noise. Each is noted with
the distribution before, the one after, and the covariance between the two, Cov(x, x⁺). Readings are no steps:
they condition the state, and the next step's "before" holds what they taught. Backwards, with G = D·P⁺⁻¹:

    m_s = m + G·(m_s⁺ − m⁺)        P_s = P + G·(P_s⁺ − P⁺)·Gᵀ

(Särkkä, Bayesian Filtering and Smoothing, 2013, ch. 8 and 10.) P⁺ is inverted after scaling to unit diagonal,
on the directions that carry variance: an empty stomach has none, and nothing flows back through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RANK_FLOOR: Final = 1e-10  # of a correlation matrix: directions below are rounding


class Step(NamedTuple):
    """One move forward. ``time_us`` is that of the state before it. cross: float64[n, n], Cov(x, x⁺)."""

    time_us: int
    mean: Array
    cov: Array
    cross: Array
    next_mean: Array
    next_cov: Array


class Point(NamedTuple):
    """Smoothed moments at one time."""

    time_us: int
    mean: Array
    cov: Array


class Tape:
    """Steps in the order they were made."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def note(self, time_us: int, mean: Array, factor: Array, cross: Array) -> Callable[[Array, Array], None]:
        """Begin a step at (mean, factorᵀ·factor); call the result with what it led to."""
        before_mean, before_cov = mean.copy(), factor.T @ factor

        def done(next_mean: Array, next_factor: Array) -> None:
            self.steps.append(
                Step(time_us, before_mean, before_cov, cross, next_mean.copy(), next_factor.T @ next_factor)
            )

        return done

    def smooth(self, end_us: int, mean: Array, cov: Array) -> list[Point]:
        """Backwards from the last filtered distribution; points in time order, the end included."""
        points = [Point(end_us, mean.copy(), cov.copy())]
        for step in reversed(self.steps):
            after = points[-1]
            gain = step.cross @ pseudo_inverse(step.next_cov)
            smoothed = step.cov + gain @ (after.cov - step.next_cov) @ gain.T
            points.append(
                Point(
                    step.time_us,
                    step.mean + gain @ (after.mean - step.next_mean),
                    0.5 * (smoothed + smoothed.T),
                )
            )
        points.reverse()
        return points


def pseudo_inverse(cov: Array) -> Array:
    """Inverse of a covariance on the directions that carry variance."""
    scale = np.sqrt(np.maximum(np.diag(cov), 0.0))
    inverse_scale = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 1e-30)
    values, vectors = np.linalg.eigh(cov * np.outer(inverse_scale, inverse_scale))
    kept = values > RANK_FLOOR
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=kept)
    return np.asarray((vectors * inverse) @ vectors.T * np.outer(inverse_scale, inverse_scale))


def sigma_points(mean: Array, factor: Array) -> Array:
    """float64[n, 2n]: the filter's own points, mean ± √n·row j of the factor."""
    step = math.sqrt(mean.size) * factor.T
    return np.ascontiguousarray(np.concatenate([mean[:, None] + step, mean[:, None] - step], axis=1))


def cross_covariance(before: Array, after: Array) -> Array:
    """Cov(x, x⁺) of matching columns of points with equal weights."""
    one = before - before.mean(axis=1, keepdims=True)
    two = after - after.mean(axis=1, keepdims=True)
    return np.asarray(one @ two.T / before.shape[1])
