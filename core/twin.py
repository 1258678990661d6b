"""The twin of one person: one pure entry for engine, cloud, replay and tests.

Feed it the record in any order; ask for the estimate or a forecast at any time. Answers at time t rest on
events up to t and nothing later. Late events, amendments and deletions rewind to a checkpoint and replay;
the result is the same to the last bit as if everything had come in order.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from core import correction_pool, lows, sharing, snapshot
from core.advice_types import Advice, Policy
from core.blood import BloodError, BloodForecast, blood_error, in_blood
from core.correction import Population
from core.correction_prior import POPULATION
from core.errors import InputError
from core.filters.smoother import Tape
from core.gate import SC_HAS_BASAL, SC_LONG_AT, SC_READINGS, SC_Z1
from core.guidance import Guidance
from core.messages import Contribution, Estimate, Forecast, Prior, Sample
from core.models import registry
from core.models.hovorka import BASAL
from core.nominal import Nominal, Tuning, make_nominal, with_prior
from core.patient import LocalTime, Patient
from core.predictive import HORIZON_LIMIT_MIN, STEP_MIN, Z90, Futures, Outlook, draw_paths, outlook
from core.record import RANK, Record
from core.sensor_clock import ClockOffset, Clocks
from core.therapy_facts import probe
from core.track import Track
from core.units import US_PER_DAY, US_PER_H, US_PER_S, check_value

if TYPE_CHECKING:
    from core.causal.change import Do
    from core.causal.counterfactual import Counterfactual
    from core.predictive import Stated

Event = Sample
__all__ = ["Advice", "Event", "ForecastResult", "Innovation", "Patient", "Policy", "Smoothed", "Twin"]

HISTORY_US: Final = 15 * US_PER_DAY  # how late an event may be
CALIBRATE_US: Final = (US_PER_DAY, 3 * US_PER_DAY, 7 * US_PER_DAY)  # after the first event
CHECKPOINT_US: Final = US_PER_H
# How many checkpoints stay, by age: each hour for half a day, each 6 h for 4 d, each day until HISTORY.
KEEP: Final = ((12 * US_PER_H, US_PER_H), (4 * US_PER_DAY, 6 * US_PER_H), (HISTORY_US, US_PER_DAY))
LOWEST_MGDL: Final = 10.0  # quantiles stay where a sensor could show something
HIGHEST_MGDL: Final = 1000.0


class ForecastResult(NamedTuple):
    """The message, and on request drawn futures of glucose."""

    forecast: Forecast
    paths: NDArray[np.float64] | None = None  # float64[n_draws, n_steps] mg/dL
    step_min: float = STEP_MIN  # time of column k is made_at + (k + 1)·step_min


class Smoothed(NamedTuple):
    """Past states, parameters and disturbance in the light of all events up to the end."""

    times_us: NDArray[np.int64]  # [n_times]
    names: tuple[str, ...]
    units: tuple[str, ...]
    mean: NDArray[np.float64]  # [n_times, n_names]
    sd: NDArray[np.float64]


class Innovation(NamedTuple):
    """One reading against the filter's expectation, in standard deviations; positive: higher than expected."""

    time_us: int
    z: float


class Checkpoint(NamedTuple):
    """A track to start again from, and how many calibrations it has had."""

    track: Track
    calibrations: int


class _Walk(NamedTuple):
    """Where the last look at innovations ended."""

    turns: int
    from_us: int
    track: Track
    found: list[Innovation]


class Twin:
    """See the module. Not thread-safe; one per person."""

    def __init__(
        self,
        patient: Patient | None = None,
        model: str | None = None,  # the patient's own choice
        prior: Prior | None = None,
        seed: int = 0,
        population: Population | None = None,
    ) -> None:
        self.patient = patient if patient is not None else Patient()
        self.model_name = model if model is not None else self.patient.model.name
        self.model = registry.find(self.model_name)
        self.prior = prior
        self.seed = seed
        self.population = population if population is not None else POPULATION
        self._prior_from_us = -1  # the prior counts for events after this time
        self._guidance: list[Guidance] = []  # by time
        self.changing = ""  # words of a change of context under way: then nothing is advised
        self.tuning = Tuning()
        self.local = LocalTime(self.patient.timezone)
        self.record = Record()
        self._clocks = Clocks()
        self._track: Track | None = None
        self._calibrations = 0
        self._start_us: int | None = None  # time of the first event
        self._checkpoints: list[Checkpoint] = []
        self._dirty_us: int | None = None
        self._walk: _Walk | None = None
        self._turns = 0  # how often the past was gone over again
        self._nominal_at_start()  # a wrong override shall be an error here, not at the first forecast

    # ---- the record ---------------------------------------------------------------------------------

    def observe(self, events: Iterable[Sample]) -> None:
        """Take in samples of any kind, in any order. Kinds that this model does not use are ignored.

        Readings of a sensor whose clock is known to be wrong are put right (``clock_offsets``). Raises
        InputError, and takes in nothing of the batch, when a value or time cannot be meant.
        """
        batch = list(events)
        clocks = self._clocks
        if any(s.received_us > 0 for s in batch):
            clocks = clocks.copy()
            batch = [clocks.align(s) for s in batch]
        dirty = self.record.add(batch)
        self._clocks = clocks
        if dirty is not None:
            self._dirty_us = dirty if self._dirty_us is None else min(dirty, self._dirty_us)

    @property
    def clock_offsets(self) -> dict[str, ClockOffset]:
        """How far the clock of each live CGM source is off, with its SD, and whether readings are put right."""
        return {source: watch.offset() for source, watch in self._clocks.watches.items()}

    @property
    def assumed(self) -> tuple[tuple[str, str], ...]:
        """What was not given and is assumed or estimated from the record: (name, source)."""
        return self._nominal_at_start().assumed if self._track is None else self._track.nominal.assumed

    @property
    def ignored_old(self) -> int:
        """Events that came too late to be used (older than 15 days before the newest used)."""
        return self.record.ignored_old

    # ---- answers ------------------------------------------------------------------------------------

    def estimate(self, t: int) -> Estimate:
        """State, parameters and output at ``t`` (µs UTC) from events up to ``t``."""
        track = self._at(t)
        n = track.mean.size
        cov = track.factor.T @ track.factor
        mean, sd = track.output()
        return Estimate(
            time_us=t,
            model=self.model.NAME,
            names=self.model.NAMES,
            units=self.model.UNITS,
            mean=tuple(track.mean.tolist()),
            covariance=tuple(cov[np.tril_indices(n)].tolist()),
            output_mean=min(max(mean, LOWEST_MGDL), HIGHEST_MGDL),
            output_sd=sd,
            nis=track.nis,
            data_age_s=track.age_s(t),
            status=track.status(t),
        )

    def forecast(
        self,
        t: int,
        horizons_min: Sequence[float],
        planned: Iterable[Sample] = (),
        paths: int = 0,
        seed: int = 0,
    ) -> ForecastResult:
        """Predictive distribution of CGM glucose at ``t`` + horizons, given inputs ``planned`` after ``t``."""
        horizons = self._horizons(horizons_min)
        if not 0 <= paths <= 100_000:
            raise InputError("paths must lie in 0..100000", where="forecast")
        plan = self._check_plan(t, planned)
        track = self._at(t)
        everything = outlook(track, np.array((*horizons, *lows.AHEAD_MIN)), plan)
        view = Outlook(*(part[: len(horizons)] for part in everything))
        drawn = None
        if paths:
            drawn = draw_paths(track, max(horizons), plan, paths, (self.seed, seed))
            drawn = np.clip(drawn, LOWEST_MGDL, HIGHEST_MGDL)
        middle = np.clip(view.mean, LOWEST_MGDL, HIGHEST_MGDL)
        low = np.clip(view.mean - view.low, LOWEST_MGDL, HIGHEST_MGDL)
        high = np.clip(view.mean + view.high, LOWEST_MGDL, HIGHEST_MGDL)
        sd = (view.low + view.high) / (2.0 * Z90)
        near = Outlook(*(part[len(horizons) :] for part in everything))
        message = Forecast(
            made_at_us=t,
            model=self.model.NAME,
            horizons_min=horizons,
            mean=tuple(middle.tolist()),
            sd=tuple(sd.tolist()),
            p05=tuple(low.tolist()),
            p50=tuple(middle.tolist()),
            p95=tuple(high.tolist()),
            data_age_s=track.age_s(t),
            status=track.status(t),
            low_chance=lows.chance_of(track, near),
        )
        return ForecastResult(message, drawn)

    def blood(
        self,
        t: int,
        horizons_min: Sequence[float],
        planned: Iterable[Sample] = (),
        lasting: bool = True,
    ) -> BloodForecast:
        """Predictive distribution of glucose in blood at ``t`` + horizons (core.blood); ``forecast`` is of readings.

        ``lasting``: the sensor may be off for days, as sensors are; False for one that is known not to be.
        """
        horizons = self._horizons(horizons_min)
        plan = self._check_plan(t, planned)
        error = blood_error(self.record, t) if lasting else BloodError(0.0, 0.0)
        found = in_blood(self._at(t), np.array(horizons), plan, error)
        return found._replace(mean=np.clip(found.mean, LOWEST_MGDL, HIGHEST_MGDL))

    def advise(self, t: int, carbs_g: float, policy: Policy, question: str | None = None) -> Advice:
        """What to do at ``t`` about a meal of ``carbs_g``, a correction, the basal rate, or in general.

        ``question``: meal | correction | basal | now (core.advice.advise). A refusal is an answer; absurd
        arguments raise InputError.
        """
        from core.advise_twin import advise  # asks this twin, so it is loaded when somebody does

        return advise(self, t, carbs_g, policy, question)

    def futures(
        self, t: int, until_min: float, draws: int, seed: int = 0, stated: Stated | None = None
    ) -> Futures:
        """Drawn futures from ``t`` on, for many plans of (time µs, kind, value) in time order (predictive.Futures)."""
        return Futures(self._at(t), until_min, draws, (self.seed, seed), stated)

    def therapy_shown(self, t: int) -> tuple[float, float]:
        """(correction factor mg/dL per U, carbohydrate ratio g per U) by the mechanism alone at ``t``."""
        track = self._at(t)
        fall, rise = probe(track.nominal.consts, track.mean[: self.model.N_THETA])
        return max(float(fall.max()), 1.0), max(float(fall.sum()) / max(float(rise.sum()), 1e-3), 1e-3)

    def innovations(self, start_us: int, end_us: int) -> list[Innovation]:
        """How each CGM reading in (start, end] differed from what the filter expected of it; pressed ones are left out."""
        self._catch_up(end_us)
        walk = self._walk
        stale = walk is None or walk.turns != self._turns
        if walk is None or stale or walk.from_us > start_us or walk.track.seen_us > end_us:
            point = next((c for c in reversed(self._checkpoints) if c.track.seen_us <= start_us), None)
            if point is None:
                return []
            walk = _Walk(self._turns, point.track.seen_us, point.track.copy(), [])
        track, found = walk.track, [i for i in walk.found if i.time_us > start_us]
        for entry in self.record.between(track.seen_us, end_us):
            seen = track.scalars[SC_READINGS]
            self._guide(track, entry.time_us)
            track.apply(entry)
            track.seen_us = entry.time_us
            if entry.kind == "cgm_mgdl" and entry.time_us > start_us and track.scalars[SC_READINGS] > seen:
                sign = 1.0 if track.scalars[SC_Z1] >= 0.0 else -1.0
                found.append(Innovation(entry.time_us, sign * math.sqrt(track.nis)))
        # Asked again and again as time goes on: go on from here, unless the past changes.
        self._walk = _Walk(self._turns, start_us, track, found)
        return list(found)

    def distances(self, t: int) -> tuple[tuple[str, float], ...]:
        """(log-parameter, standard deviations of its estimate from where the prior puts it) at ``t``."""
        track = self._at(t)
        k = self.model.N_THETA
        prior = track.nominal.dynamics[:k]
        spread = prior[:, 2].copy()
        spread[self.model.LN_S] = self.model.PRIOR_SD[self.model.LN_S]  # between people
        away = (track.mean[:k] - prior[:, 0]) / spread
        return tuple(zip(self.model.NAMES[:k], away.tolist(), strict=True))

    def basal_uph(self, t: int) -> float | None:
        """The pump's rate in force at ``t``; None when the record holds none."""
        track = self._at(t)
        return (
            float(track.held[BASAL]) * 60.0 / 1000.0
            if track.scalars[SC_HAS_BASAL] > 0.0 and track.scalars[SC_LONG_AT] == 0.0
            else None
        )

    def outliers(self, t: int) -> tuple[tuple[str, str, int], ...]:
        """Keys of the last readings (up to ``t``) that the filter held for outliers. They are never dropped."""
        return tuple(self._at(t).outliers)

    def smooth(self, start_us: int, end_us: int) -> Smoothed:
        """States, parameters and disturbance from ``start_us`` to ``end_us``, given all events up to the end.

        One row for each step of the filter (at most 5 min), so a time with an event has several: the last is
        after it. InputError when the span is empty, or its start lies before what is kept (15 days).
        """
        if end_us <= start_us:
            raise InputError("end must lie after start", where="smooth")
        if end_us - start_us > HISTORY_US:
            raise InputError("span is longer than 15 days", where="smooth")
        self._catch_up(end_us)
        point = next((c for c in reversed(self._checkpoints) if c.track.time_us <= start_us), None)
        if point is None:
            raise InputError("nothing is known at the start", where="smooth", mend="begin later")
        track = point.track.copy()
        for entry in self.record.between(track.time_us, start_us):
            self._guide(track, entry.time_us)
            track.apply(entry)
        track.advance(start_us)
        track.tape = tape = Tape()
        for entry in self.record.between(start_us, end_us):
            self._guide(track, entry.time_us)
            track.apply(entry)
        track.advance(end_us)
        points = tape.smooth(end_us, track.mean, track.factor.T @ track.factor)
        return Smoothed(
            np.array([p.time_us for p in points], dtype=np.int64),
            self.model.NAMES,
            self.model.UNITS,
            np.array([p.mean for p in points]),
            np.sqrt(np.maximum(np.array([np.diag(p.cov) for p in points]), 0.0)),
        )

    def whatif(
        self,
        do: str | Do | Iterable[str | Do],
        start: int,
        end: int,
        draws: int = 1000,
        seed: int = 0,
    ) -> Counterfactual:
        """What would have been, or would be, from ``start`` to ``end`` (µs UTC) with ``do`` done.

        do: expressions of ``core.causal.do``, e.g. ``"bolus_u*=0.7"``. Rests on everything up to ``end``, readings
        included; the same record, question and seed give the same answer to the last bit. InputError for what cannot be
        meant or lies outside the record.
        """
        from core.causal.counterfactual import whatif  # the engine's normal life needs none of it

        return whatif(self, do, start, end, draws, self.seed + seed)

    def contribution(self, t: int) -> Contribution:
        """Information on log-parameters that data added to the prior, as precision and Λm differences."""
        return sharing.contribution(self._at(t), t, self.model, self.prior, self.population)

    def set_prior(self, prior: Prior) -> None:
        """Use a population prior from here on: parameters return to it; what was learned stays."""
        sharing.check_prior(prior, self.model, self.population)
        self.prior = prior
        # It counts from the newest event on, as if it were an event itself: a rewind meets it again.
        self._prior_from_us = self._head_us()

    def guide(self, *guidance: Guidance) -> None:
        """Let learning open, move or pull the parameters at its times (core.guidance), past ones included."""
        for each in guidance:
            whole = msgspec.structs.replace(each, time_us=each.time_us - each.time_us % US_PER_S)
            insort(self._guidance, whole.checked(self.model.N_THETA), key=lambda g: g.time_us)
            touched = whole.time_us + 1
            self._dirty_us = touched if self._dirty_us is None else min(touched, self._dirty_us)

    def track_at(self, t: int) -> Track | None:
        """A copy of the filter at the newest checkpoint up to ``t``, to run on from; None when there is none."""
        self._catch_up(t)
        point = next((c for c in reversed(self._checkpoints) if c.track.seen_us <= t), None)
        return None if point is None else point.track.copy()

    def consts(self) -> NDArray[np.float64]:
        """The model's constants that the filter takes for this person's."""
        return (self._nominal_at_start() if self._track is None else self._track.nominal).consts

    def run(self, track: Track, until_us: int, *, after_us: int = -1) -> None:
        """Take the record after where ``track`` stands, up to ``until_us``, into ``track``.

        Guidance up to ``after_us`` is left out: a track that was just moved is not moved back.
        """
        for entry in self.record.between(track.seen_us, until_us):
            self._guide(track, entry.time_us, after_us)
            track.apply(entry)
        track.seen_us = max(track.seen_us, until_us)

    # ---- bytes --------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Everything, as bytes: a restored twin continues to the last bit."""
        return snapshot.dump(self)

    @classmethod
    def restore(cls, data: bytes) -> Twin:
        """The twin in ``data``; DecodeError when it is not one, is damaged, or is of another version."""
        return snapshot.load(data, cls)

    def _restore_tracks(
        self,
        head: tuple[Track, int] | None,
        checkpoints: list[tuple[Track, int]],
        start_us: int | None,
        dirty_us: int | None,
        prior_from_us: int,
    ) -> None:
        if head is not None:
            self._track, self._calibrations = head
        self._checkpoints = [Checkpoint(track, count) for track, count in checkpoints]
        self._start_us, self._dirty_us, self._prior_from_us = start_us, dirty_us, prior_from_us

    # ---- moving along the record --------------------------------------------------------------------

    def _nominal_at_start(self) -> Nominal:
        prior = self.prior if self._prior_from_us < 0 else None
        return make_nominal(self.patient, (), self.local, self.tuning, prior)

    def _new_track(self, nominal: Nominal, time_us: int) -> Track:
        track = Track(self.patient, self.local, nominal, self.tuning, time_us, self.population)
        if self.prior is not None and nominal.prior_version == self.prior.version:
            self._begin(track, self.prior)
        return track

    def _begin(self, track: Track, prior: Prior) -> None:
        """The correction begins where the prior says, as far as the person has not said otherwise."""
        start = correction_pool.read(prior.correction, self.population) if prior.correction else None
        if start is not None:
            track.begin(start)

    @staticmethod
    def _horizons(horizons_min: Sequence[float]) -> tuple[float, ...]:
        horizons = tuple(float(h) for h in horizons_min)
        if not horizons or not all(0.0 <= h <= HORIZON_LIMIT_MIN for h in horizons):
            raise InputError(f"horizons must lie in 0..{HORIZON_LIMIT_MIN:g} min", where="forecast")
        return horizons

    def _check_plan(self, t: int, planned: Iterable[Sample]) -> list[tuple[int, str, float]]:
        plan = []
        for sample in planned:
            check_value(sample.kind, sample.value, "planned")
            if sample.kind in RANK and sample.time_us >= t:
                plan.append((sample.time_us, sample.kind, sample.value))
        return sorted(plan, key=lambda item: (item[0], RANK[item[1]]))

    def _at(self, t: int) -> Track:
        """A throw-away track at ``t`` that has seen all events up to ``t``."""
        self._catch_up(t)
        base = self._track
        if base is None or base.time_us > t:
            start = next((c for c in reversed(self._checkpoints) if c.track.time_us <= t), None)
            if start is None:
                return self._new_track(self._nominal_at_start(), t)
            base = start.track.copy()
            for entry in self.record.between(base.time_us, t):
                self._guide(base, entry.time_us)
                base.apply(entry)
        track = base.copy()
        track.advance(t)
        return track

    def _catch_up(self, t: int) -> None:
        """Run the main track over all events up to ``t``, after rewinding behind what changed."""
        if self._dirty_us is not None:
            self._rewind(self._dirty_us)
            self._dirty_us = None
        entries = self.record.entries
        index = self.record.first_after(self._head_us())
        while index < len(entries) and entries[index].time_us <= t:
            entry = entries[index]
            self._before(entry.time_us)
            assert self._track is not None
            self._track.apply(entry)
            index += 1
            if index == len(entries) or entries[index].time_us > entry.time_us:
                self._track.seen_us = entry.time_us
                self._keep_checkpoint()
                # Keeping a checkpoint may let go of old events: places in the record shift.
                index = self.record.first_after(entry.time_us)

    def _head_us(self) -> int:
        return -1 if self._track is None else self._track.seen_us

    def _before(self, time_us: int) -> None:
        """What is due before an event at ``time_us``: the start, or a calibration."""
        if self._track is None:
            self._start_us = time_us
            self._track = self._new_track(self._nominal_at_start(), time_us)
            return
        assert self._start_us is not None
        prior = self.prior
        if prior is not None and time_us > self._prior_from_us:
            nominal = self._track.nominal
            if nominal.prior_version != prior.version:
                self._track.bind(with_prior(nominal, prior))
                self._begin(self._track, prior)
        due = self._calibrations
        while due < len(CALIBRATE_US) and self._start_us + CALIBRATE_US[due] <= time_us:
            due += 1
        if due > self._calibrations:
            self._calibrations = due
            self._calibrate(self._start_us + CALIBRATE_US[due - 1])
        self._guide(self._track, time_us)

    def _calibrate(self, until_us: int) -> None:
        """Nominal values from the record so far, and the filter run over it again from the start."""
        self._turns += 1
        assert self._start_us is not None
        past = self.record.between(self._start_us - 1, until_us)
        prior = self.prior if until_us > self._prior_from_us else None
        nominal = make_nominal(self.patient, past, self.local, self.tuning, prior)
        track = self._new_track(nominal, self._start_us)
        if self._track is not None:
            track.inherit(self._track)
            if track.start is None and self._track.start is not None:  # a later prior need not say it again
                track.begin(self._track.start)
        for entry in past:
            self._guide(track, entry.time_us)
            track.apply(entry)
            track.seen_us = entry.time_us
        self._track = track

    def _guide(self, track: Track, time_us: int, after_us: int = -1) -> None:
        """Before an event at ``time_us``: the guidance that lies between it and what ``track`` has seen."""
        if not self._guidance:
            return
        for guidance in self._guidance:
            if track.seen_us <= guidance.time_us < time_us and guidance.time_us > after_us:
                track.guided(guidance)
        track.seen_us = max(track.seen_us, time_us - 1)

    def _rewind(self, time_us: int) -> None:
        """Go back to the last checkpoint before ``time_us``."""
        if self._track is None or self._track.seen_us < time_us:
            return
        self._turns += 1
        while self._checkpoints and self._checkpoints[-1].track.seen_us >= time_us:
            self._checkpoints.pop()
        if self._checkpoints:
            last = self._checkpoints[-1]
            self._track, self._calibrations = last.track.copy(), last.calibrations
        else:
            self._track, self._calibrations, self._start_us = None, 0, None

    def _keep_checkpoint(self) -> None:
        assert self._track is not None
        now_us = self._track.seen_us
        if self._checkpoints and now_us - self._checkpoints[-1].track.seen_us < CHECKPOINT_US:
            return
        self._checkpoints.append(Checkpoint(self._track.copy(), self._calibrations))
        if len(self._checkpoints) % 12 == 0:
            self._thin(now_us)

    def _thin(self, now_us: int) -> None:
        kept: list[Checkpoint] = []
        for point in self._checkpoints:
            age = now_us - point.track.seen_us
            spacing = next((gap for limit, gap in KEEP if age <= limit), None)
            if spacing is None:
                continue
            if not kept or point.track.seen_us - kept[-1].track.seen_us >= 0.99 * spacing or age == 0:
                kept.append(point)
        self._checkpoints = kept
        if kept and now_us - kept[0].track.seen_us > HISTORY_US - 2 * US_PER_DAY:
            self.record.forget_before(kept[0].track.seen_us)
