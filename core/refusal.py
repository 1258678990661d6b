"""When nothing may be advised, and why, in plain words."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from core.advice_types import Situation
from core.chance import LOW_MGDL
from core.units import US_PER_DAY

MAX_DATA_AGE_S: Final = 600.0  # two missed five-minute readings: the state may have turned meanwhile
MAX_FALL_MGDL_PER_MIN: Final = 2.0  # MODELS E; at this rate 70 is 20 min away from 110
DATA_FROM_FUTURE_S: Final = 60.0  # a reading this far ahead means that one of two clocks is wrong
MIN_RECORD_US: Final = US_PER_DAY  # the twin's first calibration: before it knows nothing of this person
# Mean squared normalised innovation that a fitting twin does not reach: 1 is expected, its mean over 24
# independent readings has SD 0.29; sensor errors hang together, hence the generous bound.
MISFIT_NIS: Final = 3.0


class Refusal(NamedTuple):
    """Why no dose is advised. ``may_eat``: the data are good, so carbohydrate may still be advised."""

    text: str
    may_eat: bool = False


def refusal(situation: Situation) -> Refusal | None:
    """Why no insulin may be advised now; None when nothing stands against it."""
    age_s = situation.age_s
    if not math.isfinite(situation.glucose_mgdl) or not math.isfinite(situation.iob_u):
        return Refusal("there is no usable glucose reading")
    if age_s > MAX_DATA_AGE_S:
        return Refusal(f"the newest glucose reading is {_minutes(age_s)} old; at most 10 min are allowed")
    if age_s < -DATA_FROM_FUTURE_S:
        return Refusal("the newest glucose reading lies in the future: a clock is wrong")
    if situation.flagged:
        return Refusal("the newest glucose reading is doubtful; check with a fingerstick")
    if situation.status != "ok":
        texts = {
            "warming_up": "the twin has not seen enough data yet",
            "stale": "the twin's data are too old",
            "diverged": "the twin has lost track of this person",
        }
        return Refusal(texts.get(situation.status, "the twin is not ready"))
    if situation.record_us is not None and situation.record_us < MIN_RECORD_US:
        return Refusal("the twin has not seen enough data yet: it needs a day of readings")
    if situation.glucose_mgdl < LOW_MGDL:
        return Refusal(
            "glucose is below 70 mg/dL: treat the low first (15 g fast carbohydrate, check again after 15 min)",
            may_eat=True,
        )
    if situation.misfit:
        return Refusal("the twin does not fit the recent readings well enough")
    # Not "< -2": an unknown trend (nan) must refuse as well.
    if not situation.trend_mgdl_per_min >= -MAX_FALL_MGDL_PER_MIN:
        return Refusal(
            "glucose is falling faster than 2 mg/dL per minute, or its trend is unknown",
            may_eat=math.isfinite(situation.trend_mgdl_per_min),
        )
    if situation.changing:
        return Refusal(situation.changing)
    return None


def _minutes(age_s: float) -> str:
    minutes = age_s / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / (24 * 60):.0f} days"
