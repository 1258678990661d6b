"""Chance of a CGM reading below 70 mg/dL within the next half hour.

A forecast's band is calibrated at each horizon by itself; it does not say how likely a low is at any moment of
half an hour, and its far tail is a guess. So the chance is a logistic regression on the corrected forecast,
which carries what was learned of the person, and on the last readings. Its few weights are the same for all
people; like the correction's prior they are fitted by core.population (core/lows_prior.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from core import correction as corr
from core.lows_prior import WEIGHTS

if TYPE_CHECKING:
    from core.predictive import Outlook
    from core.track import Track

Array = NDArray[np.float64]

LOW_MGDL: Final = 70.0
WITHIN_MIN: Final = 30.0
AHEAD_MIN: Final = (10.0, 20.0, 30.0)  # forecasts that are looked at
N: Final = 17
NEAR_MGDL: Final = 60.0  # logarithms measure the distance from a little below the limit
FRESH_MIN: Final = 15.0  # slopes of older readings say nothing
SD_PER_HALF: Final = 1.0 / 1.6448536  # of a 90 % band's half width
EFFECTIVE_ROWS: Final = 2000.0  # weight of one person in the fit
PENALTY: Final = 1.0


def slopes(learn: Array) -> tuple[float, float]:
    """Change of the last 15 and 5 min, mg/dL/min, from the correction's memory; 0 where unknown."""
    at, value = learn[corr.AT_TIMES], learn[corr.AT_TIMES + 1]
    return (
        -float(corr.lagged(learn, at - 15.0, value)) / 15.0,
        -float(corr.lagged(learn, at - 5.0, value)) / 5.0,
    )


def features(now_mgdl: float, slope: float, slope5: float, mean: Array, half: Array) -> Array:
    """float64[N]. mean, half: forecast and lower half width of its 90 % band at AHEAD_MIN, mg/dL."""
    z = np.clip((LOW_MGDL - mean) / (np.maximum(half, 1e-6) * SD_PER_HALF), -6.0, 6.0)
    above = min((now_mgdl - LOW_MGDL) / 20.0, 4.0)
    slope, slope5 = min(max(slope, -4.0), 4.0), min(max(slope5, -4.0), 4.0)
    near = np.log(np.maximum(mean - NEAR_MGDL, 3.0))
    width = np.log(np.maximum(half, 1.0))
    return np.array(
        [
            1.0,
            *z,
            above,
            math.log(max(now_mgdl - NEAR_MGDL - 2.0, 3.0)),
            slope,
            min(slope, 0.0),
            slope5,
            slope * slope5,
            above * slope,
            above * z[1],
            z[1] ** 2,
            width[0],
            width[1],
            near[0],
            near[1],
        ]
    )


def chance(x: Array, weights: Sequence[float]) -> float:
    """Chance for features ``x``."""
    score = float(x @ np.asarray(weights))
    return 1.0 / (1.0 + math.exp(-min(max(score, -30.0), 30.0)))


def tail(mean: Array, half: Array) -> float:
    """Without fresh readings: the greatest chance that the bands give at one of AHEAD_MIN (normal tails)."""
    z = (LOW_MGDL - mean) / (np.maximum(half, 1e-6) * SD_PER_HALF)
    return 0.5 * math.erfc(-float(z.max()) / math.sqrt(2.0))


def chance_of(track: Track, near: Outlook) -> float:
    """The chance as ``track`` stands; ``near``: its outlook at AHEAD_MIN."""
    if not track.corrected() or track.age_s(track.time_us) > 60.0 * FRESH_MIN:
        return tail(near.mean, near.low)
    now_mgdl = float(track.learn[corr.AT_TIMES + 1])
    if now_mgdl < LOW_MGDL:
        return 1.0
    return chance(features(now_mgdl, *slopes(track.learn), near.mean, near.low), WEIGHTS)


def fit(people: Sequence[tuple[Array, NDArray[np.bool_]]]) -> Array:
    """Weights, float64[N], from (features float64[n, N], came bool[n]) of each person; all weigh the same.

    Newton's method on the penalised likelihood.
    """
    x = np.concatenate([rows for rows, _ in people])
    came = np.concatenate([low for _, low in people]).astype(float)
    share = np.concatenate([np.full(len(rows), EFFECTIVE_ROWS / max(1, len(rows))) for rows, _ in people])
    weights = np.zeros(N)
    for _ in range(30):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ weights, -30.0, 30.0)))
        steep = share * p * (1.0 - p)
        hessian = (x * steep[:, None]).T @ x + PENALTY * np.eye(N)
        weights += np.linalg.solve(hessian, x.T @ (share * (came - p)) - PENALTY * weights)
    return weights


def to_source(weights: Array) -> str:
    """Python source of core/lows_prior.py."""
    numbers = "\n".join(f"    {w:.6g}," for w in weights)
    return f'"""Weights of core.lows. Written by bench.prior; do not edit."""\n\nWEIGHTS = (\n{numbers}\n)\n'
