"""Bayesian linear regression, one row at a time, with full matrices."""

from __future__ import annotations

import numpy as np


def step(
    weights: np.ndarray,
    cov: np.ndarray,
    x: np.ndarray,
    error_of: np.ndarray,
    noise: float,
    limits: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """weights float64[K, H], shared cov float64[K, K]; error_of float64[H] targets, nan where unknown."""
    s = noise + x @ cov @ x
    gain = cov @ x / s
    out = weights.copy()
    for k, target in enumerate(error_of):
        if np.isfinite(target):
            out[:, k] += gain * np.clip(target - weights[:, k] @ x, -limits[k], limits[k])
    return out, cov - s * np.outer(gain, gain)
