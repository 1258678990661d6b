"""Advice in random states, absurd ones among them, with courses of a cheap person: what must hold in each of them.

No limit is ever exceeded; and in a second state beside each, which differs in one thing alone, more carbohydrate never
means less insulin, lower glucose never more, and a wider posterior never a bolder dose.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec
import numpy as np

from core.advice import HARD_MAX_CARBS_G, HARD_MAX_DOSE_U, HARD_MAX_IOB_U, Advice, Policy, Situation, advise
from core.advice_types import MIN_DRAWS

NOW_US: Final = 1_767_225_600_000_000
SEED: Final = 20261126
RISE_MGDL_PER_G: Final = 3.0
# The courses are 299 numbers, not a distribution: a wider spread of theirs moves single ones by a little.
SLACK_U: Final = 0.1
# … and where a unit lowers by a fraction of a mg/dL (absurd states), so much insulin is no more than this little.
SLACK_MGDL: Final = 0.25
ABSURD: Final = 0.2  # share of states with values that no sensor or pump can give
T = np.array([0.1, 0.3, 0.6, 0.8, 1.0, 0.9])  # six moments of the five hours are enough to rank doses by
_Z = np.random.default_rng(SEED).standard_normal((3, MIN_DRAWS, 1))
_DEVIATION = (_Z[2] - _Z[2].mean()) * T
_MEAL = np.exp(0.2 * _Z[1]) * np.minimum(1.0, 3 * T)
_LATE = T**1.5


class Cheap:
    """A person in closed form: a meal lifts, insulin lowers with a log-normal effect, all with the same draws."""

    def __init__(self, glucose: float, isf: float, spread: float, rise: float, noise: float) -> None:
        # exp(s z) with mean 1: a wider spread is then a wider posterior of the same mean.
        effect = np.exp(spread * _Z[0] - 0.5 * spread**2)
        self.effect = isf * effect / effect.mean() * _LATE
        self.meal = rise * _MEAL
        self.free = glucose + noise * _DEVIATION

    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> np.ndarray:
        """float64[draws, 6] mg/dL."""
        return self.free + carbs_g * self.meal - dose_u * self.effect


class State(NamedTuple):
    """Everything that an answer depends on."""

    glucose_mgdl: float
    iob_u: float
    trend_mgdl_per_min: float
    carbs_g: float
    isf_mgdl_per_u: float
    spread: float  # of the effect of insulin, SD of its logarithm
    noise_mgdl: float  # of the course of glucose, SD
    rules: Policy

    def ask(self) -> Advice:
        """What the adviser says."""
        free = self.glucose_mgdl if math.isfinite(self.glucose_mgdl) else 100.0
        source = Cheap(free, self.isf_mgdl_per_u, self.spread, RISE_MGDL_PER_G, self.noise_mgdl)
        now = situation(self.glucose_mgdl, self.iob_u, self.trend_mgdl_per_min)
        return advise(source, self.carbs_g, self.rules, now, "meal")


def policy(**changes: object) -> Policy:
    """The cautious defaults, ratios told."""
    return msgspec.structs.replace(
        Policy(carb_ratio_g_per_u=12.0, correction_mgdl_per_u=40.0, draws=MIN_DRAWS), **changes
    )


def situation(glucose: float, iob_u: float = 0.0, trend: float = 0.0) -> Situation:
    """A fresh reading of a twin that is well."""
    return Situation(NOW_US, glucose, trend, NOW_US, iob_u=iob_u)


class Seen(NamedTuple):
    """What became of the states. ``broken``: in words, one for each rule that did not hold."""

    given: int
    refused: int
    compared: int  # pairs of states of which at least one got a dose
    broken: tuple[str, ...]


def search(n: int, first: int = 0) -> Seen:
    """Ask in ``n`` random states, numbered from ``first`` on (each number is one state for ever), and beside each."""
    given = refused = compared = 0
    broken: list[str] = []
    for k in range(first, first + n):
        rng = np.random.default_rng((SEED, k))
        state = _state(rng)
        answer = state.ask()
        given += answer.dose_u > 0
        refused += answer.refused is not None
        wrong = broken_limits(answer, state.rules, state.iob_u)
        what, other, no_more = _beside(state, rng)
        if math.isfinite(state.glucose_mgdl):
            beside = other.ask()
            wrong += broken_limits(beside, other.rules, other.iob_u)
            # ``no_more``: the other's dose may not be the larger one; else not the smaller one.
            larger, smaller = (beside, answer) if no_more else (answer, beside)
            compared += max(answer.dose_u, beside.dose_u) > 0
            slack_u = max(SLACK_U, SLACK_MGDL / state.isf_mgdl_per_u) if what == "wider" else 1e-9
            if larger.dose_u > smaller.dose_u + slack_u:
                wrong.append(f"{what}: {answer.dose_u:g} then {beside.dose_u:g} U")
        broken += [f"state {k}: {each}" for each in wrong]
    return Seen(given, refused, compared, tuple(broken))


def _state(rng: np.random.Generator) -> State:
    absurd = rng.random() < ABSURD
    glucose = float(rng.choice([math.nan, math.inf, -50.0, 0.0, 5e3]) if absurd else rng.uniform(40, 450))
    iob_u = float(rng.choice([-5.0, 1e6, math.nan, 0.0]) if absurd else rng.gamma(1.0, 2.0))
    return State(
        glucose,
        iob_u,
        float(rng.normal(0, 1.5)),
        float(rng.uniform(0, HARD_MAX_CARBS_G)) if rng.random() < 0.5 else 0.0,
        float(10 ** rng.uniform(-1, 3)),
        float(rng.uniform(0, 1.2)),
        float(rng.uniform(0, 60)),
        policy(
            carb_ratio_g_per_u=float(10 ** rng.uniform(-0.3, 2.3)),
            correction_mgdl_per_u=float(10 ** rng.uniform(0, 3)),
            max_dose_u=float(10 ** rng.uniform(-1, 3)),
            max_iob_u=float(10 ** rng.uniform(-1, 3)),
            device_max_dose_u=float(rng.choice([25.0, 3.0])),
            dose_step_u=float(rng.choice([0.05, 0.1, 0.5, 1.0])),
        ),
    )


def _beside(state: State, rng: np.random.Generator) -> tuple[str, State, bool]:
    """A state that differs in one thing: (what, the state, whether it may not get more insulin)."""
    much = float(rng.random())
    which = int(rng.integers(4))
    if which == 0:
        return (
            "more carbs",
            state._replace(carbs_g=state.carbs_g + much * (HARD_MAX_CARBS_G - state.carbs_g)),
            False,
        )
    if which == 1:
        return "lower glucose", state._replace(glucose_mgdl=state.glucose_mgdl - 200.0 * much), True
    if which == 2:
        return "wider", state._replace(spread=state.spread + much), True
    return "wider", state._replace(noise_mgdl=state.noise_mgdl + 40.0 * much), True


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
