"""What an adviser is asked with and what it answers: policy, situation, advice. Frozen; limits in code."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from core.errors import InputError
from core.messages import DoseAdvice, StandingPolicy
from core.patient import CARB_RATIO_G_PER_U, CORRECTION_MGDL_PER_U, Patient
from core.units import US_PER_S

if TYPE_CHECKING:
    from core.chance import Floats  # the hub reads policies, and has no numpy

MIN_DRAWS: Final = 299  # 1 - 0.05**(1/299) = 0.00997: the fewest draws that can prove a chance below 1 %

# No configuration, clinician or message can lift these: beyond them an error is likelier than a need.
HARD_MAX_DOSE_U: Final = 25.0  # largest single bolus that current pumps deliver
HARD_MAX_IOB_U: Final = 30.0
HARD_MAX_CARBS_G: Final = 300.0  # a larger "meal" is a slip of the keyboard
HARD_MAX_BASAL_CHANGE: Final = 0.5  # of the rate, in one advice

HARD_MAX_TEMP_BASAL: Final = 4.0  # times the usual rate; the safety multiple of oref0 (MODELS E)

QUESTIONS: Final = ("meal", "correction", "basal", "now")
MODULATE: Final = "modulate"  # of the research mode only, so no standing policy can hold it
NOT_A_DEVICE: Final = "Hometwin is not a medical device; a clinician is responsible for every dose."


class PathSource(Protocol):
    """Whoever can simulate this person from the posterior: states, parameters, inputs and noise."""

    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> Floats:
        """Glucose paths with ``carbs_g`` eaten and ``dose_u`` injected now (or at the source's planned time).

        Returns float64[draws, n_steps] in mg/dL, each 5 min from now to ``horizon_min`` after the dose. Every call
        must use the same random numbers: two candidates then differ by the candidate, not by luck.
        """
        ...


class BasalSource(Protocol):
    """The optional ``basal_paths`` of a source: courses under a multiple of the present basal rate."""

    def __call__(
        self, factor: float, draws: int, horizon_min: float, span_min: float | None = None
    ) -> Floats:
        """``span_min``: a temporary rate, ``factor`` times the usual one, for so long; None: to the end."""
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
    device_max_dose_u: float = HARD_MAX_DOSE_U  # what this pump or pen can give at once
    # How far the twin may go beyond the ordinary calculation: it may find a better dose, not another therapy.
    max_over_calculator: float = 1.2
    max_basal_uph: float | None = None
    max_basal_change: float = 0.2  # of the rate; the step in which clinicians change it
    basal_modulation: bool = False  # research mode: the question "modulate" may be asked

    def checked(self) -> Policy:
        """Self when usable; InputError naming the field otherwise."""
        positive = ("carb_ratio_g_per_u", "correction_mgdl_per_u", "dose_step_u", "device_max_dose_u")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError("must be a positive number", where=f"policy.{name}")
        for name in ("max_dose_u", "max_iob_u", "max_basal_uph"):  # 0 is a limit too: none is allowed
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InputError("must be a number, 0 or above", where=f"policy.{name}")
        ratios = (
            ("carb_ratio_g_per_u", CARB_RATIO_G_PER_U),
            ("correction_mgdl_per_u", CORRECTION_MGDL_PER_U),
        )
        for name, (least, most) in ratios:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise InputError(
                    f"must lie in {least:g}..{most:g}", where=f"policy.{name}", mend="check the unit"
                )
        if not 70 <= self.target_mgdl <= 300:
            raise InputError("must lie in 70..300 mg/dL", where="policy.target_mgdl")
        if not 0 < self.max_p_below_70 <= 0.05 or not 0 < self.max_p_below_54 <= 0.01:
            raise InputError("chances of a low may be tightened, not loosened", where="policy.max_p_below_*")
        # Shorter, and a dose would be judged before it has done its work.
        if not 300 <= self.horizon_min <= 720:
            raise InputError("must lie in 300..720 min", where="policy.horizon_min")
        if not MIN_DRAWS <= self.draws <= 1_000_000:
            raise InputError(f"must lie in {MIN_DRAWS}..1000000", where="policy.draws")
        if not 0.1 <= self.max_over_calculator <= 1.5:
            raise InputError("must lie in 0.1..1.5", where="policy.max_over_calculator")
        if not 0 <= self.max_basal_change <= HARD_MAX_BASAL_CHANGE:
            raise InputError(f"must lie in 0..{HARD_MAX_BASAL_CHANGE:g}", where="policy.max_basal_change")
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
    record_us: int | None = None  # length of the record; None: not asked for
    changing: str = ""  # a change under way that the model does not explain, in words
    warned: str = (
        ""  # such a change where refusing insulin would be the worse: said, and insulin may be advised
    )
    basal_uph: float | None = None  # the pump's present rate
    basal_week_uph: float | None = (
        None  # the lowest usual one of the last week (core.basal_week); None: not known
    )
    assumed: tuple[str, ...] = ()  # what about the person is assumed
    eaten_g: float = 0.0  # meals on record of the last two hours (the courses hold them already)
    dosed_u: float = 0.0  # boluses since 20 min before the first of them
    # Of the last half hour: boluses, carbohydrate logged as eaten, and how long ago the newest of each was.
    fresh_u: float = 0.0
    fresh_min: float = 0.0
    fresh_g: float = 0.0
    fresh_g_min: float = 0.0

    @property
    def dosing_mgdl(self) -> float:
        """The glucose that the calculator works with."""
        if self.expected_mgdl is None or not math.isfinite(self.expected_mgdl):
            return self.glucose_mgdl
        return min(self.glucose_mgdl, self.expected_mgdl)

    @property
    def age_s(self) -> float:
        """Age of the newest reading."""
        return (self.time_us - self.data_time_us) / US_PER_S


class Rung(msgspec.Struct, frozen=True, array_like=True):
    """Upper bounds of the chances of a low after one dose."""

    dose_u: float
    p_below_70_bound: float
    p_below_54_bound: float


class Band(msgspec.Struct, frozen=True):
    """Predicted glucose, mg/dL, at minutes from now (from the dose, when it is for later: from now all the same)."""

    minutes: tuple[float, ...] = ()
    p05: tuple[float, ...] = ()
    p50: tuple[float, ...] = ()
    p95: tuple[float, ...] = ()

    def rows(self) -> tuple[tuple[float, float, float, float], ...]:
        """(minute, p05, p50, p95) each half hour: enough to draw."""
        rows = zip(self.minutes, self.p05, self.p50, self.p95, strict=True)
        return tuple(row for row in rows if row[0] % 30 == 0)


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
    question: str = "meal"
    action: str = "none"  # bolus | carbs | basal | none
    carbs_g: float = 0.0  # of the meal asked about
    eat_g: float = 0.0  # fast carbohydrate advised against a low
    basal_uph: float | None = None  # new basal rate advised
    why: tuple[str, ...] = ()  # the main contributions, largest first
    calculator_u: float = 0.0  # what the ratio arithmetic alone would give
    iob_u: float = 0.0
    p_below_70_bound: float = 1.0  # upper 95 % bound
    p_below_54_bound: float = 1.0
    p_low_soon: float | None = None  # below 70 within the hour, with nothing done
    in_range: float | None = None  # expected share of time in 70..180
    in_range_without: float | None = None
    band: Band = Band()
    band_without: Band = Band()
    ladder: tuple[Rung, ...] = ()
    assumptions: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()  # what would change this answer
    data_time_us: int = 0
    data_age_s: float = 0.0
    model: str = ""
    max_dose_u: float = HARD_MAX_DOSE_U  # the limit that stood over this answer

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
            limits=(*self.limits, *self.assumptions),
            data_time_us=self.data_time_us,
            model=self.model,
            approved_by=approved_by,
            approved_us=approved_us,
            action=self.action,
            eat_g=self.eat_g,
            why=self.why,
            changes=self.changes,
            ladder=tuple((r.dose_u, r.p_below_70_bound, r.p_below_54_bound) for r in self.ladder),
            band=self.band.rows(),
            band_without=self.band_without.rows(),
            max_dose_u=self.max_dose_u,
        )


def policy_of(patient: Patient, draws: int = 1000) -> Policy:
    """The clinician's limits from the person's file; the cautious defaults where it is silent."""
    therapy, default = patient.therapy, Policy()
    return Policy(
        target_mgdl=max(70.0, therapy.target_mgdl or default.target_mgdl),
        carb_ratio_g_per_u=therapy.carb_ratio_g_per_u,
        correction_mgdl_per_u=therapy.correction_mgdl_per_u,
        max_dose_u=default.max_dose_u if therapy.max_bolus_u is None else therapy.max_bolus_u,
        max_iob_u=default.max_iob_u if therapy.max_iob_u is None else therapy.max_iob_u,
        max_basal_uph=therapy.max_basal_uph,
        basal_modulation=patient.research.basal_modulation,
        draws=draws,
    )


def within_standing(own: Policy, allowed: StandingPolicy) -> Policy:
    """The patient file's limits and the standing policy's, whichever is lower; InputError for what is no number."""
    ratio, correction = allowed.carb_ratio_g_per_u, allowed.correction_mgdl_per_u
    if not math.isfinite(allowed.target_mgdl):
        raise InputError("must be a number", where="policy.target_mgdl")
    msgspec.structs.replace(own, max_dose_u=allowed.max_dose_u, max_iob_u=allowed.max_iob_u).checked()
    return msgspec.structs.replace(
        own,
        target_mgdl=max(70.0, allowed.target_mgdl),
        carb_ratio_g_per_u=own.carb_ratio_g_per_u if ratio is None else ratio,
        correction_mgdl_per_u=own.correction_mgdl_per_u if correction is None else correction,
        max_dose_u=min(own.max_dose_u, allowed.max_dose_u),
        max_iob_u=min(own.max_iob_u, allowed.max_iob_u),
    ).checked()
