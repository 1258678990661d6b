"""A person, a sensor and whoever decides on doses, minute by minute; and how to judge the outcome.

The scenario of the peers' figures: three meals a day whose size varies, counted with 25 % error, one in ten not
announced at all, insulin sensitivity drawn anew each day within ±30 %, sensor noise, 15 g of sugar when the sensor
shows less than 60. Judged on plasma glucose after the run-in, in which everybody doses by the calculator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import numpy as np

from bench.bodies import Body
from bench.padova import MEALS, PORTION, START_US, Simulator
from core.advice_types import MODULATE, Advice, Policy
from core.dosing import calculator_dose, insulin_on_board
from core.messages import Sample
from core.patient import Patient, Therapy
from core.twin import Twin
from core.units import US_PER_MIN

RUN_IN_DAYS: Final = 7  # all of the twin's calibrations, and a week of habits
MEAL_CV: Final = 0.15
COUNT_CV: Final = 0.25
UNANNOUNCED: Final = 0.10
SENSITIVITY: Final = (0.7, 1.3)
RESCUE_MGDL: Final = 60.0
RESCUE_G: Final = 15.0
RESCUE_EVERY_MIN: Final = 20
AWAKE_H: Final = (7, 23)
LOOK_EVERY_MIN: Final = 60  # how often an awake person looks whether a correction is due
CORRECT_ABOVE_MGDL: Final = 150.0
BOLUS_PAUSE_MIN: Final = 90
SUGAR_LOOK_MIN: Final = 15
SUGAR_LOOK_BELOW_MGDL: Final = 110.0  # only then is the adviser asked whether a low is coming
TARGET_MGDL: Final = 110.0
LOW_SPAN_MIN: Final = 300
DRAWS: Final = 2000  # courses of the cloud's adviser, which proposes the doses


@dataclass
class Given:
    """One accepted dose: what was promised, and the lowest plasma glucose of the five hours after it."""

    minute: int
    bound_70: float
    bound_54: float
    lowest: float = math.nan


@dataclass
class Day:
    """What a decision may rest on."""

    minute: int
    cgm_mgdl: float
    boluses: list[tuple[int, float]] = field(default_factory=list)  # (µs, U)

    @property
    def time_us(self) -> int:
        return START_US + self.minute * US_PER_MIN


class Decider(Protocol):
    """Whoever decides. One that is a ``Loop`` is asked with every reading too."""

    name: str

    def tell(self, kind: str, minute: int, value: float) -> None: ...
    def meal(self, day: Day, counted_g: float) -> float: ...
    def between(self, day: Day, *, correct: bool) -> tuple[float, float]:
        """(insulin U, sugar g) between meals. ``correct``: whether insulin is thought of, else sugar only."""
        ...


@runtime_checkable
class Loop(Protocol):
    """Whoever changes the pump's rate by itself: a closed loop."""

    def loop(self, day: Day, usual_uph: float) -> tuple[float, float]:
        """Basal rate (U/h) until the next reading, and insulin to give at once (U)."""
        ...


class BasalBolus:
    """simglucose's own controller: a bolus at meals, a correction above 150 towards 140, no insulin on board."""

    name = "basal-bolus of simglucose"

    def __init__(self, carb_ratio: float, correction: float) -> None:
        self._ratio, self._correction = carb_ratio, correction

    def tell(self, kind: str, minute: int, value: float) -> None:
        pass

    def meal(self, day: Day, counted_g: float) -> float:
        above = (day.cgm_mgdl - 140.0) / self._correction if day.cgm_mgdl > 150.0 else 0.0
        return max(0.0, counted_g / self._ratio + above)

    def between(self, day: Day, *, correct: bool) -> tuple[float, float]:
        return 0.0, 0.0


class Calculator(BasalBolus):
    """Carb ratio, correction factor, insulin on board; with corrections between meals."""

    name = "calculator with corrections, IOB"

    def meal(self, day: Day, counted_g: float) -> float:
        iob_u = insulin_on_board(day.time_us, day.boluses)
        return calculator_dose(counted_g, day.cgm_mgdl, iob_u, TARGET_MGDL, self._ratio, self._correction)

    def between(self, day: Day, *, correct: bool) -> tuple[float, float]:
        return (self.meal(day, 0.0), 0.0) if correct and day.cgm_mgdl > CORRECT_ABOVE_MGDL else (0.0, 0.0)


class Adviser:
    """The twin's advice, followed to the letter. Refused at a meal: no dose; the next look may find one."""

    name = "twin, advice"

    def __init__(
        self, patient: Patient, policy: Policy, *, sugar: bool = True, name: str = "twin, advice"
    ) -> None:
        self.name, self._policy, self._sugar = name, policy, sugar
        self.twin = Twin(patient)
        self._number, self._open_at = 0, -10_000
        self.given: list[Given] = []
        self.asked = self.refused = 0
        self.why: dict[str, int] = {}

    def tell(self, kind: str, minute: int, value: float) -> None:
        self._number += 1
        self.twin.observe([Sample(START_US + minute * US_PER_MIN, kind, value, kind, self._number)])

    def meal(self, day: Day, counted_g: float) -> float:
        dose_u = self._ask(day, counted_g, "meal").dose_u
        self._open_at = day.minute if dose_u == 0 else -10_000
        return dose_u

    def between(self, day: Day, *, correct: bool) -> tuple[float, float]:
        if correct and (day.cgm_mgdl > CORRECT_ABOVE_MGDL or day.minute - self._open_at <= 120):
            return self._ask(day, 0.0, "correction").dose_u, 0.0
        if self._sugar and day.cgm_mgdl < SUGAR_LOOK_BELOW_MGDL:
            answer = self.twin.advise(day.time_us, 0.0, self._policy, "now")
            return 0.0, answer.eat_g
        return 0.0, 0.0

    def _ask(self, day: Day, counted_g: float, question: str) -> Advice:
        answer = self.twin.advise(day.time_us, counted_g, self._policy, question)
        self.asked += 1
        if answer.refused:
            self.refused += 1
            self.why[answer.refused[:48]] = self.why.get(answer.refused[:48], 0) + 1
        elif answer.dose_u > 0:
            self.given.append(Given(day.minute, answer.p_below_70_bound, answer.p_below_54_bound))
        return answer


class Modulating(Adviser):
    """Research mode: the basal rate too, with every reading."""

    name = "twin, advice and basal modulation (closed loop, research)"

    def __init__(self, patient: Patient, policy: Policy) -> None:
        super().__init__(patient, policy, name=self.name)

    def loop(self, day: Day, usual_uph: float) -> tuple[float, float]:
        """The usual rate when refused."""
        answer = self.twin.advise(day.time_us, 0.0, self._policy, MODULATE)
        return (usual_uph if answer.refused or answer.basal_uph is None else answer.basal_uph), 0.0


@dataclass(frozen=True)
class Outcome:
    """One person under one decider, after the run-in."""

    group: str
    person: str
    decider: str
    days: int
    tir: float
    below_70: float
    below_54: float
    above_180: float
    episodes_54: int
    rescues: int
    sugars: int  # advised against a low that was coming
    mean: float
    insulin_u: float
    given: tuple[Given, ...] = ()
    asked: int = 0
    refused: int = 0
    why: tuple[tuple[str, int], ...] = ()


def judge(
    plasma: np.ndarray, group: str, person: str, decider: Decider, rescues: int, sugars: int, insulin_u: float
) -> Outcome:
    """Figures of plasma glucose per minute from the end of the run-in on."""
    kept = plasma[RUN_IN_DAYS * 1440 :]
    given = list(getattr(decider, "given", ()))
    for one in given:
        one.lowest = float(plasma[one.minute : one.minute + LOW_SPAN_MIN].min())
    return Outcome(
        group,
        person,
        decider.name,
        len(kept) // 1440,
        100.0 * float(np.mean((kept >= 70) & (kept <= 180))),
        100.0 * float(np.mean(kept < 70)),
        100.0 * float(np.mean(kept < 54)),
        100.0 * float(np.mean(kept > 180)),
        episodes(kept, 54.0),
        rescues,
        sugars,
        float(kept.mean()),
        insulin_u,
        tuple(g for g in given if g.minute + LOW_SPAN_MIN <= len(plasma)),
        getattr(decider, "asked", 0),
        getattr(decider, "refused", 0),
        tuple(sorted(getattr(decider, "why", {}).items(), key=lambda item: -item[1])),
    )


def episodes(plasma: np.ndarray, below_mgdl: float) -> int:
    """Times that glucose stays below for 15 min; a new one begins after 15 min above."""
    count, low, high, inside = 0, 0, 15, False
    for value in plasma:
        low, high = (low + 1, 0) if value < below_mgdl else (0, high + 1)
        if not inside and low >= 15:
            inside, count = True, count + 1
        elif inside and high >= 15:
            inside = False
    return count


def padova_patient(body: Body, *, ratios: bool = True) -> Patient:
    """What a clinic knows of this person."""
    therapy = Therapy(
        basal_profile=(("00:00", body.basal_uph),),
        carb_ratio_g_per_u=body.carb_ratio if ratios else None,
        correction_mgdl_per_u=body.correction if ratios else None,
        target_mgdl=TARGET_MGDL,
    )
    return Patient(timezone="UTC", weight_kg=body.weight_kg, therapy=therapy)


def live(world: Simulator, body: Body, decider: Decider, days: int, seed: int) -> Outcome:
    """``days`` after the run-in. The same seed meets the same meals, errors, days and sensor, whoever decides."""
    group = body.name.split("#")[0]
    person = int(body.name.split("#")[1])
    rng = np.random.default_rng((seed, person, len(group)))
    noise = world.noise(world.sensor, seed=int(rng.integers(1 << 30)))
    total = RUN_IN_DAYS + days
    factors = rng.uniform(*SENSITIVITY, total)
    meals: dict[int, tuple[float, float | None]] = {}
    for day in range(total):
        for at, grams in MEALS:
            eaten = grams * PORTION[group] * max(0.3, 1.0 + MEAL_CV * rng.standard_normal())
            counted = eaten * max(0.2, 1.0 + COUNT_CV * rng.standard_normal())
            at_min = day * 1440 + at + int(rng.integers(-20, 21))
            meals[at_min] = (eaten, None if rng.random() < UNANNOUNCED else counted)
    run_in = Calculator(body.carb_ratio, body.correction)
    now = Day(0, 120.0)
    plasma = np.zeros(total * 1440)
    rescue_at = bolus_at = open_at = -10_000
    rescues = sugars = 0
    insulin_u = 0.0
    rate_uph = body.basal_uph
    for minute in range(total * 1440):
        if minute % 1440 == 0:
            body.set_sensitivity(float(factors[minute // 1440]))
        plasma[minute] = body.plasma_mgdl
        who: Decider = run_in if minute < RUN_IN_DAYS * 1440 else decider
        dose_u = carbs_g = micro_u = 0.0
        now.minute = minute
        if minute % 60 == 0:
            decider.tell("basal_uph", minute, rate_uph)
        if minute % 5 == 0:
            now.cgm_mgdl = float(min(max(body.sensed_mgdl + float(next(noise)), 39.0), 400.0))
            decider.tell("cgm_mgdl", minute, now.cgm_mgdl)
            if isinstance(who, Loop):
                wanted_uph, micro_u = who.loop(now, body.basal_uph)
                if wanted_uph != rate_uph:
                    rate_uph = wanted_uph
                    decider.tell("basal_uph", minute, rate_uph)
                if micro_u > 0:
                    decider.tell("bolus_u", minute, micro_u)
        if minute in meals:
            carbs_g, counted_g = meals[minute]
            if counted_g is not None:
                dose_u = who.meal(now, counted_g)
                decider.tell("carbs_g", minute, counted_g)
                open_at = minute if dose_u == 0 else -10_000
        elif now.cgm_mgdl < RESCUE_MGDL and minute - rescue_at >= RESCUE_EVERY_MIN:
            rescue_at, carbs_g = minute, RESCUE_G
            rescues += minute >= RUN_IN_DAYS * 1440
            decider.tell("carbs_g", minute, carbs_g)
        elif minute % SUGAR_LOOK_MIN == 0 and minute - rescue_at >= RESCUE_EVERY_MIN:
            awake = AWAKE_H[0] <= minute % 1440 / 60 < AWAKE_H[1]
            # An open meal (its dose was refused) is looked after each quarter of an hour, else once an hour.
            due = minute % LOOK_EVERY_MIN == 0 or minute - open_at <= 120
            correct = awake and due and minute - bolus_at >= BOLUS_PAUSE_MIN
            dose_u, carbs_g = who.between(now, correct=correct)
            if carbs_g > 0:
                rescue_at = minute
                sugars += 1
                decider.tell("carbs_g", minute, carbs_g)
        if dose_u > 0:
            bolus_at, open_at = minute, -10_000
            insulin_u += dose_u
            now.boluses = [b for b in now.boluses if now.time_us - b[0] < 400 * US_PER_MIN]
            now.boluses.append((now.time_us, dose_u))
            decider.tell("bolus_u", minute, dose_u)
        body.minute(rate_uph / 60.0 + dose_u + micro_u, carbs_g)
    return judge(plasma, group, body.name, decider, rescues, sugars, insulin_u)
