"""The page of a what-if: both courses, the effect, where its uncertainty comes from, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final
from zoneinfo import ZoneInfo

from core.causal.counterfactual import Counterfactual, Course
from core.drawing.style import page
from core.drawing.svg import Plot, both_widths, nice_ticks
from core.messages import Sample
from core.units import US_PER_H

WIDE, NARROW = 1040, 350
OWN_CSS: Final = """
.cf { stroke: var(--high); stroke-width: 1.8; } .cf-band { fill: color-mix(in srgb, var(--high) 20%, transparent); stroke: none; }
.dots.reading { stroke: var(--trace); } .finger { fill: var(--low); stroke: var(--card); } .zero { stroke: var(--quiet); stroke-dasharray: 3 3; }
.loud { border-left: 4px solid var(--low); background: var(--warnbg); padding: .6rem .9rem; border-radius: 6px; margin: .8rem 0; font-weight: 600; }
"""
SOURCE_WORDS: Final = {
    "parameters": "the person's parameters",
    "state": "the state when the window began",
    "disturbance": "what nobody recorded (the disturbance)",
    "behaviour": "what was really eaten, and how it was absorbed",
    "structure": "the model's structure, which is not that of a body",
}
CHARACTER_PX: Final = 6.0  # of the smallest words, generously
QUESTION_WORDS: Final = {
    "counterfactual": "Counterfactual: the readings of these hours are known, and kept in mind.",
    "interventional": "Interventional: these hours have no readings; an average over what may come.",
    "both": "Readings end before the window does: they are kept in mind as far as they go.",
}


def report_html(
    answer: Counterfactual,
    changes: Sequence[str],
    name: str,
    samples: Sequence[Sample],
    timezone: str,
    written_s: float,
    notes: Sequence[str] = (),
) -> str:
    """The whole page, self-contained."""
    zone = ZoneInfo(timezone)
    title = f"What if: {', '.join(changes) or 'nothing changed'}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{escape(name)} · {_clock(int(answer.times_us[0]), zone, True)} to '
        f"{_clock(int(answer.times_us[-1]), zone, True)} · times in {escape(timezone)} · {answer.draws} drawn people, "
        f"seed {answer.seed}</p>",
        f'<p class="quiet">{QUESTION_WORDS[answer.question]} Not a medical device; no figure here is a therapy '
        "recommendation.</p>",
        _cautions(answer),
        _tiles(answer),
        "<section><h2>Glucose</h2>",
        '<div class="key"><span><i style="background:var(--forecast)"></i>as it was, or is expected</span>'
        '<span><i style="background:var(--high)"></i>with the change</span>'
        '<span><i style="background:var(--trace)"></i>readings</span><span><i style="background:var(--low)"></i>fingersticks'
        '</span><span><i style="background:var(--carbs)"></i>food as logged, g</span><span><i style="background:var(--bolus)">'
        "</i>insulin as logged, U</span><span>bands hold 90 %</span></div>",
        both_widths(*(_courses(answer, samples, zone, width) for width in (WIDE, NARROW))),
        "</section><section><h2>Effect of the change</h2>",
        '<p class="quiet">Difference within each drawn person, mg/dL: what is uncertain of both courses alike cancels.</p>',
        both_widths(*(_effect(answer, zone, width) for width in (WIDE, NARROW))),
        "</section>",
        _split(answer),
        _basis(answer, notes),
        f'<p class="quiet">Written {datetime.fromtimestamp(written_s, UTC):%Y-%m-%d %H:%M} UTC.</p>',
    ]
    return page("whatif", escape(title), OWN_CSS, "".join(parts))


def _cautions(answer: Counterfactual) -> str:
    loud = [c.text for c in answer.cautions if c.loud]
    out = []
    if loud:
        items = "".join(f"<li>{escape(text)}</li>" for text in loud)
        out.append(
            '<div class="loud">NOT TRUSTWORTHY. Outside the domain in which this model can be relied on. Do not rely on the figures below.'
            f"<ul>{items}</ul></div>"
        )
    quiet = [c.text for c in answer.cautions if not c.loud]
    if quiet:
        out.append(f'<p class="caution">{escape(" ".join(quiet))}</p>')
    return "".join(out)


def _tiles(answer: Counterfactual) -> str:
    mean, low, high = answer.mean_effect
    tiles = [
        ("Mean effect", f"{mean:+.0f} <small>mg/dL</small>", f"90 %: {low:+.0f} to {high:+.0f}"),
        *(
            (
                f"Time {words}",
                f"{100 * pair[1]:.1f} <small>%</small>",
                f"without the change {100 * pair[0]:.1f} %; difference, 90 %: "
                f"{100 * change[0]:+.1f} to {100 * change[1]:+.1f}",
            )
            for words, pair, change in (
                ("below 70", answer.below_70, answer.share_change(-math.inf, 70.0)),
                ("below 54", answer.below_54, answer.share_change(-math.inf, 54.0)),
                ("above 180", answer.above_180, answer.share_change(180.0, math.inf)),
            )
        ),
    ]
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><div class="name">{name}</div><div class="figure">{figure}</div>'
            f'<div class="beside">{beside}</div></div>'
            for name, figure, beside in tiles
        )
        + "</div>"
    )


def _clock(time_us: int, zone: ZoneInfo, day: bool = False) -> str:
    moment = datetime.fromtimestamp(time_us / 1e6, UTC).astimezone(zone)
    return moment.strftime("%d %b %Y %H:%M" if day else "%H:%M")


def _hours(answer: Counterfactual) -> list[float]:
    return [float(t - answer.times_us[0]) / US_PER_H for t in answer.times_us]


def _ticks(answer: Counterfactual, zone: ZoneInfo, width: int) -> list[tuple[float, str]]:
    span = _hours(answer)[-1]
    step = next((h for h in (1, 2, 3, 6, 12, 24) if span / h <= width / 110), 24)
    first = datetime.fromtimestamp(int(answer.times_us[0]) / 1e6, UTC).astimezone(zone)
    lead = (-(first.hour + first.minute / 60)) % step
    hours = [lead + k * step for k in range(math.floor((span - lead) / step) + 1)]
    return [(h, _clock(int(answer.times_us[0] + h * US_PER_H), zone)) for h in hours]


def _draw(plot: Plot, hours: list[float], course: Course, css: str, band: str) -> None:
    low, mean, high = (
        list(zip(hours, values.tolist(), strict=True)) for values in (course.p05, course.mean, course.p95)
    )
    plot.band(low, high, band)
    plot.line(mean, css)


def _courses(answer: Counterfactual, samples: Sequence[Sample], zone: ZoneInfo, width: int) -> str:
    hours = _hours(answer)
    start_us, end_us = int(answer.times_us[0]), int(answer.times_us[-1])
    here = [s for s in samples if start_us <= s.time_us <= end_us]
    dots = [((s.time_us - start_us) / US_PER_H, s.value) for s in here if s.kind == "cgm_mgdl"]
    fingers = [((s.time_us - start_us) / US_PER_H, s.value) for s in here if s.kind == "smbg_mgdl"]
    top = max(
        [
            250.0,
            *(y for _, y in (*dots, *fingers)),
            float(answer.factual.p95.max()),
            float(answer.counterfactual.p95.max()),
        ]
    )
    plot = Plot(
        width,
        352,
        (0.0, hours[-1]),
        (30.0, min(top + 10, 450.0)),
        "Glucose with and without the change",
        bottom=76,
    )
    plot.box(0, hours[-1], 70, 180, "target")
    plot.grid_y((54, 70, 120, 180, 250, 300, 350, 400))
    plot.ticks_x(_ticks(answer, zone, width))
    plot.dots(dots, "reading", 1.6)
    _draw(plot, hours, answer.factual, "forecast", "band")
    _draw(plot, hours, answer.counterfactual, "cf", "cf-band")
    for at_h, value in fingers:
        x, y = plot.px(at_h), plot.py(value)
        plot.parts.append(
            f'<path class="finger" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"><title>fingerstick {value:.0f} mg/dL</title></path>'
        )
    ends = dict.fromkeys((40, 48, 60, 68), 0.0)  # where the last word ends, per line
    for s in here:  # acts as they were logged
        if s.kind in ("carbs_g", "bolus_u", "long_acting_u") and s.value > 0:
            css = {"carbs_g": "carbs", "bolus_u": "bolus", "long_acting_u": "long"}[s.kind]
            lane = 40 if s.kind == "carbs_g" else 60
            x, y = plot.px((s.time_us - start_us) / US_PER_H), plot.bottom + lane
            words = f"{s.value:.3g} {'g' if s.kind == 'carbs_g' else 'U'}"
            plot.parts.append(
                f'<path class="{css}" d="M{x:.1f} {y}v-14"><title>{words} as logged</title></path>'
            )
            line = next((line for line in (lane, lane + 8) if ends[line] <= x), None)
            if width > NARROW and line is not None:  # words that would lie on others stay in the title
                plot.text(x + 5, plot.bottom + line - 3, words, "tiny", anchor="start")
                ends[line] = x + 5 + CHARACTER_PX * len(words)
    return plot.svg()


def _effect(answer: Counterfactual, zone: ZoneInfo, width: int) -> str:
    hours = _hours(answer)
    low = min(-10.0, float(answer.effect.p05.min()) * 1.08)
    high = max(10.0, float(answer.effect.p95.max()) * 1.08)
    plot = Plot(width, 220, (0.0, hours[-1]), (low, high), "Effect of the change on glucose")
    plot.grid_y(nice_ticks(low, high, 5), "{:+g}")
    plot.ticks_x(_ticks(answer, zone, width))
    plot.parts.append(f'<path class="zero" d="M{plot.left} {plot.py(0.0):.1f}H{plot.right}"/>')
    _draw(plot, hours, answer.effect, "cf", "cf-band")
    return plot.svg()


def _split(answer: Counterfactual) -> str:
    if not any(answer.split.values()):
        return ""
    rows = "".join(
        f'<tr><td class="words">{SOURCE_WORDS[name]}</td><td>{100 * share:.0f} %</td></tr>'
        for name, share in sorted(answer.split.items(), key=lambda item: -item[1])
    )
    return (
        "<section><h2>Where the effect's uncertainty comes from</h2>"
        '<p class="quiet">Each source varied alone, the rest at its most likely value; shares of variance.</p>'
        f'<div class="scroll"><table><tr><th>source</th><th>share</th></tr>{rows}</table></div></section>'
    )


def _basis(answer: Counterfactual, remarks: Sequence[str]) -> str:
    fit = answer.fit
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{math.exp(mean):.2f}×</td>"
        f"<td>{math.exp(mean - 1.645 * sd):.2f}–{math.exp(mean + 1.645 * sd):.2f}</td></tr>"
        for name, (mean, sd) in answer.parameters.items()
        if name != "circ_ln"  # additive, not a multiple
    )
    assumed = "".join(f"<li>{escape(what)}: {escape(source)}</li>" for what, source in answer.assumed)
    notes = "".join(f"<li>{escape(text)}</li>" for text in answer.approximations)
    told = "".join(f"<li>{escape(text)}</li>" for text in remarks)
    fitted = (
        f"{fit.readings} readings fitted within {fit.rmse_mgdl:.1f} mg/dL (insulin and food alone: "
        f"{fit.open_rmse_mgdl:.1f}); sensor error {fit.noise.sensor_mgdl:g} mg/dL."
        if fit.readings
        else "No readings."
    )
    return (
        f"<section><h2>What it rests on</h2><p>{fitted}</p><ul>{notes}</ul>"
        + (f"<h3>Assumed</h3><ul>{assumed}</ul>" if assumed else "")
        + (f"<h3>Notes on the recording</h3><ul>{told}</ul>" if told else "")
        + "<details><summary>Parameters of this person, beside the model's nominal values</summary>"
        f'<div class="scroll"><table><tr><th>parameter</th><th>most likely</th><th>90 %</th></tr>{rows}</table></div>'
        "</details></section>"
    )
