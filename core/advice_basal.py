"""Advice on the basal rate: a lasting change, and, as a research mode, every five minutes."""

from __future__ import annotations

import math
from typing import Final

from core import advice_words as words
from core.advice_answer import Answer
from core.advice_search import largest, least, within
from core.advice_types import (
    HARD_MAX_IOB_U,
    HARD_MAX_TEMP_BASAL,
    Advice,
    BasalSource,
    PathSource,
    Policy,
    Situation,
)
from core.chance import Floats, chance_of, expected_risk

BASAL_STEP: Final = 0.05  # of the present rate
MODULATION_MIN: Final = 30.0  # how long a temporary rate runs when nobody asks again
MODULATION_STEP: Final = 0.25  # of the present rate


def basal(answer: Answer, source: PathSource, policy: Policy, situation: Situation) -> Advice:
    """A new basal rate, within the largest change that the clinician allows: of the present rate, and upwards of the
    usual one of the last week as well, or the share of one change would be asked for again and again.
    """
    rate, basal = situation.basal_uph, getattr(source, "basal_paths", None)
    if rate is None or not rate > 0 or basal is None:
        return answer.refuse("no pump's basal rate is on record; a pen's dose is for the clinician")
    basal_source: BasalSource = basal
    allowed_uph = math.inf if policy.max_basal_uph is None else policy.max_basal_uph
    most = min(rate * (1 + policy.max_basal_change), allowed_uph)
    low = math.ceil((1 - policy.max_basal_change) / BASAL_STEP - 1e-9)
    high = math.floor(most / rate / BASAL_STEP + 1e-9)
    if high < low:
        return answer.refuse("the basal rate on record lies above what the clinician allows")
    week_uph = situation.basal_week_uph
    raised_uph = rate if week_uph is None else max(rate, week_uph * (1 + policy.max_basal_change))
    high = min(
        high, math.floor(raised_uph / rate / BASAL_STEP + 1e-9)
    )  # never below the present rate: that needs no leave

    def paths(k: int) -> Floats:
        return basal_source(k * BASAL_STEP, policy.draws, policy.horizon_min)

    cached: dict[int, Floats] = {}

    def course(k: int) -> Floats:
        if k not in cached:
            cached[k] = paths(k)
        return cached[k]

    safe = largest(lambda k: within(chance_of(course(low + k)), policy), high - low)
    # Less basal is always allowed: when even the least is not proven safe, that is the answer.
    best = low + (least(lambda k: expected_risk(course(low + k)[:, ::3]), safe) if safe > 0 else 0)
    chosen, chance = course(best), chance_of(course(best))
    if not chance.finite:
        return answer.refuse("the simulation did not give finite glucose values")
    factor = best * BASAL_STEP
    same = abs(factor - 1.0) < 0.5 * BASAL_STEP
    text = words.basal_reason(factor, rate, policy, proven=safe >= 0, same=same)
    return answer.give(
        dose_u=0.0,
        calculator_u=0.0,
        chance=chance,
        reasons=(text, *words.chance_reasons(chance, policy)),
        why=(
            f"glucose is {situation.glucose_mgdl:.0f} mg/dL and the target {policy.target_mgdl:.0f} mg/dL",
            f"the present rate is {rate:.2f} U/h",
            f"one change may be at most {100 * policy.max_basal_change:.0f} %",
            words.basal_week_reason(week_uph, policy),
        ),
        course=chosen,
        without=course(round(1.0 / BASAL_STEP)) if high >= round(1.0 / BASAL_STEP) else chosen,
        ladder=(),
        changes=words.changes(None, None, situation),
        basal_uph=None if same else round(factor * rate, 3),
    )


def modulate(answer: Answer, source: PathSource, policy: Policy, situation: Situation, low: bool) -> Advice:
    """Research: a temporary basal rate for half an hour, to be asked anew with every reading.

    The same rule as for a dose. No rate that passes, or glucose low or falling (``low``): no insulin.
    """
    rate, basal = situation.basal_uph, getattr(source, "basal_paths", None)
    if rate is None or not rate > 0 or basal is None:
        return answer.refuse("no pump's basal rate is on record")
    basal_source: BasalSource = basal
    room_u = max(0.0, min(policy.max_iob_u, HARD_MAX_IOB_U) - max(0.0, situation.iob_u))
    most = min(
        HARD_MAX_TEMP_BASAL,
        (math.inf if policy.max_basal_uph is None else policy.max_basal_uph) / rate,
        1.0 + room_u / (rate * MODULATION_MIN / 60.0),
    )
    top = 0 if low else math.floor(most / MODULATION_STEP + 1e-9)
    held: dict[int, Floats] = {}

    def course(k: int) -> Floats:
        if k not in held:
            held[k] = basal_source(k * MODULATION_STEP, policy.draws, policy.horizon_min, MODULATION_MIN)
        return held[k]

    safe = largest(lambda k: within(chance_of(course(k)), policy), top)
    best = least(lambda k: expected_risk(course(k)[:, ::3]), safe) if safe > 0 else 0
    chance = chance_of(course(best))
    if not chance.finite:
        return answer.refuse("the simulation did not give finite glucose values")
    factor = best * MODULATION_STEP
    return answer.give(
        dose_u=0.0,
        calculator_u=0.0,
        chance=chance,
        reasons=(
            f"Research mode: {factor * rate:.2f} U/h for {MODULATION_MIN:.0f} min ({100 * factor:.0f} % of the rate).",
            *words.chance_reasons(chance, policy),
        ),
        why=(f"glucose is {situation.glucose_mgdl:.0f} mg/dL and the target {policy.target_mgdl:.0f} mg/dL",),
        course=course(best),
        without=course(min(round(1.0 / MODULATION_STEP), top)),
        ladder=(),
        changes=words.changes(None, None, situation),
        basal_uph=round(factor * rate, 3),
    )
