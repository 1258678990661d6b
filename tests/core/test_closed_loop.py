"""The simulated life: rest stays rest, each policy acts as it says, and the plain model gives the same course."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from core import closed_loop as loop
from core.advice import iob_fraction
from core.errors import InputError
from core.jit import JIT_DISABLED
from core.messages import Prior
from core.models import hovorka as model
from core.virtual import Habits, MealPlan, draw_life, draw_person, meal_steps
from tests.oracles import hovorka as oracle

STEPS = 36 if JIT_DISABLED else 288


def rest(n: int = STEPS, glucose_mgdl: float = 120.0) -> dict[str, np.ndarray]:
    """A body at rest on a flat basal rate, no noise, no dawn, nothing eaten, nobody who corrects or rescues."""
    consts = model.make_consts(circ_ln=0.0)
    basal = model.basal_from_glucose(consts, glucose_mgdl / 18.0156, 0.6)
    points = np.zeros((model.N, 1))
    points[model.LN_S] = 0.6
    points[model.N_LINEAR :, 0] = model.steady_state(consts, basal, 0.6, 0.0, glucose_mgdl / 18.0156)
    dynamics = np.tile([0.0, 720.0, 0.0], (model.N_LINEAR, 1))
    dynamics[model.LN_S, 0] = 0.6
    therapy = np.ones((3, 24)) * np.array([[basal * 0.06], [10.0], [40.0]])
    return {
        "points": points,
        "consts": consts,
        "dynamics": dynamics,
        "therapy": therapy,
        "policy": loop.usual_policy()[None],
        "meals": no_meals(1, n),
        "life": np.zeros((n, loop.N_LIFE)),
        "out": np.zeros((1, n, loop.N_OUT)),
        "memory": np.zeros(loop.N_MEMORY),
    }


def no_meals(n_arms: int, n_steps: int) -> np.ndarray:
    meals = np.zeros((n_arms, n_steps, loop.N_MEAL))
    meals[:, :, loop.DECIDED] = loop.NOBODY
    return meals


def run(parts: dict[str, np.ndarray]) -> np.ndarray:
    loop.live(*parts.values())
    return parts["out"][0]


def test_rest_stays_rest() -> None:
    out = run(rest())
    # Basal comes in pulses of five minutes, so rest is not quite still: 0.01 mg/dL.
    np.testing.assert_allclose(out[:, loop.O_PLASMA], 120.0, atol=0.01)
    np.testing.assert_allclose(out[:, loop.O_CGM], 120.0, atol=0.01)
    assert not out[:, loop.O_BOLUS].any()


def test_a_meal_and_its_bolus_give_the_course_of_the_plain_model() -> None:
    parts = rest(36)
    parts["meals"][0, 3, : loop.DECIDED] = (60.0, 60.0)
    out = run(parts)
    # 60 g / 10 + (120 − 110) / 40 is a hair under 6.25 U: given in steps of .05, never rounded up.
    assert out[3, loop.O_BOLUS] == pytest.approx(6.2)
    start = rest(36)["points"][model.N_LINEAR :, 0]
    state = {name: start[k] for k, name in enumerate(oracle.STATES)}
    x = np.array(list(state.values()))
    pulse = parts["therapy"][0, 0] * 1000 / 12
    course = []
    for k in range(36):
        if k == 3:
            x[0] += 6200.0
            x[8] += 0.8 * 60.0 * 1000 / 180.156 / 75.0
        course.append(18.0156 * x[6] / 0.16)
        x[0] += pulse if k else 0.5 * pulse
        x = oracle.rk4(x, oracle.W10, 0.5, 10, u=0.0, s=math.exp(0.6))
    ours = out[1:, loop.O_PLASMA]
    np.testing.assert_allclose(ours, course[1:], atol=0.02)


def test_insulin_on_board_counts_against_a_correction_and_limits_hold() -> None:
    parts = rest(36, 260.0)
    parts["life"][:, loop.L_CORRECT_CHANCE] = 1.0
    parts["policy"][0, loop.CORRECT_ABOVE_MGDL] = 200.0
    parts["meals"][0, 0, loop.COUNTED] = 20.0
    out = run(parts)
    first = out[0, loop.O_BOLUS]
    assert first == pytest.approx(math.floor((2.0 + 150.0 / 40.0) / 0.05 + 1e-9) * 0.05)
    again = np.flatnonzero(out[1:, loop.O_BOLUS]) + 1
    assert again.size == 0 or again[0] >= loop.CORRECTION_WAIT
    if again.size:
        k = int(again[0])
        need = (out[k, loop.O_CGM] - 110.0) / 40.0 - first * iob_fraction(5.0 * k)
        assert out[k, loop.O_BOLUS] == pytest.approx(need, abs=0.051)
    parts = rest(3, 260.0)
    parts["meals"][0, 0, loop.COUNTED] = 300.0
    parts["meals"][0, 1, loop.COUNTED] = 300.0
    parts["policy"][0, loop.MAX_BOLUS_U] = 10.0
    parts["policy"][0, loop.MAX_IOB_U] = 12.0
    out = run(parts)
    assert out[0, loop.O_BOLUS] == pytest.approx(10.0)
    assert out[1, loop.O_BOLUS] == pytest.approx(2.0, abs=0.06)


def test_low_glucose_gets_sugar_and_no_basal_when_the_policy_says_so() -> None:
    parts = rest(12, 66.0)
    parts["life"][:, loop.L_RESCUE_BELOW] = 70.0
    parts["life"][:, loop.L_RESCUE_CHANCE] = 1.0
    parts["policy"][0, loop.SUSPEND_BELOW_MGDL] = 80.0
    out = run(parts)
    given = np.flatnonzero(out[:, loop.O_RESCUE])
    assert given[0] == 0
    assert np.all(np.diff(given) >= loop.RESCUE_WAIT)
    assert out[0, loop.O_BASAL] == 0.0


def test_factors_scale_doses() -> None:
    parts = rest(2)
    parts["meals"][0, 0, loop.COUNTED] = 60.0
    parts["policy"][0][[loop.BASAL_FACTOR, loop.RATIO_FACTOR, loop.CORRECTION_FACTOR]] = (0.5, 2.0, 0.5)
    out = run(parts)
    assert out[0, loop.O_BOLUS] == pytest.approx(60 / 20 + 10 / 20)
    assert out[0, loop.O_BASAL] == pytest.approx(0.5 * parts["therapy"][0, 0])


def test_arms_side_by_side_live_as_each_would_alone() -> None:
    policies = np.array([loop.usual_policy()] * 6)
    policies[1:, loop.BASAL_FACTOR] = (0.5, 0.8, 1.2, 1.5, 2.0)
    rng = np.random.default_rng(4)
    life = rng.random((STEPS, loop.N_LIFE))

    def courses(rows: slice) -> np.ndarray:
        parts = rest()
        n = len(policies[rows])
        parts["points"] = np.repeat(parts["points"], n, axis=1)
        parts["dynamics"][model.DISTURBANCE] = (0.0, 30.0, 0.01)
        parts["policy"], parts["life"] = policies[rows], life
        parts["meals"] = no_meals(n, STEPS)
        parts["meals"][:, 20, : loop.DECIDED] = (60.0, 55.0)
        parts["out"] = np.zeros((n, STEPS, loop.N_OUT))
        run(parts)
        return parts["out"]

    together = courses(slice(None))
    assert np.ptp(together[:, -1, loop.O_PLASMA]) > 0.1
    for k in range(6):
        assert np.array_equal(together[k], courses(slice(k, k + 1))[0])


def test_people_are_drawn_by_number_alone_and_look_like_people() -> None:
    habits = Habits()
    people = [draw_person(np.random.default_rng([5, k]), habits) for k in range(4 if JIT_DISABLED else 30)]
    again = draw_person(np.random.default_rng([5, 2]), habits)
    assert np.array_equal(people[2].therapy, again.therapy)
    for person in people:
        assert 45 <= person.weight_kg <= 130
        assert np.all((person.therapy[loop.T_BASAL] > 0) & (person.therapy[loop.T_BASAL] < 8))
        assert np.all(person.start[model.N_LINEAR :] >= 0)
    meals, life = draw_life(np.random.default_rng([5, 2]), again, habits, 3)
    assert life.shape == (3 * 288, loop.N_LIFE)
    assert 6 <= len(meals.rows) <= 18
    longer, _ = draw_life(np.random.default_rng([5, 2]), again, habits, 4)
    assert np.array_equal(longer.rows[: len(meals.rows)], meals.rows)


def test_a_prior_moves_the_people() -> None:
    names = ("ln_s", "ln_egp0", "ln_tg", "ln_ag", "ln_ti")
    sd = (0.1, 0.05, 0.1, 0.1, 0.1)
    triangle = [sd[i] ** 2 if i == j else 0.0 for i in range(5) for j in range(i + 1)]
    prior = Prior(1, "glucose/1", names, (0.8, 0.0, 0.0, 0.0, 0.0), tuple(triangle), "s", "test", 0)
    thetas = [
        draw_person(np.random.default_rng([6, k]), Habits(), prior).dynamics[model.LN_S, 0]
        for k in range(3 if JIT_DISABLED else 20)
    ]
    assert np.mean(thetas) == pytest.approx(0.8, abs=0.15)


def test_meals_move_and_grow_with_the_arm() -> None:
    plan = MealPlan(np.array([[10.0, 50.0, 40.0, 10.0], [20.0, 30.0, 0.0, 5.0]]))
    steps = meal_steps(plan, 40, extra_lead_min=5.0, shift_min=15.0, size=2.0)
    assert steps[13, loop.EATEN] == 100.0
    assert steps[10, loop.COUNTED] == 80.0
    assert steps[23, loop.EATEN] == 60.0
    assert steps[:, loop.COUNTED].sum() == 80.0


def test_impossible_habits_are_refused() -> None:
    with pytest.raises(InputError, match=r"habits\.meal_size_cv"):
        Habits(meal_size_cv=-1.0)


def lived(advised: bool, doses: float | None = None) -> tuple[np.ndarray, list[int], dict[str, np.ndarray]]:
    """A restless day with meals and corrections; where a dose is asked for, ``doses`` or (None) the calculator's."""
    rng = np.random.default_rng(8)
    parts = rest(n=max(STEPS, 60), glucose_mgdl=190.0)
    n = parts["life"].shape[0]
    parts["dynamics"][model.DISTURBANCE] = (0.0, 30.0, 0.01)
    parts["life"][:, loop.L_DRAW_RESCUE :] = rng.random((n, loop.N_LIFE - loop.L_DRAW_RESCUE))
    parts["life"][:, loop.L_CORRECT_CHANCE] = 0.5
    parts["life"][:, loop.L_HEART] = 40.0 * (np.arange(n) % 30 < 6)
    parts["meals"][0, 5::70, : loop.DECIDED] = (60.0, 55.0)
    parts["policy"][0, loop.CORRECT_ABOVE_MGDL] = 180.0
    parts["policy"][0, loop.ADVISED] = float(advised)
    asked = []
    while (k := loop.live(*parts.values())) < n:
        assert not parts["out"][0, k, loop.O_BOLUS :].any()  # nothing of this step has happened yet
        assert parts["out"][0, k, loop.O_CGM] > 0
        assert parts["meals"][0, k, loop.DECIDED] == loop.ASKED
        parts["meals"][0, k, loop.DECIDED] = loop.CALCULATOR if doses is None else doses
        asked.append(k)
    return parts["out"][0], asked, parts


def test_an_advised_life_in_which_the_calculator_stands_in_is_the_calculators_life_to_the_bit() -> None:
    own, none_asked, _ = lived(advised=False)
    advised, asked, parts = lived(advised=True)
    assert none_asked == []
    assert np.array_equal(own, advised)
    given = np.flatnonzero(own[:, loop.O_BOLUS])
    assert set(given) <= set(asked)
    assert set(np.flatnonzero(parts["meals"][0, :, loop.COUNTED])) <= set(asked)
    assert len(asked) > len(np.flatnonzero(parts["meals"][0, :, loop.COUNTED]))  # corrections too


def test_doses_decided_from_outside_are_given_and_no_others() -> None:
    out, asked, _ = lived(advised=True, doses=1.25)
    given = np.flatnonzero(out[:, loop.O_BOLUS])
    assert given.tolist() == asked
    assert set(out[given, loop.O_BOLUS].tolist()) == {1.25}
    corrections = [k for k in asked if k % 70 != 5]
    assert all(b - a >= loop.CORRECTION_WAIT for a, b in itertools.pairwise(asked) if b in corrections)
    nothing, again, _ = lived(advised=True, doses=0.0)
    assert not nothing[:, loop.O_BOLUS].any()
    assert len(again) > len(asked)  # who got nothing asks again
