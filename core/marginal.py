"""How far the likeliest day leans: what the joint mode misses by setting all else to its likeliest value.

The joint mode of parameters and disturbance leans to parameters under which little disturbance does much: the disturbance
is then cheap. On people of the model's own structure it lay one SD off in how insulin moves glucose. Laplace's
approximation of the marginal (Tierney & Kadane, J Am Stat Assoc 1986;81:82, eq. 4.1) counts how wide the rest is:

    ln p(θ | y) ≈ J(θ, η̂(θ)) − ½ ln det H_ηη(θ) + const,

with J the joint log-density, η all the rest, H its curvature. The second term and its bend are taken by differences over
one SD of the posterior, along its principal axes (in those the first term is −½|u|²).

The mode stays the centre all the same (docs/learning.md says why), and the lean counts as its error: about a centre c the
mean square of θ − c is the covariance plus (mean − c)(mean − c)ᵀ.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from core.courses import Array
from core.refine import Refined

MOST_SD: Final = 2.0  # along an axis: a quadratic says little beyond
LEAST_BEND: Final = 0.5  # of the joint posterior's own: an axis may come out wider, but not without bound


def lean(found: Refined, n: int) -> Array:
    """g, float64[n]: the mean of the first ``n`` unknowns, the rest integrated out, lies at mode + cov·g.

    As information (what Λ·mean is short of), so that nights add up as their information does.
    """
    work, mode = found.work, found.mean
    cov = found.cov[:n, :n]
    follow = np.linalg.solve(cov, found.cov[:n, n:]).T  # how the rest moves along
    rest = work.root[n:, n:]

    def half_ln_det(x: Array) -> float:
        slopes = work.white @ work.slopes(x, work.predict(x))[:, n:] @ rest
        if not np.isfinite(slopes).all():
            return np.nan
        return 0.5 * float(np.linalg.slogdet(np.eye(len(slopes)) + slopes @ slopes.T)[1])

    values, vectors = np.linalg.eigh(cov)
    sd = np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    here = half_ln_det(mode)
    shift = np.zeros(n)
    for i in range(n):
        step = sd[i] * np.concatenate([vectors[:, i], follow @ vectors[:, i]])
        up, down = half_ln_det(mode + step), half_ln_det(mode - step)
        shift[i] = -0.5 * (up - down) / max(1.0 + up - 2.0 * here + down, LEAST_BEND)
    shift = np.clip(np.nan_to_num(shift, nan=MOST_SD), -MOST_SD, MOST_SD)  # what cannot be told is the most
    return np.asarray(vectors @ (shift / sd), dtype=np.float64)
