"""Speed on one pinned core: the filter step beside its own integration and beside filterpy; replay; batches.

Every ratio is of medians taken in turns within one run, so that a busy machine hurts both sides. The step is
what one reading costs the filter: inputs at nodes, prediction over 5 min, update. filterpy gets the same state,
noise, 2n points of equal weight and reading, once over the same compiled integrator (called per point, as its
interface wants it), and over SciPy's integrators with the same compiled right-hand side.
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from bench.recordings import DAY_MIN, US_PER_MIN
from bench.report import Figure, Section, Table
from bench.truth import START_US, samples_of
from core.crowd import Crowd
from core.errors import EnvironmentMissing
from core.filters import srukf
from core.jit import jit
from core.messages import Sample
from core.models import hovorka as model
from core.patient import Patient
from core.twin import Twin
from firmware_sim.person import VirtualPerson

DT_MIN: Final = 5.0
STEPS: Final = 2
POINTS: Final = 2 * model.N + 1
LOOP: Final = 2000
TURNS: Final = 15
YEAR_DAYS: Final = 365
STEP_LIMIT: Final = 3.5
OVER_COMPILED: Final = 70.0
OVER_SCIPY: Final = 500.0
AGREE: Final = 1e-8
YEAR_S: Final = 10.0
BATCH: Final = 1000
BATCH_GAIN: Final = 3.5
BATCH_AGREE: Final = 1e-9
READINGS: Final = (150.0, 155.0, 161.0, 158.0, 152.0, 149.0)
READING_VAR: Final = 4.0
WIDE_DAYS: Final = 40  # days of a virtual person that are strung together to a year

CONSTS: Final = model.make_consts()
HELD: Final = np.array([16.0, 10.0, 70.0, 6.0])
DYNAMICS: Final = np.zeros((model.N_LINEAR, 3))
DYNAMICS[: model.N_THETA, 1] = model.PRIOR_TAU_MIN
DYNAMICS[: model.N_THETA, 2] = model.PRIOR_SD
DYNAMICS[model.SENSOR_SLOW : model.SENSOR + 1] = (0.0, 11.0, 5.0)
DYNAMICS[model.DISTURBANCE] = (0.0, 30.0, 0.01)


@jit
def _steps(
    count: int, mean: Any, factor: Any, consts: Any, dynamics: Any, row: Any, scratch: Any, work: Any
) -> None:
    """``count`` whole filter steps from the same start; scratch: nodes and drivers, held inputs, gain, start."""
    nodes, held, gain, mean0, factor0 = scratch
    drivers = np.zeros(4)
    for _ in range(count):
        mean[:] = mean0
        factor[:] = factor0
        model.drive(drivers, held, consts, 5.0, 2, nodes)
        model.predict(mean, factor, nodes, consts, dynamics, 5.0, 2, work)
        predicted = 0.0
        for i in range(row.size):
            predicted += row[i] * mean[i]
        srukf.update(mean, factor, row, 150.0 - predicted, 4.0, gain)


@jit
def _sweeps(count: int, points: Any, start: Any, nodes: Any, consts: Any, work: Any) -> None:
    """``count`` integrations of all sigma points from the same start."""
    for _ in range(count):
        points[:] = start
        model.sweep(points, nodes, consts, 2.5, 2, work)


@jit
def _ones(bodies: Any, drivers: Any, held: Any, consts: Any, nodes: Any, work: Any) -> None:
    """5 min of bodies one at a time, with their own inputs: float64[n_bodies, n, 1], the others [n_bodies, …]."""
    for k in range(bodies.shape[0]):
        model.drive(drivers[k], held[k], consts[k], 5.0, 2, nodes)
        model.sweep_one(bodies[k], nodes, consts[k], 2.5, 2, work)


class Pair:
    """The same people as a crowd and one at a time: other bodies, other basal rates, a meal with its bolus."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.consts = np.array(
            [
                model.make_consts(bw=rng.uniform(45.0, 110.0), k12=0.06 * np.exp(0.3 * rng.standard_normal()))
                for _ in range(BATCH)
            ]
        )
        theta = np.array(model.PRIOR_SD) * rng.standard_normal((BATCH, model.N_THETA)) * 0.5
        glucose = rng.uniform(5.5, 9.0, BATCH)
        basal = np.array(
            [
                model.basal_from_glucose(c, g, t[model.LN_S], t[model.LN_EGP0])
                for c, g, t in zip(self.consts, glucose, theta, strict=True)
            ]
        )
        carbs_g, dose_u = rng.uniform(20.0, 90.0, BATCH), rng.uniform(1.0, 8.0, BATCH)
        self.crowd = Crowd(self.consts, theta, basal, glucose, hour=HELD[model.LOCAL_H])
        self.crowd.meal(carbs_g)
        self.crowd.bolus(dose_u)
        self.bodies = np.zeros((BATCH, model.N, 1))
        self.bodies[:, : model.N_THETA, 0] = theta
        self.bodies[:, model.N_LINEAR :, 0] = self.crowd.state.T
        self.drivers = np.zeros((BATCH, model.N_DRIVER))
        self.held = np.tile(HELD, (BATCH, 1))
        self.held[:, model.BASAL], self.held[:, model.HR_EXCESS] = basal, 0.0
        self.nodes, self.work = nodes(), np.zeros(model.WORK_SIZE)

    def alone(self) -> None:
        """5 min, one body after the other."""
        _ones(self.bodies, self.drivers, self.held, self.consts, self.nodes, self.work)
        self.held[:, model.LOCAL_H] = (self.held[:, model.LOCAL_H] + 5.0 / 60.0) % 24.0

    def together(self) -> None:
        """5 min, all at once."""
        self.crowd.advance(5.0)

    def differ(self, steps: int = 24) -> float:
        """Greatest relative difference of any state after so many steps of both."""
        for _ in range(steps):
            self.alone()
            self.together()
        one, many = self.bodies[:, model.N_LINEAR :, 0].T, self.crowd.state
        return float((np.abs(one - many) / np.maximum(np.abs(one), 1e-12)).max())


# The model's own hooks, as its narrow integrator has them.
_ONE: Any = model.sweep_one
_LOAD, _RHS = (_ONE.py_func.__globals__[name] for name in ("load", "rhs"))


@jit
def _slopes(x: Any, work: Any, inputs: Any, consts: Any, out: Any) -> None:
    """Right-hand side of one column, inputs held at those of mid-step; its tile is one lane wide."""
    for i in range(out.size):
        work[i] = x[i]
    _RHS(work, consts, inputs, 2, 0)
    for i in range(out.size):
        out[i] = work[out.size + i]


def start() -> tuple[np.ndarray, np.ndarray]:
    """A state far from zero, so that no sigma point is clipped, and a full factor."""
    rng = np.random.default_rng(3)
    mean = np.zeros(model.N)
    mean[: model.N_THETA] = 0.1 * rng.standard_normal(model.N_THETA)
    x = model.steady_state(CONSTS, 16.0, 0.0, 0.0, 8.0)
    x[model.D1], x[model.D2] = 2.0, 2.0
    mean[model.N_LINEAR :] = x
    size = np.concatenate([DYNAMICS[:, 2], 0.02 * x])
    factor = np.triu(rng.standard_normal((model.N, model.N)) * 0.2 + np.eye(model.N)) * size
    return mean, np.ascontiguousarray(factor)


def nodes() -> np.ndarray:
    """Inputs of one step."""
    out = np.zeros((2 * STEPS + 1, model.N_INPUT))
    model.drive(np.zeros(4), HELD.copy(), CONSTS, DT_MIN, STEPS, out)
    return out


class Peer:
    """filterpy's filter on our problem, over a flow of one point."""

    def __init__(self, flow: Callable[[np.ndarray], np.ndarray]) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kalman: Any = importlib.import_module("filterpy.kalman")
        except ImportError:
            raise EnvironmentMissing(
                "the peer filter is not installed", where="bench", mend="pip install filterpy scipy"
            ) from None
        self.mean, factor = start()
        self.cov = factor.T @ factor
        self.phi, noise = (np.zeros((model.N_LINEAR,) * 2) for _ in range(2))
        model.transition(DT_MIN, DYNAMICS, self.phi, noise)
        row = model.cgm_row()

        class Points:
            """2n points of equal weight, in filterpy's own interface."""

            n = model.N
            Wm = Wc = np.full(2 * model.N, 1.0 / (2 * model.N))

            def num_sigmas(self) -> int:
                return 2 * self.n

            def sigma_points(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
                step = np.sqrt(self.n) * np.linalg.cholesky(p).T
                return np.concatenate([x + step, x - step])

        def whole(point: np.ndarray, dt: float) -> np.ndarray:
            moved = flow(point)
            moved[: model.N_LINEAR] = self.phi @ point[: model.N_LINEAR]
            return moved

        self.filter: Any = kalman.UnscentedKalmanFilter(
            dim_x=model.N, dim_z=1, dt=DT_MIN, hx=lambda x: np.array([row @ x]), fx=whole, points=Points()
        )
        self.filter.Q = np.zeros((model.N, model.N))
        self.filter.Q[: model.N_LINEAR, : model.N_LINEAR] = noise @ noise.T
        self.filter.R = np.array([[READING_VAR]])
        self.reset()

    def reset(self) -> None:
        """Back to the start."""
        self.filter.x, self.filter.P = self.mean.copy(), self.cov.copy()

    def step(self, reading: float = 150.0) -> None:
        """Prediction and update."""
        self.filter.predict()
        self.filter.update(np.array([reading]))


def compiled_flow() -> Callable[[np.ndarray], np.ndarray]:
    """One point by the same integrator (its narrow form: it is the faster one for a single column)."""
    inputs, work = nodes(), np.zeros(model.WORK_SIZE)

    def flow(point: np.ndarray) -> np.ndarray:
        column = point.reshape(-1, 1).copy()
        model.sweep_one(column, inputs, CONSTS, DT_MIN / STEPS, STEPS, work)
        return column[:, 0]

    return flow


def plain_slopes() -> tuple[Callable[[np.ndarray], None], Callable[[np.ndarray, float], np.ndarray]]:
    """The compiled right-hand side as SciPy calls it: take(point), whose parameters then hold, and slopes(x, t).

    Slopes are returned in one array, the same at every call.
    """
    inputs, work, out = nodes(), np.zeros(model.WORK_SIZE), np.zeros(model.N_STATE)

    def take(point: np.ndarray) -> None:
        _LOAD(point.reshape(-1, 1), 0, 1, CONSTS, work)

    def slopes(x: np.ndarray, t: float) -> np.ndarray:
        _slopes(x, work, inputs, CONSTS, out)
        return out

    return take, slopes


def scipy_flow(legacy: bool) -> Callable[[np.ndarray], np.ndarray]:
    """One point by SciPy over the compiled right-hand side: solve_ivp, or the older and lighter odeint (LSODA)."""
    integrate: Any = importlib.import_module("scipy.integrate")
    take, slopes = plain_slopes()

    def slopes_at(t: float, x: np.ndarray) -> np.ndarray:
        return slopes(x, t).copy()

    def flow(point: np.ndarray) -> np.ndarray:
        take(point)
        x0 = np.maximum(point[model.N_LINEAR :], 0.0)
        if legacy:
            x = integrate.odeint(slopes, x0, (0.0, DT_MIN))[-1]
        else:
            x = integrate.solve_ivp(slopes_at, (0.0, DT_MIN), x0).y[:, -1]
        return np.concatenate([point[: model.N_LINEAR], x])

    return flow


def agreement() -> float:
    """Greatest difference from filterpy's estimate over a few steps, in its own SDs (mean and covariance)."""
    peer = Peer(compiled_flow())
    mean, factor = start()
    row, inputs, work, gain = model.cgm_row(), nodes(), np.zeros(model.WORK_SIZE), np.zeros(2 * model.N)
    worst = 0.0
    for reading in READINGS:
        model.predict(mean, factor, inputs, CONSTS, DYNAMICS, DT_MIN, STEPS, work)
        srukf.update(mean, factor, row, reading - float(row @ mean), READING_VAR, gain)
        peer.step(reading)
        sd = np.sqrt(np.diag(peer.filter.P))
        worst = max(worst, float(np.abs((mean - peer.filter.x) / sd).max()))
        worst = max(worst, float(np.abs((factor.T @ factor - peer.filter.P) / np.outer(sd, sd)).max()))
    return worst


def in_turns(ways: dict[str, tuple[Callable[[], object], int]], turns: int) -> dict[str, float]:
    """Median CPU seconds per unit of work; each way is (call, units per call), taken in turns."""
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for call, _ in ways.values():
        call()
    for _ in range(turns):
        for name, (call, units) in ways.items():
            begin = time.thread_time()
            call()
            seen[name].append((time.thread_time() - begin) / units)
    return {name: statistics.median(values) for name, values in seen.items()}


def kernels(quick: bool) -> dict[str, float]:
    """CPU seconds per step of everything that is compared."""
    mean0, factor0 = start()
    mean, factor, inputs, work = mean0.copy(), factor0.copy(), nodes(), np.zeros(model.WORK_SIZE)
    scratch = (inputs, HELD.copy(), np.zeros(2 * model.N), mean0, factor0)
    wide = np.ascontiguousarray(np.repeat(mean0[:, None], POINTS, axis=1))
    spread = np.sqrt(model.N) * factor0.T
    wide[:, 1 : model.N + 1] += spread
    wide[:, model.N + 1 :] -= spread
    points = wide.copy()
    pair = Pair()
    row = model.cgm_row()
    compiled, current, legacy = Peer(compiled_flow()), Peer(scipy_flow(False)), Peer(scipy_flow(True))

    def peer(which: Peer) -> Callable[[], None]:
        def once() -> None:
            which.reset()
            which.step()

        return once

    loop = LOOP // 4 if quick else LOOP
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "step": (lambda: _steps(loop, mean, factor, CONSTS, DYNAMICS, row, scratch, work), loop),
        "sweep": (lambda: _sweeps(loop, points, wide, inputs, CONSTS, work), loop),
        "filterpy": (peer(compiled), 1),
        "filterpy, solve_ivp": (peer(current), 1),
        "filterpy, odeint": (peer(legacy), 1),
        "together": (pair.together, BATCH),
        "one by one": (pair.alone, BATCH),
    }
    return in_turns(ways, 5 if quick else TURNS)


def year(days: int) -> list[Sample]:
    """A record of ``days`` days with a reading every 5 min, strung together from WIDE_DAYS of a virtual person."""
    base = samples_of(VirtualPerson(7).events(START_US, min(days, WIDE_DAYS)))
    span_us = min(days, WIDE_DAYS) * DAY_MIN * US_PER_MIN
    out: list[Sample] = []
    for repeat in range(-(-days // WIDE_DAYS)):
        for s in base:
            at = s.time_us + repeat * span_us
            if at < START_US + days * DAY_MIN * US_PER_MIN:
                out.append(Sample(at, s.kind, s.value, s.source, len(out)))
    return out


def replay(samples: list[Sample], forecasts: bool) -> float:
    """CPU seconds for a twin to go through the record, with a forecast to 6 h at every reading or without."""
    twin = Twin(Patient(timezone="UTC"))
    begin = time.thread_time()
    if forecasts:
        batch: list[Sample] = []
        for k, sample in enumerate(samples):
            batch.append(sample)
            last = k + 1 == len(samples) or samples[k + 1].time_us > sample.time_us
            if last and any(s.kind == "cgm_mgdl" for s in batch):
                twin.observe(batch)
                twin.forecast(sample.time_us, (30.0, 60.0, 120.0, 240.0, 360.0))
                batch = []
    else:
        # A day at a time: an event that is older than the newest used by 15 days would be ignored.
        position = 0
        while position < len(samples):
            until = samples[position].time_us + DAY_MIN * US_PER_MIN
            upto = position
            while upto < len(samples) and samples[upto].time_us < until:
                upto += 1
            twin.observe(samples[position:upto])
            twin.estimate(samples[upto - 1].time_us)
            position = upto
    return time.thread_time() - begin


def run(quick: bool = False) -> Section:
    """The section. ``quick``: fewer turns, and a small part of the year, scaled up."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        found = kernels(quick)
        worst = agreement()
        apart = Pair().differ()
        days = YEAR_DAYS // 24 if quick else YEAR_DAYS
        samples = year(days)
        replay(samples[:3000], forecasts=True)
        scale = YEAR_DAYS / days
        alone_s, with_s = (scale * replay(samples, forecasts) for forecasts in (False, True))
    finally:
        os.sched_setaffinity(0, allowed)
    step, sweep = found["step"], found["sweep"]
    ratio, over = step / sweep, found["filterpy"] / step
    together = found["one by one"] / found["together"]
    figures = (
        Figure(
            "filter step / own sweep of 2n+1 points",
            f"≤ {STEP_LIMIT}×",
            f"{ratio:.2f}×",
            "–",
            ratio <= STEP_LIMIT,
        ),
        Figure(
            "faster than filterpy, same compiled integrator",
            f"≥ {OVER_COMPILED:g}×",
            f"{over:.0f}×",
            f"{1e6 * found['filterpy']:.0f} µs",
            over >= OVER_COMPILED,
        ),
        *(
            Figure(
                f"faster than filterpy over SciPy's {way}",
                f"≥ {OVER_SCIPY:g}×",
                f"{found[f'filterpy, {way}'] / step:.0f}×",
                f"{1e6 * found[f'filterpy, {way}']:.0f} µs",
                found[f"filterpy, {way}"] / step >= OVER_SCIPY,
            )
            for way in ("solve_ivp", "odeint")
        ),
        Figure("equal to filterpy's estimate, SD", f"≤ {AGREE:g}", f"{worst:.1e}", "–", worst <= AGREE),
        Figure("a person's year replayed, s", f"< {YEAR_S:g}", f"{alone_s:.1f}", "–", alone_s < YEAR_S),
        Figure("… with a forecast to 6 h at each reading, s", "–", f"{with_s:.1f}"),
        Figure(
            f"batch of {BATCH:,} people, per person",
            f"≥ {BATCH_GAIN}× faster",
            f"{together:.1f}×",
            f"{1e6 * found['one by one']:.2f} µs one at a time",
            together >= BATCH_GAIN,
        ),
        Figure(
            "… differs from one at a time by, of any state",
            f"≤ {BATCH_AGREE:g}",
            f"{apart:.1e}",
            "–",
            apart <= BATCH_AGREE,
        ),
    )
    rows = (
        ("sweep of 2n+1 points, 5 min", f"{1e6 * sweep:.2f}", "1.00"),
        ("twin: filter step (inputs, prediction, update)", f"{1e6 * step:.2f}", f"{ratio:.2f}"),
        (
            "filterpy, same compiled integrator",
            f"{1e6 * found['filterpy']:.0f}",
            f"{found['filterpy'] / sweep:.0f}",
        ),
        *(
            (
                f"filterpy, SciPy {way}, same compiled slopes",
                f"{1e6 * found[f'filterpy, {way}']:.0f}",
                f"{found[f'filterpy, {way}'] / sweep:.0f}",
            )
            for way in ("solve_ivp", "odeint")
        ),
        ("model alone, inputs and 5 min: one body, one at a time", f"{1e6 * found['one by one']:.3f}", ""),
        (
            f"model alone, inputs and 5 min: one body of {BATCH:,} together",
            f"{1e6 * found['together']:.3f}",
            f"{together:.1f}× faster",
        ),
    )
    notes = (
        f"one pinned core, CPU time, medians of {5 if quick else TURNS} turns taken alternately; n = {model.N} states, "
        f"RK4 of {DT_MIN / STEPS:g} min",
        f"year: {len(samples):,} events of {days} days, {WIDE_DAYS} days of a virtual person (seed 7) repeated, "
        "a reading every 5 min; with learning of the correction; observed day by day, or reading by reading with "
        "a forecast each",
        f"batch: {BATCH:,} bodies with constants, parameters, basal rates, meals and doses of their own (core/crowd.py) "
        "beside the same bodies in a compiled loop; the crowd takes what only constants decide once for all its steps; "
        "the filter's step itself is already as wide as the vector unit",
        "SciPy: inputs held at those of mid-step; default methods and tolerances (solve_ivp: RK45, odeint: LSODA); "
        "its slopes are ours, compiled, which is kinder to it than plain Python",
    )
    return Section(
        "speed",
        "one core",
        (Table("Microseconds", ("", "µs", "× sweep"), rows),),
        notes,
        figures,
    )
