"""Nightly consolidation: what a day's batch says of the parameters joins the anchor of its context.

Online elastic weight consolidation in its Bayesian reading. With F a night's Fisher information of the likelihood
(Gauss–Newton, at the mode of core.refine) the anchor's precision and vector move by

    Λ* ← γ Λ* + F,    η* ← γ η* + F m      (Schwarz, ICML 2018, section 3.2: F* ← γF* + F; one merged anchor,
                                            since separate penalties count twice: Huszár 2017)

and the penalty of Kirkpatrick (PNAS 2017;114:3521, eq. 3), ½(θ − m*)ᵀF*(θ − m*), is the observation of θ that
``core.guidance`` hands to the filter. Λ* holds data only; the prior is multiplied in when the posterior is read, so
it is never counted twice, and neither are the therapy's facts. A night's mode leans (core.marginal) by the same reasons each night,
so what nights lean adds up as their vectors do. It moves neither the posterior's centre nor what the filter is told: it
is error, and widens what is shown to people. Days differ: a day's parameters lie about the
person's own with SD ``WITHIN_SD``, so F is that of the marginal, (F⁻¹ + Σ_within)⁻¹.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from core import refine as batch
from core.courses import Act
from core.errors import InputError
from core.guidance import Array, packed, unpacked
from core.marginal import lean
from core.memory import NAMES, Anchor, NightInfo
from core.models import hovorka as model
from core.patient import Therapy
from core.record import cgm_quarters
from core.refine import LN_RCL, Reading, refine
from core.therapy_facts import facts_of, predicted_facts

if TYPE_CHECKING:
    from core.track import Track
    from core.twin import Twin

GAMMA: Final = 0.95  # a night's weight halves in a fortnight
N_CONSTANTS: Final = batch.N_CONSTANTS
N_NAMES: Final = N_CONSTANTS + model.N_THETA
# Day-to-day SD of a person's own parameters: sensitivity as in MODELS A's inner variation; a body's constants have none.
WITHIN_SD: Final = np.array([*(0.0,) * N_CONSTANTS, 0.15, 0.02, 0.15, 0.10, 0.05])
# How far a context may lie from the usual life: illness takes 20–50 % of the sensitivity (MODELS A).
CONTEXT_SD: Final = np.array([*(0.01,) * N_CONSTANTS, 0.40, 0.05, 0.10, 0.15, 0.10])
LAG_NIGHTS: Final = 3  # nights that a change of context, found late, may still claim
MIN_QUARTERS: Final = (
    33  # of a day's 96 quarters of an hour with a reading; with fewer the night adds nothing
)
MIN_DAY_H: Final = 18.0
FACT_STEPS: Final = 2  # facts are nearly linear in logs; each step costs 15 simulated doses
PUBLISHED: Final = "published values (Hovorka 2004, Wilinska 2010)"
# What the filter takes its constants for, as ln multiples.
FILTER_CONSTANTS: Final = np.zeros(N_CONSTANTS)


class Posterior(NamedTuple):
    """Of the parameters in the order of core.memory.NAMES."""

    mean: Array
    cov: Array
    lean: Array  # how far the mean of a posterior with the disturbance integrated out lies from ``mean``
    data_share: Array  # 1 − sd² / prior variance, of each parameter

    def sd(self) -> Array:
        """Root mean square error of each parameter's ``mean``: what is shown to people."""
        return np.asarray(np.sqrt(np.diag(self.cov) + self.lean**2), dtype=np.float64)

    def theta(self) -> tuple[Array, Array]:
        """(mean, cov) of the filter's parameters, given that its constants are what they are."""
        c = slice(0, N_CONSTANTS)
        t = slice(N_CONSTANTS, N_NAMES)
        gain = np.linalg.solve(self.cov[c, c], self.cov[c, t]).T
        mean = self.mean[t] + gain @ (FILTER_CONSTANTS - self.mean[c])
        cov = self.cov[t, t] - gain @ self.cov[c, t]
        return mean, 0.5 * (cov + cov.T)


def base_of(track: Track) -> tuple[Array, Array, str]:
    """(mean, SD, source) of the prior for somebody of whom only the nominal values are known."""
    k = model.N_THETA
    mean = np.concatenate([np.zeros(N_CONSTANTS), track.nominal.dynamics[:k, 0]])
    mean[NAMES.index("rcl")] = LN_RCL
    sd = np.concatenate([[s for _, s in batch.CONSTANTS], track.nominal.dynamics[:k, 2]])
    sd[NAMES.index("ln_s")] = batch.SD_LN_S
    sd[NAMES.index("ln_egp0")] = batch.SD_EGP0
    version = track.nominal.prior_version
    return mean, sd, f"cloud prior {version}" if version else PUBLISHED


def fresh_anchor(mean: Array, sd: Array, source: str) -> Anchor:
    """An anchor that holds no night yet."""
    zero = packed(np.zeros((N_NAMES, N_NAMES)))
    return Anchor(tuple(mean.tolist()), tuple(sd.tolist()), source, zero, (0.0,) * N_NAMES)


def read_night(twin: Twin, from_us: int, to_us: int) -> tuple[NightInfo, int]:
    """(information, readings used) of the batch over (from, to]. InputError when the record is too thin."""
    track = twin.track_at(from_us)
    if track is None or (to_us - from_us) / 3.6e9 < MIN_DAY_H:
        raise InputError("the record does not reach back a day", where="night")
    twin.run(track, from_us)
    track.advance(from_us)
    acts: list[Act] = []
    readings: list[Reading] = []
    meals = 0
    doubtful = set(twin.outliers(to_us))
    for entry in twin.record.between(from_us, to_us):
        if entry.kind == "cgm_mgdl":
            if (entry.source, entry.kind, entry.seq) not in doubtful:
                readings.append(Reading(entry.time_us, entry.value))
        elif entry.kind == "smbg_mgdl":
            readings.append(Reading(entry.time_us, entry.value, blood=True))
        elif entry.kind not in ("weight_kg", "drug_mg"):
            number = -1
            if entry.kind == "carbs_g":
                number, meals = meals, meals + 1
            acts.append(Act(entry.time_us, entry.kind, entry.value, number))
    if cgm_quarters(twin.record.between(from_us, to_us)) < MIN_QUARTERS:
        raise InputError("too few readings", where="night")
    found = refine(track, acts, readings, Therapy(), to_us, meals)
    mean, sd, _ = base_of(track)
    n = N_NAMES
    precision = np.linalg.inv(found.cov[:n, :n])
    delta = precision - np.diag(sd**-2.0)
    # In units of the prior; a direction that came out less known than before is no information.
    values, vectors = np.linalg.eigh(delta * np.outer(sd, sd))
    delta = (vectors * np.maximum(values, 0.0)) @ vectors.T / np.outer(sd, sd)
    vector = delta @ found.mean[:n] + (found.mean[:n] - mean) / sd**2
    spread = np.linalg.inv(np.eye(n) + delta @ np.diag(WITHIN_SD**2))
    marginal = spread @ delta
    info = NightInfo(
        from_us,
        to_us,
        packed(0.5 * (marginal + marginal.T)),
        tuple((spread @ vector).tolist()),
        tuple((spread @ lean(found, n)).tolist()),
    )
    return info, found.fit.readings


def merged(anchor: Anchor, night: NightInfo, gamma: float = GAMMA) -> Anchor:
    """The anchor after one more night; nights older than the lag join what fades."""
    recent = (*anchor.recent, night)
    precision, vector, leans = np.array(anchor.precision), np.array(anchor.vector), _lean(anchor)
    nights = anchor.nights
    while len(recent) > LAG_NIGHTS:
        precision = gamma * precision + np.array(recent[0].precision)
        vector = gamma * vector + np.array(recent[0].vector)
        leans = gamma * leans + _lean(recent[0])
        nights, recent = nights + 1, recent[1:]
    return msgspec.structs.replace(
        anchor,
        precision=tuple(precision.tolist()),
        vector=tuple(vector.tolist()),
        recent=recent,
        nights=nights,
        updated_us=night.to_us,
        lean=tuple(leans.tolist()),
    )


def mixed(first: tuple[Array, Array], second: tuple[Array, Array], share: float) -> tuple[Array, Array]:
    """(mean, covariance) of what is ``second`` with probability ``share`` and else ``first``.

    Moments of a mixture of two normals: C = (1 − h)C₁ + h C₂ + h(1 − h)(m₂ − m₁)(m₂ − m₁)ᵀ (Bar-Shalom, Li & Kirubarajan,
    Estimation with Applications to Tracking and Navigation, 2001, chapter 1): where they disagree it is unsure.
    """
    apart = second[0] - first[0]
    cov = (1.0 - share) * first[1] + share * second[1] + share * (1.0 - share) * np.outer(apart, apart)
    return first[0] + share * apart, cov


def _lean(of: Anchor | NightInfo) -> Array:
    return np.array(of.lean) if of.lean else np.zeros(N_NAMES)


def shift_seen(night: NightInfo, known: Posterior) -> tuple[float, float]:
    """(ln shift of the sensitivity that a night's batch shows against ``known``, its SD).

    Everything else of the night is ``known``'s, as far as that is sure of it: least squares over all parameters x and
    the shift δ of (x − m)ᵀC⁻¹(x − m) and what the night says of x + δe.
    """
    i = N_CONSTANTS + model.LN_S
    precision, vector = unpacked(night.precision), np.array(night.vector)
    sure = np.linalg.inv(known.cov)
    share = np.linalg.solve(sure + precision, precision[i])
    told = max(float(precision[i, i] - precision[i] @ share), 1e-6)
    return float(vector[i] - share @ (sure @ known.mean + vector)) / told, told**-0.5


def split(anchor: Anchor, onset_us: int) -> tuple[Anchor, tuple[NightInfo, ...]]:
    """(the anchor without the nights that lie mostly after ``onset_us``, those nights)."""
    later = tuple(i for i in anchor.recent if (i.from_us + i.to_us) // 2 >= onset_us)
    kept = tuple(i for i in anchor.recent if i not in later)
    return msgspec.structs.replace(anchor, recent=kept), later


def posterior(anchor: Anchor, therapy: Therapy, consts: Array, gamma: float = GAMMA) -> Posterior:
    """Base, nights and the therapy's facts together. consts: the nominal ones, which ln multiples refer to."""
    base_mean, base_sd = np.array(anchor.base_mean), np.array(anchor.base_sd)
    precision, vector, leans = unpacked(anchor.precision), np.array(anchor.vector), _lean(anchor)
    for night in anchor.recent:
        precision = gamma * precision + unpacked(night.precision)
        vector = gamma * vector + np.array(night.vector)
        leans = gamma * leans + _lean(night)
    precision = precision + np.diag(base_sd**-2.0)
    vector = vector + base_mean / base_sd**2
    mean = np.linalg.solve(precision, vector)
    full = precision
    facts = facts_of(therapy)
    if facts:  # Gauss–Newton: few observations, one mode
        weight = np.array([f.ln_sd**-2.0 for f in facts])
        value = np.array([f.ln_value for f in facts])

        def told(x: Array) -> Array:
            return predicted_facts(facts, batch.consts_with(consts, x[:N_CONSTANTS]), x[N_CONSTANTS:])

        for _ in range(FACT_STEPS):
            at = told(mean)
            slope = np.array([(told(mean + 1e-3 * e) - at) / 1e-3 for e in np.eye(N_NAMES)]).T
            full = precision + (slope.T * weight) @ slope
            right = vector + (slope.T * weight) @ (value - at + slope @ mean)
            mean = np.linalg.solve(full, right)
    cov: Array = np.asarray(np.linalg.inv(full), dtype=np.float64)
    off = cov @ leans
    share = np.clip(1.0 - (np.diag(cov) + off**2) / base_sd**2, 0.0, 1.0)
    return Posterior(mean, cov, off, share)
