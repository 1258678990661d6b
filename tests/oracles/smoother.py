"""All states of a linear chain at once: their joint Gaussian, conditioned on every reading."""

from __future__ import annotations

import numpy as np


def joint_posterior(
    mean: np.ndarray,
    cov: np.ndarray,
    flow: np.ndarray,
    noise: np.ndarray,
    row: np.ndarray,
    variance: float,
    readings: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(means [T, n], covariances [T, n, n]) of x_{k+1} = flow·x_k + w given y_k = row·x_k + v for all k."""
    n, steps = mean.size, readings.size
    # x = A·(x_0, w_1 … w_{T−1}) with one block row for each time.
    lift = np.zeros((steps * n, steps * n))
    for k in range(steps):
        for j in range(k + 1):
            lift[k * n : (k + 1) * n, j * n : (j + 1) * n] = np.linalg.matrix_power(flow, k - j)
    sources = np.zeros((steps * n, steps * n))
    sources[:n, :n] = cov
    for k in range(1, steps):
        sources[k * n : (k + 1) * n, k * n : (k + 1) * n] = noise
    prior = lift @ sources @ lift.T
    centre = lift[:, :n] @ mean
    see = np.kron(np.eye(steps), row)
    gain = prior @ see.T @ np.linalg.inv(see @ prior @ see.T + variance * np.eye(steps))
    after = centre + gain @ (readings - see @ centre)
    left = prior - gain @ see @ prior
    return after.reshape(steps, n), np.array(
        [left[k * n : (k + 1) * n, k * n : (k + 1) * n] for k in range(steps)]
    )
