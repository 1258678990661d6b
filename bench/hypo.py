"""Warning of hypoglycaemia in real people: CGM below 70 mg/dL within the next half hour.

A warning is given at a reading of 70 or more when a score passes a threshold, and silences further ones for
half an hour. An episode begins with the first reading below 70 after half an hour without one. A warning is
true when an episode begins within 30 min after it; an episode is warned of when a true warning precedes it; its
lead time runs from the first such warning. The twin's score is its chance of a low (core.lows), which is what is
judged; beside it the chance of a reading below 70 at one reach ahead, as its bands give it; the rule's is the reading carried on along its slope; ridge's is its 30-min
prediction. Each threshold is one number for all people, set so that false warnings per day are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from bench.real import BLIND, HORIZONS_MIN, NEAR_MIN, TWIN, Person, measured
from bench.recordings import DAY_MIN, interpolate
from bench.report import Figure, Section, Table

LOW_MGDL: Final = 70.0
WITHIN_MIN: Final = 30.0
CALM_MIN: Final = 30.0
FALSE_PER_DAY: Final = (0.5, 1.0, 2.0)
JUDGED: Final = 1.0  # where lead times are compared
MARGIN: Final = 0.01  # of all episodes: less is nothing
AHEAD_MIN: Final = (10.0, 20.0, 30.0)
SLOPE_MIN: Final = 15.0
CHANCES: Final = (0.0, 0.02, 0.1, 0.3, 0.6, 1.01)
Z90: Final = 1.6448536
OURS: Final = "twin, chance of a low"


class Warned(NamedTuple):
    """Counts over all people."""

    episodes: int
    warned: int
    false: int
    true: int
    lead_min: np.ndarray
    days: float

    @property
    def false_per_day(self) -> float:
        """False warnings per day."""
        return self.false / self.days


def episodes(person: Person) -> np.ndarray:
    """Minutes at which episodes begin, within scored days."""
    t, y = person.who.cgm_min, person.who.cgm_mgdl
    low = t[y < LOW_MGDL]
    if not low.size:
        return low
    begins = low[np.concatenate(([True], np.diff(low) > CALM_MIN))]
    return np.asarray(begins[np.isin(begins // DAY_MIN, person.who.score_days)])


def by_twin(person: Person, ahead_min: float, method: str = TWIN) -> np.ndarray:
    """How far the mean at ``ahead_min`` lies below 70, in SD of the lower side."""
    mean, low, _ = person.methods[method].near
    k = NEAR_MIN.index(int(ahead_min))
    return np.asarray((LOW_MGDL - mean[:, k]) / (np.maximum(mean[:, k] - low[:, k], 1e-6) / Z90))


def by_chance(person: Person) -> np.ndarray:
    """The twin's own chance of a low within half an hour."""
    return person.methods[TWIN].low_chance


def by_rule(person: Person, ahead_min: float) -> np.ndarray:
    """The reading carried on along the slope of the last quarter of an hour (rises count as flat)."""
    t, y = person.who.cgm_min, person.who.cgm_mgdl
    before = interpolate(t, y, person.times - SLOPE_MIN, 31.0)
    slope = np.nan_to_num((person.now - before) / SLOPE_MIN)
    return np.asarray(-(person.now + np.minimum(slope, 0.0) * ahead_min))


def by_ridge(person: Person) -> np.ndarray:
    """Ridge's prediction at 30 min."""
    return np.asarray(-person.methods["ridge"].mean[:, HORIZONS_MIN.index(30)])


def judge(people: Sequence[Person], scores: Sequence[np.ndarray], threshold: float) -> Warned:
    """Play the warnings of all people at one threshold."""
    begun = warned = false = true = 0
    lead: list[float] = []
    days = 0.0
    for person, score in zip(people, scores, strict=True):
        starts = episodes(person)
        days += len(person.who.score_days)
        quiet_until = -np.inf
        first: dict[int, float] = {}
        for k in np.flatnonzero((score > threshold) & (person.now >= LOW_MGDL)):
            t = person.times[k]
            if t < quiet_until:
                continue
            quiet_until = t + CALM_MIN
            at = int(np.searchsorted(starts, t, side="right"))
            if at < len(starts) and starts[at] - t <= WITHIN_MIN:
                true += 1
                first.setdefault(at, float(starts[at] - t))
            else:
                false += 1
        begun += len(starts)
        warned += len(first)
        lead += first.values()
    return Warned(begun, warned, false, true, np.array(lead), days)


def at_rate(people: Sequence[Person], scores: Sequence[np.ndarray], per_day: float) -> Warned:
    """The threshold whose false warnings per day come closest to ``per_day``, by bisection."""
    everything = np.concatenate(scores)
    low, high = float(np.quantile(everything, 0.3)), float(everything.max())
    for _ in range(40):
        middle = 0.5 * (low + high)
        if judge(people, scores, middle).false_per_day > per_day:
            low = middle
        else:
            high = middle
    return judge(people, scores, high)


def reliability(people: Sequence[Person]) -> Table:
    """How often a low came for each chance that was given, at readings of 70 or more."""
    given, came = [], []
    for person in people:
        t, y = person.who.cgm_min, person.who.cgm_mgdl
        low = np.append(t[y < LOW_MGDL], np.inf)
        counted = person.now >= LOW_MGDL
        times = person.times[counted]
        given.append(by_chance(person)[counted])
        came.append(low[np.searchsorted(low, times, side="right")] - times <= WITHIN_MIN)
    chance, low_came = np.concatenate(given), np.concatenate(came)
    rows = []
    for least, most in pairwise(CHANCES):
        here = (chance >= least) & (chance < most)
        if here.any():
            rows.append(
                (
                    f"{100 * least:.0f}–{100 * min(most, 1.0):.0f} %",
                    f"{100 * chance[here].mean():.1f} %",
                    f"{100 * low_came[here].mean():.1f} %",
                    str(int(here.sum())),
                )
            )
    columns = ("chance given", "mean", "came", "readings")
    return Table("Does the twin's chance of a low keep its word?", columns, tuple(rows))


def run(quick: bool = False) -> Section:
    """The section. ``quick``: two people."""
    people = [p for p in measured(quick) if len(episodes(p))]
    ways: dict[str, Callable[[Person], np.ndarray]] = {OURS: by_chance}
    for ahead in AHEAD_MIN:
        ways[f"twin, {ahead:g} min ahead"] = lambda p, ahead=ahead: by_twin(p, ahead)  # type: ignore[misc]
    ways["blind twin, 10 min ahead"] = lambda p: by_twin(p, 10.0, BLIND)
    for ahead in AHEAD_MIN:
        ways[f"threshold with slope, {ahead:g} min ahead"] = lambda p, ahead=ahead: by_rule(p, ahead)  # type: ignore[misc]
    ways["ridge at 30 min"] = by_ridge
    rows: list[tuple[str, ...]] = []
    judged: dict[tuple[str, float], Warned] = {}
    for per_day in FALSE_PER_DAY:
        for name, way in ways.items():
            found = at_rate(people, [way(p) for p in people], per_day)
            judged[name, per_day] = found
            some = found.lead_min.size > 0
            rows.append(
                (
                    f"{name}: at {per_day:g} false a day",
                    f"{100 * found.warned / max(found.episodes, 1):.0f} %",
                    f"{found.false_per_day:.2f}",
                    f"{100 * found.true / max(found.true + found.false, 1):.0f} %",
                    f"{np.median(found.lead_min):.0f} ({np.quantile(found.lead_min, 0.25):.0f}–"
                    f"{np.quantile(found.lead_min, 0.75):.0f})"
                    if some
                    else "–",
                )
            )
    figures: list[Figure] = []
    for per_day in FALSE_PER_DAY:
        # Readings are whole numbers, so the rule cannot have any rate: the twin is set to the one the rule has.
        rule = max(
            (name for name in ways if name.startswith("threshold")),
            key=lambda name: judged[name, per_day].warned,
        )
        theirs = judged[rule, per_day]
        ours = at_rate(people, [by_chance(p) for p in people], theirs.false_per_day)
        n = max(ours.episodes, 1)
        figures.append(
            Figure(
                f"hypoglycaemia within 30 min, sensitivity at {theirs.false_per_day:.2f} false warnings a day",
                f"above the rule by ≥ {100 * MARGIN:.0f} points",
                f"{100 * ours.warned / n:.0f} %",
                f"{100 * theirs.warned / n:.0f} % ({rule})",
                (ours.warned - theirs.warned) / n >= MARGIN,
            )
        )
        if per_day == JUDGED:
            figures.append(
                Figure(
                    "… median lead time, min",
                    "not below the rule",
                    f"{np.median(ours.lead_min):.0f}" if ours.lead_min.size else "–",
                    f"{np.median(theirs.lead_min):.0f}" if theirs.lead_min.size else "–",
                    bool(ours.lead_min.size and np.median(ours.lead_min) >= np.median(theirs.lead_min)),
                )
            )
    columns = ("method", "sensitivity", "false/day", "warnings that are true", "lead min, median (quartiles)")
    sparse = sum(float(np.median(np.diff(p.who.cgm_min))) > 10.0 for p in people)
    notes = (
        f"{len(people)} people with episodes, {ours.days:.0f} scored days, {ours.episodes} episodes; "
        f"horizons of the twin {', '.join(str(h) for h in NEAR_MIN)} min",
        "thresholds are set on the days they are judged on, and the rule has its best reach in hindsight, the twin "
        "none: read it as a comparison, not as a promise; the weights of the chance were fitted on first halves of "
        "these same people; "
        f"{sparse} of the people have a reading only every 15 min",
    )
    return Section(
        "hypo",
        "warning of hypoglycaemia in real people",
        (
            Table("Warnings of a reading below 70 mg/dL within 30 min", columns, tuple(rows)),
            reliability(people),
        ),
        notes,
        tuple(figures),
    )
