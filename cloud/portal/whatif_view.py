"""What the what-if page shows: sliders to changes, an answer to a chart and to words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from cloud.portal.chart import _SIDES, FLOOR_MGDL, FONT, LIGHT, TICKS_MGDL, Palette
from cloud.portal.words import local
from cloud.whatif_job import Answer, Course
from core.messages import Sample
from core.units import US_PER_H, US_PER_MIN

GRID_US: Final = 5 * US_PER_MIN
CHANGED_LIGHT: Final = ("#b26a00", "rgba(178,106,0,0.18)")
CHANGED_DARK: Final = ("#f0b145", "rgba(240,177,69,0.22)")
SOURCES: Final = {
    "parameters": "the person's parameters",
    "state": "the state when the window began",
    "disturbance": "what nobody recorded",
    "behaviour": "what was really eaten",
    "structure": "the model's structure",
}


class Slider(NamedTuple):
    """One thing to change. ``form`` takes the value, or its hundredth where ``is_percent``."""

    name: str
    label: str
    unit: str
    low: float
    high: float
    step: float
    neutral: float
    form: str
    is_percent: bool = False


class Span(NamedTuple):
    """A window beside now, hours; which sliders make sense in it."""

    from_h: float
    to_h: float
    sliders: tuple[str, ...]


SLIDERS: Final = (
    Slider("bolus", "Boluses", "%", 0, 200, 5, 100, "bolus_u*={:.3g}", True),
    Slider("carbs", "Meals", "%", 0, 200, 5, 100, "carbs_g*={:.3g}", True),
    Slider("basal", "Basal rate", "%", 50, 150, 5, 100, "basal_uph*={:.3g}", True),
    Slider("early", "Boluses earlier by", "min", 0, 60, 5, 0, "bolus_u<<{:.3g}"),
    Slider("sensitivity", "Insulin sensitivity", "%", 50, 150, 5, 100, "s*={:.3g}", True),
    Slider("eat", "Eaten now", "g", 0, 120, 5, 0, "carbs_g@{at}={:.3g}"),
    Slider("dose", "Bolus now", "U", 0, 15, 0.5, 0, "bolus_u@{at}={:.3g}"),
)
STALE_US: Final = 12 * US_PER_H
# Readings before a window: with fewer nothing is known of the state that it begins in (core.causal.counterfactual, where the
# filter would begin afresh).
BEFORE_US: Final = 6 * US_PER_H
LEAST_US: Final = US_PER_H  # of a past window; in less no dose has done its work
_PAST: Final = ("bolus", "carbs", "basal", "early", "sensitivity")
SPANS: Final = {
    "Last 24 h": Span(-24, 0, _PAST),
    "Last 12 h": Span(-12, 0, _PAST),
    "The day before": Span(-48, -24, _PAST),
    "Next 6 h": Span(0, 6, ("eat", "dose", "basal", "sensitivity")),
}


def anchor_us(now_us: int, last_us: int | None) -> int:
    """Beside what windows lie: now, or the last reading when it is so old that beside now there is nothing to ask about."""
    return now_us if last_us is None or now_us - last_us <= STALE_US else last_us


def window_us(span: Span, now_us: int) -> tuple[int, int]:
    """Start and end on the grid of five minutes."""
    on_grid_us = now_us // GRID_US * GRID_US
    return on_grid_us + round(span.from_h * US_PER_H), on_grid_us + round(span.to_h * US_PER_H)


def there(window: tuple[int, int], anchor_us: int, first_us: int | None) -> tuple[int, int] | None:
    """As much of ``window`` as the readings allow, whose first is at ``first_us``; None: there are too few.

    A window ahead is never cut: it begins now or not at all.
    """
    if first_us is None:
        return None
    start_us, end_us = window
    earliest_us = -((first_us + BEFORE_US) // -GRID_US) * GRID_US
    if start_us >= earliest_us:
        return window
    is_past = end_us <= anchor_us
    return (earliest_us, end_us) if is_past and end_us - earliest_us >= LEAST_US else None


def opening(anchor_us: int, first_us: int | None) -> str:
    """The window to open on: the longest beside the anchor that is there whole, else the shortest."""
    beside = ("Last 24 h", "Last 12 h")
    whole = (n for n in beside if there(w := window_us(SPANS[n], anchor_us), anchor_us, first_us) == w)
    return next(whole, beside[-1])


def too_few(span: Span, anchor_us: int, first_us: int | None, zone: ZoneInfo) -> str:
    """Why there is no such window, and when there will be."""
    if first_us is None:
        return "Nothing to ask about yet: there are no readings of the last days."
    least_us = LEAST_US if span.to_h <= 0 else 0
    ready_us = first_us + BEFORE_US + least_us - round(min(span.to_h, 0) * US_PER_H)
    inside = f" and {LEAST_US // US_PER_H:.0f} h inside it" if least_us else ""
    return (
        f"Not enough readings yet: they begin at {local(first_us, zone):%a %d %b %H:%M}, and this window needs"
        f" {BEFORE_US // US_PER_H:.0f} h of them before it{inside}. Ask again at {local(ready_us, zone):%a %d %b %H:%M}, or choose"
        " another window."
    )


def changes_of(values: Mapping[str, float], span: Span, start_us: int, other: str = "") -> tuple[str, ...]:
    """Expressions for sliders that stand away from neutral, and what was typed."""
    at = local(start_us, ZoneInfo("UTC")).isoformat()
    found = []
    for slider in SLIDERS:
        value = values.get(slider.name, slider.neutral)
        if slider.name in span.sliders and value != slider.neutral:
            found.append(slider.form.format(value / 100.0 if slider.is_percent else value, at=at))
    return (*found, *typed_changes(other))


def typed_changes(text: str) -> tuple[str, ...]:
    """What was typed, as expressions."""
    return tuple(part.strip() for part in text.split(";") if part.strip())


def summary(answer: Answer) -> str:
    """The figures in words, as HTML."""
    mean, low, high = answer.mean_effect
    cards = (
        ("Mean effect", f"{mean:+.0f} mg/dL", f"90 %: {low:+.0f} to {high:+.0f}"),
        ("Below 70", f"{100 * answer.below_70[1]:.1f} %", f"unchanged {100 * answer.below_70[0]:.1f} %"),
        ("Above 180", f"{100 * answer.above_180[1]:.1f} %", f"unchanged {100 * answer.above_180[0]:.1f} %"),
    )
    shares = sorted(answer.split.items(), key=lambda item: -item[1])
    split = ", ".join(f"{SOURCES.get(k, escape(k))} {100 * v:.0f} %" for k, v in shares if v >= 0.005)
    items = "".join(
        f"<tr><td>{name}</td><td><b>{figure}</b></td><td>{beside}</td></tr>" for name, figure, beside in cards
    )
    rest = f'<p class="hint">Uncertainty of the effect: {split}.</p>' if split else ""
    return (
        f"<table>{items}</table>{rest}"
        f'<p class="hint">{answer.draws} drawn people, {answer.elapsed_ms:.0f} ms.</p>'
    )


def cautions(answer: Answer) -> str:
    """Loud ones as a banner, the rest as a hint; HTML."""
    loud = "".join(f"<li>{escape(text)}</li>" for is_loud, text in answer.cautions if is_loud)
    quiet = " ".join(escape(text) for is_loud, text in answer.cautions if not is_loud)
    banner = (
        '<div class="banner" role="alert"><b>NOT TRUSTWORTHY. Outside the domain in which the model can be relied on.</b>'
        f"<ul>{loud}</ul></div>"
        if loud
        else ""
    )
    return banner + (f'<p class="hint">{quiet}</p>' if quiet else "")


def options(
    answer: Answer, samples: Sequence[Sample], zone: ZoneInfo, colours: Palette = LIGHT, *, dark: bool = False
) -> dict[str, Any]:
    """The ECharts options: both courses with readings above, the effect below."""
    changed, changed_band = CHANGED_DARK if dark else CHANGED_LIGHT
    start_us, end_us = answer.times_us[0], answer.times_us[-1]

    def x(time_us: int) -> int:
        """Milliseconds of the local clock, shown as if they were UTC."""
        offset = local(time_us, zone).utcoffset()
        return time_us // 1000 + (round(offset.total_seconds() * 1000) if offset else 0)

    times = [x(t) for t in answer.times_us]
    readings = [
        [x(s.time_us), round(s.value)]
        for s in samples
        if s.kind == "cgm_mgdl" and start_us <= s.time_us <= end_us
    ]
    fingers = _at(samples, "smbg_mgdl", x, start_us, end_us)
    carbs, boluses = (_at(samples, kind, x, start_us, end_us) for kind in ("carbs_g", "bolus_u"))
    long_acting = _at(samples, "long_acting_u", x, start_us, end_us)
    highest = max(
        [300.0, *answer.factual.p95, *answer.changed.p95, *(r[1] for r in readings), *(f[1] for f in fingers)]
    )
    top = min(600, 50 * (int(highest) // 50 + 1))
    logged = (
        _logged("Food, g", carbs, "g", colours.carbs, FLOOR_MGDL + 14),
        _logged("Bolus, U", boluses, "U", colours.bolus, FLOOR_MGDL + 4),
        _logged("Long-acting, U", long_acting, "U", colours.basal_edge, FLOOR_MGDL + 4),
    )
    acts = [series for series in logged if series["data"]]
    names = ["Readings", *(["Fingersticks"] if fingers else []), *(series["name"] for series in acts)]
    axis = {
        "type": "time",
        "min": times[0],
        "max": times[-1],
        "axisLine": {"lineStyle": {"color": colours.grid}},
        "splitLine": {"show": True, "lineStyle": {"color": colours.grid, "opacity": 0.6}},
        "axisLabel": {
            "color": colours.quiet,
            "fontSize": 11,
            "hideOverlap": True,
            "formatter": {"day": "{ee} {d} {MMM}", "hour": "{HH}:{mm}", "minute": "{HH}:{mm}"},
        },
    }
    value_axis = {
        "type": "value",
        "axisTick": {"show": False},
        "splitLine": {"show": True, "lineStyle": {"color": colours.grid, "opacity": 0.5}},
        "nameTextStyle": {"color": colours.quiet, "align": "left", "fontSize": 11},
    }
    label = {"color": colours.quiet, "fontSize": 11}
    return {
        "animation": False,
        "useUTC": True,
        "backgroundColor": "transparent",
        "textStyle": {"fontFamily": FONT, "color": colours.text},
        "aria": {"enabled": True, "label": {"description": "Glucose with and without the change"}},
        "legend": {
            "top": 0,
            "left": 0,
            "itemWidth": 16,
            "itemHeight": 9,
            "textStyle": {"color": colours.quiet, "fontSize": 12},
            "data": [*names, "As it was", "With the change"],
        },
        "grid": [{**_SIDES, "top": 44, "bottom": "38%"}, {**_SIDES, "top": "70%", "bottom": 26}],
        "xAxis": [{**axis, "gridIndex": k} for k in (0, 1)],
        "yAxis": [
            {
                **value_axis,
                "gridIndex": 0,
                "min": FLOOR_MGDL,
                "max": top,
                "name": "Glucose mg/dL",
                "axisLabel": {**label, "customValues": [t for t in TICKS_MGDL if t < top]},
            },
            {**value_axis, "gridIndex": 1, "name": "Effect mg/dL", "scale": True, "axisLabel": label},
        ],
        "series": [
            *_band("factual", answer.factual, times, 0, colours.band),
            *_band("changed", answer.changed, times, 0, changed_band),
            *_band("effect", answer.effect, times, 1, changed_band),
            {
                "name": "Readings",
                "type": "scatter",
                "symbolSize": 4,
                "itemStyle": {"color": colours.in_range},
                "data": readings,
            },
            {
                "name": "Fingersticks",
                "type": "scatter",
                "symbol": "diamond",
                "symbolSize": 11,
                "itemStyle": {"color": colours.finger, "borderColor": colours.ground, "borderWidth": 1},
                "data": fingers,
                "z": 6,
            },
            *acts,
            _line("As it was", answer.factual.mean, times, 0, colours.forecast),
            _line("With the change", answer.changed.mean, times, 0, changed),
            _line("Effect", answer.effect.mean, times, 1, changed),
        ],
    }


def _at(
    samples: Sequence[Sample], kind: str, x: Callable[[int], int], from_us: int, to_us: int
) -> list[list[float]]:
    """(place, value) of what was logged in the window."""
    return [
        [x(s.time_us), float(f"{s.value:.3g}")]
        for s in samples
        if s.kind == kind and s.value > 0 and from_us <= s.time_us <= to_us
    ]


def _logged(
    name: str, acts: Sequence[Sequence[float]], unit: str, colour: str, height: float
) -> dict[str, Any]:
    """Doses or meals as they were logged: marks at the foot of the chart, with their amount beside them."""
    return {
        "name": name,
        "type": "scatter",
        "symbol": "rect",
        "symbolSize": [4, 10],
        "itemStyle": {"color": colour},
        "data": [{"value": [at, height], "name": f"{amount:g} {unit}"} for at, amount in acts],
        "label": {"show": True, "formatter": "{b}", "position": "right", "fontSize": 10, "color": colour},
        "labelLayout": {"hideOverlap": True},
        "z": 6,
    }


def _line(name: str, values: Sequence[float], times: Sequence[int], grid: int, colour: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "line",
        "symbol": "none",
        "xAxisIndex": grid,
        "yAxisIndex": grid,
        "lineStyle": {"width": 1.8, "color": colour},
        "itemStyle": {"color": colour},
        "data": [[t, v] for t, v in zip(times, values, strict=True)],
    }


def _band(name: str, course: Course, times: Sequence[int], grid: int, colour: str) -> list[dict[str, Any]]:
    """Two stacked lines: the lower edge unseen, the width filled."""
    common = {
        "type": "line",
        "symbol": "none",
        "stack": name,
        "stackStrategy": "all",
        "xAxisIndex": grid,
        "yAxisIndex": grid,
        "lineStyle": {"opacity": 0},
        "tooltip": {"show": False},
        "silent": True,
    }
    width = [round(high - low, 1) for low, high in zip(course.p05, course.p95, strict=True)]
    return [
        {**common, "name": f"{name} low", "data": [[t, v] for t, v in zip(times, course.p05, strict=True)]},
        {
            **common,
            "name": f"{name} band",
            "areaStyle": {"color": colour},
            "data": [[t, v] for t, v in zip(times, width, strict=True)],
        },
    ]
