"""What if: the same person, the same hours, one thing done differently.

Abduction, action, prediction (Pearl, Causality, 2009, section 7.1). *Abduction*: the joint posterior of
parameters, start, every meal's true size and absorption, and the disturbance, given all readings up to the end of
the window, and what the model misses after each meal and at the same hour of each day (``core.refine``). Past a last reading it is the same posterior, carried on: a window in the past asks a
counterfactual question, one in the future an interventional, one across now both, by one rule. *Action*: the acts
of the window are changed. *Prediction*: each drawn person lives the window twice, with and without the change,
and everything that was not changed is the same both times. Effects are differences within a drawn person, so
what is uncertain of both courses alike does not blur them.

What the answer assumes, and says: later acts are those of the record (nobody reacts to the other course), and the
structure of the model holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from core.causal.change import DOSES, PARAMETERS, PULSE, RATE, Do, parse_all
from core.causal.do import Changed, apply
from core.causal.domain import GAP_US, Caution, Question, judge
from core.courses import (
    FULL_LANES,
    UNKNOWN_MEAL,
    Act,
    Array,
    Bodies,
    World,
    in_order,
    make_world,
    run,
)
from core.errors import InputError
from core.models import hovorka as model
from core.nominal import make_nominal
from core.refine import N_CONSTANTS, SD_MEAL_TG, Fit, Reading, Refined, bodies_of, consts_with, refine
from core.units import MGDL_PER_MMOLL, US_PER_DAY, US_PER_H, US_PER_MIN

if TYPE_CHECKING:
    from core.track import Track
    from core.twin import Twin

LEAD_US: Final = 2 * US_PER_DAY  # of the record before the window, to learn the person from
LEAD_MIN_US: Final = 6 * US_PER_H  # nearer to the record's start, the filter starts there afresh
WINDOW_LIMIT_US: Final = 3 * US_PER_DAY
FUTURE_LIMIT_US: Final = 2 * US_PER_DAY  # beyond the last reading
MAX_DRAWS: Final = 20_000
SPLIT_DRAWS: Final = 80  # for each source of uncertainty
# How far, as a factor (ln SD), effects of this model's structure are from those of bodies of another structure once
# the parameters fit: found on virtual people of the UVA/Padova structure who are in no score (bench/whatif).
STRUCTURE_LN_SD: Final = 0.27
LOWEST_MGDL: Final = 10.0
HIGHEST_MGDL: Final = 1000.0
INSULIN: Final = ("bolus_u", "long_acting_u")
RISE_MGDL: Final = 5.0  # by more insulin alone: the solver's steps are too long for it
INPUTS: Final = (*DOSES, RATE, PULSE)
APPROXIMATIONS: Final = (
    "People are drawn by randomised maximum likelihood around one mode; sensor error is taken as stationary.",
    "Later acts are those of the record: nobody reacts to the other course.",
    "The structure of the model errs by a common factor of every effect, whose size was measured on other bodies.",
    "What the model misses after each meal and at the same hour of each day is learned and carried to the window, the same with "
    "and without the change: after a meal that is changed, what it would be after the meal on record.",
    "Glucose is that of the interstitial fluid, without the sensor's error.",
)


class Course(NamedTuple):
    """Mean and 90 % band at each time, mg/dL."""

    mean: Array
    p05: Array
    p95: Array


class Counterfactual(NamedTuple):
    """The answer. Arrays are float64[n_times]; paths float64[n_times, draws] mg/dL."""

    times_us: NDArray[np.int64]
    factual: Course
    counterfactual: Course
    effect: Course
    changes: tuple[Do, ...]
    question: str  # counterfactual | interventional | both: where the window lies beside the last reading
    split: dict[str, float]  # share of the effect's variance by source; they sum to 1, or all 0
    mean_effect: tuple[float, float, float]  # over the window: mean, p05, p95
    below_70: tuple[float, float]  # expected share of the window, factual and changed
    below_54: tuple[float, float]
    above_180: tuple[float, float]
    cautions: tuple[Caution, ...]
    trustworthy: bool
    assumed: tuple[tuple[str, str], ...]
    approximations: tuple[str, ...]
    parameters: dict[str, tuple[float, float]]
    fit: Fit
    last_reading_us: int | None
    draws: int
    seed: int
    factual_paths: Array
    counterfactual_paths: Array

    def share_change(self, low_mgdl: float, high_mgdl: float) -> tuple[float, float]:
        """5 % and 95 % over the drawn people of how the share of the window spent between two values changes."""
        before, after = (
            np.mean((paths > low_mgdl) & (paths < high_mgdl), axis=0)
            for paths in (self.factual_paths, self.counterfactual_paths)
        )
        low, high = np.percentile(after - before, (5, 95))
        return float(low), float(high)


class _Group(NamedTuple):
    """Drawn people who share constants, at the start of the window, and their factual course."""

    consts: Array
    bodies: Bodies
    factual: Array  # float64[n_grid, m] mmol/L
    structure: Array  # float64[m], the factor on effects
    level: (
        Array  # float64[n_grid, m] mg/dL, what the model misses at these hours of each day, of both courses
    )


class Abduction(NamedTuple):
    """What is known of a window, ready for any number of questions about it."""

    refined: Refined
    start_us: int
    end_us: int
    track: Track  # at the start of the window; inputs only
    acts: tuple[Act, ...]  # of the window
    record: tuple[Act, ...]  # of the whole span: what the person is used to
    readings: tuple[Reading, ...]
    times_us: NDArray[np.int64]
    groups: tuple[_Group, ...]
    sources: dict[str, tuple[_Group, ...]]
    sd_carbs: float
    assumed: tuple[tuple[str, str], ...]
    meals: int
    draws: int
    seed: int
    zone: ZoneInfo


def whatif(
    twin: Twin, changes: str | Do | Iterable[str | Do], start_us: int, end_us: int, draws: int, seed: int
) -> Counterfactual:
    """Answer one question; see ``Twin.whatif``."""
    # A typing error, or a dose that is not there, shall not cost the fit.
    parsed = parse_all(changes, ZoneInfo(twin.patient.timezone))
    if start_us < end_us:
        acts, meals = _acts(twin.record.between(start_us - 1, end_us - 1))
        apply(parsed, acts, start_us, end_us, meals)
    return answer(abduct(twin, start_us, end_us, draws, seed), parsed)


def abduct(twin: Twin, start_us: int, end_us: int, draws: int = 1000, seed: int = 0) -> Abduction:
    """Draw people who fit everything read up to the end of the window."""
    where = "whatif"
    if not start_us < end_us <= start_us + WINDOW_LIMIT_US:
        raise InputError("the window must end after it begins, within 3 days", where=where)
    if not FULL_LANES <= draws <= MAX_DRAWS:
        raise InputError(f"draws must lie in {FULL_LANES}..{MAX_DRAWS}", where=where)
    entries = twin.record.entries
    if not entries:
        raise InputError(
            "the record holds nothing of these days",
            where=where,
            mend="choose a window nearer to its readings",
        )
    if entries[0].time_us >= start_us:
        raise InputError("the record does not reach back to the window", where=where, mend="begin later")
    newest_us = max((e.time_us for e in entries if e.kind in ("cgm_mgdl", "smbg_mgdl")), default=None)
    if end_us - (newest_us if newest_us is not None else entries[-1].time_us) > FUTURE_LIMIT_US:
        raise InputError("the window ends more than 2 days after the last reading", where=where)
    track, assumed = _track(twin, max(entries[0].time_us, start_us - LEAD_US), start_us)
    span = twin.record.between(track.time_us, end_us)
    acts, meals = _acts(span)
    readings = tuple(
        Reading(e.time_us, e.value, e.kind == "smbg_mgdl")
        for e in span
        if e.kind in ("cgm_mgdl", "smbg_mgdl")
    )
    refined = refine(track, acts, readings, twin.patient.therapy, end_us, meals, model_errs=True)
    inside = tuple(a for a in acts if start_us <= a.time_us < end_us)
    runner = track.fork()
    lead = make_world(runner, [a for a in acts if a.time_us < start_us], start_us)
    window = make_world(runner.fork(), inside, end_us)

    times_us = np.concatenate(([start_us], window.grid_us))
    rng = np.random.default_rng((seed, 7))

    def live(x: Array, structure: bool) -> _Group:
        consts = consts_with(refined.consts, x[:N_CONSTANTS, 0])
        bodies = bodies_of(x, refined.places, refined.state, refined.ln_s)
        run(lead, bodies, refined.spread, consts)
        first = bodies.points[model.N_LINEAR + model.C :][:1].copy()
        kept = bodies._replace(points=bodies.points.copy())
        factual = np.concatenate([first, run(window, bodies, refined.spread, consts)])
        ln_factor = STRUCTURE_LN_SD * rng.standard_normal(x.shape[1]) * structure
        if structure:
            ln_factor -= 0.5 * STRUCTURE_LN_SD**2  # a mean of one: an error, not a trend
        # What an effect's variance is made of does not hang on the level, which both courses share.
        level = refined.level(x, times_us, rng) if structure else np.zeros((1, x.shape[1]))
        return _Group(consts, kept, factual, np.exp(ln_factor), level)

    drawn = refined.draws(rng, math.ceil(draws / FULL_LANES), FULL_LANES)
    apart = _apart(refined, rng, start_us, _meals_before(acts, start_us))
    return Abduction(
        refined,
        start_us,
        end_us,
        runner,
        inside,
        tuple(acts),
        readings,
        times_us,
        tuple(live(x, True) for x in drawn),
        {name: tuple(live(x, name == "structure") for x in columns) for name, columns in apart.items()},
        twin.tuning.sd_carbs,
        assumed,
        meals,
        drawn.shape[0] * drawn.shape[2],
        seed,
        ZoneInfo(twin.patient.timezone),
    )


def answer(known: Abduction, changes: str | Do | Iterable[str | Do]) -> Counterfactual:
    """One question about a window that is known."""
    parsed = parse_all(changes, known.zone)
    changed = apply(parsed, known.acts, known.start_us, known.end_us, known.meals)
    world = make_world(known.track.fork(), changed.acts, known.end_us, changed.rates)
    factual, other = _paths(known, known.groups, changed, world)
    effect = other - factual
    if float(effect.max()) > RISE_MGDL and _only_more_insulin(known.acts, changed, world):
        raise InputError("this is more insulin than the model can follow", where="do", mend="ask for less")
    sources = {}
    for name, groups in known.sources.items():
        one, two = _paths(known, groups, changed, world)
        sources[name] = float(np.mean(np.var(two - one, axis=1)))
    total = sum(sources.values())
    split = {name: (value / total if total > 1e-12 else 0.0) for name, value in sources.items()}
    last_us = known.readings[-1].time_us if known.readings else None
    question = "counterfactual"
    if last_us is None or last_us <= known.start_us:
        question = "interventional"
    elif (
        known.end_us - last_us > GAP_US
    ):  # nearer, a sensor that reads every 15 min is simply between two readings
        question = "both"
    cautions = judge(
        Question(
            parsed,
            known.acts,
            changed,
            known.record,
            known.readings,
            known.refined.fit,
            (known.refined.start_us, known.start_us, known.end_us),
            last_us,
            _more(other < 54.0, factual < 54.0),
            _more(other > 400.0, factual > 400.0),
            world.basal_ratio,
        )
    )
    mean_effect = effect.mean(axis=0)
    low, high = np.percentile(mean_effect, (5, 95))
    return Counterfactual(
        known.times_us,
        _course(factual),
        _course(other),
        _course(effect),
        parsed,
        question,
        split,
        (float(mean_effect.mean()), float(low), float(high)),
        (float(np.mean(factual < 70.0)), float(np.mean(other < 70.0))),
        (float(np.mean(factual < 54.0)), float(np.mean(other < 54.0))),
        (float(np.mean(factual > 180.0)), float(np.mean(other > 180.0))),
        cautions,
        not any(c.loud for c in cautions),
        known.assumed,
        APPROXIMATIONS,
        known.refined.parameters(),
        known.refined.fit,
        last_us,
        known.draws,
        known.seed,
        factual,
        other,
    )


def _paths(known: Abduction, groups: Sequence[_Group], changed: Changed, world: World) -> tuple[Array, Array]:
    """Factual and changed courses of the groups' people, mg/dL, float64[n_times, draws]."""
    shift = None
    if changed.shifts:
        shift = np.zeros((world.dt_min.size, model.N_THETA))
        begins_us = world.ends_us - (world.dt_min * US_PER_MIN).astype(np.int64)
        for from_us, to_us, place, ln_factor in changed.shifts:
            shift[(begins_us >= from_us) & (begins_us < to_us), place] += ln_factor
    rng = np.random.default_rng((known.seed, 11))
    courses = []
    for group in groups:
        bodies = group.bodies._replace(points=group.bodies.points.copy())
        m = bodies.points.shape[1]
        if changed.added_meals:
            # Nobody logged these meals: as uncertain as any meal before readings tell of it.
            fresh = rng.standard_normal((2, changed.added_meals, m))
            bodies = bodies._replace(
                meal_ln_amount=np.concatenate([bodies.meal_ln_amount, known.sd_carbs * fresh[0]]),
                meal_ln_tg=np.concatenate([bodies.meal_ln_tg, SD_MEAL_TG * fresh[1]]),
            )
        first = group.factual[:1]
        courses.append(np.concatenate([first, run(world, bodies, known.refined.spread, group.consts, shift)]))
    factual = MGDL_PER_MMOLL * np.concatenate([g.factual for g in groups], axis=1)
    factor = np.concatenate([g.structure for g in groups])
    other = factual + factor * (MGDL_PER_MMOLL * np.concatenate(courses, axis=1) - factual)
    level = np.concatenate([g.level for g in groups], axis=1)
    factual, other = factual + level, other + level
    return np.clip(factual, LOWEST_MGDL, HIGHEST_MGDL), np.clip(other, LOWEST_MGDL, HIGHEST_MGDL)


def _only_more_insulin(before: Sequence[Act], changed: Changed, world: World) -> bool:
    """Whether nothing but more insulin, or insulin that works better, acts: glucose cannot rise of it."""
    totals: dict[tuple[int, str], float] = {}
    for sign, acts in ((-1.0, before), (1.0, changed.acts)):
        for act in acts:
            if act.kind != RATE:
                key = (act.time_us, act.kind)
                totals[key] = totals.get(key, 0.0) + sign * act.value
    doses = all(v >= -1e-9 if kind in INSULIN else abs(v) < 1e-9 for (_, kind), v in totals.items())
    better = all(place == PARAMETERS["s"] and ln >= 0.0 for _, _, place, ln in changed.shifts)
    return doses and better and world.basal_ratio[0] >= 1.0 - 1e-9


def _more(changed: NDArray[np.bool_], before: NDArray[np.bool_]) -> float:
    """By how much the share of courses that ever are so grows."""
    return float(np.mean(np.any(changed, axis=0)) - np.mean(np.any(before, axis=0)))


def _course(paths: Array) -> Course:
    low, high = np.percentile(paths, (5, 95), axis=1)
    return Course(paths.mean(axis=1), low, high)


def _track(twin: Twin, from_us: int, known_us: int) -> tuple[Track, tuple[tuple[str, str], ...]]:
    """The filter where the span begins, on nominal values from the record up to ``known_us``."""
    first_us = twin.record.entries[0].time_us
    past = twin.record.between(first_us - 1, known_us)
    nominal = make_nominal(twin.patient, past, twin.local, twin.tuning, twin.prior)
    if from_us - first_us < LEAD_MIN_US:
        track = twin._new_track(nominal, first_us - 1)
        for entry in twin.record.between(first_us - 1, from_us - 1):
            track.apply(entry)
        track.advance(max(from_us - 1, track.time_us))
    else:
        track = twin._at(from_us)
        track.bind(nominal)
    return track, nominal.assumed


def _acts(span: Sequence[Any]) -> tuple[list[Act], int]:
    acts, meals = [], 0
    for entry in span:
        if entry.kind not in INPUTS:
            continue
        number = UNKNOWN_MEAL
        if entry.kind == "carbs_g":
            number, meals = meals, meals + 1
        acts.append(Act(entry.time_us, entry.kind, entry.value, number))
    return in_order(acts), meals


def _meals_before(acts: Sequence[Act], start_us: int) -> int:
    return sum(1 for a in acts if a.kind == "carbs_g" and a.time_us < start_us)


def _apart(refined: Refined, rng: np.random.Generator, start_us: int, meals_before: int) -> dict[str, Array]:
    """Draws in which one source alone varies, the rest at the mode: float64[groups, size, each] per source."""
    p = refined.places
    drawn = refined.draws(rng, SPLIT_DRAWS // FULL_LANES * 4, FULL_LANES)  # constants need several groups
    early = refined.spread.times_us() < start_us
    nodes = p.disturbance + np.arange(p.nodes)
    before = np.r_[p.amount : p.amount + meals_before, p.tg : p.tg + meals_before]
    after = np.r_[p.amount + meals_before : p.tg, p.tg + meals_before : p.disturbance]
    rows = {
        "parameters": np.arange(p.start),
        "state": np.concatenate([np.arange(p.start, p.amount), before, nodes[early]]),
        "disturbance": nodes[~early],
        "behaviour": after,
        "structure": nodes[:0],
    }
    out = {}
    for name, varied in rows.items():
        used = drawn if name == "parameters" else drawn[: SPLIT_DRAWS // FULL_LANES]
        columns = np.repeat(refined.mean[None, :, None], used.shape[0], axis=0).repeat(FULL_LANES, axis=2)
        columns[:, varied] = used[:, varied]
        out[name] = columns
    return out
