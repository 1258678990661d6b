"""Sizes of what is uncertain in a span of days: their covariances, and the search for the most likely ones.

Three things explain why readings are not where insulin and food alone would have them: the sensor errs, something
unrecorded moves glucose (``core.refine``'s disturbance), and the model is not the body. The last comes again. A stomach that
empties in two waves gives a second rise hours after each meal, which one absorption time cannot: it is an error of the
meal's course, a part of the disturbance in proportion to the meal,

    d(t) ∋ Σ_meals m_i · h(t − t_i),         h(τ) ~ GP(0, course² · exp(−½(Δτ/45 min)²)) within 6 h of a meal, else 0,

with one h for all meals of the person. And on days of like habits a model of another structure errs alike at the same hour.
It is an error of the level,

    glucose(t) = model(t) + δ(t),        δ ~ GP(0, level² · exp(−2·sin²(π·Δt/day)/w²)),

the discrepancy of Kennedy and O'Hagan (J R Stat Soc B 2001;63:425) with MacKay's periodic kernel (Rasmussen & Williams,
Gaussian Processes, 2006, eq. 4.31). Without both, they are blamed on the sensor, forgotten at the last reading, and made again
the day after. Both are the same with and without a change, so no effect is made of them.
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


class Meal(NamedTuple):
    """When a meal was eaten, and how much glucose it brings as logged."""

    time_us: int
    mmol_per_kg: float


Meals = Sequence[Meal]


class Noise(NamedTuple):
    """Hyperparameters, chosen by evidence."""

    sensor_mgdl: float = 6.0
    sensor_tau_min: float = 11.0
    fast: float = 0.012  # mmol/kg/min, stationary SD
    fast_tau_min: float = 30.0
    daily: float = 0.003
    meals: float = 1.0  # errors of logged meals, size and absorption, times what is usual
    level: float = 0.0  # mg/dL, the model's error that comes again each day; 0: taken to have none
    course: float = (
        0.0  # 1/min, share of a meal: the error of its course, alike after each meal; 0: taken to have none
    )


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
# What is looked for besides, and closer, where the model may err: size and duration of the sensor's error make up for each other,
# and on the wide steps above the search ended beside the ridge with a sensor a half too bad.
CLOSER: Final[Mapping[str, Sequence[float]]] = {
    "sensor_mgdl": (2.0, 3.0, 4.5, 6.0, 7.0, 8.0, 9.5, 11.0, 13.0, 15.0, 20.0),
    "sensor_tau_min": (6.0, 8.0, 11.0, 15.0, 20.0, 27.0, 35.0),
    "fast": (0.00025, *SEARCH["fast"]),
    "daily": (0.00025, *SEARCH["daily"]),
    "meals": (0.06, *SEARCH["meals"]),
    "level": (1.0, 2.0, 4.0, 8.0, 16.0),
    "course": (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.004),
}
USUAL_LEVEL_MGDL: Final = 4.0
USUAL_COURSE: Final = 0.001  # 6 % of a meal moved within the hour
COURSE_MIN: Final = 360.0  # how long after a meal its course may err
COURSE_WIDTH_MIN: Final = 45.0
COURSE_STEP_MIN: Final = 20.0  # h is held at points so far apart, linear between
SEARCH_LN_SD: Final = 2.0
# Where the model may err, its course and level take what its structure misses, and what is left for the unrecorded is of two
# kinds. People at home (first halves of seven recordings, two stretches of each) have a disturbance of .004 to .016 and errors
# of meals of .35 to 1.5 times the usual. Virtual people, who do nothing that is not logged, have next to none: two noisy days
# bound it from above, no more (summed over ten people seen before, readings speak against more than .0005 and .1, and below
# do not care). One wide prior about the first kind put each at the upper end of what its readings allow, and bands held too
# much. Which kind somebody is of, readings decide: with this share none of fifty stretches of two days of virtual people was taken
# for the first kind, none of twelve of simulated people with a moving body for the second, and a handful of readings leaves
# everybody with the first.
USUAL_KIND: Final = (0.008, 1.0)  # fast, meals
QUIET_KIND: Final = (0.00025, 0.06)
KIND_LN_SD: Final = 0.5  # as found among the people at home (.43 and .46)
QUIET_SHARE: Final = 0.05  # of people, before anything is read
# The other start of the search: what moves is the sensor, not the body. From one start alone the search can stay with
# whichever explanation came first. And a third where the model may err: besides the sensor, nothing moves but what comes again.
QUIET_BODY: Final = Noise(11.0, 20.0, 0.002, 30.0, 0.0015)
QUIET_LIFE: Final = Noise(9.5, 15.0, QUIET_KIND[0], 15.0, 0.0005, QUIET_KIND[1], 2.0, USUAL_COURSE)


def disturbance_cov(noise: Noise, times_us: Ints, meals: Meals = ()) -> Array:
    """Prior covariance of the disturbance at times, (mmol/kg/min)²; ``meals``: all that may be felt there."""
    t = times_us / US_PER_MIN
    lag = np.abs(t[:, None] - t[None, :])
    cov = noise.fast**2 * np.exp(-lag / noise.fast_tau_min) + _each_day(noise.daily, times_us, times_us)
    return np.asarray(cov + course_cov(noise, times_us, meals))


def course_cov(noise: Noise, times_us: Ints, meals: Meals) -> Array:
    """Prior covariance of what the courses of all meals err together at times, (mmol/kg/min)²."""
    if not (noise.course and meals):
        return np.zeros((times_us.size, times_us.size))
    lags = np.arange(COURSE_STEP_MIN, COURSE_MIN, COURSE_STEP_MIN)
    apart = (lags[:, None] - lags[None, :]) / COURSE_WIDTH_MIN
    since = (times_us[:, None] - np.array([m.time_us for m in meals])[None, :]) / US_PER_MIN
    hats = np.maximum(0.0, 1.0 - np.abs(since[:, :, None] - lags) / COURSE_STEP_MIN)
    share = np.einsum("tml,m->tl", hats, np.array([m.mmol_per_kg for m in meals]))
    return np.asarray(noise.course**2 * share @ np.exp(-0.5 * apart**2) @ share.T)


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
    usual = Noise(
        level=USUAL_LEVEL_MGDL if trial.level else 0.0, course=USUAL_COURSE if trial.course else 0.0
    )
    if not trial.level:
        return _far(trial, usual, SEARCH_LN_SD)
    rest = trial._replace(fast=usual.fast, meals=usual.meals)
    sizes = (trial.fast, trial.meals)
    kinds = np.logaddexp(
        math.log(1.0 - QUIET_SHARE) + _far(sizes, USUAL_KIND, KIND_LN_SD),
        math.log(QUIET_SHARE) + _far(sizes, QUIET_KIND, KIND_LN_SD),
    )
    return _far(rest, usual, SEARCH_LN_SD) + float(kinds)


def _far(sizes: Sequence[float], usual: Sequence[float], ln_sd: float) -> float:
    """ln of a normal density in logs, up to a constant; a usual size of 0 is not looked at."""
    return -0.5 * sum((math.log(a / b) / ln_sd) ** 2 for a, b in zip(sizes, usual, strict=True) if b)


def likeliest(evidence: Callable[[Noise], float], noise: Noise) -> Noise:
    """Sizes with the largest evidence, one changed after the other, from two starts. Without a level, what comes again is not
    looked for; with one, from three starts and closer."""
    search, starts = dict(SEARCH), [noise, QUIET_BODY._replace(level=noise.level, course=noise.course)]
    if noise.level:
        search.update(CLOSER)
        starts.append(QUIET_LIFE)
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
