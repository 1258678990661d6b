"""How likely a low is, with an exact bound, and how good a course of glucose is on the whole.

The bound is Clopper and Pearson's (Biometrika 1934;26:404), one-sided: the number of simulated courses is part
of the answer. The cost of a course is the risk function of Kovatchev and colleagues (Diabetes Care
1997;20:1655), in which 70 and 180 mg/dL weigh the same. Beyond its turning point (about 300 mg/dL), where it would
flatten out, it goes on along its tangent: so it is convex, its slope is concave, and from that follows what
a dose chosen by its expectation must obey (core.advice).
"""

from __future__ import annotations

import functools
import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.advice_types import MIN_DRAWS
from core.errors import InputError

Floats = NDArray[np.float64]

LOW_MGDL: Final = 70.0
VERY_LOW_MGDL: Final = 54.0
HIGH_MGDL: Final = 180.0
CONFIDENCE: Final = 0.95

_SCALE, _POWER, _OFFSET = 1.509, 1.084, 5.381
_FLOOR_MGDL: Final = 15.0  # below, nothing differs any more


class Chance(msgspec.Struct, frozen=True):
    """How often courses go low within their span."""

    p70: float
    p54: float
    p70_bound: float  # upper 95 % bounds
    p54_bound: float
    finite: bool = True

    def within(self, max_p70: float, max_p54: float) -> bool:
        """Whether both bounds keep their limits."""
        return self.finite and self.p70_bound <= max_p70 and self.p54_bound <= max_p54


UNKNOWN: Final = Chance(1.0, 1.0, 1.0, 1.0, finite=False)


def chance_of(paths: Floats) -> Chance:
    """Chances of any value below 70 and 54 over float64[draws, n_steps] mg/dL; UNKNOWN for unusable paths."""
    if paths.ndim != 2 or paths.shape[0] < MIN_DRAWS or paths.shape[1] < 1 or not np.all(np.isfinite(paths)):
        return UNKNOWN
    lowest = paths.min(axis=1)
    n = int(lowest.shape[0])
    below_70 = int(np.count_nonzero(lowest < LOW_MGDL))
    below_54 = int(np.count_nonzero(lowest < VERY_LOW_MGDL))
    return Chance(
        below_70 / n,
        below_54 / n,
        clopper_pearson_upper(below_70, n),
        clopper_pearson_upper(below_54, n),
    )


@functools.lru_cache(maxsize=8192)  # a search asks for the same few counts again and again
def clopper_pearson_upper(events: int, draws: int, confidence: float = CONFIDENCE) -> float:
    """Exact one-sided upper bound of a proportion: the p with P(Binomial(draws, p) <= events) = 1-confidence."""
    if not 0 <= events <= draws or draws < 1 or not 0 < confidence < 1:
        raise InputError(
            "need 0 <= events <= draws, draws >= 1 and 0 < confidence < 1", where="clopper_pearson"
        )
    if events == draws:
        return 1.0
    if events == 0:
        return -math.expm1(math.log1p(-confidence) / draws)
    low, high = events / draws, 1.0
    for _ in range(60):  # halves the interval each time: far below float spacing
        middle = 0.5 * (low + high)
        if binomial_cdf(events, draws, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def binomial_cdf(events: int, draws: int, p: float) -> float:
    """P(Binomial(draws, p) <= events)."""
    if p <= 0:
        return 1.0
    if p >= 1:
        return 0.0 if events < draws else 1.0
    log_p, log_q, log_n = math.log(p), math.log1p(-p), math.lgamma(draws + 1)
    return math.fsum(
        math.exp(log_n - math.lgamma(k + 1) - math.lgamma(draws - k + 1) + k * log_p + (draws - k) * log_q)
        for k in range(events + 1)
    )


def _symmetric(glucose: Floats) -> Floats:
    return _SCALE * (np.log(glucose) ** _POWER - _OFFSET)


def _turning_point() -> tuple[float, float, float]:
    """Glucose from which the risk is continued by its tangent, its risk and its slope there."""
    glucose = np.arange(150.0, 600.0, 0.25)
    risk = 10.0 * _symmetric(glucose) ** 2
    slope = np.gradient(risk, glucose)
    at = int(np.argmax(slope))
    return float(glucose[at]), float(risk[at]), float(slope[at])


_BEND_MGDL, _BEND_RISK, _BEND_SLOPE = _turning_point()


def risk(glucose_mgdl: Floats) -> Floats:
    """Risk of each value, 0 at 112.5 mg/dL, about 7.7 at 70 and at 180; convex. Any shape."""
    inside = 10.0 * _symmetric(np.clip(glucose_mgdl, _FLOOR_MGDL, _BEND_MGDL)) ** 2
    tail: Floats = inside + _BEND_SLOPE * np.maximum(glucose_mgdl - _BEND_MGDL, 0.0)
    return tail


def expected_risk(paths: Floats) -> float:
    """Mean risk over courses and time."""
    return float(risk(paths).mean())


def time_in_range(paths: Floats) -> float:
    """Share of values in 70..180 mg/dL."""
    return float(np.mean((paths >= LOW_MGDL) & (paths <= HIGH_MGDL)))
