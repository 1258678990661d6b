"""A virtual person of firmware_sim who doses by the twin's advice instead of by their own calculator.

Everything else stays: habits, counting errors, unlogged meals, exercise, the sensor's faults, sugar against lows.
"""

from __future__ import annotations

from typing import Final

from bench.closed_loop import (
    DRAWS,
    RUN_IN_DAYS,
    SUGAR_LOOK_BELOW_MGDL,
    SUGAR_LOOK_MIN,
    Adviser,
    Calculator,
    Day,
    Decider,
    Outcome,
    judge,
)
from bench.padova import START_US
from core.advice_types import Policy
from core.patient import Patient, Therapy
from firmware_sim import person_cgm
from firmware_sim.person import Illness, Playback, VirtualPerson
from firmware_sim.person_cgm import SensorErrors

# What is different in each scenario from the plain one.
SCENARIOS: Final = {
    "plain": {},
    "unlogged meals (3 of 10)": {"unannounced": 0.3},
    "no exercise": {"exercise": False},
    "illness, 2 days": {"illness": (Illness(RUN_IN_DAYS + 0.5, 2.0),)},
    "carbs counted with 45 % error": {"counting_cv": 0.45},
    "sensor reads 15 % high": {"sensor": SensorErrors(1.15, 0.0, 0.0, 0.0, 1.2604, -0.4022, 3.252, 3)},
    "compression low each night": {},
}
PRESSED: Final = "compression low each night"


class AdvisedLife(Playback):
    """Plays a person; doses come from ``decider`` after the run-in."""

    def __init__(self, person: VirtualPerson, decider: Decider) -> None:
        super().__init__(person, START_US)
        self._decider = decider
        self._later: list[
            tuple[str, int, float]
        ] = []  # acts of this minute: the twin learns of them after it
        self.rescues = self.sugars = 0
        self.insulin_u = 0.0

    def _one_minute(self) -> None:
        for kind, minute, value in self._later:
            self._decider.tell(kind, minute, value)
        self._later.clear()
        super()._one_minute()

    def _tell(self, kind: str, value: float) -> None:
        super()._tell(kind, value)
        if kind in ("bolus_u", "carbs_g"):
            self._later.append((kind, self._minute, value))
        else:
            self._decider.tell(kind, self._minute, value)

    @property
    def _advised(self) -> bool:
        return self._minute >= RUN_IN_DAYS * 1440

    def _moment(self) -> Day:
        seen = self._seen()
        return Day(self._minute, seen if seen is not None else 0.0)

    def _dose(self, counted_g: float, of_day: int) -> float:
        if not self._advised or not isinstance(self._decider, Adviser):
            units = super()._dose(counted_g, of_day)
        else:
            day = self._moment()
            units = (
                self._decider.meal(day, counted_g)
                if counted_g > 0
                else self._decider.between(day, correct=True)[0]
            )
            if units > 0:
                self._tell("bolus_u", units)
                self._doses.append((float(self._minute), units))
                self._last_dose = self._minute
        self.insulin_u += units
        return units

    def _eat(self, carbs_g: float, counted_g: float | None, gut: float) -> None:
        super()._eat(carbs_g, counted_g, gut)
        self.rescues += self._advised and self._last_rescue == self._minute

    def _react(self, of_day: int, awake: bool, plasma: float) -> float:
        units = super()._react(of_day, awake, plasma)
        seen = self._seen()
        if (
            self._advised
            and isinstance(self._decider, Adviser)
            and awake
            and seen is not None
            and seen < SUGAR_LOOK_BELOW_MGDL
            and self._minute % SUGAR_LOOK_MIN == 0
            and self._minute - self._last_rescue >= 20
        ):
            grams = self._decider.between(self._moment(), correct=False)[1]
            if grams > 0:
                self.sugars += 1
                super()._eat(grams, grams, 1.0)
                self._tell("carbs_g", grams)
        return units


def life(seed: int, scenario: str, days: int, *, advised: bool) -> Outcome:
    """One person in one scenario, ``days`` after the run-in."""
    person = VirtualPerson(seed, **SCENARIOS[scenario])  # type: ignore[arg-type]
    therapy = person.therapy
    ratio, correction = therapy.carb_ratio_g_per_u[1][1], therapy.correction_mgdl_per_u
    decider: Decider = Calculator(ratio, correction)
    if advised:
        known = Therapy(
            carb_ratio_g_per_u=ratio, correction_mgdl_per_u=correction, target_mgdl=therapy.target_mgdl
        )
        policy = Policy(
            target_mgdl=therapy.target_mgdl,
            carb_ratio_g_per_u=ratio,
            correction_mgdl_per_u=correction,
            max_dose_u=20.0,
            max_iob_u=25.0,
            draws=DRAWS,
        )
        decider = Adviser(Patient(timezone="UTC", weight_kg=person.weight_kg, therapy=known), policy)
    else:
        decider.name = "own calculator, IOB"
    play = AdvisedLife(person, decider)
    usual = person_cgm._COMPRESSION_PER_NIGHT
    try:
        if scenario == PRESSED:
            person_cgm._COMPRESSION_PER_NIGHT = 1.0  # type: ignore[misc]
        for _ in range(RUN_IN_DAYS + days):
            play.next_day()
    finally:
        person_cgm._COMPRESSION_PER_NIGHT = usual  # type: ignore[misc]
    plasma = play.truth().plasma_mgdl
    return judge(plasma, scenario, f"virtual {seed}", decider, play.rescues, play.sugars, play.insulin_u)
