"""A life of the glucose model under a therapy: meals, boluses by calculator, corrections, rescue sugar, a sensor.

One call is one person for some days under one or more policies, in steps of five minutes (two RK4 steps each).
All randomness comes in as numbers drawn beforehand, so the same life is lived under every policy: a difference
between two policies is then an effect of the policy, not of luck.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from core.dosing import iob_fraction
from core.jit import jit
from core.models import hovorka as model
from core.models.hovorka import (
    AG,
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
    transition,
)
from core.solvers.rk4 import make_sweep
from core.units import MGDL_PER_MMOLL

STEP_MIN: Final = 5.0
STEPS_PER_DAY: Final = 288
ARM_LANES: Final = 4  # arms of one person side by side: one vector register; two arms cost what one does
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
    ADVISED,  # 1: whoever runs this life decides on doses, see DECIDED
) = range(10)
N_POLICY: Final = 10

# Therapy rows, one value per local hour: basal in U/h, grams per unit, mg/dL per unit.
T_BASAL, T_RATIO, T_CORRECTION = range(3)

# Meals, per step: grams eaten, grams for which a bolus is asked now (0: none), and in an advised arm the dose (U) that
# was decided on, NOBODY so far, ASKED when one is wanted before this step can be lived, or CALCULATOR.
EATEN, COUNTED, DECIDED = range(3)
N_MEAL: Final = 3
NOBODY: Final = -1.0
ASKED: Final = -2.0
CALCULATOR: Final = -3.0
N_MEMORY: Final = 5  # steps lived, and the four drivers of the model

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


sweep_arms = make_sweep("hovorka", model.load, model.rhs, N_LINEAR, model.N_STATE, ARM_LANES)


@jit
def live(
    points: Any,
    consts: Any,
    dynamics: Any,
    therapy: Any,
    policy: Any,
    meals: Any,
    life: Any,
    out: Any,
    memory: Any,
) -> int:
    """Live ``len(life)`` steps from local midnight under every policy at once; fills ``out``. Returns how many are lived:
    all, or those before an advised arm wants a dose. Then decide (``meals`` DECIDED, where it is ASKED) and call again.

    points: float64[N, n_arms], where the person starts, the same in every column; moved in place. consts,
    dynamics: of core.models.hovorka. therapy: float64[3, 24]. policy: float64[n_arms, 10]. meals:
    float64[n_arms, n_steps, 3]. life: float64[n_steps, 15]. out: float64[n_arms, n_steps, 5], plasma and CGM
    glucose (mg/dL) at the start of each step, then bolus (U), rescue sugar (g) and basal (U/h) given in it. memory: float64[N_MEMORY], zeros at first; what is needed to go on.

    Basal comes in a pulse per step, as pumps give it (so that arms can share the inputs of a step).
    """
    n_arms = points.shape[1]
    first = int(memory[0])
    drivers = memory[1:]
    held = np.zeros(4)
    held[HR_REST] = 65.0
    nodes = np.zeros((5, N_INPUT))
    work = np.zeros(model.WORK_SIZE)
    phi = np.zeros((N_LINEAR, N_LINEAR))
    noise = np.zeros((N_LINEAR, N_LINEAR))
    before = np.zeros(N_LINEAR)
    since_rescue = np.full(n_arms, RESCUE_WAIT)
    since_bolus = np.full(n_arms, CORRECTION_WAIT)
    for arm in range(n_arms):  # what an earlier call left behind
        for k in range(max(0, first - CORRECTION_WAIT), first):
            if out[arm, k, O_BOLUS] > 0.0:
                since_bolus[arm] = first - k
            if out[arm, k, O_RESCUE] > 0.0:
                since_rescue[arm] = first - k
    transition(STEP_MIN, dynamics, phi, noise)
    for k in range(first, life.shape[0]):
        hour_exact = (k % STEPS_PER_DAY) * STEP_MIN / 60.0
        hour = int(hour_exact)
        absorbed = consts[AG] * np.exp(points[LN_AG, 0]) * MMOL_PER_G / consts[BW]
        asked = False
        for arm in range(n_arms):
            cgm = MGDL_PER_MMOLL * points[N_LINEAR + C, arm] + points[SENSOR, 0] + life[k, L_WHITE]
            cgm = min(max(cgm, CGM_LOW_MGDL), CGM_HIGH_MGDL)
            out[arm, k, O_PLASMA] = MGDL_PER_MMOLL * points[N_LINEAR + Q1, arm] / consts[VG]
            out[arm, k, O_CGM] = cgm
            if policy[arm, ADVISED] > 0.0 and meals[arm, k, DECIDED] == NOBODY:
                correcting = (
                    cgm > policy[arm, CORRECT_ABOVE_MGDL]
                    and since_bolus[arm] >= CORRECTION_WAIT
                    and life[k, L_DRAW_CORRECT] < life[k, L_CORRECT_CHANCE]
                )
                if meals[arm, k, COUNTED] > 0.0 or correcting:
                    meals[arm, k, DECIDED] = ASKED
                    asked = True
        if asked:
            memory[0] = k
            return k  # nothing of this step has happened yet
        for arm in range(n_arms):
            cgm = out[arm, k, O_CGM]

            rescue = 0.0
            felt = cgm < life[k, L_RESCUE_BELOW] and since_rescue[arm] >= RESCUE_WAIT
            if felt and life[k, L_DRAW_RESCUE] < life[k, L_RESCUE_CHANCE]:
                rescue = RESCUE_G
                since_rescue[arm] = 0
            out[arm, k, O_RESCUE] = rescue

            counted = meals[arm, k, COUNTED]
            correcting = (
                cgm > policy[arm, CORRECT_ABOVE_MGDL]
                and since_bolus[arm] >= CORRECTION_WAIT
                and life[k, L_DRAW_CORRECT] < life[k, L_CORRECT_CHANCE]
            )
            bolus = 0.0
            decided = meals[arm, k, DECIDED]
            if policy[arm, ADVISED] > 0.0 and decided != CALCULATOR:
                bolus = max(0.0, decided)
            elif counted > 0.0 or correcting:
                on_board = 0.0
                for age in range(1, min(k + 1, IOB_STEPS)):
                    on_board += out[arm, k - age, O_BOLUS] * IOB_CURVE[age]
                correction = (cgm - policy[arm, TARGET_MGDL]) / (
                    therapy[T_CORRECTION, hour] * policy[arm, CORRECTION_FACTOR]
                )
                if correction > 0.0:
                    correction = max(0.0, correction - on_board)
                bolus = counted / (therapy[T_RATIO, hour] * policy[arm, RATIO_FACTOR]) + correction
                bolus = min(bolus, policy[arm, MAX_BOLUS_U], policy[arm, MAX_IOB_U] - on_board)
                step_u = policy[arm, DOSE_STEP_U]
                bolus = max(0.0, np.floor(bolus / step_u + 1e-9) * step_u)
            if bolus > 0.0:
                since_bolus[arm] = 0
            out[arm, k, O_BOLUS] = bolus

            basal = therapy[T_BASAL, hour] * policy[arm, BASAL_FACTOR]
            if cgm < policy[arm, SUSPEND_BELOW_MGDL]:
                basal = 0.0
            out[arm, k, O_BASAL] = basal

            # The first pulse is half a one: rest under a steady rate lies half a pulse above rest before a pulse.
            pulse_min = STEP_MIN if k > 0 else 0.5 * STEP_MIN
            points[N_LINEAR + S1, arm] += 1000.0 * (bolus + basal * pulse_min / 60.0)
            points[N_LINEAR + D1, arm] += absorbed * (meals[arm, k, EATEN] + rescue)
            since_rescue[arm] += 1
            since_bolus[arm] += 1
        held[HR_EXCESS] = life[k, L_HEART]
        held[LOCAL_H] = hour_exact
        drive(drivers, held, consts, STEP_MIN, 2, nodes)
        sweep_arms(points, nodes, consts, 0.5 * STEP_MIN, 2, work)
        for i in range(N_LINEAR):
            before[i] = points[i, 0] - dynamics[i, 0]
        for i in range(N_LINEAR):
            total = dynamics[i, 0]
            for j in range(i + 1):
                total += phi[i, j] * before[j] + noise[i, j] * life[k, L_NORMAL + j]
            for arm in range(n_arms):
                points[i, arm] = total
    return int(life.shape[0])


def usual_policy() -> model.Array:
    """The person's own settings, calculator target 110 mg/dL, corrections above 200, no suspension."""
    policy = np.ones(N_POLICY)
    policy[TARGET_MGDL] = 110.0
    policy[CORRECT_ABOVE_MGDL] = 200.0
    policy[SUSPEND_BELOW_MGDL] = 0.0
    policy[MAX_BOLUS_U] = 25.0
    policy[MAX_IOB_U] = 30.0
    policy[DOSE_STEP_U] = 0.05
    policy[ADVISED] = 0.0
    return policy
