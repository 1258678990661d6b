"""How far blood lies from what the sensor reads: forecasts are of readings, and lows happen in blood.

A sensor's error of calibration lasts for days and no reading shows it: on virtual people (seeds 501–510, 322 doses)
forecasts held for readings, 4.3 % of lowest readings under the 5 % quantile, but not for blood, 8.7 %. Fingersticks
show it. The lasting error is taken as normal; each difference of a fingerstick to the reading beside it measures it, with
the noise of both. Noise itself is not counted again: forecasts of readings hold the sensor's.

A sensor also lags: it sits in interstitial fluid, which follows blood with a time constant of some ten minutes
(C' = (G - C)/t_s: MODELS.md A, after Hovorka). Where readings fall by 2 mg/dL/min, blood is already 20 mg/dL lower. So a forecast
of blood is that of readings without the sensor's passing error, carried on along its own slope.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.filters import srukf
from core.models import hovorka as model
from core.predictive import Z90, Plan, outlook
from core.record import Record
from core.track import Track
from core.units import US_PER_DAY, US_PER_MIN

SPAN_US: Final = 14 * US_PER_DAY  # the life of a sensor, or little more
NEAR_US: Final = 10 * US_PER_MIN
USUAL_SD_MGDL: Final = 8.0  # of the lasting error from sensor to sensor, at about 100 mg/dL
NOISE_SD_MGDL: Final = 13.0  # of one difference around it: meter and sensor
LEAST_SD_MGDL: Final = 5.0  # sensors are changed, and age
SLOPE_MIN: Final = 5.0  # to either side of a horizon
WORTH: Final = (NOISE_SD_MGDL / USUAL_SD_MGDL) ** 2  # fingersticks that "no error" is worth


class BloodError(NamedTuple):
    """Blood glucose minus the sensor's reading, mg/dL."""

    mean_mgdl: float = 0.0
    sd_mgdl: float = USUAL_SD_MGDL

    @property
    def cautious_mgdl(self) -> float:
        """The mean for advice, never above 0: a sensor that reads low is no reason for more insulin."""
        return min(self.mean_mgdl, 0.0)


def blood_error(record: Record, now_us: int) -> BloodError:
    """What the fingersticks of the last two weeks up to ``now_us`` say; the usual sensor's when there are none."""
    entries = record.between(now_us - SPAN_US, now_us)
    readings = [e for e in entries if e.kind == "cgm_mgdl"]
    times = [e.time_us for e in readings]
    found = []
    for entry in entries:
        if entry.kind != "smbg_mgdl":
            continue
        after = bisect_left(times, entry.time_us)
        beside = readings[max(after - 1, 0) : after + 1]
        nearest = min(beside, key=lambda e: abs(e.time_us - entry.time_us), default=None)
        if nearest is not None and abs(nearest.time_us - entry.time_us) <= NEAR_US:
            found.append(entry.value - nearest.value)
    known = len(found) + WORTH
    sd_mgdl = max(USUAL_SD_MGDL * math.sqrt(WORTH / known), LEAST_SD_MGDL)
    return BloodError(sum(found) / known, sd_mgdl)


class BloodForecast(NamedTuple):
    """Glucose in blood at each horizon, mg/dL; ``low``, ``high``: half widths of the 90 % band."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    data_age_s: float
    status: str


def in_blood(track: Track, horizons_min: NDArray[np.float64], plan: Plan, error: BloodError) -> BloodForecast:
    """The forecast of blood that belongs to ``outlook``'s of readings, float64[n_horizons] each.

    Its band is that of readings, wider by the sensor's lasting error and by what the filter leaves open of the difference
    between blood and reading now.
    """
    n = len(horizons_min)
    before = np.maximum(horizons_min - SLOPE_MIN, 0.0)
    after = horizons_min + SLOPE_MIN
    at_min = np.concatenate((horizons_min, before, after))
    passing = _passing_error(track, at_min)
    under_skin = outlook(track, at_min, ()).mean - passing
    slope = (under_skin[2 * n :] - under_skin[n : 2 * n]) / (after - before)
    lag_min = float(track.nominal.consts[model.TS])
    # A plan acts as it will show in readings, not sooner: the mechanism's meals and doses come too early as it is, and
    # carried on along their slope they missed plasma by more (virtual people 200-207, an hour ahead: 21.2 for 20.1 mg/dL).
    seen = outlook(track, horizons_min, plan)
    row = model.blood_row(track.nominal.consts) - model.cgm_row()
    apart = Z90 * math.sqrt(error.sd_mgdl**2 + srukf.output_variance(track.factor, row))
    return BloodForecast(
        seen.mean - passing[:n] + lag_min * slope + error.mean_mgdl,
        np.hypot(seen.low, apart),
        np.hypot(seen.high, apart),
        track.age_s(track.time_us),
        track.status(track.time_us),
    )


def _passing_error(track: Track, at_min: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the sensor's noise is expected to add to readings at these times, mg/dL: it dies away."""
    k = model.N_LINEAR
    mu = track.dynamics[:, 0]
    out = np.empty(len(at_min))
    phi, noise = np.zeros((k, k)), np.zeros((k, k))
    for i, minutes in enumerate(at_min):
        model.transition(float(minutes), track.dynamics, phi, noise)
        out[i] = (mu + phi @ (track.mean[:k] - mu))[model.SENSOR]
    return out
