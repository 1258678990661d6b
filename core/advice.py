"""Dosing advice under a chance constraint: the calculator's dose, cut down until a low is improbable.

The rule (MODELS E). A candidate bolus may be given when, over the next five hours,

    P(any glucose < 70 mg/dL) <= 5 %   and   P(any glucose < 54 mg/dL) <= 1 %,

each judged by its upper 95 % Clopper-Pearson bound over simulated paths. So the number of paths is part
of the answer: with none of 299 paths below 54 the bound is just under 1 %, with fewer it cannot be.

The advised dose is the largest safe one that does not exceed what the ordinary bolus calculator and
every limit allow. It is monotone in carbohydrate because the calculator is, and because a larger meal
lifts every path (the source draws the same random numbers for every candidate). Candidates are visited
by bisection, which equals the walk upward that stops at the first failing dose as long as more insulin
never raises a path; that walk is a fixed-sequence test, so the two levels need no correction for the
number of candidates.

Pure: time, data and draws come as arguments. Not a medical device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.messages import DoseAdvice
from core.units import US_PER_MIN, US_PER_S

LOW_MGDL: Final = 70.0
VERY_LOW_MGDL: Final = 54.0
CONFIDENCE: Final = 0.95
MIN_DRAWS: Final = 299  # 1 - 0.05**(1/299) = 0.00997: the fewest draws that can prove a chance below 1 %

# No configuration, clinician or message can lift these: beyond them an error is likelier than a need.
HARD_MAX_DOSE_U: Final = 25.0  # largest single bolus that current pumps deliver
HARD_MAX_IOB_U: Final = 30.0
HARD_MAX_CARBS_G: Final = 300.0  # a larger "meal" is a slip of the keyboard

MAX_DATA_AGE_S: Final = 600.0  # two missed five-minute readings: the state may have turned meanwhile
MAX_FALL_MGDL_PER_MIN: Final = 2.0  # MODELS E; at this rate 70 is 20 min away from 110
DATA_FROM_FUTURE_S: Final = 60.0  # a reading this far ahead means that one of two clocks is wrong

NOT_A_DEVICE: Final = "Hometwin is not a medical device; a clinician is responsible for every dose."

Floats = NDArray[np.float64]


class PathSource(Protocol):
    """Whoever can simulate this person from the posterior: states, parameters, inputs and noise."""

    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> Floats:
        """Glucose paths with ``carbs_g`` eaten and ``dose_u`` injected now (or at the source's planned time).

        Returns float64[draws, n_steps] in mg/dL from now to ``horizon_min`` after the dose. Every call must use the same
        random numbers: two candidates then differ by the candidate, not by luck.
        """
        ...


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the clinician allows. ``None`` for a ratio: it is estimated from the twin, and the answer says so."""

    target_mgdl: float = 110.0
    carb_ratio_g_per_u: float | None = None
    correction_mgdl_per_u: float | None = None
    max_dose_u: float = 10.0
    max_iob_u: float = 12.0
    dose_step_u: float = 0.1  # what the pump or pen can deliver
    max_p_below_70: float = 0.05
    max_p_below_54: float = 0.01
    horizon_min: float = 300.0  # the life of a rapid-acting bolus
    draws: int = 1000

    def checked(self) -> Policy:
        """Self when usable; InputError naming the field otherwise."""
        positive = ("carb_ratio_g_per_u", "correction_mgdl_per_u", "max_dose_u", "max_iob_u", "dose_step_u")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError("must be a positive number", where=f"policy.{name}")
        if not 70 <= self.target_mgdl <= 300:
            raise InputError("must lie in 70..300 mg/dL", where="policy.target_mgdl")
        if not 0 < self.max_p_below_70 <= 0.05 or not 0 < self.max_p_below_54 <= 0.01:
            raise InputError("chances of a low may be tightened, not loosened", where="policy.max_p_below_*")
        if not 120 <= self.horizon_min <= 720:
            raise InputError("must lie in 120..720 min", where="policy.horizon_min")
        if not MIN_DRAWS <= self.draws <= 1_000_000:
            raise InputError(f"must lie in {MIN_DRAWS}..1000000", where="policy.draws")
        return self


class Situation(msgspec.Struct, frozen=True):
    """What is known now, apart from the posterior itself."""

    time_us: int
    glucose_mgdl: float  # newest reading
    trend_mgdl_per_min: float  # negative: falling
    data_time_us: int  # when that reading was taken
    flagged: bool = False  # the sensor or the twin doubts the reading
    status: str = "ok"  # core.messages.Estimate.status: ok | warming_up | stale | diverged
    misfit: bool = False  # innovations say that the model does not fit this person today
    iob_u: float = 0.0  # bolus insulin still to act (insulin_on_board) when the dose is taken
    model: str = ""
    # Glucose expected when the dose is taken, if that is later. It can only lower the dose: a correction for
    # a rise that may not come is insulin that cannot be taken back.
    expected_mgdl: float | None = None

    @property
    def dosing_mgdl(self) -> float:
        """The glucose that the calculator works with."""
        if self.expected_mgdl is None or not math.isfinite(self.expected_mgdl):
            return self.glucose_mgdl
        return min(self.glucose_mgdl, self.expected_mgdl)


class Advice(msgspec.Struct, frozen=True):
    """The answer. The first eight fields are the public JSON contract; the rest explains it."""

    dose_u: float
    p_below_70: float  # share of paths; the bound beside it is what the constraint uses
    p_below_54: float
    horizon_min: float
    draws: int
    refused: str | None
    reasons: tuple[str, ...]
    limits: tuple[str, ...]
    carbs_g: float = 0.0
    calculator_u: float = 0.0  # what the ratio arithmetic alone would give
    iob_u: float = 0.0
    p_below_70_bound: float = 1.0  # upper 95 % bound
    p_below_54_bound: float = 1.0
    data_time_us: int = 0
    model: str = ""

    def message(self, advice_id: str, for_time_us: int, approved_by: str, approved_us: int) -> DoseAdvice:
        """The wire form."""
        return DoseAdvice(
            advice_id=advice_id,
            for_time_us=for_time_us,
            carbs_g=self.carbs_g,
            dose_u=self.dose_u,
            p_below_70=self.p_below_70,
            p_below_54=self.p_below_54,
            horizon_min=self.horizon_min,
            draws=self.draws,
            refused=self.refused,
            reasons=self.reasons,
            limits=self.limits,
            data_time_us=self.data_time_us,
            model=self.model,
            approved_by=approved_by,
            approved_us=approved_us,
        )


class _Chance(msgspec.Struct, frozen=True):
    """How often paths after one candidate dose go low."""

    p70: float
    p54: float
    p70_bound: float
    p54_bound: float
    finite: bool

    def within(self, policy: Policy) -> bool:
        return (
            self.finite
            and self.p70_bound <= policy.max_p_below_70
            and self.p54_bound <= policy.max_p_below_54
        )


def advise(source: PathSource, carbs_g: float, policy: Policy, situation: Situation) -> Advice:
    """The bolus to take now for a meal of ``carbs_g`` (0: a correction), or a refusal that says why.

    A refusal has ``dose_u`` 0 and ``refused`` set. Absurd arguments raise InputError.
    """
    policy = policy.checked()
    if not (math.isfinite(carbs_g) and 0 <= carbs_g <= HARD_MAX_CARBS_G):
        raise InputError(f"carbohydrate must lie in 0..{HARD_MAX_CARBS_G:g} g", where="carbs_g")
    answer = _Answer(policy, situation, carbs_g)
    why = refusal(situation)
    if why is not None:
        return answer.refuse(why)

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
    reasons += _calculator_reasons(carbs_g, situation, policy, carb_ratio, calculated)
    ceiling, capped_by = _ceiling(calculated, situation, policy)
    if capped_by:
        reasons.append(f"Held to {ceiling:.1f} U by {capped_by}.")

    top = _steps_within(ceiling, policy.dose_step_u)
    step, chance = _largest_safe_step(
        lambda k: _chance(source, carbs_g, k * policy.dose_step_u, policy), top, policy
    )
    if not chance.finite:
        return answer.refuse("the simulation did not give finite glucose values")
    if step < 0:
        return answer.refuse(
            "a low is too likely even without insulin; consider fast carbohydrate and check with a fingerstick",
            chance,
        )
    dose_u = round(step * policy.dose_step_u, 4)
    if step < top:
        reasons.append(
            f"Lowered from {ceiling:.1f} U to {dose_u:.1f} U: with more, the chance of a low in the next"
            f" {policy.horizon_min / 60:g} h could exceed the limit."
        )
    reasons.append(
        f"Chance of going below 70 mg/dL at most {100 * chance.p70_bound:.1f} %, below 54 at most"
        f" {100 * chance.p54_bound:.1f} % (95 % confidence, {policy.draws} simulated courses)."
    )
    if dose_u == 0 and ceiling == 0:
        reasons.append("No bolus is the best choice now.")
    elif dose_u < 0.5 * ceiling:
        # Not a refusal: a dose that falls to nothing when the meal grows would be no advice to live by.
        reasons.append(
            "This is less than half of the ordinary calculation, so glucose will probably go high: the twin is not"
            " sure enough of this person yet. Ask your clinician rather than rely on it."
        )
    return answer.give(dose_u, calculated, chance, tuple(reasons))


def refusal(situation: Situation) -> str | None:
    """Why nothing may be advised now, in plain words; None when nothing stands against it."""
    age_s = (situation.time_us - situation.data_time_us) / US_PER_S
    if not math.isfinite(situation.glucose_mgdl) or not math.isfinite(situation.iob_u):
        return "there is no usable glucose reading"
    if age_s > MAX_DATA_AGE_S:
        return f"the newest glucose reading is {_minutes(age_s)} old; at most 10 min are allowed"
    if age_s < -DATA_FROM_FUTURE_S:
        return "the newest glucose reading lies in the future: a clock is wrong"
    if situation.flagged:
        return "the newest glucose reading is doubtful; check with a fingerstick"
    if situation.status != "ok":
        texts = {
            "warming_up": "the twin has not seen enough data yet",
            "stale": "the twin's data are too old",
            "diverged": "the twin has lost track of this person",
        }
        return texts.get(situation.status, "the twin is not ready")
    if situation.misfit:
        return "the twin does not fit the recent readings well enough"
    if situation.glucose_mgdl < LOW_MGDL:
        return "glucose is below 70 mg/dL: treat the low first (15 g fast carbohydrate, check again after 15 min)"
    # Not "< -2": an unknown trend (nan) must refuse as well.
    if not situation.trend_mgdl_per_min >= -MAX_FALL_MGDL_PER_MIN:
        return "glucose is falling faster than 2 mg/dL per minute, or its trend is unknown"
    return None


def calculator_dose(
    carbs_g: float,
    glucose_mgdl: float,
    iob_u: float,
    target_mgdl: float,
    carb_ratio_g_per_u: float,
    correction_mgdl_per_u: float,
) -> float:
    """The ordinary bolus calculator (MODELS E), in U.

    Insulin on board counts once, against the correction only; glucose below target reduces the meal bolus.
    """
    correction_u = (glucose_mgdl - target_mgdl) / correction_mgdl_per_u
    if correction_u > 0:
        correction_u = max(0.0, correction_u - iob_u)
    return max(0.0, carbs_g / carb_ratio_g_per_u + correction_u)


def iob_fraction(
    age_min: float, duration_min: float = 360.0, peak_min: float = 75.0, delay_min: float = 10.0
) -> float:
    """Share of a bolus still to act after ``age_min``: exponential model of MODELS E, 1 at 0, 0 at the end."""
    t = age_min - delay_min
    if t <= 0:
        return 1.0
    if t >= duration_min:
        return 0.0
    td, tp = duration_min, peak_min
    tau = tp * (1 - tp / td) / (1 - 2 * tp / td)
    a = 2 * tau / td
    s = 1 / (1 - a + (1 + a) * math.exp(-td / tau))
    return 1 - s * (1 - a) * ((t * t / (tau * td * (1 - a)) - t / tau - 1) * math.exp(-t / tau) + 1)


def insulin_on_board(now_us: int, boluses: Iterable[tuple[int, float]], peak_min: float = 75.0) -> float:
    """Bolus insulin still to act, in U. ``boluses``: (time_us, dose_u); later ones than now do not count."""
    return sum(
        dose_u * iob_fraction((now_us - time_us) / US_PER_MIN, peak_min=peak_min)
        for time_us, dose_u in boluses
        if time_us <= now_us
    )


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


def clopper_pearson_upper(events: int, draws: int, confidence: float = CONFIDENCE) -> float:
    """Exact one-sided upper bound of a proportion: the p with P(Binomial(draws, p) <= events) = 1-confidence."""
    if not 0 <= events <= draws or draws < 1 or not 0 < confidence < 1:
        raise InputError(
            "need 0 <= events <= draws, draws >= 1 and 0 < confidence < 1", where="clopper_pearson"
        )
    if events == draws:
        return 1.0
    if events == 0:
        return -math.expm1(math.log1p(-confidence) / draws)
    low, high = events / draws, 1.0
    for _ in range(60):  # halves the interval each time: far below float spacing
        middle = 0.5 * (low + high)
        if _binomial_cdf(events, draws, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _binomial_cdf(events: int, draws: int, p: float) -> float:
    if p <= 0:
        return 1.0
    if p >= 1:
        return 0.0 if events < draws else 1.0
    log_p, log_q, log_n = math.log(p), math.log1p(-p), math.lgamma(draws + 1)
    return math.fsum(
        math.exp(log_n - math.lgamma(k + 1) - math.lgamma(draws - k + 1) + k * log_p + (draws - k) * log_q)
        for k in range(events + 1)
    )


def _chance(source: PathSource, carbs_g: float, dose_u: float, policy: Policy) -> _Chance:
    paths = source.paths(carbs_g, dose_u, policy.draws, policy.horizon_min)
    if paths.ndim != 2 or paths.shape[0] < MIN_DRAWS or paths.shape[1] < 1 or not np.all(np.isfinite(paths)):
        return _Chance(1.0, 1.0, 1.0, 1.0, finite=False)
    lowest = paths.min(axis=1)
    n = lowest.shape[0]
    below_70 = int(np.count_nonzero(lowest < LOW_MGDL))
    below_54 = int(np.count_nonzero(lowest < VERY_LOW_MGDL))
    return _Chance(
        below_70 / n,
        below_54 / n,
        clopper_pearson_upper(below_70, n),
        clopper_pearson_upper(below_54, n),
        finite=True,
    )


def _largest_safe_step(chance_of: Callable[[int], _Chance], top: int, policy: Policy) -> tuple[int, _Chance]:
    """The largest step in 0..top that passes, with its chances; -1 when not even 0 does."""
    at_zero = chance_of(0)
    if not at_zero.within(policy):
        return -1, at_zero
    if top == 0:
        return 0, at_zero
    at_top = chance_of(top)
    if at_top.within(policy):
        return top, at_top
    safe, safe_chance, unsafe = 0, at_zero, top
    while unsafe - safe > 1:
        middle = (safe + unsafe) // 2
        chance = chance_of(middle)
        if chance.within(policy):
            safe, safe_chance = middle, chance
        else:
            unsafe = middle
    return safe, safe_chance


def _ceiling(calculated_u: float, situation: Situation, policy: Policy) -> tuple[float, str]:
    """Largest dose that arithmetic and limits allow, and the limit's name when it binds."""
    iob_room = max(0.0, min(policy.max_iob_u, HARD_MAX_IOB_U) - max(0.0, situation.iob_u))
    limits = [
        (policy.max_dose_u, "the clinician's largest bolus"),
        (iob_room, "the limit on insulin on board"),
        (HARD_MAX_DOSE_U, "the program's own largest bolus"),
    ]
    ceiling, name = min(limits)
    return (ceiling, name) if ceiling < calculated_u else (calculated_u, "")


def _steps_within(dose_u: float, step_u: float) -> int:
    """Whole steps that do not exceed ``dose_u`` (with a hair of room for binary fractions)."""
    return math.floor(dose_u / step_u + 1e-9)


def _calculator_reasons(
    carbs_g: float, situation: Situation, policy: Policy, carb_ratio: float, calculated_u: float
) -> list[str]:
    reasons = []
    if carbs_g > 0:
        reasons.append(f"{carbs_g:.0f} g of carbohydrate need {carbs_g / carb_ratio:.1f} U.")
    above = situation.dosing_mgdl - policy.target_mgdl
    what = "Glucose is" if situation.dosing_mgdl == situation.glucose_mgdl else "Glucose will then be about"
    if above > 0 and situation.iob_u > 0.05:
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


def _minutes(age_s: float) -> str:
    minutes = age_s / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"


class _Answer:
    """Fills the fields that every answer shares."""

    def __init__(self, policy: Policy, situation: Situation, carbs_g: float) -> None:
        self._policy, self._situation, self._carbs_g = policy, situation, carbs_g

    def refuse(self, why: str, chance: _Chance | None = None) -> Advice:
        return self._make(0.0, 0.0, chance, (f"No dose is advised: {why}.",), why)

    def give(self, dose_u: float, calculator_u: float, chance: _Chance, reasons: tuple[str, ...]) -> Advice:
        return self._make(dose_u, calculator_u, chance, reasons, None)

    def _make(
        self,
        dose_u: float,
        calculator_u: float,
        chance: _Chance | None,
        reasons: tuple[str, ...],
        refused: str | None,
    ) -> Advice:
        policy, situation = self._policy, self._situation
        known = chance if chance is not None and chance.finite else None
        return Advice(
            dose_u=dose_u,
            # Unknown chances read 1, the cautious side, and stay valid JSON (nan would not).
            p_below_70=known.p70 if known else 1.0,
            p_below_54=known.p54 if known else 1.0,
            horizon_min=policy.horizon_min,
            draws=policy.draws if known else 0,
            refused=refused,
            reasons=reasons,
            limits=_limits(policy),
            carbs_g=self._carbs_g,
            calculator_u=calculator_u,
            iob_u=situation.iob_u if math.isfinite(situation.iob_u) else 0.0,
            p_below_70_bound=known.p70_bound if known else 1.0,
            p_below_54_bound=known.p54_bound if known else 1.0,
            data_time_us=situation.data_time_us,
            model=situation.model,
        )


def _limits(policy: Policy) -> tuple[str, ...]:
    return (
        NOT_A_DEVICE,
        "Assumes no food, insulin or exercise beyond what is logged.",
        f"At most {min(policy.max_dose_u, HARD_MAX_DOSE_U):g} U at once and"
        f" {min(policy.max_iob_u, HARD_MAX_IOB_U):g} U on board.",
        "Check with a fingerstick when symptoms and sensor disagree; call the clinician when ill or after a"
        " severe low.",
    )
