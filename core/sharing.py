"""What one person's twin tells the population, and what it takes from there."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np

from core import correction_pool
from core.correction import Population
from core.errors import InputError
from core.messages import Contribution, Prior
from core.track import Track


def contribution(
    track: Track, t: int, model: ModuleType, prior: Prior | None, population: Population
) -> Contribution:
    """Information on log-parameters that data added to the prior, as precision and Λm differences."""
    k = model.N_THETA
    cov = (track.factor.T @ track.factor)[:k, :k]
    prior_precision = np.diag(track.nominal.dynamics[:k, 2] ** -2.0)
    delta = np.linalg.inv(cov) - prior_precision
    # Refreshed variances can make a direction look less known than before: that is no information.
    values, vectors = np.linalg.eigh(delta)
    delta = (vectors * np.maximum(values, 0.0)) @ vectors.T
    mean = track.mean[:k]
    information = delta @ mean + prior_precision @ (mean - track.nominal.dynamics[:k, 0])
    return Contribution(
        time_us=t,
        model=model.NAME,
        prior_version=prior.version if prior is not None else 0,
        names=model.NAMES[:k],
        delta_precision=tuple(delta[np.tril_indices(k)].tolist()),
        delta_information=tuple(information.tolist()),
        correction=correction_pool.told(track.learn, population, track.start),
    )


def check_prior(prior: Prior, model: ModuleType, population: Population) -> None:
    """InputError for a prior that is of another model, or no distribution."""
    if prior.model != model.NAME:
        raise InputError("prior belongs to another model", where="prior.model")
    k = len(prior.names)
    numbers = (*prior.mean, *prior.covariance)
    if len(prior.mean) != k or len(prior.covariance) != k * (k + 1) // 2:
        raise InputError("prior has the wrong size", where="prior")
    if not all(math.isfinite(v) for v in numbers) or any(
        prior.covariance[i * (i + 1) // 2 + i] <= 0 for i in range(k)
    ):
        raise InputError("prior is not a distribution", where="prior.covariance")
    if prior.correction:
        correction_pool.read(prior.correction, population)
