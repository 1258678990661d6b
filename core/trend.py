"""Where glucose is heading: one slope, used by pages and adviser alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from core.messages import Sample
from core.units import US_PER_MIN

TREND_SPAN_US: Final = 16 * US_PER_MIN  # three five-minute intervals: shorter is noise, longer is history


def trend(recent: Sequence[Sample]) -> float | None:
    """Least-squares slope in mg/dL per minute over the last TREND_SPAN; None below three readings.

    ``recent``: CGM samples by time; older ones than the span are left out.
    """
    if not recent:
        return None
    end_us = recent[-1].time_us
    points = [
        ((s.time_us - end_us) / US_PER_MIN, s.value) for s in recent if s.time_us >= end_us - TREND_SPAN_US
    ]
    if len(points) < 3:
        return None
    mean_t = sum(t for t, _ in points) / len(points)
    mean_g = sum(g for _, g in points) / len(points)
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    if spread <= 0:
        return None
    return sum((t - mean_t) * (g - mean_g) for t, g in points) / spread
