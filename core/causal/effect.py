"""From a question and records to an answer: identify, check, estimate, and say how fragile it is.

This is the door that callers use: it refuses before it computes. The mechanistic twin's answer to the same
question comes in as a function, and the two are compared: a check of the twin, not a vote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.causal import estimate as est
from core.causal.estimand import Expression, evaluate
from core.causal.graph import Graph
from core.causal.identify import BACKDOOR, FRONTDOOR, NO_EFFECT, Identification, identify
from core.errors import InputError, RefusedError

METHODS: Final = ("g-computation", "ipw", "doubly robust")
AGREE_Z: Final = 1.959963984540054
D_TO_LOG_RR: Final = 0.91  # VanderWeele & Ding 2017, from Hasselblad & Hedges 1995 and Chinn 2000


class EValue(msgspec.Struct, frozen=True):
    """How strong (as a risk ratio with both treatment and outcome) a confounder that nobody measured would have
    to be to explain the effect away: the estimate itself, and the end of its interval that is nearer to nothing."""

    point: float
    interval: float


class Answer(msgspec.Struct, frozen=True):
    """An identified and estimated effect."""

    identification: Identification
    estimate: est.Estimate
    e_value: EValue
    left_out: int  # rows with a value missing


class Comparison(msgspec.Struct, frozen=True):
    """The twin's answer beside the records': difference in standard errors of both."""

    twin_effect: float
    twin_sd: float
    records: est.Estimate
    z: float

    @property
    def agree(self) -> bool:
        return abs(self.z) <= AGREE_Z

    def words(self) -> str:
        verdict = "agree" if self.agree else "disagree: the model, the graph or the records are wrong"
        return (
            f"twin {self.twin_effect:+.1f} ± {self.twin_sd:.1f}, records {self.records.effect:+.1f} "
            f"({self.records.low:+.1f} to {self.records.high:+.1f}): they {verdict}"
        )


def estimate_effect(
    graph: Graph,
    records: Mapping[str, ArrayLike],
    treatment: str,
    outcome: str,
    method: str = "doubly robust",
    groups: ArrayLike | None = None,
    target: str = "all",
) -> Answer:
    """The effect of one node on another from records (node name → float[n], nan where missing).

    A covariate may need several columns to be told (the hour, as sine and cosine): float[n, k]. A treatment of
    0 and 1 gives the difference between them by ``method``, for ``target`` "all" or "treated" (doubly robust
    only: those who were treated, had they not been); any other the slope per unit, by regression. Raises RefusedError when the graph does not identify the effect (naming the unmeasured
    confounder), or when the data hold no comparison; InputError when a needed column is absent or of another length.
    """
    if method not in METHODS:
        raise InputError(f"must be one of {', '.join(METHODS)}", where="method")
    if target != "all" and method != "doubly robust":
        raise InputError("needs the doubly robust method", where="target")
    found = identify(graph, treatment, outcome).required()
    if found.method == NO_EFFECT:
        raise RefusedError(found.words(), where="causal effect")
    if found.method not in (BACKDOOR, FRONTDOOR):
        raise RefusedError(
            f"{found.words()}, for which only discrete records can be used",
            where="causal effect",
            mend="use discrete_distribution",
        )
    needed = (outcome, treatment, *(found.adjustment or found.mediators))
    absent = [name for name in needed if name not in records]
    if absent:
        raise InputError(f"no column {', '.join(absent)}", where="records")
    table = _table(records, needed, groups)
    whole = np.all(np.isfinite(table), axis=1)
    kept = table[whole]
    of = None if groups is None else np.asarray(groups)[whole]
    y, a, rest = kept[:, 0], kept[:, 1], kept[:, 2:]
    binary = bool(np.all((a == 0) | (a == 1)))
    if found.method == FRONTDOOR:
        estimate = est.front_door_linear(y, a, rest, of)
    elif not rest.shape[1]:
        estimate = est.naive(y, a, of)
    elif method == "g-computation" or not binary:
        estimate = est.g_computation(y, a, rest, of)
    elif method == "ipw":
        estimate = est.ipw(y, a, rest, of)
    else:
        estimate = est.doubly_robust(y, a, rest, of, target)
    spread = float(y.std())
    step = 1.0 if binary else float(a.std())
    return Answer(
        found,
        estimate,
        e_value_of_difference(step * estimate.effect, step * estimate.low, step * estimate.high, spread),
        int(whole.size - kept.shape[0]),
    )


def _table(
    records: Mapping[str, ArrayLike], needed: tuple[str, ...], groups: ArrayLike | None
) -> NDArray[np.float64]:
    """Outcome, treatment, then the rest, side by side; InputError when they do not fit together."""
    try:
        columns = [np.asarray(records[name], dtype=np.float64) for name in needed]
    except (TypeError, ValueError):
        raise InputError("a column does not hold numbers alone", where="records") from None
    if any(c.ndim != 1 for c in columns[:2]) or any(c.ndim not in (1, 2) for c in columns[2:]):
        raise InputError(
            "outcome and treatment take one number a row, others one or several", where="records"
        )
    rows = {name: len(column) for name, column in zip(needed, columns, strict=True)}
    if groups is not None:
        rows["groups"] = np.asarray(groups).size
    if len(set(rows.values())) > 1:
        lengths = ", ".join(f"{name} {n}" for name, n in rows.items())
        raise InputError(f"columns must have equal length: {lengths}", where="records")
    return np.column_stack(columns)


def discrete_distribution(
    expression: Expression, records: Mapping[str, ArrayLike], names: tuple[str, ...]
) -> NDArray[np.float64]:
    """Any identified estimand on records of discrete variables: evaluated on the table of their frequencies.

    Axes follow ``names`` (every variable of the estimand), values are in sorted order; nan where positivity fails.
    """
    codes = [np.unique(np.asarray(records[name]), return_inverse=True) for name in names]
    table = np.zeros(tuple(values.size for values, _ in codes))
    np.add.at(table, tuple(code for _, code in codes), 1.0)
    return evaluate(expression, table / table.sum(), names)


def compare_with_twin(
    records: est.Estimate, twin: Callable[[float, float], tuple[float, float]], contrast: tuple[float, float]
) -> Comparison:
    """``twin(from, to)`` gives (mean, SD) of its own answer to do(from) against do(to), the same contrast."""
    mean, sd = twin(*contrast)
    if not (math.isfinite(mean) and math.isfinite(sd) and sd >= 0):
        raise InputError("the twin's answer must be finite", where="compare_with_twin")
    z = (mean - records.effect) / math.hypot(sd, records.standard_error)
    return Comparison(mean, sd, records, z)


def e_value(risk_ratio: float) -> float:
    """VanderWeele & Ding, Ann Intern Med 2017;167:268: RR + √(RR(RR − 1)), for RR < 1 of its inverse."""
    if not (math.isfinite(risk_ratio) and risk_ratio > 0):
        raise InputError("a risk ratio is positive", where="e_value")
    rr = max(risk_ratio, 1.0 / risk_ratio)
    return rr + math.sqrt(rr * (rr - 1.0))


def e_value_of_difference(effect: float, low: float, high: float, outcome_sd: float) -> EValue:
    """For a mean difference with interval, by way of the approximate risk ratio exp(.91·effect/SD)."""
    if not outcome_sd > 0:
        raise InputError("the outcome never varies", where="e_value")

    def ratio(value: float) -> float:
        return math.exp(min(max(D_TO_LOG_RR * value / outcome_sd, -50.0), 50.0))

    near = 0.0 if low <= 0.0 <= high else low if low > 0 else high
    return EValue(e_value(ratio(effect)), e_value(ratio(near)))
