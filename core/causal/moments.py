"""Moments of a record at which a correction could have been given: what was known, whether it was, what followed.

One row every five minutes by the clock, however often the sensor reads; columns follow the nodes of ``twin_graph``. What
was given within a quarter of an hour is one course, decided at the moment its first dose follows. What no sensor measures
comes from the person: the spans in which they were ill, or that there were none. Pure: samples in, arrays out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from core.causal.twin_graph import (
    ACTIVITY,
    GLUCOSE_NOW,
    HOUR,
    ILLNESS,
    INSULIN,
    LATER,
    MEAL,
    ON_BOARD,
)
from core.dosing import ACTION_MIN, iob_fraction
from core.messages import Sample
from core.units import US_PER_MIN

Array = NDArray[np.float64]
Spans = Sequence[tuple[int, int]]  # (from, to) µs UTC

WAIT_MIN: Final = 150.0  # nobody corrects sooner after a dose: no comparison there
WAKING_H: Final = (9.0, 21.0)
TREND_MIN: Final = 15.0
STEP_MIN: Final = 5.0  # from moment to moment; a dose within a step of a moment was decided at it
COURSE_MIN: Final = 15.0  # doses this soon after the first are parts of one decision
BETWEEN_MIN: Final = (
    20.0  # readings of the rarest CGM are 15 min apart, and not to the second; further is a gap
)
MEAL_MIN: Final = 240.0  # carbohydrate logged this recently may still come
MEAL_NEAR_MIN: Final = 20.0  # a dose this near to a meal is the meal's
EFFORT_MIN: Final = 60.0
RESTING_PERCENTILE: Final = 10.0  # of a record's heart rates


class Moments(NamedTuple):
    """One row per moment. ``eligible``: above the threshold and long enough after a dose, so both could happen.

    ``dose_u``: of the whole course that begins here. ``day``: local date, as ``date.toordinal``.
    """

    columns: dict[str, Array]  # node → float64[n] or float64[n, k], as ``effect.estimate_effect`` takes them
    time_us: NDArray[np.int64]
    dose_u: Array
    eligible: NDArray[np.bool_]
    day: NDArray[np.int64]

    def where(self, kept: NDArray[np.bool_]) -> Moments:
        """Those rows alone."""
        columns = {name: values[kept] for name, values in self.columns.items()}
        return Moments(columns, self.time_us[kept], self.dose_u[kept], self.eligible[kept], self.day[kept])


def moments(
    samples: Sequence[Sample],
    zone: ZoneInfo,
    *,
    above_mgdl: float,
    after_min: float,
    ill: Spans | None = None,
    waking_h: tuple[float, float] = WAKING_H,
    resting_bpm: float | None = None,
    meal_near_min: float = MEAL_NEAR_MIN,
) -> Moments:
    """All moments of one person's record.

    samples: by time. above_mgdl: glucose above which a correction is thought of. ill: spans of illness, empty when
    there was none; None when nobody recorded it, and then there is no such column. The same holds for activity
    without heart rates. A meal within ``meal_near_min`` makes it a meal's moment, which is left out.
    """
    at = {kind: _of(samples, kind) for kind in ("cgm_mgdl", "bolus_u", "carbs_g", "heart_rate_bpm")}
    read_us, readings = at["cgm_mgdl"]
    step_us, near_us = round(STEP_MIN * US_PER_MIN), round(meal_near_min * US_PER_MIN)
    time_us = _grid(read_us, step_us)
    glucose, past, later = (
        _between(read_us, readings, time_us + round(m * US_PER_MIN)) for m in (0.0, -TREND_MIN, after_min)
    )
    known = np.isfinite(glucose) & np.isfinite(past) & np.isfinite(later)
    time_us = time_us[known]
    local = [datetime.fromtimestamp(t / 1e6, UTC).astimezone(zone) for t in time_us.tolist()]
    hour = np.array([t.hour + t.minute / 60.0 for t in local])
    day = np.array([t.toordinal() for t in local], dtype=np.int64)

    dose_us, units = at["bolus_u"]
    begun_us, ended_us, whole_u = _courses(dose_us, units)
    starts, ends = (np.searchsorted(begun_us, t) for t in (time_us, time_us + step_us))
    total = np.concatenate(([0.0], np.cumsum(whole_u)))
    dose = total[ends] - total[starts]
    last_us = np.where(ends > starts, np.concatenate(([0], ended_us))[ends], 0)
    decided_us = np.maximum(time_us + step_us, last_us)
    meal_us, grams = at["carbs_g"]
    kept = (hour >= waking_h[0]) & (hour < waking_h[1])
    kept &= _count(meal_us, time_us - near_us, decided_us + near_us) == 0
    time_us, day = time_us[kept], day[kept]
    hour, dose = hour[kept], dose[kept]
    glucose, past, later = (v[known][kept] for v in (glucose, past, later))
    waited = _count(dose_us, time_us - round(WAIT_MIN * US_PER_MIN) + 1, time_us) == 0
    on_board = _left(time_us, dose_us, units, ACTION_MIN, iob_fraction)
    eaten = _left(time_us, meal_us, grams, MEAL_MIN, lambda age_min: 1.0 - age_min / MEAL_MIN)
    turn = 2.0 * math.pi * hour / 24.0
    columns: dict[str, Array] = {
        INSULIN: (dose > 0).astype(np.float64),
        LATER: later,
        GLUCOSE_NOW: np.column_stack([glucose, glucose - past]),
        HOUR: np.column_stack([np.sin(turn), np.cos(turn)]),
        MEAL: eaten,
        ON_BOARD: on_board,
    }
    beat_us, beats = at["heart_rate_bpm"]
    if beats.size:
        rest = float(np.percentile(beats, RESTING_PERCENTILE)) if resting_bpm is None else resting_bpm
        columns[ACTIVITY] = _effort(time_us, beat_us, beats) - rest
    if ill is not None:
        columns[ILLNESS] = np.array([float(any(a <= t <= b for a, b in ill)) for t in time_us.tolist()])
    return Moments(columns, time_us, dose, waited & (glucose > above_mgdl), day)


def _of(samples: Sequence[Sample], kind: str) -> tuple[NDArray[np.int64], Array]:
    kept = [s for s in samples if s.kind == kind and (s.value > 0 or kind != "bolus_u")]  # 0 U is no dose
    return np.array([s.time_us for s in kept], dtype=np.int64), np.array([s.value for s in kept])


def _grid(read_us: NDArray[np.int64], step_us: int) -> NDArray[np.int64]:
    """Times by the clock, a step apart, from each reading until the next may be expected."""
    first = -(-read_us // step_us)
    return np.unique(first[:, None] + np.arange(round(BETWEEN_MIN / STEP_MIN))) * step_us


def _between(read_us: NDArray[np.int64], readings: Array, wanted_us: NDArray[np.int64]) -> Array:
    """Glucose at each wanted time, on the line between the readings around it; nan where these are too far apart.

    The reading after belongs to it: the person may have looked at any minute, and no dose acts in a quarter of an hour.
    """
    if not read_us.size:
        return np.full(wanted_us.size, math.nan)
    after = np.searchsorted(read_us, wanted_us)
    inside = after < read_us.size
    after = np.minimum(after, read_us.size - 1)
    exact = read_us[after] == wanted_us
    before = np.where(exact, after, np.maximum(after - 1, 0))
    gap = read_us[after] - read_us[before]
    share = (wanted_us - read_us[before]) / np.maximum(gap, 1)
    known = exact | (inside & (read_us[before] < wanted_us) & (gap <= BETWEEN_MIN * US_PER_MIN))
    return np.where(known, readings[before] + share * (readings[after] - readings[before]), math.nan)


def _courses(dose_us: NDArray[np.int64], units: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """(time of the first dose, of the last, units together) of each course."""
    begun: list[int] = []
    ended: list[int] = []
    whole: list[float] = []
    for t, u in zip(dose_us.tolist(), units.tolist(), strict=True):
        if begun and t - begun[-1] <= COURSE_MIN * US_PER_MIN:
            ended[-1], whole[-1] = t, whole[-1] + u
        else:
            begun.append(t)
            ended.append(t)
            whole.append(u)
    return np.array(begun, dtype=np.int64), np.array(ended, dtype=np.int64), np.array(whole)


def _count(
    times_us: NDArray[np.int64], from_us: NDArray[np.int64], to_us: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many of ``times_us`` lie in [from, to)."""
    return np.searchsorted(times_us, to_us) - np.searchsorted(times_us, from_us)


def _left(
    time_us: NDArray[np.int64],
    given_us: NDArray[np.int64],
    amount: Array,
    lasts_min: float,
    share: Callable[[float], float],
) -> Array:
    """Of what was given before each time, what is left by ``share(age in min)``."""
    out = np.zeros(time_us.size)
    first = np.searchsorted(given_us, time_us - round(lasts_min * US_PER_MIN))
    end = np.searchsorted(given_us, time_us)
    for k in np.flatnonzero(end > first):
        out[k] = sum(
            float(amount[j]) * share(float(time_us[k] - given_us[j]) / US_PER_MIN)
            for j in range(first[k], end[k])
        )
    return out


def _effort(time_us: NDArray[np.int64], beat_us: NDArray[np.int64], beats: Array) -> Array:
    """Mean heart rate of the hour before, nan where none was measured."""
    total = np.concatenate(([0.0], np.cumsum(beats)))
    first = np.searchsorted(beat_us, time_us - round(EFFORT_MIN * US_PER_MIN), side="right")
    end = np.searchsorted(beat_us, time_us, side="right")
    count = end - first
    return np.where(count > 0, (total[end] - total[first]) / np.maximum(count, 1), math.nan)
