"""From rows to figures: each arm, each difference with its interval, subgroups, safety. Plain numbers, no text.

A cross-over compares each person with themselves (paired t interval); parallel arms are compared by Welch's.
Intervals are 95 % and say how far chance among the drawn people reaches; whether the model is right they cannot say.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, t

from cloud.trials.plan import OUTCOME_NAMES, Plan
from cloud.trials.simulate import BASELINE_NAMES, Row
from core.errors import InputError

Floats = NDArray[np.float64]
LEVEL: Final = 0.95
MIN_GROUP: Final = 10  # people of a subgroup in each arm


class ArmFigures(msgspec.Struct, frozen=True):
    """One outcome in one arm, over people; ``low`` to ``high``: 95 % interval of the mean, never below 0."""

    people: int
    mean: float
    low: float
    high: float
    sd: float
    p05: float
    p25: float
    median: float
    p75: float
    p95: float


class Difference(msgspec.Struct, frozen=True):
    """An arm less the reference arm: mean difference, 95 % interval, and the share of people in whom it is above 0
    (cross-over only; nan in parallel arms, where nobody has both)."""

    arm: int
    people: int
    mean: float
    low: float
    high: float
    share_above: float


class Subgroup(msgspec.Struct, frozen=True):
    """The primary difference in a third of the people."""

    name: str
    difference: Difference


class Share(msgspec.Struct, frozen=True):
    """People of an arm with something, with the exact (Clopper–Pearson) 95 % interval of the share."""

    count: int
    people: int
    low: float
    high: float


class Analysis(msgspec.Struct, frozen=True):
    """``figures[outcome][arm]``, ``differences[outcome]`` for every arm but the first, and so on."""

    figures: dict[str, list[ArmFigures]]
    differences: dict[str, list[Difference]]
    subgroups: list[Subgroup]
    safety: dict[str, list[Share]]


SAFETY: Final = (
    ("time below 54 of 1 % or more", "below_54_pct", lambda v: v >= 1.0),
    ("time below 70 of 4 % or more", "below_70_pct", lambda v: v >= 4.0),
    ("time above 250 of 5 % or more", "above_250_pct", lambda v: v >= 5.0),
    ("plasma glucose below 54 at any time", "lowest_mgdl", lambda v: v < 54.0),
    ("plasma glucose below 40 at any time", "lowest_mgdl", lambda v: v < 40.0),
    ("a low of ≥ 15 min below 54 every week", "lows_per_week", lambda v: v >= 1.0),
    ("CV above 36 %", "cv_pct", lambda v: v > 36.0),
)
SUBGROUPS: Final = (
    ("weight_kg", "weight", "kg"),
    ("correction_mgdl_per_u", "correction factor", "mg/dL/U"),
    ("counting_bias", "carbohydrate counted / eaten", ""),
)


def analyse(plan: Plan, rows: list[Row]) -> Analysis:
    """All figures. InputError when an arm holds fewer than two people."""
    table = Table(plan, rows)
    figures = {n: [_figures(table.values(n, arm)) for arm in range(table.arms)] for n in OUTCOME_NAMES}
    differences = {n: [table.difference(n, arm) for arm in range(1, table.arms)] for n in OUTCOME_NAMES}
    safety = {
        words: [_share(int(np.count_nonzero(test(v))), v.size) for v in table.each_arm(name)]
        for words, name, test in SAFETY
    }
    return Analysis(figures, differences, _subgroups(table, plan.primary), safety)


class Table:
    """Rows by arm, people in the same order in every arm of a cross-over."""

    def __init__(self, plan: Plan, rows: list[Row]) -> None:
        self.paired = plan.design == "crossover"
        self.arms = len(plan.arms)
        parts = [
            sorted((r for r in rows if r.arm == arm), key=lambda r: r.person) for arm in range(self.arms)
        ]
        if min(len(part) for part in parts) < 2:
            raise InputError("an arm holds fewer than two people", where="trial", mend="ask for more people")
        self._values = [np.array([r.values for r in part]) for part in parts]
        self._baseline = [np.array([r.baseline for r in part]) for part in parts]

    def values(self, outcome: str, arm: int) -> Floats:
        column: Floats = self._values[arm][:, OUTCOME_NAMES.index(outcome)]
        return column

    def each_arm(self, outcome: str) -> list[Floats]:
        return [self.values(outcome, arm) for arm in range(self.arms)]

    def baseline(self, name: str, arm: int) -> Floats:
        column: Floats = self._baseline[arm][:, BASELINE_NAMES.index(name)]
        return column

    def difference(
        self, outcome: str, arm: int, masks: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None
    ) -> Difference:
        """Arm less reference, of the people in ``masks`` (reference, arm)."""
        ref, other = self.values(outcome, 0), self.values(outcome, arm)
        if masks is not None:
            ref, other = ref[masks[0]], other[masks[1]]
        if self.paired:
            gap = other - ref
            half = _t(gap.size - 1) * float(gap.std(ddof=1)) / math.sqrt(gap.size)
            mean = float(gap.mean())
            return Difference(arm, gap.size, mean, mean - half, mean + half, float(np.mean(gap > 0)))
        mean = float(other.mean() - ref.mean())
        a, b = float(ref.var(ddof=1)) / ref.size, float(other.var(ddof=1)) / other.size
        if a + b == 0:
            return Difference(arm, ref.size + other.size, mean, mean, mean, math.nan)
        freedom = (a + b) ** 2 / (a * a / (ref.size - 1) + b * b / (other.size - 1))
        half = _t(freedom) * math.sqrt(a + b)
        return Difference(arm, ref.size + other.size, mean, mean - half, mean + half, math.nan)


def _subgroups(table: Table, primary: str) -> list[Subgroup]:
    """Thirds of the people by what they were before the trial; cuts are those of the reference arm."""
    found = []
    for name, words, unit in SUBGROUPS:
        low, high = np.quantile(table.baseline(name, 0), [1 / 3, 2 / 3])
        suffix = f" {unit}" if unit else ""
        form = ".2f" if high < 10 else ".0f"
        thirds = (
            (f"{words} below {low:{form}}{suffix}", -math.inf, low),
            (f"{words} {low:{form}}–{high:{form}}{suffix}", low, high),
            (f"{words} from {high:{form}}{suffix}", high, math.inf),
        )
        for label, bottom, top in thirds:
            for arm in range(1, table.arms):
                masks = tuple(
                    (table.baseline(name, a) >= bottom) & (table.baseline(name, a) < top) for a in (0, arm)
                )
                if min(np.count_nonzero(m) for m in masks) < MIN_GROUP:
                    continue
                found.append(Subgroup(label, table.difference(primary, arm, (masks[0], masks[1]))))
    return found


def _figures(values: Floats) -> ArmFigures:
    p = np.percentile(values, (5, 25, 50, 75, 95))
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    half = _t(values.size - 1) * sd / math.sqrt(values.size)
    return ArmFigures(values.size, mean, max(mean - half, 0.0), mean + half, sd, *(float(v) for v in p))


def none_above(people: int) -> float:
    """Largest share of people who have something (95 % confidence) when none of so many had: 1 − .05^(1/n), about 3/n."""
    return float(1.0 - (1.0 - LEVEL) ** (1.0 / people))


def _share(count: int, people: int) -> Share:
    tail = 0.5 * (1.0 - LEVEL)
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, people - count + 1))
    high = 1.0 if count == people else float(beta.ppf(1.0 - tail, count + 1, people - count))
    return Share(count, people, low, high)


def _t(freedom: float) -> float:
    return float(t.ppf(0.5 + 0.5 * LEVEL, freedom))
