"""What the virtual person's sensors make of the truth: CGM, fingerstick meter, heart-rate strap.

CGM after Vettoretti 2019 (Sensors 19:5320, Dexcom G6): calibration drift over days, offset, and an AR(2)
error each 5 minutes; parameters are drawn anew for each sensor session. On top: warm-up, dropouts,
compression lows at night, and a delay of the sensor's own processing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

CGM_PERIOD_MIN: Final = 5
SESSION_DAYS: Final = 10
WARM_UP_MIN: Final = 120
CGM_LOW_MGDL: Final = 40.0
CGM_HIGH_MGDL: Final = 400.0

# Mean and SD of a0, a1, a2, b0, alpha1, alpha2, q.
_MEAN: Final = np.array([0.9423, 0.00494, -5.85e-4, 6.38, 1.2604, -0.4022, 3.252])
_SD: Final = np.array([0.115, 0.043, 0.0037, 5.39, 0.144, 0.137, 0.851])
# Published pairs; a0–a2 and a2–b0 are not published and are set so that the matrix stays a correlation.
_PAIRS: Final = (
    (0, 1, -0.80),
    (0, 2, 0.76),
    (1, 2, -0.98),
    (0, 3, 0.25),
    (1, 3, -0.44),
    (2, 3, 0.42),
    (4, 5, -0.94),
)
_MAX_ERROR_SD_MGDL: Final = 10.0
_MAX_GAIN_ERROR: Final = 0.25  # beyond this at any time of its life a sensor would be returned

_DROPOUT_PER_DAY: Final = 2.0
_DROPOUT_MEAN_MIN: Final = 20.0
_COMPRESSION_PER_NIGHT: Final = 0.1


@dataclass(frozen=True, slots=True)
class SensorErrors:
    """One session's error model. ``ideal()`` measures interstitial glucose exactly."""

    a0: float
    a1: float
    a2: float
    b0: float
    alpha1: float
    alpha2: float
    q: float
    delay_min: int

    def gain(self, age_days: float) -> float:
        return self.a0 + self.a1 * age_days + self.a2 * age_days * age_days

    def error_sd(self) -> float:
        """Stationary SD of the AR(2) error, mg/dL."""
        a, b = self.alpha1, self.alpha2
        return self.q * math.sqrt((1 - b) / ((1 + b) * ((1 - b) ** 2 - a * a)))


IDEAL_SENSOR: Final = SensorErrors(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
# The noise of an average sensor without its calibration error: for tests of the filter alone.
AVERAGE_NOISE: Final = SensorErrors(1.0, 0.0, 0.0, 0.0, 1.2604, -0.4022, 3.252, 0)


def _factor() -> np.ndarray:
    corr = np.eye(len(_MEAN))
    for i, j, rho in _PAIRS:
        corr[i, j] = corr[j, i] = rho
    return np.asarray(np.linalg.cholesky(corr))


def draw_sensor(rng: np.random.Generator) -> SensorErrors:
    """A sensor of the published spread (scaled by .9), redrawn until its error is stationary and bounded."""
    factor = _factor()
    days = np.linspace(0, SESSION_DAYS, 11)
    while True:
        a0, a1, a2, b0, al1, al2, q = _MEAN + math.sqrt(0.9) * _SD * (factor @ rng.standard_normal(7))
        stable = abs(al2) < 1 and al1 + al2 < 0.995 and al2 - al1 < 1
        if not stable or q < 1.0:
            continue
        gain = a0 + a1 * days + a2 * days**2
        sensor = SensorErrors(a0, a1, a2, b0, al1, al2, q, int(rng.integers(0, 6)))
        if sensor.error_sd() <= _MAX_ERROR_SD_MGDL and np.all(np.abs(gain - 1) < _MAX_GAIN_ERROR):
            return sensor


class Cgm:
    """A chain of sensors on one person. Call once per minute, in order."""

    def __init__(self, rng: np.random.Generator, errors: str | SensorErrors = "typical") -> None:
        """``errors``: "typical" (all of the above), "ideal" (interstitial glucose, no faults), or fixed
        errors without faults. The first sensor is some days old, so play does not begin with a warm-up."""
        self._rng = rng
        self._fixed = (
            IDEAL_SENSOR if errors == "ideal" else errors if isinstance(errors, SensorErrors) else None
        )
        if self._fixed is None and errors != "typical":
            raise ValueError("errors must be 'typical', 'ideal' or SensorErrors")
        self.sensor = self._fixed or draw_sensor(rng)
        self._age_min = 0 if self._fixed else int(rng.integers(1, SESSION_DAYS - 1)) * 1440
        self._memory = [math.nan] * 6  # interstitial glucose of the last minutes, for the delay
        self._e1 = self._e2 = 0.0
        self._out_until = -1
        self._press_from = self._press_until = -1
        self._press_depth = 0.0
        self._minute = 0

    def minute(self, interstitial_mgdl: float, local_minute: int) -> float | None:
        """The value shown at this minute, or None between periods and while there is none."""
        minute, self._minute = self._minute, self._minute + 1
        if math.isnan(self._memory[0]):
            self._memory = [interstitial_mgdl] * len(self._memory)
        self._memory = [interstitial_mgdl, *self._memory[:-1]]
        self._age_min += 1
        if self._fixed is None:
            self._faults(minute, local_minute)
        if minute % CGM_PERIOD_MIN:
            return None
        s = self.sensor
        error = s.alpha1 * self._e1 + s.alpha2 * self._e2 + s.q * float(self._rng.standard_normal())
        self._e1, self._e2 = error, self._e1
        if self._age_min < WARM_UP_MIN and self._fixed is None:
            return None
        if minute < self._out_until:
            return None
        seen = (
            s.gain(self._age_min / 1440.0) * self._memory[s.delay_min] + s.b0 + error - self._pressed(minute)
        )
        if self._fixed is not None and s.q == 0.0:
            return seen
        return float(round(min(CGM_HIGH_MGDL, max(CGM_LOW_MGDL, seen))))

    def _faults(self, minute: int, local_minute: int) -> None:
        rng = self._rng
        if self._age_min >= SESSION_DAYS * 1440 and 420 <= local_minute < 1320:
            self.sensor, self._age_min = draw_sensor(rng), 0  # changed by day, not in sleep
            self._e1 = self._e2 = 0.0
        due = minute % CGM_PERIOD_MIN == 0 and minute >= self._out_until
        if due and rng.random() < _DROPOUT_PER_DAY * CGM_PERIOD_MIN / 1440:
            self._out_until = minute + max(CGM_PERIOD_MIN, round(rng.exponential(_DROPOUT_MEAN_MIN)))
        if local_minute == 30 and rng.random() < _COMPRESSION_PER_NIGHT:
            self._press_from = minute + int(rng.integers(0, 300))
            self._press_until = self._press_from + int(rng.integers(15, 41))
            self._press_depth = float(rng.uniform(25.0, 45.0))

    def _pressed(self, minute: int) -> float:
        """Depth of a compression low: ramps of 5 minutes at both ends."""
        into, left = minute - self._press_from, self._press_until - minute
        if into < 0 or left < 0:
            return 0.0
        return self._press_depth * min(1.0, (into + 1) / 5.0, (left + 1) / 5.0)


def fingerstick(rng: np.random.Generator, plasma_mgdl: float) -> float:
    """A home meter: SD 5 % or 5 mg/dL, whichever is larger (inside ISO 15197:2013)."""
    sd = max(5.0, 0.05 * plasma_mgdl)
    return float(round(min(600.0, max(20.0, plasma_mgdl + sd * float(rng.standard_normal())))))


class HeartRate:
    """Resting rate with a daily rhythm, wandering, light activity by day, and bouts of effort. 1/min."""

    def __init__(self, rng: np.random.Generator, resting_bpm: float) -> None:
        self._rng, self._resting = rng, resting_bpm
        self._wander = 0.0
        self._light = 0.0

    def five_minutes(self, local_minute: int, effort_bpm: float, awake: bool, extra_bpm: float) -> float:
        """The median of 5 minutes, as a strap reports it."""
        rng = self._rng
        self._wander = 0.9 * self._wander + 1.5 * float(rng.standard_normal())
        started = awake and rng.random() < 0.08
        self._light = float(rng.uniform(8.0, 25.0)) if started else 0.6 * self._light
        rhythm = 4.0 * math.cos(2 * math.pi * (local_minute / 60.0 - 15.0) / 24.0) + (3.0 if awake else -3.0)
        value = self._resting + rhythm + self._wander + extra_bpm + max(effort_bpm, self._light)
        return float(round(min(210.0, max(35.0, value))))
