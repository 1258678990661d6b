"""The population prior: published values first, then what the hubs' data add to them (MODELS A and F).

A hub sends information, not its posterior: how much its own data added to the prior it had
(``Contribution``: ΔΛ and Δη). So the prior is never counted twice, and no reading is needed here.
EM over the hubs of one stratum, with θ ~ N(μ, Σ):

    E:  P_i = (Σ⁻¹ + ΔΛ_i)⁻¹,  m_i = P_i (Σ⁻¹ μ + Δη_i)
    M:  μ = weighted mean of m_i with the published mean worth KAPPA people,
        Σ = weighted mean of P_i + (m_i − μ)(m_i − μ)ᵀ, drawn to the published covariance by an
        inverse-Wishart of ν = dim + 5 (mean form)

Weights are those of a Student-t: a hub far from all others (a wrong weight, a swapped sensor) counts less.
The prior for one hub leaves that hub's own contribution out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.errors import DecodeError
from core.messages import Contribution, Prior
from core.units import US_PER_DAY

Floats = NDArray[np.float64]

MODEL: Final = "glucose/1"
NAMES: Final = ("ln_s", "ln_egp0", "ln_tg", "ln_ag", "ln_ti")
# Log-parameters are multiples of the published means, so their published mean is 0. SDs: EGP0, tG, AG, tI
# within the published table, at the values with which the filter was tested; ln s is wider than the
# table's .40, because the published default is insulin-resistant next to clinical correction factors.
# EGP0 is held tighter than published: with CGM alone it cannot be told from sensitivity (condition 1.3e4).
PUBLISHED_SD: Final = (0.70, 0.05, 0.25, 0.20, 0.20)
PUBLISHED: Final = "Wilinska 2010 means (type 1, adults); log-SDs of MODELS A"
OTHER_AGES_WIDENING: Final = 1.5  # the published table is of adults: for others it is known less well

KAPPA: Final = 4.0  # people that the published mean is worth; as many as the covariance: ν − dim − 1
NU_EXTRA: Final = 5  # ν = dim + 5
STUDENT_DOF: Final = 4.0  # heavy tails, yet a finite variance
LIFETIME_US: Final = 90 * US_PER_DAY  # a hub that hears nothing for a quarter falls back to published values
MIN_CHANGE_SD: Final = 0.1  # a smaller move of the mean is not worth a message
MIN_CHANGE_RATIO: Final = 1.1  # ... nor a smaller change of a spread
EM_STEPS: Final = 200
EM_TOLERANCE: Final = 1e-8
# A direction with more information than this (SD 0.001 of a log-parameter) is an error, not knowledge.
MAX_PRECISION: Final = 1e6


class Information(msgspec.Struct, frozen=True):
    """One hub's contribution in matrix form. ``precision``: float64[n, n], ``vector``: float64[n]."""

    precision: Floats
    vector: Floats


class Population(msgspec.Struct, frozen=True):
    """θ ~ N(mean, covariance) of one stratum. ``people``: how many contributed."""

    mean: Floats
    covariance: Floats
    people: int


def stratum_of(age_years: float | None) -> str:
    """The stratum of a person; adults when the age is not known."""
    if age_years is None or 18 <= age_years < 65:
        return "type-1 adult"
    return "type-1 under 18" if age_years < 18 else "type-1 65 and older"


def published(stratum: str) -> Population:
    """The prior before any hub has contributed."""
    widening = 1.0 if stratum == "type-1 adult" else OTHER_AGES_WIDENING
    sd = np.asarray(PUBLISHED_SD) * widening
    return Population(np.zeros(len(NAMES)), np.diag(sd**2), 0)


def read_contribution(contribution: Contribution) -> Information:
    """The matrices in a contribution; DecodeError when they cannot be information."""
    n = len(NAMES)
    if contribution.model != MODEL or contribution.names != NAMES:
        raise DecodeError("contribution is of another model", where="contribution.names")
    if len(contribution.delta_precision) != n * (n + 1) // 2 or len(contribution.delta_information) != n:
        raise DecodeError("contribution has the wrong size", where="contribution.delta_precision")
    lower = np.zeros((n, n))
    lower[np.tril_indices(n)] = contribution.delta_precision
    precision = lower + np.tril(lower, -1).T
    vector = np.asarray(contribution.delta_information, dtype=np.float64)
    if not (np.all(np.isfinite(precision)) and np.all(np.isfinite(vector))):
        raise DecodeError("contribution is not finite", where="contribution")
    if np.max(np.abs(precision)) > MAX_PRECISION or np.max(np.abs(vector)) > 10 * MAX_PRECISION:
        raise DecodeError("contribution claims impossible precision", where="contribution.delta_precision")
    smallest = float(np.linalg.eigvalsh(precision)[0])
    if smallest < -1e-6 * max(1.0, float(np.max(np.abs(precision)))):
        raise DecodeError("contribution takes information away", where="contribution.delta_precision")
    return Information(precision, vector)


def fit(contributions: Sequence[Information], anchor: Population) -> Population:
    """EM of the module's text. Without contributions it is ``anchor`` itself."""
    if not contributions:
        return anchor
    n = anchor.mean.size
    mean, covariance = anchor.mean.copy(), anchor.covariance.copy()
    weight_of_anchor = NU_EXTRA - 1.0  # ν − n − 1 with ν = n + 5
    for _ in range(EM_STEPS):
        precision = np.linalg.inv(covariance)
        spreads, means, weights = [], [], []
        for item in contributions:
            spread = np.linalg.inv(precision + item.precision)
            spread = 0.5 * (spread + spread.T)
            own = spread @ (precision @ mean + item.vector)
            # Distance as far as this hub's data speak: unknown directions return to the mean by themselves.
            distance = float((own - mean) @ precision @ (own - mean))
            spreads.append(spread)
            means.append(own)
            weights.append((STUDENT_DOF + n) / (STUDENT_DOF + distance))
        w = np.minimum(np.asarray(weights), 1.0)
        stacked = np.asarray(means)
        new_mean = (KAPPA * anchor.mean + w @ stacked) / (KAPPA + w.sum())
        off = stacked - new_mean
        scatter = np.einsum("i,ijk->jk", w, np.asarray(spreads)) + (w[:, None] * off).T @ off
        new_covariance = (weight_of_anchor * anchor.covariance + scatter) / (weight_of_anchor + w.sum())
        moved = max(np.max(np.abs(new_mean - mean)), np.max(np.abs(new_covariance - covariance)))
        mean, covariance = new_mean, 0.5 * (new_covariance + new_covariance.T)
        if moved < EM_TOLERANCE:
            break
    return Population(mean, covariance, len(contributions))


def prior_for(
    hub_id: str, stratum: str, contributions: Mapping[str, Contribution], now_us: int, version: int
) -> tuple[Prior, int]:
    """The prior for one hub from all others of its stratum; also how many contributions were refused."""
    usable: list[Information] = []
    refused = 0
    for other, contribution in sorted(contributions.items()):
        if other == hub_id:
            continue
        try:
            usable.append(read_contribution(contribution))
        except DecodeError:
            refused += 1
    population = fit(usable, published(stratum))
    others = f"; updated from {population.people} other hubs" if population.people else "; no other hub yet"
    prior = Prior(
        version=version,
        model=MODEL,
        names=NAMES,
        mean=tuple(population.mean.tolist()),
        covariance=tuple(population.covariance[np.tril_indices(len(NAMES))].tolist()),
        stratum=stratum,
        provenance=PUBLISHED + others,
        expires_us=now_us + LIFETIME_US,
    )
    return prior, refused


def worth_sending(new: Prior, old: Prior | None, now_us: int) -> bool:
    """True when ``new`` says something else than ``old``, or when ``old`` has lived most of its life."""
    if old is None or (old.model, old.names, old.stratum) != (new.model, new.names, new.stratum):
        return True
    if old.expires_us - now_us < LIFETIME_US // 4:
        return True
    for i in range(len(new.names)):
        diagonal = i * (i + 1) // 2 + i
        old_sd, new_sd = math.sqrt(old.covariance[diagonal]), math.sqrt(new.covariance[diagonal])
        if abs(new.mean[i] - old.mean[i]) > MIN_CHANGE_SD * old_sd:
            return True
        if not 1 / MIN_CHANGE_RATIO < new_sd / old_sd < MIN_CHANGE_RATIO:
            return True
    return False
