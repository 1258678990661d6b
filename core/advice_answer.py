"""How an answer of the adviser is filled: what all of them share, and the courses that go with it."""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np

from core import advice_words as words
from core.advice_types import HARD_MAX_DOSE_U, Advice, Band, Policy, Rung, Situation
from core.chance import UNKNOWN, Chance, Floats, chance_of, time_in_range

PATH_STEP_MIN: Final = 5.0
BAND_EVERY_MIN: Final = 15.0
LOW_COMING_MIN: Final = 60.0
LOWEST_SHOWN_MGDL: Final = 10.0  # courses are drawn without an end, and nobody is shown less


class Course(msgspec.Struct, frozen=True):
    """Courses with and without what is advised, and the chance of a low soon without it."""

    paths: Floats
    without: Floats
    coming: float


def band_of(paths: Floats) -> Band:
    """Quantiles over time, each BAND_EVERY_MIN."""
    every = round(BAND_EVERY_MIN / PATH_STEP_MIN)
    kept = paths[:, every - 1 :: every] if paths.shape[1] >= every else paths
    low, middle, high = np.maximum(np.percentile(kept, (5.0, 50.0, 95.0), axis=0), LOWEST_SHOWN_MGDL)
    minutes = BAND_EVERY_MIN * np.arange(1, kept.shape[1] + 1)
    return Band(
        tuple(minutes.tolist()),
        tuple(np.round(low, 1).tolist()),
        tuple(np.round(middle, 1).tolist()),
        tuple(np.round(high, 1).tolist()),
    )


class Answer:
    """Fills the fields that every answer shares."""

    def __init__(self, policy: Policy, situation: Situation, carbs_g: float, question: str) -> None:
        self._policy, self._situation = policy, situation
        self._carbs_g, self._question = carbs_g, question

    def refuse(self, why: str, course: Floats | None = None) -> Advice:
        """No dose. ``course``: what is expected then, if it was simulated."""
        reasons: tuple[str, ...] = (f"No dose is advised: {why}.", *words.very_high_reasons(self._situation))
        if course is None:
            return self._make(UNKNOWN, reasons, refused=why, action="none")
        chance, band = chance_of(course), band_of(course)
        reasons += words.chance_reasons(chance, self._policy)
        return self._make(chance, reasons, refused=why, action="none", band=band, band_without=band)

    def eat(self, grams: float, course: Course, refused: str | None) -> Advice:
        """Sugar against a low that is there or coming. No insulin goes with it."""
        chance = chance_of(course.without)
        fed = chance_of(course.paths)
        soon = round(LOW_COMING_MIN / PATH_STEP_MIN)
        after = float(np.mean(course.paths[:, :soon].min(axis=1) < 70.0))
        reasons = (
            f"Eat about {grams:.0f} g of fast carbohydrate now, and check again after 15 min.",
            f"Without it glucose goes below 70 mg/dL within the hour with a chance of {100 * course.coming:.0f} %,"
            f" with it {100 * after:.0f} %.",
            *((f"No dose is advised: {refused}.",) if refused else ("No insulin now.",)),
        )
        return self._make(
            fed if fed.finite else chance,
            reasons,
            refused=refused,
            action="carbs",
            eat_g=grams,
            p_low_soon=course.coming,
            why=(f"a low is coming: {100 * course.coming:.0f} % within the hour",),
            band=band_of(course.paths),
            band_without=band_of(course.without),
            changes=words.changes(None, None, self._situation),
        )

    def give(
        self,
        *,
        dose_u: float,
        calculator_u: float,
        chance: Chance,
        reasons: tuple[str, ...],
        why: tuple[str, ...],
        course: Floats,
        without: Floats,
        ladder: tuple[Rung, ...],
        changes: tuple[str, ...],
        basal_uph: float | None = None,
    ) -> Advice:
        action = "bolus" if dose_u > 0 else "basal" if basal_uph is not None else "none"
        if action == "none":
            reasons = (*reasons, "Doing nothing is the best choice now.")
        return self._make(
            chance,
            reasons,
            refused=None,
            action=action,
            dose_u=dose_u,
            calculator_u=calculator_u,
            basal_uph=basal_uph,
            why=why,
            band=band_of(course),
            band_without=band_of(without),
            ladder=ladder,
            changes=changes,
            in_range=time_in_range(course),
            in_range_without=time_in_range(without),
        )

    def _make(
        self, chance: Chance, reasons: tuple[str, ...], *, refused: str | None, action: str, **more: object
    ) -> Advice:
        policy, situation = self._policy, self._situation
        base = Advice(
            dose_u=0.0,
            # Unknown chances read 1, the cautious side, and stay valid JSON (nan would not).
            p_below_70=chance.p70,
            p_below_54=chance.p54,
            horizon_min=policy.horizon_min,
            draws=policy.draws if chance.finite else 0,
            refused=refused,
            reasons=reasons,
            limits=words.limits(policy),
            question=self._question,
            action=action,
            carbs_g=self._carbs_g,
            iob_u=situation.iob_u if math.isfinite(situation.iob_u) else 0.0,
            p_below_70_bound=chance.p70_bound,
            p_below_54_bound=chance.p54_bound,
            assumptions=words.assumptions(situation, policy),
            data_time_us=situation.data_time_us,
            data_age_s=situation.age_s,
            model=situation.model,
            max_dose_u=min(policy.max_dose_u, policy.device_max_dose_u, HARD_MAX_DOSE_U),
        )
        return msgspec.structs.replace(base, **more)
