"""Forecasts of real people's CGM, causally, beside persistence, ridge regression and gradient boosting.

Protocol: days with ≥ 70 % CGM, a bolus and a meal; the first half of them trains the peers, the second half is
scored at every CGM time (readings closer than 5 min count once). The target is CGM at t + horizon. The twin
sees the whole record up to t in its order and nothing else; it is given no therapy settings. RMSE is averaged
over people. The blind twin is the same filter fed with CGM only: RMSE hardly rewards knowing insulin, so the
windows after boluses and meals stand apart.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from rich.progress import track

from bench import peers
from bench.recordings import US_PER_MIN, Recording, all_recordings
from bench.report import Section, Table
from core.messages import Sample
from core.patient import Patient
from core.twin import Twin

HORIZONS_MIN: Final = (30, 60, 120)
BOLUS_WINDOW_U: Final = 3.0
MEAL_WINDOW_G: Final = 30.0
WINDOW_MIN: Final = 180.0
NOMINAL: Final = 0.90
RANGES: Final = (("low <70", 0.0, 70.0), ("target 70–180", 70.0, 180.0), ("high >180", 180.0, 1e9))
# Issue targets: below the best peer by these shares at 30/60/120 min, coverage within .87–.93.
MARGINS: Final = (0.03, 0.03, 0.02)
COVERAGE: Final = (0.87, 0.93)


@dataclass(frozen=True)
class Forecasts:
    """One method on one person: float64[n_times, n_horizons] each; bounds NaN where a method has none."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seconds: float = 0.0


def twin_forecasts(
    samples: Sequence[Sample], times_min: np.ndarray, only: frozenset[str] | None = None
) -> Forecasts:
    """Feed the record in order, forecast at each time. ``only``: the kinds the twin may see (None: all)."""
    twin = Twin(Patient(timezone="UTC"))
    feed = [s for s in samples if only is None or s.kind in only]
    out = np.full((3, len(times_min), len(HORIZONS_MIN)), np.nan)
    begin = time.process_time()
    position = 0
    for k, t_min in enumerate(times_min):
        t_us = round(t_min * US_PER_MIN)
        upto = position
        while upto < len(feed) and feed[upto].time_us <= t_us:
            upto += 1
        twin.observe(feed[position:upto])
        position = upto
        forecast = twin.forecast(t_us, HORIZONS_MIN).forecast
        out[:, k] = forecast.mean, forecast.p05, forecast.p95
    return Forecasts(out[0], out[1], out[2], time.process_time() - begin)


def point(mean: np.ndarray) -> Forecasts:
    """A method without an interval."""
    nan = np.full_like(mean, np.nan)
    return Forecasts(mean, nan, nan)


@dataclass(frozen=True)
class Person:
    """One person's scored times, targets and methods."""

    who: Recording
    times: np.ndarray
    now: np.ndarray  # CGM at the time
    target: np.ndarray  # float64[n_times, n_horizons]
    methods: dict[str, Forecasts]

    def rmse(self, method: str, where: np.ndarray | None = None) -> np.ndarray:
        """Per horizon, over times with a target (and inside ``where``)."""
        error = self.methods[method].mean - self.target
        if where is not None:
            error = error[where]
        return np.sqrt(np.nanmean(error**2, axis=0))

    def after(self, kind: str, at_least: float, without: str | None = None) -> np.ndarray:
        """Which times lie within 3 h after an act; ``without``: no such act within 2 h of it."""
        at, amount = self.who.of_kind(kind)
        at = at[amount >= at_least]
        if without is not None:
            other, _ = self.who.of_kind(without)
            at = np.array([t for t in at if not np.any(np.abs(other - t) <= 120.0)])
        if not len(at):
            return np.zeros(len(self.times), dtype=bool)
        last = at[np.clip(np.searchsorted(at, self.times, side="right") - 1, 0, None)]
        since = self.times - last
        return (since >= 0) & (since <= WINDOW_MIN)


def run_peers(people: Sequence[Recording]) -> dict[str, dict[str, np.ndarray]]:
    """Predictions per method and person: float64[n_times, n_horizons]."""
    out: dict[str, dict[str, np.ndarray]] = {"persistence": {}, "ridge": {}, "boosting": {}}
    made: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for who in people:
        train, score = who.times_in(who.train_days), who.times_in(who.score_days)
        made[who.name] = peers.features(who, train), peers.features(who, score), train
        shape = (len(score), len(HORIZONS_MIN))
        out["persistence"][who.name] = np.repeat(made[who.name][1][:, :1], shape[1], axis=1)
        out["ridge"][who.name], out["boosting"][who.name] = np.empty(shape), np.empty(shape)
    for k, horizon in enumerate(HORIZONS_MIN):
        pooled: list[tuple[np.ndarray, np.ndarray]] = []
        for who in people:
            train_x, score_x, train = made[who.name]
            train_y = who.at(train + horizon) - train_x[:, 0]
            known = ~np.isnan(train_y)
            pooled.append((train_x[known], train_y[known]))
            change = peers.ridge(train_x[known], train_y[known], score_x)
            out["ridge"][who.name][:, k] = score_x[:, 0] + change
        model: Any = peers.boosting(np.vstack([x for x, _ in pooled]), np.concatenate([y for _, y in pooled]))
        for who in people:
            score_x = made[who.name][1]
            out["boosting"][who.name][:, k] = score_x[:, 0] + model.predict(score_x)
    return out


def measure(recordings: Sequence[Recording], blind: bool = True) -> list[Person]:
    """All methods on all people."""
    against = run_peers(recordings)
    people = []
    for who in track(recordings, description="real people"):
        times = who.times_in(who.score_days)
        target = np.column_stack([who.at(times + h) for h in HORIZONS_MIN])
        methods = {name: point(values[who.name]) for name, values in against.items()}
        methods["twin"] = twin_forecasts(who.samples, times)
        if blind:
            methods["twin, blind"] = twin_forecasts(who.samples, times, frozenset({"cgm_mgdl"}))
        people.append(Person(who, times, who.at(times), target, methods))
    return people


def coverage(person: Person, method: str, low: float, high: float, by: str) -> np.ndarray:
    """Share of targets inside the 90 % band per horizon, where ``by`` (now or target) lies in [low, high)."""
    f = person.methods[method]
    inside = (person.target >= f.low) & (person.target <= f.high)
    value = person.now[:, None] if by == "now" else person.target
    counted = ~np.isnan(person.target) & (value >= low) & (value < high)
    with np.errstate(invalid="ignore"):
        return np.where(counted.sum(0) > 0, (inside & counted).sum(0) / np.maximum(counted.sum(0), 1), np.nan)


def _cells(values: np.ndarray, digits: int = 1) -> tuple[str, ...]:
    return tuple("–" if np.isnan(v) else f"{v:.{digits}f}" for v in values)


def run(quick: bool = False) -> Section:
    """The section. ``quick``: two people, no blind twin."""
    recordings = all_recordings()
    if quick:
        recordings = recordings[2:4]
    people = measure(recordings, blind=not quick)
    names = list(people[0].methods)
    columns = tuple(f"{h} min" for h in HORIZONS_MIN)
    mean = {name: np.mean([p.rmse(name) for p in people], axis=0) for name in names}
    tables = [
        Table(
            "RMSE mg/dL, mean over people",
            ("method", *columns),
            tuple((name, *_cells(mean[name])) for name in names),
        ),
        Table(
            "Twin by person: RMSE (ridge) · 90 % coverage",
            ("person", *columns, *(f"cover {h}" for h in HORIZONS_MIN), "days/s"),
            tuple(_person_row(p) for p in people),
        ),
        _coverage_table(people),
    ]
    if "twin, blind" in names:
        tables.append(_window_table(people))
    best = np.minimum(mean["ridge"], mean["boosting"])
    failed = tuple(
        f"RMSE {h} min: {100 * (mean['twin'][k] / best[k] - 1):+.1f} % against the best peer, wanted ≤ −{100 * MARGINS[k]:.0f} %"
        for k, h in enumerate(HORIZONS_MIN)
        if mean["twin"][k] > (1 - MARGINS[k]) * best[k]
    )
    covered = np.mean([coverage(p, "twin", 0, 1e9, "now") for p in people], axis=0)
    failed += tuple(
        f"coverage {h} min: {covered[k]:.2f}, wanted {COVERAGE[0]}–{COVERAGE[1]}"
        for k, h in enumerate(HORIZONS_MIN)
        if not COVERAGE[0] <= covered[k] <= COVERAGE[1]
    )
    scored = sum(len(p.times) for p in people)
    notes = (
        f"{len(people)} people, {sum(len(p.who.score_days) for p in people)} scored days, {scored} forecasts; "
        "data: T1D-UOM (CC BY 4.0), read from HOMETWIN_DATA",
    )
    return Section("forecast", "forecasts of real people", tuple(tables), notes, failed)


def _person_row(p: Person) -> tuple[str, ...]:
    ours, ridge = p.rmse("twin"), p.rmse("ridge")
    span_days = (p.times[-1] * US_PER_MIN - p.who.samples[0].time_us) / (1440 * US_PER_MIN)
    return (
        p.who.name,
        *(f"{a:.1f} ({b:.1f})" for a, b in zip(ours, ridge, strict=True)),
        *_cells(coverage(p, "twin", 0, 1e9, "now"), 2),
        f"{span_days / max(p.methods['twin'].seconds, 1e-9):.1f}",
    )


def _coverage_table(people: Sequence[Person]) -> Table:
    rows = []
    for by in ("now", "target"):
        for label, low, high in RANGES:
            shares = np.array([coverage(p, "twin", low, high, by) for p in people])
            rows.append((f"{label} ({by})", *_cells(np.nanmean(shares, axis=0), 2)))
    return Table(
        "90 % band of the twin covers, by glucose at the time of forecast (now) and by what came (target)",
        ("range", *(f"{h} min" for h in HORIZONS_MIN)),
        tuple(rows),
    )


def _window_table(people: Sequence[Person]) -> Table:
    rows = []
    for label, kind, least, without in (
        ("bolus ≥ 3 U, no meal within 2 h", "bolus_u", BOLUS_WINDOW_U, "carbs_g"),
        ("meal ≥ 30 g", "carbs_g", MEAL_WINDOW_G, None),
    ):
        masks = [p.after(kind, least, without) for p in people]
        usable = [(p, m) for p, m in zip(people, masks, strict=True) if m.sum() >= 30]
        for name in people[0].methods:
            values = [p.rmse(name, m) for p, m in usable]
            if values:
                rows.append(
                    (f"{name}: 3 h after {label}", *_cells(np.mean(values, axis=0)), str(len(values)))
                )
    return Table(
        "RMSE mg/dL in windows where inputs matter",
        ("method: window", *(f"{h} min" for h in HORIZONS_MIN), "people"),
        tuple(rows),
    )
