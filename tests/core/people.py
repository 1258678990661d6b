"""A simulated person for tests of the twin: the model itself, with noise, meals and a pump."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from core.messages import Sample
from core.models import hovorka as model

MIN_US = 60_000_000
DAY_US = 86_400_000_000
START_US = 1_700_006_400_000_000 // DAY_US * DAY_US  # midnight UTC


class Life(NamedTuple):
    """Samples in time order, and the plasma glucose (mg/dL) at each 5 min that nobody sees."""

    samples: list[Sample]
    truth: np.ndarray
    interstitial: np.ndarray  # the same of what a sensor without error would show


def live(
    days: float,
    seed: int = 0,
    *,
    sensitivity: float = 1.6,
    meal_error: float = 0.2,
    disturbance: float = 0.010,
    dose_factor: float = 1.0,
    from_day: float = 0.0,
    steps: tuple[tuple[float, float], ...] = (),
) -> Life:
    """A person of 75 kg with steady habits and an unsteady body.

    The same seed gives the same meals, disturbance and sensor; ``dose_factor`` changes the boluses from a day on.
    steps: (day, factor of sensitivity) that nobody tells of. disturbance: its stationary SD, mmol/kg/min.
    """
    rng = np.random.default_rng(seed)
    consts = model.make_consts(g_revert=6.7)
    ln_s = np.log(sensitivity)
    basal = model.basal_from_glucose(consts, 6.7, ln_s)
    points = np.zeros((model.N, 1))
    points[model.LN_S] = ln_s
    points[model.N_LINEAR :, 0] = model.steady_state(consts, basal, ln_s, 0.0, 6.7)
    dynamics = np.tile([0.0, 60.0, 0.0], (model.N_LINEAR, 1))
    dynamics[model.SENSOR_SLOW : model.SENSOR + 1] = (0.0, 11.0, 5.0)
    dynamics[model.DISTURBANCE] = (0.0, 30.0, disturbance)
    drivers, held = np.zeros(4), np.array([basal, 0.0, 70.0, 0.0])
    nodes, work = np.zeros((5, model.N_INPUT)), np.zeros(model.WORK_SIZE)
    phi, noise = np.zeros((8, 8)), np.zeros((8, 8))
    model.transition(5.0, dynamics, phi, noise)
    samples = [Sample(START_US, "basal_uph", basal * 0.06, "pump", 0)]
    truth = []
    interstitial = []
    seq = 0
    for step in range(round(days * 288)):
        time_us = START_US + step * 5 * MIN_US
        minute = step * 5 % 1440
        if minute in (7 * 60 + 30, 12 * 60 + 45, 18 * 60 + 30):
            carbs = float(rng.choice([30, 45, 60, 75]))
            dose = carbs / 12.0
            if step >= from_day * 288:
                dose *= dose_factor
            seq += 1
            samples.append(Sample(time_us, "carbs_g", carbs, "meter", seq))
            samples.append(Sample(time_us, "bolus_u", dose, "pump", seq))
            eaten = carbs * max(0.2, 1 + meal_error * rng.standard_normal())
            points[model.N_LINEAR + model.D1] += model.meal_mmol_per_kg(consts, eaten, 0.0)
            points[model.N_LINEAR + model.S1] += 1000.0 * dose
        held[model.LOCAL_H] = minute / 60.0
        model.drive(drivers, held, consts, 5.0, 2, nodes)
        model.sweep(points, nodes, consts, 2.5, 2, work)
        shock = noise @ rng.standard_normal(8)
        keep = points[model.LN_S, 0]
        points[: model.N_LINEAR, 0] = phi @ points[: model.N_LINEAR, 0] + shock
        points[model.LN_S] = keep
        for day, factor in steps:
            if step == round(day * 288):
                points[model.LN_S] += np.log(factor)
        truth.append(points[model.N_LINEAR + model.Q1, 0] / consts[model.VG] * 18.0156)
        interstitial.append(points[model.N_LINEAR + model.C, 0] * 18.0156)
        reading = float(np.clip(model.observe(points, 0), 40.0, 400.0))
        samples.append(
            Sample(time_us + 5 * MIN_US, "cgm_mgdl", reading, "cgm", (time_us + 5 * MIN_US) // MIN_US)
        )
    return Life(samples, np.array(truth), np.array(interstitial))


def recordings() -> Path:
    """Folder of the real recordings; skips where there are none, fails in continuous integration."""
    root = Path(__file__).parents[2]
    folder = Path(os.environ.get("HOMETWIN_DATA", root / ".." / "shared" / "data")) / "t1d_uom"
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail("recordings are missing: set HOMETWIN_DATA")
        pytest.skip("recordings are not on this machine")
    return folder
