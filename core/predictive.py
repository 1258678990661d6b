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
from core.dosing import iob_fraction
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
# Of the width, when nothing but a plan happens. The learned band holds all that people do next, meals, doses and sugar;
# the mechanism's draws are as wide in somebody whom it fits well as in anybody. So the width is this share of the
# geometric mean of both, from bodies that lived just such a course (docs/decisions/0014).
NOTHING_ELSE: Final = 0.75
# What a planned dose or meal does is this share the prescription's course, the rest the mechanism's. On the
# prescription's course a draw is as strong as on its own, to these powers: found with the width (docs/decisions/0014).
BY_PRESCRIPTION: Final = 0.85
MEAL_POWER: Final = 0.5
DOSE_POWER: Final = 0.25
STRENGTHS: Final = (0.3, 3.0)  # no draw goes without, and none takes all
LEAST_FRESH_G: Final = 2.0
ABSORBED_MIN: Final = 240.0  # carbohydrate of a bolus calculator: evenly over four hours
# Where a unit is measured: beside a meal, the same for every plan, so that a larger meal never asks for less insulin.
PROBE_U: Final = 0.1
PROBE_G: Final = 30.0
GROWTH_LIMIT: Final = 1.6  # of the 6-h band at longer reach: glucose stays within its own spread

_DEPOTS: Final = slice(model.N_LINEAR + model.S1, model.N_LINEAR + model.S2 + 1)
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


class Prescribed(NamedTuple):
    """What a bolus calculator says of a person, as far as it is believed."""

    correction_mgdl_per_u: float
    carb_ratio_g_per_u: float

    def unit(self, after_min: Array) -> Array:
        """What one unit has done to glucose so long after it, mg/dL: the insulin curve of the calculator."""
        gone = [1.0 - iob_fraction(max(t, 0.0)) for t in after_min]
        return -self.correction_mgdl_per_u * np.array(gone)

    def gram(self, after_min: Array) -> Array:
        """What one gram has done, mg/dL: what the carbohydrate ratio covers, absorbed evenly."""
        rise = self.correction_mgdl_per_u / self.carb_ratio_g_per_u
        return np.asarray(rise * np.clip(after_min / ABSORBED_MIN, 0.0, 1.0))


class Stated(NamedTuple):
    """What advice asks of futures: courses in which a plan happens and nothing else.

    ``habit``: share of the corrected forecast in their mean, the rest is the mechanism's alone. The learned correction
    expects the usual meals and doses at the usual times, and a plan that names them counts them twice; without it the
    mechanism drifts in people whom it fits badly. ``insulin``, ``carbs``: factors on what doses and meals do, those on
    board with those of a plan (of the gut only a factor below 1: sugar not yet absorbed is no reason for insulin).
    ``prescribed``: what a plan does is mostly what the prescription says (BY_PRESCRIPTION); None: the mechanism's alone.
    ``basal_uph``: the pump's rate from now on; None: as it is.
    """

    habit: float = 0.35
    insulin: float = 1.0
    carbs: float = 1.0
    prescribed: Prescribed | None = None
    basal_uph: float | None = None


class Futures:
    """Drawn futures of one moment, to be asked with many plans: the same draws serve all of them.

    The futures without a plan have the calibrated mean and width at every step; a plan adds to each its own
    effect, by the mechanism under that draw's parameters. ``stated``: nothing but the plan happens, and what it does is
    mostly what is prescribed.
    """

    def __init__(
        self, track: Track, until_min: float, draws: int, seed: tuple[int, int], stated: Stated | None = None
    ) -> None:
        if stated is not None and stated.basal_uph is not None:
            track = track.fork()
            track.plan("basal_uph", stated.basal_uph)
        self._track, self._draws, self._seed = track, draws, seed
        self._stated = stated
        self._fed: dict[tuple[tuple[int, str, float], ...], Array] = {}
        self._units: dict[int, Array] = {}
        times: Array = STEP_MIN * np.arange(1.0, max(1, math.ceil(until_min / STEP_MIN)) + 1.0)
        self._free = self._run(times.size, ())
        centre = outlook(track, times, ())
        spread = self._free.std(axis=0) + 1e-9
        deviation = (self._free - self._free.mean(axis=0)) / spread
        scale = np.where(deviation < 0.0, centre.low, centre.high) / Z90
        middle = centre.mean
        if stated is not None:
            mechanism = _at(base_path(track, until_min, ()), times)
            middle = stated.habit * middle + (1.0 - stated.habit) * mechanism
            scale = NOTHING_ELSE * np.sqrt(scale * spread)
        self._base: Array = middle + deviation * scale
        if stated is not None:
            self._base += self._held_for_more(times.size, stated.insulin)
        if stated is not None and stated.carbs < 1.0:
            self._base += (stated.carbs - 1.0) * (self._free - self._run(times.size, (), gut=(0.0, 0.0)))
        if stated is not None and stated.prescribed is not None:
            self._base += self._fed_for_less(times.size, stated.carbs, stated.prescribed)

    def paths(self, plan: Plan, insulin: float | None = None, carbs: float | None = None) -> Array:
        """float64[draws, n_steps] mg/dL. ``insulin``, ``carbs``: factors for this plan, by the mechanism alone."""
        if not plan:
            return self._base.copy()
        n_out = self._base.shape[1]
        if self._stated is None:
            return np.asarray(self._base + (self._run(n_out, plan) - self._free))
        acting = self._stated.insulin if insulin is None else insulin
        prescribed = self._stated.prescribed if insulin is None and carbs is None else None
        effect = np.zeros_like(self._base)
        meals = tuple(act for act in plan if act[1] == "carbs_g")
        if meals:
            if meals not in self._fed:  # a search asks for many doses with one meal
                self._fed[meals] = self._run(n_out, meals) - self._free
            fed = (self._stated.carbs if carbs is None else carbs) * self._fed[meals]
            if prescribed is not None:
                said = sum(value * prescribed.gram(self._after_min(at_us)) for at_us, _, value in meals)
                fed = _agreed(fed, np.asarray(said), MEAL_POWER)
            effect += fed
        for at_us, kind, value in plan:
            if kind == "bolus_u":
                unit = acting * self._unit(n_out, at_us)
                if prescribed is not None:
                    unit = _agreed(unit, prescribed.unit(self._after_min(at_us)), DOSE_POWER)
                effect += value * unit
        rates = tuple(act for act in plan if act[1] == "basal_uph")
        if rates:
            effect += acting * (self._run(n_out, rates) - self._free)
        return np.asarray(self._base + effect)

    def _after_min(self, at_us: int) -> Array:
        """Minutes since ``at_us`` at each step, below 0 before it."""
        ahead_min = (at_us - self._track.time_us) / US_PER_MIN
        return np.asarray(STEP_MIN * np.arange(1.0, self._base.shape[1] + 1.0) - ahead_min)

    def _unit(self, n_out: int, at_us: int) -> Array:
        """What a unit at ``at_us`` does to each draw, mg/dL: twice the dose does twice as much.

        In the model's structure insulin does less the lower glucose is, so a dose would protect, in its own courses,
        from the low that it makes (docs/decisions/0012). Measured with little insulin on board, for the same reason.
        """
        if at_us not in self._units:
            meal = (at_us, "carbs_g", PROBE_G)
            without = self._run(n_out, (meal,), (0.0, 0.0))
            more = self._run(n_out, ((at_us, "bolus_u", PROBE_U), meal), (0.0, 0.0))
            self._units[at_us] = (more - without) / PROBE_U
        return self._units[at_us]

    def _held_for_more(self, n_out: int, insulin: float) -> Array:
        """What insulin taken does beyond what the forecast holds, mg/dL, not above 0: a unit taken acts as one planned.

        What lies where a bolus comes to lie is a bolus now of that size. What has moved on from there is scaled only:
        it begins to show in the readings, and courses left alone with it were right as they are.
        """
        fresh_u = float(_above_basal(self._track)[0]) / 1000.0
        older = self._run(n_out, (), (0.0, 1.0))
        fresh = insulin * fresh_u * self._unit(n_out, self._track.time_us) - (self._free - older)
        moved_on = older - self._run(n_out, (), (0.0, 0.0))
        return np.asarray(np.minimum(fresh, 0.0) + max(insulin - 1.0, 0.0) * moved_on)

    def _fed_for_less(self, n_out: int, carbs: float, prescribed: Prescribed) -> Array:
        """What food just eaten is held for less than the forecast holds, mg/dL, not above 0: it acts as food planned.

        Else half of a meal logged, and the rest asked for, would get more insulin than the whole.
        """
        track = self._track
        fresh = float(track.mean[model.N_LINEAR + model.D1])
        fresh_g = fresh / model.meal_mmol_per_kg(track.nominal.consts, 1.0, float(track.mean[model.LN_AG]))
        if fresh_g < LEAST_FRESH_G:
            return np.zeros_like(self._base)
        held = self._free - self._run(n_out, (), gut=(0.0, 1.0))
        said = fresh_g * prescribed.gram(self._after_min(track.time_us))
        acting = min(carbs, 1.0)  # what lies below 1 is in the course already
        return np.asarray(np.minimum(_agreed(acting * held, said, MEAL_POWER) - acting * held, 0.0))

    def _run(
        self,
        n_out: int,
        plan: Plan,
        kept: tuple[float, float] = (1.0, 1.0),
        gut: tuple[float, float] = (1.0, 1.0),
    ) -> Array:
        rng = np.random.default_rng(self._seed)
        return _simulate(self._track, n_out, plan, self._draws, rng, kept, gut)


def _agreed(effect: Array, said: Array, power: float) -> Array:
    """What a plan does, mostly as the prescription says: float64[draws, n_steps] mg/dL.

    ``effect``: by the mechanism, each draw its own; ``said``: the prescription's course, float64[n_steps]. A draw in
    which the mechanism makes more of the plan makes more of it there too; none turns a meal or a dose round.
    """
    area = effect.sum(axis=1)
    middle = float(area.mean())
    if not abs(middle) > 1e-9:  # nothing to tell draws apart by: a dose acts none the less, food need not
        return np.asarray((1.0 - BY_PRESCRIPTION) * effect + BY_PRESCRIPTION * np.minimum(said, 0.0))
    least, most = STRENGTHS
    strength = np.clip(np.maximum(area / middle, 0.0) ** power, least, most)
    strength = strength / strength.mean()
    return np.asarray((1.0 - BY_PRESCRIPTION) * effect + BY_PRESCRIPTION * strength[:, None] * said)


def _simulate(
    track: Track,
    n_out: int,
    plan: Plan,
    draws: int,
    rng: np.random.Generator,
    kept: tuple[float, float] = (1.0, 1.0),
    gut: tuple[float, float] = (1.0, 1.0),
) -> Array:
    """Sensed glucose (mg/dL) of mechanistic futures with drawn state, parameters and disturbance.

    ``kept``: shares of the insulin in the two depots under the skin beyond what the present basal rate leaves there.
    ``gut``: shares kept of what is in the two compartments of the gut.
    """
    runner = track.fork()
    runner.rest()
    n_linear, consts = model.N_LINEAR, runner.nominal.consts
    start = rng.standard_normal((model.N, draws))
    believed = np.maximum(1.0 + runner.tuning.sd_carbs * rng.standard_normal(draws), 0.0)
    shocks = rng.standard_normal((n_out, n_linear, draws))
    points = np.ascontiguousarray(runner.mean[:, None] + runner.factor.T @ start)
    np.maximum(points[n_linear:], 0.0, out=points[n_linear:])
    if min(kept) < 1.0:
        _leave_basal(runner, points, kept)
    points[n_linear + model.D1] *= gut[0]
    points[n_linear + model.D2] *= gut[1]
    phi, noise = np.zeros((n_linear, n_linear)), np.zeros((n_linear, n_linear))
    nodes, work = np.zeros((5, model.N_INPUT)), np.zeros(model.WORK_SIZE)
    mu = runner.dynamics[:, :1]
    out = np.zeros((draws, n_out))
    waiting = list(plan)
    start_us = track.time_us
    model.transition(STEP_MIN, runner.dynamics, phi, noise)
    for k in range(n_out):
        end_us = start_us + int((k + 1) * STEP_MIN * US_PER_MIN)
        before = points[:n_linear] - mu
        np.maximum(points[model.DISTURBANCE], LEAST_DISTURBANCE, out=points[model.DISTURBANCE])
        while runner.time_us < end_us:
            while waiting and waiting[0][0] <= runner.time_us:
                _, kind, value = waiting.pop(0)
                _act_on_points(runner, points, kind, value, believed)
            stop_us = min(end_us, waiting[0][0]) if waiting else end_us
            dt_min = (stop_us - runner.time_us) / US_PER_MIN
            n_steps = 1 if dt_min <= MAX_RK4_MIN else 2
            runner.hold_inputs()
            model.drive(runner.drivers, runner.held, consts, dt_min, n_steps, nodes)
            model.sweep(points, nodes, consts, dt_min / n_steps, n_steps, work)
            runner.time_us = stop_us
            points[model.DISTURBANCE] *= math.exp(-dt_min / consts[model.TAU_D])
        # The linear block moves once per output step, so that a plan does not shift the random numbers.
        points[:n_linear] = mu + phi @ before + noise @ shocks[k]
        out[:, k] = points[n_linear + model.C] * MGDL_PER_MMOLL
    return out


def _above_basal(track: Track) -> Array:
    """What lies in the two depots under the skin above their rest under the present rate, float64[2], mU."""
    fork = track.fork()
    fork.hold_inputs()
    nodes = np.zeros((3, model.N_INPUT))
    consts, now = fork.nominal.consts, fork.mean
    model.drive(fork.drivers, fork.held, consts, 1.0, 1, nodes)
    flow = float(nodes[0, model.U_INSULIN])
    rest = model.steady_state(consts, flow, float(now[model.LN_S]), float(now[model.LN_TI]), 1.0)
    return np.maximum(now[_DEPOTS] - rest[model.S1 : model.S2 + 1], 0.0)


def _leave_basal(track: Track, points: Array, kept: tuple[float, float]) -> None:
    """Leave in the depots only ``kept`` of what lies above their rest: one share for all draws, their spread is no bolus.

    Only from the depots: what has begun to act shows in the readings, and the filter has made up for its strength.
    """
    above = _above_basal(track) / np.maximum(track.mean[_DEPOTS], 1e-12)
    points[_DEPOTS] *= (1.0 - (1.0 - np.array(kept)) * above)[:, None]


def _act_on_points(track: Track, points: Array, kind: str, value: float, believed: Array) -> None:
    at = model.N_LINEAR
    if kind == "carbs_g":
        per_point = model.meal_mmol_per_kg(track.nominal.consts, value, 0.0)
        points[at + model.D1] += per_point * np.exp(points[model.LN_AG]) * believed
    elif kind == "bolus_u":
        points[at + model.S1] += 1000.0 * value
    else:
        track.plan(kind, value)
