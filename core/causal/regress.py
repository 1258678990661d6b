"""Least squares, logistic propensities and cluster-robust intervals: what the estimators are made of.

Every estimator gives its influence function: one number per row whose mean is 0 and whose variance over n is
the estimate's variance. Rows of one group (a person, a day) are summed first, so that they need not be
independent of each other.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import InputError, RefusedError

Floats = NDArray[np.float64]
Z95: Final = 1.959963984540054
MAX_NEWTON: Final = 50
RIDGE: Final = 1e-8  # relative; keeps the solve defined, far below any influence on a figure
LARGEST_LOGIT: Final = 25.0  # a fitted chance of 1e-11: the groups are separated, the fit runs away


def t95(freedom: int) -> float:
    """The 97.5 % point of Student's t, by Cornish & Fisher's expansion (Abramowitz & Stegun 26.7.5): .001 from 9 on.

    With few groups their own spread is not known well either: at ten, the normal point would be 13 % too near.
    """
    z, n = Z95, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def standard_error(influence: Floats, groups: ArrayLike | None) -> tuple[float, int]:
    """(standard error, number of groups) with the small-sample factor g/(g − 1)."""
    n = influence.size
    sums: Floats
    if groups is None:
        sums, count = influence, n
    else:
        if np.shape(groups) != influence.shape:
            raise InputError("groups must have a value for each row", where="causal effect")
        _, code = np.unique(np.asarray(groups), return_inverse=True)
        sums = np.bincount(code, weights=influence).astype(np.float64)
        count = sums.size
    if count < 2:
        raise RefusedError("one group alone gives no interval", where="causal effect")
    variance = float(sums @ sums) / n**2 * count / (count - 1)
    return math.sqrt(variance), count


def design(x: Floats) -> Floats:
    """A column of ones before the covariates: float64[n, k + 1]."""
    return np.column_stack([np.ones(len(x)), x])


def least_squares(z: Floats, y: Floats) -> tuple[Floats, Floats]:
    """(coefficients[k], influence of each row on each coefficient[n, k]). RefusedError when z is collinear."""
    gram = z.T @ z / len(z)
    scale = np.sqrt(np.diag(gram))
    if np.any(scale == 0.0):
        raise RefusedError("a covariate is always zero", where="causal effect")
    scaled = gram / np.outer(scale, scale)
    if np.linalg.eigvalsh(scaled)[0] < 1e-10:
        raise RefusedError(
            "the treatment, or a covariate, is an exact function of others", where="causal effect"
        )
    inverse = np.linalg.inv(scaled) / np.outer(scale, scale)
    coefficients = inverse @ (z.T @ y) / len(z)
    residual = y - z @ coefficients
    return coefficients, (z * residual[:, None]) @ inverse


def logistic(z: Floats, a: Floats) -> tuple[Floats, Floats]:
    """(P(a = 1 | z) per row, score of each row[n, k]) by Newton's method.

    RefusedError when some combination of covariates decides the treatment (positivity fails).
    """
    coefficients = np.zeros(z.shape[1])
    for _ in range(MAX_NEWTON):
        logit = np.clip(z @ coefficients, -30.0, 30.0)
        chance = 1.0 / (1.0 + np.exp(-logit))
        weight = chance * (1.0 - chance)
        hessian = (z * weight[:, None]).T @ z
        hessian[np.diag_indices_from(hessian)] *= 1.0 + RIDGE
        try:
            step = np.linalg.solve(hessian, z.T @ (a - chance))
        except np.linalg.LinAlgError:
            break
        largest = float(np.max(np.abs(z @ step)))
        coefficients = coefficients + step * min(1.0, 5.0 / max(largest, 1e-12))
        if largest < 1e-8:
            logit = z @ coefficients
            chance = 1.0 / (1.0 + np.exp(-np.clip(logit, -30.0, 30.0)))
            if float(np.max(np.abs(logit))) > LARGEST_LOGIT:
                break
            return chance, z * (a - chance)[:, None]
    raise RefusedError(
        "no overlap: what was measured before decides who was treated",
        where="causal effect",
        mend="compare only people and times in which both happened",
    )


def without_scores(influence: Floats, scores: Floats) -> Floats:
    """The influence when nuisance parameters with these scores were estimated: its part outside their span."""
    fitted, *_ = np.linalg.lstsq(scores, influence, rcond=None)
    return np.asarray(influence - scores @ fitted)
