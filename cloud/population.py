"""The population prior: published values first, then what the hubs' data add to them (MODELS A and F).

A hub sends information, not its posterior: how much its own data added to the prior it had
(``Contribution``: ΔΛ and Δη). So the prior is never counted twice, and no reading is needed here.
The model of the population and its fit are core/hierarchy.py; here are the published values, the strata,
what is refused, and the prior for one hub, from which that hub's own contribution is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from core import correction_pool, hierarchy
from core.correction_prior import POPULATION
from core.errors import DecodeError
from core.messages import Contribution, Prior
from core.units import US_PER_DAY

Floats = NDArray[np.float64]

MODEL: Final = "glucose/1"
NAMES: Final = ("ln_s", "ln_egp0", "ln_tg", "ln_ag", "ln_ti")
# Log-parameters are multiples of the published means, so their published mean is 0. SDs: the filter's own
# (core.models.hovorka.PRIOR_SD): EGP0, tG, tI within the published table; ln s wider than the table's .40, because
# the published default is insulin-resistant next to clinical correction factors; AG wider, because how much of
# logged meals shows up differs more between people than how much of a known meal does.
# EGP0 is held tighter than published: with CGM alone it cannot be told from sensitivity (condition 1.3e4).
PUBLISHED_SD: Final = (1.0, 0.05, 0.25, 0.35, 0.20)
PUBLISHED: Final = (
    "published means of adults with type 1 (Wilinska 2010), spreads widened where people differ more"
)
OTHER_AGES_WIDENING: Final = 1.5  # the published table is of adults: for others it is known less well

LIFETIME_US: Final = 90 * US_PER_DAY  # a hub that hears nothing for a quarter falls back to published values
MIN_CHANGE_SD: Final = 0.1  # a smaller move of the mean is not worth a message
MIN_CHANGE_RATIO: Final = 1.1  # ... nor a smaller change of a spread
# A direction with more information than this (SD 0.001 of a log-parameter) is an error, not knowledge.
MAX_PRECISION: Final = 1e6
# A filter keeps its variances open on purpose (new meals, slow drift), so where it learns little its mean moves
# by far more than the information it reports allows: on virtual people the squared z of a direction with less
# than half of the prior's information was 5–12 in the median (0.45 is right), of better known ones 0.1.
MIN_SHARE: Final = 0.5
MAX_LOG: Final = 3.0  # the filter's own bound on a parameter: 20 times the published value is no person

AGES: Final = ("type-1 adult", "type-1 under 18", "type-1 65 and older")
WEIGHTS_KG: Final = ((60.0, "under 60 kg"), (90.0, "60–90 kg"), (math.inf, "over 90 kg"))
SEXES: Final = {"f": "female", "female": "female", "m": "male", "male": "male"}


class Information(msgspec.Struct, frozen=True):
    """One hub's contribution in matrix form. ``precision``: float64[n, n], ``vector``: float64[n].

    ``min_share``: directions with less of the published information are not used.
    """

    precision: Floats
    vector: Floats
    min_share: float = MIN_SHARE


class Given(msgspec.Struct, frozen=True, array_like=True):
    """What one hub gave to a fit, as its contribution says it; and where its person belongs."""

    stratum: int
    contribution: Contribution | None  # None: nothing usable


class Fitted(msgspec.Struct, frozen=True):
    """A fit with its provenance, as it is stored. Arrays are little-endian float64."""

    number: int  # rises by one with each fit
    made_us: int
    newest_id: int  # the last contribution that was looked at
    strata: tuple[str, ...]
    hubs: dict[str, Given]
    people: int  # whose contributions were used
    refused: int
    passes: int
    converged: bool
    log_likelihood: float
    nu: int
    arrays: dict[str, bytes]
    correction: bytes = (
        b""  # where a newcomer's correction begins (core.correction_pool); empty: too few people
    )
    corrected: tuple[str, ...] = ()  # hubs that it was made from

    @property
    def provenance(self) -> str:
        """One line for person and clinician."""
        return f"fit {self.number} of {self.people} people in {len(self._used())} strata"

    def _used(self) -> set[int]:
        return {given.stratum for given in self.hubs.values() if given.contribution is not None}

    def audit(self) -> str:
        """What is kept of this fit for ever."""
        return (
            f"{self.provenance}: {self.passes} passes{'' if self.converged else ' (not converged)'},"
            f" log-likelihood {self.log_likelihood:.1f}, nu {hierarchy.NU_GRID[self.nu]:g},"
            f" {self.refused} contributions refused; corrections of {len(self.corrected)}"
        )


def stratum_of(
    age_years: float | None,
    weight_kg: float | None = None,
    sex: str | None = None,
    therapy: str | None = None,
) -> str:
    """The stratum of a person; what is not known is left out, and an unknown age is an adult's."""
    if age_years is None or 18 <= age_years < 65:
        parts = [AGES[0]]
    else:
        parts = [AGES[1] if age_years < 18 else AGES[2]]
    if weight_kg is not None:
        parts.append(next(name for limit, name in WEIGHTS_KG if weight_kg < limit))
    if sex is not None and sex.strip().lower() in SEXES:
        parts.append(SEXES[sex.strip().lower()])
    if therapy is not None:
        parts.append(therapy)
    return ", ".join(parts)


def anchor_for(strata: Sequence[str]) -> hierarchy.Anchor:
    """Published values for these strata: those of other ages lie further from the published adults."""
    further = OTHER_AGES_WIDENING**2 - 1.0
    tau = [hierarchy.TAU + (0.0 if name.startswith(AGES[0]) else further) for name in strata]
    return hierarchy.anchor_of(np.zeros(len(NAMES)), np.diag(np.square(PUBLISHED_SD)), tau)


def read_contribution(contribution: Contribution) -> Information:
    """The matrices in a contribution; DecodeError when they cannot be information, or not a person's."""
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
    believed = np.linalg.solve(precision + np.diag(np.square(PUBLISHED_SD) ** -1.0), vector)
    if np.max(np.abs(believed)) > MAX_LOG:
        raise DecodeError("contribution is of nobody who could live", where="contribution.delta_information")
    # Noise for privacy says itself how little is known, and rightly.
    return Information(precision, vector, 0.0 if contribution.noise_sd > 0 else MIN_SHARE)


def usable(contributions: Iterable[Contribution]) -> tuple[list[Information | None], int]:
    """Each in matrix form, None for one that is refused; and how many were."""
    found: list[Information | None] = []
    refused = 0
    for contribution in contributions:
        try:
            found.append(read_contribution(contribution))
        except DecodeError:
            found.append(None)
            refused += 1
    return found, refused


def people_of(
    items: Sequence[Information], stratum: Sequence[int], anchor: hierarchy.Anchor
) -> hierarchy.People:
    """A chunk for the fit."""
    n = len(NAMES)
    precision = np.array([item.precision for item in items]).reshape(-1, n, n)
    vector = np.array([item.vector for item in items]).reshape(-1, n)
    return hierarchy.stack(precision, vector, stratum, anchor, np.array([item.min_share for item in items]))


Spread = Callable[[Sequence[hierarchy.People]], Callable[[hierarchy.Point], Iterable[hierarchy.Sums]]]


def refit(
    contributions: Mapping[str, Contribution],
    strata: Mapping[str, str],
    now_us: int,
    newest_id: int = 0,
    before: Fitted | None = None,
    spread: Spread | None = None,
    chunk: int = 5000,
    corrections: Mapping[str, bytes] | None = None,
) -> Fitted:
    """Fit anew. ``strata``: of every hub, also of those without a contribution. ``spread``: runs the passes.

    ``corrections``: by hub, what its data moved in its learned correction.
    """
    names = (*AGES, *sorted(set(strata.values()) - set(AGES)))
    place = {name: k for k, name in enumerate(names)}
    anchor = anchor_for(names)
    hubs = sorted(contributions)
    found, refused = usable(contributions[hub] for hub in hubs)
    good = [(hub, item) for hub, item in zip(hubs, found, strict=True) if item is not None]
    of = {hub: place[strata.get(hub, AGES[0])] for hub in (*strata, *hubs)}
    chunks = []
    for at in range(0, len(good), chunk):
        part = good[at : at + chunk]
        chunks.append(people_of([item for _, item in part], [of[hub] for hub, _ in part], anchor))
    result = hierarchy.fit(chunks, anchor, None if spread is None else spread(chunks))
    used = {hub for hub, _ in good}
    begun, corrected = pooled_correction(corrections or {})
    return Fitted(
        number=(before.number if before else 0) + 1,
        made_us=now_us,
        newest_id=newest_id,
        strata=names,
        hubs={hub: Given(k, contributions[hub] if hub in used else None) for hub, k in of.items()},
        people=len(good),
        refused=refused,
        passes=result.passes,
        converged=result.converged,
        log_likelihood=result.log_likelihood,
        nu=result.point.nu,
        arrays={
            "means": _bytes(result.point.means),
            "covariance": _bytes(result.point.covariance),
            "mean": _bytes(result.mean),
            **{name: _bytes(value) for name, value in result.sums._asdict().items()},
        },
        correction=begun,
        corrected=corrected,
    )


def pooled_correction(corrections: Mapping[str, bytes]) -> tuple[bytes, tuple[str, ...]]:
    """Where a newcomer's correction begins, and the hubs that say so; empty when they are too few."""
    given: dict[str, correction_pool.Start] = {}
    for hub in sorted(corrections):
        try:
            start = correction_pool.read(corrections[hub], POPULATION)
        except DecodeError:
            continue
        if start is not None:  # else of another version of the hub's program
            given[hub] = start
    pooled = correction_pool.pooled(list(given.values()))
    return (b"", ()) if pooled is None else (pooled.to_bytes(POPULATION), tuple(given))


def _bytes(array: Floats) -> bytes:
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def _fit_in(fitted: Fitted) -> hierarchy.Fit:
    n, g = len(NAMES), len(fitted.strata)
    shapes = {
        "means": (g, n),
        "covariance": (n, n),
        "mean": (n,),
        "people": (g,),
        "information": (g, n, n),
        "vector": (g, n),
        "scatter": (n, n),
        "likelihood": (len(hierarchy.NU_GRID),),
    }
    a = {name: np.frombuffer(fitted.arrays[name], "<f8").reshape(shape) for name, shape in shapes.items()}
    sums = hierarchy.Sums(*(a[name] for name in hierarchy.Sums._fields))
    point = hierarchy.Point(a["means"], a["covariance"], fitted.nu)
    return hierarchy.Fit(point, a["mean"], sums, fitted.passes, fitted.converged, fitted.log_likelihood)


def prior_for(
    hub_id: str,
    stratum: str,
    basis: Fitted | Mapping[str, Contribution],
    now_us: int,
    version: int,
) -> tuple[Prior, int]:
    """The prior for one hub from all others; also how many contributions were refused.

    ``basis``: the stored fit, from which the hub's own part is taken out again; or, before there is one, the
    contributions themselves. ``stratum`` is used for a hub that the fit does not know.
    """
    if not isinstance(basis, Fitted):
        others = {hub: given for hub, given in basis.items() if hub != hub_id}
        basis = refit(others, dict.fromkeys((hub_id, *others), stratum), now_us)
    result, anchor = _fit_in(basis), anchor_for(basis.strata)
    own = basis.hubs.get(hub_id)
    if own is None:
        own = Given(basis.strata.index(stratum) if stratum in basis.strata else 0, None)
    people, without = basis.people, None
    if own.contribution is not None:
        mine = people_of([read_contribution(own.contribution)], [own.stratum], anchor)
        without, people = hierarchy.sums_of(mine, result.point), people - 1
    mean, covariance = hierarchy.predictive(result, anchor, own.stratum, without)
    updated = f"; updated from {people} other hubs" if people else "; no other hub yet"
    prior = Prior(
        version=version,
        model=MODEL,
        names=NAMES,
        mean=tuple(mean.tolist()),
        covariance=tuple(covariance[np.tril_indices(len(NAMES))].tolist()),
        stratum=basis.strata[own.stratum],
        provenance=PUBLISHED
        + updated
        + (f" ({basis.provenance})" if people else "")
        + (
            f"; the forecasts' correction begins as {len(basis.corrected)} hubs' ended"
            if basis.correction
            else ""
        ),
        expires_us=now_us + LIFETIME_US,
        correction=basis.correction,  # also to those who are in it: one of ten, and it counts the less the more they know
    )
    return prior, basis.refused


def worth_sending(new: Prior, old: Prior | None, now_us: int) -> bool:
    """True when ``new`` says something else than ``old``, or when ``old`` has lived most of its life."""
    if old is None or (old.model, old.names, old.stratum) != (new.model, new.names, new.stratum):
        return True
    mark = slice(correction_pool.MARK_BYTES)
    begins_elsewhere = bool(new.correction) and new.correction[mark] != old.correction[mark]
    if old.expires_us - now_us < LIFETIME_US // 4 or begins_elsewhere:
        return True
    for i in range(len(new.names)):
        diagonal = i * (i + 1) // 2 + i
        old_sd, new_sd = math.sqrt(old.covariance[diagonal]), math.sqrt(new.covariance[diagonal])
        if abs(new.mean[i] - old.mean[i]) > MIN_CHANGE_SD * old_sd:
            return True
        if not 1 / MIN_CHANGE_RATIO < new_sd / old_sd < MIN_CHANGE_RATIO:
            return True
    return False
