"""The causal pass: at each glucose reading the twin has seen everything up to it and nothing after it.

Pure but for the clock that measures itself: events in, a ``Trace`` filled, lines handed to a ``Sink``.
"""

from __future__ import annotations

import itertools
import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.messages import Alarm, Estimate, Forecast, Sample
from core.twin import Twin
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge.alarms.threshold import MAX_READING_AGE_MIN, ThresholdAlarms
from edge.config import AlarmConfig

HORIZONS_MIN: Final = (15.0, 30.0, 60.0, 120.0, 240.0, 360.0)
# Insulin or food from before this can no longer be felt when the first reading comes; an event weeks earlier
# would only start the twin's learning where there is nothing to learn from.
LEAD_US: Final = 3 * US_PER_DAY
POSTERIOR_US: Final = US_PER_H  # one row of posterior.csv at most this often
PROGRESS_EVERY: Final = 50  # readings between two reports of progress: 20 ms of work
STICK_NEAR_US: Final = 10 * US_PER_MIN  # a fingerstick this long after a reading is compared with it
PER_FORECAST: Final = 4 * len(HORIZONS_MIN)
Floats = NDArray[np.float64]


class Sink(Protocol):
    """Where lines go while the pass runs."""

    def forecast(self, forecast: Forecast) -> None: ...
    def posterior(self, estimate: Estimate) -> None: ...
    def alarm(self, alarm: Alarm) -> None: ...


class Posterior(NamedTuple):
    """Mean and standard deviation of every state at one time."""

    time_us: int
    mean: tuple[float, ...]
    sd: tuple[float, ...]


class Stick(NamedTuple):
    """A fingerstick beside what was known just before it, mg/dL: the newest reading, and blood by the twin (90 % band)."""

    time_us: int
    value: float
    reading: float
    blood: float
    low: float
    high: float


@dataclass
class Trace:
    """What the pass found, growing as it runs: a stopped pass leaves a shorter one."""

    samples: tuple[Sample, ...]  # what was used, time order
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    model: str = ""
    made_us: list[int] = field(default_factory=list)
    reading_mgdl: list[float] = field(default_factory=list)
    # mean, p05, p50, p95 of every horizon, one forecast after the other: a year's would fill lists of tuples
    # with 70 MB of boxed numbers.
    quantiles: array[float] = field(default_factory=lambda: array("d"))
    nis: list[float] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    posteriors: list[Posterior] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    sticks: list[Stick] = field(default_factory=list)
    assumed: tuple[tuple[str, str], ...] = ()
    notes: list[str] = field(default_factory=list)
    not_finite: int = 0
    readings_in_all: int = 0
    complete: bool = False
    twin_s: float = 0.0  # inside the twin
    total_s: float = 0.0

    def forecasts(self) -> tuple[Floats, Floats, Floats, Floats]:
        """mean, p05, p50, p95: float64[n_made, n_horizons] mg/dL."""
        cube = np.array(self.quantiles).reshape(-1, 4, len(HORIZONS_MIN))
        return cube[:, 0], cube[:, 1], cube[:, 2], cube[:, 3]


def usable(samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], list[str]]:
    """What of a recording the pass uses, and notes on the rest. InputError without a glucose reading."""
    readings = [s.time_us for s in samples if s.kind == "cgm_mgdl"]
    if not readings:
        raise InputError(
            "holds no sensor readings (cgm_mgdl), so there is nothing to forecast",
            where="recording",
            mend="include the sensor's readings in the export",
        )
    first, last = min(readings), max(readings)
    kept = tuple(s for s in samples if first - LEAD_US <= s.time_us <= last)
    notes = []
    early = sum(1 for s in samples if s.time_us < first - LEAD_US)
    late = sum(1 for s in samples if s.time_us > last)
    if early:
        notes.append(f"{early} events more than 3 days before the first reading are not used")
    if late:
        notes.append(f"{late} events after the last reading are not used: no reading could show their effect")
    kinds = {s.kind for s in kept}
    if not kinds & {"bolus_u", "basal_uph", "long_acting_u"}:
        notes.append(
            "the record holds no insulin: a steady basal dose is assumed, so what is learned about insulin means little"
        )
    if "carbs_g" not in kinds:
        notes.append("the record holds no meals: all food is unannounced to the twin")
    if len(set(readings)) < 2:
        notes.append("a single reading: forecasts rest on the population, and nothing can be scored")
    return kept, notes


def run(trace: Trace, twin: Twin, sink: Sink, on_progress: Callable[[int], None] = lambda done: None) -> None:
    """Run a fresh twin over ``trace.samples``. Ends early with KeyboardInterrupt; the trace then holds a part."""
    began = time.perf_counter()
    try:
        _run(trace, twin, sink, on_progress)
        trace.complete = True
    finally:
        trace.total_s = time.perf_counter() - began
        # A stop between two appends would leave lists of unequal length.
        columns = (trace.made_us, trace.reading_mgdl, trace.nis, trace.status)
        whole = min(*(len(column) for column in columns), len(trace.quantiles) // PER_FORECAST)
        for column in columns:
            del column[whole:]
        del trace.quantiles[whole * PER_FORECAST :]


def _run(trace: Trace, twin: Twin, sink: Sink, on_progress: Callable[[int], None]) -> None:
    numbers = itertools.count(1)
    alarms = ThresholdAlarms(AlarmConfig(), lambda: next(numbers))
    samples = trace.samples
    readings = [i for i, s in enumerate(samples) if s.kind == "cgm_mgdl"]
    trace.readings_in_all = len(readings)
    fed = 0
    next_posterior_us = 0
    for done, index in enumerate(readings):
        t = samples[index].time_us
        until = index + 1
        while until < len(samples) and samples[until].time_us == t:
            until += 1
        if until <= fed:
            continue  # a second sensor's reading of the same moment
        for minute_us in _quiet_minutes(alarms, t):
            _note(trace, sink, alarms.on_time(minute_us, minute_us))
        tick = time.perf_counter()
        _sticks(trace, twin, samples[fed:until])
        twin.observe(samples[fed:until])
        forecast = twin.forecast(t, HORIZONS_MIN).forecast
        estimate = twin.estimate(t)
        trace.twin_s += time.perf_counter() - tick
        _note(trace, sink, alarms.on_samples(samples[fed:until], t, t))
        fed = until
        if not _finite(forecast):
            trace.not_finite += 1
            continue
        _note(trace, sink, alarms.on_forecast(forecast, t))
        sink.forecast(forecast)
        trace.names, trace.units, trace.model = estimate.names, estimate.units, estimate.model
        if t >= next_posterior_us or done == len(readings) - 1:
            next_posterior_us = t + POSTERIOR_US
            trace.posteriors.append(Posterior(t, estimate.mean, standard_deviations(estimate)))
            trace.assumed = twin.assumed
            sink.posterior(estimate)
        trace.made_us.append(t)
        trace.reading_mgdl.append(samples[index].value)
        trace.quantiles.extend((*forecast.mean, *forecast.p05, *forecast.p50, *forecast.p95))
        trace.nis.append(estimate.nis)
        trace.status.append(forecast.status)
        if done % PROGRESS_EVERY == 0:
            on_progress(done + 1)
    trace.assumed = twin.assumed
    on_progress(len(readings))
    if trace.not_finite:
        trace.notes.append(f"{trace.not_finite} forecasts were not finite and are left out")
    if twin.ignored_old:
        trace.notes.append(f"{twin.ignored_old} events came too late for the twin")


def _sticks(trace: Trace, twin: Twin, coming: Sequence[Sample]) -> None:
    """Fingersticks among ``coming``, none of which the twin has seen."""
    if not trace.made_us:
        return
    for sample in coming:
        if sample.kind == "smbg_mgdl" and sample.time_us - trace.made_us[-1] <= STICK_NEAR_US:
            blood = twin.blood(sample.time_us, (0.0,))
            mean = float(blood.mean[0])
            band = (mean - float(blood.low[0]), mean + float(blood.high[0]))
            trace.sticks.append(Stick(sample.time_us, sample.value, trace.reading_mgdl[-1], mean, *band))


def _quiet_minutes(alarms: ThresholdAlarms, now_us: int) -> list[int]:
    """The minutes before a reading at ``now_us`` in which the hub, which looks each minute, would have acted.

    Nothing happens between readings but that a forecast grows old and that the silence becomes an alarm.
    """
    if alarms.newest is None:
        return []
    waits_min = (MAX_READING_AGE_MIN + 1, alarms.config.signal_loss_min + 1)
    minutes = sorted(alarms.newest.time_us + round(wait * US_PER_MIN) for wait in waits_min)
    return [minute_us for minute_us in minutes if minute_us < now_us]


def _note(trace: Trace, sink: Sink, alarms: list[Alarm]) -> None:
    for alarm in alarms:
        trace.alarms.append(alarm)
        sink.alarm(alarm)


def _finite(forecast: Forecast) -> bool:
    return all(
        math.isfinite(v)
        for row in (forecast.mean, forecast.sd, forecast.p05, forecast.p50, forecast.p95)
        for v in row
    )


def standard_deviations(estimate: Estimate) -> tuple[float, ...]:
    """Of every state, from the packed lower triangle."""
    return tuple(
        math.sqrt(max(0.0, estimate.covariance[i * (i + 3) // 2])) for i in range(len(estimate.mean))
    )
