"""The ordinary bolus calculator and insulin on board: what every dose is compared with.

MODELS E: the calculator of pumps (carbohydrate over ratio, plus a correction less the insulin still acting)
and the exponential insulin curve of Loop and oref0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from core.units import US_PER_MIN

ACTION_MIN: Final = 370.0  # delay and duration of the curve below: older boluses are spent


def correction_dose(
    glucose_mgdl: float, iob_u: float, target_mgdl: float, correction_mgdl_per_u: float
) -> float:
    """Insulin (U) for glucose above target, less what is still acting; negative below target.

    Insulin on board counts here and nowhere else, so it counts once.
    """
    correction_u = (glucose_mgdl - target_mgdl) / correction_mgdl_per_u
    return max(0.0, correction_u - max(0.0, iob_u)) if correction_u > 0 else correction_u


def calculator_dose(
    carbs_g: float,
    glucose_mgdl: float,
    iob_u: float,
    target_mgdl: float,
    carb_ratio_g_per_u: float,
    correction_mgdl_per_u: float,
) -> float:
    """The ordinary bolus calculator (MODELS E), in U.

    Insulin on board counts once, against the correction only; glucose below target reduces the meal bolus.
    """
    correction_u = correction_dose(glucose_mgdl, iob_u, target_mgdl, correction_mgdl_per_u)
    return max(0.0, carbs_g / carb_ratio_g_per_u + correction_u)


def iob_fraction(
    age_min: float, duration_min: float = 360.0, peak_min: float = 75.0, delay_min: float = 10.0
) -> float:
    """Share of a bolus still to act after ``age_min``: exponential model of MODELS E, 1 at 0, 0 at the end."""
    t = age_min - delay_min
    if t <= 0:
        return 1.0
    if t >= duration_min:
        return 0.0
    td, tp = duration_min, peak_min
    tau = tp * (1 - tp / td) / (1 - 2 * tp / td)
    a = 2 * tau / td
    s = 1 / (1 - a + (1 + a) * math.exp(-td / tau))
    return 1 - s * (1 - a) * ((t * t / (tau * td * (1 - a)) - t / tau - 1) * math.exp(-t / tau) + 1)


def insulin_on_board(now_us: int, boluses: Iterable[tuple[int, float]], peak_min: float = 75.0) -> float:
    """Bolus insulin still to act, in U. ``boluses``: (time_us, dose_u); later ones than now do not count."""
    return sum(
        dose_u * iob_fraction((now_us - time_us) / US_PER_MIN, peak_min=peak_min)
        for time_us, dose_u in boluses
        if time_us <= now_us
    )
