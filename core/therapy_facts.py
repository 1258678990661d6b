"""What the prescription says of a person's body: correction factor and carbohydrate ratio, as observations.

A correction factor in use is somebody's measurement of how far one unit lowers glucose, a carbohydrate ratio of
how much food one unit covers. They were found by trial over months, rounded, and set with caution, so they count
as observations with a stated error, never as truth (MODELS A: sensitivity, glucose production and meals cannot be
told apart from readings alone).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from core.models import hovorka as model
from core.models.hovorka import Array
from core.patient import Therapy
from core.units import MGDL_PER_MMOLL, mmoll_from_mgdl

LN_SD_CORRECTION: Final = 0.30
LN_SD_RATIO: Final = 0.25
TEST_MGDL: Final = 140.0  # glucose at rest before the test dose
TEST_U: Final = 1.0
TEST_G: Final = 10.0
TEST_MIN: Final = 300.0
STEP_MIN: Final = 5.0
SMALLEST: Final = 1e-3


class Fact(NamedTuple):
    """``kind``: correction (mg/dL per U) or ratio (g per U)."""

    kind: str
    ln_value: float
    ln_sd: float


def facts_of(therapy: Therapy) -> tuple[Fact, ...]:
    """What the patient file states."""
    found = []
    if therapy.correction_mgdl_per_u is not None:
        found.append(Fact("correction", math.log(therapy.correction_mgdl_per_u), LN_SD_CORRECTION))
    if therapy.carb_ratio_g_per_u is not None:
        found.append(Fact("ratio", math.log(therapy.carb_ratio_g_per_u), LN_SD_RATIO))
    return tuple(found)


def predicted_facts(facts: Sequence[Fact], consts: Array, theta: Array) -> Array:
    """ln of what the model with ``consts`` and ``theta`` float64[N_THETA] would have the facts be."""
    if not facts:
        return np.zeros(0)
    fall, rise = probe(consts, theta)
    correction = max(float(fall.max()), SMALLEST)
    ratio = max(float(fall.sum()), SMALLEST) / max(float(rise.sum()), SMALLEST)
    values = {"correction": math.log(correction), "ratio": math.log(ratio)}
    return np.array([values[fact.kind] for fact in facts])


def probe(consts: Array, theta: Array) -> tuple[Array, Array]:
    """Fall (mg/dL per U) and rise (mg/dL per g) of interstitial glucose every 5 min for 5 h, from rest."""
    glucose = mmoll_from_mgdl(TEST_MGDL)
    ln_s, ln_egp0 = float(theta[model.LN_S]), float(theta[model.LN_EGP0])
    basal = _basal(consts, glucose, ln_s, ln_egp0)
    points = np.zeros((model.N, 3))
    points[: model.N_THETA] = theta[:, None]
    rest = model.steady_state(consts, basal, ln_s, float(theta[model.LN_TI]), glucose)
    points[model.N_LINEAR :] = rest[:, None]
    points[model.N_LINEAR + model.S1, 1] += 1000.0 * TEST_U
    points[model.N_LINEAR + model.D1, 2] += model.meal_mmol_per_kg(consts, TEST_G, float(theta[model.LN_AG]))
    nodes = np.zeros((3, model.N_INPUT))
    nodes[:, model.U_INSULIN] = basal
    nodes[:, model.U_SENS] = 1.0
    work = np.zeros(model.WORK_SIZE)
    n = int(TEST_MIN / STEP_MIN)
    course = np.zeros((n, 3))
    for k in range(n):
        model.sweep(points, nodes, consts, STEP_MIN, 1, work)
        course[k] = MGDL_PER_MMOLL * points[model.N_LINEAR + model.C]
    return (course[:, 0] - course[:, 1]) / TEST_U, (course[:, 2] - course[:, 0]) / TEST_G


def _basal(consts: Array, glucose_mmoll: float, ln_s: float, ln_egp0: float) -> float:
    """As ``model.basal_from_glucose``, to 1e-9 of its range: this is asked hundreds of times."""
    per_rate = model.plasma_insulin(consts, 1.0)
    low, high = 0.0, 300.0
    for _ in range(34):
        middle = 0.5 * (low + high)
        if model.imbalance(consts, middle * per_rate, glucose_mmoll, ln_s, ln_egp0) > 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
