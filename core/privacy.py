"""Noise on what a hub contributes: the Gaussian mechanism on one clipped point (local differential privacy).

From a contribution (ΔΛ, Δη) one point is made: what the data say of θ, in published SDs, drawn to the
published mean as far as they do not know: z = (ΔΛ' + I)⁻¹Δη', with ΔΛ', Δη' scaled by the SDs. It is clipped to
‖z‖ ≤ CLIP_SD, and N(0, σ²I) is added. What is sent is that point, with a precision that is the same for everybody,
1/(1 + σ²): the noise, and the doubt that z had of itself at most. So nothing but the noisy point depends on the
person, and the population's fit knows how noisy it is.

Whatever the record of a person is, replacing it by any other moves z by at most 2·CLIP_SD. σ is the smallest for
which that is (ε, δ)-private: the analytic Gaussian mechanism (Balle and Wang, ICML 2018, Theorem 8). Several releases
add up: as Gaussians their sensitivities add in square, so k releases with the same noise are as one with √k times the
sensitivity (exact, not a bound; ``epsilon_of``).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.messages import Contribution

CLIP_SD: Final = 3.0  # ‖z‖ of 97 % of people who are spread as published, in five parameters, that know all
MAX_EPSILON: Final = 50.0


def delta_of(epsilon: float, ratio: float) -> float:
    """δ of Gaussian noise at ε (Balle and Wang 2018, Theorem 8). ``ratio``: sensitivity/σ."""
    a, b = ratio / 2 - epsilon / ratio, -ratio / 2 - epsilon / ratio
    # e^ε Φ(b) without overflow: Φ(b) is tiny where e^ε is large
    tail = _phi(b)
    second = math.exp(epsilon + math.log(tail)) if tail > 0 else 0.0
    return max(0.0, _phi(a) - second)


def noise_sd(epsilon: float, delta: float, releases: int = 1) -> float:
    """Smallest σ, in published SDs, with which ``releases`` points are (ε, δ)-private together."""
    _check(epsilon, delta)
    if releases < 1:
        raise InputError("must be at least 1", where="privacy.releases")
    low, high = 1e-6, 1e6  # sensitivity/σ
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if delta_of(epsilon, middle) <= delta else (low, middle)
    return 2.0 * CLIP_SD * math.sqrt(releases) / low


def epsilon_of(sigma: float, delta: float, releases: int) -> float:
    """ε that ``releases`` points with this noise have spent together, at δ."""
    ratio = 2.0 * CLIP_SD * math.sqrt(releases) / sigma
    low, high = 0.0, 1.0
    while delta_of(high, ratio) > delta:
        high *= 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if delta_of(middle, ratio) <= delta else (middle, high)
    return high


def blur(
    contribution: Contribution,
    published_sd: NDArray[np.float64],
    epsilon: float,
    delta: float,
    rng: np.random.Generator,
    releases: int = 1,
) -> Contribution:
    """The contribution that may leave the hub. ``releases``: how many such the budget (ε, δ) is for."""
    sigma = noise_sd(epsilon, delta, releases)
    sd = np.asarray(published_sd, float)
    n = sd.size
    if len(contribution.delta_information) != n or len(contribution.delta_precision) != n * (n + 1) // 2:
        raise InputError("contribution has the wrong size", where="contribution")
    lower = np.zeros((n, n))
    lower[np.tril_indices(n)] = contribution.delta_precision
    precision = (lower + np.tril(lower, -1).T) * np.outer(sd, sd)
    vector = np.asarray(contribution.delta_information) * sd
    point = np.linalg.solve(precision + np.eye(n), vector)
    length = float(np.linalg.norm(point))
    if not math.isfinite(length):
        raise InputError("contribution is not finite", where="contribution")
    point = point * min(1.0, CLIP_SD / max(length, 1e-300)) + sigma * rng.standard_normal(n)
    power = 1.0 / (1.0 + sigma**2)
    return Contribution(
        time_us=contribution.time_us,
        model=contribution.model,
        prior_version=contribution.prior_version,
        names=contribution.names,
        delta_precision=tuple(np.diag(power / sd**2)[np.tril_indices(n)].tolist()),
        delta_information=tuple((power * point / sd).tolist()),
        context=contribution.context,
        noise_sd=sigma,
    )


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _check(epsilon: float, delta: float) -> None:
    if not 0.0 < epsilon <= MAX_EPSILON:
        raise InputError(f"must lie in 0..{MAX_EPSILON:g}", where="privacy.epsilon")
    if not 0.0 < delta < 0.01:
        raise InputError("must lie in 0..0.01", where="privacy.delta")
