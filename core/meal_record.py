"""How forecasts after this person's own meals came out: what advice about the next one stands on.

At each meal of the last two weeks the forecast right after it, with what was injected (core.predictive.under_care),
is compared with the readings of the five hours that followed. That is the question an adviser is asked, so the
misses say how far its answer may be off: their mean moves the centre, their size below and above the width, each
shrunk towards "as stated" while meals are few. Meals are hours apart, so each counts as one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from core.predictive import Z90, Array, Care, MealMisses, under_care
from core.record import Entry, Record
from core.track import Track
from core.units import US_PER_DAY, US_PER_MIN

SPAN_US: Final = 14 * US_PER_DAY
MEAL_G: Final = 20.0  # below, it is the treatment of a low
HORIZONS_MIN: Final = np.array([60.0, 120.0, 180.0, 240.0, 300.0])
NEAR_US: Final = 10 * US_PER_MIN  # a reading stands for a moment this near
FEWEST: Final = 5  # meals; with fewer nothing is said
BIAS_PRIOR: Final = 8.0  # meals that "no bias" is worth
WIDTH_PRIOR: Final = 3.0  # meals that "as wide as stated" is worth
WIDTH_RANGE: Final = (0.4, 1.6)


class Stated(NamedTuple):
    """The forecast right after a meal, mg/dL at HORIZONS_MIN: mean, half widths of 90 % below and above."""

    time_us: int
    mean: Array
    low: Array
    high: Array


class MealRecord:
    """Walks behind a twin's filter and notes a forecast at each meal."""

    def __init__(self, track: Track, turns: int) -> None:
        self.track, self.turns = track, turns
        self.stated: list[Stated] = []

    def walk(self, record: Record, until_us: int) -> None:
        """Take in the record up to ``until_us``."""
        waiting: list[Entry] = []
        for entry in record.between(self.track.seen_us, until_us):
            if waiting and entry.time_us > waiting[0].time_us:
                self._take(waiting)
                waiting = []
            waiting.append(entry)
        if waiting:
            self._take(waiting)

    def _take(self, together: list[Entry]) -> None:
        """All events of one moment."""
        acts = [e for e in together if e.kind in ("bolus_u", "carbs_g")]
        if any(e.kind == "carbs_g" and e.value >= MEAL_G for e in acts) and self.track.corrected():
            before = self.track.copy()
            before.advance(together[0].time_us)
            care = Care([(e.time_us, e.kind, e.value) for e in acts], eaten=True)
            self.stated.append(Stated(together[0].time_us, *under_care(before, HORIZONS_MIN, care)))
        for entry in together:
            self.track.apply(entry)
        self.track.seen_us = together[-1].time_us

    def misses(self, record: Record, now_us: int) -> MealMisses | None:
        """Summary of the meals of the last two weeks that are known by ``now_us``; None with too few."""
        self.stated = [s for s in self.stated if s.time_us > now_us - SPAN_US]
        rows = [self._miss(record, s, now_us) for s in self.stated]
        error = np.array([row[0] for row in rows]).reshape(-1, HORIZONS_MIN.size)
        below = np.array([row[1] for row in rows]).reshape(error.shape)
        above = np.array([row[2] for row in rows]).reshape(error.shape)
        n = np.count_nonzero(np.isfinite(error), axis=0)
        if n.min() < FEWEST:
            return None
        bias = n / (n + BIAS_PRIOR) * np.nanmean(error, axis=0)
        left = error - bias
        low = _width(np.where(left < 0.0, left / below, 0.0), np.isfinite(error))
        high = _width(np.where(left > 0.0, left / above, 0.0), np.isfinite(error))
        return MealMisses(HORIZONS_MIN, bias, low, high)

    @staticmethod
    def _miss(record: Record, stated: Stated, now_us: int) -> tuple[Array, Array, Array]:
        """Reading minus mean (nan where there is none), SD stated below and above."""
        readings = [
            e
            for e in record.between(stated.time_us, min(now_us, stated.time_us + 310 * US_PER_MIN))
            if e.kind == "cgm_mgdl"
        ]
        error = np.full(HORIZONS_MIN.size, np.nan)
        if readings:
            times = np.array([e.time_us for e in readings], dtype=np.int64)
            values = np.array([e.value for e in readings])
            for k, horizon in enumerate(HORIZONS_MIN):
                away = np.abs(times - (stated.time_us + int(horizon * US_PER_MIN)))
                nearest = int(away.argmin())
                if away[nearest] <= NEAR_US:
                    error[k] = values[nearest] - stated.mean[k]
        return error, stated.low / Z90, stated.high / Z90


def _width(z: Array, known: Array) -> Array:
    """Factor on a side's width; ``z``: misses on that side in stated SD, 0 on the other."""
    n = np.count_nonzero(known, axis=0)
    size = (
        2.0 * np.square(np.where(known, z, 0.0)).sum(axis=0) / np.maximum(n, 1)
    )  # of a half normal: 1 as stated
    cautious = size * (n + 0.84 * np.sqrt(2.0 * n))  # its one-sided 80 % bound
    factor: Array = np.clip(np.sqrt((WIDTH_PRIOR + cautious) / (WIDTH_PRIOR + n)), *WIDTH_RANGE)
    return factor
