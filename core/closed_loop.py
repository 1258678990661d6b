"""A life of the glucose model under a therapy: meals, boluses by calculator, corrections, rescue sugar, a sensor.

One call is one person for some days under one policy, in steps of five minutes (two RK4 steps each). All
randomness comes in as numbers drawn beforehand, so the same life can be lived under every policy: a difference
between two policies is then an effect of the policy, not of luck.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from core.advice import iob_fraction
from core.jit import jit
from core.models import hovorka as model
from core.models.hovorka import (
    AG,
    BASAL,
    BW,
    D1,
    HR_EXCESS,
    HR_REST,
    LN_AG,
    LOCAL_H,
    MMOL_PER_G,
    N_INPUT,
    N_LINEAR,
    Q1,
    S1,
    SENSOR,
    VG,
    C,
    drive,
    sweep_one,
    transition,
)
from core.units import MGDL_PER_MMOLL

STEP_MIN: Final = 5.0
STEPS_PER_DAY: Final = 288
CGM_LOW_MGDL: Final = 40.0
CGM_HIGH_MGDL: Final = 400.0
RESCUE_G: Final = 15.0  # ADA: 15 g of fast carbohydrate, look again after 15 min
RESCUE_WAIT: Final = 4  # steps
CORRECTION_WAIT: Final = 30  # steps; the last bolus has mostly acted
IOB_STEPS: Final = 75  # 375 min: the curve of core.advice has ended
IOB_CURVE: Final = np.array([iob_fraction(k * STEP_MIN) for k in range(IOB_STEPS)])

# Policy: what an arm of a trial may change. Factors of 1 and the person's own settings are usual care.
(
    BASAL_FACTOR,
    RATIO_FACTOR,
    CORRECTION_FACTOR,
    TARGET_MGDL,
    CORRECT_ABOVE_MGDL,
    SUSPEND_BELOW_MGDL,
    MAX_BOLUS_U,
    MAX_IOB_U,
    DOSE_STEP_U,
) = range(9)
N_POLICY: Final = 9

# Therapy rows, one value per local hour: basal in U/h, grams per unit, mg/dL per unit.
T_BASAL, T_RATIO, T_CORRECTION = range(3)

# Meals, per step: grams eaten, grams for which a bolus is asked now (0: none).
EATEN, COUNTED = range(2)

# Life, per step: heart rate above rest, awake (0/1), two uniform draws, and normal draws for the linear block and
# the sensor's white noise.
(
    L_HEART,
    L_RESCUE_BELOW,
    L_RESCUE_CHANCE,
    L_CORRECT_CHANCE,
    L_DRAW_RESCUE,
    L_DRAW_CORRECT,
    L_WHITE,
    L_NORMAL,
) = range(8)
N_LIFE: Final = L_NORMAL + N_LINEAR

# What comes out, per step.
O_PLASMA, O_CGM, O_BOLUS, O_RESCUE, O_BASAL = range(5)
N_OUT: Final = 5


@jit
def live(
    points: Any, consts: Any, dynamics: Any, therapy: Any, policy: Any, meals: Any, life: Any, out: Any
) -> None:
    """Live ``len(life)`` steps from local midnight; fills ``out`` float64[n_steps, 5].

    points: float64[N, 1], where the person starts; moved in place. consts, dynamics: of core.models.hovorka.
    therapy: float64[3, 24]. policy: float64[9]. meals: float64[n_steps, 2]. life: float64[n_steps, 15].
    out: plasma and CGM glucose (mg/dL) at the start of each step, then bolus (U), rescue sugar (g) and basal
    (U/h) given in it.
    """
    drivers = np.zeros(4)
    held = np.zeros(4)
    held[HR_REST] = 65.0
    nodes = np.zeros((5, N_INPUT))
    work = np.zeros(model.WORK_SIZE)
    phi = np.zeros((N_LINEAR, N_LINEAR))
    noise = np.zeros((N_LINEAR, N_LINEAR))
    before = np.zeros(N_LINEAR)
    transition(STEP_MIN, dynamics, phi, noise)
    since_rescue = RESCUE_WAIT
    since_bolus = CORRECTION_WAIT
    for k in range(life.shape[0]):
        hour_exact = (k % STEPS_PER_DAY) * STEP_MIN / 60.0
        hour = int(hour_exact)
        cgm = MGDL_PER_MMOLL * points[N_LINEAR + C, 0] + points[SENSOR, 0] + life[k, L_WHITE]
        cgm = min(max(cgm, CGM_LOW_MGDL), CGM_HIGH_MGDL)
        out[k, O_PLASMA] = MGDL_PER_MMOLL * points[N_LINEAR + Q1, 0] / consts[VG]
        out[k, O_CGM] = cgm

        eaten = meals[k, EATEN]
        rescue = 0.0
        felt = cgm < life[k, L_RESCUE_BELOW] and since_rescue >= RESCUE_WAIT
        if felt and life[k, L_DRAW_RESCUE] < life[k, L_RESCUE_CHANCE]:
            rescue = RESCUE_G
            since_rescue = 0
        out[k, O_RESCUE] = rescue

        counted = meals[k, COUNTED]
        correcting = (
            cgm > policy[CORRECT_ABOVE_MGDL]
            and since_bolus >= CORRECTION_WAIT
            and life[k, L_DRAW_CORRECT] < life[k, L_CORRECT_CHANCE]
        )
        bolus = 0.0
        if counted > 0.0 or correcting:
            on_board = 0.0
            for age in range(1, min(k + 1, IOB_STEPS)):
                on_board += out[k - age, O_BOLUS] * IOB_CURVE[age]
            correction = (cgm - policy[TARGET_MGDL]) / (
                therapy[T_CORRECTION, hour] * policy[CORRECTION_FACTOR]
            )
            if correction > 0.0:
                correction = max(0.0, correction - on_board)
            bolus = counted / (therapy[T_RATIO, hour] * policy[RATIO_FACTOR]) + correction
            bolus = min(bolus, policy[MAX_BOLUS_U], policy[MAX_IOB_U] - on_board)
            bolus = max(0.0, np.floor(bolus / policy[DOSE_STEP_U] + 1e-9) * policy[DOSE_STEP_U])
            if bolus > 0.0:
                since_bolus = 0
        out[k, O_BOLUS] = bolus

        basal = therapy[T_BASAL, hour] * policy[BASAL_FACTOR]
        if cgm < policy[SUSPEND_BELOW_MGDL]:
            basal = 0.0
        out[k, O_BASAL] = basal

        points[N_LINEAR + S1, 0] += 1000.0 * bolus
        grams = eaten + rescue
        if grams > 0.0:
            points[N_LINEAR + D1, 0] += (
                consts[AG] * np.exp(points[LN_AG, 0]) * grams * MMOL_PER_G / consts[BW]
            )
        held[BASAL] = basal * 1000.0 / 60.0
        held[HR_EXCESS] = life[k, L_HEART]
        held[LOCAL_H] = hour_exact
        drive(drivers, held, consts, STEP_MIN, 2, nodes)
        sweep_one(points, nodes, consts, 0.5 * STEP_MIN, 2, work)
        for i in range(N_LINEAR):
            before[i] = points[i, 0] - dynamics[i, 0]
        for i in range(N_LINEAR):
            total = dynamics[i, 0]
            for j in range(i + 1):
                total += phi[i, j] * before[j] + noise[i, j] * life[k, L_NORMAL + j]
            points[i, 0] = total
        since_rescue += 1
        since_bolus += 1


def usual_policy() -> model.Array:
    """The person's own settings, calculator target 110 mg/dL, corrections above 200, no suspension."""
    policy = np.ones(N_POLICY)
    policy[TARGET_MGDL] = 110.0
    policy[CORRECT_ABOVE_MGDL] = 200.0
    policy[SUSPEND_BELOW_MGDL] = 0.0
    policy[MAX_BOLUS_U] = 25.0
    policy[MAX_IOB_U] = 30.0
    policy[DOSE_STEP_U] = 0.05
    return policy
