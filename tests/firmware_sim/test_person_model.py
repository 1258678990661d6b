"""The body against the numbers of its reference sheet, and against physics."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from firmware_sim.person_model import (
    AVERAGE_ADULT,
    GP,
    QG,
    QS1,
    QS2,
    Exercise,
    Inputs,
    Physiology,
    X,
    derivatives,
    draw_physiology,
    make_step,
)

S2008 = dataclasses.replace(AVERAGE_ADULT, risk_gain=0.0)


def course(body: Physiology, carbs_g: float, dose_u: float, minutes: int) -> np.ndarray:
    """Glucose (mg/dL) each minute after a meal at 5 g/min and a bolus at minute 0, basal running."""
    step, s = make_step(body), body.steady_state()
    out = np.empty(minutes)
    for m in range(minutes):
        insulin = body.basal_pmolkgmin + (dose_u * 6000.0 / body.bw if m == 0 else 0.0)
        s = step(s, Inputs(insulin, 5000.0 if m < carbs_g / 5 else 0.0, 1000.0 * carbs_g), 1.0)
        out[m] = s[GP] / body.vg
    return out


def test_basal_state_of_the_average_adult_is_steady() -> None:
    rates = derivatives(S2008, S2008.steady_state(), Inputs(S2008.basal_pmolkgmin))
    assert max(abs(r) for r in rates) < 1e-14
    assert S2008.gtb == pytest.approx(98.494, abs=0.01)
    assert S2008.vm0 == pytest.approx(5.0505, abs=0.001)
    assert S2008.kp1 == pytest.approx(4.2497, abs=0.0002)
    assert S2008.basal_uph == pytest.approx(1.239, abs=0.001)


def test_meal_of_75_g_without_bolus_peaks_at_252() -> None:
    assert course(S2008, 75, 0, 600).max() == pytest.approx(252, abs=1)


def test_meal_of_75_g_with_7_5_units_follows_the_reference() -> None:
    g = course(S2008, 75, 7.5, 600)
    assert g.max() == pytest.approx(183, abs=1)
    assert abs(int(g.argmax()) + 1 - 56) <= 1
    assert g[299] == pytest.approx(134, abs=1)
    assert g.min() == pytest.approx(98, abs=1)


def test_hypoglycaemia_risk_deepens_a_low_and_only_a_low() -> None:
    assert course(AVERAGE_ADULT, 0, 6, 400).min() < course(S2008, 0, 6, 400).min() - 1
    assert np.array_equal(course(AVERAGE_ADULT, 60, 0, 100), course(S2008, 60, 0, 100))


def test_carbohydrate_is_conserved_between_stomach_gut_and_blood() -> None:
    body, eaten_mg, absorbed_mg = S2008, 0.0, 0.0
    step, s = make_step(body), body.steady_state()
    for m in range(300):
        u = Inputs(body.basal_pmolkgmin, 5000.0 if m < 10 else 0.0, 50_000.0, gut=0.8)
        eaten_mg += u.eaten_mg
        before = s[QG]
        s = step(s, u, 1.0)
        absorbed_mg += body.kabs * 0.8 * 0.5 * (before + s[QG])  # trapezoid
    assert absorbed_mg + s[QS1] + s[QS2] + s[QG] == pytest.approx(eaten_mg, rel=1e-3)


def test_glucose_stays_positive_under_an_absurd_dose_and_finite_without_insulin() -> None:
    low = course(AVERAGE_ADULT, 0, 100, 1440)
    assert low.min() > 0
    body = AVERAGE_ADULT
    step, s = make_step(body), body.steady_state()
    for _ in range(2880):
        s = step(s, Inputs(0.0), 1.0)
    assert 200 < s[GP] / body.vg < 1200


def test_half_an_hour_of_effort_lowers_glucose_more_than_rest() -> None:
    def end(effort: bool) -> float:
        body, run = AVERAGE_ADULT, Exercise(60.0)
        step, s = make_step(body), body.steady_state()
        s[GP] *= 1.25
        for m in range(60):
            vm0, vmx, km = run.minute(50.0 if effort and m < 30 else 0.0, s[X], body.ib)
            s = step(s, Inputs(body.basal_pmolkgmin, vm0=vm0, vmx=vmx, km=km), 1.0)
        return s[GP] / body.vg

    assert 3 < end(False) - end(True) < 40


def test_step_of_one_minute_agrees_with_a_quarter_of_it() -> None:
    body = S2008
    step = make_step(body)
    coarse, fine = body.steady_state(), body.steady_state()
    for m in range(240):
        u = Inputs(body.basal_pmolkgmin * (1.5 if m < 60 else 0.8), 5000.0 if m < 12 else 0.0, 60_000.0)
        coarse = step(coarse, u, 1.0)
        for _ in range(4):
            fine = step(fine, u, 0.25)
        assert coarse[GP] == pytest.approx(fine[GP], rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_drawn_adult_has_an_exact_basal_state(seed: int) -> None:
    body = draw_physiology(np.random.default_rng(seed))
    assert max(abs(r) for r in derivatives(body, body.steady_state(), Inputs(body.basal_pmolkgmin))) < 1e-12
    assert 90 < body.gb < 150
    assert 0.4 < body.basal_uph < 2.6
