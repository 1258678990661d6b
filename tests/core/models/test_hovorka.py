"""The glucose model against its oracle, its own laws, and the reference numbers of the sheet."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from core.models import hovorka as model
from core.models import registry
from tests.oracles import hovorka as oracle

MGDL = 18.0156
CONSTS = model.make_consts(circ_ln=0.0)
PUBLISHED = model.make_consts(
    circ_ln=0.0, k_revert=0.0
)  # Hovorka's structure, as the sheet's numbers were made


def fly(
    x0: np.ndarray,
    basal_mupm: float,
    minutes: float,
    *,
    theta: tuple[float, ...] = (0.0,) * 5,
    disturbance: float = 0.0,
    hr_excess: float = 0.0,
    step_min: float = 2.5,
    consts: np.ndarray = CONSTS,
    drivers: np.ndarray | None = None,
    hour: float = 12.0,
) -> np.ndarray:
    """States float64[n, 11] after each pair of RK4 steps."""
    points = np.zeros((model.N, 1))
    points[:5, 0] = theta
    points[model.DISTURBANCE, 0] = disturbance
    points[model.N_LINEAR :, 0] = x0
    moving = np.zeros(model.N_DRIVER) if drivers is None else drivers
    held = np.array([basal_mupm, hr_excess, 70.0, hour])
    nodes, work = np.zeros((5, model.N_INPUT)), np.zeros(model.WORK_SIZE)
    out = []
    for _ in range(round(minutes / (2 * step_min))):
        model.drive(moving, held, consts, 2 * step_min, 2, nodes)
        model.sweep(points, nodes, consts, step_min, 2, work)
        held[model.LOCAL_H] = (held[model.LOCAL_H] + 2 * step_min / 60.0) % 24.0
        out.append(points[model.N_LINEAR :, 0].copy())
    return np.array(out)


def at_rest(glucose_mgdl: float = 110.0, consts: np.ndarray = CONSTS) -> tuple[float, np.ndarray]:
    basal = model.basal_from_glucose(consts, glucose_mgdl / MGDL, 0.0)
    return basal, model.steady_state(consts, basal, 0.0, 0.0, glucose_mgdl / MGDL)


def glucose_of(states: np.ndarray) -> np.ndarray:
    return states[:, model.Q1] / CONSTS[model.VG] * MGDL


def meal(x: np.ndarray, carbs_g: float) -> np.ndarray:
    out = x.copy()
    out[model.D1] += model.meal_mmol_per_kg(CONSTS, carbs_g, 0.0)
    return out


def bolus(x: np.ndarray, dose_u: float) -> np.ndarray:
    out = x.copy()
    out[model.S1] += 1000.0 * dose_u
    return out


def test_kernel_equals_the_plain_equations() -> None:
    rng = np.random.default_rng(7)
    basal, rest = at_rest()
    for _ in range(20):
        x0 = rest * np.exp(0.4 * rng.standard_normal(model.N_STATE))
        x0[model.D1], x0[model.D2] = rng.uniform(0, 3, 2)
        theta = tuple(0.3 * rng.standard_normal(5))
        d = 0.01 * rng.standard_normal()
        consts = model.make_consts(circ_ln=0.0, tau_d=1e12)  # a disturbance that stays
        mine = fly(x0, basal, 60.0, theta=theta, disturbance=d, consts=consts)[-1]
        inputs = dict(
            zip(("s", "egp", "tg", "ti"), np.exp([theta[0], theta[1], theta[2], theta[4]]), strict=True)
        )
        other = oracle.rk4(x0, oracle.W10, 2.5, 24, u=basal, d=d, **inputs)
        np.testing.assert_allclose(mine, other, rtol=1e-10, atol=1e-13)


def test_reference_numbers_of_basal_meal_and_bolus() -> None:
    basal, rest = at_rest(consts=PUBLISHED)
    assert basal * 60 / 1000 == pytest.approx(0.94, abs=0.005)
    alone = glucose_of(fly(meal(rest, 75), basal, 600, consts=PUBLISHED))
    assert alone.max() == pytest.approx(307, abs=1)
    assert 5 * (alone.argmax() + 1) == pytest.approx(111, abs=4)
    covered = glucose_of(fly(bolus(meal(rest, 75), 7.5), basal, 600, consts=PUBLISHED))
    assert covered.max() == pytest.approx(231, abs=1)
    assert covered[[35, 59, 119]] == pytest.approx([136, 88, 88], abs=1)
    assert glucose_of(fly(bolus(meal(rest, 75), 10), basal, 600, consts=PUBLISHED)).min() == pytest.approx(
        58, abs=1
    )
    unit = fly(bolus(rest, 1), basal, 600, consts=PUBLISHED)
    assert glucose_of(unit).min() - 110 == pytest.approx(-20.5, abs=0.2)
    assert 5 * (glucose_of(unit).argmin() + 1) == pytest.approx(244, abs=4)
    assert 5 * (unit[:, model.I].argmax() + 1) == pytest.approx(64, abs=4)
    stopped = glucose_of(fly(rest, 0.0, 600, consts=PUBLISHED))
    assert stopped[[47, 119]] == pytest.approx([163, 221], abs=1)


def test_glucose_holds_back_the_liver() -> None:
    """Beside the published structure: the same at rest, sooner back after a disturbance, by the rate that is set."""
    at = 110.0 / MGDL
    consts = model.make_consts(circ_ln=0.0, k_revert=0.003, g_revert=at)
    basal, rest = at_rest(consts=consts)
    assert basal == pytest.approx(at_rest(consts=PUBLISHED)[0])  # nothing pulls where the basal rate holds
    without, pulled = (glucose_of(fly(bolus(rest, 2), basal, 720, consts=c)) for c in (PUBLISHED, consts))
    assert without.min() < pulled.min() < 90.0
    assert 110.0 - pulled[-1] < 0.5 * (110.0 - without[-1])
    high = rest.copy()
    high[model.Q1] *= 2.0
    slopes = [fly(high, basal, 1.0, step_min=0.5, consts=c)[0, model.Q1] for c in (PUBLISHED, consts)]
    assert slopes[1] - slopes[0] == pytest.approx(-0.003 * rest[model.Q1], rel=0.05)


def test_steady_state_does_not_drift() -> None:
    basal, rest = at_rest()
    assert np.abs(glucose_of(fly(rest, basal, 4 * 1440)) - 110.0).max() < 1e-6


def test_exercise_lowers_glucose_as_measured_in_people() -> None:
    basal, rest = at_rest(150.0)
    moving = np.zeros(model.N_DRIVER)
    active = fly(rest, basal, 30, hr_excess=50.0, drivers=moving)
    assert 0.1 < moving[model.EX_Z] <= 1.0
    change = glucose_of(active)[-1] - 150.0
    assert -30 < change < -8  # T1DEXI aerobic: −18 ± 39


def test_dawn_raises_a_flat_basal_night() -> None:
    consts = model.make_consts(circ_ln=math.log(1.2))
    basal, rest = at_rest()
    night = glucose_of(fly(rest, basal, 600, consts=consts, hour=0.0))
    assert 118 < night.max() < 132


@settings(max_examples=60, deadline=None)
@given(
    ln_s=st.floats(-1.0, 1.5),
    ln_egp0=st.floats(-0.3, 0.3),
    glucose_mgdl=st.floats(60, 250),
)
def test_basal_and_glucose_determine_each_other(ln_s: float, ln_egp0: float, glucose_mgdl: float) -> None:
    basal = model.basal_from_glucose(CONSTS, glucose_mgdl / MGDL, ln_s, ln_egp0)
    if 0.0 < basal < 500.0:
        assert model.glucose_from_basal(CONSTS, basal, ln_s, ln_egp0) * MGDL == pytest.approx(glucose_mgdl)
        assert model.ln_s_from_fasting(CONSTS, basal, glucose_mgdl / MGDL, ln_egp0) == pytest.approx(ln_s)


@settings(max_examples=60, deadline=None)
@given(
    carbs_g=st.floats(0, 1000),
    dose_u=st.floats(0, 100),
    disturbance=st.floats(-0.3, 0.3),
    theta=st.tuples(*[st.floats(-3.0, 3.0)] * 5),
    glucose_mgdl=st.floats(20, 600),
)
def test_states_stay_finite_and_not_negative(
    carbs_g: float, dose_u: float, disturbance: float, theta: tuple[float, ...], glucose_mgdl: float
) -> None:
    x0 = bolus(meal(model.steady_state(CONSTS, 15.0, 0.0, 0.0, glucose_mgdl / MGDL), carbs_g), dose_u)
    states = fly(x0, 15.0, 300, theta=theta, disturbance=disturbance)
    assert np.isfinite(states).all()
    assert states.min() >= -1e-9


def test_gut_conserves_carbohydrate() -> None:
    _, rest = at_rest()
    x0 = meal(np.zeros(model.N_STATE), 60)
    states = fly(x0, 0.0, 600, step_min=0.5)
    absorbed = np.trapezoid(np.concatenate([[0.0], states[:, model.D2]]), dx=1.0) / CONSTS[model.TG]
    assert absorbed + states[-1, model.D1] + states[-1, model.D2] == pytest.approx(x0[model.D1], rel=1e-3)
    assert rest[model.D1] == 0.0


@pytest.mark.parametrize("product", ["degludec", "glargine", "detemir"])
def test_long_acting_dose_is_released_wholly_and_at_its_half_life(product: str) -> None:
    half_life_min = model.LONG_HALF_LIFE_H[product] * 60
    consts = model.make_consts(k_long=math.log(2) / half_life_min)
    drivers, held = np.zeros(model.N_DRIVER), np.array([0.0, 0.0, 70.0, 0.0])
    drivers[model.L1] = 20_000.0
    nodes = np.zeros((5, model.N_INPUT))
    released, rates = 0.0, []
    for _ in range(12 * 24 * 12):
        model.drive(drivers, held, consts, 5.0, 2, nodes)
        released += 5.0 * (nodes[0, 0] + 4 * nodes[2, 0] + nodes[4, 0]) / 6.0  # Simpson
        rates.append(nodes[4, 0])
    assert released + drivers[model.L1] + drivers[model.L2] == pytest.approx(20_000.0, rel=1e-6)
    late = round(1200 / 5), round((1200 + half_life_min) / 5)
    assert rates[late[1]] / rates[late[0]] == pytest.approx(0.5, abs=0.02)


def test_sensor_error_at_five_minutes_is_an_ar2_with_the_stated_variance() -> None:
    dynamics = np.tile([0.0, 11.0, 5.0], (model.N_LINEAR, 1))
    phi, noise = np.zeros((8, 8)), np.zeros((8, 8))
    model.transition(5.0, dynamics, phi, noise)
    pair = slice(model.SENSOR_SLOW, model.SENSOR + 1)
    f, q = phi[pair, pair], (noise @ noise.T)[pair, pair]
    assert np.trace(f) == pytest.approx(2 * math.exp(-5 / 11))
    assert -np.linalg.det(f) == pytest.approx(-math.exp(-10 / 11))
    stationary = np.zeros((2, 2))
    for _ in range(500):
        stationary = f @ stationary @ f.T + q
    assert stationary[1, 1] == pytest.approx(25.0)


def test_two_short_transitions_equal_one_long_one() -> None:
    dynamics = np.tile([0.0, 11.0, 5.0], (model.N_LINEAR, 1))
    dynamics[: model.N_THETA, 1] = model.PRIOR_TAU_MIN
    parts = []
    for dt in (2.0, 3.0, 5.0):
        phi, noise = np.zeros((8, 8)), np.zeros((8, 8))
        model.transition(dt, dynamics, phi, noise)
        parts.append((phi, noise @ noise.T))
    (f2, q2), (f3, q3), (f5, q5) = parts
    np.testing.assert_allclose(f3 @ f2, f5, atol=1e-14)
    np.testing.assert_allclose(f3 @ q2 @ f3.T + q3, q5, atol=1e-12)


def test_unknown_model_and_unknown_constant_name_what_there_is() -> None:
    with pytest.raises(InputError, match="glucose"):
        registry.find("nothing")
    with pytest.raises(InputError, match="wings"):
        model.make_consts(wings=2.0)
