"""Forecasters to stand beside: persistence, ridge regression, gradient boosting on the usual features.

Features: CGM lags to 2 h every 15 min, insulin on board, insulin action, carbohydrate on board, carbohydrate
of the last 30 min, hour as sine and cosine, heart rate. All from the record up to the moment.
"""

from __future__ import annotations

import importlib
import math
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np

from bench.recordings import DAY_MIN, Recording, interpolate
from core.errors import EnvironmentMissing

LAGS_MIN: Final = tuple(range(15, 121, 15))
_ACTION_MIN: Final = 360.0
_PEAK_MIN: Final = 75.0
_CARBS_MIN: Final = 240.0
_LAG_GAP_MIN: Final = 45.0
# Settings that cross-validation inside the first half chooses from.
TREES: Final[tuple[dict[str, Any], ...]] = (
    {"max_iter": 200, "learning_rate": 0.05, "max_leaf_nodes": 15, "min_samples_leaf": 200, "l2_regularization": 10.0},
    {"max_iter": 150, "learning_rate": 0.04, "max_leaf_nodes": 8, "min_samples_leaf": 60, "l2_regularization": 10.0},
    {"max_iter": 80, "learning_rate": 0.05, "max_leaf_nodes": 6, "min_samples_leaf": 100, "l2_regularization": 10.0},
)  # fmt: skip


def _tail(t: np.ndarray) -> np.ndarray:
    """Insulin on board per unit ``t`` minutes after a bolus (exponential curve, MIT-licensed LoopKit's form)."""
    tp, td = _PEAK_MIN, _ACTION_MIN
    tau = tp * (1 - tp / td) / (1 - 2 * tp / td)
    a = 2 * tau / td
    s = 1 / (1 - a + (1 + a) * math.exp(-td / tau))
    x = np.clip(t, 0.0, td)
    left = 1 - s * (1 - a) * ((x * x / (tau * td * (1 - a)) - x / tau - 1) * np.exp(-x / tau) + 1)
    return np.where(t < td, left, 0.0)


def _summed(times: np.ndarray, at: np.ndarray, amounts: np.ndarray, reach: float, curve: Any) -> np.ndarray:
    """Σ amount·curve(t − at) over events within ``reach`` minutes before each time."""
    out = np.zeros(len(times))
    for when, amount in zip(at, amounts, strict=True):
        low, high = np.searchsorted(times, (when, when + reach))
        out[low:high] += amount * curve(times[low:high] - when)
    return out


def features(who: Recording, times: np.ndarray) -> np.ndarray:
    """float64[n_times, n_features]. A lag that a gap took is filled with the reading after the gap."""
    columns = [who.at(times)]
    for lag in LAGS_MIN:
        value = interpolate(who.cgm_min, who.cgm_mgdl, times - lag, _LAG_GAP_MIN)
        columns.append(np.where(np.isnan(value), columns[-1], value))
    bolus_at, bolus_u = who.of_kind("bolus_u")
    carbs_at, carbs_g = who.of_kind("carbs_g")
    columns.append(_summed(times, bolus_at, bolus_u, _ACTION_MIN, _tail))
    columns.append(_summed(times, bolus_at, bolus_u, _ACTION_MIN, lambda t: _tail(t - 2.5) - _tail(t + 2.5)))
    columns.append(
        _summed(times, carbs_at, carbs_g, _CARBS_MIN, lambda t: (1 + t / 40.0) * np.exp(-t / 40.0))
    )
    columns.append(_summed(times, carbs_at, carbs_g, 30.0, np.ones_like))
    angle = 2 * np.pi * (times % DAY_MIN) / DAY_MIN
    columns += [np.sin(angle), np.cos(angle)]
    beat_at, beat = who.of_kind("heart_rate_bpm")
    if len(beat):
        k = np.searchsorted(beat_at, times, side="right") - 1
        fresh = (k >= 0) & (times - beat_at[np.maximum(k, 0)] <= 30.0)
        usual = float(np.median(beat[beat_at < times[0]])) if np.any(beat_at < times[0]) else 75.0
        columns.append(np.where(fresh, beat[np.maximum(k, 0)], usual))
    else:
        columns.append(np.full(len(times), 75.0))
    return np.column_stack(columns)


def ridge(train_x: np.ndarray, train_y: np.ndarray) -> Any:
    """Ridge regression on standardised features; penalty by cross-validation over contiguous fifths."""
    sklearn = _sklearn()
    model = sklearn["pipeline"](
        sklearn["scaler"](), sklearn["ridge"](alphas=np.logspace(-1, 5, 13), cv=sklearn["folds"](5))
    )
    model.fit(train_x, train_y)
    return model


def choose_trees(train_x: np.ndarray, train_y: np.ndarray, fold: np.ndarray) -> int:
    """Which of TREES has the least squared error over the ``fold`` numbers left out in turn."""
    losses = []
    for which in range(len(TREES)):
        loss = 0.0
        for k in np.unique(fold):
            out = fold == k
            model = boosting(train_x[~out], train_y[~out], which)
            loss += float(np.sum((model.predict(train_x[out]) - train_y[out]) ** 2))
        losses.append(loss)
    return int(np.argmin(losses))


def boosting(train_x: np.ndarray, train_y: np.ndarray, which: int) -> Any:
    """Gradient-boosted trees with the settings TREES[which]; the returned model has ``predict``."""
    model = _sklearn()["boosting"](random_state=0, early_stopping=False, **TREES[which])
    model.fit(train_x, train_y)
    return model


def one_thread() -> AbstractContextManager[Any]:
    """Threads that wait for each other cost more than they bring on tables this small."""
    _sklearn()
    limits: AbstractContextManager[Any] = importlib.import_module("threadpoolctl").threadpool_limits(1)
    return limits


def _sklearn() -> dict[str, Any]:
    try:
        ensemble, linear, selection, pipeline, preprocessing = (
            importlib.import_module(f"sklearn.{part}")
            for part in ("ensemble", "linear_model", "model_selection", "pipeline", "preprocessing")
        )
    except ImportError:
        raise EnvironmentMissing(
            "the peers need scikit-learn", where="bench", mend="pip install scikit-learn"
        ) from None
    return {
        "boosting": ensemble.HistGradientBoostingRegressor,
        "ridge": linear.RidgeCV,
        "folds": selection.KFold,
        "pipeline": pipeline.make_pipeline,
        "scaler": preprocessing.StandardScaler,
    }
