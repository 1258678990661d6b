"""Batch refinement: everything unknown about a person over a few days, judged at once.

The filter learns as readings come, and knows each parameter only through the moment. Here all readings of a
span (days) speak together, backwards as well as forwards, about

    constants of the body (insulin's three actions and their speeds, …) and the filter's five log-parameters,
    the state at the start, each meal's true size and absorption, and the disturbance d(t) at nodes,

with the priors of the filter's model and, as two further observations with stated error, what the therapy
says of this person (correction factor, carbohydrate ratio). The mode is found by Levenberg–Marquardt in whitened
coordinates (the Gauss–Newton view of the iterated smoother: Bell, SIAM J Optim 1994;4:626), people around it are
drawn by randomised maximum likelihood. Sizes of sensor error and disturbance are those with the largest evidence,
computed on the same linearisation (Rasmussen & Williams, Gaussian Processes, 2006, eq. 2.30).

d(t) is a sum of two Gaussian processes: one that forgets within the hour, as in the filter, and one that comes
again each day at the same time (habits, and what the model's structure misses in usual days). Where asked for, the model
may err as well, alike after each meal and in its level at the same hour of each day (``core.hyper``).

Approximations, all stated in results that rest on them: constants are Gaussian around the mode; sensor error is
stationary; a parameter holds for the whole span; a fingerstick is compared with interstitial glucose.
Pure: the track at the start of the span, acts and readings come as arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from core.courses import FULL_LANES, Act, Array, Bodies, Ints, Nodes, World, make_world, run
from core.hyper import (
    USUAL_COURSE,
    USUAL_LEVEL_MGDL,
    Meal,
    Noise,
    course_cov,
    disturbance_cov,
    level_cov,
    likeliest,
    ln_prior,
    sensor_cov,
)
from core.models import hovorka as model
from core.patient import Therapy
from core.therapy_facts import Fact, facts_of, predicted_facts
from core.track import Track
from core.units import MGDL_PER_MMOLL, US_PER_MIN

# Constants that are estimated, as ln multiples with prior SD (MODELS A; insulin's actions narrower than there:
# the sheet's .4 holds for people, of whom ln_s already takes the common part). The dawn's size is additive.
CONSTANTS: Final = (
    (model.SIT, 0.40), (model.SID, 0.40), (model.SIE, 0.40),
    (model.KA1, 0.40), (model.KA2, 0.40), (model.KA3, 0.40),
    (model.K12, 0.40), (model.F01, 0.10), (model.RCL, 0.60), (model.CIRC_LN, 0.10),
)  # fmt: skip
LN_LIMIT: Final = 1.2  # beyond, steps of 5 min would be too long for the fastest of them
N_CONSTANTS: Final = len(CONSTANTS)
_RCL: Final = [place for place, _ in CONSTANTS].index(model.RCL)
LN_RCL: Final = -0.6  # renal clearance: half-way in logs between the sheet's two sources, .01 and .003
SD_EGP0: Final = 0.20  # wider than the filter's: days of data and the therapy tell it from sensitivity
SD_LN_S: Final = model.PRIOR_SD[model.LN_S]  # between people; the filter's is how far one person's moves
START: Final = ("glucose", "depots", "gut")  # ln level, ln insulin on board, mmol/kg in stomach and gut
SD_START: Final = (0.25, 0.30, 0.50)
SD_MEAL_TG: Final = 0.25  # one meal's absorption time about the person's own, ln
WHITE_MGDL: Final = 1.0
NODE_MIN: Final = 20
MAX_NODES: Final = 300
MAX_READINGS: Final = 320  # more are thinned: their errors hang together, so little is lost
MAX_ITERATIONS: Final = 12
DRAW_STEPS: Final = 5
OUTLIER_SD: Final = 3.5


class Reading(NamedTuple):
    """A glucose reading. ``blood``: a fingerstick."""

    time_us: int
    value_mgdl: float
    blood: bool = False


class Places(NamedTuple):
    """Where what lies in the vector of unknowns."""

    meals: int
    nodes: int

    @property
    def theta(self) -> int:
        return N_CONSTANTS

    @property
    def start(self) -> int:
        return N_CONSTANTS + model.N_THETA

    @property
    def amount(self) -> int:
        return self.start + len(START)

    @property
    def tg(self) -> int:
        return self.amount + self.meals

    @property
    def disturbance(self) -> int:
        return self.tg + self.meals

    @property
    def size(self) -> int:
        return self.disturbance + self.nodes


class Fit(NamedTuple):
    """How well the mode fits."""

    readings: int
    rmse_mgdl: float  # of readings at the mode, disturbance included
    open_rmse_mgdl: float  # with the disturbance switched off, but for what comes again with each meal
    chi2_per_reading: float  # whitened by sensor error; 1 is expected
    disturbance_share: float  # SD of d at the mode over the SD of the glucose production it adds to
    iterations: int
    noise: Noise
    outliers: int


@dataclass(frozen=True)
class Refined:
    """The joint posterior over all unknowns: its mode, Laplace's covariance there, and draws from it."""

    places: Places
    mean: Array  # the mode
    cov: Array  # Laplace
    start_us: int
    state: Array  # float64[N_STATE], the filter's at the start
    ln_s: float  # the filter's, which that state belongs to
    consts: Array  # of the nominal values
    spread: Nodes
    fit: Fit
    facts: tuple[Fact, ...]
    work: _Problem

    def parameters(self) -> dict[str, tuple[float, float]]:
        """Posterior mean and SD of constants (ln multiple) and log-parameters, by name."""
        sd = np.sqrt(np.diag(self.cov))
        names = [*constant_names(), *model.NAMES[: model.N_THETA]]
        return {name: (float(self.mean[i]), float(sd[i])) for i, name in enumerate(names)}

    def draws(self, rng: np.random.Generator, groups: int, each: int) -> Array:
        """float64[groups, size, each]: constants are shared inside a group (one call of the simulator)."""
        return self.work.draws(rng, groups, each)

    def level(self, x: Array, times_us: Ints, rng: np.random.Generator) -> Array:
        """The model's error of level, float64[n_times, m] mg/dL, drawn given what each column of ``x`` leaves unexplained."""
        return self.work.level(x, times_us, self.fit.noise, rng)


def constant_names() -> tuple[str, ...]:
    """Lower-case names in the order of CONSTANTS."""
    names = {place: name.lower() for name, place in vars(model).items() if name in _CONST_WORDS}
    return tuple(names[place] for place, _ in CONSTANTS)


_CONST_WORDS: Final = ("SIT", "SID", "SIE", "KA1", "KA2", "KA3", "K12", "F01", "RCL", "CIRC_LN")


def consts_with(base: Array, changes: Array) -> Array:
    """Constants of one person under ``changes`` float64[N_CONSTANTS], in the batch's structure: Hovorka's own.

    What the filter's κ takes up, the batch has errors of level and course for (core.hyper); with both, effects were as
    near, and their bands too narrow in people whom little holds back (docs/decisions/0011).
    """
    consts = base.copy()
    consts[model.K_REVERT] = 0.0
    for (place, _), change in zip(CONSTANTS, changes, strict=True):
        if place == model.CIRC_LN:
            consts[place] += change
        else:
            consts[place] *= math.exp(min(max(change, -LN_LIMIT), LN_LIMIT))
    return consts


def _times(ln_factor: Array) -> Array:
    """A drawn step may go absurdly far where nothing holds it (no insulin known): its factor stays a number."""
    return np.asarray(np.exp(np.clip(ln_factor, -6.0, 6.0)))


def bodies_of(x: Array, places: Places, state: Array, ln_s: float) -> Bodies:
    """Columns of unknowns float64[size, m] as bodies at the start of the span."""
    m = x.shape[1]
    theta = np.ascontiguousarray(x[places.theta : places.theta + model.N_THETA])
    level, depots, gut = (x[places.start + i] for i in range(len(START)))
    points = np.zeros((model.N, m))
    body = points[model.N_LINEAR :]
    body[:] = state[:, None]
    body[[model.Q1, model.Q2, model.C]] *= _times(level)
    body[[model.S1, model.S2, model.I]] *= _times(depots)
    for row, constant in ((model.X1, 0), (model.X2, 1), (model.X3, 2)):
        body[row] *= _times(theta[model.LN_S] - ln_s + depots + x[constant])
    body[[model.D1, model.D2]] = np.maximum(body[[model.D1, model.D2]] + gut, 0.0)
    return Bodies(
        points,
        theta,
        np.ascontiguousarray(x[places.amount : places.tg]),
        np.ascontiguousarray(x[places.tg : places.disturbance]),
        np.ascontiguousarray(x[places.disturbance :]),
    )


def nodes_for(start_us: int, end_us: int) -> Nodes:
    """Nodes of the disturbance over a span: every 20 min, wider over many days."""
    every_us = NODE_MIN * US_PER_MIN
    while (end_us - start_us) // every_us + 2 > MAX_NODES:
        every_us *= 2
    return Nodes(start_us, every_us, int((end_us - start_us) // every_us) + 2)


def refine(
    track: Track,
    acts: Sequence[Act],
    readings: Sequence[Reading],
    therapy: Therapy,
    end_us: int,
    n_meals: int,
    model_errs: bool = False,
) -> Refined:
    """The posterior over (track's time, end_us].

    track: the filter at the start of the span; not changed. acts: all inputs of the span, in order, meals
    numbered below ``n_meals``. readings: may end before the span does, or be missing altogether: then the
    answer is the prior and what therapy says. model_errs: the model may err alike after
    each meal and at the same hour of each day (``core.hyper``).
    """
    work = _Problem(track, acts, readings, therapy, end_us, n_meals)
    x = work.prior_mean.copy()
    noise, chosen = Noise(), False
    if model_errs:
        noise = noise._replace(level=USUAL_LEVEL_MGDL, course=USUAL_COURSE)
    total = 0
    for turn in range(3):
        x, used = work.mode(x, noise, 3 if turn == 0 else MAX_ITERATIONS)
        total += used
        if turn == 2 or not work.n:
            break
        work.doubt(x, noise)
        found = work.choose(x, noise)
        if found == noise and chosen:
            break
        noise, chosen = found, True
    return work.posterior(x, noise, total)


class _Problem:
    """Predictions, their slopes, and the pieces of the linear algebra."""

    def __init__(
        self,
        track: Track,
        acts: Sequence[Act],
        readings: Sequence[Reading],
        therapy: Therapy,
        end_us: int,
        n_meals: int,
    ) -> None:
        nominal = track.nominal
        self.start_us = track.time_us
        self.consts = nominal.consts
        self.state = np.maximum(track.mean[model.N_LINEAR :], 0.0)
        self.ln_s = float(track.mean[model.LN_S])
        self.spread = nodes_for(self.start_us, end_us)
        self.places = Places(n_meals, self.spread.held)
        self.facts = facts_of(therapy)
        kept = [r for r in readings if self.start_us < r.time_us <= end_us]
        every = max(1, math.ceil(len(kept) / MAX_READINGS))
        kept = kept[::every]
        self.n = len(kept)
        seen_us = max([r.time_us for r in kept], default=self.start_us)
        self.world: World = make_world(track.fork(), [a for a in acts if a.time_us <= seen_us], seen_us)
        self.meals = [
            Meal(a.time_us, model.meal_mmol_per_kg(self.consts, a.value, 0.0))
            for a in acts
            if a.kind == "carbs_g"
        ]
        self.value = np.array([r.value_mgdl for r in kept])
        self.time_us = np.array([r.time_us for r in kept], dtype=np.int64)
        self.blood = np.array([r.blood for r in kept], dtype=bool)
        self.extra = np.where(self.blood, (0.1 * self.value + 5.0) ** 2, 0.0)
        grid_min = np.concatenate(([0.0], (self.world.grid_us - self.start_us) / US_PER_MIN))
        at_min = (self.time_us - self.start_us) / US_PER_MIN
        last = grid_min.size - 1  # 0 when every reading lies where the span begins
        self.right = np.clip(np.searchsorted(grid_min, at_min), min(1, last), last)
        if grid_min.size > 1:
            gap = grid_min[self.right] - grid_min[self.right - 1]
            self.weight = np.clip((at_min - grid_min[self.right - 1]) / gap, 0.0, 1.0)
        else:
            self.weight = np.zeros(self.n)
        if kept:  # the filter may start far from the first readings: begin where they do
            first = float(np.median(self.value[: min(6, self.n)])) / MGDL_PER_MMOLL
            if nominal_far(first, float(self.state[model.C])) and at_min[0] <= 60.0:
                scale = first / max(float(self.state[model.C]), 0.5)
                self.state[[model.Q1, model.Q2, model.C]] *= scale
        p = self.places
        self.prior_mean = np.zeros(p.size)
        self.prior_mean[_RCL] = LN_RCL
        self.prior_mean[p.theta : p.start] = nominal.dynamics[: model.N_THETA, 0]
        sd = np.zeros(p.size)
        sd[:N_CONSTANTS] = [s for _, s in CONSTANTS]
        sd[p.theta : p.start] = nominal.dynamics[: model.N_THETA, 2]
        sd[p.theta + model.LN_S] = SD_LN_S
        sd[p.theta + model.LN_EGP0] = SD_EGP0
        sd[p.start : p.amount] = SD_START
        sd[p.amount : p.tg] = track.tuning.sd_carbs
        sd[p.tg : p.disturbance] = SD_MEAL_TG
        self.sd = sd

    # ---- predictions --------------------------------------------------------------------------------

    def _glucose(self, x: Array, consts: Array) -> Array:
        """Predicted readings, float64[n, m] mg/dL, of bodies that share constants."""
        if not self.n:
            return np.zeros((0, x.shape[1]))
        bodies = bodies_of(x, self.places, self.state, self.ln_s)
        first = bodies.points[model.N_LINEAR + model.C : model.N_LINEAR + model.C + 1].copy()
        course = np.concatenate([first, run(self.world, bodies, self.spread, consts)])
        w = self.weight[:, None]
        return MGDL_PER_MMOLL * ((1.0 - w) * course[self.right - 1] + w * course[self.right])

    def predict(self, x: Array) -> Array:
        """float64[n + n_facts] of one vector of unknowns."""
        consts = consts_with(self.consts, x[:N_CONSTANTS])
        theta = x[self.places.theta : self.places.start]
        return np.concatenate(
            [self._glucose(x[:, None], consts)[:, 0], predicted_facts(self.facts, consts, theta)]
        )

    def slopes(self, x: Array, at: Array) -> Array:
        """float64[n + n_facts, size], forward differences; ``at``: the prediction at x."""
        p = self.places
        step = np.full(p.size, 1e-3)
        step[p.disturbance :] = 1e-5
        own = consts_with(self.consts, x[:N_CONSTANTS])
        free = np.arange(N_CONSTANTS, p.size)
        columns = np.repeat(x[:, None], free.size, axis=1)
        columns[free, np.arange(free.size)] += step[free]
        out = np.zeros((self.n + len(self.facts), p.size))
        out[: self.n, free] = (self._glucose(columns, own) - at[: self.n, None]) / step[free]
        for i in range(p.start):
            moved = x.copy()
            moved[i] += step[i]
            if i < N_CONSTANTS:
                out[:, i] = (self.predict(moved) - at) / step[i]
            elif self.facts:
                there = predicted_facts(self.facts, own, moved[p.theta : p.start])
                out[self.n :, i] = (there - at[self.n :]) / step[i]
        return out

    # ---- noise --------------------------------------------------------------------------------------

    def reading_cov(self, noise: Noise) -> Array:
        """Covariance of the errors of readings about the model's glucose, then of facts."""
        both_cgm = ~(self.blood[:, None] | self.blood[None, :])
        cov = np.zeros((self.n + len(self.facts),) * 2)
        cov[: self.n, : self.n] = sensor_cov(noise, self.time_us) * both_cgm
        if noise.level:  # the model's, whatever is read
            cov[: self.n, : self.n] += level_cov(noise, self.time_us, self.time_us)
        own = np.concatenate([WHITE_MGDL**2 + self.extra, [f.ln_sd**2 for f in self.facts]])
        np.fill_diagonal(cov, np.diag(cov) + own)
        return cov

    def level(self, x: Array, times_us: Ints, noise: Noise, rng: np.random.Generator) -> Array:
        """See ``Refined.level``: δ given x and readings y is normal, about C·Σ⁻¹·(y − g(x)) with cov K − C·Σ⁻¹·Cᵀ."""
        if not noise.level:
            return np.zeros((times_us.size, x.shape[1]))
        consts = consts_with(self.consts, x[:N_CONSTANTS, 0])
        cross = level_cov(noise, times_us, self.time_us)
        gain = np.linalg.solve(self.reading_cov(noise)[: self.n, : self.n], cross.T).T
        left = level_cov(noise, times_us, times_us) - gain @ cross.T
        values, vectors = np.linalg.eigh(0.5 * (left + left.T))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        unexplained = self.value[:, None] - self._glucose(x, consts)
        return np.asarray(gain @ unexplained + root @ rng.standard_normal((times_us.size, x.shape[1])))

    def observed(self) -> Array:
        return np.concatenate([self.value, [f.ln_value for f in self.facts]])

    def doubt(self, x: Array, noise: Noise) -> None:
        """Widen readings that stand far from everything around them."""
        error = self.value - self.predict(x)[: self.n]
        scale = max(1.4826 * float(np.median(np.abs(error))), 2.0)
        wild = (np.abs(error) > OUTLIER_SD * scale) & ~self.blood
        self.extra = np.where(wild, error**2, np.where(self.blood, self.extra, 0.0))
        self.outliers = int(wild.sum())

    outliers = 0

    # ---- mode ---------------------------------------------------------------------------------------

    def _sd(self, noise: Noise) -> Array:
        sd = self.sd.copy()
        sd[self.places.amount : self.places.disturbance] *= noise.meals
        return sd

    def _prior_root(self, noise: Noise) -> Array:
        root = np.diag(self._sd(noise))
        at = self.places.disturbance
        cov = disturbance_cov(noise, self.spread.times_us(), self.meals)
        root[at:, at:] = np.linalg.cholesky(cov + 1e-9 * float(cov[0, 0]) * np.eye(len(cov)))
        return root

    def mode(self, x: Array, noise: Noise, limit: int) -> tuple[Array, int]:
        """Levenberg–Marquardt from x. Returns the mode and the number of slopes computed."""
        self.root = self._prior_root(noise)
        white = np.linalg.inv(np.linalg.cholesky(self.reading_cov(noise)))
        goal = self.observed()
        u = np.linalg.solve(self.root, x - self.prior_mean)
        at = self.predict(x)
        cost = _cost(white @ (goal - at), u)
        damp, used = 1e-3, 0
        for _ in range(limit):
            used += 1
            a: Array = white @ self.slopes(x, at) @ self.root
            hessian = np.eye(u.size) + a.T @ a
            gradient = a.T @ (white @ (goal - at)) - u
            better = False
            for _ in range(6):
                trial = u + np.linalg.solve(hessian + damp * np.eye(u.size), gradient)
                there = self.prior_mean + self.root @ trial
                found = self.predict(there)
                value = _cost(white @ (goal - found), trial)
                if math.isfinite(value) and value < cost:
                    better = True
                    break
                damp = max(damp, 1e-2) * 8.0
            if not better:
                break
            gained, cost, u, x, at = cost - value, value, trial, there, found
            damp = max(damp / 5.0, 1e-6)
            if gained < 0.05:
                break
        return x, used

    def choose(self, x: Array, noise: Noise) -> Noise:
        """Sizes of noise with the largest evidence under the linearisation at x, one after the other."""
        p = self.places
        at = self.predict(x)
        slopes = self.slopes(x, at)
        rest = self.observed() - at - slopes @ (self.prior_mean - x)
        fixed = (slopes[:, : p.amount] * self.sd[: p.amount] ** 2) @ slopes[:, : p.amount].T
        eaten = slopes[:, p.amount : p.disturbance] * self.sd[p.amount : p.disturbance]
        meals = eaten @ eaten.T
        moved = slopes[:, p.disturbance :]

        parts: dict[tuple[float, ...], Array] = {}
        known: dict[Noise, float] = {}

        def part(make: Callable[[Noise], Array], key: tuple[float, ...], trial: Noise) -> Array:
            if key not in parts:
                parts[key] = make(trial)
            return parts[key]

        def spread(trial: Noise) -> Array:
            return np.asarray(moved @ disturbance_cov(trial, self.spread.times_us(), self.meals) @ moved.T)

        n = rest.size
        bordered = np.zeros((n + 1, n + 1))
        bordered[n, :n] = bordered[:n, n] = rest

        def evidence(trial: Noise) -> float:
            if trial not in known:
                cov = bordered[:n, :n]
                np.multiply(meals, trial.meals**2, out=cov)
                cov += fixed
                cov += part(spread, (0.0, *trial[2:5], trial.course), trial)
                cov += part(self.reading_cov, (1.0, *trial[:2], trial.level), trial)
                np.fill_diagonal(cov, np.diag(cov) + 1e-9)
                # The last row of the bordered matrix's root is the whitened rest: no second elimination.
                bordered[n, n] = 1.0 + 1e12 * float(rest @ rest)
                root = np.linalg.cholesky(bordered)
                white = root[n, :n]
                ln_det = np.log(np.diag(root)[:n]).sum()
                known[trial] = float(-0.5 * white @ white - ln_det + ln_prior(trial))
            return known[trial]

        return likeliest(evidence, noise)

    def posterior(self, x: Array, noise: Noise, iterations: int) -> Refined:
        """Laplace's approximation at the mode."""
        self.root = self._prior_root(noise)
        white = np.linalg.inv(np.linalg.cholesky(self.reading_cov(noise)))
        at = self.predict(x)
        slopes = self.slopes(x, at)
        a = white @ slopes @ self.root
        self.slopes_of_facts = slopes[self.n :]
        self.mode_x, self.mode_at, self.whitened, self.white = x, at, a, white
        self.cov_u: Array = np.asarray(np.linalg.inv(np.eye(x.size) + a.T @ a), dtype=np.float64)
        error = self.value - at[: self.n]
        off = x.copy()
        off[self.places.disturbance :] = self._course(noise, x[self.places.disturbance :])
        free = self.value - self.predict(off)[: self.n]
        whitened = white[: self.n, : self.n] @ error
        d = x[self.places.disturbance :]

        def rms(values: Array) -> float:
            return float(np.sqrt(np.mean(values**2))) if values.size else math.nan

        fit = Fit(
            self.n,
            rms(error),
            rms(free),
            float(np.mean(whitened**2)) if self.n else math.nan,
            float(np.std(d)) / float(self.consts[model.EGP0]),
            iterations,
            noise,
            self.outliers,
        )
        return Refined(
            self.places,
            x,
            self.root @ self.cov_u @ self.root.T,
            self.start_us,
            self.state,
            self.ln_s,
            self.consts,
            self.spread,
            fit,
            self.facts,
            self,
        )

    def _course(self, noise: Noise, d: Array) -> Array:
        """The part of a disturbance that comes again with each meal: its mean given the sum."""
        times_us = self.spread.times_us()
        total = disturbance_cov(noise, times_us, self.meals)
        jitter = 1e-9 * float(total[0, 0]) * np.eye(len(total))
        return np.asarray(course_cov(noise, times_us, self.meals) @ np.linalg.solve(total + jitter, d))

    def draws(self, rng: np.random.Generator, groups: int, each: int) -> Array:
        """People who fit, by randomised maximum likelihood (Oliver, Math Geol 1996;28:1; Kitanidis, WRR 1995;31:2411).

        Each draw is the mode of a problem of its own, with readings and priors shaken by their errors: exact where
        the model is linear, and where it is not, a drawn person's course still fits, which a draw from
        Laplace's normal would not. Constants of a group come from that normal; the rest is solved given them,
        with the slopes at the common mode.
        """
        c = N_CONSTANTS
        mode_u = np.linalg.solve(self.root, self.mode_x - self.prior_mean)
        a = self.whitened[:, c:]
        inverse = np.linalg.inv(np.eye(a.shape[1]) + a.T @ a)
        pull = inverse @ a.T
        outer = np.linalg.cholesky(self.cov_u[:c, :c])
        fact_slopes = self.slopes_of_facts
        goal = self.observed()[:, None]
        out = np.zeros((groups, self.places.size, each))
        for g in range(groups):
            u = np.repeat(mode_u[:, None], each, axis=1)
            u[:c] += (outer @ rng.standard_normal(c))[:, None]
            shaken = rng.standard_normal((u.shape[0] - c, each))
            error = rng.standard_normal((goal.size, each))
            lowest = np.full(each, np.inf)
            consts = consts_with(self.consts, (self.prior_mean + self.root @ u[:, 0])[:c])
            for _ in range(DRAW_STEPS):
                x = self.prior_mean[:, None] + self.root @ u
                at = np.concatenate(
                    [
                        self._glucose(x, consts),
                        self.mode_at[self.n :, None] + fact_slopes @ (x - self.mode_x[:, None]),
                    ]
                )
                rest = self.white @ (goal - at) + error
                away = u[c:] - shaken
                cost = np.einsum("ij,ij->j", rest, rest) + np.einsum("ij,ij->j", away, away)
                better = cost < lowest
                lowest[better] = cost[better]
                out[g][:, better] = x[:, better]
                u[c:] += pull @ rest - inverse @ away
        return out


def nominal_far(first_mmoll: float, state_mmoll: float) -> bool:
    """Whether a start differs so much from the first readings that it was a guess."""
    return abs(math.log(max(first_mmoll, 0.5) / max(state_mmoll, 0.5))) > 0.1


def _cost(residual: Any, u: Any) -> float:
    return float(residual @ residual + u @ u)


__all__ = [
    "FULL_LANES",
    "Fit",
    "Noise",
    "Reading",
    "Refined",
    "bodies_of",
    "consts_with",
    "nodes_for",
    "refine",
]
