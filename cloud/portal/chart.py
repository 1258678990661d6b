"""The person's chart: records in, an ECharts option tree out. Pure.

Top: CGM with gaps as gaps, fingersticks, the forecast's median and 5–95 % band, target range.
Below it two strips of their own, so that a meal never hides its bolus: carbohydrate (g), and insulin as
boluses (U) over the basal rate (U/h).
Times are shifted to the person's local clock and the chart told to show them as they are: the clinician's
browser may live in another zone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from cloud.portal.words import local
from core.messages import Forecast, Sample
from core.units import US_PER_H, US_PER_MIN

NEAR_US: Final = 6 * US_PER_MIN  # of the pointer: just over one reading's interval
FORECAST_STEP_MIN: Final = 10.0  # drawn points between horizons, so that the pointer always finds one near
GAP_US: Final = 16 * US_PER_MIN  # three missed readings: a line across would claim what nobody measured
AHEAD_SHARE: Final = 0.12  # room to the right of now when there is no forecast
MIN_AHEAD_MIN: Final = 120.0  # of a forecast, also in the narrowest window
FORECAST_SHOWN_US: Final = 30 * US_PER_MIN  # an older forecast is history, not a forecast
MIN_TOP_MGDL: Final = 300
FLOOR_MGDL: Final = 40
# The borders of the consensus ranges say more than round numbers.
TICKS_MGDL: Final = (54, 70, 120, 180, 250, 300, 350, 400, 450, 500, 550, 600)
LABEL_MIN_U: Final = 0.5  # automatic pumps give many crumbs; their labels would hide the meals' boluses
SIDE: Final = 34  # px for the axis labels
FONT: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif'
# Without outerBoundsMode "none" a long label narrows one grid and the three no longer share their time axis.
_SIDES: Final = {"left": SIDE, "right": 14, "outerBoundsMode": "none"}


class Palette(msgspec.Struct, frozen=True):
    """Colours of one theme. Every text colour has a contrast of at least 4.5 to its ground."""

    text: str
    quiet: str
    grid: str
    ground: str
    target: str
    low: str
    in_range: str
    high: str
    very_high: str
    forecast: str
    band: str
    bolus: str
    basal: str
    basal_edge: str
    carbs: str
    finger: str


LIGHT: Final = Palette(
    text="#1c2733",
    quiet="#5a6775",
    grid="#e3e8ed",
    ground="#ffffff",
    target="rgba(22,138,98,0.07)",
    low="#c2272d",
    in_range="#0f7f5b",
    high="#b26a00",
    very_high="#a33b00",
    forecast="#5b4bb5",
    band="rgba(91,75,181,0.16)",
    bolus="#1f6fb2",
    basal="rgba(31,111,178,0.20)",
    basal_edge="#8fb9dc",
    carbs="#d08700",
    finger="#8b1e5f",
)
DARK: Final = Palette(
    text="#e6ebf0",
    quiet="#9fadbb",
    grid="#2b3641",
    ground="#182029",
    target="rgba(72,199,149,0.07)",
    low="#ff6b6b",
    in_range="#4cc596",
    high="#f0b145",
    very_high="#ff9157",
    forecast="#a99bff",
    band="rgba(169,155,255,0.20)",
    bolus="#64b3f4",
    basal="rgba(100,179,244,0.22)",
    basal_edge="#4a7fae",
    carbs="#e8b04a",
    finger="#f08fc9",
)

# An axis tooltip offers the nearest point of every series, however far away: what is not near is left out.
# The basal rate holds until the next, up to now. The band's helper series are folded into one line.
TOOLTIP: Final = """params => {
  const at = params[0].axisValue, near = NEAR_MS, now = NOW_MS, seen = {}, rows = [];
  const two = n => String(n).padStart(2, '0');
  const units = {'Glucose': 'mg/dL', 'Fingerstick': 'mg/dL', 'Forecast median': 'mg/dL', 'Bolus': 'U', 'Basal': 'U/h', 'Carbohydrate': 'g'};
  let low = null;
  for (const p of params) {
    const t = p.value[0], v = p.value[1], name = p.seriesName;
    if (v === null || v === undefined || seen[name]) continue;
    if (name === 'Basal' ? at > now : Math.abs(t - at) > near) continue;
    seen[name] = true;
    if (name === 'band low') { low = v; continue; }
    if (name === 'Forecast 5–95 %') { rows.push('5–95 %: ' + Math.round(low) + '–' + Math.round(low + v) + ' mg/dL'); continue; }
    const whole = units[name] === 'mg/dL' || units[name] === 'g';
    rows.push(p.marker + name + ': ' + (whole ? Math.round(v) : Math.round(v * 100) / 100) + ' ' + units[name]);
  }
  const d = new Date(at), days = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
  return '<b>' + days[d.getUTCDay()] + ' ' + two(d.getUTCHours()) + ':' + two(d.getUTCMinutes()) + '</b><br>' + rows.join('<br>');
}"""


def options(
    samples: Sequence[Sample],
    forecast: Forecast | None,
    now_us: int,
    window_us: int,
    zone: ZoneInfo,
    colours: Palette = LIGHT,
) -> dict[str, Any]:
    """The ECharts options. ``samples`` by time; those outside the window are left to the chart to clip."""
    start_us = now_us - window_us
    glucose = _by_kind(samples, "cgm_mgdl")
    shown = _shown_forecast(forecast, now_us, window_us, glucose)
    end_us = now_us + int(window_us * AHEAD_SHARE)
    if shown is not None:
        end_us = max(shown.made_at_us + int(max(shown.horizons_min) * US_PER_MIN), now_us + window_us // 40)

    def x(time_us: int) -> int:
        """Milliseconds of the local clock, shown as if they were UTC."""
        offset = local(time_us, zone).utcoffset()
        return time_us // 1000 + (round(offset.total_seconds() * 1000) if offset else 0)

    fingers = _by_kind(samples, "smbg_mgdl")
    boluses = _by_kind(samples, "bolus_u")
    carbs = _by_kind(samples, "carbs_g")
    basal = _by_kind(samples, "basal_uph")
    labels = window_us <= 26 * US_PER_H
    highest = max(
        [s.value for s in (*glucose, *fingers) if s.time_us >= start_us]
        + (list(shown.p95[:1]) + list(shown.p50) if shown else [])
        + [0.0]
    )
    top = max(MIN_TOP_MGDL, 50 * (int(highest) // 50 + 1))
    x_range = {"min": x(start_us), "max": x(end_us)}
    return {
        "animation": False,
        "useUTC": True,
        "backgroundColor": "transparent",
        "textStyle": {"fontFamily": FONT, "color": colours.text},
        "aria": {"enabled": True, "label": {"description": "Glucose, forecast, insulin and meals over time"}},
        "legend": {
            "type": "scroll",
            "top": 0,
            "left": 0,
            "right": 0,
            "itemGap": 14,
            "pageTextStyle": {"color": colours.quiet},
            "pageIconColor": colours.quiet,
            "pageIconInactiveColor": colours.grid,
            "itemWidth": 16,
            "itemHeight": 9,
            "textStyle": {"color": colours.quiet, "fontSize": 12},
            "data": _legend(fingers, shown is not None, basal),
        },
        "tooltip": {
            "trigger": "axis",
            ":formatter": TOOLTIP.replace("NEAR_MS", str(max(NEAR_US, window_us // 150) // 1000)).replace(
                "NOW_MS", str(x(now_us))
            ),
            "backgroundColor": colours.ground,
            "borderColor": colours.grid,
            "textStyle": {"color": colours.text, "fontSize": 13},
            "axisPointer": {"type": "line", "lineStyle": {"color": colours.quiet, "type": "dotted"}},
            "confine": True,
        },
        "axisPointer": {"link": [{"xAxisIndex": "all"}]},
        "grid": [
            {**_SIDES, "top": 44, "bottom": "36%"},
            {**_SIDES, "top": "69%", "height": "9%"},
            {**_SIDES, "top": "83%", "bottom": 26},
        ],
        "xAxis": [_time_axis(i, x_range, colours, labels_shown=i == 2) for i in range(3)],
        "yAxis": [
            {
                "type": "value",
                "gridIndex": 0,
                "min": FLOOR_MGDL,
                "max": top,
                "axisLabel": {
                    "color": colours.quiet,
                    "fontSize": 11,
                    "customValues": [t for t in TICKS_MGDL if t < top],
                },
                "axisTick": {"show": False},
                "splitLine": {"show": False},
                **_title("Glucose mg/dL", colours),
            },
            _strip_axis(1, "Carbohydrate g", 40.0, carbs, start_us, colours),
            _strip_axis(2, "Insulin U, basal U/h", 2.0, [*boluses, *basal], start_us, colours),
        ],
        "visualMap": {
            "show": False,
            "seriesIndex": 0,
            "dimension": 1,
            "pieces": [
                {"lt": 70, "color": colours.low},
                {"gte": 70, "lte": 180, "color": colours.in_range},
                {"gt": 180, "lte": 250, "color": colours.high},
                {"gt": 250, "color": colours.very_high},
            ],
        },
        "series": [
            _glucose_series(glucose, x, now_us, colours),
            *_forecast_series(shown, x, colours),
            {
                "name": "Fingerstick",
                "type": "scatter",
                "symbol": "diamond",
                "symbolSize": 11,
                "itemStyle": {"color": colours.finger, "borderColor": colours.ground, "borderWidth": 1},
                "data": [[x(s.time_us), round(s.value)] for s in fingers],
                "z": 6,
            },
            {
                "name": "Basal",
                "type": "line",
                "step": "end",
                "xAxisIndex": 2,
                "yAxisIndex": 2,
                "symbol": "none",
                "lineStyle": {"width": 1, "color": colours.basal_edge},
                "areaStyle": {"color": colours.basal},
                "itemStyle": {"color": colours.basal_edge},
                "data": _basal_points(basal, x, start_us, now_us),
            },
            _bars("Bolus", boluses, x, 2, colours.bolus, LABEL_MIN_U if labels else None, colours),
            _bars("Carbohydrate", carbs, x, 1, colours.carbs, 0.0 if labels else None, colours),
        ],
    }


def with_gaps(samples: Sequence[Sample]) -> list[tuple[int, float | None]]:
    """(time, value) with a None between readings that lie further apart than GAP."""
    points: list[tuple[int, float | None]] = []
    for sample in samples:
        if points and sample.time_us - points[-1][0] > GAP_US:
            points.append((points[-1][0] + GAP_US // 2, None))
        points.append((sample.time_us, sample.value))
    return points


def _shown_forecast(
    forecast: Forecast | None, now_us: int, window_us: int, glucose: Sequence[Sample]
) -> Forecast | None:
    """The forecast as drawn: begun at the reading it was made from, cut to the window; None when too old."""
    if forecast is None or now_us - forecast.made_at_us > FORECAST_SHOWN_US:
        return None
    if forecast.status not in ("ok", "warming_up"):
        return None
    until_min = max(MIN_AHEAD_MIN, window_us / US_PER_MIN / 4)
    kept = sorted((h, i) for i, h in enumerate(forecast.horizons_min) if 0 < h <= until_min)
    if not kept:
        return None
    start = [s for s in glucose if 0 <= forecast.made_at_us - s.time_us <= GAP_US]
    first = (start[-1].value,) if start else ()
    horizons = tuple(h for h, _ in kept)
    if start:
        horizons = (min(0.0, (start[-1].time_us - forecast.made_at_us) / US_PER_MIN), *horizons)

    def pick(values: tuple[float, ...]) -> tuple[float, ...]:
        return (*first, *(values[i] for _, i in kept))

    return msgspec.structs.replace(
        forecast,
        horizons_min=horizons,
        mean=pick(forecast.mean),
        sd=(*(0.0 for _ in first), *(forecast.sd[i] for _, i in kept)),
        p05=pick(forecast.p05),
        p50=pick(forecast.p50),
        p95=pick(forecast.p95),
    )


def _by_kind(samples: Sequence[Sample], kind: str) -> list[Sample]:
    return [s for s in samples if s.kind == kind]


def _legend(fingers: Sequence[Sample], forecast: bool, basal: Sequence[Sample]) -> list[dict[str, Any]]:
    names = ["Glucose"]
    names += ["Fingerstick"] if fingers else []
    names += ["Forecast median", "Forecast 5–95 %"] if forecast else []
    names += ["Bolus"] + (["Basal"] if basal else []) + ["Carbohydrate"]
    icons = {
        "Glucose": "path://M0,4 L16,4 L16,6 L0,6 Z",
        "Forecast median": "path://M0,4 L6,4 L6,6 L0,6 Z M10,4 L16,4 L16,6 L10,6 Z",
        "Fingerstick": "diamond",
    }
    return [{"name": n, "icon": icons.get(n, "rect")} for n in names]


def _time_axis(grid: int, x_range: dict[str, int], colours: Palette, *, labels_shown: bool) -> dict[str, Any]:
    return {
        "type": "time",
        "gridIndex": grid,
        **x_range,
        "containShape": False,  # bars must not widen their own axis: the three share one time
        "axisLine": {"lineStyle": {"color": colours.grid}},
        "axisTick": {"show": labels_shown, "lineStyle": {"color": colours.grid}},
        "axisLabel": {
            "show": labels_shown,
            "color": colours.quiet,
            "fontSize": 11,
            "hideOverlap": True,
            "formatter": {"day": "{bold|{ee} {d} {MMM}}", "hour": "{HH}:{mm}", "minute": "{HH}:{mm}"},
            "rich": {"bold": {"color": colours.text, "fontWeight": "bold", "fontSize": 11}},
        },
        "splitLine": {"show": True, "lineStyle": {"color": colours.grid, "opacity": 0.6}},
    }


def _title(text: str, colours: Palette) -> dict[str, Any]:
    """A grid's title above its left edge."""
    style = {"color": colours.quiet, "fontSize": 11, "align": "left", "padding": [0, 0, 0, 8 - SIDE]}
    return {"name": text, "nameGap": 6, "nameTextStyle": style}


def _strip_axis(
    grid: int, name: str, at_least: float, samples: Sequence[Sample], start_us: int, colours: Palette
) -> dict[str, Any]:
    highest = max([s.value for s in samples if s.time_us >= start_us], default=0.0)
    top = max(at_least, float(math.ceil(highest * 1.4)))  # room above the tallest bar for its label
    return {
        "type": "value",
        "gridIndex": grid,
        "min": 0,
        "max": top,
        "axisLabel": {"color": colours.quiet, "fontSize": 11, "customValues": [0, _round_tick(top / 1.6)]},
        "axisTick": {"show": False},
        "splitLine": {"show": False},
        **_title(name, colours),
    }


def _round_tick(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that does not exceed ``value``."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value)


def _glucose_series(glucose: Sequence[Sample], x: Any, now_us: int, colours: Palette) -> dict[str, Any]:
    points = with_gaps(glucose)
    return {
        "name": "Glucose",
        "type": "line",
        "data": [[x(t), None if v is None else round(v, 1)] for t, v in points],
        "connectNulls": False,
        # A reading alone between two gaps has no line to be seen by.
        "showSymbol": len(points) < 24,
        "symbol": "circle",
        "symbolSize": 5,
        "lineStyle": {"width": 2.4},
        "itemStyle": {"color": colours.in_range},
        "z": 5,
        "markArea": {
            "silent": True,
            "itemStyle": {"color": colours.target},
            "data": [[{"yAxis": 70}, {"yAxis": 180}]],
        },
        "markLine": {
            "silent": True,
            "symbol": "none",
            "label": {"show": False},
            "data": [
                {"yAxis": 70, "lineStyle": {"color": colours.in_range, "type": "solid", "opacity": 0.55}},
                {"yAxis": 180, "lineStyle": {"color": colours.in_range, "type": "solid", "opacity": 0.55}},
                {"yAxis": 54, "lineStyle": {"color": colours.low, "type": "dashed", "opacity": 0.7}},
                {"yAxis": 250, "lineStyle": {"color": colours.very_high, "type": "dashed", "opacity": 0.5}},
                {
                    "xAxis": x(now_us),
                    "lineStyle": {"color": colours.quiet, "type": "dotted", "width": 1.2},
                    "label": {"show": True, "formatter": "now", "color": colours.quiet, "fontSize": 11},
                },
            ],
        },
    }


def _forecast_series(forecast: Forecast | None, x: Any, colours: Palette) -> list[dict[str, Any]]:
    if forecast is None:
        return []
    horizons = forecast.horizons_min
    steps = np.arange(horizons[0], horizons[-1] + 0.1, FORECAST_STEP_MIN)
    fine = np.unique(np.concatenate([steps, horizons]))
    times = [x(forecast.made_at_us + int(h * US_PER_MIN)) for h in fine]
    low = np.interp(fine, horizons, forecast.p05).tolist()
    middle = np.interp(fine, horizons, forecast.p50).tolist()
    width = (np.interp(fine, horizons, forecast.p95) - np.interp(fine, horizons, forecast.p05)).tolist()
    hidden = {"type": "line", "stack": "band", "stackStrategy": "all", "symbol": "none", "silent": True}
    return [
        {
            **hidden,
            "name": "band low",
            "lineStyle": {"opacity": 0},
            "data": [[t, round(v, 1)] for t, v in zip(times, low, strict=True)],
        },
        {
            **hidden,
            "name": "Forecast 5–95 %",
            "lineStyle": {"opacity": 0},
            "itemStyle": {"color": colours.band},
            "areaStyle": {"color": colours.band},
            "data": [[t, round(v, 1)] for t, v in zip(times, width, strict=True)],
        },
        {
            "name": "Forecast median",
            "type": "line",
            "symbol": "none",
            "lineStyle": {"color": colours.forecast, "width": 2, "type": "dashed"},
            "itemStyle": {"color": colours.forecast},
            "data": [[t, round(v, 1)] for t, v in zip(times, middle, strict=True)],
            "z": 5,
        },
    ]


def _basal_points(basal: Sequence[Sample], x: Any, start_us: int, now_us: int) -> list[list[float]]:
    """Steps from the left edge to now: a rate holds until the next."""
    if not basal:
        return []
    points = [[x(max(s.time_us, start_us)), round(s.value, 3)] for s in basal]
    return [*points, [x(now_us), round(basal[-1].value, 3)]]


def _bars(
    name: str,
    samples: Sequence[Sample],
    x: Any,
    grid: int,
    colour: str,
    label_from: float | None,
    colours: Palette,
) -> dict[str, Any]:
    """Bars at their own times; labelled from ``label_from`` on, or not at all."""
    shown = label_from is not None
    text = f"p => p.value[1] < {label_from or 0} ? '' : String(Math.round(p.value[1] * 10) / 10)"
    return {
        "name": name,
        "type": "bar",
        "xAxisIndex": grid,
        "yAxisIndex": grid,
        "barWidth": 5 if shown else 3,
        "itemStyle": {"color": colour, "borderRadius": [2, 2, 0, 0]},
        "label": {
            "show": shown,
            "position": "top",
            "distance": 2,
            "fontSize": 10.5,
            "color": colours.text,
            ":formatter": text,
        },
        "labelLayout": {"hideOverlap": True},
        "data": [[x(s.time_us), round(s.value, 2)] for s in samples],
        "z": 4,
    }
