"""summary.json: every figure of a replay in one tree."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np

from edge.readers import Record
from edge.replay.outputs import MADE_BY, iso
from edge.replay.pipeline import HORIZONS_MIN, Trace
from edge.replay.scores import (
    glucose_metrics,
    horizon_scores,
    interval_min,
    low_warnings,
    nis_scores,
    second_half,
    stick_scores,
)


def summarise(trace: Trace, record: Record, name: str, timezone: str) -> dict[str, Any]:
    """Figures over the whole recording first, then of its second half alone. None where nothing was scored."""
    n = len(trace.made_us)
    whole = horizon_scores(trace, np.ones(n, dtype=bool))
    later = horizon_scores(trace, second_half(trace))
    metrics = glucose_metrics(trace)
    span_s = (trace.made_us[-1] - trace.made_us[0]) / 1e6 if n else 0.0
    own_s = trace.total_s - trace.twin_s
    raised = Counter(a.name for a in trace.alarms if a.raised)
    return {
        "made_by": MADE_BY,
        "complete": trace.complete,
        "file": name,
        "format": record.format,
        "timezone": timezone,
        "model": trace.model,
        "from": iso(trace.made_us[0]) if n else None,
        "to": iso(trace.made_us[-1]) if n else None,
        "days": span_s / 86400.0,
        "readings": n,
        "readings_in_recording": trace.readings_in_all,
        "interval_min": interval_min(trace),
        "events": dict(sorted(Counter(s.kind for s in trace.samples).items())),
        "horizons_min": list(HORIZONS_MIN),
        **_by_measure(whole),
        "nis": nis_scores(trace),
        "status": dict(Counter(trace.status)),
        "timing": {
            "total_s": trace.total_s,
            "twin_s": trace.twin_s,
            "own_s": own_s,
            "ms_per_reading": 1000.0 * trace.total_s / n if n else None,
            "own_ms_per_reading": 1000.0 * own_s / n if n else None,
            "times_real_time": span_s / trace.total_s if trace.total_s > 0 else None,
        },
        "second_half": _by_measure(later),
        "horizons": whole,
        "horizons_second_half": later,
        "alarms": {"raised": dict(sorted(raised.items())), "low": low_warnings(trace)},
        "fingersticks": stick_scores(trace),
        "glucose": msgspec.structs.asdict(metrics) if metrics is not None else None,
        "assumed": [{"name": what, "from": source} for what, source in trace.assumed],
        "notes": [*record.notes, *trace.notes],
    }


def _by_measure(table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "rmse": {h: row["rmse"] for h, row in table.items()},
        "persistence_rmse": {h: row["persistence_rmse"] for h, row in table.items()},
        "mard": {h: row["mard_pct"] for h, row in table.items()},
        # By the range at the moment of the forecast: sorting by what came later would select the surprises.
        "coverage": {h: _coverage(row, "by_range_when_made") for h, row in table.items()},
        "coverage_by_outcome": {h: _coverage(row, "by_observed_range") for h, row in table.items()},
    }


def _coverage(row: dict[str, Any], by: str) -> dict[str, Any]:
    return {"all": row["coverage"], **{name: part["coverage"] for name, part in row[by].items()}}
