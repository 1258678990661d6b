"""When nobody may approve a proposal any more: its meal's time has passed, or its insulin or food is on record. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from core import evidence
from core.messages import DoseAdvice, Sample

KINDS: Final = (*evidence.INSULIN, "carbs_g")  # what is looked for on the record
# Food of so much of the advised meal is that meal, begun. Less is a snack, or sugar against a low: it makes the dose
# no larger than it should be.
MEAL_SHARE: Final = 0.5


def past(advice: DoseAdvice, now_us: int) -> str:
    """Why it is too late; empty when it is not. The dose was simulated for this moment, and for no later one."""
    return "the time of its meal has passed" if now_us > advice.for_time_us else ""


def overtaken(advice: DoseAdvice, record: Iterable[Sample]) -> str:
    """What came on record since, in words; empty when nothing did. ``record``: standing samples of ``KINDS``."""
    newer = [s for s in record if s.time_us > advice.data_time_us]
    if advice.dose_u > 0 and evidence.insulin_after(newer, advice.data_time_us):
        return "insulin was taken after the data this advice rests on"  # the hub would set it aside
    eaten_g = sum(s.value for s in newer if s.kind == "carbs_g")
    if eaten_g > 0 and eaten_g >= MEAL_SHARE * advice.carbs_g:
        return "food for it is on record already"
    return ""
