"""Advice from a twin: its futures as courses to choose from, and its record as the situation.

Whether the model fits is asked of the innovations: their mean square over an hour (misfit), and a two-sided
cumulative sum over six (Page, Biometrika 1954;41:100): a small shift that lasts is a change of context that the
filter is still learning, and no time to trust what it says of insulin.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from core.advice import advise as choose
from core.advice import estimate_ratios
from core.advice_types import HARD_MAX_CARBS_G, HARD_MAX_DOSE_U, MODULATE, Advice, Policy, Situation
from core.chance import MIN_DRAWS, Floats
from core.dosing import ACTION_MIN, calculator_dose, insulin_on_board, iob_fraction
from core.messages import Quality, Sample
from core.predictive import Care, Futures, MealMisses
from core.record import Entry
from core.refusal import MISFIT_NIS, refusal
from core.trend import TREND_SPAN_US, trend
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN

if TYPE_CHECKING:
    from core.twin import Twin

DOUBTFUL: Final = Quality.SENSOR_WARNING | Quality.CLOCK_DOUBT | Quality.OUTLIER
MISFIT_SPAN_US: Final = US_PER_H
MIN_READINGS: Final = 6  # of that hour; with fewer nothing can be said about the fit
CHANGE_SPAN_US: Final = 6 * US_PER_H
CUSUM_SLACK: Final = 0.5  # shifts of one SD are looked for
CUSUM_ALARM: Final = 8.0  # innovations of a 5-min sensor hang together, so above the 5 of independent ones
CUSUM_MOST: Final = 12.0  # so that 40 quiet minutes end an alarm: then the change is over, and in the state
MEAL_SPAN_US: Final = 2 * US_PER_H  # a bolus later than this comes after the meal has done its work
MEAL_G: Final = 20.0  # below, it is the treatment of a low
SHARE_SPAN_US: Final = 7 * US_PER_DAY
MEAL_DOSE_US: Final = 20 * US_PER_MIN  # a bolus this near a meal was meant for it
SHARE: Final = (
    0.8  # of carbohydrate over ratio, where the record does not say: corrections and caution both ways
)
SHARE_MEALS: Final = 3.0  # what that is worth
SHARE_RANGE: Final = (0.4, 1.2)
EXPECTED_CORRECTION: Final = (
    0.5  # share of a correction that the forecast expects before anybody thinks of one
)
# Weight of the prescribed correction factor against the twin's own idea of it, in logs: errors of .30
# (core.therapy_facts) and .45 (bench/RESULTS.md, mechanism: off by up to twofold where nobody told it).
TRUST_PRESCRIBED: Final = 0.45**2 / (0.45**2 + 0.30**2)
SEED: Final = 1  # the same draws for every candidate: doses then differ by dose, not by luck


class TwinPaths:
    """Core's ``PathSource`` over a twin: drawn futures with meal and dose at ``for_time_us``."""

    def __init__(
        self,
        twin: Twin,
        now_us: int,
        for_time_us: int | None = None,
        carbs_g: float = 0.0,
        usual_u: float = 0.0,
        effect: float = 1.0,
        misses: MealMisses | None = None,
    ) -> None:
        """``carbs_g``, ``usual_u``: a meal that will be eaten, and the usual dose now. ``effect``: core.predictive.Care."""
        self._twin, self._now_us = twin, now_us
        self._at_us = now_us if for_time_us is None else for_time_us
        self._lead_min = (self._at_us - now_us) / US_PER_MIN
        self._futures: dict[tuple[int, float], Futures] = {}
        self._basal_uph: float | None = None
        self._present: dict[tuple[int, float], Floats] = {}
        self._care = Care(self._acts(carbs_g, usual_u), carbs_g > 0, effect, misses)

    def _acts(self, carbs_g: float, dose_u: float) -> list[tuple[int, str, float]]:
        acts = [(self._at_us, "bolus_u", dose_u), (self._at_us, "carbs_g", carbs_g)]
        return [act for act in acts if act[2] > 0]

    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> Floats:
        """Glucose from now to ``horizon_min`` after the meal, float64[draws, n_steps] mg/dL.

        The time before the meal counts too: with a low on the way, a dose is the wrong advice.
        """
        return self._clipped(self._drawn(draws, horizon_min).paths(self._acts(carbs_g, dose_u)))

    def basal_paths(
        self, factor: float, draws: int, horizon_min: float, span_min: float | None = None
    ) -> Floats:
        """As ``paths``, nothing eaten or injected, the pump running at ``factor`` times its present rate.

        ``span_min``: a temporary rate, ``factor`` times the usual one, for so long; then the usual one.
        """
        if self._basal_uph is None:
            self._basal_uph = self._twin.basal_uph(self._now_us) or 0.0
        now = [(self._now_us, "basal_uph", self._basal_uph)]
        plan = [(self._now_us, "basal_uph", factor * self._basal_uph)]
        if span_min is not None:
            usual_uph = usual_basal_uph(self._twin, self._now_us) or 0.0
            after_us = self._now_us + round(span_min * US_PER_MIN)
            plan = [(self._now_us, "basal_uph", factor * usual_uph), (after_us, "basal_uph", usual_uph)]
        futures = self._drawn(draws, horizon_min)
        key = (draws, horizon_min)
        if key not in self._present:
            self._present[key] = futures.paths(now)
        # Against the rate as it is, not against none: the forecast holds that one already.
        return self._clipped(futures.paths(()) + futures.paths(plan) - self._present[key])

    def _drawn(self, draws: int, horizon_min: float) -> Futures:
        key = (draws, horizon_min)
        if key not in self._futures:
            until_min = self._lead_min + horizon_min
            self._futures[key] = self._twin.futures(
                self._now_us, max(until_min, 5.0), draws, SEED, self._care
            )
        return self._futures[key]

    @staticmethod
    def _clipped(paths: Floats) -> Floats:
        return np.clip(paths, 10.0, 1000.0)


def advise(
    twin: Twin,
    t: int,
    carbs_g: float,
    policy: Policy,
    question: str | None = None,
    for_time_us: int | None = None,
) -> Advice:
    """Advice of ``twin`` at ``t`` (µs UTC), for a meal and dose then or at ``for_time_us``."""
    source = TwinPaths(twin, t, for_time_us)
    now = situation(twin, t, source, for_time_us)
    if question not in ("basal", MODULATE) and refusal(now) is None and 0 <= carbs_g <= HARD_MAX_CARBS_G:
        ratios = (policy.carb_ratio_g_per_u, policy.correction_mgdl_per_u)
        if None in ratios:
            found = estimate_ratios(source, policy)
            ratios = (ratios[0] or found[0], ratios[1] or found[1]) if found else (None, None)
        if ratios[0] is not None and ratios[1] is not None:
            calculated = calculator_dose(
                carbs_g, now.dosing_mgdl, now.iob_u, policy.target_mgdl, ratios[0], ratios[1]
            )
            share = usual_share(twin, t, ratios[0]) if carbs_g > 0 else EXPECTED_CORRECTION
            usual_u = calculated * share
            effect = 1.0
            if policy.correction_mgdl_per_u is not None:
                shown = max(twin.correction_factor(t), 1.0)
                effect = (policy.correction_mgdl_per_u / shown) ** TRUST_PRESCRIBED
            misses = twin.meal_misses(t) if carbs_g > 0 else None
            source = TwinPaths(twin, t, for_time_us, carbs_g, min(usual_u, HARD_MAX_DOSE_U), effect, misses)
    if question == MODULATE:
        now = msgspec.structs.replace(
            now, basal_uph=usual_basal_uph(twin, t), iob_u=now.iob_u + extra_basal_u(twin, t)
        )
    return choose(source, carbs_g, policy, now, question)


def usual_basal_uph(twin: Twin, t: int) -> float | None:
    """The rate of the prescribed profile at ``t``, else the one in force."""
    if twin.basal_uph(t) is None:
        return None
    profile_uph = twin.patient.profile_uph(twin.local.hour(t) * 60.0)
    return twin.basal_uph(t) if profile_uph is None else profile_uph


def extra_basal_u(twin: Twin, t: int) -> float:
    """Insulin still to act of basal beyond the usual rate, not below 0."""
    start_us = t - round(ACTION_MIN * US_PER_MIN)
    usual_uph = usual_basal_uph(twin, t) or 0.0
    rates = [e for e in twin.record.between(start_us, t) if e.kind == "basal_uph"]
    total_u = 0.0
    for rate, end_us in zip(rates, [*(e.time_us for e in rates[1:]), t], strict=True):
        middle_min = (t - 0.5 * (rate.time_us + end_us)) / US_PER_MIN
        total_u += (rate.value - usual_uph) * (end_us - rate.time_us) / US_PER_H * iob_fraction(middle_min)
    return max(total_u, 0.0)


def usual_share(twin: Twin, t: int, carb_ratio_g_per_u: float) -> float:
    """What this person injects at meals, as a share of carbohydrate over ratio: the median of a week.

    Meals without a dose on record do not count: what was not logged is not known.
    """
    shares = []
    doses = [e for e in twin.record.between(t - SHARE_SPAN_US, t) if e.kind == "bolus_u"]
    times = [e.time_us for e in doses]
    for meal in twin.record.between(t - SHARE_SPAN_US, t):
        if meal.kind != "carbs_g" or meal.value < MEAL_G:
            continue
        first = bisect_left(times, meal.time_us - MEAL_DOSE_US)
        last = bisect_right(times, meal.time_us + MEAL_DOSE_US)
        dosed_u = sum(e.value for e in doses[first:last])
        if dosed_u > 0:
            shares.append(dosed_u * carb_ratio_g_per_u / meal.value)
    known = float(np.median(shares)) if shares else SHARE
    share = (SHARE_MEALS * SHARE + len(shares) * known) / (SHARE_MEALS + len(shares))
    return min(max(share, SHARE_RANGE[0]), SHARE_RANGE[1])


def situation(
    twin: Twin, t: int, source: TwinPaths | None = None, for_time_us: int | None = None
) -> Situation:
    """What the record up to ``t`` says of now."""
    at_us = t if for_time_us is None else for_time_us
    recent = [e for e in twin.record.between(t - CHANGE_SPAN_US, t) if e.kind == "cgm_mgdl"]
    last = recent[-1] if recent else _last_reading(twin, t)
    estimate = twin.estimate(t)
    slope = trend(
        [
            Sample(e.time_us, e.kind, e.value, e.source, e.seq)
            for e in recent
            if last is not None and e.time_us >= last.time_us - TREND_SPAN_US
        ]
    )
    flagged = last is not None and (
        bool(last.quality & DOUBTFUL) or (last.source, last.kind, last.seq) in twin.outliers(t)[-3:]
    )
    boluses = [
        (e.time_us, e.value)
        for e in twin.record.between(at_us - round(ACTION_MIN * US_PER_MIN), t)
        if e.kind == "bolus_u"
    ]
    meals = [e for e in twin.record.between(t - MEAL_SPAN_US, t) if e.kind == "carbs_g" and e.value >= MEAL_G]
    covered_us = meals[0].time_us - 20 * US_PER_MIN if meals else t
    innovations = twin.innovations(t - CHANGE_SPAN_US, t)
    fit = [i.z for i in innovations if i.time_us > t - MISFIT_SPAN_US]
    expected = None
    if source is not None and at_us - t >= 5 * US_PER_MIN:
        expected = float(np.median(source.paths(0.0, 0.0, MIN_DRAWS, 0.0)[:, -1]))
    first = next((e for e in twin.record.entries if e.kind == "cgm_mgdl"), None)
    return Situation(
        time_us=t,
        glucose_mgdl=last.value if last is not None else math.nan,
        trend_mgdl_per_min=math.nan if slope is None else slope,
        data_time_us=last.time_us if last is not None else t,
        flagged=flagged,
        status=estimate.status,
        misfit=len(fit) < MIN_READINGS or float(np.mean(np.square(fit))) > MISFIT_NIS,
        iob_u=insulin_on_board(at_us, boluses),
        model=estimate.model,
        expected_mgdl=expected,
        record_us=None if first is None else t - first.time_us,
        changing=twin.changing or change_words([i.z for i in innovations]),
        basal_uph=twin.basal_uph(t),
        eaten_g=sum(e.value for e in meals),
        dosed_u=sum(dose_u for time_us, dose_u in boluses if time_us >= covered_us),
        assumed=tuple(f"{name} {source_words}" for name, source_words in twin.assumed),
    )


def change_words(z: Sequence[float]) -> str:
    """Why a cumulative sum of innovations alarms at the newest reading; empty when it does not."""
    high = low = 0.0
    for value in z:
        step = min(max(value, -3.0), 3.0)  # one wild reading is no change
        high = min(max(0.0, high + step - CUSUM_SLACK), CUSUM_MOST)
        low = min(max(0.0, low - step - CUSUM_SLACK), CUSUM_MOST)
    if low >= CUSUM_ALARM:
        return (
            "glucose keeps coming out lower than the twin expects: something has changed (exercise, a dose or a meal"
            " not on record?)"
        )
    if high >= CUSUM_ALARM:
        return (
            "glucose keeps coming out higher than the twin expects: something has changed (a meal not on record,"
            " illness, a failing infusion set?)"
        )
    return ""


def _last_reading(twin: Twin, t: int) -> Entry | None:
    """The newest CGM reading up to ``t``, however old."""
    entries = twin.record.entries
    for index in range(twin.record.first_after(t) - 1, -1, -1):
        if entries[index].kind == "cgm_mgdl":
            return entries[index]
    return None
