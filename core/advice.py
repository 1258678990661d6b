"""Dosing advice under a chance constraint: the best expected course among those that are proven safe.

The rule (MODELS E). A candidate may be given when, over the next five hours,

    P(any glucose < 70 mg/dL) <= 5 %   and   P(any glucose < 54 mg/dL) <= 1 %,

each judged by its upper 95 % Clopper-Pearson bound over simulated courses. So the number of courses is part
of the answer: with none of 299 below 54 the bound is just under 1 %, with fewer it cannot be. Among the doses
that pass, and that every limit allows, the one with the least expected risk (core.chance.risk) is advised.

Why it behaves. Every candidate is simulated with the same random numbers. The risk r is convex and its slope
concave. With courses G(c, d) that rise in carbohydrate c and fall in insulin d, the best d moves as

    d E[r(G)] / dd = E[r'(G) dG/dd]:

carbohydrate or glucose raise G and so r', which asks for more insulin; a wider spread of G or of the effect
lowers E[r'], since r' is concave, and asks for less; and the constraint only ever tightens with a wider spread.
tests/core/test_advice_properties.py holds it to that. The walk upward that stops at the first failing dose is a
fixed-sequence test, so the two levels need no correction for the number of candidates.

Pure: time, data and draws come as arguments. Not a medical device.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from core import advice_words as words
from core.advice_answer import LOW_COMING_MIN, PATH_STEP_MIN, Answer, Course
from core.advice_basal import basal, modulate
from core.advice_search import largest, least, within
from core.advice_types import (
    HARD_MAX_CARBS_G,
    HARD_MAX_DOSE_U,
    HARD_MAX_IOB_U,
    MIN_DRAWS,
    MODULATE,
    NOT_A_DEVICE,
    QUESTIONS,
    Advice,
    Band,
    PathSource,
    Policy,
    Rung,
    Situation,
)
from core.chance import (
    Floats,
    chance_of,
    clopper_pearson_upper,
    expected_risk,
)
from core.dosing import calculator_dose, insulin_on_board, iob_fraction
from core.errors import InputError
from core.refusal import MISFIT_NIS, refusal

__all__ = [
    "HARD_MAX_CARBS_G",
    "HARD_MAX_DOSE_U",
    "HARD_MAX_IOB_U",
    "MIN_DRAWS",
    "MISFIT_NIS",
    "NOT_A_DEVICE",
    "Advice",
    "Band",
    "Floats",
    "PathSource",
    "Policy",
    "Situation",
    "advise",
    "calculator_dose",
    "clopper_pearson_upper",
    "estimate_ratios",
    "insulin_on_board",
    "iob_fraction",
    "refusal",
]

# A low is coming when a quarter of the courses get there within an hour: sugar works within that time, and
# rarer lows are left to the alarm, or people would eat all day.
LOW_COMING_P: Final = 0.25
NEAR_LOW_MGDL: Final = 90.0  # from here it is no far-off low
RESCUE_REACH_MIN: Final = 150.0  # what fast sugar is judged by
RESCUE_STEP_G: Final = 5.0
MAX_RESCUE_G: Final = 30.0
LADDER_RUNGS: Final = 8
WARNED_SHARE: Final = 0.5  # of the calculator's, while something goes on that the twin does not explain


def advise(
    source: PathSource,
    carbs_g: float,
    policy: Policy,
    situation: Situation,
    question: str | None = None,
) -> Advice:
    """What to do now: a meal of ``carbs_g`` to dose for, a correction, the basal rate, or what seems best.

    ``question``: meal | correction | basal | now; None: meal with carbohydrate, now without. A refusal has
    ``dose_u`` 0 and ``refused`` set; it may still advise carbohydrate. Absurd arguments raise InputError.
    """
    policy = policy.checked()
    if not (math.isfinite(carbs_g) and 0 <= carbs_g <= HARD_MAX_CARBS_G):
        raise InputError(f"carbohydrate must lie in 0..{HARD_MAX_CARBS_G:g} g", where="carbs_g")
    question = question or ("meal" if carbs_g > 0 else "now")
    if question not in (*QUESTIONS, MODULATE):
        raise InputError("unknown question", where="question", mend="use one of " + " ".join(QUESTIONS))
    if question in ("correction", "basal", MODULATE) and carbs_g > 0:
        raise InputError("carbohydrate belongs to the question 'meal'", where="carbs_g")
    answer = Answer(policy, situation, carbs_g, question)
    if question == MODULATE and not policy.basal_modulation:
        return answer.refuse("changing the basal rate every five minutes is a research mode, and it is off")
    why = refusal(situation)
    if question == MODULATE and (why is None or why.may_eat):
        return modulate(answer, source, policy, situation, why is not None)
    if why is not None and not why.may_eat:
        return answer.refuse(why.text)
    if question == "now" or why is not None:
        sugar_g, course = _sugar(source, policy, situation)
        if sugar_g > 0:
            return answer.eat(sugar_g, course, why.text if why else None)
    if why is not None:
        return answer.refuse(why.text)
    if question == "basal":
        return basal(answer, source, policy, situation)
    return _bolus(answer, source, carbs_g, policy, situation)


def _bolus(
    answer: Answer, source: PathSource, carbs_g: float, policy: Policy, situation: Situation
) -> Advice:
    reasons: list[str] = []
    carb_ratio, correction = policy.carb_ratio_g_per_u, policy.correction_mgdl_per_u
    if carb_ratio is None or correction is None:
        estimated = estimate_ratios(source, policy)
        if estimated is None:
            return answer.refuse("the twin cannot yet tell how this person answers to insulin and food")
        carb_ratio = carb_ratio or estimated[0]
        correction = correction or estimated[1]
        reasons.append(
            f"No prescribed ratios: from the twin, 1 U covers about {carb_ratio:.0f} g and lowers glucose"
            f" by about {correction:.0f} mg/dL."
        )
    calculated = calculator_dose(
        carbs_g, situation.dosing_mgdl, situation.iob_u, policy.target_mgdl, carb_ratio, correction
    )
    missing_g = max(0.0, situation.eaten_g - carb_ratio * situation.dosed_u)
    if missing_g > 0:
        # A meal without its bolus: its insulin, and no correction for the rise that this very meal makes.
        late = calculator_dose(
            carbs_g + missing_g,
            min(situation.dosing_mgdl, policy.target_mgdl),
            situation.iob_u,
            policy.target_mgdl,
            carb_ratio,
            correction,
        )
        if late > calculated:
            calculated = late
            reasons.append(f"{missing_g:.0f} g eaten in the last two hours have no bolus on record.")
    reasons += words.very_high_reasons(situation)
    reasons += words.logged_reasons(carbs_g, situation)
    reasons += words.calculator_reasons(carbs_g, situation, policy, carb_ratio, calculated)
    allowed = calculated * (WARNED_SHARE if situation.warned else policy.max_over_calculator)
    ceiling, capped_by = _ceiling(allowed, situation, policy)

    step_u = policy.dose_step_u
    top = steps_within(ceiling, step_u)
    response = _Response(source, carbs_g, top * step_u, policy)
    if not response.finite:
        return answer.refuse("the simulation did not give finite glucose values")
    safe = largest(lambda k: within(chance_of(response.at(k * step_u)), policy), top)
    if safe < 0:
        return _refuse_low(answer, response.at(0.0), situation)
    best = least(lambda k: expected_risk(response.at(k * step_u)[:, ::3]), safe)
    # The search works on interpolated courses; what is said is simulated for the very dose.
    bounded = best == safe and safe < top
    while True:
        course = source.paths(carbs_g, round(best * step_u, 4), policy.draws, policy.horizon_min)
        chance = chance_of(course)
        if best == 0 or within(chance, policy):
            break
        best -= max(1, best // 20)
        bounded = True
    if not within(chance, policy):
        return _refuse_low(answer, course, situation)
    dose_u = round(best * step_u, 4)
    if best < top or bounded:
        capped_by = ""  # something else holds it
    if capped_by:
        reasons.append(f"Held to {ceiling:.1f} U by {capped_by}.")
    reasons += words.choice_reasons(dose_u, ceiling, calculated, policy, bounded=bounded)
    reasons += words.chance_reasons(chance, policy)
    shares = words.contributions(
        dose_u,
        carbs_g / carb_ratio,
        situation,
        policy,
        correction,
        calculated,
        bounded=bounded,
        capped_by=capped_by,
    )
    return answer.give(
        dose_u=dose_u,
        calculator_u=calculated,
        chance=chance,
        reasons=tuple(reasons),
        why=shares,
        course=course,
        without=response.at(0.0),
        ladder=_ladder(response, ceiling),
        changes=words.changes(carb_ratio, correction, situation),
    )


def _refuse_low(answer: Answer, course: Floats, situation: Situation) -> Advice:
    """No insulin, since a low is too likely without it. Sugar is named only when that low is near."""
    soon = max(1, round(LOW_COMING_MIN / PATH_STEP_MIN))
    near = (
        situation.glucose_mgdl < NEAR_LOW_MGDL
        or float(np.mean(course[:, :soon].min(axis=1) < 70.0)) >= LOW_COMING_P
    )
    return answer.refuse(words.low_anyway(situation, near=near), course)


def _sugar(source: PathSource, policy: Policy, situation: Situation) -> tuple[float, Course]:
    """Grams of fast carbohydrate when a low is coming (0: none), and the courses with and without it."""
    plain = source.paths(0.0, 0.0, policy.draws, policy.horizon_min)
    if not np.all(np.isfinite(plain)):
        return 0.0, Course(plain, plain, 1.0)
    soon = max(1, round(LOW_COMING_MIN / PATH_STEP_MIN))
    coming = float(np.mean(plain[:, :soon].min(axis=1) < 70.0))
    if situation.glucose_mgdl >= 70.0 and coming < LOW_COMING_P:
        return 0.0, Course(plain, plain, coming)
    reach = max(1, round(RESCUE_REACH_MIN / PATH_STEP_MIN))
    sugar = getattr(source, "sugar_paths", None)
    fed = (
        source.paths(MAX_RESCUE_G, 0.0, policy.draws, policy.horizon_min)
        if sugar is None
        else sugar(MAX_RESCUE_G, policy.draws, policy.horizon_min)
    ) - plain

    def cost(k: int) -> float:
        return expected_risk((plain + k * RESCUE_STEP_G / MAX_RESCUE_G * fed)[:, :reach])

    grams = RESCUE_STEP_G * least(cost, round(MAX_RESCUE_G / RESCUE_STEP_G))
    if situation.glucose_mgdl < 70.0:
        grams = max(grams, 15.0)  # the standing rule for a low (MODELS E)
    return grams, Course(plain + grams / MAX_RESCUE_G * fed, plain, coming)


class _Response:
    """Courses as a function of the dose: simulated at none, half and all of the range, quadratic between."""

    def __init__(self, source: PathSource, carbs_g: float, top_u: float, policy: Policy) -> None:
        def paths(dose_u: float) -> Floats:
            return source.paths(carbs_g, dose_u, policy.draws, policy.horizon_min)

        self._top_u = top_u
        self._none = paths(0.0)
        self.finite = chance_of(self._none).finite
        if top_u > 0:
            half, full = paths(0.5 * top_u) - self._none, paths(top_u) - self._none
            self._linear, self._square = 4.0 * half - full, 2.0 * (full - 2.0 * half)
            self.finite = self.finite and bool(np.all(np.isfinite(full)) and np.all(np.isfinite(half)))

    def at(self, dose_u: float) -> Floats:
        """float64[draws, n_steps] mg/dL."""
        if self._top_u <= 0 or dose_u <= 0:
            return self._none
        x = dose_u / self._top_u
        paths: Floats = self._none + x * self._linear + x * x * self._square
        return paths


def estimate_ratios(source: PathSource, policy: Policy) -> tuple[float, float] | None:
    """(carb ratio g/U, correction factor mg/dL/U) of this person by the twin; None when it shows none.

    The median over paths of the largest difference that 1 U, or 20 g, makes within the horizon.
    """
    draws = max(MIN_DRAWS, min(policy.draws, 500))
    base = source.paths(0.0, 0.0, draws, policy.horizon_min)
    fall = np.max(base - source.paths(0.0, 1.0, draws, policy.horizon_min), axis=1)
    rise = np.max(source.paths(20.0, 0.0, draws, policy.horizon_min) - base, axis=1)
    correction = float(np.median(fall))
    rise_per_g = float(np.median(rise)) / 20.0
    if not (math.isfinite(correction) and math.isfinite(rise_per_g)) or correction <= 1 or rise_per_g <= 0.1:
        return None
    return correction / rise_per_g, correction


def _ceiling(allowed_u: float, situation: Situation, policy: Policy) -> tuple[float, str]:
    """Largest dose that arithmetic and limits allow, and the limit's name when it binds."""
    iob_room = max(0.0, min(policy.max_iob_u, HARD_MAX_IOB_U) - max(0.0, situation.iob_u))
    limits = [
        (HARD_MAX_DOSE_U, "the program's own largest bolus"),
        (policy.max_dose_u, "the clinician's largest bolus"),
        (policy.device_max_dose_u, "the device's largest bolus"),
        (iob_room, "the limit on insulin on board"),
    ]
    ceiling, name = min(limits, key=lambda limit: limit[0])
    return (ceiling, name) if ceiling < allowed_u else (allowed_u, "")


def steps_within(dose_u: float, step_u: float) -> int:
    """Whole steps that do not exceed ``dose_u`` (with a hair of room for binary fractions)."""
    return math.floor(dose_u / step_u + 1e-9)


def _ladder(response: _Response, ceiling_u: float) -> tuple[Rung, ...]:
    """Chances at doses up to the ceiling: what an edited dose is judged by."""
    if ceiling_u <= 0:
        return ()
    rungs = []
    for k in range(LADDER_RUNGS + 1):
        dose_u = ceiling_u * k / LADDER_RUNGS
        chance = chance_of(response.at(dose_u))
        rungs.append(Rung(round(dose_u, 3), chance.p70_bound, chance.p54_bound))
    return tuple(rungs)
