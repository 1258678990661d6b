"""What the filter learns about its own noise, and which readings it holds for wrong.

Plain functions on the scalars of a track: nothing here knows the model.
"""

from __future__ import annotations

import enum
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Scalars that move along; part of a checkpoint.
(SC_NIS, SC_LAST_READING, SC_FIRST_READING, SC_READINGS, SC_OUTLIER_RUN, SC_HR_AT, SC_NIS_MEAN,
 SC_INTERVAL, SC_HAS_BASAL, SC_LAST_VALUE, SC_WHITE_VAR, SC_LONG_AT, SC_BASAL_AT, SC_LN_RESTLESS,
 SC_Z1, SC_Z2, SC_LN_SENSOR, SC_PRESS_AT, SC_PRESS_LEVEL, SC_PRESS_RUN, N_SCALAR) = range(21)  # fmt: skip

GATE_NIS: Final = 10.8  # p = .001 for one degree of freedom
NIS_AIM: Final = 0.9  # of a mean that cuts off outliers
RESTLESS_RATE: Final = 0.005  # about 200 readings
RESTLESS_BOUNDS: Final = (-1.5, 1.5)
CLOSE_MIN: Final = 4.0  # two readings closer than this show white noise, hardly any physiology
WHITEN_AIM: Final = -0.15  # sum of the innovations' correlation at 5 and 10 min; good sensors lie above it
WHITEN_RATE: Final = 0.0025  # about four days
WHITEN_RATE_FIRST: Final = 0.008  # at the first reading, halved after WHITEN_READINGS
WHITEN_READINGS: Final = 500.0
WHITEN_LIMIT: Final = 0.9  # ln: error SD up to 12 mg/dL
JITTER_AIM: Final = -0.2  # correlation of neighbouring innovations; below it, readings jump on their own
JITTER_RATE: Final = 0.02
JITTER_LIMIT: Final = 8.0**2  # (mg/dL)²
WHITEN_GAP_MIN: Final = 6.0  # readings further apart say nothing about it
# Compression lows: lying on the sensor makes it read 25–45 mg/dL low within minutes, for 15–40 min.
PRESS_MIN: Final = 40.0  # longer is a real low
PRESS_FROM_H: Final = 22.0  # people lie down at night
PRESS_TO_H: Final = 9.0
PRESS_CALM_Z: Final = -2.2
PRESS_DROP_MGDL: Final = 15.0  # between two readings; real falls take longer to gain speed
PRESS_BACK_MGDL: Final = 15.0  # so close to the forecast, it is over
PRESS_DEEPER_MGDL: Final = 12.0  # below the first two readings: it goes on falling, so it is real
PRESS_VAR: Final = 60.0**2  # what a pressed reading still says
WILD_MGDL_PER_MIN: Final = 8.0  # glucose changes by 5 mg/dL/min at the very most
WILD_MGDL: Final = 25.0  # what two good readings may differ by


class Press(enum.Enum):
    """What a reading says about a compression low."""

    NONE = 0
    HELD = 1  # part of one: flagged, and hardly believed
    REFUTED = 2  # it was taken for one, but glucose did fall


def restless(scalars: Array, nis: float) -> None:
    """Scale the disturbance so that innovations have the size the filter says they have."""
    at = SC_LN_RESTLESS
    value = scalars[at] + RESTLESS_RATE * (min(nis, 9.0) - NIS_AIM)
    scalars[at] = min(max(value, RESTLESS_BOUNDS[0]), RESTLESS_BOUNDS[1])


def whiten(scalars: Array, z: float, gap_min: float, white_var: float) -> None:
    """Widen the sensor's error while innovations at 5 min follow each other with opposite sign.

    That is how a filter looks that takes sensor error for glucose. ``restless`` sets the overall size, this
    the share of the sensor: of its smooth error by the two last innovations together, of what is new with each
    reading (``white_var``: its least variance) by the last alone. Without the latter a rough sensor would be
    taken for a restless body, and insulin and meals for nothing. It never trusts a sensor more than the nominal
    values do.
    """
    z = min(max(z, -2.5), 2.5)
    if gap_min < CLOSE_MIN:
        return
    if gap_min > WHITEN_GAP_MIN or math.isnan(gap_min):
        scalars[SC_Z1], scalars[SC_Z2] = z, math.nan
        return
    if not math.isnan(scalars[SC_Z2]):
        rate = max(WHITEN_RATE, WHITEN_RATE_FIRST / (1.0 + scalars[SC_READINGS] / WHITEN_READINGS))
        pull = WHITEN_AIM - z * (scalars[SC_Z1] + scalars[SC_Z2])
        value = scalars[SC_LN_SENSOR] + rate * pull
        scalars[SC_LN_SENSOR] = min(max(value, 0.0), WHITEN_LIMIT)
        if scalars[SC_WHITE_VAR] < JITTER_LIMIT:  # two streams that do not agree may have made it wider still
            jitter = scalars[SC_WHITE_VAR] * math.exp(JITTER_RATE * (JITTER_AIM - z * scalars[SC_Z1]))
            scalars[SC_WHITE_VAR] = min(max(jitter, white_var), JITTER_LIMIT)
    scalars[SC_Z1], scalars[SC_Z2] = z, scalars[SC_Z1]


def pressed(
    scalars: Array, hour: float, glucose_mgdl: float, residual: float, nis: float, now_min: float
) -> Press:
    """Whether this is a reading of a compression low: entered by a jump, left by return, depth or time."""
    if math.isnan(scalars[SC_PRESS_AT]):
        if (
            (hour >= PRESS_FROM_H or hour < PRESS_TO_H)
            and residual < 0.0
            and nis > GATE_NIS
            and now_min - scalars[SC_LAST_READING] <= WHITEN_GAP_MIN
            and scalars[SC_LAST_VALUE] - glucose_mgdl > PRESS_DROP_MGDL
            and scalars[SC_Z1] > PRESS_CALM_Z  # the reading before was nearly right: no fall was under way
        ):
            scalars[SC_PRESS_AT] = now_min
            scalars[SC_PRESS_LEVEL] = glucose_mgdl
            scalars[SC_PRESS_RUN] = 1.0
            return Press.HELD
        return Press.NONE
    scalars[SC_PRESS_RUN] += 1.0
    level = scalars[SC_PRESS_LEVEL]
    if scalars[SC_PRESS_RUN] == 2.0:
        scalars[SC_PRESS_LEVEL] = min(level, glucose_mgdl)
    elif glucose_mgdl < level - PRESS_DEEPER_MGDL or now_min - scalars[SC_PRESS_AT] > PRESS_MIN:
        scalars[SC_PRESS_AT] = math.nan
        return Press.REFUTED
    if residual > -PRESS_BACK_MGDL:
        scalars[SC_PRESS_AT] = math.nan
        return Press.NONE
    return Press.HELD


def wild(scalars: Array, glucose_mgdl: float, now_min: float) -> bool:
    """Whether glucose cannot have changed that fast since the last reading."""
    last = scalars[SC_LAST_READING]
    if math.isnan(last):
        return False
    change = abs(glucose_mgdl - scalars[SC_LAST_VALUE])
    return bool(change > WILD_MGDL + WILD_MGDL_PER_MIN * (now_min - last))
