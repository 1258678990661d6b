"""What must hold for advice whatever the person: random states, absurd ones among them.

Courses come from a cheap person, not from the twin: what is tested is the adviser, and the same properties on
the twin itself stand in test_advise_twin.py.
"""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest

from bench.advice_states import SEED, Cheap, broken_limits, policy, search, situation
from core.advice import advise

N_STATES = 2000  # 100,000 belong to `python -m bench advice`; here a part of them


@pytest.mark.timeout(600)
def test_limits_and_orderings_hold_in_any_state() -> None:
    seen = search(N_STATES)
    assert seen.broken == ()
    # The property would be empty if hardly anything were advised, or all of it.
    assert seen.given > 0.1 * N_STATES
    assert seen.refused > 0.1 * N_STATES
    assert seen.compared > 0.2 * N_STATES


def test_the_search_sees_a_limit_that_is_broken() -> None:
    rules = policy(max_dose_u=3.0)
    answer = advise(Cheap(200.0, 40.0, 0.1, 3.0, 5.0), 60.0, rules, situation(200.0))
    assert answer.dose_u > 1
    assert broken_limits(answer, rules, 0.0) == []
    assert broken_limits(answer, policy(max_dose_u=answer.dose_u / 2), 0.0) == ["largest dose"]
    assert broken_limits(answer, policy(max_iob_u=answer.dose_u), 1.0) == ["insulin on board"]
    assert "chance below 70" in broken_limits(
        msgspec.structs.replace(answer, p_below_70_bound=0.06), rules, 0.0
    )


def test_the_search_sees_an_adviser_that_turns_an_ordering_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def against(*args: object) -> object:
        answer = advise(*args)  # type: ignore[arg-type]
        return msgspec.structs.replace(answer, dose_u=1.0 if answer.dose_u == 0 else 0.0)

    monkeypatch.setattr("bench.advice_states.advise", against)
    told = "\n".join(search(200).broken)
    for what in ("more carbs", "lower glucose", "wider"):
        assert f": {what}: " in told


@pytest.mark.parametrize("seed", range(2))
def test_more_carbohydrate_never_means_less_insulin(seed: int) -> None:
    rng = np.random.default_rng((SEED, seed))
    for _ in range(25):
        glucose, iob_u = float(rng.uniform(71, 350)), float(rng.gamma(1.0, 1.5))
        source = Cheap(
            glucose, float(rng.uniform(10, 150)), float(rng.uniform(0, 1)), 3.0, float(rng.uniform(2, 50))
        )
        rules = policy(carb_ratio_g_per_u=float(rng.uniform(4, 30)))
        meals = np.sort(rng.uniform(0, 200, 6))
        doses = [advise(source, float(c), rules, situation(glucose, iob_u), "meal").dose_u for c in meals]
        assert doses == sorted(doses), (glucose, iob_u, rules.carb_ratio_g_per_u, meals)


@pytest.mark.parametrize("seed", range(2))
def test_lower_glucose_never_means_more_insulin(seed: int) -> None:
    rng = np.random.default_rng((SEED, 10 + seed))
    for _ in range(25):
        isf, spread, noise = float(rng.uniform(10, 150)), float(rng.uniform(0, 1)), float(rng.uniform(2, 50))
        carbs_g = float(rng.choice([0.0, rng.uniform(5, 120)]))
        levels = np.sort(rng.uniform(71, 400, 6))
        doses = [
            advise(
                Cheap(float(g), isf, spread, 3.0, noise), carbs_g, policy(), situation(float(g)), "meal"
            ).dose_u
            for g in levels
        ]
        assert doses == sorted(doses), (isf, spread, noise, carbs_g, levels)


@pytest.mark.parametrize("what", ["effect of insulin", "course of glucose"])
def test_a_wider_posterior_never_means_a_bolder_dose(what: str) -> None:
    rng = np.random.default_rng((SEED, 20))
    seen = set()
    for _ in range(40):
        glucose, isf = float(rng.uniform(90, 350)), float(rng.uniform(15, 100))
        carbs_g = float(rng.uniform(0, 120))
        widths = np.sort(rng.uniform(0, 1, 4))
        doses = []
        for width in widths:
            spread, noise = (float(width), 15.0) if what == "effect of insulin" else (0.2, 60 * float(width))
            source = Cheap(glucose, isf, spread, 3.0, noise)
            doses.append(advise(source, carbs_g, policy(), situation(glucose), "meal").dose_u)
        # A step of slack: the shared draws are 299 numbers, not a distribution.
        assert all(b <= a + 0.1 + 1e-9 for a, b in itertools.pairwise(doses)), (glucose, isf, doses)
        seen.add(tuple(doses))
    assert len(seen) > 20


def test_the_dose_moves_smoothly_with_carbohydrate() -> None:
    source = Cheap(140.0, 40.0, 0.25, 3.0, 12.0)
    doses = [
        advise(source, c, policy(dose_step_u=0.05), situation(140.0), "meal").dose_u for c in range(0, 121, 2)
    ]
    jumps = np.diff(doses)
    # 2 g are a sixth of a unit by the ratio; the constraint counts courses, which come in whole numbers.
    assert jumps.max() <= 0.5
