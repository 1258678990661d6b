"""A virtual person with type 1 diabetes who wears a pump, a CGM and a strap, and lives by the clock.

``VirtualPerson(seed)`` is a body (``person_model``), habits (``person_life``), a therapy found by simulating
that body (``person_therapy``) and sensors with their errors (``person_cgm``). The same seed and start give
the same events for ever, however many days are asked for. Events are what devices and person report; the
truth (plasma glucose, what was really eaten) comes beside them, for tests and benches only.

``python -m firmware_sim.person --person SEED`` prints what that person's clinic would write down; with ``--out FOLDER`` it
writes that and a recording of some days.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from firmware_sim.errors import SimError
from firmware_sim.person_cgm import CGM_PERIOD_MIN, Cgm, HeartRate, SensorErrors, fingerstick
from firmware_sim.person_life import DayPlan, PlannedEffort, PlannedMeal, draw_habits, plan_day
from firmware_sim.person_model import (
    EATING_G_PER_MIN,
    GP,
    GS,
    GT,
    PMOL_PER_U,
    QS1,
    QS2,
    Exercise,
    Inputs,
    X,
    draw_physiology,
    make_step,
)
from firmware_sim.person_therapy import DAY_MIN, draw_profile, find_therapy, on_board
from firmware_sim.recording import parse_time, recording_text, write_person

Event = tuple[int, str, float]  # (time_us UTC, kind, value)

_US_PER_MIN: Final = 60_000_000
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_RESCUE_G: Final = 15.0
_RESCUE_WAIT_MIN: Final = 20
_RESCUE_LOGGED: Final = 0.6
_SYMPTOMS_MGDL: Final = 54.0  # plasma glucose that is felt without a sensor
_CORRECTION_WAIT_MIN: Final = 150
_CGM_USABLE_MIN: Final = 15
_DRIFT_MIN: Final = 15  # how often the day-to-day sensitivity moves
_DRIFT_TAU_MIN: Final = 720.0
_LONGEST_DAYS: Final = 400  # more than a year: a slip; a year takes a minute
_MEAL, _BOLUS, _EFFORT, _STICK = range(4)


@dataclass(frozen=True, slots=True)
class Illness:
    """Days of fever: less insulin sensitivity, faster heart. Times in days since the start of play."""

    start_day: float
    days: float
    sensitivity: float = 0.65
    heart_bpm: float = 10.0


@dataclass(frozen=True, slots=True)
class TrueMeal:
    """What was really eaten, and the count that was logged (None: nothing was said)."""

    time_us: int
    carbs_g: float
    counted_g: float | None


@dataclass(frozen=True, slots=True)
class Truth:
    """The body, minute by minute. ``plasma_mgdl[k]`` is glucose k minutes after ``start_us``."""

    start_us: int
    plasma_mgdl: np.ndarray
    interstitial_mgdl: np.ndarray
    sensitivity: np.ndarray  # multiplier of insulin's action, all causes
    meals: tuple[TrueMeal, ...]
    initial: tuple[float, ...]
    forcing: tuple[Inputs, ...]

    def plasma_at(self, time_us: int) -> float:
        """mg/dL; NaN outside the play."""
        k = (time_us - self.start_us) // _US_PER_MIN
        return float(self.plasma_mgdl[k]) if 0 <= k < len(self.plasma_mgdl) else math.nan


@dataclass(frozen=True, slots=True)
class Record:
    events: list[Event]
    truth: Truth


class VirtualPerson:
    """One person. Everything about them is drawn from ``seed``; ``play`` lets them live from a time on."""

    def __init__(
        self,
        seed: int,
        *,
        timezone: str = "UTC",
        sensor: str | SensorErrors = "typical",
        unannounced: float = 0.10,
        counting_cv: float | None = None,
        variability: float = 0.15,
        therapy_error: float = 0.12,
        flat_day: bool = False,
        exercise: bool = True,
        corrects_above: float | None = None,
        illness: tuple[Illness, ...] = (),
        sensitivity_change: tuple[tuple[float, float], ...] = (),
    ) -> None:
        """``unannounced``: fraction of meals neither logged nor dosed. ``counting_cv``: None draws a person's
        own in .20–.25. ``variability``: SD of ln sensitivity within and between days. ``flat_day``: no daily
        profile, no dawn. ``corrects_above``: mg/dL from which a correction is thought of; None draws a person's own
        in 200–260. ``sensitivity_change``: (day, factor) steps. ``sensor``: see ``person_cgm.Cgm``."""
        if seed < 0:
            raise ValueError("seed must not be negative")
        self.seed = seed
        self.zone = ZoneInfo(timezone)
        self.sensor, self.variability = sensor, variability
        self.illness, self.sensitivity_change, self.exercise = illness, sensitivity_change, exercise
        rng = np.random.default_rng([seed, 0])
        while True:
            self.body = draw_physiology(rng)
            self.profile = draw_profile(rng, flat=flat_day)
            self.therapy = find_therapy(self.body, self.profile, rng, therapy_error)
            ratio, factor = self.therapy.carb_ratio_g_per_u[1][1], self.therapy.correction_mgdl_per_u
            if (
                3.5 <= ratio <= 25.0 and 15.0 <= factor <= 110.0
            ):  # outside, no adult clinic would recognise them
                break
        rng = np.random.default_rng([seed, 1])
        self.habits = draw_habits(rng, self.body.bw, unannounced=unannounced, counting_cv=counting_cv)
        if corrects_above is not None:
            self.habits = replace(self.habits, correction_mgdl=corrects_above)
        self.resting_bpm = float(np.clip(rng.normal(64.0, 7.0), 52.0, 82.0))
        self.exercise_gain = math.exp(0.4 * float(np.clip(rng.standard_normal(), -2.0, 2.0)))

    @property
    def weight_kg(self) -> float:
        return self.body.bw

    def prescription(self) -> str:
        """The patient file (TOML) of this person: weight and therapy settings, as the clinic knows them."""
        therapy = self.therapy
        return (
            f'timezone = "{self.zone.key}"\nweight_kg = {self.weight_kg:.0f}\n[therapy]\n'
            f"carb_ratio_g_per_u = {therapy.carb_ratio_g_per_u[1][1]:.1f}\n"
            f"correction_mgdl_per_u = {therapy.correction_mgdl_per_u:.0f}\n"
            f"target_mgdl = {therapy.target_mgdl:.0f}\n"
        )

    def play(self, start_us: int) -> Playback:
        """Begin to live at ``start_us`` (rounded down to a whole minute)."""
        return Playback(self, start_us)

    def stream(self, start_us: int) -> Iterator[Event]:
        """Events in time order, without end; a day is simulated when its first event is asked for."""
        playback = self.play(start_us)
        while True:
            yield from playback.next_day()

    def record(self, start_us: int, days: float) -> Record:
        """Events and truth of ``days`` (the last one may be a part)."""
        playback = self.play(start_us)
        events: list[Event] = []
        left = round(days * DAY_MIN)
        while left > 0:
            events += playback.live(min(left, DAY_MIN))
            left -= DAY_MIN
        return Record(events, playback.truth())

    def events(self, start_us: int, days: float) -> list[Event]:
        """Events in time order: kinds cgm_mgdl, bolus_u, basal_uph, carbs_g, heart_rate_bpm, smbg_mgdl."""
        return self.record(start_us, days).events

    def plasma_if(
        self,
        truth: Truth,
        bolus_u: Mapping[int, float] | None = None,
        carbs_g: Mapping[int, float] | None = None,
    ) -> np.ndarray:
        """Plasma glucose (mg/dL per minute) had extra units or grams been given at these minutes of the play,
        everything else as it was (negative amounts take away, never below nothing)."""
        step = make_step(self.body)
        per_unit = PMOL_PER_U / self.body.bw
        eaten = [u.eaten_mg for u in truth.forcing]
        meal = [u.meal_mg for u in truth.forcing]
        for start, grams in (carbs_g or {}).items():
            for k in range(math.ceil(abs(grams) / EATING_G_PER_MIN)):
                if start + k < len(eaten):
                    eaten[start + k] = max(
                        0.0, eaten[start + k] + 1000.0 * math.copysign(EATING_G_PER_MIN, grams)
                    )
            for k in range(start, min(len(meal), start + 360)):
                meal[k] = max(1000.0, meal[k] + 1000.0 * grams)
        s = list(truth.initial)
        course = np.empty(len(truth.forcing))
        extra = bolus_u or {}
        for k, u in enumerate(truth.forcing):
            course[k] = s[GP] / self.body.vg
            insulin = max(0.0, u.insulin_pmolkgmin + per_unit * extra.get(k, 0.0))
            s = step(s, u._replace(insulin_pmolkgmin=insulin, eaten_mg=eaten[k], meal_mg=meal[k]), 1.0)
        return course


@dataclass
class _Course:
    """What the play has written down so far."""

    plasma: list[float] = field(default_factory=list)
    interstitial: list[float] = field(default_factory=list)
    sensitivity: list[float] = field(default_factory=list)
    meals: list[TrueMeal] = field(default_factory=list)
    forcing: list[Inputs] = field(default_factory=list)


class Playback:
    """One life, minute by minute. All state of the play is here; the person stays as it is."""

    def __init__(self, person: VirtualPerson, start_us: int) -> None:
        self._p = person
        self._start_min = start_us // _US_PER_MIN
        self.start_us = self._start_min * _US_PER_MIN
        seed = person.seed
        self._cgm = Cgm(np.random.default_rng([seed, 3]), person.sensor)
        self._heart = HeartRate(np.random.default_rng([seed, 4]), person.resting_bpm)
        self._drift_rng = np.random.default_rng([seed, 5])
        self._choice = np.random.default_rng([seed, 6])
        self._meter = np.random.default_rng([seed, 7])
        self._step = make_step(person.body)
        self._effort = Exercise(person.resting_bpm, person.exercise_gain)
        self._s = person.body.steady_state()
        begin = float(self._choice.uniform(100.0, 170.0)) / person.body.gb
        for k in (GP, GT, GS):
            self._s[k] *= begin
        self._initial = tuple(self._s)
        self._minute = 0
        self._drift = person.variability * float(self._drift_rng.standard_normal())
        self._to_eat_mg = self._meal_mg = 0.0
        self._gut = 1.0
        self._doses: list[tuple[float, float]] = []
        self._basal_now = -1.0
        self._bout: PlannedEffort | None = None
        self._bout_until = -1
        self._last_cgm: tuple[int, float] | None = None
        self._last_rescue = self._last_dose = -10_000
        self._offset_min = 0
        self._day = -1
        self._plan: DayPlan | None = None
        self._agenda: list[tuple[int, int, int, PlannedMeal | PlannedEffort | None]] = []
        self._order = 0
        self._events: list[Event] = []
        self._kept = _Course()

    def next_day(self) -> list[Event]:
        """The events of the next 24 hours, in time order."""
        return self.live(DAY_MIN)

    def live(self, minutes: int) -> list[Event]:
        """The events of the next ``minutes``."""
        self._events = []
        for _ in range(minutes):
            self._one_minute()
        return self._events

    def truth(self) -> Truth:
        """The truth of what was played so far."""
        k = self._kept
        return Truth(
            self.start_us,
            np.array(k.plasma),
            np.array(k.interstitial),
            np.array(k.sensitivity),
            tuple(k.meals),
            self._initial,
            tuple(k.forcing),
        )

    # --- one minute -------------------------------------------------------------------------------------

    def _one_minute(self) -> None:
        person, body, minute = self._p, self._p.body, self._minute
        utc_min = self._start_min + minute
        if minute % 60 == 0:
            offset = datetime.fromtimestamp(utc_min * 60, UTC).astimezone(person.zone).utcoffset()
            self._offset_min = int(offset.total_seconds() // 60) if offset is not None else 0
        local = utc_min + self._offset_min
        of_day = local % DAY_MIN
        plan = self._plan_for(local)
        awake = plan.awake(of_day)
        plasma, interstitial = self._s[GP] / body.vg, self._s[GS] / body.vg

        shown = self._cgm.minute(interstitial, of_day)
        if shown is not None:
            self._tell("cgm_mgdl", shown)
            self._last_cgm = (minute, shown)
        bolus_u = self._follow_agenda(local, of_day, plasma)
        if minute % CGM_PERIOD_MIN == 0:
            bolus_u += self._react(of_day, awake, plasma)
        effort_bpm = self._bout.effort_bpm if self._bout is not None and minute < self._bout_until else 0.0
        if minute % CGM_PERIOD_MIN == 0:
            rate = self._heart.five_minutes(of_day, effort_bpm, awake, self._fever_bpm())
            self._tell("heart_rate_bpm", rate)
        basal_uph = self._basal(of_day, effort_bpm > 0.0)
        sensitivity = self._sensitivity(of_day)

        eaten_mg = min(self._to_eat_mg, 1000.0 * EATING_G_PER_MIN)
        self._to_eat_mg -= eaten_mg
        vm0, vmx, km = self._effort.minute(effort_bpm, self._s[X], body.ib)
        insulin = (basal_uph / 60.0 + bolus_u) * PMOL_PER_U / body.bw
        u = Inputs(
            insulin, eaten_mg, self._meal_mg, sensitivity, person.profile.egp[of_day], vm0, vmx, km, self._gut
        )
        kept = self._kept
        kept.plasma.append(plasma)
        kept.interstitial.append(interstitial)
        kept.sensitivity.append(sensitivity)
        kept.forcing.append(u)
        self._s = self._step(self._s, u, 1.0)
        self._minute = minute + 1

    def _tell(self, kind: str, value: float) -> None:
        self._events.append(((self._start_min + self._minute) * _US_PER_MIN, kind, value))

    def _plan_for(self, local: int) -> DayPlan:
        day = local // DAY_MIN
        if self._plan is not None and day == self._day:
            return self._plan
        self._day = day
        plan = self._plan = plan_day(self._p.habits, self._p.seed, date.fromordinal(_EPOCH_ORDINAL + day))
        begin = day * DAY_MIN
        for meal in plan.meals:
            self._note(begin + meal.minute, _MEAL, meal, local)
            if meal.counted_g is not None:
                self._note(begin + meal.bolus_minute, _BOLUS, meal, local)
        if self._p.exercise:
            for effort in plan.efforts:
                self._note(begin + effort.minute, _EFFORT, effort, local)
        for stick in plan.fingersticks:
            self._note(begin + stick, _STICK, None, local)
        return plan

    def _note(self, at: int, what: int, item: PlannedMeal | PlannedEffort | None, local: int) -> None:
        if at >= local:  # a play that begins at noon does not eat the breakfast it missed
            self._order += 1
            heapq.heappush(self._agenda, (at, self._order, what, item))

    def _follow_agenda(self, local: int, of_day: int, plasma: float) -> float:
        """Do what is due; the bolus of this minute, U."""
        bolus_u = 0.0
        while self._agenda and self._agenda[0][0] <= local:
            _, _, what, item = heapq.heappop(self._agenda)
            if what == _STICK:
                self._tell("smbg_mgdl", fingerstick(self._meter, plasma))
            elif isinstance(item, PlannedEffort):
                self._bout, self._bout_until = item, self._minute + item.span_min
            elif isinstance(item, PlannedMeal) and what == _MEAL:
                self._eat(item.carbs_g, item.counted_g, item.gut)
            elif isinstance(item, PlannedMeal) and item.counted_g is not None:
                self._tell("carbs_g", item.counted_g)
                bolus_u += self._dose(item.counted_g, of_day)
        return bolus_u

    def _eat(self, carbs_g: float, counted_g: float | None, gut: float) -> None:
        left = self._meal_mg if self._to_eat_mg > 0 else self._s[QS1] + self._s[QS2]
        self._meal_mg = left + 1000.0 * carbs_g
        self._to_eat_mg += 1000.0 * carbs_g
        self._gut = gut
        self._kept.meals.append(TrueMeal((self._start_min + self._minute) * _US_PER_MIN, carbs_g, counted_g))

    def _dose(self, counted_g: float, of_day: int) -> float:
        """Ask the calculator, deliver and report; U."""
        self._doses = [d for d in self._doses if self._minute - d[0] < 400]
        seen = self._seen()
        units = self._p.therapy.bolus_u(counted_g, seen, on_board(self._doses, self._minute), of_day)
        units = round(units, 2)
        if units > 0.0:
            self._tell("bolus_u", units)
            self._doses.append((float(self._minute), units))
            self._last_dose = self._minute
        return units

    def _seen(self) -> float | None:
        if self._last_cgm is None or self._minute - self._last_cgm[0] > _CGM_USABLE_MIN:
            return None
        return self._last_cgm[1]

    def _react(self, of_day: int, awake: bool, plasma: float) -> float:
        """Sugar against a low, a correction against a high. Draws are the same whatever happens."""
        rescue_draw, log_draw, correct_draw = self._choice.random(3)
        seen = self._seen()
        habits, now = self._p.habits, self._minute
        low = (seen is not None and seen < habits.rescue_mgdl) or plasma < _SYMPTOMS_MGDL
        if low and now - self._last_rescue >= _RESCUE_WAIT_MIN:
            if rescue_draw < (0.5 if awake else 0.15):
                self._last_rescue = now
                logged = log_draw < _RESCUE_LOGGED
                self._eat(_RESCUE_G, _RESCUE_G if logged else None, 1.0)
                if logged:
                    self._tell("carbs_g", _RESCUE_G)
            return 0.0
        high = awake and seen is not None and seen > habits.correction_mgdl
        if high and now - self._last_dose >= _CORRECTION_WAIT_MIN and correct_draw < 0.15:
            return self._dose(0.0, of_day)
        return 0.0

    def _basal(self, of_day: int, in_effort: bool) -> float:
        rate = self._p.therapy.basal_at(of_day)
        if in_effort and self._bout is not None and self._bout.reduced_basal:
            rate = round(0.5 * rate, 3)
        if rate != self._basal_now:
            self._basal_now = rate
            self._tell("basal_uph", round(rate, 3))
        return rate

    def _sensitivity(self, of_day: int) -> float:
        """Profile × slow wandering × illness × steps."""
        person, minute = self._p, self._minute
        if minute % _DRIFT_MIN == 0:
            keep = math.exp(-_DRIFT_MIN / _DRIFT_TAU_MIN)
            noise = person.variability * math.sqrt(1 - keep * keep)
            self._drift = keep * self._drift + noise * float(self._drift_rng.standard_normal())
        value = person.profile.sensitivity[of_day] * math.exp(self._drift)
        day = minute / DAY_MIN
        for ill in person.illness:
            value *= 1.0 - (1.0 - ill.sensitivity) * _presence(day, ill)
        for from_day, factor in person.sensitivity_change:
            if day >= from_day:
                value *= factor
        return value

    def _fever_bpm(self) -> float:
        day = self._minute / DAY_MIN
        return sum(ill.heart_bpm * _presence(day, ill) for ill in self._p.illness)


def _presence(day: float, ill: Illness) -> float:
    """0 to 1: comes and goes within half a day."""
    return min(1.0, max(0.0, 2.0 * min(day - ill.start_day, ill.start_day + ill.days - day)))


def main(argv: list[str] | None = None) -> int:
    """Print a person's patient file, or write it beside a recording of their days; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m firmware_sim.person", description="A virtual person.")
    parser.add_argument("--person", type=int, required=True, metavar="SEED", help="which virtual person")
    parser.add_argument("--timezone", default="Europe/London", help="the person's zone")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write events.csv.gz and patient.toml there; else print"
    )
    parser.add_argument("--days", type=float, default=14.0, help="how long the recording is")
    parser.add_argument("--from", dest="start", default="2026-01-05T00:00", metavar="ISO", help="its start")
    parser.add_argument(
        "--corrects-above",
        type=float,
        metavar="MGDL",
        help="corrects from here on; default: the person's own",
    )
    args = parser.parse_args(argv)
    try:
        sys.stdout.write(_answer(args))
    except SimError as err:
        sys.stderr.write(f"person: {err}\n")
        return err.exit_code
    return 0


def _answer(args: argparse.Namespace) -> str:
    try:
        zone = ZoneInfo(args.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SimError(f"unknown time zone {args.timezone[:40]!r}", where="--timezone") from None
    if args.person < 0:
        raise SimError("must not be negative", where="--person")
    if not 0 < args.days <= _LONGEST_DAYS:
        raise SimError(f"must lie in 0..{_LONGEST_DAYS}", where="--days")
    above = args.corrects_above
    if above is not None and not 100 <= above <= 400:
        raise SimError("must lie in 100..400 mg/dL", where="--corrects-above")
    try:
        start_us = parse_time(args.start, zone)
    except (ValueError, OverflowError):
        raise SimError(
            f"not a time: {args.start[:40]!r}", where="--from", mend="write 2026-01-05T00:00"
        ) from None
    person = VirtualPerson(args.person, timezone=zone.key, corrects_above=above)
    if args.out is None:
        return person.prescription()
    text = recording_text(person.events(start_us, args.days))
    return "".join(f"made {path}\n" for path in write_person(args.out, text, person.prescription()))


if __name__ == "__main__":
    sys.exit(main())
