"""How the virtual person lives: meals and how they are counted, effort, sleep, fingersticks.

A day's plan depends on the seed and the calendar date only, so a play that starts later lives the same days.
Minutes are local minutes since midnight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np

MEAL_NAMES: Final = ("breakfast", "snack_am", "lunch", "snack_pm", "dinner", "snack_night")
_USUAL_MINUTE: Final = (450, 630, 765, 930, 1130, 1270)
_USUAL_CARBS_G: Final = (45.0, 17.0, 62.0, 18.0, 72.0, 17.0)
_USUAL_CHANCE: Final = (0.93, 0.25, 0.97, 0.4, 0.99, 0.35)
_GUT_SD: Final = 0.25  # meals differ by fat and protein [own choice]
_MAIN: Final = (True, False, True, False, True, False)


@dataclass(frozen=True, slots=True)
class Habits:
    """What one person usually does. Arrays follow ``MEAL_NAMES``."""

    meal_minute: tuple[float, ...]
    meal_carbs_g: tuple[float, ...]
    meal_chance: tuple[float, ...]
    counting_cv: float  # error of each carbohydrate count
    counting_bias: float  # the person's own habit: below 1 undercounts
    unannounced_main: float  # fraction of main meals neither logged nor dosed
    unannounced_snack: float
    late_bolus: float  # fraction of boluses given after the meal began
    wake_minute: float
    sleep_minute: float
    exercise_days: frozenset[int]  # weekday numbers
    exercise_minute: float
    exercise_span_min: float
    exercise_effort_bpm: float
    correction_mgdl: float  # readings above this make the person think of a correction
    rescue_mgdl: float  # readings below this make the person eat sugar


@dataclass(frozen=True, slots=True)
class PlannedMeal:
    """What will be eaten, and what the person will say about it."""

    name: str
    minute: int
    carbs_g: float
    counted_g: float | None  # None: neither logged nor dosed
    bolus_minute: int  # may lie before or after ``minute``
    gut: float = 1.0  # how fast this meal leaves the gut, 1 = the person's mean


@dataclass(frozen=True, slots=True)
class PlannedEffort:
    minute: int
    span_min: int
    effort_bpm: float
    reduced_basal: bool  # the person halves the basal rate meanwhile


@dataclass(frozen=True, slots=True)
class DayPlan:
    meals: tuple[PlannedMeal, ...]
    efforts: tuple[PlannedEffort, ...]
    fingersticks: tuple[int, ...]
    wake_minute: int
    sleep_minute: int

    def awake(self, minute: int) -> bool:
        if self.sleep_minute <= 1440:
            return self.wake_minute <= minute < self.sleep_minute
        return minute >= self.wake_minute or minute < self.sleep_minute - 1440


def draw_habits(
    rng: np.random.Generator, weight_kg: float, *, unannounced: float, counting_cv: float | None
) -> Habits:
    """One person's habits. Meals scale with body weight; people differ in time by about half an hour."""
    shift = float(rng.normal(0.0, 30.0))
    appetite = math.sqrt(weight_kg / 80.0) * math.exp(float(rng.normal(0.0, 0.12)))
    minutes = tuple(m + shift + float(rng.normal(0.0, 20.0)) for m in _USUAL_MINUTE)
    carbs = tuple(c * appetite * math.exp(float(rng.normal(0.0, 0.15))) for c in _USUAL_CARBS_G)
    days = frozenset(int(d) for d in rng.choice(7, size=int(rng.integers(1, 5)), replace=False))
    return Habits(
        meal_minute=minutes,
        meal_carbs_g=carbs,
        meal_chance=_USUAL_CHANCE,
        counting_cv=float(rng.uniform(0.20, 0.25)) if counting_cv is None else counting_cv,
        counting_bias=float(np.clip(rng.normal(0.97, 0.08), 0.8, 1.15)) if counting_cv is None else 1.0,
        unannounced_main=0.6 * unannounced,
        unannounced_snack=min(1.0, 2.5 * unannounced),
        late_bolus=float(rng.uniform(0.05, 0.25)),
        wake_minute=minutes[0] - float(rng.uniform(15.0, 60.0)),
        sleep_minute=1380.0 + shift + float(rng.normal(0.0, 25.0)),
        exercise_days=days,
        exercise_minute=float(rng.choice([600.0, 1035.0])) + shift,
        exercise_span_min=float(rng.uniform(25.0, 60.0)),
        exercise_effort_bpm=float(rng.uniform(35.0, 65.0)),
        correction_mgdl=float(rng.uniform(200.0, 260.0)),
        rescue_mgdl=float(rng.uniform(66.0, 76.0)),
    )


def plan_day(habits: Habits, seed: int, day: date) -> DayPlan:
    """The plan of one calendar day. Deterministic in (habits, seed, day)."""
    rng = np.random.default_rng([seed, 2, day.toordinal()])
    late = 50.0 if day.weekday() >= 5 else 0.0
    wake = int(np.clip(habits.wake_minute + late + rng.normal(0, 15), 240, 700))
    sleep = int(np.clip(habits.sleep_minute + late + rng.normal(0, 20), 1230, 1530))
    meals: list[PlannedMeal] = []
    last_minute = wake
    for k, name in enumerate(MEAL_NAMES):
        # Every number is drawn whether used or not: one skipped meal must not change the rest of the day.
        chance, minute_z, carbs_z, count_z, said, late_z, lead, fat = (
            rng.random(),
            *rng.standard_normal(3),
            *rng.random(2),
            *rng.standard_normal(2),
        )
        if chance > habits.meal_chance[k]:
            continue
        minute = int(
            max(habits.meal_minute[k] + (late if k < 3 else 0.0) + 22.0 * minute_z, last_minute + 15)
        )
        if minute > 1435:
            continue
        last_minute = minute
        carbs = max(5.0, habits.meal_carbs_g[k] * math.exp(0.25 * carbs_z - 0.03))
        silent = said < (habits.unannounced_main if _MAIN[k] else habits.unannounced_snack)
        cv = habits.counting_cv
        counted = max(1.0, round(carbs * habits.counting_bias * math.exp(cv * count_z - 0.5 * cv * cv)))
        if late_z < habits.late_bolus:
            bolus_minute = minute + int(np.clip(15 + 8 * lead, 3, 35))
        else:
            bolus_minute = minute - int(np.clip(8 + 5 * lead, 0, 20))
        meals.append(
            PlannedMeal(
                name,
                minute,
                carbs,
                None if silent else counted,
                max(0, min(1439, bolus_minute)),
                math.exp(_GUT_SD * float(np.clip(fat, -2, 2))),
            )
        )
    efforts: list[PlannedEffort] = []
    e = rng.standard_normal(4)
    if day.weekday() in habits.exercise_days:
        start = int(np.clip(habits.exercise_minute + 25 * e[0], wake + 20, 1250))
        span = int(np.clip(habits.exercise_span_min * math.exp(0.2 * e[1]), 15, 90))
        effort = float(np.clip(habits.exercise_effort_bpm * math.exp(0.15 * e[2]), 20, 85))
        efforts.append(PlannedEffort(start, span, effort, bool(e[3] > 0.0)))
    sticks = tuple(
        sorted(
            {
                min(1439, wake + 10 + int(rng.integers(0, 20))),
                min(1439, sleep - 25 + int(rng.integers(0, 20))),
            }
        )
    )
    return DayPlan(tuple(meals), tuple(efforts), sticks, wake, sleep)
