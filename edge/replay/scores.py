"""How good the forecasts were: errors, honesty of the bands, warnings of lows. Figures only, no text.

A forecast is scored where the sensor has a value at its target: on a reading, or between two at most 30 min
apart, by a straight line. Persistence ("it stays as it is") is scored on the same targets.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from core.metrics import CgmMetrics, cgm_metrics, coverage, mard_pct, rmse
from core.units import US_PER_DAY, US_PER_MIN
from edge.replay.pipeline import HORIZONS_MIN, Trace

TARGET_GAP_US: Final = 30 * US_PER_MIN
RANGES: Final = (("low", 0.0, 70.0), ("target", 70.0, 180.0), ("high", 180.0, 1e9))
EPISODE_GAP_US: Final = 30 * US_PER_MIN  # readings above 70 for this long end an episode
WARNED_US: Final = 60 * US_PER_MIN  # a warning counts for an episode that begins within this
CHI2_95: Final = 3.841  # 95th percentile of chi-square with one degree of freedom
STICK_FIGURES: Final = (
    "reading_mard_pct",
    "blood_mard_pct",
    "reading_bias_mgdl",
    "blood_bias_mgdl",
    "blood_coverage",
)
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def observed_at(times_us: Ints, values: Floats, at_us: Ints) -> Floats:
    """The sensor's value at ``at_us``; nan where readings are too far apart."""
    if times_us.size == 0:
        return np.full(at_us.shape, np.nan)
    right = np.searchsorted(times_us, at_us)
    r = np.clip(right, 1, max(1, times_us.size - 1))
    exact = times_us[np.clip(right, 0, times_us.size - 1)] == at_us
    if times_us.size == 1:
        return np.where(exact, values[0], np.nan)
    span = times_us[r] - times_us[r - 1]
    inside = (right > 0) & (right < times_us.size) & (span <= TARGET_GAP_US)
    share = (at_us - times_us[r - 1]) / np.maximum(span, 1)
    between = values[r - 1] + (values[r] - values[r - 1]) * share
    return np.where(exact, values[np.clip(right, 0, times_us.size - 1)], np.where(inside, between, np.nan))


def targets(trace: Trace) -> Floats:
    """float64[n_made, n_horizons]: what the sensor showed at each forecast's target; nan where nothing."""
    made = np.array(trace.made_us, dtype=np.int64)
    readings = np.array(trace.reading_mgdl)
    ahead = (np.array(HORIZONS_MIN) * US_PER_MIN).astype(np.int64)
    return np.column_stack([observed_at(made, readings, made + h) for h in ahead]).reshape(-1, ahead.size)


def horizon_scores(trace: Trace, chosen: NDArray[np.bool_]) -> dict[str, dict[str, Any]]:
    """Per horizon ("30"): n, rmse, mard_pct, persistence_rmse, coverage and its parts, over chosen forecasts."""
    mean, low, mid, high = (part[chosen] for part in trace.forecasts())
    actual = targets(trace)[chosen]
    now = np.array(trace.reading_mgdl)[chosen]
    table: dict[str, dict[str, Any]] = {}
    for k, horizon in enumerate(HORIZONS_MIN):
        y = actual[:, k]
        seen = np.isfinite(y)
        n = int(np.count_nonzero(seen))
        table[f"{horizon:g}"] = {
            "n": n,
            "rmse": rmse(mean[:, k], y),
            "persistence_rmse": rmse(now[seen], y[seen]),
            "mard_pct": mard_pct(mean[:, k], y),
            "bias": float(np.mean(mean[seen, k] - y[seen])) if n else None,
            "coverage": coverage(low[:, k], high[:, k], y),
            "below_p05": float(np.mean(y[seen] < low[seen, k])) if n else None,
            "below_p50": float(np.mean(y[seen] < mid[seen, k])) if n else None,
            "above_p95": float(np.mean(y[seen] > high[seen, k])) if n else None,
            "band_width": float(np.mean(high[seen, k] - low[seen, k])) if n else None,
            "by_observed_range": _by_range(y, y, mean[:, k], low[:, k], high[:, k]),
            "by_range_when_made": _by_range(now, y, mean[:, k], low[:, k], high[:, k]),
        }
    return table


def _by_range(by: Floats, y: Floats, mean: Floats, low: Floats, high: Floats) -> dict[str, Any]:
    table = {}
    for name, bottom, top in RANGES:
        part = (by >= bottom) & (by < top) & np.isfinite(y)
        table[name] = {
            "n": int(np.count_nonzero(part)),
            "rmse": rmse(mean[part], y[part]),
            "coverage": coverage(low[part], high[part], y[part]),
        }
    return table


def low_warnings(trace: Trace) -> dict[str, Any]:
    """How often a low below 70 was announced before it came, how early, and how often for nothing."""
    onsets = []
    last_low: int | None = None
    for t, value in zip(trace.made_us, trace.reading_mgdl, strict=True):
        if value < 70.0:
            if last_low is None or t - last_low > EPISODE_GAP_US:
                onsets.append(t)
            last_low = t
    raised: list[int] = []
    last_us: int | None = None
    for alarm in trace.alarms:
        if alarm.name == "predicted_low" and alarm.raised:
            # A slow sensor lets the warning lapse between two readings: raised again, it is still the same one.
            if last_us is None or alarm.time_us - last_us > EPISODE_GAP_US:
                raised.append(alarm.time_us)
            last_us = alarm.time_us
    leads = []
    for onset in onsets:
        before = [t for t in raised if onset - WARNED_US <= t < onset]
        if before:
            leads.append((onset - before[0]) / US_PER_MIN)
    false = sum(1 for t in raised if not any(t <= o <= t + WARNED_US for o in onsets))
    days = _days(trace)
    return {
        "episodes": len(onsets),
        "announced": len(leads),
        "sensitivity": len(leads) / len(onsets) if onsets else None,
        "lead_min_median": float(np.median(leads)) if leads else None,
        "warnings": len(raised),
        "false_per_day": false / days if days > 0 else None,
    }


def _days(trace: Trace) -> float:
    return (trace.made_us[-1] - trace.made_us[0]) / US_PER_DAY if len(trace.made_us) > 1 else 0.0


def glucose_metrics(trace: Trace) -> CgmMetrics | None:
    """Consensus metrics of the readings; None without any."""
    if not trace.made_us:
        return None
    return cgm_metrics(
        trace.made_us, trace.reading_mgdl, trace.made_us[0], trace.made_us[-1] + 1, interval_min(trace)
    )


def interval_min(trace: Trace) -> float:
    """The sensor's usual interval, whole minutes, from the readings themselves; 5 with too few of them."""
    steps = np.diff(np.array(trace.made_us, dtype=np.float64)) / US_PER_MIN
    return max(1.0, float(np.round(np.median(steps)))) if steps.size >= 3 else 5.0


def nis_scores(trace: Trace) -> dict[str, Any]:
    """Normalised innovations squared after warm-up: 1 on average when the filter's uncertainty is right."""
    warm = np.array([s != "warming_up" for s in trace.status], dtype=bool)
    nis = np.array(trace.nis)[warm] if trace.nis else np.array([])
    nis = nis[np.isfinite(nis)]
    if nis.size == 0:
        return {"n": 0, "mean": None, "median": None, "share_above_3_84": None}
    return {
        "n": int(nis.size),
        "mean": float(nis.mean()),
        "median": float(np.median(nis)),
        "share_above_3_84": float(np.mean(nis > CHI2_95)),
    }


def stick_scores(trace: Trace) -> dict[str, Any]:
    """Readings, and the twin's blood, beside fingersticks that neither had seen. The meter's own error is in all of it."""
    sticks = [s for s in trace.sticks if s.value > 0]
    if not sticks:
        return {"n": 0, **dict.fromkeys(STICK_FIGURES)}
    _, value, reading, blood, low, high = np.array(sticks, dtype=np.float64).T
    figures = (
        mard_pct(reading, value),
        mard_pct(blood, value),
        float(np.mean(reading - value)),
        float(np.mean(blood - value)),
        coverage(low, high, value),
    )
    return {"n": len(sticks), **dict(zip(STICK_FIGURES, figures, strict=True))}


def second_half(trace: Trace) -> NDArray[np.bool_]:
    """Forecasts made in the second half of the time: what the twin does once it knows the person."""
    made = np.array(trace.made_us, dtype=np.int64)
    return made >= (made[0] + made[-1]) // 2 if made.size else np.zeros(0, dtype=bool)
