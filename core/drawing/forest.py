"""A forest plot as SVG: differences with their intervals on one scale. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

from core.drawing.svg import Plot, nice_ticks

ROW_PX: Final = 26
FIGURE_ROOM_PX: Final = 52  # beside a label that stands above its line
LABEL_PX: Final = 290
FIGURE_PX: Final = 150
CHARACTER_PX: Final = 6.6  # of a label, generously
NARROW_PX: Final = 600  # below, labels stand above their lines
FOREST_CSS: Final = """
.interval { stroke-width: 1.8; } .interval.better, .point.better { stroke: var(--in); } .point.better { fill: var(--in); }
.interval.worse, .point.worse { stroke: var(--low); } .point.worse { fill: var(--low); }
.interval.neutral, .point.neutral { stroke: var(--twin); } .point.neutral { fill: var(--twin); }
.zero { stroke: var(--quiet); stroke-width: 1.2; } .tick.head { font-weight: 650; fill: var(--text); }
"""


class Line(NamedTuple):
    """One line of a forest plot. ``heading`` lines carry words only."""

    words: str
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    form: str = "{:+.1f}"
    good: bool | None = None  # None: neither better nor worse
    note: str = ""  # in place of point and interval, where there is none to draw


def forest(lines: Sequence[Line], unit: str, width: int, label: str) -> str:
    """Differences with 95 % intervals on one scale; zero is "no difference"."""
    wide = width >= NARROW_PX
    row = ROW_PX if wide else 2 * ROW_PX - 8
    ends = [v for line in lines for v in (line.low, line.high) if math.isfinite(v)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    pad = 0.06 * (high - low or 1.0)
    plot = Plot(
        width,
        row * len(lines) + 44,
        (low - pad, high + pad),
        (0.0, float(len(lines))),
        label,
        left=LABEL_PX if wide else 14,
        right=FIGURE_PX if wide else 14,
        top=8,
        bottom=36,
    )
    ticks = nice_ticks(low - pad, high + pad, 6 if wide else 4)
    plot.ticks_x([(v, f"{v:g}") for v in ticks])
    zero = plot.px(0.0)
    plot.parts.append(f'<path class="zero" d="M{zero:.1f} {plot.top}V{plot.bottom}"/>')
    plot.text((plot.left + plot.right) / 2, plot.bottom + 32, f"difference, {unit}" if unit else "difference")
    for k, line in enumerate(lines):
        y = plot.top + row * (k + (0.5 if wide else 0.72))
        heading = not math.isfinite(line.mean) and not line.note
        at = (plot.left - 12, "end") if wide else (plot.left, "start")
        words_y = y + 4 if wide else y - 13
        room = int((plot.left - 12 if wide else width - 14 - FIGURE_ROOM_PX) / CHARACTER_PX)
        shown = line.words if len(line.words) <= room else f"{line.words[: room - 1]}…"
        plot.text(at[0], words_y, shown, "tick head" if heading else "tick", at[1])
        if heading:
            continue
        if line.note:
            plot.text(width - 4, y + 4 if wide else words_y + 15, line.note, anchor="end")
            continue
        css = "neutral" if line.good is None else "better" if line.good else "worse"
        x0, x1, x = plot.px(line.low), plot.px(line.high), plot.px(line.mean)
        figure = (
            f"{line.form.format(line.mean)} ({line.form.format(line.low)} to {line.form.format(line.high)})"
        )
        plot.parts.append(
            f'<path class="interval {css}" d="M{x0:.1f} {y:.1f}H{x1:.1f}M{x0:.1f} {y - 4:.1f}v8M{x1:.1f} {y - 4:.1f}v8">'
            f"<title>{escape(line.words)}: {figure}</title></path>"
            f'<rect class="point {css}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
        )
        if wide:
            plot.text(width - 4, y + 4, figure, anchor="end")
        else:
            plot.text(width - 4, words_y, line.form.format(line.mean), anchor="end")
    return plot.svg()
