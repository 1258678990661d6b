"""Virtual people of the twin's own model: bodies from a prior, a therapy found from the body, and daily lives.

They show what a policy does if the model is right; they are not the ground truth of firmware_sim, which has
another structure on purpose. Bodies without a steady state at their target, and settings that no adult clinic
would recognise, are drawn again (as the prior of MODELS A asks for).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec
import numpy as np

from core import closed_loop as loop
from core.errors import InputError
from core.messages import Prior
from core.models import hovorka as model
from core.units import MGDL_PER_MMOLL, mmoll_from_mgdl

Array = model.Array

# Table A of the reference sheet: ln-SDs of W10's constants between people. SIT–SID correlate by .75 and SID–SIE
# by .25 (Resalat 2019's sampler).
BETWEEN_LN_SD: Final = {
    "egp0": 0.20, "f01": 0.10, "k12": 0.40, "ka1": 0.40, "ka2": 0.40, "ka3": 0.40, "ke": 0.20,
    "vi": 0.05, "vg": 0.05, "ti": 0.20, "tg": 0.25, "ag": 0.20, "ts": 0.30,
}  # fmt: skip
S_LN_SD: Final = 0.40
S_CORRELATION: Final = ((1.0, 0.75, 0.1875), (0.75, 1.0, 0.25), (0.1875, 0.25, 1.0))
WEIGHT_KG: Final = (74.9, 14.4, 45.0, 130.0)  # mean, SD, limits (W10 ports)
TARGET_MGDL: Final = 115.0
RATIO_G_PER_U: Final = (3.5, 25.0)
CORRECTION_MGDL_PER_U: Final = (15.0, 110.0)
BASAL_UPH: Final = (0.1, 4.0)
MAX_DRAWS: Final = 500
RESPONSE_STEPS: Final = 72  # 6 h: bolus and meal have acted
PROBE_G: Final = 20.0
DAWN_FELT: Final = 0.02  # share of dawn's full effect below which no pump is set for it
BASAL_LEAD_H: Final = 1.5  # subcutaneous insulin acts this much later than it is given
MEALS: Final = (  # local minute, grams, chance of being eaten, main meal
    (7.5 * 60, 45.0, 0.93, True),
    (10.25 * 60, 15.0, 0.25, False),
    (12.75 * 60, 60.0, 0.97, True),
    (16.0 * 60, 20.0, 0.40, False),
    (19.0 * 60, 65.0, 0.99, True),
    (21.5 * 60, 15.0, 0.35, False),
)


class Habits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How unsteadily people live and how unsteady their bodies are. Shares are of 1."""

    meal_time_sd_min: float = 25.0
    meal_size_cv: float = 0.25
    counting_cv: float = 0.22
    unannounced_main: float = 0.06
    unannounced_snack: float = 0.25
    bolus_lead_min: float = 8.0  # before the meal
    bolus_lead_sd_min: float = 6.0
    therapy_error: float = 0.12  # ln-SD of each setting
    sensitivity_sd: float = 0.15  # ln-SD within a person, half a day's memory
    gut_sd: float = 0.20  # ln-SD of the time of absorption, 8 h memory
    disturbance_sd: float = 0.004  # mmol/kg/min, stationary (MODELS A)
    correction_chance: float = 0.15  # per five minutes awake, once above the threshold
    rescue_chance_awake: float = 0.5
    rescue_chance_asleep: float = 0.15
    exercise_days: float = 0.3  # chance per day
    sensor_sd_mgdl: float = 5.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            high = {"bolus_lead_min": 60.0}.get(
                name, 1.0 if "_min" not in name and "mgdl" not in name else 120.0
            )
            if not (math.isfinite(value) and 0 <= value <= high):
                raise InputError(f"must lie in 0..{high:g}", where=f"habits.{name}")


class Person(NamedTuple):
    """A body and its settings. Arrays as core.closed_loop wants them."""

    consts: Array
    dynamics: Array
    therapy: Array  # float64[3, 24], with the errors that real settings have
    start: Array  # float64[N, 1]
    rescue_below_mgdl: float
    counting_bias: float

    @property
    def weight_kg(self) -> float:
        return float(self.consts[model.BW])

    @property
    def total_basal_u(self) -> float:
        """Units a day."""
        return float(self.therapy[loop.T_BASAL].sum())

    @property
    def correction_mgdl_per_u(self) -> float:
        return float(self.therapy[loop.T_CORRECTION, 0])


def draw_person(rng: np.random.Generator, habits: Habits, prior: Prior | None = None) -> Person:
    """A person from W10's table, or with a prior's θ on W10's constants. Redrawn until a clinic would know them."""
    for _ in range(MAX_DRAWS):
        consts, theta = _draw_body(rng, prior)
        found = _settings(consts, theta)
        if found is not None:
            break
    else:
        raise InputError("hardly any body of this prior has a steady state", where="population.prior")
    basal, ratio, correction = found
    error = habits.therapy_error
    therapy = np.empty((3, 24))
    wrong = math.exp(0.6 * error * rng.standard_normal())
    pieces = np.exp(0.4 * error * rng.standard_normal(8))
    therapy[loop.T_BASAL] = np.maximum(0.05, np.round(basal * wrong * np.repeat(pieces, 3) / 0.05) * 0.05)
    for first, last in ((0, 11), (11, 17), (17, 24)):
        therapy[loop.T_RATIO, first:last] = ratio * math.exp(error * rng.standard_normal())
    therapy[loop.T_CORRECTION] = correction * math.exp(error * rng.standard_normal())
    dynamics = np.tile([0.0, 720.0, 0.0], (model.N_LINEAR, 1))
    dynamics[: model.N_THETA, 0] = theta
    dynamics[model.LN_S, 1:] = (720.0, habits.sensitivity_sd)
    dynamics[model.LN_TG, 1:] = (480.0, habits.gut_sd)
    dynamics[model.SENSOR_SLOW] = dynamics[model.SENSOR] = (0.0, 11.0, habits.sensor_sd_mgdl)
    dynamics[model.DISTURBANCE] = (0.0, consts[model.TAU_D], habits.disturbance_sd)
    start = np.zeros((model.N, 1))
    start[: model.N_THETA, 0] = theta
    fasting = mmoll_from_mgdl(float(rng.uniform(100.0, 160.0)))
    night = float(np.mean(therapy[loop.T_BASAL, :6])) * 1000.0 / 60.0
    start[model.N_LINEAR :, 0] = model.steady_state(
        consts, night, theta[model.LN_S], theta[model.LN_TI], fasting
    )
    return Person(
        consts,
        dynamics,
        therapy,
        start,
        float(rng.uniform(66.0, 76.0)),
        float(np.clip(rng.normal(0.97, 0.08), 0.8, 1.15)),
    )


def _draw_body(rng: np.random.Generator, prior: Prior | None) -> tuple[Array, Array]:
    """(constants, θ). With a prior, θ carries what differs between people; without, the constants do."""
    mean, sd, low, high = WEIGHT_KG
    weight = float(np.clip(rng.normal(mean, sd), low, high))
    theta = np.zeros(model.N_THETA)
    if prior is not None:
        k = len(prior.names)
        cov = np.zeros((k, k))
        cov[np.tril_indices(k)] = prior.covariance
        cov = cov + np.tril(cov, -1).T
        # Cholesky, not the default SVD: its result does not depend on which library the machine has.
        drawn = np.asarray(prior.mean) + np.linalg.cholesky(cov) @ rng.standard_normal(k)
        for name, value in zip(prior.names, drawn, strict=True):
            if name in model.NAMES[: model.N_THETA]:
                theta[model.NAMES.index(name)] = value
        return model.make_consts(bw=weight, g_revert=mmoll_from_mgdl(TARGET_MGDL)), theta
    changes = {"bw": weight, "g_revert": mmoll_from_mgdl(TARGET_MGDL)}
    for name, spread in BETWEEN_LN_SD.items():
        usual = model.DEFAULTS[getattr(model, name.upper())]
        changes[name] = usual * math.exp(spread * rng.standard_normal())
    changes["ag"] = min(changes["ag"], 1.0)
    actions = np.linalg.cholesky(np.array(S_CORRELATION)) @ rng.standard_normal(3)
    for name, z in zip(("sit", "sid", "sie"), actions, strict=True):
        changes[name] = model.DEFAULTS[getattr(model, name.upper())] * math.exp(S_LN_SD * z)
    consts = model.make_consts(**changes)
    # W10's default is insulin-resistant next to common correction factors: s is wide (MODELS A), the rest follows.
    theta[model.LN_S] = 0.3 + 0.4 * rng.standard_normal()
    return consts, theta


def _settings(consts: Array, theta: Array) -> tuple[Array, float, float] | None:
    """(basal U/h per hour[24], g/U, mg/dL/U) that this body needs at its target; None: outside what clinics see."""
    target = mmoll_from_mgdl(TARGET_MGDL)
    rate = model.basal_from_glucose(consts, target, theta[model.LN_S], theta[model.LN_EGP0])
    basal = np.full(24, rate * 60.0 / 1000.0)
    for hour in range(0, 24, 3):
        at = (hour + 1.5 + BASAL_LEAD_H) % 24.0
        dawn = math.exp(-0.5 * ((at - 6.7) / 1.6) ** 2)
        if dawn > DAWN_FELT:
            ln_s = theta[model.LN_S] - consts[model.CIRC_LN] * dawn
            need = model.basal_from_glucose(consts, target, ln_s, theta[model.LN_EGP0])
            basal[hour : hour + 3] = need * 60.0 / 1000.0
    if not (BASAL_UPH[0] <= basal.min() and basal.max() <= BASAL_UPH[1]):
        return None
    points = np.zeros((model.N, 3))
    points[: model.N_THETA] = theta[:, None]
    rest = model.steady_state(consts, rate, theta[model.LN_S], theta[model.LN_TI], target)
    points[model.N_LINEAR :] = rest[:, None]
    points[model.N_LINEAR + model.S1, 1] += 1000.0
    points[model.N_LINEAR + model.D1, 2] += model.meal_mmol_per_kg(consts, PROBE_G, theta[model.LN_AG])
    drivers, held = np.zeros(4), np.array([rate, 0.0, 65.0, 15.0])
    nodes, work = np.zeros((5, model.N_INPUT)), np.zeros(model.WORK_SIZE)
    fall = 0.0
    q = np.zeros(3)
    model.drive(drivers, held, consts, loop.STEP_MIN, 2, nodes)
    for _ in range(RESPONSE_STEPS):
        model.sweep(points, nodes, consts, 0.5 * loop.STEP_MIN, 2, work)
        q = points[model.N_LINEAR + model.Q1] * MGDL_PER_MMOLL / consts[model.VG]
        fall = max(fall, float(q[0] - q[1]))
    end_fall, end_rise = float(q[0] - q[1]), float(q[2] - q[0])
    if fall <= 0 or end_rise <= 0:
        return None
    # A meal's bolus is right when glucose is back where it began once both have acted.
    ratio = end_fall / (end_rise / PROBE_G)
    inside = RATIO_G_PER_U[0] <= ratio <= RATIO_G_PER_U[1]
    if not (inside and CORRECTION_MGDL_PER_U[0] <= fall <= CORRECTION_MGDL_PER_U[1]):
        return None
    return basal, ratio, fall


class MealPlan(NamedTuple):
    """Meals of a life, one row each: step of eating, grams, grams said (0: nothing was said), lead in minutes."""

    rows: Array  # float64[n, 4]


def draw_life(rng: np.random.Generator, person: Person, habits: Habits, days: int) -> tuple[MealPlan, Array]:
    """(meals, life float64[days · 288, 15]) of one person. Every number is drawn whether used or not."""
    n = days * loop.STEPS_PER_DAY
    life = np.zeros((n, loop.N_LIFE))
    appetite = math.sqrt(person.weight_kg / 80.0)
    meals: list[tuple[float, float, float, float]] = []
    minute = np.arange(n) * loop.STEP_MIN % 1440
    awake = (minute >= 6.5 * 60) & (minute < 23 * 60)
    for day in range(days):
        last = -60.0
        for usual, grams, chance, main in MEALS:
            eaten_draw, said_draw = rng.random(2)
            when, size, count, lead = rng.standard_normal(4)
            if eaten_draw >= chance:
                continue
            at = min(max(usual + habits.meal_time_sd_min * when, last + 15.0), 1435.0)
            last = at
            carbs = max(5.0, grams * appetite * math.exp(habits.meal_size_cv * size))
            silent = said_draw < (habits.unannounced_main if main else habits.unannounced_snack)
            cv = habits.counting_cv
            said = max(1.0, round(carbs * person.counting_bias * math.exp(cv * count - 0.5 * cv * cv)))
            before = habits.bolus_lead_min + habits.bolus_lead_sd_min * lead
            step = day * loop.STEPS_PER_DAY + round(at / loop.STEP_MIN)
            meals.append((float(step), carbs, 0.0 if silent else said, before))
        moves, hour, length, effort = rng.random(4)
        if moves < habits.exercise_days:
            first = day * loop.STEPS_PER_DAY + round((9 * 60 + hour * 9 * 60) / loop.STEP_MIN)
            life[first : first + round(5 + 7 * length), loop.L_HEART] = 35.0 + 30.0 * effort
    life[:, loop.L_RESCUE_BELOW] = person.rescue_below_mgdl
    life[:, loop.L_RESCUE_CHANCE] = np.where(awake, habits.rescue_chance_awake, habits.rescue_chance_asleep)
    life[:, loop.L_CORRECT_CHANCE] = np.where(awake, habits.correction_chance, 0.0)
    life[:, loop.L_DRAW_RESCUE : loop.L_DRAW_CORRECT + 1] = rng.random((n, 2))
    life[:, loop.L_WHITE :] = rng.standard_normal((n, loop.N_LIFE - loop.L_WHITE))
    return MealPlan(np.array(meals, dtype=np.float64).reshape(-1, 4)), life


def meal_steps(
    plan: MealPlan, n_steps: int, extra_lead_min: float = 0.0, shift_min: float = 0.0, size: float = 1.0
) -> Array:
    """Meals per step (float64[n_steps, 3], as ``closed_loop.live`` wants them) of a plan under an arm's changes."""
    steps = np.zeros((n_steps, loop.N_MEAL))
    steps[:, loop.DECIDED] = loop.NOBODY
    last = n_steps - 1
    for step, carbs, said, lead in plan.rows.tolist():
        eat = min(max(round(step + shift_min / loop.STEP_MIN), 0), last)
        steps[eat, loop.EATEN] += carbs * size
        if said > 0:
            ask = min(max(eat - round((lead + extra_lead_min) / loop.STEP_MIN), 0), last)
            steps[ask, loop.COUNTED] += said * size
    return steps
