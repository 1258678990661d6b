"""A second opinion on a dose, from another model: the insulin-on-board arithmetic of calculators and oref0.

It shares nothing with the twin but the record. Two models that agree may both be wrong; when they disagree,
one of them is, and nothing may be advised. Eventual glucose after oref0 (openaps/oref0, determine-basal; MIT): the
present value, less what the insulin on board and the dose will still do, plus what the carbohydrate will.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from core.advice_types import Advice, Policy
from core.dosing import ACTION_MIN, calculator_dose, insulin_on_board
from core.messages import Sample
from core.units import US_PER_DAY, US_PER_MIN

MOST: Final = 1.3  # times the calculator's dose, and half a unit
LEAST: Final = 0.4
SLACK_U: Final = 0.5
LOWEST_EVENTUAL_MGDL: Final = 70.0
DAYS: Final = 7  # of insulin to estimate the ratios by
MIN_DAYS: Final = 1.0
MAX_STRANGE_SD: Final = 3.0  # a parameter further from the population's mean is an error or a rarity


def disagreement(
    advice: Advice, samples: Sequence[Sample], policy: Policy, now_us: int, for_time_us: int
) -> str | None:
    """Why the second model does not support this dose, in plain words; None when it does.

    ``samples``: the record by time, up to now. Without prescribed ratios the rules of 500 and 1800 over the
    daily insulin of the record stand in.
    """
    if advice.refused is not None or advice.dose_u <= 0:
        return None
    ratio, correction = policy.carb_ratio_g_per_u, policy.correction_mgdl_per_u
    if ratio is None or correction is None:
        daily_u = daily_insulin(samples, now_us)
        if daily_u is None:
            return "there is no second opinion: neither ratios nor a day of insulin are on record"
        ratio, correction = ratio or 500.0 / daily_u, correction or 1800.0 / daily_u
    glucose = next((s.value for s in reversed(samples) if s.kind == "cgm_mgdl"), None)
    if glucose is None:
        return "there is no second opinion: no glucose reading"
    boluses = [
        (s.time_us, s.value)
        for s in samples
        if s.kind == "bolus_u" and s.time_us > for_time_us - ACTION_MIN * US_PER_MIN
    ]
    iob_u = insulin_on_board(for_time_us, boluses)
    dose_u = calculator_dose(advice.carbs_g, glucose, iob_u, policy.target_mgdl, ratio, correction)
    if advice.dose_u > MOST * dose_u + SLACK_U or advice.dose_u < LEAST * dose_u - SLACK_U:
        return "a second model (calculator with insulin on board) gives a quite different dose"
    eventual = glucose - correction * (iob_u + advice.dose_u) + advice.carbs_g * correction / ratio
    if eventual < LOWEST_EVENTUAL_MGDL:
        return "a second model (insulin on board) expects glucose to end below 70 mg/dL"
    return None


def daily_insulin(samples: Sequence[Sample], now_us: int) -> float | None:
    """Mean insulin a day (U) of the record's last week; None with less than a day of it."""
    start_us = max(now_us - DAYS * US_PER_DAY, min((s.time_us for s in samples), default=now_us))
    days = (now_us - start_us) / US_PER_DAY
    if days < MIN_DAYS:
        return None
    total = sum(s.value for s in samples if s.kind in ("bolus_u", "long_acting_u") and s.time_us >= start_us)
    rates = [s for s in samples if s.kind == "basal_uph" and s.time_us >= start_us]
    for rate, later_us in zip(rates, [*(r.time_us for r in rates[1:]), now_us], strict=False):
        total += rate.value * min(later_us - rate.time_us, US_PER_DAY) / US_PER_DAY * 24.0
    return total / days if total > 0 else None


def strangeness(distances: Sequence[tuple[str, float]]) -> str | None:
    """Why this person's parameters are beyond what people have; None when they are not.

    ``distances``: (name, standard deviations from the population's mean).
    """
    far = [name for name, z in distances if not abs(z) <= MAX_STRANGE_SD]
    if not far:
        return None
    return f"what the twin has learned ({', '.join(far)}) lies beyond the population it was made for"
