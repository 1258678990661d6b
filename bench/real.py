"""Every forecaster on every real person, run once per process and shared by the benches.

Protocol: days with ≥ 70 % CGM, a bolus and a meal; the first half of them trains the peers and the prior of
the twin's correction, the second half is scored at every CGM time (readings closer than 5 min count once).
The target is CGM at t + horizon. A twin sees the whole record up to t, in its order, and nothing else; it is
given no therapy settings. Its prior is fitted on the first halves of the *other* people only, so the person
who is scored is unknown to it. The blind twin is the same filter on the same record without boluses, basal,
long-acting insulin and carbohydrate, and has a prior of its own that was fitted on such records.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from rich.progress import track

from bench import peers
from bench.recordings import DAY_MIN, US_PER_MIN, Recording, all_recordings
from core.correction import Population, neutral
from core.messages import Sample
from core.patient import Patient
from core.population import collect, fit
from core.twin import Twin

HORIZONS_MIN: Final = (30, 60, 120, 240, 360)
NEAR_MIN: Final = (5, 10, 15, 20, 25, 30)  # to look for hypoglycaemia within half an hour
ALL_MIN: Final = (*NEAR_MIN, *HORIZONS_MIN[1:])
_SCORED: Final = [ALL_MIN.index(h) for h in HORIZONS_MIN]
INPUTS: Final = frozenset({"bolus_u", "basal_uph", "long_acting_u", "carbs_g"})
TWIN: Final = "twin"
SHIPPED: Final = "twin, shipped prior"
BLIND: Final = "twin, blind to inputs"
BARE: Final = "twin, filter alone"
QUICK_PEOPLE: Final = ("2302", "2404")  # few readings
FOLDS: Final = 3


@dataclass(frozen=True)
class Forecasts:
    """One method on one person: float64[n_times, n_horizons] each; bounds NaN where a method has none."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    near: np.ndarray  # float64[3, n_times, len(NEAR_MIN)]: mean, low, high; empty for peers
    seconds: float = 0.0
    low_chance: np.ndarray = field(default_factory=lambda: np.empty(0))  # of the twin


@dataclass(frozen=True)
class Person:
    """One person's scored times, targets and methods."""

    who: Recording
    times: np.ndarray
    now: np.ndarray  # CGM at the time
    target: np.ndarray  # float64[n_times, n_horizons]
    methods: dict[str, Forecasts]
    prior: Population  # of the twin: fitted on the others

    def rmse(self, method: str, where: np.ndarray | None = None) -> np.ndarray:
        """Per horizon, over times with a target (and inside ``where``)."""
        error = self.methods[method].mean - self.target
        if where is not None:
            error = error[where]
        return np.asarray(np.sqrt(np.nanmean(error**2, axis=0)))


def half_us(who: Recording) -> int:
    """End of the last training day."""
    return (int(who.train_days[-1]) + 1) * DAY_MIN * US_PER_MIN


def patient() -> Patient:
    """Nothing is told. Times of the recordings are local clock time taken as UTC."""
    return Patient(timezone="UTC")


def blinded(samples: Sequence[Sample]) -> list[Sample]:
    """The record without any input of insulin or carbohydrate."""
    return [s for s in samples if s.kind not in INPUTS]


def follow(samples: Sequence[Sample], times_min: np.ndarray, population: Population | None) -> Forecasts:
    """Feed the record in order, forecast at each time. ``population`` None: the one that ships."""
    twin = Twin(patient(), population=population)
    out = np.full((3, len(times_min), len(ALL_MIN)), np.nan)
    low_chance = np.zeros(len(times_min))
    begin = time.process_time()
    position = 0
    for k, t_min in enumerate(times_min):
        t_us = round(t_min * US_PER_MIN)
        upto = position
        while upto < len(samples) and samples[upto].time_us <= t_us:
            upto += 1
        twin.observe(samples[position:upto])
        position = upto
        forecast = twin.forecast(t_us, ALL_MIN).forecast
        low_chance[k] = forecast.low_chance
        out[:, k] = forecast.mean, forecast.p05, forecast.p95
    seconds = time.process_time() - begin
    near, scored = out[:, :, : len(NEAR_MIN)], out[:, :, _SCORED]
    return Forecasts(scored[0], scored[1], scored[2], near, seconds, low_chance)


def point(mean: np.ndarray) -> Forecasts:
    """A method without an interval."""
    nan = np.full_like(mean, np.nan)
    return Forecasts(mean, nan, nan, np.empty((3, 0, 0)))


def run_peers(people: Sequence[Recording], quick: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """Predictions per method and person: float64[n_times, n_horizons]."""
    names = ("persistence", "ridge", "ridge, pooled", "boosting", "boosting, pooled")
    out: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    made: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for who in people:
        train, score = who.times_in(who.train_days), who.times_in(who.score_days)
        made[who.name] = peers.features(who, train), peers.features(who, score), train
        for name in names:
            out[name][who.name] = np.repeat(made[who.name][1][:, :1], len(HORIZONS_MIN), axis=1)
    trees: dict[str, int] = dict.fromkeys(["", *made], 1) if quick else {}
    order = [1, 0, 2, 3, 4]  # settings of the trees are chosen at 60 min
    for k in track(order, description="peers"):
        horizon = HORIZONS_MIN[k]
        pooled: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for who in people:
            train_x, score_x, train = made[who.name]
            train_y = who.at(train + horizon) - train_x[:, 0]
            # Nothing of the second half, not even as the target of the last training times.
            known = ~np.isnan(train_y) & (train + horizon < who.score_days[0] * DAY_MIN)
            x, y = train_x[known], train_y[known]
            fold = np.arange(len(y)) * FOLDS // max(len(y), 1)
            pooled.append((x, y, fold))
            if who.name not in trees:
                trees[who.name] = peers.choose_trees(x, y, fold)
            out["ridge"][who.name][:, k] += peers.ridge(x, y).predict(score_x)
            out["boosting"][who.name][:, k] += peers.boosting(x, y, trees[who.name]).predict(score_x)
        x, y, fold = (np.concatenate(parts) for parts in zip(*pooled, strict=True))
        if "" not in trees:
            trees[""] = peers.choose_trees(x, y, fold)
        models: tuple[tuple[str, Any], ...] = (
            ("ridge, pooled", peers.ridge(x, y)),
            ("boosting, pooled", peers.boosting(x, y, trees[""])),
        )
        for name, model in models:
            for who in people:
                out[name][who.name][:, k] += model.predict(made[who.name][1])
    return out


@functools.cache
def measured(quick: bool = False) -> tuple[Person, ...]:
    """All methods on all people. ``quick``: two people."""
    recordings = [r for r in all_recordings() if not quick or r.name in QUICK_PEOPLE]
    with peers.one_thread():
        against = run_peers(recordings, quick)
    rows = {}
    for who in track(recordings, description="priors, first halves"):
        seen = [s for s in who.samples if s.time_us < half_us(who)]
        rows[who.name] = collect(patient(), seen), collect(patient(), blinded(seen))
    people = []
    for who in track(recordings, description="real people"):
        times = who.times_in(who.score_days)
        target = np.column_stack([who.at(times + h) for h in HORIZONS_MIN])
        prior, blind_prior = (fit([r[k] for name, r in rows.items() if name != who.name]) for k in (0, 1))
        methods = {name: point(values[who.name]) for name, values in against.items()}
        methods[TWIN] = follow(who.samples, times, prior)
        methods[BLIND] = follow(blinded(who.samples), times, blind_prior)
        if not quick:
            methods[BARE] = point(follow(who.samples, times, neutral()).mean)
            methods[SHIPPED] = follow(who.samples, times, None)
        people.append(Person(who, times, who.at(times), target, methods, prior))
    return tuple(people)


def bootstrap(ours: np.ndarray, theirs: np.ndarray, draws: int = 4000) -> tuple[float, float, float]:
    """Relative gain 1 − mean(ours)/mean(theirs) and its 5–95 % interval over resampled people, in percent."""
    pick = np.random.default_rng(0).integers(0, len(ours), (draws, len(ours)))
    gains = 100.0 * (1.0 - ours[pick].mean(axis=1) / theirs[pick].mean(axis=1))
    low, high = np.quantile(gains, (0.05, 0.95))
    return 100.0 * float(1.0 - ours.mean() / theirs.mean()), float(low), float(high)
