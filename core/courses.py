"""Many courses of one body under the same inputs: the batch simulator behind refinement and what-if.

A ``World`` holds what acts on the body over an interval, cut at every act and every five minutes: insulin and
heart rate as the filter would hold them, boluses and meals as jumps. ``run`` moves any number of bodies through
it, each with its own parameters, start, disturbance, and its own errors of meals: how much of a logged meal was
there, and how fast it was absorbed. Two worlds that differ by one act, run with the same bodies, differ by the
effect of that act in each body.

Steps of RK4 last at most 5 min: error below .03 mg/dL (tests/core/test_courses.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.jit import jit
from core.models import hovorka as model
from core.record import RANK
from core.track import Track
from core.units import US_PER_MIN, check_value

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

GRID_US: Final = 5 * US_PER_MIN
FULL_LANES: Final = 40  # bodies per tile of the solver: whole tiles waste nothing
UNKNOWN_MEAL: Final = -1


class Act(NamedTuple):
    """One input. ``meal``: which meal of the record this is, so that a changed meal keeps its errors."""

    time_us: int
    kind: str
    value: float
    meal: int = UNKNOWN_MEAL


def in_order(acts: Sequence[Act]) -> list[Act]:
    """By time, then as the record orders kinds."""
    return sorted(acts, key=lambda a: (a.time_us, RANK[a.kind]))


class Rate(NamedTuple):
    """A change of the basal rate from one time to before another: ``operator`` *=, += or =."""

    from_us: int
    to_us: int
    operator: str
    amount: float

    def of(self, rate_mupm: float) -> float:
        """The rate under this change; ``amount`` is a factor or U/h."""
        if self.operator == "*=":
            return rate_mupm * self.amount
        other = self.amount * 1000.0 / 60.0
        return max(0.0, rate_mupm + other) if self.operator == "+=" else other

    @property
    def changes_nothing(self) -> bool:
        """A factor of one, or nothing added."""
        return self.amount == {"*=": 1.0, "+=": 0.0}.get(self.operator)


class World(NamedTuple):
    """Inputs over steps that may differ in length; n_steps rows."""

    start_us: int
    ends_us: Ints
    dt_min: Array  # may be 0: two acts at one instant
    nodes: Array  # float64[n_steps, 3, N_INPUT]; the disturbance's weight is 1
    dawn: Array  # float64[n_steps, 3], ln of the sensitivity factor per unit of CIRC_LN
    bolus_mu: Array  # at the start of the step
    meal_mmol_per_kg: Array  # the same, of a meal fully believed (without ln_ag and errors)
    meal: Ints  # its number, −1 without
    on_grid: NDArray[np.bool_]  # steps that end on the grid of start + k·5 min
    basal_ratio: tuple[float, float] = (1.0, 1.0)  # least and most of the basal rate beside the unchanged

    @property
    def grid_us(self) -> Ints:
        return self.ends_us[self.on_grid]


class Bodies(NamedTuple):
    """Columns to run. Arrays are read only; ``points`` is moved."""

    points: Array  # float64[N, m]: state rows; the linear rows are filled in from ``theta``
    theta: Array  # float64[N_THETA, m]
    meal_ln_amount: Array  # float64[n_meals, m]
    meal_ln_tg: Array
    disturbance: Array  # float64[n_nodes, m] mmol/kg/min


class Nodes(NamedTuple):
    """Where the disturbance is held: ``held`` points ``every_us`` apart, linear between."""

    start_us: int
    every_us: int
    held: int  # how many

    def times_us(self) -> Ints:
        return self.start_us + self.every_us * np.arange(self.held, dtype=np.int64)


def make_world(track: Track, acts: Sequence[Act], end_us: int, rates: Sequence[Rate] = ()) -> World:
    """Inputs from where ``track`` stands to ``end_us``. ``track`` is moved: inputs only, never its state.

    acts: from the track's time on, in order; those at ``end_us`` and later are left. rates: changes of whatever
    basal rate would have flowed; InputError when they make one that no pump gives.
    """
    rates = [
        rate for rate in rates if not rate.changes_nothing
    ]  # a cut alone would move the course by a rounding
    ratios = [1.0]
    edges = sorted({t for rate in rates for t in (rate.from_us, rate.to_us)})
    start_us = track.time_us
    consts = track.nominal.consts
    ends: list[int] = []
    dts: list[float] = []
    nodes: list[Array] = []
    bolus: list[float] = []
    meals: list[float] = []
    numbers: list[int] = []
    now_us, grid_us, waiting = start_us, start_us + GRID_US, list(acts)
    jump, gram, number = 0.0, 0.0, UNKNOWN_MEAL
    buffer = np.zeros((3, model.N_INPUT))
    at = 0
    while now_us < end_us:
        # Acts at this instant; a second jump of one kind waits for a step of no length.
        while at < len(waiting) and waiting[at].time_us <= now_us:
            act = waiting[at]
            at += 1
            if act.kind == "bolus_u":
                jump += 1000.0 * act.value
            elif act.kind == "carbs_g":
                if number != UNKNOWN_MEAL or gram:
                    ends.append(now_us)
                    dts.append(0.0)
                    nodes.append(np.zeros((3, model.N_INPUT)))
                    bolus.append(0.0)
                    meals.append(gram)
                    numbers.append(number)
                gram = model.meal_mmol_per_kg(consts, act.value, 0.0)
                number = act.meal
            elif act.kind == "heart_rate_bpm":
                track.hear(act.time_us, act.value)
            else:
                track.plan(act.kind, act.value)
        stop_us = min(grid_us, end_us)
        ahead = at
        while ahead < len(waiting) and waiting[ahead].time_us < stop_us:
            if waiting[ahead].kind != "heart_rate_bpm":  # read at the next step, as the filter does
                stop_us = max(waiting[ahead].time_us, now_us)
                break
            ahead += 1
        stop_us = min([stop_us, *(edge for edge in edges if edge > now_us)])
        dt_min = (stop_us - now_us) / US_PER_MIN
        track.hold_inputs()
        flowing = float(track.held[model.BASAL])
        for rate in rates:
            if rate.from_us <= now_us < rate.to_us:
                track.held[model.BASAL] = rate.of(float(track.held[model.BASAL]))
        changed = float(track.held[model.BASAL])
        if changed != flowing:
            check_value("basal_uph", round(changed * 60.0 / 1000.0, 9), "do basal_uph")
            ratios.append(changed / flowing if flowing > 0.0 else math.inf)
        model.drive(track.drivers, track.held, consts, dt_min, 1, buffer)
        track.held[model.BASAL] = flowing
        ends.append(stop_us)
        dts.append(dt_min)
        nodes.append(buffer.copy())
        bolus.append(jump)
        meals.append(gram)
        numbers.append(number)
        jump, gram, number = 0.0, 0.0, UNKNOWN_MEAL
        track.time_us = now_us = stop_us
        if now_us >= grid_us:
            grid_us += GRID_US
    stacked = np.array(nodes).reshape(-1, 3, model.N_INPUT)
    stacked[:, :, model.U_D] = 1.0
    circ = consts[model.CIRC_LN]
    dawn = np.zeros(stacked.shape[:2])
    ends_us = np.array(ends, dtype=np.int64)
    lengths = np.array(dts)
    if circ != 0.0:
        moving = lengths > 0.0
        dawn[moving] = np.log(stacked[moving][:, :, model.U_SENS]) / circ
    on_grid = ((ends_us - start_us) % GRID_US == 0) & (lengths > 0.0)
    return World(
        start_us,
        ends_us,
        lengths,
        stacked,
        dawn,
        np.array(bolus),
        np.array(meals),
        np.array(numbers, dtype=np.int64),
        on_grid,
        (min(ratios), max(ratios)),
    )


def run(world: World, bodies: Bodies, spread: Nodes, consts: Array, shift: Array | None = None) -> Array:
    """Move ``bodies.points`` through the world; interstitial glucose at the grid, float64[n_grid, m] mmol/L.

    consts: one person's constants (all bodies of a call share them). shift: float64[n_steps, N_THETA] added to
    the log-parameters, or None.
    """
    n = world.dt_min.size
    nodes = world.nodes.copy()
    nodes[:, :, model.U_SENS] = np.exp(consts[model.CIRC_LN] * world.dawn)
    middle_us = world.ends_us - (0.5 * US_PER_MIN * world.dt_min).astype(np.int64)
    place = np.clip((middle_us - spread.start_us) / spread.every_us, 0.0, spread.held - 1.0)
    index = np.minimum(place.astype(np.int64), max(spread.held - 2, 0))
    weight = place - index if spread.held > 1 else np.zeros(n)
    out = np.zeros((n, bodies.points.shape[1]))
    _run(
        bodies.points,
        nodes,
        (world.dt_min, world.bolus_mu, world.meal_mmol_per_kg, weight),
        (world.meal, index),
        (bodies.theta, bodies.meal_ln_amount, bodies.meal_ln_tg, bodies.disturbance),
        np.zeros((n, model.N_THETA)) if shift is None else shift,
        consts,
        (out, np.zeros(model.WORK_SIZE)),
    )
    return out[world.on_grid]


@jit
def _run(
    points: Any, nodes: Any, steps: Any, indices: Any, own: Any, shift: Any, consts: Any, scratch: Any
) -> None:
    """See ``run``. Tile by tile, so that a tile stays in the cache through the whole world."""
    dt_min, bolus_mu, meals, weight = steps
    meal, index = indices
    theta, ln_amount, ln_tg, disturbance = own
    out, work = scratch
    m = points.shape[1]
    n_steps = dt_min.size
    last = disturbance.shape[0] - 1
    part = np.zeros((model.N, FULL_LANES))
    first = 0
    while first < m:
        used = min(FULL_LANES, m - first)
        tile = part[:, :used].copy()
        for j in range(used):
            for i in range(model.N_STATE):
                tile[model.N_LINEAR + i, j] = points[model.N_LINEAR + i, first + j]
            for i in range(model.N_THETA):
                tile[i, j] = theta[i, first + j] + shift[0, i]
        eaten = -1
        for k in range(n_steps):
            changed = meal[k] >= 0
            if changed:
                eaten = meal[k]
            if k > 0:
                for i in range(model.N_THETA):
                    if shift[k, i] != shift[k - 1, i]:
                        changed = True
            if changed:
                for j in range(used):
                    for i in range(model.N_THETA):
                        tile[i, j] = theta[i, first + j] + shift[k, i]
                    if eaten >= 0:
                        tile[model.LN_TG, j] += ln_tg[eaten, first + j]
            if bolus_mu[k] != 0.0:
                for j in range(used):
                    tile[model.N_LINEAR + model.S1, j] += bolus_mu[k]
            if meals[k] != 0.0:
                for j in range(used):
                    share = tile[model.LN_AG, j]
                    if meal[k] >= 0:
                        share += ln_amount[meal[k], first + j]
                    tile[model.N_LINEAR + model.D1, j] += meals[k] * math.exp(share)
            if dt_min[k] > 0.0:
                low = index[k]
                high = min(low + 1, last)
                w = weight[k]
                for j in range(used):
                    tile[model.DISTURBANCE, j] = (1.0 - w) * disturbance[low, first + j] + w * disturbance[
                        high, first + j
                    ]
                model.sweep(tile, nodes[k], consts, dt_min[k], 1, work)
            for j in range(used):
                out[k, first + j] = tile[model.N_LINEAR + model.C, j]
        for j in range(used):
            for i in range(model.N_STATE):
                points[model.N_LINEAR + i, first + j] = tile[model.N_LINEAR + i, j]
        first += FULL_LANES
