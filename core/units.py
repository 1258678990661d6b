"""Units and the one vocabulary of kinds. Conversions live here and nowhere else.

Kinds carry their unit in the name. ``plausible`` bounds reject what no sensor or person can mean;
they are wide on purpose: the filter, not this table, judges outliers.
"""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple

from core.errors import InputError

MGDL_PER_MMOLL: Final = 18.0156  # molar mass of glucose 180.156 g/mol, per decilitre
US_PER_S: Final = 1_000_000
US_PER_MIN: Final = 60 * US_PER_S
US_PER_H: Final = 60 * US_PER_MIN
US_PER_DAY: Final = 24 * US_PER_H


class Kind(NamedTuple):
    """One measurable or reported quantity: its bounds, and whether it is an input (act) or a reading."""

    unit: str
    low: float
    high: float
    is_input: bool


KINDS: Final[dict[str, Kind]] = {
    "cgm_mgdl": Kind("mg/dL", 10, 1000, False),
    "smbg_mgdl": Kind("mg/dL", 10, 1000, False),
    "bolus_u": Kind("U", 0, 100, True),
    "basal_uph": Kind("U/h", 0, 35, True),
    "long_acting_u": Kind("U", 0, 200, True),
    "carbs_g": Kind("g", 0, 1000, True),
    "heart_rate_bpm": Kind("1/min", 20, 300, False),
    "sbp_mmhg": Kind("mmHg", 30, 300, False),
    "dbp_mmhg": Kind("mmHg", 10, 250, False),
    "spo2_pct": Kind("%", 20, 100, False),
    "weight_kg": Kind("kg", 1, 500, False),
    "temp_c": Kind("°C", 20, 47, False),
    "steps": Kind("1", 0, 100_000, False),
    "drug_mg": Kind("mg", 0, 10_000, True),
    "plasma_ngml": Kind("ng/mL", 0, 1e6, False),
}


def check_value(kind: str, value: float, where: str = "") -> float:
    """Return ``value`` when it can be meant; raise InputError naming the kind otherwise (never the value)."""
    spec = KINDS.get(kind)
    if spec is None:
        # Only what looks like a kind is repeated: a misplaced column may hold a name or a note.
        named = f" {kind!r}" if re.fullmatch(r"[a-z][a-z0-9_]{0,31}", kind) else ""
        raise InputError(f"unknown kind{named}", where=where, mend="use one of " + " ".join(KINDS))
    if not math.isfinite(value) or not spec.low <= value <= spec.high:
        # A place may end in the kind already: said once is enough.
        raise InputError(
            f"{'' if where.endswith(kind) else f'{kind} '}is outside {spec.low:g}..{spec.high:g} {spec.unit}",
            where=where,
            mend="check the number and its unit",
        )
    return value


def percent_text(chance: float) -> str:
    """A chance in 0..1 as whole percent, whose ends are never rounded to certainty."""
    if chance < 0.01:
        return "under 1 %"
    return "over 99 %" if chance > 0.99 else f"{100.0 * chance:.0f} %"


def mgdl_from_mmoll(glucose_mmoll: float) -> float:
    """Glucose in mg/dL from mmol/L."""
    return glucose_mmoll * MGDL_PER_MMOLL


def mmoll_from_mgdl(glucose_mgdl: float) -> float:
    """Glucose in mmol/L from mg/dL."""
    return glucose_mgdl / MGDL_PER_MMOLL
