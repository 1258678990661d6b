"""The virtual person's insulin therapy, found by simulating that person's own body, and the bolus calculator.

Real settings are close but not exact, so each gets a small error of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from firmware_sim.person_model import (
    EATING_G_PER_MIN,
    GP,
    GT,
    PMOL_PER_U,
    UPTAKE_MGKGMIN,
    Inputs,
    Physiology,
    make_step,
)

TARGET_MGDL: Final = 115.0
DAY_MIN: Final = 1440
BASAL_SEGMENT_H: Final = 3
BASAL_LEAD_MIN: Final = 90  # subcutaneous insulin acts this much later than it is given
_REFERENCE_MEAL_G: Final = 60.0
_REFERENCE_DOSE_U: Final = 2.0
_AFTER_MIN: Final = 360  # a meal bolus is right when glucose is back by then
_STEP_MIN: Final = 2.0
_INSULIN_ACTION_MIN: Final = 300.0
_PEAK_MIN: Final = 75.0


@dataclass(frozen=True, slots=True)
class DayProfile:
    """What changes with the local clock, per minute: insulin sensitivity and glucose production (dawn)."""

    sensitivity: tuple[float, ...]
    egp: tuple[float, ...]


def draw_profile(rng: np.random.Generator, *, flat: bool = False) -> DayProfile:
    """Sensitivity in three parts of the day (night–early, morning, afternoon), values shuffled between people
    as in Visentin 2018, joined over an hour; dawn raises production by up to 10–15 % around 06:30."""
    minutes = np.arange(DAY_MIN)
    if flat:
        return DayProfile((1.0,) * DAY_MIN, (1.0,) * DAY_MIN)
    levels = np.array([rng.uniform(0.8, 0.9), rng.uniform(0.9, 1.0), 1.0])
    levels = rng.permutation(levels) if rng.random() < 0.4 else levels
    edges = (240.0, 660.0, 1020.0)  # 04:00, 11:00, 17:00
    table = np.empty(DAY_MIN)
    for m in range(DAY_MIN):
        table[m] = levels[2] if m < edges[0] or m >= edges[2] else levels[0] if m < edges[1] else levels[1]
    window = np.ones(60) / 60.0
    smooth = np.convolve(np.concatenate([table[-60:], table, table[:60]]), window, mode="same")[60:-60]
    dawn = max(0.0, rng.normal(0.10, 0.04)) * np.exp(-0.5 * ((minutes - 390.0) / 90.0) ** 2)
    return DayProfile(tuple(float(v) for v in smooth), tuple(float(v) for v in 1.0 + dawn))


@dataclass(frozen=True, slots=True)
class Therapy:
    """What the person has in pump and calculator. Segment tuples are (local start minute, value)."""

    basal_uph: tuple[tuple[int, float], ...]
    carb_ratio_g_per_u: tuple[tuple[int, float], ...]
    correction_mgdl_per_u: float
    target_mgdl: float = TARGET_MGDL
    max_bolus_u: float = 20.0
    step_u: float = 0.05

    def basal_at(self, local_minute: int) -> float:
        return _segment(self.basal_uph, local_minute)

    def carb_ratio_at(self, local_minute: int) -> float:
        return _segment(self.carb_ratio_g_per_u, local_minute)

    def bolus_u(
        self, counted_g: float, cgm_mgdl: float | None, on_board_u: float, local_minute: int
    ) -> float:
        """Meal part plus correction less insulin on board; a negative correction reduces the meal part."""
        correction = 0.0
        if cgm_mgdl is not None:
            correction = (cgm_mgdl - self.target_mgdl) / self.correction_mgdl_per_u
            if correction > 0.0:
                correction = max(0.0, correction - on_board_u)
        dose = counted_g / self.carb_ratio_at(local_minute) + correction
        return min(self.max_bolus_u, max(0.0, round(dose / self.step_u) * self.step_u))


def _segment(table: Sequence[tuple[int, float]], local_minute: int) -> float:
    value = table[-1][1]
    for start, entry in table:
        if start > local_minute:
            break
        value = entry
    return value


def on_board(doses: Sequence[tuple[float, float]], now_min: float) -> float:
    """Insulin still to act (U) of (minute, units): the exponential curve, 5 h action, peak 75 min."""
    tp, td = _PEAK_MIN, _INSULIN_ACTION_MIN
    tau = tp * (1 - tp / td) / (1 - 2 * tp / td)
    a = 2 * tau / td
    s = 1 / (1 - a + (1 + a) * math.exp(-td / tau))
    total = 0.0
    for given, units in doses:
        t = now_min - given
        if t < 0:
            total += units
        elif t < td:
            total += units * (
                1 - s * (1 - a) * ((t * t / (tau * td * (1 - a)) - t / tau - 1) * math.exp(-t / tau) + 1)
            )
    return total


def needed_insulin(body: Physiology, sensitivity: float, egp: float, glucose_mgdl: float) -> float:
    """Steady plasma insulin (pmol/L) that holds ``glucose_mgdl``, by bisection (the balance falls in it)."""
    gp = glucose_mgdl * body.vg

    def balance(insulin: float) -> float:
        production = max(0.0, body.kp1 * egp - body.kp2 * gp - body.kp3 * sensitivity * insulin)
        vm = max(0.0, body.vm0 + body.vmx * sensitivity * (insulin - body.ib))
        # Gt from vm·Gt/(km0+Gt) = k1·Gp − k2·Gt: the positive root of a quadratic
        b = vm + body.k2 * body.km0 - body.k1 * gp
        gt = (-b + math.sqrt(b * b + 4 * body.k2 * body.k1 * gp * body.km0)) / (2 * body.k2)
        return production - UPTAKE_MGKGMIN - body.k1 * gp + body.k2 * gt

    low, high = 0.0, 20.0 * body.ib
    for _ in range(60):
        mid = 0.5 * (low + high)
        low, high = (mid, high) if balance(mid) > 0 else (low, mid)
    return 0.5 * (low + high)


def _course(
    body: Physiology, sensitivity: float, carbs_g: float, dose_u: float, start_mgdl: float
) -> list[float]:
    """Glucose every 2 min for 6 h after a meal and its bolus, from rest at ``gb`` scaled to ``start_mgdl``."""
    step = make_step(body)
    s = body.steady_state()
    s[GP] *= start_mgdl / body.gb
    s[GT] *= start_mgdl / body.gb
    # Away from sensitivity 1 the held production keeps gb a steady state; only the response changes.
    egp = 1.0 + body.kp3 * (sensitivity - 1.0) * body.ib / body.kp1
    basal = body.basal_pmolkgmin
    course: list[float] = []
    eaten_min = carbs_g / EATING_G_PER_MIN
    for k in range(int(_AFTER_MIN / _STEP_MIN)):
        t = k * _STEP_MIN
        share = min(1.0, max(0.0, (eaten_min - t) / _STEP_MIN))
        insulin = basal + (dose_u * PMOL_PER_U / (body.bw * _STEP_MIN) if k == 0 else 0.0)
        s = step(
            s,
            Inputs(insulin, 1000.0 * EATING_G_PER_MIN * share, 1000.0 * carbs_g, sensitivity, egp),
            _STEP_MIN,
        )
        course.append(s[GP] / body.vg)
    return course


def carb_ratio(body: Physiology, sensitivity: float) -> float:
    """Grams per unit: the dose for a 60 g meal that ends 6 h later at the start, without a low before."""
    low, high = _REFERENCE_MEAL_G / 40.0, _REFERENCE_MEAL_G / 2.5
    for _ in range(9):
        dose = 0.5 * (low + high)
        course = _course(body, sensitivity, _REFERENCE_MEAL_G, dose, body.gb)
        enough = course[-1] < body.gb + 5.0 or min(course) < body.gb - 25.0
        low, high = (low, dose) if enough else (dose, high)
    return _REFERENCE_MEAL_G / (0.5 * (low + high))


def correction_factor(body: Physiology) -> float:
    """Fall in mg/dL per unit: the largest difference within 6 h that 2 U make at 200 mg/dL."""
    plain = _course(body, 1.0, 0.0, 0.0, 200.0)
    dosed = _course(body, 1.0, 0.0, _REFERENCE_DOSE_U, 200.0)
    return max(a - b for a, b in zip(plain, dosed, strict=True)) / _REFERENCE_DOSE_U


def find_therapy(body: Physiology, profile: DayProfile, rng: np.random.Generator, error_sd: float) -> Therapy:
    """Settings from the body by simulation; each is off by a factor of ln-SD ``error_sd``."""
    basal: list[tuple[int, float]] = []
    wrong = math.exp(error_sd * float(rng.standard_normal()) * 0.6)
    for start in range(0, DAY_MIN, BASAL_SEGMENT_H * 60):
        minutes = [(start + BASAL_LEAD_MIN + k) % DAY_MIN for k in range(0, BASAL_SEGMENT_H * 60, 15)]
        needs = [needed_insulin(body, profile.sensitivity[m], profile.egp[m], TARGET_MGDL) for m in minutes]
        rate = body.basal_uph * sum(needs) / len(needs) / body.ib * wrong
        rate *= math.exp(0.4 * error_sd * float(rng.standard_normal()))
        basal.append((start, max(0.05, round(rate / 0.05) * 0.05)))
    ratios: list[tuple[int, float]] = []
    whole = carb_ratio(body, 1.0)
    for start, middle in ((0, 540), (660, 840), (1020, 1200)):
        # Ratios follow sensitivity nearly in proportion, so one simulated ratio serves three times of day.
        ratio = whole * profile.sensitivity[middle] ** 0.9 * math.exp(error_sd * float(rng.standard_normal()))
        ratios.append((start, max(2.0, round(ratio * 2) / 2)))
    factor = correction_factor(body) * math.exp(error_sd * float(rng.standard_normal()))
    return Therapy(tuple(basal), tuple(ratios), float(round(factor)))
