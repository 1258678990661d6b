"""Online correction of the mechanistic forecast: what the model misses in the same way again and again.

Real meals are unlogged, late and misjudged, people correct and snack by habit; the residual of a mechanistic
forecast is therefore predictable. Each quarter of an hour the base forecast is noted together with 67 features
(recent readings, filtered state, hour of the day, time since the last meal and bolus, and products of them). Six hours later, when all targets
are known, one recursive-least-squares step moves the weights of all ten horizons (they share their
features, hence one covariance). The population's weights are the prior, their precision says how far a
person must differ to move them, and a slow forgetting (1 % a day) never goes below the prior.

The same queue keeps the bands honest: scale factors per horizon and glucose range follow, up and down, how
often the target fell outside, separately for each side (adaptive conformal inference: Gibbs & Candès 2021).

Everything here uses the past only, and all of it lies in one flat array, so that a checkpoint is one copy.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from core.correction_layout import (
    AT_ACT,
    AT_COUNT,
    AT_HIGH,
    AT_LOW,
    AT_MEANS,
    AT_P,
    AT_QUEUE,
    AT_RING,
    AT_SEEN,
    AT_TIMES,
    AT_W,
    HORIZONS_MIN,
    N_BIN,
    N_PSI,
    QUEUE,
    RING,
    ROW,
    SIZE,
    Array,
    H,
    K,
    Population,
)
from core.jit import jit

__all__ = [
    "AT_ACT",
    "AT_COUNT",
    "AT_HIGH",
    "AT_LOW",
    "AT_MEANS",
    "AT_P",
    "AT_QUEUE",
    "AT_RING",
    "AT_SEEN",
    "AT_TIMES",
    "AT_W",
    "HORIZONS_MIN",
    "N_BIN",
    "N_PSI",
    "QUEUE",
    "RING",
    "ROW",
    "SIZE",
    "Array",
    "H",
    "K",
    "Population",
]

LAGS_MIN: Final = (15.0, 30.0, 45.0, 60.0, 90.0, 120.0)
BASE_AT: Final = (1, 3, 5, 7, 9)  # horizons whose base forecast is a feature
MEAL_G: Final = 5.0  # smaller acts are rescue sugar and priming, not meals and doses
BOLUS_U: Final = 0.5
ACT_TAU_MIN: Final = (60.0, 150.0)  # how long an act is remembered
ACT_LIMIT_MIN: Final = 360.0

# Signals that the model hands over (core.models.*.signals).
G_SENSED, G_PLASMA, SENSOR_ERROR, DISTURBANCE, ON_BOARD, ACTING, GUT, ABSORBING, X2, X3 = range(10)
N_SIGNAL: Final = 10

PUSH_MIN: Final = 15.0  # closer notes say the same thing again: accuracy is equal, cost is not
RING_GAP_MIN: Final = 4.5
BRIDGE_MIN: Final = 20.5  # a target between two readings closer than this is interpolated
LAG_BRIDGE_MIN: Final = 31.0
NOISE_INFLATION: Final = 4.0  # neighbouring quarter hours share most of their error
FORGET_PER_DAY: Final = 0.99
CLIP_SD: Final = 6.0
HUBER_SD: Final = 3.0
MISS_EACH_SIDE: Final = 0.047  # a little under 5 %: tracking itself costs some coverage
BAND_RATE: Final = 0.02
BAND_RATE_FIRST: Final = 0.08  # while fewer than some 100 targets have been seen

_HORIZON = np.array(HORIZONS_MIN)
_MEAN_TAU_H: Final = (24.0, 6.0, 96.0)


def neutral() -> Population:
    """No knowledge at all: no correction, features scaled so far down that none is clipped. For fitting."""
    return Population(
        np.zeros(K),
        np.full(K, 1e6),
        np.zeros((K, H)),
        np.zeros((K, K)),
        np.full(H, 900.0),
        np.zeros((N_PSI, H)),
        np.full((H, N_BIN), 50.0),
        np.full((H, N_BIN), 50.0),
    )


def fresh(population: Population) -> Array:
    """The array of somebody of whom nothing has been seen."""
    learn = np.zeros(SIZE)
    learn[AT_P:AT_W] = population.cov.ravel()
    learn[AT_W:AT_LOW] = population.weights.ravel()
    learn[AT_LOW:AT_HIGH] = population.low.ravel()
    learn[AT_HIGH:AT_SEEN] = population.high.ravel()
    learn[AT_TIMES : AT_TIMES + 4] = np.nan
    learn[AT_ACT : AT_ACT + 2] = -np.inf
    return learn


def note_act(learn: Array, t_min: float, kind: str, amount: float) -> None:
    """Take in a meal (``carbs_g``) or a dose (``bolus_u``) that was really taken; other kinds are ignored."""
    if kind == "carbs_g" and amount >= MEAL_G:
        learn[AT_ACT] = t_min
    elif kind == "bolus_u" and amount >= BOLUS_U:
        learn[AT_ACT + 1] = t_min


@jit
def note_reading(learn: Any, t_min: float, glucose_mgdl: float) -> None:
    """Take in a reading: it may complete targets, feeds the lags and the running means."""
    t0 = learn[AT_TIMES]
    y0 = learn[AT_TIMES + 1]
    if t_min <= t0:
        return
    gap = t_min - t0
    first = int(learn[AT_COUNT + 3])
    for n in range(int(learn[AT_COUNT + 2])):
        row = AT_QUEUE + ((first + n) % QUEUE) * ROW
        for k in range(H):
            due = learn[row] + _HORIZON[k]
            if due > t0 and due <= t_min:
                if gap <= BRIDGE_MIN:
                    value = y0 + (glucose_mgdl - y0) * (due - t0) / gap
                elif t_min - due <= 1.5:
                    value = glucose_mgdl
                else:
                    continue
                learn[row + 2 + K + H + k] = value
    for k in range(3):
        share = 1.0
        if not math.isnan(t0):
            share = 1.0 - math.exp(-min(gap / 60.0, 24.0) / _MEAN_TAU_H[k])
        learn[AT_MEANS + k] += share * (glucose_mgdl - learn[AT_MEANS + k])
    length = int(learn[AT_COUNT])
    last = AT_RING + 2 * ((int(learn[AT_COUNT + 1]) + RING - 1) % RING)
    if length == 0 or t_min - learn[last] >= RING_GAP_MIN:
        at = AT_RING + 2 * int(learn[AT_COUNT + 1])
        learn[at] = t_min
        learn[at + 1] = glucose_mgdl
        learn[AT_COUNT + 1] = (int(learn[AT_COUNT + 1]) + 1) % RING
        learn[AT_COUNT] = min(length + 1, RING)
    learn[AT_TIMES] = t_min
    learn[AT_TIMES + 1] = glucose_mgdl


@jit
def lagged(learn: Any, t_min: float, y0: float) -> float:
    """Reading at ``t_min`` minus ``y0``, between neighbours; 0 when unknown."""
    length = int(learn[AT_COUNT])
    after_t = learn[AT_TIMES]
    after_y = learn[AT_TIMES + 1]
    for n in range(length):
        at = AT_RING + 2 * ((int(learn[AT_COUNT + 1]) + RING - 1 - n) % RING)
        t = learn[at]
        if t <= t_min:
            span = after_t - t
            if span > LAG_BRIDGE_MIN:
                return 0.0
            if span <= 0.0:
                return learn[at + 1] - y0
            return learn[at + 1] + (after_y - learn[at + 1]) * (t_min - t) / span - y0
        after_t = t
        after_y = learn[at + 1]
    return 0.0


@jit
def features(learn: Any, signals: Any, base: Any, hour: float, scaler: Any, x: Any, psi: Any) -> int:
    """Fill ``x`` float64[K] (scaled) and ``psi`` float64[N_PSI]; returns the glucose range 0..2.

    base: float64[H] base forecasts (mg/dL) from the last reading. scaler: float64[2, K] centre and spread.
    """
    t0 = learn[AT_TIMES]
    y0 = learn[AT_TIMES + 1]
    yv = (y0 - 150.0) / 50.0
    turn = 2.0 * math.pi * hour / 24.0
    s1, c1 = math.sin(turn), math.cos(turn)
    s2, c2 = math.sin(2.0 * turn), math.cos(2.0 * turn)
    on_board, acting = signals[ON_BOARD], signals[ACTING]
    gut, absorbing = signals[GUT], signals[ABSORBING]
    d = signals[DISTURBANCE]
    x[0] = 1.0
    x[1], x[2], x[3], x[4] = s1, c1, s2, c2
    x[5], x[6] = math.sin(3.0 * turn), math.cos(3.0 * turn)
    x[7], x[8] = math.sin(4.0 * turn), math.cos(4.0 * turn)
    x[9] = yv
    for i in range(6):
        x[10 + i] = lagged(learn, t0 - LAGS_MIN[i], y0)
    slope = -x[11] / 30.0
    for i in range(5):
        x[16 + i] = base[BASE_AT[i]] - y0
    x[21] = (signals[G_SENSED] - 150.0) / 50.0
    x[22] = signals[SENSOR_ERROR]
    x[23] = signals[G_PLASMA] - signals[G_SENSED]
    x[24] = d
    x[25], x[26], x[27], x[28] = on_board, acting, gut, absorbing
    x[29], x[30], x[31] = max(yv, 0.0), max(-1.0 - yv, 0.0), yv * yv
    x[32], x[33] = slope * yv, slope * abs(slope)
    x[34], x[35], x[36], x[37] = yv * on_board, yv * acting, d * yv, abs(slope)
    x[38], x[39], x[40], x[41] = s1 * yv, c1 * yv, s2 * yv, c2 * yv
    for i in range(3):
        x[42 + i] = (learn[AT_MEANS + i] - 150.0) / 50.0
    x[45], x[46], x[47] = s1 * gut, s1 * on_board, s1 * slope
    x[48], x[49], x[50] = c1 * gut, c1 * on_board, c1 * slope
    x[51] = gut * yv
    x[52], x[53] = math.log1p(10.0 * on_board), math.log1p(10.0 * acting)
    x[54], x[55] = math.log1p(5.0 * gut), math.log1p(5.0 * absorbing)
    x[56], x[57] = signals[X2] * y0 / 100.0, signals[X3] * y0 / 100.0
    x[58], x[59] = lagged(learn, t0 - 5.0, y0), lagged(learn, t0 - 10.0, y0)
    bend = (x[11] - 2.0 * x[10]) / 15.0
    x[60], x[61], x[62] = bend, bend * yv, bend * abs(bend)
    for act in range(2):
        since = min(max(t0 - learn[AT_ACT + act], 0.0), ACT_LIMIT_MIN)
        for i in range(2):
            x[63 + 2 * act + i] = math.exp(-since / ACT_TAU_MIN[i])
    for i in range(1, K):
        x[i] = min(max((x[i] - scaler[0, i]) / scaler[1, i], -CLIP_SD), CLIP_SD)
    psi[0] = 1.0
    psi[1] = min(max(yv, -2.0), 4.0)
    psi[2] = min(max(yv, 0.0), 4.0)
    psi[3] = min(abs(slope), 3.0)
    psi[4] = min(20.0 * abs(d), 3.0)
    psi[5] = math.log1p(5.0 * gut)
    psi[6] = math.log1p(10.0 * on_board)
    psi[7], psi[8], psi[9], psi[10] = s1, c1, s2, c2
    if y0 < 80.0:
        return 0
    return 1 if y0 < 180.0 else 2


@jit
def correct(learn: Any, x: Any, psi: Any, beta: Any, band: int, out: Any) -> None:
    """``out`` float64[4, H]: correction of the mean, ln scale, half width below, half width above (mg/dL)."""
    for k in range(H):
        total = 0.0
        for i in range(K):
            total += learn[AT_W + i * H + k] * x[i]
        scale = 0.0
        for i in range(N_PSI):
            scale += beta[i, k] * psi[i]
        scale = min(max(scale, 0.0), 5.0)
        out[0, k] = min(max(total, -150.0), 150.0)
        out[1, k] = scale
        out[2, k] = learn[AT_LOW + k * N_BIN + band] * math.exp(scale)
        out[3, k] = learn[AT_HIGH + k * N_BIN + band] * math.exp(scale)


@jit
def push(learn: Any, x: Any, base: Any, out: Any, band: int) -> None:
    """Note a forecast at the last reading, to learn from when its targets are known."""
    length = int(learn[AT_COUNT + 2])
    first = int(learn[AT_COUNT + 3])
    if length == QUEUE:  # cannot happen while ``mature`` runs at each reading; the oldest would go
        first = (first + 1) % QUEUE
        length -= 1
        learn[AT_COUNT + 3] = first
    row = AT_QUEUE + ((first + length) % QUEUE) * ROW
    learn[row] = learn[AT_TIMES]
    learn[row + 1] = band
    for i in range(K):
        learn[row + 2 + i] = x[i]
    at = row + 2 + K
    for k in range(H):
        learn[at + k] = base[k]
        learn[at + H + k] = math.nan
        learn[at + 2 * H + k] = out[0, k]
        learn[at + 3 * H + k] = out[1, k]
    learn[AT_COUNT + 2] = length + 1
    learn[AT_TIMES + 2] = learn[AT_TIMES]


@jit
def mature(learn: Any, cov0: Any, var: Any, gain: Any) -> int:
    """Learn from all notes whose last target time has passed; returns how many. gain: float64[K] scratch."""
    done = 0
    while learn[AT_COUNT + 2] > 0.0:
        first = int(learn[AT_COUNT + 3])
        row = AT_QUEUE + first * ROW
        if learn[row] + _HORIZON[H - 1] > learn[AT_TIMES]:
            break
        at = row + 2 + K
        known = False
        for k in range(H):
            if not math.isnan(learn[at + H + k]):
                known = True
        if known:
            _learn_band(learn, row)
            _learn_weights(learn, row, var, gain)
            done += 1
        _forget(learn, learn[row], cov0)
        learn[AT_COUNT + 3] = (first + 1) % QUEUE
        learn[AT_COUNT + 2] -= 1.0
    return done


@jit
def _learn_weights(learn: Any, row: int, var: Any, gain: Any) -> None:
    """One recursive-least-squares step for all horizons with a shared covariance."""
    x = row + 2
    at = row + 2 + K
    s = NOISE_INFLATION
    # By rows of the symmetric covariance: such loops run wide, sums along a row would not.
    for i in range(K):
        gain[i] = 0.0
    for j in range(K):
        value = learn[x + j]
        for i in range(K):
            gain[i] += learn[AT_P + j * K + i] * value
    for i in range(K):
        s += gain[i] * learn[x + i]
    for k in range(H):
        target = learn[at + H + k]
        if math.isnan(target):
            continue
        error = target - learn[at + k]
        for i in range(K):
            error -= learn[AT_W + i * H + k] * learn[x + i]
        limit = HUBER_SD * math.sqrt(var[k])
        error = min(max(error, -limit), limit) / s
        for i in range(K):
            learn[AT_W + i * H + k] += gain[i] * error
    for i in range(K):
        g = gain[i] / s
        for j in range(K):
            learn[AT_P + i * K + j] -= g * gain[j]


@jit
def _learn_band(learn: Any, row: int) -> None:
    """Widen or narrow each side by whether the target fell outside it."""
    at = row + 2 + K
    band = int(learn[row + 1])
    for k in range(H):
        target = learn[at + H + k]
        if math.isnan(target):
            continue
        z = (target - learn[at + k] - learn[at + 2 * H + k]) / math.exp(learn[at + 3 * H + k])
        cell = k * N_BIN + band
        seen = learn[AT_SEEN + cell]
        learn[AT_SEEN + cell] = seen + 1.0
        rate = max(BAND_RATE, BAND_RATE_FIRST / (1.0 + seen / 100.0))
        low = learn[AT_LOW + cell]
        high = learn[AT_HIGH + cell]
        below = 1.0 if z < -low else 0.0
        above = 1.0 if z > high else 0.0
        learn[AT_LOW + cell] = low * math.exp(rate * (below - MISS_EACH_SIDE))
        learn[AT_HIGH + cell] = high * math.exp(rate * (above - MISS_EACH_SIDE))


@jit
def _forget(learn: Any, t_min: float, cov0: Any) -> None:
    """Once a day, inflate the covariance a little, never beyond the prior's."""
    last = learn[AT_TIMES + 3]
    if math.isnan(last):
        learn[AT_TIMES + 3] = t_min
        return
    days = (t_min - last) / 1440.0
    if days < 1.0:
        return
    learn[AT_TIMES + 3] = t_min
    grow = FORGET_PER_DAY ** (-min(days, 30.0))
    for i in range(K * K):
        learn[AT_P + i] *= grow
    for i in range(K):
        if learn[AT_P + i * K + i] > cov0[i, i]:
            shrink = math.sqrt(cov0[i, i] / learn[AT_P + i * K + i])
            for j in range(K):
                learn[AT_P + i * K + j] *= shrink
                learn[AT_P + j * K + i] *= shrink
