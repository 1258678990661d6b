"""The room that the bounds leave: an adviser that knows the body itself, today's sensitivity and the glucose in the blood.

All it does not know is what a meal holds: it is counted with COUNT_CV, as for everybody. Bodies are forked at the question and live
candidate doses for five hours; the best dose is given that keeps P(< 70) ≤ 5 % and P(< 54) ≤ 1 % over that error. What the twin's adviser
stays behind it, it stays behind for want of knowledge, not for the bounds.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.closed_loop import (
    CORRECT_ABOVE_MGDL,
    COUNT_CV,
    SUGAR_LOOK_BELOW_MGDL,
    TARGET_MGDL,
    Calculator,
    Day,
)

Array = NDArray[np.float64]

SHARES: Final = np.array([0.0, 0.3, 0.6, 0.9, 1.2, 1.6])  # of what the ratios say, lived by a body each
FINE: Final = 49  # candidates between them
P_54: Final = 0.01
P_70: Final = 0.05
LIKELY: Final = (0.2, 0.5, 0.8)  # meals that the outcome is judged on
RISK_WEIGHT: Final = 0.2  # of the mean squared log distance from 120 mg/dL beside a share of time in range
SOON: Final = 12  # steps of 5 min in which a low calls for sugar
SUGAR_G: Final = 15.0


class Forked(Protocol):
    """A body that can be asked what would be."""

    carb_ratio: float
    correction: float

    @property
    def plasma_mgdl(self) -> float: ...
    def alone(self, dose_u: float, carbs_g: float) -> Array:
        """Plasma glucose each 5 min of the next five hours with this now and nothing else, float64[60] mg/dL."""
        ...


class Knowing(Calculator):
    """Doses at meals, at looks and sugar like the others, from forks of the body itself."""

    name = "one who knows the body, not the meal"

    def __init__(self, body: Forked) -> None:
        super().__init__(body.carb_ratio, body.correction)
        self._body = body

    def meal(self, day: Day, counted_g: float) -> float:
        above_u = max(0.0, self._body.plasma_mgdl - TARGET_MGDL) / self._correction
        doses = SHARES * max(counted_g / self._ratio + above_u, 0.3)
        eaten_g = np.zeros(1)
        if counted_g > 0:
            z = np.array([NormalDist().inv_cdf(p) for p in (P_54, P_70, *LIKELY)])
            eaten_g = np.maximum(counted_g * (1.0 + COUNT_CV * z), 3.0)
        lived = np.array([[self._body.alone(u, g) for g in eaten_g] for u in doses])
        fine_u = np.linspace(0.0, doses[-1], FINE)
        at = np.clip(np.searchsorted(doses, fine_u) - 1, 0, len(doses) - 2)
        share = ((fine_u - doses[at]) / (doses[at + 1] - doses[at]))[:, None, None]
        courses = (1.0 - share) * lived[at] + share * lived[at + 1]
        lowest = courses.min(axis=2)
        allowed = (lowest[:, 0] >= 54.0) & (lowest[:, min(1, len(eaten_g) - 1)] >= 70.0)
        if not allowed.any():
            return 0.0
        judged = courses[:, 2:] if len(eaten_g) > 1 else courses
        inside = ((judged >= 70.0) & (judged <= 180.0)).mean(axis=(1, 2))
        risk = (np.log(np.maximum(judged, 20.0) / 120.0) ** 2).mean(axis=(1, 2))
        return float(fine_u[int(np.argmax(np.where(allowed, inside - RISK_WEIGHT * risk, -np.inf)))])

    def between(self, day: Day, *, correct: bool) -> tuple[float, float]:
        if correct:
            return (self.meal(day, 0.0) if day.cgm_mgdl > CORRECT_ABOVE_MGDL else 0.0), 0.0
        if day.cgm_mgdl < SUGAR_LOOK_BELOW_MGDL and self._body.alone(0.0, 0.0)[:SOON].min() < 70.0:
            return 0.0, SUGAR_G
        return 0.0, 0.0
