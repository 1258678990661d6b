"""Times, ages and numbers in plain words. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from cloud.checks import EARLIEST_US, LATEST_US
from core.units import US_PER_S

ALARM_NAMES: Final = {
    "urgent_low": "Urgent low",
    "low": "Low",
    "predicted_low": "Low expected",
    "high": "High",
    "urgent_high": "Urgent high",
    "signal_loss": "No readings",
    "engine_down": "Twin not running",
    "store_failed": "Hub stores nothing",
    "store_repaired": "Hub's record was damaged",
    "store_space": "Hub low on space",
}
STATUS_WORDS: Final = {
    "ok": "tracking",
    "warming_up": "warming up: not enough data yet",
    "stale": "data too old",
    "diverged": "lost track of this person",
}
LINK_WORDS: Final = {
    "live": "connected",
    "syncing": "fetching history",
    "connecting": "connecting",
    "pairing": "pairing",
    "absent": "out of range",
    "backing_off": "waiting to reconnect",
    "quarantined": "set aside after errors",
}


def span_words(span_us: int) -> str:
    """A span in the two largest useful units: ``3 min``, ``2 h 5 min``, ``4 days``."""
    minutes = max(0, span_us) // (60 * US_PER_S)
    if minutes < 1:
        return "less than a minute"
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, hours = divmod(hours, 24)
    if days < 3 and hours:
        return f"{days} d {hours} h"
    return f"{days} days"


def ago_words(time_us: int, now_us: int) -> str:
    """``3 min ago``; ``never`` for time 0; says so when a clock is wrong."""
    if time_us <= 0:
        return "never"
    if time_us - now_us > 90 * US_PER_S:
        return f"{span_words(time_us - now_us)} in the future (a clock is wrong)"
    if now_us - time_us < 60 * US_PER_S:
        return "just now"
    return f"{span_words(now_us - time_us)} ago"


def local(time_us: int, zone: ZoneInfo) -> datetime:
    """Local time of the person. What lies beyond 1990..2200 is drawn to that edge."""
    time_us = min(max(time_us, EARLIEST_US), LATEST_US)
    return datetime.fromtimestamp(time_us / US_PER_S, UTC).astimezone(zone)


def moment(time_us: int, now_us: int, zone: ZoneInfo) -> str:
    """``14:05`` today, ``Tue 14:05`` within a week, else ``12 Nov 14:05``."""
    if time_us <= 0:
        return "never"
    then, now = local(time_us, zone), local(now_us, zone)
    if then.date() == now.date():
        return f"{then:%H:%M}"
    if abs((now.date() - then.date()).days) < 7:
        return f"{then:%a %H:%M}"
    return f"{then.day} {then:%b %H:%M}"


def day(time_us: int, zone: ZoneInfo) -> str:
    """``12 Nov 2026``."""
    then = local(time_us, zone)
    return f"{then.day} {then:%b %Y}"


def glucose(value_mgdl: float | None) -> str:
    """Whole mg/dL; a dash when there is none."""
    return "–" if value_mgdl is None or not math.isfinite(value_mgdl) else f"{value_mgdl:.0f}"


def percent(share: float) -> str:
    """One decimal below 10 %, none above; a dash for nan. ``share`` in 0..100."""
    if not math.isfinite(share):
        return "–"
    return f"{share:.1f} %" if 0 < share < 10 else f"{share:.0f} %"


def glucose_zone(value_mgdl: float) -> tuple[str, str]:
    """(css class, words) of a glucose value."""
    if value_mgdl < 54:
        return "very-low", "very low"
    if value_mgdl < 70:
        return "low", "low"
    if value_mgdl <= 180:
        return "in-range", "in range"
    if value_mgdl <= 250:
        return "high", "high"
    return "very-high", "very high"


def trend_words(slope_mgdl_per_min: float | None) -> tuple[str, str]:
    """(arrow, words) as CGM receivers draw them."""
    if slope_mgdl_per_min is None:
        return "", "trend unknown"
    steps = (
        (-3.0, "⇊", "falling very fast"),
        (-2.0, "↓", "falling fast"),
        (-1.0, "↘", "falling"),
        (1.0, "→", "steady"),
        (2.0, "↗", "rising"),
        (3.0, "↑", "rising fast"),
    )
    for limit, arrow, words in steps:
        if slope_mgdl_per_min < limit:
            return arrow, words
    return "⇈", "rising very fast"
