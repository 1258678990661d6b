"""People of a trial, lived and measured. Pure: the same job gives the same numbers on one machine, to the bit,
whatever else runs and however the people are cut into jobs."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud.trials.advised import Adviser
from cloud.trials.plan import OUTCOME_NAMES, Arm, Plan
from core import closed_loop as loop
from core.errors import HometwinError
from core.messages import Prior
from core.metrics import blood_glucose_risk, cgm_metrics
from core.units import US_PER_DAY, US_PER_MIN
from core.virtual import MealPlan, draw_life, draw_person, meal_steps

# Who the person is, before any arm: for subgroups.
BASELINE_NAMES: Final = ("weight_kg", "correction_mgdl_per_u", "basal_u_per_day_before", "counting_bias")
BODY, LIFE, ARM = range(3)  # streams of random numbers
LOW_EVENT_STEPS: Final = 3  # 15 min (consensus of 2017: a low is one of at least 15 min)


class Job(msgspec.Struct, frozen=True):
    """Some people of a plan: ``first`` … ``first + count − 1``."""

    plan: Plan
    prior: Prior | None
    first: int
    count: int


class Row(msgspec.Struct, frozen=True):
    """One person in one arm. ``values`` follow OUTCOME_NAMES, ``baseline`` BASELINE_NAMES."""

    person: int
    arm: int
    values: tuple[float, ...]
    baseline: tuple[float, ...]
    asked: int = 0  # of the adviser, warm-up included
    refused: int = 0


class SimulationError(HometwinError):
    """A simulated course ran away. It is never left out in silence."""


def run_job(job: Job) -> list[Row]:
    """Live and measure. SimulationError names the person whose course is not finite."""
    rows: list[Row] = []
    plan = job.plan
    habits = plan.population.habits
    days = plan.warmup_days + plan.days
    for number in range(job.first, job.first + job.count):
        person = draw_person(np.random.default_rng([plan.seed, number, BODY]), habits, job.prior)
        meals, life = draw_life(np.random.default_rng([plan.seed, number, LIFE]), person, habits, days)
        baseline = (
            person.weight_kg,
            person.correction_mgdl_per_u,
            person.total_basal_u,
            person.counting_bias,
        )
        arms = list(arms_of(plan, number))
        out = np.empty((len(arms), len(life), loop.N_OUT))
        eaten = np.array([_meals(plan.arms[arm], meals, len(life)) for arm in arms])
        advisers = [
            Adviser(plan.arms[arm], person, plan.seed + number) if plan.arms[arm].is_advised else None
            for arm in arms
        ]
        points, memory = np.repeat(person.start, len(arms), axis=1), np.zeros(loop.N_MEMORY)
        policy = np.array([plan.arms[arm].policy() for arm in arms])
        while (
            k := loop.live(
                points, person.consts, person.dynamics, person.therapy, policy, eaten, life, out, memory
            )
        ) < len(life):
            for adviser, plate, course in zip(advisers, eaten, out, strict=True):
                if adviser is not None and plate[k, loop.DECIDED] == loop.ASKED:
                    adviser.decide(k, plate, course)
        if not np.all(np.isfinite(out)):
            raise SimulationError(f"the course of person {number} is not finite", where="trial")
        rows += [
            Row(number, arm, measure(course, plan.warmup_days), baseline, *(adviser.count if adviser else ()))
            for arm, course, adviser in zip(arms, out, advisers, strict=True)
        ]
    return rows


def arms_of(plan: Plan, number: int) -> range | list[int]:
    """Which arms this person lives: all, or the one drawn for them in a block of as many people as arms."""
    k = len(plan.arms)
    if plan.design == "crossover":
        return range(k)
    block = np.random.default_rng([plan.seed, number // k, ARM, 1]).permutation(k)
    return [int(block[number % k])]


def _meals(arm: Arm, meals: MealPlan, n_steps: int) -> NDArray[np.float64]:
    return meal_steps(meals, n_steps, arm.bolus_earlier_min, arm.meal_shift_min, arm.meal_size_factor)


def measure(out: NDArray[np.float64], warmup_days: int) -> tuple[float, ...]:
    """The outcomes of one course, in the order of OUTCOME_NAMES. CGM measures are of what the sensor showed."""
    kept = out[warmup_days * loop.STEPS_PER_DAY :]
    n = len(kept)
    days = n / loop.STEPS_PER_DAY
    times = np.arange(n, dtype=np.int64) * int(loop.STEP_MIN * US_PER_MIN)
    cgm = kept[:, loop.O_CGM]
    metrics = cgm_metrics(times, cgm, 0, int(days * US_PER_DAY))
    lbgi, hbgi = blood_glucose_risk(cgm)
    values = {
        "in_range_pct": metrics.in_range_pct,
        "below_70_pct": metrics.low_pct + metrics.very_low_pct,
        "below_54_pct": metrics.very_low_pct,
        "above_180_pct": metrics.high_pct + metrics.very_high_pct,
        "above_250_pct": metrics.very_high_pct,
        "mean_mgdl": metrics.mean_mgdl,
        "gmi_pct": metrics.gmi_pct,
        "cv_pct": metrics.cv_pct,
        "lbgi": lbgi,
        "hbgi": hbgi,
        "lows_per_week": 7.0 * _events(kept[:, loop.O_PLASMA] < 54.0) / days,
        "rescues_per_week": 7.0 * float(np.count_nonzero(kept[:, loop.O_RESCUE])) / days,
        "bolus_u_per_day": float(kept[:, loop.O_BOLUS].sum()) / days,
        "basal_u_per_day": float(kept[:, loop.O_BASAL].sum()) * loop.STEP_MIN / 60.0 / days,
        "lowest_mgdl": float(kept[:, loop.O_PLASMA].min()),
    }
    return tuple(float(values[name]) for name in OUTCOME_NAMES)


def _events(low: NDArray[np.bool_]) -> int:
    """Runs of at least 15 min."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], low.astype(np.int8), [0]))))
    return int(np.count_nonzero(edges[1::2] - edges[::2] >= LOW_EVENT_STEPS))
