"""A glucose trace with its forecast as a picture of characters. Gaps stay gaps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

from rich.text import Text

from core.units import US_PER_MIN

LOW_MGDL: Final = 70.0
HIGH_MGDL: Final = 180.0
BOTTOM_MGDL: Final = 40.0
TOP_MGDL: Final = 300.0
PAST_MIN: Final = 360.0
AHEAD_MIN: Final = 120.0
Z90: Final = 1.645


def plot_glucose(
    trace: Sequence[Sequence[float]],
    forecast: dict[str, Any] | None,
    estimate: dict[str, Any] | None,
    now_us: int,
    width: int,
    height: int,
) -> Text:
    """Readings of the last six hours and the 90 % band of the next two, ``width`` by ``height`` characters."""
    columns = max(20, width - 6)
    height = max(3, height - 1)  # the last line is the time axis
    per_column_min = (PAST_MIN + AHEAD_MIN) / columns
    now_column = int(PAST_MIN / per_column_min)
    points = [((t - now_us) / US_PER_MIN, v) for t, v in trace]
    points = [(t_min, v) for t_min, v in points if -PAST_MIN <= t_min <= 0]
    band = _band(forecast, estimate, now_us)
    values = [v for _, v in points] + [v for row in band for v in row[1:]]
    bottom = BOTTOM_MGDL
    top = TOP_MGDL if max(values, default=0.0) <= TOP_MGDL else 400.0  # a scale that jumps cannot be read

    def row_of(value: float) -> int:
        share = (min(max(value, bottom), top) - bottom) / (top - bottom)
        return height - 1 - round(share * (height - 1))

    def column_of(t_min: float) -> int:
        return min(columns - 1, max(0, int((t_min + PAST_MIN) / per_column_min)))

    cells = [[(" ", "") for _ in range(columns)] for _ in range(height)]
    for limit in (LOW_MGDL, HIGH_MGDL):
        for column in range(columns):
            cells[row_of(limit)][column] = ("┄", "dim")
    for row in range(height):
        cells[row][min(columns - 1, now_column)] = ("│", "dim")
    for column in range(now_column + 1, columns):
        ahead = _interpolate(band, column * per_column_min - PAST_MIN)
        if ahead is None:
            continue
        p05, p50, p95 = ahead
        for row in range(row_of(p95), row_of(p05) + 1):
            cells[row][column] = ("░", "cyan")
        cells[row_of(p50)][column] = ("━", "bold cyan")
    for t_min, value in points:
        colour = "red" if value < LOW_MGDL else "yellow" if value > HIGH_MGDL else "green"
        cells[row_of(value)][column_of(t_min)] = ("●", colour)
    text = _draw(cells, row_of, bottom, top)
    axis = [" "] * columns
    for label, t_min in (("-6 h", -PAST_MIN), ("-3 h", -180.0), ("now", 0.0), ("+2 h", AHEAD_MIN)):
        start = min(columns - len(label), column_of(t_min))
        axis[start : start + len(label)] = label
    text.append("\n     " + "".join(axis), "dim")
    return text


def _draw(cells: list[list[tuple[str, str]]], row_of: Any, bottom: float, top: float) -> Text:
    labels = {row_of(v): f"{v:4.0f} " for v in (bottom, LOW_MGDL, HIGH_MGDL, top)}
    text = Text()
    for row, line in enumerate(cells):
        text.append(labels.get(row, "     "), "dim")
        for character, style in line:
            text.append(character, style)
        text.append("\n")
    text.right_crop(1)
    return text


def _band(
    forecast: dict[str, Any] | None, estimate: dict[str, Any] | None, now_us: int
) -> list[tuple[float, float, float, float]]:
    """(minutes from now, p05, p50, p95), rising in time; empty without a forecast that can be drawn."""
    if not forecast or None in forecast["p05"] or None in forecast["p95"]:
        return []
    shift_min = (forecast["made_at_us"] - now_us) / US_PER_MIN
    rows = list(zip(forecast["horizons_min"], forecast["p05"], forecast["p50"], forecast["p95"], strict=True))
    if estimate and estimate["time_us"] == forecast["made_at_us"] and estimate["output_sd"] is not None:
        mean, spread = estimate["output_mean"], Z90 * estimate["output_sd"]
        rows.append((0.0, mean - spread, mean, mean + spread))
    return sorted((h + shift_min, a, b, c) for h, a, b, c in rows)


def _interpolate(
    band: list[tuple[float, float, float, float]], t_min: float
) -> tuple[float, float, float] | None:
    """The band at ``t_min`` between two of its horizons; nothing outside them."""
    for (t0, *low), (t1, *high) in itertools.pairwise(band):
        if t0 <= t_min <= t1:
            share = (t_min - t0) / (t1 - t0)
            p05, p50, p95 = (a + share * (b - a) for a, b in zip(low, high, strict=True))
            return p05, p50, p95
    return None
