"""The future of a track: base trajectory, corrected and calibrated forecast, drawn paths.

Nothing here changes the track it starts from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core import correction as corr
from core.models import hovorka as model
from core.track import MAX_RK4_MIN, Track
from core.units import MGDL_PER_MMOLL, US_PER_MIN

Array = NDArray[np.float64]
Plan = Sequence[tuple[int, str, float]]  # (time µs, kind, value), in time order

STEP_MIN: Final = 5.0
HORIZON_LIMIT_MIN: Final = 48 * 60.0
Z90: Final = 1.6448536269514722
TRUSTED_AGE_MIN: Final = 360.0  # beyond, the last reading says nothing more
WARM_UP_WIDER: Final = 1.3  # nothing of this person is known yet
# mmol/kg/min: -5.6 mg/dL a minute, more than glucose ever falls. Beyond, near zero glucose the step is longer than the
# stiffness allows: such a draw ran away over the pole of the saturation at -1 mmol/L, with everybody's spread.
LEAST_DISTURBANCE: Final = -0.05
MEAL_UNSEEN: Final = 0.15  # of a meal's rise: what its counting error adds to bands learned over all hours
GROWTH_LIMIT: Final = 1.6  # of the 6-h band at longer reach: glucose stays within its own spread

_ANCHORS: Final = np.array([0.0, *corr.HORIZONS_MIN])


class Outlook(NamedTuple):
    """Predictive distribution on a set of horizons, mg/dL."""

    mean: Array
    low: Array  # half width of the 90 % band below the mean
    high: Array  # above


def base_path(track: Track, until_min: float, plan: Plan) -> Array:
    """Most likely CGM readings at 0, 5, 10 … min from now (at least to ``until_min``), without correction."""
    runner = track.fork()
    runner.rest()
    n = max(1, math.ceil(until_min / STEP_MIN))
    out = np.zeros(n + 1)
    out[0] = runner.output()[0]
    waiting = list(plan)
    start_us = track.time_us
    step_us = int(STEP_MIN * US_PER_MIN)
    k = 0
    while k < n:
        while waiting and waiting[0][0] <= runner.time_us:
            _, kind, value = waiting.pop(0)
            runner.plan(kind, value)
        next_us = waiting[0][0] if waiting else start_us + (n + 1) * step_us
        whole = min(n - k, (next_us - runner.time_us) // step_us)
        if whole > 0:
            runner.coast(STEP_MIN, out[k + 1 : k + 1 + whole])
            k += whole
            continue
        # An input falls inside this step: go there, take it in, go on to the end of the step.
        end_us = start_us + (k + 1) * step_us
        last = np.zeros(1)
        while runner.time_us < end_us:
            while waiting and waiting[0][0] <= runner.time_us:
                _, kind, value = waiting.pop(0)
                runner.plan(kind, value)
            stop_us = min(end_us, waiting[0][0]) if waiting else end_us
            runner.coast((stop_us - runner.time_us) / US_PER_MIN, last)
        out[k + 1] = last[0]
        k += 1
    return out


def _at(path: Array, minutes: Array) -> Array:
    return np.interp(minutes, np.arange(path.size) * STEP_MIN, path)


def outlook(track: Track, horizons_min: Array, plan: Plan) -> Outlook:
    """Corrected mean and calibrated band at each horizon.

    Planned inputs act through the mechanism alone: what they change is added to the forecast without them,
    so that habit, which the correction has learned, is not mistaken for the effect of a dose.
    """
    until = float(horizons_min.max()) if horizons_min.size else 0.0
    age_min = track.age_s(track.time_us) / 60.0
    if not track.corrected() or age_min > TRUSTED_AGE_MIN:
        mean, sd = run_moments(track, horizons_min, plan)
        return Outlook(mean, Z90 * sd, Z90 * sd)
    path = base_path(track, max(until, corr.HORIZONS_MIN[-1]), ())
    base = _at(path, np.maximum(np.array(corr.HORIZONS_MIN) - age_min, 0.0))
    found = track.correction(base)
    reach = horizons_min + age_min
    now_half = Z90 * track.output()[1]
    mean = _at(path, horizons_min) + np.interp(reach, _ANCHORS, np.concatenate(([0.0], found[0])))
    growth = np.minimum(np.sqrt(np.maximum(reach / _ANCHORS[-1], 1.0)), GROWTH_LIMIT)
    if track.status(track.time_us) == "warming_up":
        growth = growth * WARM_UP_WIDER
    low = growth * np.interp(reach, _ANCHORS, np.concatenate(([now_half], found[2])))
    high = growth * np.interp(reach, _ANCHORS, np.concatenate(([now_half], found[3])))
    if plan:
        effect = base_path(track, until, plan) - path[: max(1, math.ceil(until / STEP_MIN)) + 1]
        mean = mean + _at(effect, horizons_min)
    return Outlook(mean, low, high)


def run_moments(track: Track, horizons_min: Array, plan: Plan) -> tuple[Array, Array]:
    """Mean and SD (mg/dL) of a CGM reading at each horizon from the filter alone."""
    runner = track.fork()
    start_us = track.time_us
    order = np.argsort(horizons_min, kind="stable")
    mean = np.zeros(len(order))
    sd = np.zeros(len(order))
    waiting = list(plan)
    for index in order:
        until_us = start_us + round(horizons_min[index] * US_PER_MIN)
        while waiting and waiting[0][0] <= until_us:
            at_us, kind, value = waiting.pop(0)
            runner.advance(at_us)
            runner.plan(kind, value)
        runner.advance(until_us)
        mean[index], sd[index] = runner.output()
    return mean, sd


def draw_paths(track: Track, until_min: float, plan: Plan, draws: int, seed: tuple[int, int]) -> Array:
    """Drawn futures of glucose (mg/dL), float64[draws, n_steps], at each STEP_MIN from now: see Futures."""
    return Futures(track, until_min, draws, seed).paths(plan)


class Futures:
    """Drawn futures of one moment, to be asked with many plans: the same draws serve all of them.

    The futures without a plan have the calibrated mean and width at every step; a plan adds to each its own
    mechanistic effect, under that draw's parameters. ``care`` changes what they stand on, for advice.
    """

    def __init__(
        self, track: Track, until_min: float, draws: int, seed: tuple[int, int], care: Care | None = None
    ) -> None:
        self._track, self._care = track, care
        times: Array = STEP_MIN * np.arange(1.0, max(1, math.ceil(until_min / STEP_MIN)) + 1.0)
        self._noise = _Noise(track, times.size, draws, np.random.default_rng(seed))
        self._usual = [] if care is None else list(care.usual)
        self._anchor = _simulate(track, self._usual, self._noise)
        centre = outlook(track, times, ()) if care is None else under_care(track, times, care)
        spread = self._anchor.std(axis=0) + 1e-9
        deviation = (self._anchor - self._anchor.mean(axis=0)) / spread
        scale = np.where(deviation < 0.0, centre.low, centre.high) / Z90
        self._base: Array = centre.mean + deviation * scale
        self._doubt = np.minimum((centre.low + centre.high) / (2.0 * Z90 * spread), 1.0)

    def paths(self, plan: Plan) -> Array:
        """float64[draws, n_steps] mg/dL."""
        if list(plan) == self._usual:
            return self._base.copy()
        effect = _simulate(self._track, plan, self._noise) - self._anchor
        if self._care is not None:
            mean = effect.mean(axis=0)
            effect = self._care.effect * (mean + self._doubt * (effect - mean))
        paths: Array = self._base + effect
        return paths


class MealMisses(NamedTuple):
    """How forecasts after meals came out in this person: float64[n] each."""

    horizons_min: Array
    bias: Array  # mg/dL to add to the mean
    low: Array  # factors on the widths
    high: Array

    def applied(self, view: Outlook, times_min: Array) -> Outlook:
        """``view`` at ``times_min`` after a meal, put right."""
        at = np.concatenate(([0.0], self.horizons_min))
        bias = np.interp(times_min, at, np.concatenate(([0.0], self.bias)))
        low, high = (np.interp(times_min, self.horizons_min, side) for side in (self.low, self.high))
        return Outlook(view.mean + bias, view.low * low, view.high * high)


class Care(NamedTuple):
    """What advice stands on: the course under usual care, and by how much a dose departs from it.

    Habit has taught the correction where this person's usual meals and doses end; a plan that names them counts
    them twice, and the mechanism alone drifts in people whom it fits badly. So futures for advice stand on the
    forecast under ``usual``, what the person would do anyway at this moment, and a plan adds the mechanistic
    difference between it and ``usual``: the mechanism only has to tell one dose from another. On simglucose's
    people (RMSE after 1 to 5 h of a dose, adults): this 25 27 28 28 31, the mechanism alone 28 36 37 35 41 mg/dL.

    ``eaten``: a meal is part of it, so the forecast is the one right after these acts; else (a correction) the
    forecast as it stands holds the usual act already. The width is the person's own (correction.own_width). Where
    that is narrower than the mechanism's doubt, its doubt about the difference shrinks alike. ``effect``: by how
    much the mechanism's difference is taken to be too small, from the correction factor in use. ``misses``: how
    forecasts after this person's own meals came out (core.meal_record).
    """

    usual: Plan = ()
    eaten: bool = False
    effect: float = 1.0
    misses: MealMisses | None = None


def under_care(track: Track, times_min: Array, care: Care) -> Outlook:
    """The outlook at ``times_min`` from now under usual care, as wide as this person's own misses were."""
    view = _own(track, times_min, outlook(track, times_min, ()))
    if not care.eaten:
        return view
    acted = track.fork()
    acted.learn = track.learn.copy()
    lead_min = (care.usual[0][0] - track.time_us) / US_PER_MIN
    acted.advance(care.usual[0][0])
    for at_us, kind, value in care.usual:
        corr.note_act(acted.learn, at_us / US_PER_MIN, kind, value)
        acted.plan(kind, value)
    later = times_min > lead_min
    ahead = times_min[later] - lead_min
    then = _own(acted, ahead, outlook(acted, ahead, ()))
    # The bands were learned over all hours. A meal that no reading has seen yet may be miscounted as a whole.
    until_min = float(times_min.max())
    bare = [act for act in care.usual if act[1] != "carbs_g"]
    rise = _at(base_path(track, until_min, care.usual) - base_path(track, until_min, bare), times_min[later])
    miscounted = Z90 * MEAL_UNSEEN * rise
    then = Outlook(then.mean, np.hypot(then.low, miscounted), np.hypot(then.high, miscounted))
    if care.misses is not None:
        then = care.misses.applied(then, ahead)
    return Outlook(
        *(np.concatenate((before[~later], after)) for before, after in zip(view, then, strict=True))
    )


def _own(track: Track, times_min: Array, view: Outlook) -> Outlook:
    own = corr.own_width(track.learn)
    low, high = (np.interp(times_min, np.array(corr.HORIZONS_MIN), side) for side in own)
    return Outlook(view.mean, view.low * low, view.high * high)


class _Noise:
    """Everything random about a set of futures, drawn once."""

    def __init__(self, track: Track, n_out: int, draws: int, rng: np.random.Generator) -> None:
        self.start = rng.standard_normal((model.N, draws))
        self.believed = np.maximum(1.0 + track.tuning.sd_carbs * rng.standard_normal(draws), 0.0)
        phi, noise = np.zeros((model.N_LINEAR, model.N_LINEAR)), np.zeros((model.N_LINEAR, model.N_LINEAR))
        model.transition(STEP_MIN, track.dynamics, phi, noise)
        shocks = rng.standard_normal((n_out, model.N_LINEAR, draws))
        # The linear block moves by itself: no plan changes it.
        mu = track.dynamics[:, :1]
        points = track.mean[:, None] + track.factor.T @ self.start
        self.linear = np.zeros((n_out + 1, model.N_LINEAR, draws))
        self.linear[0] = points[: model.N_LINEAR]
        for k in range(n_out):
            self.linear[k + 1] = mu + phi @ (self.linear[k] - mu) + noise @ shocks[k]


def _simulate(track: Track, plan: Plan, drawn: _Noise) -> Array:
    """Sensed glucose (mg/dL), float64[draws, n_out], of mechanistic futures with drawn state, parameters, disturbance."""
    runner = track.fork()
    runner.rest()
    n_linear, consts = model.N_LINEAR, runner.nominal.consts
    n_out = len(drawn.linear) - 1
    points = np.ascontiguousarray(runner.mean[:, None] + runner.factor.T @ drawn.start)
    np.maximum(points[n_linear:], 0.0, out=points[n_linear:])
    nodes, work = np.zeros((5, model.N_INPUT)), np.zeros(model.WORK_SIZE)
    out = np.zeros((n_out, drawn.start.shape[1]))
    waiting = list(plan)
    start_us = track.time_us
    for k in range(n_out):
        end_us = start_us + int((k + 1) * STEP_MIN * US_PER_MIN)
        points[:n_linear] = drawn.linear[k]
        np.maximum(points[model.DISTURBANCE], LEAST_DISTURBANCE, out=points[model.DISTURBANCE])
        while runner.time_us < end_us:
            while waiting and waiting[0][0] <= runner.time_us:
                _, kind, value = waiting.pop(0)
                _act_on_points(runner, points, kind, value, drawn.believed)
            stop_us = min(end_us, waiting[0][0]) if waiting else end_us
            dt_min = (stop_us - runner.time_us) / US_PER_MIN
            n_steps = 1 if dt_min <= MAX_RK4_MIN else 2
            runner.hold_inputs()
            model.drive(runner.drivers, runner.held, consts, dt_min, n_steps, nodes)
            model.sweep(points, nodes, consts, dt_min / n_steps, n_steps, work)
            runner.time_us = stop_us
            points[model.DISTURBANCE] *= math.exp(-dt_min / consts[model.TAU_D])
        out[k] = points[n_linear + model.C] * MGDL_PER_MMOLL
    return np.ascontiguousarray(out.T)


def _act_on_points(track: Track, points: Array, kind: str, value: float, believed: Array) -> None:
    at = model.N_LINEAR
    if kind == "carbs_g":
        per_point = model.meal_mmol_per_kg(track.nominal.consts, value, 0.0)
        points[at + model.D1] += per_point * np.exp(points[model.LN_AG]) * believed
    elif kind == "bolus_u":
        points[at + model.S1] += 1000.0 * value
    else:
        track.plan(kind, value)
