"""Advice in plain words: why, how likely, on what assumptions, within what limits, and what would change it."""

from __future__ import annotations

from core.advice_types import HARD_MAX_DOSE_U, NOT_A_DEVICE, Policy, Situation
from core.chance import Chance
from core.dosing import correction_dose

VERY_HIGH_MGDL = 250.0  # level 2 hyperglycaemia (Battelino, Diabetes Care 2019;42:1593)
VERY_HIGH = (
    "Glucose is 250 mg/dL or more: check it with a fingerstick, look at the pen or the infusion set, test for ketones, and"
    " do what your clinician told you for it."
)
_NOTHING_U = 0.05  # a share below half a usual step is not worth a word


def low_anyway(situation: Situation, *, near: bool) -> str:
    """Why no insulin, where courses without any more go low too often. ``near``: within the hour."""
    taken = ""
    if situation.fresh_u > 0:  # else somebody asking twice is told of a low, and not why
        taken = (
            f"; the {situation.fresh_u:.1f} U taken {situation.fresh_min:.0f} min ago are still to act."
            " If they were for this meal, eat it, log it and ask for no more"
        )
    if near:
        text = (
            "a low is too likely even without more insulin"
            if taken
            else "a low is too likely even without insulin"
        )
        return f"{text}{taken}; consider fast carbohydrate and check with a fingerstick"
    return (
        f"no more insulin now: a low is too likely later on{taken}"
        if taken
        else ("no insulin now: a low is too likely later on even without it; ask again in half an hour")
    )


def very_high_reasons(situation: Situation) -> list[str]:
    """What a very high glucose asks for beside insulin, whether a dose is advised or refused."""
    if not situation.glucose_mgdl >= VERY_HIGH_MGDL:
        return []
    seen = [f"{situation.warned[0].upper()}{situation.warned[1:]}."] if situation.warned else []
    return [*seen, VERY_HIGH]


def logged_reasons(carbs_g: float, situation: Situation) -> list[str]:
    """What was logged minutes ago counts already: the same meal must not be asked for as a second one."""
    if carbs_g <= 0 or situation.fresh_g <= 0:
        return []
    return [
        f"{situation.fresh_g:.0f} g are on record as eaten {situation.fresh_g_min:.0f} min ago and count already: this is"
        f" for another {carbs_g:.0f} g. For the insulin of what is logged, ask for a correction."
    ]


def calculator_reasons(
    carbs_g: float, situation: Situation, policy: Policy, carb_ratio: float, calculated_u: float
) -> list[str]:
    """What the ordinary calculation says."""
    reasons = []
    if carbs_g > 0:
        reasons.append(f"{carbs_g:.0f} g of carbohydrate need {carbs_g / carb_ratio:.1f} U.")
    above = situation.dosing_mgdl - policy.target_mgdl
    what = "Glucose is" if situation.dosing_mgdl == situation.glucose_mgdl else "Glucose will then be about"
    if abs(above) < 1.0:
        pass  # "0 mg/dL above target" tells nobody anything
    elif above > 0 and situation.iob_u > 0.05:
        reasons.append(
            f"{what} {above:.0f} mg/dL above target; {situation.iob_u:.1f} U still acting count against"
            " the correction."
        )
    elif above > 0:
        reasons.append(f"{what} {above:.0f} mg/dL above target, which adds a correction.")
    elif above < 0:
        reasons.append(f"{what} {-above:.0f} mg/dL below target, which lowers the bolus.")
    reasons.append(f"The bolus calculator alone would give {calculated_u:.1f} U.")
    return reasons


def choice_reasons(
    dose_u: float, ceiling_u: float, calculated_u: float, policy: Policy, *, bounded: bool
) -> list[str]:
    """How the dose was chosen among those that limits allow. ``bounded``: a larger one was not proven safe."""
    reasons = []
    hours = policy.horizon_min / 60
    if bounded:
        more_u = min(ceiling_u, calculated_u)
        kept = (
            f"Lowered from {more_u:.1f} U to {dose_u:.1f} U"
            if more_u > dose_u
            else f"No more than {dose_u:.1f} U"
        )
        reasons.append(
            f"{kept}: with more, the chance of a low in the next {hours:g} h could exceed the limit."
        )
    elif dose_u < ceiling_u - policy.dose_step_u:
        reasons.append(f"{dose_u:.1f} U gives the best expected course over the next {hours:g} h.")
    if calculated_u > 0 and dose_u < 0.5 * calculated_u:
        # Not a refusal: a dose that falls to nothing when the meal grows would be no advice to live by.
        reasons.append(
            "This is less than half of the ordinary calculation, so glucose may go high: the twin is not"
            " sure enough of this person yet. Ask your clinician rather than rely on it."
        )
    return reasons


def basal_reason(factor: float, rate_uph: float, policy: Policy, *, proven: bool, same: bool) -> str:
    """Why this basal rate."""
    if same:
        return "Leaving the basal rate as it is is best."
    change = (
        f"A basal rate of {factor * rate_uph:.2f} U/h instead of {rate_uph:.2f} U/h ({100 * (factor - 1):+.0f} %)"
        f" for the next {policy.horizon_min / 60:g} h"
    )
    if not proven:
        return (
            f"{change}, the least that one change allows: even with it a low is more likely than the limit."
        )
    return f"{change} gives the best expected course."


def basal_week_reason(week_uph: float | None, policy: Policy) -> str:
    """How far a raise may go at all within a week."""
    if week_uph is None:
        return "the usual rate at this hour is not known for a day yet, so it is not raised"
    return (
        f"within a week the rate may rise to {week_uph * (1 + policy.max_basal_change):.2f} U/h: the lowest usual rate at this"
        f" hour was {week_uph:.2f} U/h"
    )


def chance_reasons(chance: Chance, policy: Policy) -> tuple[str, ...]:
    """The probability statement."""
    return (
        f"Chance of going below 70 mg/dL at most {100 * chance.p70_bound:.1f} %, below 54 at most"
        f" {100 * chance.p54_bound:.1f} % (95 % confidence, {policy.draws} simulated courses).",
    )


def contributions(
    dose_u: float,
    carbs_u: float,
    situation: Situation,
    policy: Policy,
    correction_mgdl_per_u: float,
    calculated_u: float,
    *,
    bounded: bool,
    capped_by: str,
) -> tuple[str, ...]:
    """The three main contributions to the dose, largest first. Together they are the dose."""
    glucose = situation.dosing_mgdl
    raw_u = (glucose - policy.target_mgdl) / correction_mgdl_per_u
    counted_u = correction_dose(glucose, situation.iob_u, policy.target_mgdl, correction_mgdl_per_u)
    where = "above" if raw_u > 0 else "below"
    rest = dose_u - calculated_u
    if capped_by and rest < 0:
        reason = f"held back by {capped_by}"
    elif bounded and rest <= 0:
        reason = "held back because more could lead to a low"
    elif rest < 0:
        reason = "because the twin expects glucose to end lower than the calculator does"
    else:
        reason = "because the twin expects glucose to stay higher than the calculator does"
    late_u = calculated_u - max(0.0, carbs_u + counted_u)
    meal, level = (
        (carbs_u, "for the meal"),
        f"because glucose is {abs(glucose - policy.target_mgdl):.0f} mg/dL {where} target",
    )
    late = (late_u, "for a meal of the last two hours without its bolus")
    floor_u = max(0.0, carbs_u + counted_u) - carbs_u - counted_u  # a calculator gives no less than nothing
    kept = (rest + floor_u, reason)
    acting = (counted_u - raw_u, f"for {situation.iob_u:.1f} U of insulin still acting")
    told = _worth([meal, (raw_u, level), acting, late, kept])
    if len(told) > 3:  # all of them, as three at most: what is said must add up to the dose
        less = (
            f"{level}, less {situation.iob_u:.1f} U of insulin still acting"
            if abs(acting[0]) >= _NOTHING_U
            else level
        )
        told = _worth([meal, (counted_u, less), late, kept])
    if len(told) > 3:
        told = _worth(
            [(carbs_u + late_u, "for this meal and the one without its bolus"), (counted_u, less), kept]
        )
    return tuple(f"{units:+.1f} U {text}" for units, text in sorted(told, key=lambda s: -abs(s[0])))


def _worth(shares: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return [share for share in shares if abs(share[0]) >= _NOTHING_U]


def limits(policy: Policy) -> tuple[str, ...]:
    """Within what limits the answer stands."""
    return (
        NOT_A_DEVICE,
        f"At most {min(policy.max_dose_u, policy.device_max_dose_u, HARD_MAX_DOSE_U):g} U in one dose and"
        f" {policy.max_iob_u:g} U on board.",
        f"At most {100 * policy.max_p_below_70:g} % chance of going below 70 mg/dL and"
        f" {100 * policy.max_p_below_54:g} % below 54 within {policy.horizon_min / 60:g} h.",
        "Use a fingerstick when symptoms do not match the sensor.",
        "Call your clinician for repeated lows, vomiting, or ketones.",
    )


def assumptions(situation: Situation, policy: Policy) -> tuple[str, ...]:
    """What is taken for true and may not be."""
    given = [f"Assumed: {text}." for text in situation.assumed]
    return (
        f"Assumes no other food, exercise or insulin within {policy.horizon_min / 60:g} h.",
        "Assumes that every dose and meal of the last hours is on record.",
        *given,
    )


def changes(
    carb_ratio_g_per_u: float | None, correction_mgdl_per_u: float | None, situation: Situation
) -> tuple[str, ...]:
    """What would change this answer."""
    told = []
    if carb_ratio_g_per_u is not None:
        told.append(f"10 g more or less to eat: about {10 / carb_ratio_g_per_u:.1f} U more or less.")
    if correction_mgdl_per_u is not None:
        told.append(
            f"A fingerstick 20 mg/dL lower: about {20 / correction_mgdl_per_u:.1f} U less; below 70 mg/dL: no dose."
        )
    told.append("Exercise in the next hours, or a dose or meal not on record: ask again before acting.")
    told.append("Readings older than 10 min or a fast fall: no dose.")
    if situation.iob_u > _NOTHING_U:
        told.append(f"The {situation.iob_u:.1f} U still acting, should that dose not have been taken.")
    return tuple(told)
