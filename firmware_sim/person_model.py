"""The body of a virtual person: the UVA/Padova type-1 structure, on purpose not the twin's own model.

Equations: Dalla Man 2007 (TBME 54:1740) in the S2008 form, the hypoglycaemia risk term of S2013
(JDST 2014;8:26), exercise after Dalla Man 2009 (JDST 3:56). Units inside: minutes, mg/kg glucose,
pmol/kg insulin, mg carbohydrate. Plain Python floats: at 13 states they beat small arrays.

Two deviations, both so that no state can leave its physical range: utilisation never turns negative when
insulin is absent, and insulin-independent uptake falls linearly below ``FLOOR_MGDL``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

STATES: Final = ("qs1", "qs2", "qg", "gp", "gt", "ip", "il", "x", "i1", "xl", "j1", "j2", "gs")
QS1, QS2, QG, GP, GT, IP, IL, X, I1, XL, J1, J2, GS = range(len(STATES))

PMOL_PER_U: Final = 6000.0
BIOAVAILABLE: Final = 0.9  # f, fraction of carbohydrate that appears in plasma
UPTAKE_MGKGMIN: Final = 1.0  # Fcns
RENAL_RATE: Final = 0.0005  # ke1, 1/min
RENAL_THRESHOLD_MGKG: Final = 339.0  # ke2
EATING_G_PER_MIN: Final = 5.0
FLOOR_MGDL: Final = 20.0
RISK_GAIN: Final = 1.4407  # r1 of S2013; zero gives S2008
RISK_POWER: Final = 0.8124  # r2 of S2013
STEP_MIN: Final = 1.0

# Geometric mean and ln-SD over the ten adults of the public simglucose cohort. The wide SDs (kabs, Vmx, ki,
# kp3, kmin) are pulled in: ten people cannot support them, and extreme pairs have no sensible therapy.
ADULT: Final[dict[str, tuple[float, float]]] = {
    "bw": (84.6, 0.18),
    "egp_b": (2.4884, 0.10),
    "ib": (107.2, 0.16),
    "kabs": (0.1340, 0.50),
    "kmax": (0.03708, 0.25),
    "kmin": (0.00649, 0.35),
    "b": (0.7773, 0.08),
    "d": (0.1677, 0.25),
    "vg": (1.8431, 0.07),
    "vi": (0.05089, 0.15),
    "vmx": (0.04582, 0.40),
    "km0": (235.72, 0.10),
    "k1": (0.06006, 0.15),
    "k2": (0.11975, 0.15),
    "p2u": (0.03223, 0.30),
    "m1": (0.18924, 0.20),
    "cl": (1.1560, 0.09),
    "ki": (0.007475, 0.35),
    "kp2": (0.003877, 0.25),
    "kp3": (0.008431, 0.30),
    "kd": (0.015816, 0.12),
    "ksc": (0.09211, 0.25),
    "ka1": (0.003278, 0.25),
    "ka2": (0.015256, 0.25),
    "gb": (120.0, 0.06),
}
# Seen in the cohort and needed for plausible people: ln-correlations above .75 that the SDs above keep.
COUPLED: Final = (("kp2", "kp3", 0.77), ("ka1", "ka2", 0.86))


@dataclass(frozen=True, slots=True)
class Physiology:
    """Free parameters (first block) and what the basal steady state fixes (second block)."""

    bw: float  # kg
    egp_b: float  # mg/kg/min
    ib: float  # pmol/L
    kabs: float
    kmax: float
    kmin: float
    b: float
    d: float
    vg: float  # dL/kg
    vi: float  # L/kg
    vmx: float
    km0: float
    k1: float
    k2: float
    p2u: float
    m1: float
    cl: float
    ki: float
    kp2: float
    kp3: float
    kd: float
    ksc: float
    ka1: float
    ka2: float
    gb: float  # mg/dL
    risk_gain: float = RISK_GAIN

    @property
    def m2(self) -> float:
        return self.cl / (self.vi * self.bw)

    @property
    def m4(self) -> float:
        return 0.4 * self.m2

    @property
    def m30(self) -> float:
        return 1.5 * self.m1

    @property
    def gtb(self) -> float:
        return (UPTAKE_MGKGMIN - self.egp_b + self.k1 * self.gb * self.vg) / self.k2

    @property
    def vm0(self) -> float:
        return (self.egp_b - UPTAKE_MGKGMIN) * (self.km0 + self.gtb) / self.gtb

    @property
    def kp1(self) -> float:
        return self.egp_b + self.kp2 * self.gb * self.vg + self.kp3 * self.ib

    @property
    def basal_pmolkgmin(self) -> float:
        ipb = self.ib * self.vi
        return (self.m2 + self.m4) * ipb - self.m1 * self.m2 * ipb / (self.m1 + self.m30)

    @property
    def basal_uph(self) -> float:
        """Basal rate that holds ``gb`` at sensitivity 1."""
        return self.basal_pmolkgmin * self.bw * 60.0 / PMOL_PER_U

    def steady_state(self) -> list[float]:
        """The 13 states at ``gb`` under the basal rate, nothing eaten."""
        ipb = self.ib * self.vi
        j1 = self.basal_pmolkgmin / (self.kd + self.ka1)
        gpb = self.gb * self.vg
        il = self.m2 * ipb / (self.m1 + self.m30)
        return [
            0.0,
            0.0,
            0.0,
            gpb,
            self.gtb,
            ipb,
            il,
            0.0,
            self.ib,
            self.ib,
            j1,
            self.kd * j1 / self.ka2,
            gpb,
        ]


AVERAGE_ADULT: Final = Physiology(**{name: mean for name, (mean, _) in ADULT.items()})


def draw_physiology(rng: np.random.Generator) -> Physiology:
    """One adult around the cohort's mean; redrawn until the basal state exists and is plausible."""
    names = list(ADULT)
    corr = np.eye(len(names))
    for one, two, rho in COUPLED:
        i, j = names.index(one), names.index(two)
        corr[i, j] = corr[j, i] = rho
    factor = np.linalg.cholesky(corr)
    while True:
        z = np.clip(factor @ rng.standard_normal(len(names)), -2.0, 2.0)
        body = Physiology(
            **{n: ADULT[n][0] * math.exp(ADULT[n][1] * zi) for n, zi in zip(names, z, strict=True)}
        )
        if (
            body.gtb > 20
            and body.vm0 > 0.5
            and body.b < 0.97
            and body.kmin < 0.7 * body.kmax
            and 0.4 < body.basal_uph < 2.6
        ):
            return body


class Inputs(NamedTuple):
    """What acts on the body during one minute. The defaults are rest, fasting, average sensitivity."""

    insulin_pmolkgmin: float
    eaten_mg: float = 0.0  # carbohydrate per minute
    meal_mg: float = 0.0  # D of the gastric emptying curve: the meal and what was left before it
    sensitivity: float = 1.0  # multiplies vmx and kp3
    egp: float = 1.0  # multiplies kp1 (dawn)
    vm0: float = 1.0  # exercise: insulin-independent utilisation
    vmx: float = 1.0  # exercise: insulin-dependent utilisation
    km: float = 1.0
    gut: float = 1.0  # speed of this meal: fat and protein slow it


Rhs = Callable[[list[float], Inputs], list[float]]
Step = Callable[[list[float], Inputs, float], list[float]]  # (state, inputs, minutes) -> state


def derivatives(body: Physiology, s: list[float], u: Inputs) -> list[float]:
    """d(state)/dt per minute. Slow reference form; ``make_step`` runs the same equations."""
    return _compile(body)(s, u)


def make_step(body: Physiology) -> Step:
    """A fourth-order Runge–Kutta step for one person, parameters bound once."""
    rhs = _compile(body)

    def step(s: list[float], u: Inputs, h: float) -> list[float]:
        half = 0.5 * h
        a = rhs(s, u)
        b = rhs([v + half * k for v, k in zip(s, a, strict=True)], u)
        c = rhs([v + half * k for v, k in zip(s, b, strict=True)], u)
        d = rhs([v + h * k for v, k in zip(s, c, strict=True)], u)
        sixth = h / 6.0
        return [v + sixth * (p + 2.0 * (q + r) + t) for v, p, q, r, t in zip(s, a, b, c, d, strict=True)]

    return step


def _compile(p: Physiology) -> Rhs:
    """The right-hand side with every constant a local: properties would cost more than the equations."""
    tanh, log = math.tanh, math.log
    kmax, kmin, kabs, b, d, bw = p.kmax, p.kmin, p.kabs, p.b, p.d, p.bw
    k1, k2, kp1, kp2, kp3, vg, gb = p.k1, p.k2, p.kp1, p.kp2, p.kp3, p.vg, p.gb
    vm0, vmx, km0, vi, ib, p2u, ki = p.vm0, p.vmx, p.km0, p.vi, p.ib, p.p2u, p.ki
    out_ip, m1, out_il, m2 = p.m2 + p.m4, p.m1, p.m1 + p.m30, p.m2
    ka1, ka2, kd, out_j1, ksc, gain = p.ka1, p.ka2, p.kd, p.kd + p.ka1, p.ksc, p.risk_gain
    floor_gp, risk_b = FLOOR_MGDL * vg, log(gb) ** RISK_POWER
    appear = BIOAVAILABLE / bw

    def rhs(s: list[float], u: Inputs) -> list[float]:
        qs1, qs2, qg, gp, gt, ip, il, x, i1, xl, j1, j2, gs = s
        insulin_in, eaten, meal, sens, egp_factor, vm0_factor, vmx_factor, km_factor, gut = u
        if meal > 0.0:
            qs = qs1 + qs2
            kg = kmin + 0.5 * (kmax - kmin) * (
                tanh(2.5 / (meal * (1.0 - b)) * (qs - b * meal))
                - tanh(2.5 / (meal * d) * (qs - d * meal))
                + 2.0
            )
        else:
            kg = kmax
        kg *= gut
        grind, absorb = kmax * gut * qs1, kabs * gut * qg
        g = gp / vg
        risk = 0.0
        if gain > 0.0 and g < gb:
            risk = 10.0 * (log(g if g > 60.0 else 60.0) ** RISK_POWER - risk_b) ** 2
        egp = kp1 * egp_factor - kp2 * gp - kp3 * sens * xl
        if egp < 0.0:
            egp = 0.0
        uptake = UPTAKE_MGKGMIN if gp >= floor_gp else UPTAKE_MGKGMIN * gp / floor_gp
        vm = vm0 * vm0_factor + vmx * sens * vmx_factor * x * (1.0 + gain * risk)
        if vm < 0.0:
            vm = 0.0
        renal = RENAL_RATE * (gp - RENAL_THRESHOLD_MGKG) if gp > RENAL_THRESHOLD_MGKG else 0.0
        exchange = k1 * gp - k2 * gt
        insulin = ip / vi
        return [
            eaten - grind,
            grind - kg * qs2,
            kg * qs2 - absorb,
            egp + appear * absorb - uptake - renal - exchange,
            exchange - vm * gt / (km0 * km_factor + gt),
            m1 * il - out_ip * ip + ka1 * j1 + ka2 * j2,
            m2 * ip - out_il * il,
            p2u * (insulin - ib - x),
            ki * (insulin - i1),
            ki * (i1 - xl),
            insulin_in - out_j1 * j1,
            kd * j1 - ka2 * j2,
            ksc * (gp - gs),
        ]

    return rhs


class Exercise:
    """Effort to utilisation factors (DM09): Y fast, Z slow (10 h), W the effort done since Z was gone."""

    def __init__(self, resting_bpm: float, gain: float = 1.0) -> None:
        self._resting, self._gain = resting_bpm, gain
        self.y = self.z = self.w = 0.0

    def minute(self, effort_bpm: float, action: float, ib: float) -> tuple[float, float, float]:
        """One minute at ``effort_bpm`` above rest; ``action`` is X. Factors for (vm0, vmx, km)."""
        if effort_bpm <= 0.0 and self.y < 0.01 and self.z < 0.02:
            self.y = self.z = self.w = 0.0
            return 1.0, 1.0, 1.0
        self.y = effort_bpm + (self.y - effort_bpm) * math.exp(-STEP_MIN / 5.0)
        ratio = (self.y / (0.1 * self._resting)) ** 4
        f = ratio / (1.0 + ratio)
        rate = f + 1.0 / 600.0
        self.z = f / rate + (self.z - f / rate) * math.exp(-STEP_MIN * rate)
        self.w += effort_bpm * STEP_MIN
        done = self._gain * self.z * self.w
        km = max(0.5, 1.0 - 1e-7 * done * max(0.0, action + ib))
        return 1.0 + 0.01 * self._gain * self.y, 1.0 + 3e-4 * done, km
