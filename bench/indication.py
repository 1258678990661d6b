"""Confounding by indication: what a correction does to glucose two hours later, from records of virtual people.

They live in firmware_sim: they correct when the sensor is high and chance has it, so those who inject are those
who are high, and the records alone make insulin look harmful. A third of them is ill for some days and says so.
The truth comes from the same lives: each correction is taken back, everything random stays as it was, and the
two hours are lived again.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from rich.progress import track

from bench.recordings import US_PER_MIN
from core.advice import insulin_on_board
from core.causal.effect import Answer, estimate_effect
from core.causal.estimate import Estimate, naive
from core.causal.twin_graph import (
    ACTIVITY,
    GLUCOSE_NOW,
    HOUR,
    ILLNESS,
    INSULIN,
    LATER,
    MEAL,
    ON_BOARD,
    twin_graph,
)
from core.errors import RefusedError
from firmware_sim.person import Illness, Playback, VirtualPerson
from firmware_sim.person_cgm import AVERAGE_NOISE

SEEDS: Final = range(3000, 3060)
DAYS: Final = 12
START_US: Final = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * 1_000_000
AFTER_MIN: Final = 120
STEP_MIN: Final = 5
WAIT_MIN: Final = 150  # nobody corrects sooner after a dose: no comparison there
WAKING_H: Final = (9.0, 21.0)
MEAL_MIN: Final = 240  # carbohydrate logged this recently may still come
# People who are often high: more meals unsaid, settings further off, days more unlike each other.
UNSTEADY: Final[dict[str, Any]] = {"unannounced": 0.35, "therapy_error": 0.3, "variability": 0.3}


class _Decided:
    """A person's chances, with the correction of one minute decided beforehand. Nothing else changes."""

    def __init__(self, inner: np.random.Generator, playback: Playback, minute: int, draw: float) -> None:
        self._inner, self._playback, self._minute, self._draw = inner, playback, minute, draw

    def random(self, n: int) -> np.ndarray:
        drawn = self._inner.random(n)
        if self._playback._minute == self._minute:
            drawn[2] = self._draw
        return drawn


@dataclass(frozen=True)
class Points:
    """Moments of decision of all people: columns by node, one row each. ``eligible``: where both could happen."""

    columns: dict[str, np.ndarray]
    person: np.ndarray
    eligible: np.ndarray
    truth: np.ndarray  # effect on interstitial glucose at this treated, eligible moment; nan elsewhere


def live(seed: int) -> tuple[VirtualPerson, list[tuple[int, str, float]], dict[int, float]]:
    """A person, their events, and for each correction's minute what it did to glucose two hours later."""
    illness = (Illness(4.0 + seed % 5, 3.0),) if seed % 3 == 0 else ()
    person = VirtualPerson(seed, sensor=AVERAGE_NOISE, illness=illness, **UNSTEADY)
    playback = person.play(START_US)
    events: list[tuple[int, str, float]] = []
    did: list[tuple[int, np.ndarray]] = []
    for minute in range(0, DAYS * 1440, STEP_MIN):
        before = _snapshot(playback) if _may_correct(playback) else None
        new = playback.live(STEP_MIN)
        events += new
        now_us = START_US + minute * US_PER_MIN
        dosed = any(t == now_us and kind == "bolus_u" for t, kind, _ in new)
        if before is not None and dosed and not any(t == now_us and k == "carbs_g" for t, k, _ in new):
            before._choice = _Decided(before._choice, before, minute, 1.0)  # type: ignore[assignment]
            before.live(AFTER_MIN + 1)
            did.append((minute, np.array(before._kept.interstitial)))
    course = playback.truth().interstitial_mgdl
    effects = {
        minute: float(course[minute + AFTER_MIN] - without[AFTER_MIN])
        for minute, without in did
        if minute + AFTER_MIN < len(course)
    }
    return person, events, effects


def _may_correct(playback: Playback) -> bool:
    seen = playback._last_cgm
    high = seen is not None and seen[1] > playback._p.habits.correction_mgdl - 30.0
    return high and playback._minute - playback._last_dose >= WAIT_MIN


def _snapshot(playback: Playback) -> Playback:
    """A second life from here on; the person is shared, the course so far is not carried along."""
    kept = type(playback._kept)()
    shared = (playback._p, playback._plan, playback._bout)
    memo: dict[int, Any] = {id(x): x for x in shared} | {id(playback._kept): kept}
    return copy.deepcopy(playback, memo)


def points(seeds: range) -> Points:
    """All people's moments of decision."""
    rows: list[tuple[float, ...]] = []
    for seed in track(seeds, description="people who correct"):
        rows += _person_rows(seed, *live(seed))
    table = np.array(rows)
    columns = {
        INSULIN: table[:, 0],
        LATER: table[:, 1],
        GLUCOSE_NOW: table[:, 2:5],
        HOUR: table[:, 5:7],
        MEAL: table[:, 7],
        ON_BOARD: table[:, 8],
        ACTIVITY: table[:, 9],
        ILLNESS: table[:, 10],
    }
    return Points(columns, table[:, 12], table[:, 11] > 0, table[:, 13])


def _person_rows(
    seed: int, person: VirtualPerson, events: list[tuple[int, str, float]], effects: dict[int, float]
) -> list[tuple[float, ...]]:
    cgm = {round((t - START_US) / US_PER_MIN): v for t, k, v in events if k == "cgm_mgdl"}
    pulse = {round((t - START_US) / US_PER_MIN): v for t, k, v in events if k == "heart_rate_bpm"}
    doses = [(t, v) for t, k, v in events if k == "bolus_u"]
    meals = [(round((t - START_US) / US_PER_MIN), v) for t, k, v in events if k == "carbs_g"]
    threshold = person.habits.correction_mgdl
    dosed = {round((t - START_US) / US_PER_MIN) for t, _ in doses}
    eaten = {m for m, _ in meals}
    rows = []
    for minute in range(30, DAYS * 1440 - AFTER_MIN, STEP_MIN):
        hour = minute % 1440 / 60.0
        if not WAKING_H[0] <= hour < WAKING_H[1] or minute in eaten:
            continue
        now, past, later = cgm.get(minute), cgm.get(minute - 15), cgm.get(minute + AFTER_MIN)
        if now is None or past is None or later is None:
            continue
        t_us = START_US + minute * US_PER_MIN
        recent = [(t, v) for t, v in doses if t_us - 420 * US_PER_MIN <= t < t_us]
        waited = not recent or (t_us - recent[-1][0]) / US_PER_MIN >= WAIT_MIN
        carbs = sum(v * (1 - (minute - m) / MEAL_MIN) for m, v in meals if 0 < minute - m < MEAL_MIN)
        treated = float(minute in dosed)
        ill = any(i.start_day <= minute / 1440 <= i.start_day + i.days for i in person.illness)
        effort = float(np.mean([pulse.get(minute - k, person.resting_bpm) for k in range(0, 60, 5)]))
        turn = 2 * math.pi * hour / 24
        rows.append(
            (
                treated,
                later,
                now,
                now - past,
                now - threshold,
                math.sin(turn),
                math.cos(turn),
                carbs,
                insulin_on_board(t_us, recent),
                effort - person.resting_bpm,
                float(ill),
                float(waited and now > threshold),
                float(seed),
                effects.get(minute, math.nan) if treated else math.nan,
            )
        )
    return rows


@dataclass(frozen=True)
class Outcome:
    """What records say without care, what we say, and what is so."""

    naive: Estimate
    among_eligible: (
        Estimate  # the same, but only where both could happen: comparing the comparable, adjusting nothing
    )
    refused_everywhere: str  # why the effect is not given for all moments
    refused_unrecorded: str  # why it is not given when illness is not recorded
    ours: Answer
    truth: float
    truth_se: float
    treated: int
    people: int


def measure(seeds: range = SEEDS) -> Outcome:
    """The whole question."""
    found = points(seeds)
    columns, fit = found.columns, found.eligible
    rough = naive(columns[LATER], columns[INSULIN], found.person)
    everywhere = _refusal(lambda: estimate_effect(twin_graph(True), columns, INSULIN, LATER, "ipw"))
    unrecorded = _refusal(lambda: estimate_effect(twin_graph(), columns, INSULIN, LATER))
    kept = {name: values[fit] for name, values in columns.items()}
    ours = estimate_effect(twin_graph(True), kept, INSULIN, LATER, groups=found.person[fit], target="treated")
    real = found.truth[fit & (columns[INSULIN] == 1)]
    real = real[np.isfinite(real)]
    return Outcome(
        rough,
        naive(kept[LATER], kept[INSULIN], found.person[fit]),
        everywhere,
        unrecorded,
        ours,
        float(real.mean()),
        float(real.std(ddof=1) / math.sqrt(real.size)),
        int(real.size),
        len(seeds),
    )


def _refusal(ask: Any) -> str:
    try:
        ask()
    except RefusedError as err:
        return err.what
    return ""
