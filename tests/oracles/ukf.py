"""A cubature (2n-point) Kalman filter with full matrices: nothing structured, nothing in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def points(mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """float64[2n, n]: mean ± √n · columns of the lower Cholesky factor."""
    step = np.sqrt(mean.size) * np.linalg.cholesky(cov).T
    return np.concatenate([mean + step, mean - step])


def predict(
    mean: np.ndarray, cov: np.ndarray, flow: Callable[[np.ndarray], np.ndarray], noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Moments after ``flow`` of each point, plus ``noise``."""
    moved = np.array([flow(p) for p in points(mean, cov)])
    new_mean = moved.mean(axis=0)
    deviation = moved - new_mean
    return new_mean, deviation.T @ deviation / len(moved) + noise


def update(
    mean: np.ndarray, cov: np.ndarray, row: np.ndarray, reading: float, variance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Linear scalar update in Joseph's form."""
    s = row @ cov @ row + variance
    gain = cov @ row / s
    left = np.eye(mean.size) - np.outer(gain, row)
    return mean + gain * (reading - row @ mean), left @ cov @ left.T + variance * np.outer(gain, gain)
