"""The pictures of the report. Each takes a trace and a width and gives an SVG element."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from core.drawing.svg import Plot, nice_ticks, runs
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge.replay.outputs import EPOCH
from edge.replay.pipeline import HORIZONS_MIN, Trace
from edge.replay.scores import interval_min, observed_at, targets

Z90: Final = 1.6449
GLUCOSE_TICKS: Final = (70, 120, 180, 250, 300, 350, 400)
SHOWN_HORIZON: Final = HORIZONS_MIN.index(60.0)
DAY_PX: Final = 3.0  # narrower bars than this merge days
LN_SHOWN: Final = 3.0
MULTIPLES: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
FULL_UPH: Final = 3.0  # basal rate at full height of its strip
FEW: Final = 30  # a share of fewer says nothing
WANTED: Final = (0.87, 0.93)  # what a 90 % band may hold without being called dishonest
RANGE_CSS: Final = {"low": "low", "target": "in", "high": "high"}


def local_days(trace: Trace, zone: ZoneInfo) -> NDArray[np.int64]:
    """Ordinal of the local day of every reading; the zone is asked once per hour."""
    made = np.array(trace.made_us, dtype=np.int64)
    offsets = {int(h): _offset_us(int(h) * US_PER_H, zone) for h in np.unique(made // US_PER_H)}
    shift = np.array([offsets[int(h)] for h in made // US_PER_H], dtype=np.int64)
    return (made + shift) // US_PER_DAY


def _offset_us(time_us: int, zone: ZoneInfo) -> int:
    delta = (EPOCH + timedelta(microseconds=time_us)).astimezone(zone).utcoffset()
    return round(delta.total_seconds() * 1e6) if delta is not None else 0


def day_words(day: int, form: str = "%d %b") -> str:
    """Words for an ordinal of local days since 1970."""
    return (EPOCH + timedelta(days=int(day))).strftime(form)


def hours_words(horizon: str) -> str:
    """ "120" is "2 h": short enough to stand beside its neighbours on a phone."""
    minutes = float(horizon)
    return f"{minutes:g} min" if minutes < 60 else f"{minutes / 60:g} h"


def overview(trace: Trace, zone: ZoneInfo, width: int) -> str:
    """Every day's glucose: the middle half, the 5–95 % range and the median. Days without readings stay empty."""
    days = local_days(trace, zone)
    values = np.array(trace.reading_mgdl)
    first, last = int(days[0]), int(days[-1])
    step = max(1, math.ceil((last - first + 1) * DAY_PX / (width - 50)))
    top = max(300.0, min(400.0, float(np.percentile(values, 99))))
    plot = Plot(width, 220, (first, last + 1), (40.0, top), "Glucose by day")
    plot.box(first, last + 1, 70, 180, "target")
    plot.grid_y(GLUCOSE_TICKS)
    plot.ticks_x(_date_ticks(first, last))
    for start in range(first, last + 1, step):
        part = values[(days >= start) & (days < start + step)]
        if not part.size:
            continue
        p05, p25, p50, p75, p95 = np.percentile(part, (5, 25, 50, 75, 95))
        until = start + step
        pad = 0.12 * step
        words = f"{day_words(start)}: median {p50:.0f}, middle half {p25:.0f}–{p75:.0f} mg/dL, {part.size} readings"
        plot.box(start + 3 * pad, until - 3 * pad, p05, p95, "whisker", words)
        plot.box(start + pad, until - pad, p25, p75, "half", words)
        plot.box(start + pad, until - pad, p50 + 1, p50 - 1, "median", words)
    return plot.svg()


def _date_ticks(first: int, last: int) -> list[tuple[float, str]]:
    """The first days of months, or every few days in a short recording."""
    if last - first <= 21:
        return [(day, day_words(day)) for day in range(first, last + 1)]
    ticks = []
    for day in range(first, last + 1):
        moment = EPOCH + timedelta(days=day)
        if moment.day == 1:
            ticks.append((float(day), moment.strftime("%b %Y" if moment.month == 1 else "%d %b")))
        elif last - first < 120 and moment.day == 15:
            ticks.append((float(day), moment.strftime("%d %b")))
    return ticks


def one_day(trace: Trace, zone: ZoneInfo, day: int, width: int) -> str:
    """One local day: readings, the band forecast 60 min before, insulin and meals below, alarms above."""
    made = np.array(trace.made_us, dtype=np.int64)
    values = np.array(trace.reading_mgdl)
    noon = EPOCH + timedelta(days=int(day), hours=12)
    midnight = datetime(noon.year, noon.month, noon.day, tzinfo=zone)
    start_us = round(midnight.timestamp() * 1e6)
    here = (made >= start_us) & (made < start_us + US_PER_DAY)
    _, p05, p50, p95 = trace.forecasts()
    shown = made + round(HORIZONS_MIN[SHOWN_HORIZON] * US_PER_MIN)
    ahead = (shown >= start_us) & (shown < start_us + US_PER_DAY)
    peak = max([260.0, *(values[here] + 10).tolist(), *(p95[ahead, SHOWN_HORIZON]).tolist()])
    top = min(420.0, peak)
    plot = Plot(width, 330, (0.0, 24.0), (40.0, top), f"Glucose on {day_words(day)}", top=24, bottom=104)
    plot.box(0, 24, 70, 180, "target")
    plot.grid_y(GLUCOSE_TICKS)
    every = 3 if width > 600 else 6
    plot.ticks_x([(float(h), f"{h:02d}:00") for h in range(0, 25, every)])
    gap_h = max(16.0, 2.5 * interval_min(trace)) / 60.0
    hours = (shown[ahead] - start_us) / US_PER_H
    rows = list(
        zip(hours.tolist(), *(q[ahead, SHOWN_HORIZON].tolist() for q in (p05, p50, p95)), strict=True)
    )
    for piece in _pieces(rows, gap_h):
        plot.band([(r[0], r[1]) for r in piece], [(r[0], r[3]) for r in piece], "band")
        plot.line([(r[0], r[2]) for r in piece], "forecast")
    points = [
        ((t - start_us) / US_PER_H, v)
        for t, v in zip(made[here].tolist(), values[here].tolist(), strict=True)
    ]
    for run in runs(points, gap_h):
        plot.line(run, "trace")
    for low, high, css in ((0.0, 70.0, "low"), (70.0, 180.001, "in"), (180.001, 1e9, "high")):
        plot.dots([p for p in points if low <= p[1] < high], css, 1.7)
    for alarm in trace.alarms:
        hour = (alarm.time_us - start_us) / US_PER_H
        if alarm.raised and 0 <= hour < 24 and alarm.name != "signal_loss":
            x = plot.px(hour)
            css = "low" if "low" in alarm.name else "high"
            hollow = " hollow" if alarm.name == "predicted_low" else ""
            plot.parts.append(
                f'<path class="alarm {css}{hollow}" d="M{x - 4:.1f} 8h8l-4 8z">'
                f"<title>{alarm.name.replace('_', ' ')}</title></path>"
            )
    _inputs(plot, trace, start_us)
    return plot.svg()


def _pieces(rows: list[tuple[float, ...]], gap: float) -> list[list[tuple[float, ...]]]:
    pieces: list[list[tuple[float, ...]]] = []
    for row in rows:
        if pieces and row[0] - pieces[-1][-1][0] <= gap:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces


def _inputs(plot: Plot, trace: Trace, start_us: int) -> None:
    """Two strips below the hours: carbohydrate, then insulin. Numbers stand where there is room."""
    end_us = start_us + US_PER_DAY
    base, unit = plot.bottom + 56, 26.0
    for label, y in (("carbs", base), ("insulin", base + 36)):
        plot.text(plot.left - 6, y - 2, "g" if label == "carbs" else "U", anchor="end")
        plot.parts.append(f'<path class="axis" d="M{plot.left} {y}H{plot.right}"/>')
    largest = {"carbs_g": 60.0, "bolus_u": 10.0, "long_acting_u": 10.0}
    today = [s for s in trace.samples if start_us <= s.time_us < end_us]
    for s in today:
        if s.kind in largest:
            largest[s.kind] = max(largest[s.kind], s.value)
    top_u = max(largest["bolus_u"], largest["long_acting_u"])
    rates = [s for s in trace.samples if s.kind == "basal_uph" and s.time_us < end_us]
    before = [s for s in rates if s.time_us <= start_us][-1:]
    steps = [*before, *(s for s in rates if s.time_us > start_us)]
    for index, s in enumerate(steps):
        until_us = steps[index + 1].time_us if index + 1 < len(steps) else end_us
        x0, x1 = (plot.px(max(0.0, (t - start_us) / US_PER_H)) for t in (s.time_us, until_us))
        tall = min(unit, unit * s.value / FULL_UPH)
        edge = base + 36 - tall
        plot.parts.append(
            f'<rect class="basal" x="{x0:.1f}" y="{edge:.1f}" width="{max(x1 - x0, 0.3):.1f}" height="{tall:.1f}"/>'
        )
    free = {"carbs_g": -1e9, "insulin": -1e9}
    for s in today:
        if s.kind not in largest:
            continue
        carbs = s.kind == "carbs_g"
        x = plot.px((s.time_us - start_us) / US_PER_H)
        y = base if carbs else base + 36
        height = max(2.0, (unit - 8) * s.value / (largest["carbs_g"] if carbs else top_u))
        css = {"carbs_g": "carbs", "bolus_u": "bolus", "long_acting_u": "long"}[s.kind]
        words = {"carbs_g": "g carbohydrate", "bolus_u": "U bolus", "long_acting_u": "U long-acting"}[s.kind]
        plot.parts.append(
            f'<path class="{css}" d="M{x:.1f} {y}v{-height:.1f}"><title>{s.value:g} {words}</title></path>'
        )
        lane = "carbs_g" if carbs else "insulin"
        if x > free[lane] and (carbs or s.value >= 0.5):
            plot.text(x, y - height - 2, f"{s.value:.3g}", "tiny")
            free[lane] = x + 20


def rmse_chart(horizons: dict[str, Any], width: int) -> str:
    """Twin and persistence side by side at each horizon."""
    known = [(h, row) for h, row in horizons.items() if row["n"]]
    top = max([10.0, *(max(r["rmse"], r["persistence_rmse"]) for _, r in known)]) * 1.12
    plot = Plot(width, 240, (0, max(1, len(known))), (0, top), "RMSE by horizon")
    plot.grid_y(nice_ticks(0, top, 5))
    for k, (h, row) in enumerate(known):
        for offset, key, css in ((0.16, "persistence_rmse", "other"), (0.5, "rmse", "twin")):
            value = row[key]
            plot.box(k + offset, k + offset + 0.32, 0, value, css, f"{h} min: {value:.1f} mg/dL")
            plot.text(plot.px(k + offset + 0.16), plot.py(value) - 4, f"{value:.0f}", "tiny")
    plot.ticks_x([(k + 0.5, hours_words(h)) for k, (h, _) in enumerate(known)], grid=False)
    return plot.svg()


def coverage_chart(horizons: dict[str, Any], width: int) -> str:
    """The share of readings inside the 90 % band, all and by the range when it was made."""
    known = [(h, row) for h, row in horizons.items() if row["n"]]
    shares = [
        part["coverage"]
        for _, row in known
        for part in row["by_range_when_made"].values()
        if part["n"] >= FEW and part["coverage"] is not None
    ]
    bottom = min([0.7, *(s - 0.03 for s in shares)])
    plot = Plot(width, 240, (0, max(1, len(known))), (max(0.0, bottom), 1.0), "Coverage by horizon")
    plot.box(0, max(1, len(known)), *WANTED, "wanted")
    plot.grid_y(nice_ticks(plot.y0, 1.0, 5), "{:.0%}")
    for k, (_, row) in enumerate(known):
        for offset, name in ((0.2, "low"), (0.4, "target"), (0.6, "high")):
            part = row["by_range_when_made"][name]
            if part["n"] >= FEW:
                plot.dots([(k + offset, part["coverage"])], RANGE_CSS[name], 4.0)
        plot.box(k + 0.74, k + 0.9, row["coverage"] - 0.004, row["coverage"] + 0.004, "twin")
    plot.ticks_x([(k + 0.5, hours_words(h)) for k, (h, _) in enumerate(known)], grid=False)
    return plot.svg()


def calibration_over_time(trace: Trace, zone: ZoneInfo, width: int) -> str:
    """Coverage of the 60-min band by stretches of days: does honesty last?"""
    days = local_days(trace, zone)
    _, low, _, high = trace.forecasts()
    actual = targets(trace)[:, SHOWN_HORIZON]
    first, last = int(days[0]), int(days[-1])
    step = max(1, math.ceil((last - first + 1) / 26))
    plot = Plot(width, 170, (first, last + 1), (0.6, 1.0), "Coverage of the 60-min band over time")
    plot.box(first, last + 1, *WANTED, "wanted")
    plot.grid_y((0.6, 0.7, 0.8, 0.9, 1.0), "{:.0%}")
    plot.ticks_x(_date_ticks(first, last))
    points = []
    for start in range(first, last + 1, step):
        part = (days >= start) & (days < start + step) & np.isfinite(actual)
        if np.count_nonzero(part) >= 30:
            inside = (actual[part] >= low[part, SHOWN_HORIZON]) & (actual[part] <= high[part, SHOWN_HORIZON])
            points.append((min(start + step / 2, last + 1), float(inside.mean())))
    for run in runs(points, 1.5 * step):
        plot.line(run, "forecast")
    plot.dots(points, "twin-dot", 3.0)
    return plot.svg()


def parameter(trace: Trace, zone: ZoneInfo, index: int, width: int) -> str:
    """History of one log-parameter as a multiple of its starting value, with its 90 % band; log axis."""
    rows = [(p.time_us, p.mean[index], p.sd[index]) for p in trace.posteriors]
    keep = max(1, len(rows) // 300)
    rows = rows[::keep]
    offset = _offset_us(rows[0][0], zone)
    days = [(t + offset) / US_PER_DAY for t, _, _ in rows]
    settled = rows[len(rows) // 10 :]  # the first days' width would flatten everything after them
    low = max(-LN_SHOWN, min(-0.2, *(m - Z90 * s for _, m, s in settled)))
    high = min(LN_SHOWN, max(0.2, *(m + Z90 * s for _, m, s in settled)))
    plot = Plot(width, 150, (days[0], days[-1]), (low, high), "Parameter history", left=46)
    free = math.inf
    for tick in MULTIPLES:
        if low <= math.log(tick) <= high and plot.py(math.log(tick)) < free - 15:
            free = y = plot.py(math.log(tick))
            plot.parts.append(f'<path class="grid" d="M{plot.left} {y:.1f}H{plot.right}"/>')
            plot.text(plot.left - 5, y + 4, f"{tick:g}×", anchor="end")
    plot.ticks_x(_date_ticks(int(days[0]), int(days[-1])))
    cut = 1.5 * max(1.0 / 24, keep / 24)
    data: list[tuple[float, ...]] = [
        (d, m - Z90 * s, m, m + Z90 * s) for d, (_, m, s) in zip(days, rows, strict=True)
    ]
    for piece in _pieces(data, max(cut, 0.5)):
        plot.band([(r[0], r[1]) for r in piece], [(r[0], r[3]) for r in piece], "band")
        plot.line([(r[0], r[2]) for r in piece], "forecast")
    return plot.svg()


def telling_days(trace: Trace, zone: ZoneInfo) -> list[tuple[int, str]]:
    """Up to three local days worth a look: an ordinary one, the one forecast worst, and the last full one."""
    days = local_days(trace, zone)
    made = np.array(trace.made_us, dtype=np.int64)
    values = np.array(trace.reading_mgdl)
    mean = trace.forecasts()[0][:, SHOWN_HORIZON]
    actual = observed_at(made, values, made + round(HORIZONS_MIN[SHOWN_HORIZON] * US_PER_MIN))
    error = (mean - actual) ** 2
    need = 0.7 * 1440 / interval_min(trace)
    scores: dict[int, float] = {}
    # What the twin does in its first week is learning; an "ordinary day" comes later where there is one.
    settled = days[0] + 7 if days[-1] - days[0] > 14 else days[0]
    for day in np.unique(days[days >= settled]):
        part = (days == day) & np.isfinite(error)
        if np.count_nonzero(part) >= need:
            scores[int(day)] = float(np.sqrt(error[part].mean()))
    if not scores:
        counts = {int(d): int(np.count_nonzero(days == d)) for d in np.unique(days)}
        return [(max(counts, key=lambda d: counts[d]), "the day with most readings")]
    ranked = sorted(scores, key=lambda d: scores[d])
    middle, worst, last = ranked[len(ranked) // 2], ranked[-1], max(scores)
    picked = {middle: "an ordinary day", worst: "the day that was hardest to forecast"}
    picked.setdefault(last, "the last full day")
    return sorted(picked.items())
