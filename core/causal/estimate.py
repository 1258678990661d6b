"""Effects from records: by strata, by regression, by weights, by both, and through mediators.

All take plain arrays: outcome y[n], treatment a[n], covariates x[n, k] without a constant, and optionally a
group for each row (rows of one person are not independent). All give the mean difference that ``do`` makes,
with a 95 % interval, or refuse (RefusedError) where the data hold no comparison.

Sources: Hernán & Robins, Causal Inference: What If, 2020, ch. 12–13 (weights, standardisation); Lin, Ann Appl
Stat 2013;7:295 (interactions); Robins, Rotnitzky & Zhao, JASA 1994;89:846 and Bang & Robins, Biometrics
2005;61:962 (doubly robust); Pearl, Causality, 2009, th. 3.3.4 (front-door); Kish 1965 (effective size).
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.causal.regress import (
    design,
    least_squares,
    logistic,
    standard_error,
    t95,
    without_scores,
)
from core.errors import InputError, RefusedError

Floats = NDArray[np.float64]
MIN_EFFECTIVE: Final = 20.0  # rows that an arm is worth after weighting; fewer, and one row decides
LARGEST_SHARE: Final = 0.1  # of an arm's weight that one row may carry


class Estimate(msgspec.Struct, frozen=True):
    """A mean difference in the outcome's unit. ``n`` rows in ``groups`` independent groups."""

    method: str
    effect: float
    low: float
    high: float
    standard_error: float
    n: int
    groups: int

    def covers(self, value: float) -> bool:
        return self.low <= value <= self.high


class Overlap(msgspec.Struct, frozen=True):
    """How far treated and untreated can be compared: chances of treatment, and what the weighted arms are worth."""

    lowest: float
    highest: float
    effective_treated: float
    effective_untreated: float
    largest_share: float

    def required(self) -> Overlap:
        """Self, or RefusedError when a few rows would decide the answer."""
        small = min(self.effective_treated, self.effective_untreated)
        if small < MIN_EFFECTIVE or self.largest_share > LARGEST_SHARE:
            raise RefusedError(
                f"too little overlap: after weighting an arm is worth {small:.0f} rows, "
                f"and one row carries {100 * self.largest_share:.0f} % of an arm",
                where="causal effect",
                mend="compare only people and times in which both happened",
            )
        return self


def naive(y: ArrayLike, a: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """The difference as it stands in the records, adjusted for nothing: an association, not an effect.

    For a treatment other than 0/1 the slope per unit.
    """
    outcome, treatment, _ = _arrays(y, a, None)
    coefficients, influence = least_squares(design(treatment[:, None]), outcome)
    return _estimate("naive", float(coefficients[1]), influence[:, 1], groups)


def standardise(y: ArrayLike, a: ArrayLike, stratum: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Σ_b {E[y | 1, b] − E[y | 0, b]} P(b) over discrete strata b; refuses when a stratum lacks an arm."""
    outcome, treatment, _ = _arrays(y, a, None)
    _binary(treatment)
    _, code = np.unique(np.asarray(stratum), return_inverse=True)
    count = np.bincount(code).astype(np.float64)
    treated = np.bincount(code, weights=treatment)
    empty = int(np.count_nonzero((treated == 0) | (treated == count)))
    if empty:
        raise RefusedError(
            f"no overlap: {empty} of {count.size} strata hold only treated or only untreated rows",
            where="causal effect",
            mend="use coarser strata, or leave these out",
        )
    mean1 = np.bincount(code, weights=outcome * treatment) / treated
    mean0 = np.bincount(code, weights=outcome * (1 - treatment)) / (count - treated)
    influence, effect = _doubly_robust(outcome, treatment, mean1[code], mean0[code], (treated / count)[code])
    return _estimate("standardisation", effect, influence, groups)


def g_computation(y: ArrayLike, a: ArrayLike, x: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Linear outcome model, predicted for everybody with and without: float per unit of treatment.

    For a 0/1 treatment each arm has slopes of its own (Lin 2013); otherwise one slope for all.
    """
    outcome, treatment, covariates = _arrays(y, a, x)
    centred = covariates - covariates.mean(axis=0)
    columns = [treatment[:, None], centred]
    if _is_binary(treatment):
        columns.append(centred * treatment[:, None])
    coefficients, rows = least_squares(design(np.hstack(columns)), outcome)
    influence = rows[:, 1]
    if _is_binary(treatment):
        # The mean covariates at which both arms are predicted are estimated as well.
        influence = influence + centred @ coefficients[2 + centred.shape[1] :]
    return _estimate("g-computation", float(coefficients[1]), influence, groups)


def overlap(a: ArrayLike, x: ArrayLike) -> Overlap:
    """Fitted chances of treatment and effective sizes of the weighted arms; refuses on separation."""
    _, treatment, covariates = _arrays(a, a, x)
    _binary(treatment)
    chance, _ = logistic(design(_standardised(covariates)), treatment)
    return _overlap(chance, treatment)


def ipw(y: ArrayLike, a: ArrayLike, x: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Inverse probability weighting with weights that sum to one (Hájek), logistic chances."""
    outcome, treatment, covariates = _arrays(y, a, x)
    _binary(treatment)
    chance, scores = logistic(design(_standardised(covariates)), treatment)
    _overlap(chance, treatment).required()
    w1, w0 = treatment / chance, (1 - treatment) / (1 - chance)
    mean1, mean0 = float(w1 @ outcome / w1.sum()), float(w0 @ outcome / w0.sum())
    influence = w1 * (outcome - mean1) / w1.mean() - w0 * (outcome - mean0) / w0.mean()
    return _estimate("ipw", mean1 - mean0, without_scores(influence, scores), groups)


def doubly_robust(
    y: ArrayLike, a: ArrayLike, x: ArrayLike, groups: ArrayLike | None = None, target: str = "all"
) -> Estimate:
    """Outcome model and weights together (AIPW): right when either is.

    target: "all" (everybody with against everybody without) or "treated" (those who were, had they not been).
    """
    outcome, treatment, covariates = _arrays(y, a, x)
    _binary(treatment)
    z = design(_standardised(covariates))
    chance, scores = logistic(z, treatment)
    base = least_squares(z[treatment == 0], outcome[treatment == 0])[0]
    mean0 = z @ base
    if target == "treated":
        share = float(treatment.mean())
        odds = (1 - treatment) * chance / (1 - chance)
        _effective(odds, treatment).required()
        part = treatment * (outcome - mean0) - odds * (outcome - mean0)
        effect = float(part.mean()) / share
        influence = without_scores((part - effect * treatment) / share, scores)
        return _estimate("doubly robust, treated", effect, influence, groups)
    if target != "all":
        raise InputError("must be all or treated", where="doubly_robust target")
    _overlap(chance, treatment).required()
    mean1 = z @ least_squares(z[treatment == 1], outcome[treatment == 1])[0]
    influence, effect = _doubly_robust(outcome, treatment, mean1, mean0, chance)
    return _estimate("doubly robust", effect, influence, groups)


def front_door_linear(y: ArrayLike, a: ArrayLike, m: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Per unit of treatment, through mediators m[n, k]: (effect of a on m) · (effect of m on y given a)."""
    outcome, treatment, mediators = _arrays(y, a, m)
    second, second_rows = least_squares(design(np.column_stack([mediators, treatment])), outcome)
    effect, influence = 0.0, np.zeros(outcome.size)
    for k in range(mediators.shape[1]):
        first, first_rows = least_squares(design(treatment[:, None]), mediators[:, k])
        effect += float(first[1] * second[1 + k])
        influence = influence + first[1] * second_rows[:, 1 + k] + second[1 + k] * first_rows[:, 1]
    return _estimate("front-door", effect, influence, groups)


def front_door(y: ArrayLike, a: ArrayLike, m: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Σ_m {P(m | 1) − P(m | 0)} Σ_a' E[y | m, a'] P(a') for a 0/1 treatment and one discrete mediator."""
    outcome, treatment, _ = _arrays(y, a, None)
    _binary(treatment)
    _, code = np.unique(np.asarray(m), return_inverse=True)
    arm = treatment.astype(np.intp)
    size = code.max() + 1
    n = outcome.size
    cells = np.zeros((size, 2))
    totals = np.zeros((size, 2))
    np.add.at(cells, (code, arm), 1.0)
    np.add.at(totals, (code, arm), outcome)
    if np.any(cells == 0):
        raise RefusedError(
            "no overlap: a value of the mediator occurs in one arm only", where="causal effect"
        )
    mean = totals / cells
    chance = cells.sum(axis=0) / n  # P(a)
    mediator = cells / cells.sum(axis=0)  # P(m | a)
    shift = mediator[:, 1] - mediator[:, 0]
    level = mean @ chance  # Σ_a' E[y | m, a'] P(a')
    effect = float(shift @ level)
    sign = np.where(arm == 1, 1.0, -1.0)
    centre = mediator[:, arm].T @ level  # of h(m) in each row's own arm
    influence = sign / chance[arm] * (level[code] - centre)
    influence = influence + shift[code] * chance[arm] / (cells[code, arm] / n) * (outcome - mean[code, arm])
    influence = influence + shift @ (mean[:, arm] - level[:, None])
    return _estimate("front-door", effect, influence, groups)


def _estimate(method: str, effect: float, influence: Floats, groups: ArrayLike | None) -> Estimate:
    error, count = standard_error(influence - influence.mean(), groups)
    half = t95(count - 1) * error
    return Estimate(method, effect, effect - half, effect + half, error, int(influence.size), count)


def _doubly_robust(
    y: Floats, a: Floats, mean1: Floats, mean0: Floats, chance: Floats
) -> tuple[Floats, float]:
    part = mean1 - mean0 + a / chance * (y - mean1) - (1 - a) / (1 - chance) * (y - mean0)
    effect = float(part.mean())
    return part - effect, effect


def _effective(weights0: Floats, weights1: Floats) -> Overlap:
    sizes = [float(w.sum() ** 2 / (w @ w)) if np.any(w) else 0.0 for w in (weights0, weights1)]
    share = max(float(w.max() / w.sum()) if np.any(w) else 1.0 for w in (weights0, weights1))
    return Overlap(float("nan"), float("nan"), sizes[1], sizes[0], share)


def _overlap(chance: Floats, a: Floats) -> Overlap:
    worth = _effective((1 - a) / (1 - chance), a / chance)
    return msgspec.structs.replace(worth, lowest=float(chance.min()), highest=float(chance.max()))


def _standardised(x: Floats) -> Floats:
    spread = x.std(axis=0)
    if np.any(spread == 0.0):
        raise RefusedError("a covariate never varies", where="causal effect", mend="leave it out")
    scaled: Floats = (x - x.mean(axis=0)) / spread
    return scaled


def _is_binary(a: Floats) -> bool:
    return bool(np.all((a == 0.0) | (a == 1.0)))


def _binary(a: Floats) -> None:
    if not _is_binary(a):
        raise InputError("the treatment must be 0 or 1", where="causal effect")
    if a.min() == a.max():
        raise RefusedError("no overlap: all rows have the same treatment", where="causal effect")


def _arrays(y: ArrayLike, a: ArrayLike, x: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    outcome, treatment = (np.asarray(v, dtype=np.float64) for v in (y, a))
    covariates = np.zeros((outcome.size, 0)) if x is None else np.asarray(x, dtype=np.float64)
    if covariates.ndim == 1:
        covariates = covariates[:, None]
    if outcome.ndim != 1 or treatment.shape != outcome.shape or len(covariates) != outcome.size:
        raise InputError("outcome, treatment and covariates must have equal length", where="causal effect")
    if outcome.size <= covariates.shape[1] + 3:
        raise InputError("there are fewer rows than the question needs", where="causal effect")
    for values in (outcome, treatment, covariates):
        if not np.all(np.isfinite(values)):
            raise InputError("a value is missing", where="causal effect", mend="leave such rows out")
    return outcome, treatment, covariates
