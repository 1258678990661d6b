"""Advice from a twin: its futures as courses to choose from, and its record as the situation.

Whether the model fits is asked of the innovations: their mean square over two hours (misfit), and a two-sided
cumulative sum over six (Page, Biometrika 1954;41:100): a small shift that lasts is a change of context that the
filter is still learning, and no time to trust what it says of insulin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from core.advice import advise as choose
from core.advice_types import MIN_DRAWS, MODULATE, Advice, Policy, Situation
from core.advice_words import VERY_HIGH_MGDL
from core.basal_week import basal_week_uph
from core.blood import blood_error
from core.chance import Floats
from core.dosing import ACTION_MIN, insulin_on_board, iob_fraction
from core.errors import InputError
from core.messages import Quality, Sample
from core.predictive import Futures, Prescribed, Stated
from core.record import Entry
from core.refusal import MISFIT_NIS
from core.trend import TREND_SPAN_US, trend
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN

if TYPE_CHECKING:
    from core.twin import Twin

DOUBTFUL: Final = Quality.SENSOR_WARNING | Quality.CLOCK_DOUBT | Quality.OUTLIER
MISFIT_SPAN_US: Final = 2 * US_PER_H
MIN_READINGS: Final = 8  # of two hours; with fewer nothing can be said about the fit
CHANGE_SPAN_US: Final = 6 * US_PER_H
CUSUM_SLACK: Final = 0.5  # shifts of one SD are looked for
CUSUM_ALARM: Final = 8.0  # innovations of a 5-min sensor hang together, so above the 5 of independent ones
MEAL_SPAN_US: Final = 2 * US_PER_H  # a bolus later than this comes after the meal has done its work
LOWER: Final = (
    "glucose keeps coming out lower than the twin expects: something has changed (exercise, a dose or a meal not on"
    " record?)"
)
HIGHER: Final = (
    "glucose keeps coming out higher than the twin expects: something has changed (a meal not on record, illness, a"
    " failing infusion set?)"
)
PROBE_RATE: Final = 0.1  # of the usual rate
MEAL_G: Final = 20.0  # below, it is the treatment of a low
# Weight of the prescription against the mechanism's own idea, in logs: errors of .30 (core.therapy_facts) and .45
# (bench/RESULTS.md, mechanism: off by up to twofold where nobody told it).
TRUST_PRESCRIBED: Final = 0.45**2 / (0.45**2 + 0.30**2)
MOST_SCALED: Final = 2.5
LOWERED: Final = 0.8  # of the usual basal rate: below, the pump is taken to be turned down
LATE_MIN: Final = 5.0
AHEAD_MIN: Final = 720.0
FRESH_US: Final = 30 * US_PER_MIN  # a bolus is still mostly where it was put
# A ratio below these is a slip: of the mechanism's (which itself asks for a half to twice what bodies need: then nothing
# is believed), and of what the person takes at most (then it is believed as far as this, within half as much again).
SLIP: Final = 0.6
DOSED: Final = 0.75
MOST_RAISED: Final = 1.5
DOSED_SPAN_US: Final = 14 * US_PER_DAY
AT_MEAL_US: Final = 20 * US_PER_MIN
MEALS_TO_TELL: Final = 8
SLIP_TOLD_FROM: Final = 1.2
TOLD_FROM: Final = 1.3  # factors nearer to 1 are within the error of any prescription
SEED: Final = 1  # the same draws for every candidate: doses then differ by dose, not by luck


class TwinPaths:
    """Core's ``PathSource`` over a twin: drawn futures of blood, with meal and dose at ``for_time_us``."""

    def __init__(
        self, twin: Twin, now_us: int, for_time_us: int | None = None, stated: Stated | None = None
    ) -> None:
        self._twin, self._now_us = twin, now_us
        self._stated = stated or Stated()
        self._at_us = now_us if for_time_us is None else for_time_us
        self._lead_min = (self._at_us - now_us) / US_PER_MIN
        self._futures: dict[tuple[int, float], Futures] = {}
        self._basal_uph: float | None = None
        self._rates: dict[tuple[float, int, float, float | None], Floats] = {}
        self._blood = blood_error(twin.record, now_us)

    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> Floats:
        """Glucose from now to ``horizon_min`` after the meal, float64[draws, n_steps] mg/dL.

        The time before the meal counts too: with a low on the way, a dose is the wrong advice.
        """
        plan = [(self._at_us, "bolus_u", dose_u), (self._at_us, "carbs_g", carbs_g)]
        return self._in_blood(self._drawn(draws, horizon_min).paths([p for p in plan if p[2] > 0]))

    def sugar_paths(self, carbs_g: float, draws: int, horizon_min: float) -> Floats:
        """As ``paths`` with nothing injected; the sugar does no more than the mechanism says: a low waits for it."""
        factor = min(self._stated.carbs, 1.0)
        plan = [(self._at_us, "carbs_g", carbs_g)]
        return self._in_blood(self._drawn(draws, horizon_min).paths(plan, carbs=factor))

    def basal_paths(
        self, factor: float, draws: int, horizon_min: float, span_min: float | None = None
    ) -> Floats:
        """As ``paths``, nothing eaten or injected, the pump running at ``factor`` times its present rate.

        ``span_min``: a temporary rate, ``factor`` times the usual one, for so long; then the usual one.
        """
        usual = self._rated(1.0, draws, horizon_min, span_min)
        change = self._rated(factor, draws, horizon_min, span_min)
        if factor > 1.0:  # in proportion, as a dose: more would else protect from the low that it makes
            small = self._rated(1.0 + PROBE_RATE, draws, horizon_min, span_min)
            change = usual + (factor - 1.0) / PROBE_RATE * (small - usual)
        # Stronger than the mechanism says only where it lowers glucose: insulin left out may have done no more.
        acting = np.where(change < 0.0, self._stated.insulin, 1.0)
        return self._in_blood(self._drawn(draws, horizon_min).paths(()) + acting * change)

    def _rated(self, factor: float, draws: int, horizon_min: float, span_min: float | None) -> Floats:
        """What such a rate changes by the mechanism: against the rate as it is, which the forecast holds already."""
        key = (factor, draws, horizon_min, span_min)
        if key not in self._rates:
            if self._basal_uph is None:
                self._basal_uph = self._twin.basal_uph(self._now_us) or 0.0
            plan = [(self._now_us, "basal_uph", factor * self._basal_uph)]
            if span_min is not None:
                usual_uph = usual_basal_uph(self._twin, self._now_us) or 0.0
                after_us = self._now_us + round(span_min * US_PER_MIN)
                plan = [(self._now_us, "basal_uph", factor * usual_uph), (after_us, "basal_uph", usual_uph)]
            futures = self._drawn(draws, horizon_min)
            now = [(self._now_us, "basal_uph", self._basal_uph)]
            self._rates[key] = futures.paths(plan, insulin=1.0) - futures.paths(now, insulin=1.0)
        return self._rates[key]

    def _drawn(self, draws: int, horizon_min: float) -> Futures:
        key = (draws, horizon_min)
        if key not in self._futures:
            until_min = self._lead_min + horizon_min
            self._futures[key] = self._twin.futures(
                self._now_us, max(until_min, 5.0), draws, SEED, self._stated
            )
        return self._futures[key]

    def _in_blood(self, readings: Floats) -> Floats:
        """Futures of readings as futures of blood: the sensor's lasting error is one for a whole course."""
        rng = np.random.default_rng((SEED, len(readings)))
        error = self._blood.cautious_mgdl + self._blood.sd_mgdl * rng.standard_normal(len(readings))
        # As drawn, however low: a clip would bend what a dose does, and a lower glucose ask for more.
        return np.asarray(readings + error[:, None])


def advise(
    twin: Twin,
    t: int,
    carbs_g: float,
    policy: Policy,
    question: str | None = None,
    for_time_us: int | None = None,
) -> Advice:
    """Advice of ``twin`` at ``t`` (µs UTC), for a meal and dose then or at ``for_time_us``."""
    policy = policy.checked()
    lead_min = 0.0 if for_time_us is None else (for_time_us - t) / US_PER_MIN
    if not -LATE_MIN <= lead_min <= AHEAD_MIN:
        raise InputError("must lie within 5 min before and 12 h after now", where="for_time_us")
    answer = _chosen(twin, t, carbs_g, policy, question, for_time_us)
    usual_uph = lowered_from(twin, t)
    if usual_uph is None or answer.dose_u == 0:
        return answer
    # The courses let a pump that is stopped or turned down go on so for hours. It may be turned up at once.
    resumed = _chosen(twin, t, carbs_g, policy, question, for_time_us, usual_uph)
    if resumed.dose_u < answer.dose_u:
        answer = resumed
    said = f"The pump runs below its usual {usual_uph:.2f} U/h: the dose holds whether it goes back to it now or not."
    return msgspec.structs.replace(answer, assumptions=(*answer.assumptions, said))


def lowered_from(twin: Twin, t: int) -> float | None:
    """The usual basal rate, where the one in force at ``t`` lies well below it; None where it does not.

    The usual one is the profile's, or, without a profile, the rate that held for longest in the last day.
    """
    now_uph = twin.basal_uph(t)
    if now_uph is None:
        return None
    usual_uph = twin.patient.profile_uph(twin.local.hour(t) * 60.0)
    if usual_uph is None:
        held: dict[float, int] = {}
        for rate, end_us in _rates(twin, t - 24 * US_PER_H, t):
            held[rate.value] = held.get(rate.value, 0) + end_us - rate.time_us
        usual_uph = max(held, key=lambda uph: held[uph]) if held else now_uph
    return usual_uph if now_uph < LOWERED * usual_uph else None


def _chosen(
    twin: Twin,
    t: int,
    carbs_g: float,
    policy: Policy,
    question: str | None,
    for_time_us: int | None,
    basal_uph: float | None = None,
) -> Advice:
    """The answer by the person's courses. ``basal_uph``: the pump's rate from now on."""
    standing = stated(twin, t, policy)._replace(basal_uph=basal_uph)
    source = TwinPaths(twin, t, for_time_us, standing)
    now = situation(twin, t, source, for_time_us)
    now = msgspec.structs.replace(now, assumed=(*now.assumed, *_told(twin, t, policy, standing)))
    if policy.basal_modulation:  # then basal beyond the usual is insulin on board, for boluses too
        now = msgspec.structs.replace(now, iob_u=now.iob_u + extra_basal_u(twin, t))
    if question == MODULATE:
        now = msgspec.structs.replace(now, basal_uph=usual_basal_uph(twin, t))
    return choose(source, carbs_g, policy, now, question)


def stated(twin: Twin, t: int, policy: Policy) -> Stated:
    """What the futures stand on: the same for every question, so that no question is a way round another.

    What a plan does is mostly what is prescribed; but never is a dose believed to do less than the mechanism says, nor
    a gram to need more insulin: a slip in the prescription would be a dose too large. What is on board is the
    mechanism's, moved towards the prescription by the weight of both (TRUST_PRESCRIBED), within the same limits.
    """
    correction, ratio = policy.correction_mgdl_per_u, policy.carb_ratio_g_per_u
    if correction is None or ratio is None:
        return Stated()
    shown_correction, shown_ratio = twin.therapy_shown(t)
    insulin = correction / shown_correction
    carbs = insulin * shown_ratio / ratio
    insulin = _believed(max(insulin, 1.0))
    said = min(max(correction, shown_correction), MOST_SCALED * shown_correction)
    taken = dosed_ratio(twin, t, said, policy.target_mgdl) or 0.0
    prescribed = Prescribed(said, max(ratio, shown_ratio, min(DOSED * taken, MOST_RAISED * ratio)))
    return Stated(
        insulin=insulin,
        carbs=min(_believed(carbs), insulin),
        prescribed=None if ratio < SLIP * shown_ratio else prescribed,
    )


def dosed_ratio(twin: Twin, t: int, correction_mgdl_per_u: float, target_mgdl: float) -> float | None:
    """Carbohydrate per unit (g/U) at the fifth of the last two weeks' meals with most insulin; None: too few meals.

    Without what glucose above target asked for. A prescription that asks for far more than its person ever took is a slip.
    """
    known = list(twin.record.between(t - DOSED_SPAN_US, t))
    boluses = [e for e in known if e.kind == "bolus_u"]
    ratios, glucose_mgdl = [], target_mgdl
    for entry in known:
        if entry.kind == "cgm_mgdl":
            glucose_mgdl = entry.value
        if entry.kind != "carbs_g" or entry.value < MEAL_G or entry.time_us > t - AT_MEAL_US:
            continue
        taken_u = sum(b.value for b in boluses if abs(b.time_us - entry.time_us) <= AT_MEAL_US)
        for_meal_u = taken_u - max(0.0, glucose_mgdl - target_mgdl) / correction_mgdl_per_u
        if for_meal_u > 0.2 * taken_u:
            ratios.append(entry.value / for_meal_u)
    return float(np.quantile(ratios, 0.2)) if len(ratios) >= MEALS_TO_TELL else None


def _believed(factor: float) -> float:
    most = math.log(MOST_SCALED)
    return math.exp(min(max(TRUST_PRESCRIBED * math.log(max(factor, 1e-9)), -most), most))


def _told(twin: Twin, t: int, policy: Policy, standing: Stated) -> list[str]:
    """In words, what the prescription does to the courses, and where it was not believed."""
    said = []
    if standing.prescribed is not None:
        fall, per_u = standing.prescribed
        said.append(
            f"what a dose and food do is mostly what is prescribed: 1 U lowers by {fall:.0f} mg/dL, 10 g raise by"
            f" {10.0 * fall / per_u:.0f} mg/dL"
        )
    if max(abs(math.log(f)) for f in (standing.insulin, standing.carbs)) > math.log(TOLD_FROM):
        said.append(
            f"insulin on board does {standing.insulin:.1f} times and carbohydrate {standing.carbs:.1f} times what the"
            " twin found, towards the prescribed correction factor and ratio"
        )
    ratio = policy.carb_ratio_g_per_u
    believed = (
        twin.therapy_shown(t)[1] if standing.prescribed is None else standing.prescribed.carb_ratio_g_per_u
    )
    if ratio is not None and policy.correction_mgdl_per_u is not None and believed / ratio > SLIP_TOLD_FROM:
        said.append(
            f"a meal needs no more than 1 U for {believed:.1f} g, by what the twin found and what was taken at meals, where"
            f" 1 U for {ratio:.1f} g is prescribed: please check that ratio"
        )
    return said


def usual_basal_uph(twin: Twin, t: int) -> float | None:
    """The rate of the prescribed profile at ``t``, else the one in force."""
    now_uph = twin.basal_uph(t)
    if now_uph is None:
        return None
    profile_uph = twin.patient.profile_uph(twin.local.hour(t) * 60.0)
    return now_uph if profile_uph is None else profile_uph


def extra_basal_u(twin: Twin, t: int) -> float:
    """Insulin still to act of basal beyond the usual rate, not below 0."""
    start_us = t - round(ACTION_MIN * US_PER_MIN)
    usual_uph = usual_basal_uph(twin, t) or 0.0
    total_u = 0.0
    for rate, end_us in _rates(twin, start_us, t):
        middle_min = (t - 0.5 * (rate.time_us + end_us)) / US_PER_MIN
        total_u += (rate.value - usual_uph) * (end_us - rate.time_us) / US_PER_H * iob_fraction(middle_min)
    return max(total_u, 0.0)


def _rates(twin: Twin, start_us: int, t: int) -> list[tuple[Entry, int]]:
    """Basal rates set after ``start_us``, each with the time until which it held (µs)."""
    rates = [e for e in twin.record.between(start_us, t) if e.kind == "basal_uph"]
    return list(zip(rates, [*(e.time_us for e in rates[1:]), t][: len(rates)], strict=True))


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
    fresh = [
        e for e in twin.record.between(t - FRESH_US, t) if e.kind in ("bolus_u", "carbs_g") and e.value > 0
    ]
    fresh_u, fresh_g = ([e for e in fresh if e.kind == kind] for kind in ("bolus_u", "carbs_g"))
    innovations = twin.innovations(t - CHANGE_SPAN_US, t)
    fit = [i.z for i in innovations if i.time_us > t - MISFIT_SPAN_US]
    expected = None
    if source is not None and at_us - t >= 5 * US_PER_MIN:
        expected = float(np.median(source.paths(0.0, 0.0, MIN_DRAWS, 0.0)[:, -1]))
    first = next((e for e in twin.record.entries if e.kind == "cgm_mgdl"), None)
    changed = change_words([i.z for i in innovations])
    # No insulin for hours is no safe answer to a glucose that is very high and keeps coming out higher still.
    warned = changed if changed == HIGHER and last is not None and last.value >= VERY_HIGH_MGDL else ""
    return Situation(
        time_us=t,
        glucose_mgdl=last.value if last is not None else math.nan,
        trend_mgdl_per_min=math.nan if slope is None else slope,
        data_time_us=last.time_us if last is not None else t,
        flagged=flagged,
        status=estimate.status,
        misfit=not fits(fit),
        iob_u=insulin_on_board(at_us, boluses),
        model=estimate.model,
        expected_mgdl=expected,
        record_us=None if first is None else t - first.time_us,
        changing=twin.changing or ("" if warned else changed),
        warned=warned,
        basal_uph=twin.basal_uph(t),
        basal_week_uph=basal_week_uph(twin, t),
        eaten_g=sum(e.value for e in meals),
        dosed_u=sum(dose_u for time_us, dose_u in boluses if time_us >= covered_us),
        fresh_u=sum(e.value for e in fresh_u),
        fresh_min=(t - fresh_u[-1].time_us) / US_PER_MIN if fresh_u else 0.0,
        fresh_g=sum(e.value for e in fresh_g),
        fresh_g_min=(t - fresh_g[-1].time_us) / US_PER_MIN if fresh_g else 0.0,
        assumed=tuple(f"{name} {source_words}" for name, source_words in twin.assumed),
    )


def fits(z: Sequence[float]) -> bool:
    """Whether innovations are as small as the twin says. One wild reading is a sensor's, two are not: the wildest is left out."""
    if len(z) < MIN_READINGS:
        return False
    return float(np.mean(np.sort(np.square(z))[:-1])) <= MISFIT_NIS


def change_words(z: Sequence[float]) -> str:
    """Why a cumulative sum of innovations alarms at the newest reading; empty when it does not."""
    high = low = 0.0
    for value in z:
        step = min(max(value, -3.0), 3.0)  # one wild reading is no change
        high = max(0.0, high + step - CUSUM_SLACK)
        low = max(0.0, low - step - CUSUM_SLACK)
    if low >= CUSUM_ALARM:
        return LOWER
    return HIGHER if high >= CUSUM_ALARM else ""


def _last_reading(twin: Twin, t: int) -> Entry | None:
    """The newest CGM reading up to ``t``, however old."""
    entries = twin.record.entries
    for index in range(twin.record.first_after(t) - 1, -1, -1):
        if entries[index].kind == "cgm_mgdl":
            return entries[index]
    return None
