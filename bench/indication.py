"""Confounding by indication: what a correction does to glucose two hours later, from records of virtual people.

They live in firmware_sim: they correct when the sensor is high and chance has it, so those who inject are those
who are high, and the records alone make insulin look harmful. A third of them is ill for some days and says so.
The truth comes from the same lives: each correction is taken back, everything random stays as it was, and the
two hours are lived again: once as the person would have (still high, they soon correct after all: that is the other arm
of any record), once with no correction in all that time (the dose alone). Beside the records stands the mechanistic twin: one per person, which has seen the record
up to the correction and is asked both.
"""

from __future__ import annotations

import copy
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from rich.progress import track

from bench.recordings import US_PER_MIN
from bench.truth import samples_of
from core.causal.effect import Answer, Comparison, compare_with_twin, estimate_effect
from core.causal.estimate import Estimate, naive
from core.causal.from_records import joined
from core.causal.moments import WAIT_MIN, Moments, moments
from core.causal.on_twin import OnTwin, average, interval
from core.causal.regress import Z95, standard_error
from core.causal.twin_graph import GLUCOSE_NOW, INSULIN, LATER, twin_graph
from core.errors import RefusedError
from core.messages import Sample
from core.patient import Patient
from core.twin import Twin
from core.units import US_PER_DAY
from firmware_sim.person import Illness, Playback, VirtualPerson
from firmware_sim.person_cgm import AVERAGE_NOISE

SEEDS: Final = range(3000, 3060)
DAYS: Final = 12
START_US: Final = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * 1_000_000
AFTER_MIN: Final = 120
STEP_MIN: Final = 5
CORES: Final = 2
WRONG: Final = (0.0, 0.5, 2.0)  # twins in which a dose does nothing, half, twice of what ours says
# People who are often high: more meals unsaid, settings further off, days more unlike each other.
UNSTEADY: Final[dict[str, Any]] = {"unannounced": 0.35, "therapy_error": 0.3, "variability": 0.3}


class _Decided:
    """A person's chances, with the corrections of some minutes decided beforehand. Nothing else changes."""

    def __init__(
        self, inner: np.random.Generator, playback: Playback, minute: int, draw: float, minutes: int = 1
    ) -> None:
        self._inner, self._playback, self._draw = inner, playback, draw
        self._decided = range(minute, minute + minutes)

    def random(self, n: int) -> np.ndarray:
        drawn = self._inner.random(n)
        if self._playback._minute in self._decided:
            drawn[2] = self._draw
        return drawn


@dataclass(frozen=True)
class Points:
    """Moments of decision of all people: columns by node, one row each. ``eligible``: where both could happen."""

    columns: dict[str, np.ndarray]
    person: np.ndarray
    eligible: np.ndarray
    truth: np.ndarray  # effect on interstitial glucose at this treated, eligible moment; nan elsewhere
    alone: np.ndarray  # the same, of the dose alone


Effects = dict[int, tuple[float, float]]  # minute → what deciding, and what the dose alone, did


def live(seed: int) -> tuple[VirtualPerson, list[tuple[int, str, float]], Effects]:
    """A person, their events, and for each correction's minute what it did to glucose two hours later."""
    illness = (Illness(4.0 + seed % 5, 3.0),) if seed % 3 == 0 else ()
    person = VirtualPerson(seed, sensor=AVERAGE_NOISE, illness=illness, **UNSTEADY)
    playback = person.play(START_US)
    events: list[tuple[int, str, float]] = []
    did: list[tuple[int, tuple[float, float]]] = []
    for minute in range(0, DAYS * 1440, STEP_MIN):
        before = _snapshot(playback) if _may_correct(playback) else None
        new = playback.live(STEP_MIN)
        events += new
        now_us = START_US + minute * US_PER_MIN
        dosed = any(t == now_us and kind == "bolus_u" for t, kind, _ in new)
        if before is not None and dosed and not any(t == now_us and k == "carbs_g" for t, k, _ in new):
            did.append((minute, (_without(before, minute, 1), _without(before, minute, AFTER_MIN))))
    course = playback.truth().interstitial_mgdl
    effects = {
        minute: (float(course[minute + AFTER_MIN] - soon), float(course[minute + AFTER_MIN] - never))
        for minute, (soon, never) in did
        if minute + AFTER_MIN < len(course)
    }
    return person, events, effects


def _without(before: Playback, minute: int, minutes: int) -> float:
    """Interstitial glucose two hours on, with no correction in these minutes."""
    life = _snapshot(before)
    life._choice = _Decided(life._choice, life, minute, 1.0, minutes)  # type: ignore[assignment]
    life.live(AFTER_MIN + 1)
    return float(life._kept.interstitial[AFTER_MIN])


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


def points(seeds: range, twins: OnTwin) -> Points:
    """All people's moments of decision. ``twins`` is given those treated, eligible moments whose truth is known."""
    people, truth, alone = [], [], []
    for seed in track(seeds, description="people who correct"):
        person, events, effects = live(seed)
        samples = samples_of(events)
        theirs = moments_of(person, samples)
        known = [effects.get((t - START_US) // US_PER_MIN, (math.nan,) * 2) for t in theirs.time_us.tolist()]
        soon, never = (np.where(theirs.dose_u > 0, v, math.nan) for v in np.array(known).T)
        asked = theirs.eligible & np.isfinite(soon)
        decided = list(zip(theirs.time_us[asked].tolist(), theirs.dose_u[asked].tolist(), strict=True))
        ask_twin(twins, person, samples, decided)
        people.append(theirs)
        truth.append(soon)
        alone.append(never)
    together, number, _ = joined(people)
    return Points(together.columns, number, together.eligible, np.concatenate(truth), np.concatenate(alone))


def moments_of(person: VirtualPerson, samples: list[Sample]) -> Moments:
    """As ``hometwin effect`` sees the record, and with what only these people tell: their own threshold, resting rate
    and days of illness."""
    above = person.habits.correction_mgdl
    ill = [
        (START_US + round(i.start_day * US_PER_DAY), START_US + round((i.start_day + i.days) * US_PER_DAY))
        for i in person.illness
    ]
    found = moments(
        samples,
        ZoneInfo("UTC"),
        above_mgdl=above,
        after_min=AFTER_MIN,
        ill=ill,
        resting_bpm=person.resting_bpm,
        meal_near_min=0.0,
    )
    now = found.columns[GLUCOSE_NOW]
    found.columns[GLUCOSE_NOW] = np.column_stack([now, now[:, 0] - above])
    return found


def ask_twin(
    twins: OnTwin, person: VirtualPerson, samples: list[Sample], decided: list[tuple[int, float]]
) -> None:
    """A twin lives through the record; at these moments it has seen all but the dose of that moment."""
    twin = Twin(Patient(timezone="UTC", weight_kg=person.weight_kg), seed=person.seed)
    twins.follow(twin, samples, decided, person.habits.correction_mgdl)


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
    chance: float  # that somebody who could correct does so, at one reading
    twin: Comparison  # the twin's answer to the records' question at the same corrections, beside ours
    twin_interval: tuple[float, float]  # 95 % of the twin's answer with the error of its structure
    twin_error: Estimate  # twin less truth, over these corrections; interval by person
    wrong_twins: tuple[tuple[float, Comparison], ...]  # (times the dose's effect, …): does the check see it?
    alone: float  # truth of the dose alone
    alone_se: float
    twin_alone: tuple[float, float, float]  # mean, and such an interval
    alone_error: Estimate
    alone_covered: float  # share of corrections at which the twin's 90 % interval holds the truth


class Said(NamedTuple):
    """What the twins say at the corrections, float64[corrections, draws]: by how much their doses are changed."""

    decided: dict[float, np.ndarray]
    dose: np.ndarray


_twins: list[OnTwin] = []  # of this process's people, between the two questions


def _points(seeds: range) -> Points:
    _twins[:] = [OnTwin(AFTER_MIN)]
    return points(seeds, _twins[0])


def _said(chance: float) -> Said:
    asked = _twins[0]
    return Said({k: asked.against_waiting(chance, k) for k in (1.0, *WRONG)}, asked.effects())


class Measuring:
    """The people live in processes of their own, a part of them in each, while the caller does something else."""

    def __init__(self, seeds: range = SEEDS) -> None:
        self.seeds = seeds
        self._parts = [seeds[k::CORES] for k in range(CORES)]
        self._pools = [ProcessPoolExecutor(1, get_context("spawn")) for _ in self._parts]
        self._waiting = [p.submit(_points, s) for p, s in zip(self._pools, self._parts, strict=True)]

    def points(self) -> Points:
        """Of all people, each with a number of their own."""
        found = [w.result() for w in self._waiting]
        person = [p.person + k * len(self.seeds) for k, p in enumerate(found)]
        return Points(
            {n: np.concatenate([p.columns[n] for p in found]) for n in found[0].columns},
            np.concatenate(person),
            *(np.concatenate([getattr(p, n) for p in found]) for n in ("eligible", "truth", "alone")),
        )

    def said(self, chance: float) -> Said:
        """Of all twins; the processes end."""
        waiting = [p.submit(_said, chance) for p in self._pools]
        found = [w.result() for w in waiting]
        for pool in self._pools:
            pool.shutdown()
        decided = {k: np.concatenate([f.decided[k] for f in found]) for k in found[0].decided}
        return Said(decided, np.concatenate([f.dose for f in found]))


def measure(measuring: Measuring) -> Outcome:
    """The whole question."""
    found = measuring.points()
    columns, fit = found.columns, found.eligible
    rough = naive(columns[LATER], columns[INSULIN], found.person)
    everywhere = _refusal(lambda: estimate_effect(twin_graph(True), columns, INSULIN, LATER, "ipw"))
    unrecorded = _refusal(lambda: estimate_effect(twin_graph(), columns, INSULIN, LATER))
    kept = {name: values[fit] for name, values in columns.items()}
    ours = estimate_effect(twin_graph(True), kept, INSULIN, LATER, groups=found.person[fit], target="treated")
    known = fit & np.isfinite(found.truth)
    real, alone = found.truth[known], found.alone[known]
    chance = float(kept[INSULIN].mean())
    said = measuring.said(chance)
    decided, dose = said.decided[1.0], said.dose
    low, high = np.array([interval(dose[k : k + 1], 0.9) for k in range(len(dose))]).T
    return Outcome(
        rough,
        naive(kept[LATER], kept[INSULIN], found.person[fit]),
        everywhere,
        unrecorded,
        ours,
        float(real.mean()),
        _iid_se(real),
        int(real.size),
        len(measuring.seeds),
        chance,
        compare_with_twin(ours.estimate, lambda *_: average(decided), (0.0, 1.0)),
        interval(decided),
        _mean_error(decided.mean(axis=1) - real, found.person[known]),
        tuple(
            (
                k,
                compare_with_twin(ours.estimate, lambda *c: average(said.decided[c[1]]), (0.0, k)),
            )
            for k in WRONG
        ),
        float(alone.mean()),
        _iid_se(alone),
        (average(dose)[0], *interval(dose)),
        _mean_error(dose.mean(axis=1) - alone, found.person[known]),
        float(np.mean((low <= alone) & (alone <= high))),
    )


def _iid_se(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(values.size))


def _mean_error(error: np.ndarray, person: np.ndarray) -> Estimate:
    mean = float(error.mean())
    sd, people = standard_error(error - mean, person)
    return Estimate("paired", mean, mean - Z95 * sd, mean + Z95 * sd, sd, error.size, people)


def _refusal(ask: Any) -> str:
    try:
        ask()
    except RefusedError as err:
        return err.what
    return ""
