"""report.html: one file, no network, light and dark. For a clinician first, with an engineer's figures below."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from html import escape
from typing import Any, Final
from zoneinfo import ZoneInfo

from core.drawing.style import page
from core.drawing.svg import both_widths
from edge.replay import charts
from edge.replay.pipeline import Trace
from edge.replay.scores import RANGES

WIDE, NARROW, HALF = 1040, 350, 330
# Meanings of log-parameters, in words; another model's own names are shown as they are.
WORDS: Final = {
    "ln_s": "Insulin sensitivity",
    "ln_egp0": "Glucose from the liver",
    "ln_tg": "Time a meal takes",
    "ln_ag": "Share of a meal that arrives",
    "ln_ti": "Time insulin takes",
}
ALARM_WORDS: Final = {
    "urgent_low": "urgent low",
    "low": "low",
    "predicted_low": "low announced 30 min ahead",
    "high": "high",
    "urgent_high": "urgent high",
    "signal_loss": "sensor silent",
}
BANDS: Final = (
    ("very_low_pct", "below 54", "var(--low)"),
    ("low_pct", "54–69", "color-mix(in srgb, var(--low) 60%, var(--card))"),
    ("in_range_pct", "70–180", "var(--in)"),
    ("high_pct", "181–250", "color-mix(in srgb, var(--high) 65%, var(--card))"),
    ("very_high_pct", "above 250", "var(--high)"),
)


def report_html(trace: Trace, summary: dict[str, Any], written_s: float) -> str:
    """The whole page. ``summary``: of ``summarise``; ``written_s``: Unix time for the foot of the page."""
    zone = ZoneInfo(summary["timezone"])
    parts = [_head(trace, summary)]
    if trace.made_us:
        parts += [
            _tiles(summary),
            _overview(trace, summary, zone),
            _days(trace, zone),
            _accuracy(summary),
            _sticks(summary),
        ]
        parts += [_calibration(trace, summary, zone), _parameters(trace, zone), _alarms(trace, summary)]
    parts += [_assumed(summary), _figures(summary), _foot(summary, written_s)]
    title = escape(f"Replay of {summary['file']}")
    return page("replay", title, "", "".join(parts))


def _head(trace: Trace, summary: dict[str, Any]) -> str:
    first, last = (str(summary[key] or "")[:10] for key in ("from", "to"))
    lines = [
        f"<h1>Replay of {escape(summary['file'])}</h1>",
        f'<p class="quiet">{escape(first)} to {escape(last)} · {summary["days"]:.1f} days · '
        f"{summary['readings']} readings, usually every {summary['interval_min']:g} min · {escape(summary['format'])} · "
        f"times in {escape(summary['timezone'])}</p>",
    ]
    if not trace.complete:
        lines.append(
            f'<p class="partial">Stopped before the end: {summary["readings"]} of '
            f"{summary['readings_in_recording']} readings. Every figure below is of that part only.</p>"
        )
    lines.append(
        '<p class="quiet">Each forecast was made with what was known at that moment and nothing later. '
        "Not a medical device; no figure here is a therapy recommendation.</p>"
    )
    return "".join(lines)


def _tile(name: str, figure: str, beside: str) -> str:
    return (
        f'<div class="tile"><div class="name">{name}</div><div class="figure">{figure}</div>'
        f'<div class="beside">{beside}</div></div>'
    )


def _tiles(summary: dict[str, Any]) -> str:
    tiles = []
    for horizon in ("30", "60", "120"):
        row = summary["horizons"][horizon]
        if row["n"]:
            gain = 100 * (1 - row["rmse"] / row["persistence_rmse"]) if row["persistence_rmse"] else 0.0
            tiles.append(
                _tile(
                    f"RMSE, {horizon} min",
                    f"{row['rmse']:.1f} <small>mg/dL</small>",
                    f"persistence {row['persistence_rmse']:.1f} ({abs(gain):.0f} % {'less' if gain >= 0 else 'more'})",
                )
            )
    row = summary["horizons"]["60"]
    if row["n"]:
        tiles.append(
            _tile("90 % band, 60 min", f"{100 * row['coverage']:.1f} %", "of readings inside; wanted 87–93")
        )
    nis = summary["nis"]
    if nis["n"]:
        tiles.append(
            _tile("Filter consistency (NIS)", f"{nis['mean']:.2f}", f"1 is ideal; median {nis['median']:.2f}")
        )
    lows = summary["alarms"]["low"]
    if lows["episodes"]:
        lead = f", {lows['lead_min_median']:.0f} min ahead" if lows["lead_min_median"] is not None else ""
        tiles.append(
            _tile(
                "Lows announced",
                f"{lows['announced']} <small>of {lows['episodes']}</small>",
                f"within 60 min{lead}",
            )
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _key(*pairs: tuple[str, str]) -> str:
    items = "".join(f'<span><i style="background:{colour}"></i>{words}</span>' for colour, words in pairs)
    return f'<div class="key">{items}</div>'


def _overview(trace: Trace, summary: dict[str, Any], zone: ZoneInfo) -> str:
    metrics = summary["glucose"]
    stack = key = ""
    if metrics:
        stack = (
            '<div class="stack">'
            + "".join(
                f'<div style="width:{metrics[name]:.2f}%;background:{colour}" title="{words} mg/dL: {metrics[name]:.1f} %"></div>'
                for name, words, colour in BANDS
            )
            + "</div>"
        )
        key = _key(*((colour, f"{words}: {metrics[name]:.1f} %") for name, words, colour in BANDS))
        key += (
            f'<p class="quiet">Mean {metrics["mean_mgdl"]:.0f} mg/dL, variation (CV) {metrics["cv_pct"]:.0f} %, '
            f"sensor worn {metrics['wear_pct']:.0f} % of the time.</p>"
        )
    picture = both_widths(charts.overview(trace, zone, WIDE), charts.overview(trace, zone, NARROW))
    return (
        f"<section><h2>Glucose, day by day</h2>{stack}{key}{picture}"
        + _key(
            ("var(--half)", "middle half of the readings"),
            ("var(--whisker)", "5–95 %"),
            ("var(--median)", "median"),
        )
        + '<p class="quiet">mg/dL. Days without readings are left empty.</p></section>'
    )


def _days(trace: Trace, zone: ZoneInfo) -> str:
    parts = []
    for day, why in charts.telling_days(trace, zone):
        picture = both_widths(
            charts.one_day(trace, zone, day, WIDE), charts.one_day(trace, zone, day, NARROW)
        )
        parts.append(f"<h3>{charts.day_words(day, '%A, %d %B %Y')}: {why}</h3>{picture}")
    key = _key(
        ("var(--in)", "readings (coloured by range)"),
        ("var(--forecast)", "what was expected 60 min before"),
        ("var(--band)", "its 90 % band"),
        ("var(--carbs)", "carbohydrate (g)"),
        ("var(--bolus)", "bolus or long-acting, dashed (U)"),
        ("var(--basal)", "basal rate"),
    )
    return (
        "<section><h2>Days looked at closely</h2>"
        '<p class="quiet">The band at each time was drawn an hour earlier. Triangles at the top are alarms, hollow '
        f"ones lows that were announced.</p>{key}{''.join(parts)}</section>"
    )


def _accuracy(summary: dict[str, Any]) -> str:
    horizons = summary["horizons"]
    rows = []
    for h, row in horizons.items():
        later = summary["horizons_second_half"][h]
        if row["n"]:
            rows.append(
                f"<tr><td>{h} min</td><td>{row['n']}</td><td><b>{row['rmse']:.1f}</b></td><td>{row['persistence_rmse']:.1f}</td>"
                f"<td>{row['mard_pct']:.1f} %</td><td>{row['bias']:+.1f}</td><td>{_fixed(later['rmse'])}</td>"
                f"<td>{row['band_width']:.0f}</td></tr>"
            )
    head = "<tr><th>ahead</th><th>scored</th><th>RMSE</th><th>persistence</th><th>MARD</th><th>bias</th><th>RMSE, 2nd half</th><th>band width</th></tr>"
    if not rows:
        return "<section><h2>How far off</h2><p>No forecast could be scored: no reading came at any target.</p></section>"
    picture = both_widths(charts.rmse_chart(horizons, WIDE), charts.rmse_chart(horizons, NARROW))
    return (
        '<section><h2>How far off</h2><p class="quiet">Root mean square error in mg/dL, beside the simplest '
        f"forecast there is: “it stays as it is”.</p>{picture}"
        + _key(("var(--twin)", "twin"), ("var(--other)", "persistence"))
        + f'<div class="scroll"><table>{head}{"".join(rows)}</table></div></section>'
    )


def _sticks(summary: dict[str, Any]) -> str:
    sticks = summary["fingersticks"]
    if not sticks["n"]:
        return ""
    rows = "".join(
        f"<tr><td>{words}</td><td>{sticks[f'{which}_mard_pct']:.1f} %</td><td>{sticks[f'{which}_bias_mgdl']:+.1f}</td></tr>"
        for words, which in (("newest reading", "reading"), ("blood, by the twin", "blood"))
    )
    return (
        "<section><h2>Beside fingersticks</h2>"
        '<p class="quiet">A sensor sits in tissue: it lags behind blood by some ten minutes, and may read high or low for '
        f"days. {sticks['n']} fingersticks were compared with what was known just before each of them; the meter's own "
        f"error is in every figure. The twin's 90 % band of blood held {100 * sticks['blood_coverage']:.0f} % of them.</p>"
        f"<table><tr><th></th><th>MARD</th><th>bias, mg/dL</th></tr>{rows}</table></section>"
    )


def _calibration(trace: Trace, summary: dict[str, Any], zone: ZoneInfo) -> str:
    horizons = {h: row for h, row in summary["horizons"].items() if row["n"]}
    if not horizons:
        return ""
    over = both_widths(
        charts.calibration_over_time(trace, zone, WIDE), charts.calibration_over_time(trace, zone, NARROW)
    )
    picture = both_widths(charts.coverage_chart(horizons, WIDE), charts.coverage_chart(horizons, NARROW))
    return (
        '<section><h2>How honest the bands are</h2><p class="quiet">A 90 % band should hold 90 % of what comes: '
        "fewer, and it promises too much; more, and it says too little. The green strip is 87–93 %. Colours: the "
        f"range in which the person was when the forecast was made.</p>{picture}"
        + _key(
            ("var(--twin)", "all"),
            ("var(--low)", "from below 70"),
            ("var(--in)", "from 70–180"),
            ("var(--high)", "from above 180"),
        )
        + _coverage_table(horizons, "by_range_when_made", "from")
        + f'<h3 class="later">60-min band over time</h3>{over}'
        + "<details><summary>The same by where glucose ended up</summary>"
        '<p class="quiet">A reading that ends far out is by its nature one that few bands held: these shares must fall '
        "short of 90 % at the edges the further ahead one looks, also for a perfect forecast. They show how much of a low "
        f"comes unseen.</p>{_coverage_table(horizons, 'by_observed_range', 'to')}</details></section>"
    )


def _coverage_table(horizons: dict[str, Any], by: str, word: str) -> str:
    rows = []
    for h, row in horizons.items():
        cells = "".join(_share(row[by][name]["coverage"], row[by][name]["n"]) for name, _, _ in RANGES)
        rows.append(
            f"<tr><td>{h} min</td>{_share(row['coverage'], row['n'])}{cells}<td>{100 * row['below_p05']:.1f} %</td>"
            f"<td>{100 * row['below_p50']:.0f} %</td><td>{100 * row['above_p95']:.1f} %</td></tr>"
        )
    head = (
        f"<tr><th>ahead</th><th>all</th><th>{word} &lt;70</th><th>{word} 70–180</th><th>{word} &gt;180</th>"
        "<th>below band</th><th>below median</th><th>above band</th></tr>"
    )
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _share(value: float | None, n: int) -> str:
    if value is None or not n:
        return "<td>–</td>"
    css = "good" if charts.WANTED[0] <= value <= charts.WANTED[1] else "bad" if value < 0.8 else ""
    return f'<td class="{css}">{100 * value:.1f} %</td>'


def _fixed(value: float | None) -> str:
    return f"{value:.1f}" if value is not None and value == value else "–"


def _parameters(trace: Trace, zone: ZoneInfo) -> str:
    if len(trace.posteriors) < 2:
        return ""
    parts = []
    for index, name in enumerate(trace.names):
        if name.startswith("ln_"):
            now = trace.posteriors[-1]
            parts.append(
                f"<div><h3>{escape(WORDS.get(name, name))} <span class='quiet'>{escape(name)}, last "
                f"{math.exp(now.mean[index]):.2f}×</span></h3>{charts.parameter(trace, zone, index, HALF)}</div>"
            )
    if not parts:
        return ""
    return (
        '<section><h2>What was learned about the person</h2><p class="quiet">Multiples of the starting value, with '
        "90 % bands. A band that stays as wide as it began says that the data tell little about it. Where nothing was "
        f'recorded the line is interrupted.</p><div class="two">{"".join(parts)}</div></section>'
    )


def _alarms(trace: Trace, summary: dict[str, Any]) -> str:
    raised = summary["alarms"]["raised"]
    days = max(summary["days"], 1e-9)
    rows = "".join(
        f"<tr><td>{ALARM_WORDS.get(name, name)}</td><td>{raised[name]}</td><td>{raised[name] / days:.2f}</td></tr>"
        for name in ALARM_WORDS
        if name in raised
    )
    low = summary["alarms"]["low"]
    words = ""
    if low["episodes"]:
        words = (
            f"<p>{low['announced']} of {low['episodes']} lows (below 70 mg/dL) were announced in the hour before they came"
            + (
                f", half of them at least {low['lead_min_median']:.0f} min before"
                if low["lead_min_median"] is not None
                else ""
            )
            + (
                f"; {low['false_per_day']:.2f} announcements a day were followed by none."
                if low["false_per_day"] is not None
                else "."
            )
            + "</p>"
        )
    table = (
        f"<table><tr><th>alarm</th><th>times</th><th>a day</th></tr>{rows}</table>"
        if rows
        else "<p>None was raised.</p>"
    )
    return f"<section><h2>Alarms the hub would have given</h2>{words}{table}</section>"


def _assumed(summary: dict[str, Any]) -> str:
    assumed = "".join(
        f'<tr><td>{escape(item["name"])}</td><td class="words">{escape(item["from"])}</td></tr>'
        for item in summary["assumed"]
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in summary["notes"])
    events = ", ".join(f"{escape(kind)} {count}" for kind, count in summary["events"].items())
    return (
        "<section><h2>What this rests on</h2>"
        f'<p class="quiet">Used from the recording: {events}.</p>'
        + (f"<h3>Assumed, because no patient file said it</h3><table>{assumed}</table>" if assumed else "")
        + (f'<h3 style="margin-top:.8rem">Notes on the recording</h3><ul>{notes}</ul>' if notes else "")
        + "</section>"
    )


def _figures(summary: dict[str, Any]) -> str:
    timing, nis = summary["timing"], summary["nis"]
    nis_words = (
        f"NIS after warm-up: mean {nis['mean']:.2f}, median {nis['median']:.2f}, "
        f"{100 * nis['share_above_3_84']:.1f} % above 3.84 (5 % expected). "
        if nis["n"]
        else ""
    )
    per = f", {timing['ms_per_reading']:.2f} ms a reading" if timing["ms_per_reading"] else ""
    status = ", ".join(f"{escape(name)} {count}" for name, count in summary["status"].items())
    return (
        f'<section><h2>For the engineer</h2><p class="quiet">Model {escape(summary["model"] or "–")}. {nis_words}'
        f"Status of the forecasts: {status or 'none'}. Time: {timing['total_s']:.1f} s{per}, of which "
        f"{timing['twin_s']:.1f} s in the twin. A forecast is scored on a reading at its target or on the straight line "
        "between two at most 30 min apart. All figures are in summary.json, every forecast in forecasts.csv, the "
        "state in posterior.csv.</p></section>"
    )


def _foot(summary: dict[str, Any], written_s: float) -> str:
    when = datetime.fromtimestamp(written_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f'<p class="quiet">Written by hometwin replay on {when}.</p>'
