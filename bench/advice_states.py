"""Advice in random states, absurd ones among them, with courses of a cheap person: no limit may ever be exceeded."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec
import numpy as np

from core.advice import HARD_MAX_DOSE_U, HARD_MAX_IOB_U, Advice, Policy, Situation, advise
from core.chance import MIN_DRAWS

NOW_US: Final = 1_767_225_600_000_000
SEED: Final = 20261126
T = np.array([0.1, 0.3, 0.6, 0.8, 1.0, 0.9])  # six moments of the five hours are enough to rank doses by
_Z = np.random.default_rng(SEED).standard_normal((3, MIN_DRAWS, 1))


class Cheap:
    """A person in closed form: a meal lifts, insulin lowers with a log-normal effect, all with the same draws."""

    def __init__(self, glucose: float, isf: float, spread: float, rise: float, noise: float) -> None:
        # exp(s z) with mean 1: a wider spread is then a wider posterior of the same mean.
        effect = np.exp(spread * _Z[0] - 0.5 * spread**2)
        self.effect = isf * effect / effect.mean() * T**1.5
        self.meal = rise * np.exp(0.2 * _Z[1]) * np.minimum(1.0, 3 * T)
        deviation = _Z[2] - _Z[2].mean()
        self.free = glucose + noise * deviation * T

    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> np.ndarray:
        return self.free + carbs_g * self.meal - dose_u * self.effect


def policy(**changes: object) -> Policy:
    return msgspec.structs.replace(
        Policy(carb_ratio_g_per_u=12.0, correction_mgdl_per_u=40.0, draws=MIN_DRAWS), **changes
    )


def situation(glucose: float, iob_u: float = 0.0, trend: float = 0.0) -> Situation:
    return Situation(NOW_US, glucose, trend, NOW_US, iob_u=iob_u)


class Seen(NamedTuple):
    """What became of the states. ``broken``: in words, one for each limit that did not hold."""

    given: int
    refused: int
    broken: tuple[str, ...]


def search(n: int) -> Seen:
    """Ask in ``n`` random states."""
    rng = np.random.default_rng(SEED)
    given = refused = 0
    broken: list[str] = []
    for k in range(n):
        absurd = rng.random() < 0.2
        glucose = float(rng.choice([math.nan, math.inf, -50.0, 0.0, 5e3]) if absurd else rng.uniform(40, 450))
        iob_u = float(rng.choice([-5.0, 1e6, math.nan, 0.0]) if absurd else rng.gamma(1.0, 2.0))
        spread, noise = float(rng.uniform(0, 1.2)), float(rng.uniform(0, 60))
        isf = float(10 ** rng.uniform(-1, 3))
        rules = policy(
            carb_ratio_g_per_u=float(10 ** rng.uniform(-1, 2.5)),
            correction_mgdl_per_u=float(10 ** rng.uniform(0, 3)),
            max_dose_u=float(10 ** rng.uniform(-1, 3)),
            max_iob_u=float(10 ** rng.uniform(-1, 3)),
            device_max_dose_u=float(rng.choice([25.0, 3.0])),
            dose_step_u=float(rng.choice([0.05, 0.1, 0.5, 1.0])),
        )
        carbs_g = float(rng.choice([0.0, rng.uniform(0, 300)]))
        source = Cheap(glucose if math.isfinite(glucose) else 100.0, isf, spread, 3.0, noise)
        answer = advise(source, carbs_g, rules, situation(glucose, iob_u, float(rng.normal(0, 1.5))))
        given += answer.dose_u > 0
        refused += answer.refused is not None
        broken += [f"state {k}: {what}" for what in broken_limits(answer, rules, iob_u)]
    return Seen(given, refused, tuple(broken))


def broken_limits(answer: Advice, rules: Policy, iob_u: float) -> list[str]:
    """Which limits this answer does not keep."""
    hair = 1e-9
    held = {
        "largest dose": 0
        <= answer.dose_u
        <= min(rules.max_dose_u, rules.device_max_dose_u, HARD_MAX_DOSE_U) + hair
    }
    if answer.dose_u > 0:
        room = min(rules.max_iob_u, HARD_MAX_IOB_U) + hair
        held["not refused"] = answer.refused is None
        held["insulin on board"] = answer.dose_u + max(iob_u, 0.0) <= room
        held["chance below 70"] = answer.p_below_70_bound <= rules.max_p_below_70
        held["chance below 54"] = answer.p_below_54_bound <= rules.max_p_below_54
        held["calculator"] = answer.dose_u <= rules.max_over_calculator * answer.calculator_u + hair
    return [name for name, kept in held.items() if not kept]
