"""Learning on real people, where there is no ground truth: the same record with nights and looks, and without.

Scored are days of the second halves (bench.recordings), after a week in which the nights' anchor grows and nothing is
scored. A twin begins ten days before the first scored day, is told nothing of the person, and sees events in order.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

import numpy as np

from bench.recordings import DAY_MIN, US_PER_MIN, Recording, all_recordings
from bench.report import Table
from core import learning, memory
from core.memory import USUAL, Memory
from core.patient import Patient
from core.twin import Twin

HORIZONS_MIN: Final = (30, 60, 120)
STEP_MIN: Final = 30
LOOK_STEPS: Final = 6
BEFORE_DAYS: Final = 10
LEARN_DAYS: Final = 7
MAX_DAYS: Final = 14  # scored at most, of each person: a bench has its price
NIGHT_MIN: Final = 180


class Followed(NamedTuple):
    """One arm on one person."""

    error: np.ndarray  # float64[n, horizons] mg/dL, nan without a target
    inside: np.ndarray  # of the 90 % interval; nan without a target
    found: int  # contexts left or entered on scored days
    days: float
    nights: int
    refused: int
    kib: float  # memory and episodes
    cpu_s: float


def names() -> list[str]:
    """Who there is."""
    return [who.name for who in all_recordings()]


def follow(name: str, nights: bool, first_half: bool = False) -> Followed:
    """One person with nights or without. ``first_half``: the days for development."""
    who = next(r for r in all_recordings() if r.name == name)
    days = who.train_days if first_half else who.score_days
    start_day = int(days[0]) + (LEARN_DAYS if first_half else 0)
    end_day = min(int(days[-1]) + 1, start_day + MAX_DAYS)
    return _follow(who, start_day, end_day, nights)


def _follow(who: Recording, start_day: int, end_day: int, nights: bool) -> Followed:
    began_s = time.process_time()
    twin = Twin(Patient(timezone="UTC"))
    rng = np.random.default_rng(int(who.name))
    known, kept, number = Memory(), [], 0
    count = refused = found = 0
    rows = []
    begin_min, at = (start_day - BEFORE_DAYS) * DAY_MIN, 0
    samples = [s for s in who.samples if s.time_us >= begin_min * US_PER_MIN]
    for step in range((end_day - start_day + BEFORE_DAYS) * DAY_MIN // STEP_MIN):
        now_min = begin_min + step * STEP_MIN
        now_us = now_min * US_PER_MIN
        upto = at
        while upto < len(samples) and samples[upto].time_us <= now_us:
            upto += 1
        twin.observe(samples[at:upto])
        at = upto
        scored = now_min >= start_day * DAY_MIN
        if at == 0:
            continue
        if nights and now_min >= (start_day - LEARN_DAYS) * DAY_MIN:
            was = known.current
            if step % LOOK_STEPS == 0:
                known = learning.look(twin, known, now_us)
            if now_min % DAY_MIN == NIGHT_MIN:
                done = learning.night(twin, known, kept, now_us, rng)
                known, count, refused = done.memory, count + 1, refused + (not done.record.accepted)
                twin.guide(*done.guidance)
                kept = [item for item in kept if item[0] not in done.drop]
                for episode in done.keep:
                    number += 1
                    kept.append((number, episode))
            found += scored and known.current not in (was, USUAL)
        if scored:
            seen = twin.forecast(now_us, HORIZONS_MIN).forecast
            target = who.at(now_min + np.array(HORIZONS_MIN, dtype=float))
            inside = (target >= np.array(seen.p05)) & (target <= np.array(seen.p95))
            rows.append((np.array(seen.mean) - target, np.where(np.isfinite(target), inside, np.nan)))
    error, inside = (np.array([row[k] for row in rows]) for k in (0, 1))
    held = len(memory.to_bytes(known)) + sum(e.size for _, e in kept) if nights else 0
    return Followed(
        error,
        inside,
        found,
        float(end_day - start_day),
        count,
        refused,
        held / 1024,
        time.process_time() - began_s,
    )


def table(on: list[Followed], off: list[Followed]) -> Table:
    """Nights on beside nights off, all people together."""

    def row(name: str, courses: list[Followed]) -> tuple[str, ...]:
        error = np.concatenate([c.error for c in courses])
        inside = np.concatenate([c.inside for c in courses])
        weeks = sum(c.days for c in courses) / 7.0
        per_day = sum(c.cpu_s for c in courses) / sum(c.days + BEFORE_DAYS for c in courses)
        return (
            name,
            *(f"{value:.1f}" for value in np.sqrt(np.nanmean(error**2, axis=0))),
            *(f"{100 * value:.1f} %" for value in np.nanmean(inside, axis=0)),
            f"{sum(c.found for c in courses) / weeks:.2f}",
            f"{sum(c.refused for c in courses)} of {sum(c.nights for c in courses)}",
            f"{np.mean([c.kib for c in courses]):.0f}",
            f"{per_day:.1f}",
        )

    title = (
        f"Real people ({len(on)}, second halves, {sum(c.days for c in on):.0f} days): RMSE, 90 % intervals"
    )
    columns = (
        "",
        *(f"{h} min" for h in HORIZONS_MIN),
        *(f"held, {h}" for h in HORIZONS_MIN),
        "contexts a person-week",
        "nights not taken",
        "KiB",
        "CPU s a day",
    )
    return Table(title, columns, (row("nights off", off), row("twin, nights on", on)))
