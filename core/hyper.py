"""Sizes of what is uncertain in a span of days: their covariances, and the search for the most likely ones.

Three things explain why readings are not where insulin and food alone would have them: the sensor errs, something
unrecorded moves glucose (``core.refine``'s disturbance), and the model is not the body. The last comes again: on days of
like habits a model of another structure errs alike at the same hour. It is an error of the level,

    glucose(t) = model(t) + δ(t),        δ ~ GP(0, level² · exp(−2·sin²(π·Δt/day)/w²)),

the discrepancy of Kennedy and O'Hagan (J R Stat Soc B 2001;63:425) with MacKay's periodic kernel (Rasmussen & Williams,
Gaussian Processes, 2006, eq. 4.31). Without it, it is blamed on the sensor, forgotten at the last reading, and made again the
day after. It shifts both courses of a question alike, so no effect changes by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.units import US_PER_DAY, US_PER_MIN

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

BIAS_MGDL: Final = 3.0  # constant error of the sensor over the span
SLOW_H: Final = 1.5  # width of what comes again each day, hours


class Noise(NamedTuple):
    """Hyperparameters, chosen by evidence."""

    sensor_mgdl: float = 6.0
    sensor_tau_min: float = 11.0
    fast: float = 0.012  # mmol/kg/min, stationary SD
    fast_tau_min: float = 30.0
    daily: float = 0.003
    meals: float = 1.0  # errors of logged meals, size and absorption, times what is usual
    level: float = 0.0  # mg/dL, the model's error that comes again each day; 0: taken to have none


# Where hyperparameters are looked for, and how far from the default is how unlikely (ln SD). The ends are wide, since who
# logs with care and lives evenly has a tenth of the usual errors: with .35 for meals and a tighter prior the search
# stayed at its edge in all virtual people of another structure, and bands of the next day held too much.
SEARCH: Final[Mapping[str, Sequence[float]]] = {
    "sensor_mgdl": (2.0, 3.0, 4.5, 6.0, 8.0, 11.0, 15.0, 20.0),
    "sensor_tau_min": (6.0, 11.0, 20.0, 35.0),
    "fast": (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032),
    "fast_tau_min": (15.0, 30.0, 60.0, 120.0),
    "daily": (0.0005, 0.0015, 0.003, 0.006, 0.012),
    "meals": (0.1, 0.2, 0.35, 0.6, 1.0, 1.5),
}
LEVELS: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
USUAL_LEVEL_MGDL: Final = 4.0
SEARCH_LN_SD: Final = 2.0
# The other start of the search: what moves is the sensor, not the body. From one start alone the search can stay with
# whichever explanation came first.
QUIET_BODY: Final = Noise(11.0, 20.0, 0.002, 30.0, 0.0015)


def disturbance_cov(noise: Noise, times_us: Ints) -> Array:
    """Prior covariance of the disturbance at times."""
    t = times_us / US_PER_MIN
    lag = np.abs(t[:, None] - t[None, :])
    return np.asarray(
        noise.fast**2 * np.exp(-lag / noise.fast_tau_min) + _each_day(noise.daily, times_us, times_us)
    )


def sensor_cov(noise: Noise, times_us: Ints) -> Array:
    """Covariance of a sensor's errors at times, (mg/dL)², white noise left out."""
    part = np.abs(times_us[:, None] - times_us[None, :]) / US_PER_MIN / noise.sensor_tau_min
    return np.asarray(noise.sensor_mgdl**2 * (1.0 + part) * np.exp(-part) + BIAS_MGDL**2)


def level_cov(noise: Noise, one_us: Ints, other_us: Ints) -> Array:
    """Prior covariance of the level's error between two lists of times, (mg/dL)²."""
    return _each_day(noise.level, one_us, other_us)


def _each_day(sd: float, one_us: Ints, other_us: Ints) -> Array:
    lag = (one_us[:, None] - other_us[None, :]) / US_PER_DAY
    width = 2.0 * math.pi * SLOW_H / 24.0
    return np.asarray(sd**2 * np.exp(-2.0 * np.sin(math.pi * lag) ** 2 / width**2))


def ln_prior(trial: Noise) -> float:
    """Of sizes, up to a constant."""
    usual = Noise(level=USUAL_LEVEL_MGDL if trial.level else 0.0)
    far = sum((math.log(a / b) / SEARCH_LN_SD) ** 2 for a, b in zip(trial, usual, strict=True) if b)
    return -0.5 * far


def likeliest(evidence: Callable[[Noise], float], noise: Noise) -> Noise:
    """Sizes with the largest evidence, one changed after the other, from two starts. Without a level it stays without."""
    search = {**SEARCH, **({"level": LEVELS} if noise.level else {})}
    starts = (noise, QUIET_BODY._replace(level=noise.level))
    return max(_climb(evidence, start, search) for start in starts)[1]


def _climb(
    evidence: Callable[[Noise], float], noise: Noise, search: Mapping[str, Sequence[float]]
) -> tuple[float, Noise]:
    """The largest evidence that changing one size after the other finds from a start."""
    best = evidence(noise)
    for _ in range(3):
        before = noise
        for name, values in search.items():
            for value in values:
                trial = noise._replace(**{name: value})
                if trial != noise and (there := evidence(trial)) > best + 1e-6:
                    best, noise = there, trial
        if noise == before:
            break
    return best, noise
