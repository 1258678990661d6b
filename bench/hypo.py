"""Warning of hypoglycaemia in real people: CGM below 70 mg/dL within the next half hour.

A warning is given at a reading of 70 or more when a score passes a threshold, and silences further ones for
half an hour. An episode begins with the first reading below 70 after half an hour without one. A warning is
true when an episode begins within 30 min after it; an episode is warned of when a true warning precedes it; its
lead time runs from the first such warning. The twin's score is the chance of a reading below 70 at one reach ahead,
or the greatest over 5–30 min; the rule's is the reading carried on along its slope; ridge's is its 30-min
prediction. Each threshold is one number for all people, set so that false warnings per day are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from bench.real import BLIND, HORIZONS_MIN, NEAR_MIN, TWIN, Person, measured
from bench.recordings import DAY_MIN, interpolate
from bench.report import Figure, Section, Table

LOW_MGDL: Final = 70.0
WITHIN_MIN: Final = 30.0
CALM_MIN: Final = 30.0
FALSE_PER_DAY: Final = (0.5, 1.0, 2.0)
JUDGED: Final = 1.0
MARGIN: Final = 0.01  # of all episodes: less is nothing
AHEAD_MIN: Final = (10.0, 20.0, 30.0)
SLOPE_MIN: Final = 15.0
Z90: Final = 1.6448536


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


def by_twin(person: Person, ahead_min: float | None, method: str = TWIN) -> np.ndarray:
    """How far the mean lies below 70, in SD of the lower side; ``ahead_min`` None: at worst over 5–30 min."""
    mean, low, _ = person.methods[method].near
    depth = (LOW_MGDL - mean) / (np.maximum(mean - low, 1e-6) / Z90)
    return np.asarray(depth.max(axis=1) if ahead_min is None else depth[:, NEAR_MIN.index(int(ahead_min))])


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


def run(quick: bool = False) -> Section:
    """The section. ``quick``: two people."""
    people = [p for p in measured(quick) if len(episodes(p))]
    ways: dict[str, Callable[[Person], np.ndarray]] = {"twin, 5–30 min ahead": lambda p: by_twin(p, None)}
    for ahead in AHEAD_MIN:
        ways[f"twin, {ahead:g} min ahead"] = lambda p, ahead=ahead: by_twin(p, ahead)  # type: ignore[misc]
    ways["blind twin, 10 min ahead"] = lambda p: by_twin(p, 10.0, BLIND)
    for ahead in AHEAD_MIN:
        ways[f"threshold with slope, {ahead:g} min ahead"] = lambda p, ahead=ahead: by_rule(p, ahead)  # type: ignore[misc]
    ways["ridge at 30 min"] = by_ridge
    rows: list[tuple[str, ...]] = []
    judged: dict[str, Warned] = {}
    for per_day in FALSE_PER_DAY:
        for name, way in ways.items():
            found = at_rate(people, [way(p) for p in people], per_day)
            if per_day == JUDGED:
                judged[name] = found
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
    # Readings are whole numbers, so the rule cannot have any rate: the twin is set to the one the rule has.
    rule = max(
        (name for name in judged if name.startswith("threshold")), key=lambda name: judged[name].warned
    )
    theirs = judged[rule]
    matched = {
        name: at_rate(people, [ways[name](p) for p in people], theirs.false_per_day)
        for name in ways
        if name.startswith("twin")
    }
    own = max(matched, key=lambda name: matched[name].warned)
    ours = matched[own]
    n = max(ours.episodes, 1)
    figures = (
        Figure(
            f"hypoglycaemia within 30 min, sensitivity at {theirs.false_per_day:.2f} false warnings a day",
            f"above the rule by ≥ {100 * MARGIN:.0f} points",
            f"{100 * ours.warned / n:.0f} % ({own})",
            f"{100 * theirs.warned / n:.0f} % ({rule})",
            (ours.warned - theirs.warned) / n >= MARGIN,
        ),
        Figure(
            "… median lead time, min",
            "not below the rule",
            f"{np.median(ours.lead_min):.0f}" if ours.lead_min.size else "–",
            f"{np.median(theirs.lead_min):.0f}" if theirs.lead_min.size else "–",
            bool(ours.lead_min.size and np.median(ours.lead_min) >= np.median(theirs.lead_min)),
        ),
    )
    columns = ("method", "sensitivity", "false/day", "warnings that are true", "lead min, median (quartiles)")
    sparse = sum(float(np.median(np.diff(p.who.cgm_min))) > 10.0 for p in people)
    notes = (
        f"{len(people)} people with episodes, {ours.days:.0f} scored days, {ours.episodes} episodes; "
        f"horizons of the twin {', '.join(str(h) for h in NEAR_MIN)} min",
        "thresholds are set on the days they are judged on, and twin and rule each have their best reach in "
        "hindsight (no parameter of the twin was set here): read it as a comparison, not as a promise; "
        f"{sparse} of the people have a reading only every 15 min",
    )
    return Section(
        "hypo",
        "warning of hypoglycaemia in real people",
        (Table("Warnings of a reading below 70 mg/dL within 30 min", columns, tuple(rows)),),
        notes,
        figures,
    )
