"""Measures: consensus CGM metrics, forecast errors, and how honest an interval is. Plain numpy, no clock.

Targets: Battelino et al., Diabetes Care 2019;42:1593 (international consensus on time in range), adults
with type 1 diabetes. GMI: Bergenstal et al., Diabetes Care 2018;41:2275.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import InputError
from core.units import US_PER_DAY, US_PER_MIN

VERY_LOW_MGDL: Final = 54.0
LOW_MGDL: Final = 70.0
HIGH_MGDL: Final = 180.0
VERY_HIGH_MGDL: Final = 250.0
MIN_WEAR_PCT: Final = 70.0  # consensus: below this the figures do not stand for the person
MIN_DAYS: Final = 14.0

Floats = NDArray[np.float64]


class CgmMetrics(msgspec.Struct, frozen=True):
    """Consensus metrics of one period. Percentages are of readings; they sum to 100 over the five bands."""

    readings: int
    days: float  # length of the period asked for
    wear_pct: float  # readings present, of those one sensor could give
    mean_mgdl: float
    sd_mgdl: float
    cv_pct: float
    gmi_pct: float  # glucose management indicator, an estimate of HbA1c
    very_low_pct: float  # < 54
    low_pct: float  # 54..69
    in_range_pct: float  # 70..180
    high_pct: float  # 181..250
    very_high_pct: float  # > 250

    @property
    def representative(self) -> bool:
        """Enough days and wear for the consensus targets to be judged."""
        return self.days >= MIN_DAYS and self.wear_pct >= MIN_WEAR_PCT


def cgm_metrics(
    times_us: ArrayLike, glucose_mgdl: ArrayLike, start_us: int, end_us: int, interval_min: float = 5.0
) -> CgmMetrics:
    """Metrics over [start_us, end_us). Readings outside or not finite are left out; none left: nan figures."""
    if end_us <= start_us or interval_min <= 0:
        raise InputError("the period and the interval must be longer than nothing", where="cgm_metrics")
    times = np.asarray(times_us, dtype=np.int64)
    glucose = np.asarray(glucose_mgdl, dtype=np.float64)
    if times.shape != glucose.shape or times.ndim != 1:
        raise InputError("times and values must be two lists of equal length", where="cgm_metrics")
    kept = np.isfinite(glucose) & (times >= start_us) & (times < end_us)
    times, glucose = times[kept], glucose[kept]
    n = glucose.size
    days = (end_us - start_us) / US_PER_DAY
    possible = max(1.0, (end_us - start_us) / (interval_min * US_PER_MIN))
    # Two sensors, or a one-minute sensor, must not count a slot twice.
    slots = np.unique((times - start_us) // int(interval_min * US_PER_MIN)).size
    if n == 0:
        nan = math.nan
        return CgmMetrics(0, days, 0.0, nan, nan, nan, nan, nan, nan, nan, nan, nan)
    mean = float(glucose.mean())
    sd = float(glucose.std(ddof=1)) if n > 1 else 0.0

    def share(mask: NDArray[np.bool_]) -> float:
        return 100.0 * float(np.count_nonzero(mask)) / n

    return CgmMetrics(
        readings=n,
        days=days,
        wear_pct=min(100.0, 100.0 * slots / possible),
        mean_mgdl=mean,
        sd_mgdl=sd,
        cv_pct=100.0 * sd / mean,
        gmi_pct=3.31 + 0.02392 * mean,
        very_low_pct=share(glucose < VERY_LOW_MGDL),
        low_pct=share((glucose >= VERY_LOW_MGDL) & (glucose < LOW_MGDL)),
        in_range_pct=share((glucose >= LOW_MGDL) & (glucose <= HIGH_MGDL)),
        high_pct=share((glucose > HIGH_MGDL) & (glucose <= VERY_HIGH_MGDL)),
        very_high_pct=share(glucose > VERY_HIGH_MGDL),
    )


def missed_targets(metrics: CgmMetrics) -> tuple[str, ...]:
    """Consensus targets that these figures miss, in plain words (adults with type 1 diabetes)."""
    checks = (
        (metrics.in_range_pct > 70, "in range 70–180: more than 70 %"),
        (metrics.very_low_pct + metrics.low_pct < 4, "below 70: less than 4 %"),
        (metrics.very_low_pct < 1, "below 54: less than 1 %"),
        (metrics.high_pct + metrics.very_high_pct < 25, "above 180: less than 25 %"),
        (metrics.very_high_pct < 5, "above 250: less than 5 %"),
        (metrics.cv_pct <= 36, "variation (CV): at most 36 %"),
    )
    return tuple(text for met, text in checks if not met)


def blood_glucose_risk(glucose_mgdl: ArrayLike) -> tuple[float, float]:
    """(LBGI, HBGI) of readings: Kovatchev et al., Diabetes Care 1997;20:1655 and 2006;29:2433; nan without any.

    Risk 10·f², f = 1.509·(ln(G)^1.084 − 5.381), averaged over all readings on either side of f = 0 (112.5 mg/dL).
    """
    glucose = np.asarray(glucose_mgdl, dtype=np.float64).ravel()
    glucose = glucose[np.isfinite(glucose)]
    if not glucose.size:
        return math.nan, math.nan
    if np.any(glucose < 1.0):
        raise InputError("glucose must be at least 1 mg/dL", where="blood_glucose_risk")
    f = 1.509 * (np.log(glucose) ** 1.084 - 5.381)
    risk = 10.0 * f * f
    return float(np.mean(np.where(f < 0, risk, 0.0))), float(np.mean(np.where(f > 0, risk, 0.0)))


def rmse(predicted: ArrayLike, observed: ArrayLike) -> float:
    """Root mean square error in the unit of the arguments; nan without a pair."""
    p, o = _pairs(predicted, observed)
    return float(np.sqrt(np.mean((p - o) ** 2))) if o.size else math.nan


def mard_pct(predicted: ArrayLike, observed: ArrayLike) -> float:
    """Mean absolute relative difference in per cent of the observed value (which must be positive)."""
    p, o = _pairs(predicted, observed)
    if not o.size:
        return math.nan
    if np.any(o <= 0):
        raise InputError("observed values must be positive", where="mard_pct")
    return float(100.0 * np.mean(np.abs(p - o) / o))


def coverage(low: ArrayLike, high: ArrayLike, observed: ArrayLike) -> float:
    """Share (0..1) of observations inside [low, high], borders included; nan without a triple."""
    lo, hi, o = (np.asarray(x, dtype=np.float64).ravel() for x in (low, high, observed))
    if not lo.shape == hi.shape == o.shape:
        raise InputError("bounds and observations must have equal length", where="coverage")
    kept = np.isfinite(lo) & np.isfinite(hi) & np.isfinite(o)
    if not np.any(kept):
        return math.nan
    return float(np.mean((lo[kept] <= o[kept]) & (o[kept] <= hi[kept])))


def _pairs(predicted: ArrayLike, observed: ArrayLike) -> tuple[Floats, Floats]:
    p = np.asarray(predicted, dtype=np.float64).ravel()
    o = np.asarray(observed, dtype=np.float64).ravel()
    if p.shape != o.shape:
        raise InputError("predictions and observations must have equal length", where="metrics")
    kept = np.isfinite(p) & np.isfinite(o)
    return p[kept], o[kept]
