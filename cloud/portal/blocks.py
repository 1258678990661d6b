"""Blocks of a page as HTML text. Pure; every text that comes from outside is escaped here.

Plain semantic HTML (tables, definition lists, links) reads well to screen readers and keyboards; NiceGUI
carries it to the browser and replaces a block when its text has changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final
from zoneinfo import ZoneInfo

from cloud.portal import words
from cloud.queries import PersonLine, PersonView, Reading
from core.dosing import insulin_on_board
from core.hierarchy import data_share
from core.memory import TITLES
from core.messages import Alarm, Estimate, Forecast, HubStatus, Prior, Quality, Sample
from core.metrics import CgmMetrics, missed_targets
from core.units import US_PER_MIN, US_PER_S, percent_text

STALE_US: Final = 15 * US_PER_MIN  # three missed readings
FUTURE_US: Final = 90 * US_PER_S
SILENT_US: Final = 30 * US_PER_MIN  # a hub sends at least every few minutes
AGES_S: Final = 1e9  # an age beyond it is told as this one
Z90: Final = 1.6448536269514722
DISCLAIMER: Final = (
    "Hometwin is not a medical device. Forecasts and advice come from a model and can be wrong;"
    " a clinician decides."
)


def person_cards(lines: Sequence[PersonLine], now_us: int) -> str:
    """The overview: one link per person, whoever needs attention first."""
    if not lines:
        return (
            '<p class="empty">No hub has reported yet. A hub appears here after its first message;'
            " <code>hometwin provision</code> makes its keys.</p>"
        )
    return f'<ul class="people">{"".join(_person_card(line, now_us) for line in lines)}</ul>'


def overview_line(lines: Sequence[PersonLine], now_us: int) -> str:
    """How many people, and how many need somebody."""
    alarming = sum(1 for line in lines if line.alarms)
    waiting = sum(line.undecided for line in lines)
    silent = sum(1 for line in lines if now_us - line.last_seen_us > SILENT_US)
    parts = [f"{len(lines)} {'person' if len(lines) == 1 else 'people'}"]
    parts.append(f"{alarming} with an alarm" if alarming else "no alarm")
    parts.append(f"{waiting} advice waiting" if waiting else "no advice waiting")
    if silent:
        parts.append(f"{silent} not synchronised for {words.span_words(SILENT_US)}")
    return " · ".join(parts)


def _person_card(line: PersonLine, now_us: int) -> str:
    tags = [f'<span class="tag alarm">{_alarm_name(a)}</span>' for a in line.alarms]
    if line.undecided:
        tags.append(f'<span class="tag waiting">{line.undecided} advice to decide</span>')
    silent = now_us - line.last_seen_us > SILENT_US
    return (
        f'<li><a class="card person" href="/person/{escape(line.hub_id, quote=True)}">'
        f'<span class="who"><span class="name">{escape(line.person)}</span>'
        f"{_hub_beside(line)}</span>"
        f"{_glucose_figure(line.reading, now_us)}"
        f'<span class="facts"><span>{_reading_age(line.reading, now_us)}</span>'
        f'<span class="{"warn" if silent else ""}">Synchronised {words.ago_words(line.last_seen_us, now_us)}</span>'
        f'</span><span class="tags">{"".join(tags)}</span></a></li>'
    )


def _is_old(reading: Reading, now_us: int) -> bool:
    """Too old to speak of now; a reading from the future is no better."""
    return not -FUTURE_US < now_us - reading.time_us < STALE_US


def _glucose_figure(reading: Reading | None, now_us: int) -> str:
    if reading is None:
        return '<span class="figure none"><b>–</b></span>'
    zone, meaning = words.glucose_zone(reading.value_mgdl)
    arrow, heading = words.trend_words(reading.trend_mgdl_per_min)
    stale = _is_old(reading, now_us)
    # A value from long ago must not look like one of now: no colour, no arrow.
    css = "old" if stale else zone
    label = f"{words.glucose(reading.value_mgdl)} mg/dL, {meaning}" + ("" if stale else f", {heading}")
    shown_arrow = "" if stale else f' <i aria-hidden="true">{arrow}</i>'
    return (
        f'<span class="figure {css}" role="img" aria-label="{label}"><b>{words.glucose(reading.value_mgdl)}</b>'
        f"{shown_arrow}<small>mg/dL</small></span>"
    )


def _reading_age(reading: Reading | None, now_us: int) -> str:
    if reading is None:
        return "No reading yet"
    text = f"Reading {words.ago_words(reading.time_us, now_us)}"
    return f'<span class="warn">{text}</span>' if _is_old(reading, now_us) else text


def person_title(line: PersonLine) -> str:
    """Name and hub."""
    return escape(line.person) + _hub_beside(line)


def _hub_beside(line: PersonLine) -> str:
    """The hub's name, where the person has another one."""
    return "" if line.hub_id == line.person else f' <span class="hub">{escape(line.hub_id)}</span>'


def alarm_banner(view: PersonView, now_us: int) -> str:
    """What is raised now; empty when nothing is."""
    if not view.line.alarms:
        return ""
    items = "".join(
        f"<li><b>{_alarm_name(a)}</b> for {words.span_words(now_us - a.time_us)}"
        f"{_alarm_value(a, ', raised at ')}{'' if a.delivered else ' – not yet confirmed by a wearable'}</li>"
        for a in view.line.alarms
    )
    return f'<div class="banner" role="alert"><ul>{items}</ul></div>'


def context_line(view: PersonView, now_us: int) -> str:
    """What is going on in this person's life, as their hub says; empty in usual life."""
    if view.context is None:
        return ""
    told, time_us = view.context
    return (
        f'<p><span class="warn">Out of the usual:</span> {escape(told)}'
        f" <small>(told {words.ago_words(time_us, now_us)})</small></p>"
    )


def status_line(view: PersonView, now_us: int) -> str:
    """Data age and sync age in words."""
    line = view.line
    silent = now_us - line.last_seen_us > SILENT_US
    sync = f"Hub synchronised {words.ago_words(line.last_seen_us, now_us)}"
    parts = [_reading_age(line.reading, now_us), f'<span class="warn">{sync}</span>' if silent else sync]
    if view.estimate is not None and view.estimate.status != "ok":
        state = words.STATUS_WORDS.get(view.estimate.status, view.estimate.status)
        parts.append(f'<span class="warn">Twin: {escape(state)}</span>')
    if view.set_aside:
        what = "message" if view.set_aside == 1 else "messages"
        parts.append(f'<span class="warn">{view.set_aside} {what} of this hub could not be used</span>')
    if line.status is not None and not line.status.engine_up:
        parts.append('<span class="warn">The twin is not running on the hub</span>')
    return " · ".join(parts)


def key_figures(view: PersonView, metrics: CgmMetrics, window_words: str, now_us: int) -> str:
    """The row of large figures."""
    reading = view.line.reading
    _, heading = words.trend_words(reading.trend_mgdl_per_min if reading else None)
    meaning = words.glucose_zone(reading.value_mgdl)[1] if reading else "no reading yet"
    stale = reading is not None and _is_old(reading, now_us)
    detail = words.ago_words(reading.time_us, now_us) if stale and reading else f"{meaning}, {heading}"
    boluses = [(s.time_us, s.value) for s in view.samples if s.kind == "bolus_u"]
    iob_u = insulin_on_board(now_us, boluses)
    cards = [
        _card("Glucose", _glucose_figure(reading, now_us), detail),
        _card("In 30 minutes", *_forecast_at(view, 30.0, now_us)),
        _card("In 60 minutes", *_forecast_at(view, 60.0, now_us)),
        _card("Chance of a low", *_low_chance(view, now_us)),
        _card("Insulin on board", f"<b>{iob_u:.1f}</b><small>U</small>", "from boluses, still to act"),
        _card(
            "Time in range",
            f"<b>{words.percent(metrics.in_range_pct).removesuffix(' %')}</b><small>%</small>"
            if metrics.readings
            else "<b>–</b>",
            f"70–180 mg/dL, {window_words}, sensor worn {words.percent(metrics.wear_pct)} of it",
        ),
    ]
    return f'<dl class="figures">{"".join(cards)}</dl>'


def _card(title: str, figure: str, detail: str) -> str:
    return f'<div class="card"><dt>{title}</dt><dd class="large">{figure}</dd><dd class="detail">{detail}</dd></div>'


def _forecast_at(view: PersonView, horizon_min: float, now_us: int) -> tuple[str, str]:
    forecast = view.forecast
    if forecast is None or horizon_min not in forecast.horizons_min:
        return "<b>–</b>", "no forecast"
    if _is_history(forecast, now_us):
        return "<b>–</b>", f"last forecast {words.ago_words(forecast.made_at_us, now_us)}"
    i = forecast.horizons_min.index(horizon_min)
    zone, _ = words.glucose_zone(forecast.p50[i])
    band = f"{words.glucose(forecast.p05[i])}–{words.glucose(forecast.p95[i])} with 90 %"
    return (
        f'<span class="figure {zone}"><b>{words.glucose(forecast.p50[i])}</b><small>mg/dL</small></span>',
        band,
    )


def _low_chance(view: PersonView, now_us: int) -> tuple[str, str]:
    forecast = view.forecast
    if forecast is None or math.isnan(forecast.low_chance) or not math.isfinite(forecast.data_age_s):
        return "<b>–</b>", "not told by the twin"
    if _is_history(forecast, now_us):
        return "<b>–</b>", f"last forecast {words.ago_words(forecast.made_at_us, now_us)}"
    age_us = now_us - forecast.made_at_us + round(min(forecast.data_age_s, AGES_S) * US_PER_S)
    figure = percent_text(forecast.low_chance).removesuffix(" %")
    return (
        f"<b>{figure}</b><small>%</small>",
        f"&lt; 70 mg/dL within 30 min, from a reading {words.span_words(age_us)} old",
    )


def _is_history(forecast: Forecast, now_us: int) -> bool:
    return now_us - forecast.made_at_us > STALE_US or forecast.status not in ("ok", "warming_up")


def range_bar(metrics: CgmMetrics, window_words: str) -> str:
    """Time in ranges with the consensus targets."""
    if not metrics.readings:
        return f'<p class="empty">No glucose reading in the {window_words}.</p>'
    bands = (
        ("very-low", "below 54", metrics.very_low_pct),
        ("low", "54–69", metrics.low_pct),
        ("in-range", "70–180", metrics.in_range_pct),
        ("high", "181–250", metrics.high_pct),
        ("very-high", "above 250", metrics.very_high_pct),
    )
    bar = "".join(
        f'<span class="{css}" style="flex-grow:{share:.3f}"></span>' for css, _, share in bands if share
    )
    legend = "".join(
        f'<li><span class="dot {css}"></span>{name} <b>{words.percent(share)}</b></li>'
        for css, name, share in bands
    )
    facts = (
        f"Mean {metrics.mean_mgdl:.0f} mg/dL · CV {words.percent(metrics.cv_pct)} · GMI {metrics.gmi_pct:.1f} %"
        f" · sensor worn {words.percent(metrics.wear_pct)}"
    )
    missed = missed_targets(metrics)
    if not metrics.representative:
        verdict = "Consensus targets are judged on 14 days with at least 70 % wear; this is a shorter look."
    elif missed:
        verdict = "Misses consensus targets: " + "; ".join(escape(t) for t in missed) + "."
    else:
        verdict = "Meets all consensus targets for adults with type 1 diabetes."
    label = ", ".join(f"{name} mg/dL {words.percent(share)}" for _, name, share in bands)
    return (
        f'<div class="rangebar" role="img" aria-label="{label}">{bar}</div><ul class="ranges">{legend}</ul>'
        f"<p>{facts}</p><p class='quiet'>{verdict}</p>"
    )


def alarms_table(alarms: Sequence[Alarm], now_us: int, zone: ZoneInfo) -> str:
    """Alarms of the window, newest first; a raised and its clearing are one line."""
    if not alarms:
        return '<p class="empty">No alarm in this window.</p>'
    rows = []
    cleared: dict[str, Alarm] = {}
    for alarm in alarms:
        if not alarm.raised:
            cleared[alarm.name] = alarm
            continue
        end = cleared.pop(alarm.name, None)
        lasted = words.span_words((end.time_us if end else now_us) - alarm.time_us)
        told = "yes" if alarm.delivered or (end is not None and end.delivered) else "not confirmed"
        rows.append(
            f"<tr><td>{words.moment(alarm.time_us, now_us, zone)}</td><td>{_alarm_name(alarm)}"
            f"{_alarm_value(alarm, ' ')}</td><td>{lasted if end else f'<b>{lasted}, still on</b>'}</td><td>{told}</td></tr>"
        )
    return table(("When", "Alarm", "Lasted", "Wearable told"), rows[:30]) if rows else ""


def _alarm_name(alarm: Alarm) -> str:
    return escape(words.ALARM_NAMES.get(alarm.name, alarm.name.replace("_", " ")))


def _alarm_value(alarm: Alarm, before: str) -> str:
    if not math.isfinite(alarm.value) or alarm.name in ("signal_loss", "engine_down"):
        return ""
    return f"{before}{words.glucose(alarm.value)} mg/dL"


def estimate_table(estimate: Estimate | None, prior: Prior | None, now_us: int) -> str:
    """The person's parameters with 90 % intervals, as multiples of the population's mean."""
    if estimate is None:
        return '<p class="empty">The hub has not sent an estimate yet.</p>'
    rows = []
    for i, name in enumerate(estimate.names):
        if name not in TITLES:
            continue
        title, meaning = TITLES[name]
        sd = math.sqrt(max(0.0, _diagonal(estimate.covariance, i)))
        low, middle, high = (_exp(estimate.mean[i] + z * sd) for z in (-Z90, 0.0, Z90))
        rows.append(
            f'<tr><th scope="row">{title}<small>{meaning}</small></th><td class="number">×&thinsp;{middle:.2f}</td>'
            f'<td class="number">{low:.2f}–{high:.2f}</td><td class="drawn">{_interval(low, middle, high)}</td>'
            f'<td class="number">{_prior_range(prior, name)}</td>'
            f'<td class="number">{_data_share(prior, name, sd)}</td></tr>'
        )
    state = words.STATUS_WORDS.get(estimate.status, estimate.status)
    fit = "" if not math.isfinite(estimate.nis) else f" · last reading's surprise (NIS) {estimate.nis:.1f}"
    note = (
        f'<p class="quiet">{escape(estimate.model)}, {escape(state)}, as of'
        f" {words.ago_words(estimate.time_us, now_us)}{fit}. 1 is the population's mean."
        " “From data”: by how much the person's own data narrowed the prior's variance; the rest is prior.</p>"
    )
    columns = ("Parameter", "Estimate", "90 % interval", "×¼ … ×4", "Prior, 90 %", "From data")
    return table(columns, rows) + note


def _diagonal(lower: Sequence[float], i: int) -> float:
    return lower[i * (i + 1) // 2 + i]


def _interval(low: float, middle: float, high: float) -> str:
    """A small drawn interval on a log scale from 1/4 to 4."""

    def place(value: float) -> float:
        return 100.0 * min(1.0, max(0.0, 0.5 + math.log(max(value, 1e-9)) / math.log(16.0)))

    left, right = place(low), place(high)
    return (
        '<span class="interval" aria-hidden="true"><span class="one"></span>'
        f'<span class="span" style="left:{left:.1f}%;width:{max(1.0, right - left):.1f}%"></span>'
        f'<span class="point" style="left:{place(middle):.1f}%"></span></span>'
    )


def _prior_range(prior: Prior | None, name: str) -> str:
    if prior is None or name not in prior.names:
        return "–"
    i = prior.names.index(name)
    sd = math.sqrt(max(0.0, _diagonal(prior.covariance, i)))
    return f"{_exp(prior.mean[i] - Z90 * sd):.2f}–{_exp(prior.mean[i] + Z90 * sd):.2f}"


def _data_share(prior: Prior | None, name: str, sd: float) -> str:
    if prior is None or name not in prior.names:
        return "–"
    share = data_share(_diagonal(prior.covariance, prior.names.index(name)), sd * sd)
    return words.percent(100.0 * share)


def _exp(power: float) -> float:
    """A multiple of the population's mean; beyond a million it says no more than a million does."""
    return math.exp(min(power, math.log(1e6)))


def states_table(estimate: Estimate | None) -> str:
    """Every state of the model with its SD, for whoever wants to look inside."""
    if estimate is None:
        return '<p class="empty">No estimate.</p>'
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{estimate.mean[i]:.4g}</td>'
        f'<td class="number">± {math.sqrt(max(0.0, _diagonal(estimate.covariance, i))):.2g}</td>'
        f"<td>{escape(unit)}</td></tr>"
        for i, (name, unit) in enumerate(zip(estimate.names, estimate.units, strict=False))
    ]
    return table(("State", "Mean", "SD", "Unit"), rows)


def prior_block(prior: Prior | None, now_us: int, zone: ZoneInfo) -> str:
    """Which population prior the hub holds."""
    if prior is None:
        return '<p class="empty">No population prior has been sent yet.</p>'
    ends = words.day(prior.expires_us, zone)
    expired = " (expired)" if prior.expires_us <= now_us else ""
    return (
        f'<dl class="pairs"><dt>Version</dt><dd>{prior.version}</dd><dt>For</dt><dd>{escape(prior.stratum)}</dd>'
        f"<dt>From</dt><dd>{escape(prior.provenance)}</dd><dt>Valid until</dt><dd>{ends}{expired}</dd></dl>"
    )


def devices_block(status: HubStatus | None, now_us: int) -> str:
    """The hub's own state: sensors, outbox, counters."""
    if status is None:
        return '<p class="empty">The hub has not reported its state yet.</p>'
    rows = [
        f'<tr><th scope="row">{escape(source)}</th><td>{escape(words.LINK_WORDS.get(state, state))}</td></tr>'
        for source, state in sorted(status.devices.items())
    ]
    return (
        (table(("Sensor", "State"), rows) if rows else "")
        + f'<p class="quiet">Hub {escape(status.version)}, reported {words.ago_words(status.time_us, now_us)};'
        f" {status.outbox_pending} messages wait on the hub.</p>"
    )


def counters_table(status: HubStatus | None) -> str:
    """What the hub has counted: refused records, reconnections and the like."""
    counted = sorted((status.counters if status else {}).items())
    rows = [f'<tr><th scope="row">{escape(n)}</th><td class="number">{c}</td></tr>' for n, c in counted if c]
    return table(("Event", "Count"), rows) if rows else '<p class="empty">Nothing counted.</p>'


def readings_table(samples: Sequence[Sample], now_us: int, zone: ZoneInfo) -> str:
    """The chart as text: the last readings and acts, newest first."""
    names = {
        "cgm_mgdl": ("Glucose", "mg/dL", 0),
        "smbg_mgdl": ("Fingerstick", "mg/dL", 0),
        "bolus_u": ("Bolus", "U", 2),
        "long_acting_u": ("Long-acting insulin", "U", 1),
        "carbs_g": ("Carbohydrate", "g", 0),
    }
    rows = []
    for sample in reversed(samples):
        if sample.kind not in names:
            continue
        name, unit, digits = names[sample.kind]
        rows.append(
            f"<tr><td>{words.moment(sample.time_us, now_us, zone)}</td><td>{name}</td>"
            f'<td class="number">{sample.value:.{digits}f} {unit}</td><td>{_quality_words(sample.quality)}</td></tr>'
        )
        if len(rows) >= 40:
            break
    if not rows:
        return '<p class="empty">Nothing is recorded in this window.</p>'
    return table(("When", "What", "Value", "Note"), rows)


def _quality_words(quality: int) -> str:
    texts = {
        Quality.SENSOR_WARNING: "sensor doubts it",
        Quality.BACKFILLED: "late",
        Quality.CLOCK_DOUBT: "clock doubtful",
        Quality.BY_HAND: "entered by hand",
        Quality.OUTLIER: "outlier",
        Quality.RETURNED: "given back by the cloud",
    }
    return ", ".join(text for flag, text in texts.items() if quality & flag)


def table(columns: Sequence[str], rows: Sequence[str], caption: str = "") -> str:
    """A table that scrolls sideways on a narrow screen. Cells are HTML already."""
    head = "".join(f'<th scope="col">{c}</th>' for c in columns)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )
