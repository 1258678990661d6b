"""Glucose–insulin model of one person with type 1 diabetes: Hovorka's structure, smooth fluxes.

Sources: Hovorka, Physiol Meas 2004;25:905 (structure); Wilinska, JDST 2010;4:132 (type 1 means);
the smooth forms EGP0·exp(−x3) and G/(G+1) as ported in McGill's artificial-pancreas-simulator; exercise
after Dalla Man, JDST 2009;3:56. Long-acting insulin: first-order release from a precipitate into the same
absorption site; terminal half-lives 25.4 h (degludec) and 12.5 h (glargine U100) of Heise and colleagues
(reviewed in Diabetes Obes Metab 2014, PMC4156782), detemir 6 h (label, 5–7 h). In doubt: glargine U300 19 h
lies between the two by its label's duration and was not found as a half-life; one first-order release has no
dose dependence (detemir's grows with dose) and K_SITE is rapid insulin's. No pen user's data were fitted.

Units: minutes; insulin mU and mU/L; glucose mmol/kg (amounts) and mmol/L. Linear block first (see
core.filters.srukf): five log-parameters, the sensor error pair, the disturbance; then the state.

    S1' = u − S1/tI             S2' = (S1−S2)/tI         I' = S2/(tI·VI·BW) − ke·I
    x1' = ka1(s·SIT·I − x1)     x2' = ka2(s·SID·I − x2)  x3' = ka3(s·SIE·I − x3)
    Q1' = EGP0·e^(−x3) − F01c − FR − x1·Q1 + k12·Q2 + D2/tG + d − κ(Q1−Q̄1)
    Q2' = x1·Q1 − (k12+x2)·Q2   D1' = −D1/tG             D2' = (D1−D2)/tG      C' = (G−C)/tS
    F01c = F01/.85·G/(G+1)      FR = RCl·VG·w·softplus((G−RTh)/w)              G = Q1/VG

κ is what glucose itself holds back of the liver's production (kp2 of Dalla Man, IEEE TBME 2007;54:1740, .0021/min in
health; .0039 in the geometric mean of simglucose's adults): Hovorka's structure has it for insulin only, and drifts for
half a day where bodies come back in hours. Q̄1 is the glucose that the basal rate holds, so a steady state stays one.
The value is from futures of other structures and first halves of recordings (docs/decisions/0011).
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.filters.srukf import make_predict, workspace_size
from core.jit import jit
from core.solvers.coast import coast_size, make_coast
from core.solvers.rk4 import ONE, WIDE, make_sweep
from core.units import MGDL_PER_MMOLL

Array = NDArray[np.float64]

NAME: Final = "glucose/1"

# Linear block (rows of mean and factor).
LN_S, LN_EGP0, LN_TG, LN_AG, LN_TI, SENSOR_SLOW, SENSOR, DISTURBANCE = range(8)
N_LINEAR: Final = 8
N_THETA: Final = 5
# State block, offsets within it.
S1, S2, I, X1, X2, X3, Q1, Q2, D1, D2, C = range(11)  # noqa: E741  (the field's own names)
N_STATE: Final = 11
N: Final = N_LINEAR + N_STATE

NAMES: Final = (
    *("ln_s", "ln_egp0", "ln_tg", "ln_ag", "ln_ti", "sensor_slow", "sensor_error", "disturbance"),
    *("s1", "s2", "insulin", "x1", "x2", "x3", "q1", "q2", "d1", "d2", "c"),
)
UNITS: Final = (
    *("1", "1", "1", "1", "1", "mg/dL", "mg/dL", "mmol/kg/min"),
    *("mU", "mU", "mU/L", "1/min", "1/min", "1", "mmol/kg", "mmol/kg", "mmol/kg", "mmol/kg", "mmol/L"),
)

# Constants of one person (``consts``). Parameters that are estimated are multiples of these.
(BW, EGP0, F01, K12, KA1, KA2, KA3, SIT, SID, SIE, KE, VI, VG, TI, AG, TG, RTH, RCL, TS) = range(19)
(K_REVERT, G_REVERT, TAU_D, K_LONG, K_SITE, CIRC_LN, N_CONST) = range(19, 26)
SOFTPLUS_W: Final = 0.25  # mmol/L; width of the renal threshold
X_CAP: Final = 0.5  # 1/min, ten times any therapy: beyond, 100 U at once would make the system stiff
LN_CAP: Final = 3.0  # |ln multiple| of a parameter in the equations; sigma points may reach further
MMOL_PER_G: Final = 1000.0 / 180.156

# Inputs sampled at nodes: insulin mU/min, sensitivity factor, exercise Y (1/min) and Z, weight of d.
U_INSULIN, U_SENS, U_Y, U_Z, U_D = range(5)
N_INPUT: Final = 5
# Drivers: deterministic input states. Long-acting precipitate and site (mU), exercise Y and Z.
L1, L2, EX_Y, EX_Z = range(4)
N_DRIVER: Final = 4
# What drives the drivers, constant between events.
BASAL, HR_EXCESS, HR_REST, LOCAL_H = range(4)

# Per-column parameters derived from θ once per column.
P_KTI, P_SIT, P_SID, P_SIE, P_EGP, P_KTG, P_D = range(7)  # P_D last
P_CACHE: Final = 7
N_PARAM: Final = P_CACHE + N_THETA
# The solver's tile (core.solvers.rk4): how many columns at once, where slopes and parameters start. The
# solver compiles ``load`` and ``rhs`` with values of its own.
LANES = WIDE
AT_SLOPE = N_STATE * LANES
AT_PARAM = 4 * N_STATE * LANES

# Ln-SDs, in the order of θ; ``ln s`` before and after a basal rate is known. The population's own are narrower
# (sheet A), but with them a step of the sensitivity is followed too slowly: these leave room to move.
# EGP0 and s are not identifiable together (sheet A: condition number 1e4): EGP0 stays near its prior, s moves.
# How much of logged meals shows up is a slow trait of the person (learned over weeks), how fast a meal is absorbed
# is its own.
PRIOR_SD: Final = (1.0, 0.05, 0.25, 0.35, 0.2)
# Around what the basal rate says: with 1.0 a day moved the sensitivity by half, in step with the sensor's noise.
SD_LN_S_KNOWN_BASAL: Final = 0.5
# Ornstein–Uhlenbeck time constants of θ, minutes: 7 d, 30 d, 8 h, 14 d, 3 d.
PRIOR_TAU_MIN: Final = (10080.0, 43200.0, 480.0, 20160.0, 4320.0)

LONG_HALF_LIFE_H: Final = {"degludec": 25.4, "glargine_u300": 19.0, "glargine": 12.5, "detemir": 6.0}

DEFAULTS: Final[dict[int, float]] = {
    BW: 75.0, EGP0: 0.0169, F01: 0.0111, K12: 0.060, KA1: 0.0034, KA2: 0.056, KA3: 0.024,
    SIT: 18.41e-4, SID: 5.05e-4, SIE: 0.0190, KE: 0.14, VI: 0.12, VG: 0.16, TI: 55.6, AG: 0.80,
    TG: 40.0, RTH: 9.0, RCL: 0.01, TS: 10.7, K_REVERT: 0.003, G_REVERT: 7.5, TAU_D: 30.0,
    K_LONG: math.log(2.0) / (12.5 * 60.0), K_SITE: 0.018, CIRC_LN: math.log(1.2),
}  # fmt: skip


def make_consts(**changes: float) -> Array:
    """Constants with W10 means except ``changes``, keyed by lower-case constant name, e.g. ``bw=70``."""
    consts = np.zeros(N_CONST)
    for index, value in DEFAULTS.items():
        consts[index] = value
    for name, value in changes.items():
        place = globals().get(name.upper())
        if not isinstance(place, int) or place not in DEFAULTS:
            raise InputError(f"no model constant {name!r}", mend="see core/models/hovorka.py")
        consts[place] = value
    return consts


@jit
def capped(ln_multiple: float) -> float:
    return min(max(ln_multiple, -LN_CAP), LN_CAP)


def load(points: Any, first: int, used: int, consts: Any, work: Any) -> None:
    """Parameters of a tile's columns; the exponentials only where θ differs from the lane before."""
    for lane in range(LANES):
        j = first + lane if lane < used else first
        at = AT_PARAM + lane
        work[at + P_D * LANES] = points[DISTURBANCE, j]
        same = lane > 0
        if same:
            for i in range(N_THETA):
                if points[i, j] != work[at - 1 + (P_CACHE + i) * LANES]:
                    same = False
        for i in range(N_THETA):
            work[at + (P_CACHE + i) * LANES] = points[i, j]
        if same:
            for i in range(P_D):
                work[at + i * LANES] = work[at - 1 + i * LANES]
            continue
        s = math.exp(capped(points[LN_S, j]))
        work[at + P_SIT * LANES] = s * consts[SIT]
        work[at + P_SID * LANES] = s * consts[SID]
        work[at + P_SIE * LANES] = s * consts[SIE]
        work[at + P_EGP * LANES] = consts[EGP0] * math.exp(capped(points[LN_EGP0, j]))
        work[at + P_KTG * LANES] = math.exp(-capped(points[LN_TG, j])) / consts[TG]
        work[at + P_KTI * LANES] = math.exp(-capped(points[LN_TI, j])) / consts[TI]


def rhs(work: Any, consts: Any, nodes: Any, k: int, first: int) -> None:
    """Slopes (per minute) of all lanes of the tile under the inputs of node ``k``.

    Everything in the loop is arithmetic: e^−x3 and ln(1 + e^−|z|) are written out (relative error below
    1e-13 where they matter), because a call into the mathematics library would end vectorisation.
    """
    u = nodes[k, U_INSULIN]
    sensitivity = nodes[k, U_SENS]
    boost = 1.0 + 0.3 * nodes[k, U_Z]
    clearance = 5e-5 * nodes[k, U_Y]
    weight = nodes[k, U_D]
    per_volume = 1.0 / (consts[VI] * consts[BW])
    ke, ka1, ka2, ka3, k12 = consts[KE], consts[KA1], consts[KA2], consts[KA3], consts[K12]
    per_vg = 1.0 / consts[VG]
    use = consts[F01] / 0.85
    threshold = consts[RTH]
    excretion = consts[RCL] * consts[VG] * SOFTPLUS_W
    per_ts = 1.0 / consts[TS]
    revert = consts[K_REVERT]
    resting_q1 = consts[VG] * consts[G_REVERT]
    for j in range(LANES):
        kti = work[AT_PARAM + P_KTI * LANES + j]
        ktg = work[AT_PARAM + P_KTG * LANES + j]
        s1, s2 = work[S1 * LANES + j], work[S2 * LANES + j]
        x1, x2, x3 = work[X1 * LANES + j], work[X2 * LANES + j], work[X3 * LANES + j]
        q1, q2 = work[Q1 * LANES + j], work[Q2 * LANES + j]
        d1, d2 = work[D1 * LANES + j], work[D2 * LANES + j]
        plasma = work[I * LANES + j]
        insulin = plasma * sensitivity
        work[AT_SLOPE + S1 * LANES + j] = u - s1 * kti
        work[AT_SLOPE + S2 * LANES + j] = (s1 - s2) * kti
        work[AT_SLOPE + I * LANES + j] = s2 * kti * per_volume - ke * plasma
        work[AT_SLOPE + X1 * LANES + j] = ka1 * (work[AT_PARAM + P_SIT * LANES + j] * insulin - x1)
        work[AT_SLOPE + X2 * LANES + j] = ka2 * (work[AT_PARAM + P_SID * LANES + j] * insulin - x2)
        work[AT_SLOPE + X3 * LANES + j] = ka3 * (work[AT_PARAM + P_SIE * LANES + j] * insulin - x3)
        glucose = q1 * per_vg
        saturation = glucose / (glucose + 1.0)
        # e^−x3: Padé 4/4 at x3/32, squared five times; x3 is about .24 at rest, above 12 nothing is left.
        y = min(x3, 12.0) * (1.0 / 32.0)
        y2 = y * y
        even = 1.0 + y2 * (3.0 / 28.0) + y2 * y2 * (1.0 / 1680.0)
        odd = y * (0.5 + y2 * (1.0 / 84.0))
        e = (even - odd) / (even + odd)
        e = e * e
        e = e * e
        e = e * e
        e = e * e
        e = e * e
        # softplus(z) = max(z, 0) + ln(1 + e^−|z|); ln(1 + t) = 2·artanh(t/(2 + t)), a fast series for t ≤ 1.
        z = (glucose - threshold) * (1.0 / SOFTPLUS_W)
        y = min(abs(z), 32.0) * (1.0 / 64.0)
        y2 = y * y
        even = 1.0 + y2 * (3.0 / 28.0) + y2 * y2 * (1.0 / 1680.0)
        odd = y * (0.5 + y2 * (1.0 / 84.0))
        t = (even - odd) / (even + odd)
        t = t * t
        t = t * t
        t = t * t
        t = t * t
        t = t * t
        t = t * t
        r = t / (2.0 + t)
        r2 = r * r
        series = 1.0 / 17.0 + r2 * (1.0 / 19.0 + r2 * (1.0 / 21.0 + r2 * (1.0 / 23.0)))
        series = 1.0 / 9.0 + r2 * (1.0 / 11.0 + r2 * (1.0 / 13.0 + r2 * (1.0 / 15.0 + r2 * series)))
        series = 1.0 + r2 * (1.0 / 3.0 + r2 * (0.2 + r2 * (1.0 / 7.0 + r2 * series)))
        soft = max(z, 0.0) + 2.0 * r * series
        d = work[AT_PARAM + P_D * LANES + j] * weight
        d = min(d, 0.0) * saturation + max(d, 0.0)
        a1 = min(x1 * boost, X_CAP)
        a2 = min(x2 * boost, X_CAP)
        exchange = a1 * q1
        work[AT_SLOPE + Q1 * LANES + j] = (
            work[AT_PARAM + P_EGP * LANES + j] * e
            - use * saturation
            - excretion * soft
            - exchange
            + k12 * q2
            + d2 * ktg
            + d
            - clearance * q1
            - revert * (q1 - resting_q1)
        )
        work[AT_SLOPE + Q2 * LANES + j] = exchange - (k12 + a2) * q2
        work[AT_SLOPE + D1 * LANES + j] = -d1 * ktg
        work[AT_SLOPE + D2 * LANES + j] = (d1 - d2) * ktg
        work[AT_SLOPE + C * LANES + j] = (glucose - work[C * LANES + j]) * per_ts


@jit
def transition(dt_min: float, dynamics: Any, phi: Any, noise: Any) -> None:
    """Φ and noise factor of the linear block over ``dt_min``.

    dynamics: float64[8, 3]: (mean, τ in min, stationary SD) of each Ornstein–Uhlenbeck row; for the sensor
    rows τ is the time constant of two equal low-passes in series. Their 5-min samples have the AR(2) part
    α1 = 2e^(−5/τ), α2 = −e^(−10/τ) and a short moving average; with white noise of 1 mg/dL on top they come
    within .008 nats per reading of Vettoretti's AR(2). Any sampling interval works.
    """
    for i in range(N_LINEAR):
        for j in range(N_LINEAR):
            phi[i, j] = 0.0
            noise[i, j] = 0.0
        decay = math.exp(-dt_min / dynamics[i, 1])
        phi[i, i] = decay
        noise[i, i] = dynamics[i, 2] * math.sqrt(max(0.0, 1.0 - decay * decay))
    # Sensor pair: m' = −γm + w, n' = γ(m − n); stationary var m = 2σ², cov = var n = σ².
    gamma_dt = dt_min / dynamics[SENSOR, 1]
    decay = math.exp(-gamma_dt)
    var = dynamics[SENSOR, 2] * dynamics[SENSOR, 2]
    phi[SENSOR_SLOW, SENSOR_SLOW] = decay
    phi[SENSOR, SENSOR] = decay
    phi[SENSOR, SENSOR_SLOW] = gamma_dt * decay
    e2 = decay * decay
    q_mm = 2.0 * var * (1.0 - e2)
    q_mn = var - e2 * (var + 2.0 * var * gamma_dt)
    q_nn = var - e2 * (var + 2.0 * var * gamma_dt + 2.0 * var * gamma_dt * gamma_dt)
    root = math.sqrt(max(q_mm, 0.0))
    noise[SENSOR_SLOW, SENSOR_SLOW] = root
    cross = q_mn / root if root > 0.0 else 0.0
    noise[SENSOR, SENSOR_SLOW] = cross
    noise[SENSOR, SENSOR] = math.sqrt(max(0.0, q_nn - cross * cross))


@jit
def drive(drivers: Any, held: Any, consts: Any, dt_min: float, n_steps: int, nodes: Any) -> None:
    """Fill ``nodes`` float64[≥ 2 n_steps + 1, 5] over ``dt_min`` and advance ``drivers`` float64[4] in place.

    held: float64[4] basal mU/min, heart rate above rest, resting heart rate, local hour at the start.
    """
    half = 0.5 * dt_min / n_steps
    k_long = consts[K_LONG]
    k_site = consts[K_SITE]
    keep_long = math.exp(-k_long * half)
    keep_site = math.exp(-k_site * half)
    share = k_long / (k_site - k_long)
    keep_y = math.exp(-half / 5.0)
    keep_d = math.exp(-half / consts[TAU_D])
    weight = 1.0
    for node in range(2 * n_steps + 1):
        if node > 0:
            ratio = 0.0
            if held[HR_REST] > 0.0:
                ratio = drivers[EX_Y] / (0.1 * held[HR_REST])
            r4 = ratio * ratio * ratio * ratio
            f = r4 / (1.0 + r4)
            rate = f + 1.0 / 600.0
            drivers[EX_Z] = f / rate + (drivers[EX_Z] - f / rate) * math.exp(-rate * half)
            drivers[EX_Y] = held[HR_EXCESS] + (drivers[EX_Y] - held[HR_EXCESS]) * keep_y
            drivers[L2] = drivers[L2] * keep_site + share * drivers[L1] * (keep_long - keep_site)
            drivers[L1] *= keep_long
            weight *= keep_d
        hour = (held[LOCAL_H] + node * half / 60.0) % 24.0
        dawn = (hour - 6.7) / 1.6
        nodes[node, U_INSULIN] = held[BASAL] + k_site * drivers[L2]
        nodes[node, U_SENS] = math.exp(-consts[CIRC_LN] * math.exp(-0.5 * dawn * dawn))
        nodes[node, U_Y] = drivers[EX_Y]
        nodes[node, U_Z] = drivers[EX_Z]
        nodes[node, U_D] = weight


sweep = make_sweep("hovorka", load, rhs, N_LINEAR, N_STATE)
sweep_one = make_sweep("hovorka", load, rhs, N_LINEAR, N_STATE, ONE)
predict = make_predict("hovorka", sweep, transition, N_LINEAR, N_STATE)
WORK_SIZE: Final = workspace_size(N_LINEAR, N_STATE, N_PARAM)


@jit
def observe(points: Any, j: int) -> float:
    """CGM reading (mg/dL) that column ``j`` would give."""
    reading: float = MGDL_PER_MMOLL * points[N_LINEAR + C, j] + points[SENSOR, j]
    return reading


coast = make_coast("hovorka", drive, sweep_one, transition, observe, (N_LINEAR, N_STATE, N_INPUT, LOCAL_H))
COAST_SIZE: Final = coast_size(N_LINEAR, N_STATE, N_PARAM, N_INPUT)


@jit
def signals(mean: Any, consts: Any, out: Any) -> None:
    """What the online correction looks at (order of core.correction): mg/dL, U, mmol/kg."""
    x = N_LINEAR
    out[0] = MGDL_PER_MMOLL * mean[x + C]
    out[1] = MGDL_PER_MMOLL * mean[x + Q1] / consts[VG]
    out[2] = mean[SENSOR]
    out[3] = mean[DISTURBANCE]
    out[4] = max(mean[x + S1] + mean[x + S2], 0.0) / 1000.0
    out[5] = max(mean[x + S2], 0.0) / 1000.0
    out[6] = max(mean[x + D1] + mean[x + D2], 0.0)
    out[7] = max(mean[x + D2], 0.0)
    out[8] = mean[x + X2]
    out[9] = mean[x + X3]


def imbalance(consts: Array, insulin_mupl: float, glucose_mmoll: float, ln_s: float, ln_egp0: float) -> float:
    """Net glucose flux (mmol/kg/min) into plasma at rest; falls strictly in insulin, glucose and ln s."""
    s = math.exp(ln_s)
    x1, x2, x3 = (s * consts[i] * insulin_mupl for i in (SIT, SID, SIE))
    above = (glucose_mmoll - consts[RTH]) / SOFTPLUS_W
    soft = above if above > 30.0 else math.log1p(math.exp(above))
    return float(
        consts[EGP0] * math.exp(ln_egp0 - x3)
        - consts[F01] / 0.85 * glucose_mmoll / (glucose_mmoll + 1.0)
        - consts[RCL] * consts[VG] * SOFTPLUS_W * soft
        - consts[K_REVERT] * consts[VG] * (glucose_mmoll - consts[G_REVERT])
        - glucose_mmoll * consts[VG] * x1 * x2 / (consts[K12] + x2)
    )


def _root(falls: Any, low: float, high: float) -> float:
    """Root of a strictly falling function by bisection, clipped to [low, high]."""
    if falls(low) <= 0.0:
        return low
    if falls(high) >= 0.0:
        return high
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if falls(middle) > 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def plasma_insulin(consts: Array, basal_mupm: float) -> float:
    """Steady plasma insulin (mU/L) under a constant infusion (mU/min)."""
    return float(basal_mupm / (consts[KE] * consts[VI] * consts[BW]))


def ln_s_from_fasting(consts: Array, basal_mupm: float, fasting_mmoll: float, ln_egp0: float = 0.0) -> float:
    """The ln sensitivity at which this basal rate holds this fasting glucose, within [−3, 2.5]."""
    insulin = plasma_insulin(consts, basal_mupm)
    return _root(lambda ln_s: imbalance(consts, insulin, fasting_mmoll, ln_s, ln_egp0), -3.0, 2.5)


def glucose_from_basal(consts: Array, basal_mupm: float, ln_s: float, ln_egp0: float = 0.0) -> float:
    """Steady glucose (mmol/L) under a constant infusion; always exists, clipped to [0.1, 60]."""
    insulin = plasma_insulin(consts, basal_mupm)
    return _root(lambda g: imbalance(consts, insulin, g, ln_s, ln_egp0), 0.1, 60.0)


def basal_from_glucose(consts: Array, glucose_mmoll: float, ln_s: float, ln_egp0: float = 0.0) -> float:
    """The infusion (mU/min) that holds this glucose; 0 when it would hold without insulin."""
    per_rate = plasma_insulin(consts, 1.0)
    return _root(lambda u: imbalance(consts, u * per_rate, glucose_mmoll, ln_s, ln_egp0), 0.0, 500.0)


def steady_state(consts: Array, basal_mupm: float, ln_s: float, ln_ti: float, glucose_mmoll: float) -> Array:
    """State block float64[11] at rest under a constant infusion and a given glucose."""
    x = np.zeros(N_STATE)
    s = math.exp(ln_s)
    insulin = plasma_insulin(consts, basal_mupm)
    x[S1] = x[S2] = basal_mupm * consts[TI] * math.exp(ln_ti)
    x[I] = insulin
    x[X1], x[X2], x[X3] = (s * consts[i] * insulin for i in (SIT, SID, SIE))
    x[Q1] = glucose_mmoll * consts[VG]
    x[Q2] = x[X1] * x[Q1] / (consts[K12] + x[X2])
    x[C] = glucose_mmoll
    return x


def meal_mmol_per_kg(consts: Array, carbs_g: float, ln_ag: float) -> float:
    """What a meal adds to D1."""
    return float(consts[AG] * math.exp(ln_ag) * carbs_g * MMOL_PER_G / consts[BW])


def cgm_row() -> Array:
    """Observation row of a CGM reading in mg/dL: interstitial glucose plus sensor error."""
    row = np.zeros(N)
    row[N_LINEAR + C] = MGDL_PER_MMOLL
    row[SENSOR] = 1.0
    return row


def blood_row(consts: Array) -> Array:
    """Observation row of a fingerstick in mg/dL: plasma glucose."""
    row = np.zeros(N)
    row[N_LINEAR + Q1] = MGDL_PER_MMOLL / consts[VG]
    return row
