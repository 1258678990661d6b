"""Forest and violin plots as SVG, in the look of all reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.drawing.svg import Plot, nice_ticks

ROW_PX: Final = 26
LABEL_PX: Final = 290
FIGURE_PX: Final = 150
NARROW_PX: Final = 600  # below, labels stand above their lines
GRID: Final = 64  # points of a density
FLOOR_SHARE: Final = 0.02  # where a density is thinner than this share of its peak, the violin ends


class Line(NamedTuple):
    """One line of a forest plot. ``heading`` lines carry words only."""

    words: str
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    form: str = "{:+.1f}"
    good: bool | None = None  # None: neither better nor worse


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
        heading = not math.isfinite(line.mean)
        at = (plot.left - 12, "end") if wide else (plot.left, "start")
        words_y = y + 4 if wide else y - 13
        plot.text(at[0], words_y, line.words, "tick head" if heading else "tick", at[1])
        if heading:
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


def violins(
    groups: Sequence[tuple[str, NDArray[np.float64]]],
    unit: str,
    width: int,
    label: str,
    targets: Sequence[float] = (),
) -> str:
    """One violin per arm: density of people, middle half, median. ``targets`` are dashed lines."""
    values = np.concatenate([v for _, v in groups])
    low, high = (float(v) for v in np.percentile(values, (0.2, 99.8)))
    low, high = min([low, *targets]), max([high, *targets])
    pad = 0.05 * (high - low or 1.0)
    plot = Plot(width, 250, (0.0, float(len(groups))), (low - pad, high + pad), label, left=46, bottom=26)
    plot.grid_y(nice_ticks(low - pad, high + pad, 5))
    plot.text(8, plot.top + 2, unit, "tiny", "start")
    for target in targets:
        y = plot.py(target)
        plot.parts.append(f'<path class="aim" d="M{plot.left} {y:.1f}H{plot.right}"/>')
    widest = 0.42
    for k, (name, part) in enumerate(groups):
        at, density = _density(part, low - pad, high + pad)
        kept = density > FLOOR_SHARE * density.max()
        at, thick = at[kept], widest * density[kept] / density.max()
        right = [(k + 0.5 + t, y) for t, y in zip(thick, at, strict=True)]
        left = [(k + 0.5 - t, y) for t, y in zip(thick, at, strict=True)]
        plot.band(left, right, f"violin v{min(k, 1)}")
        p25, p50, p75 = np.percentile(part, (25, 50, 75))
        words = f"{name}: median {p50:.1f}, middle half {p25:.1f}–{p75:.1f} {unit}, {part.size} people"
        plot.box(k + 0.47, k + 0.53, p25, p75, "half", words)
        half_px = 0.006 * (high - low + 2 * pad)
        plot.box(k + 0.43, k + 0.57, p50 - half_px, p50 + half_px, "median", words)
    room = max(4, int((plot.right - plot.left) / len(groups) / 7))
    plot.ticks_x(
        [
            (k + 0.5, name if len(name) <= room else name[: room - 1] + "…")
            for k, (name, _) in enumerate(groups)
        ],
        grid=False,
    )
    return plot.svg()


def _density(
    values: NDArray[np.float64], low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gaussian kernel density on a grid, bandwidth by Silverman's rule (robust form)."""
    at = np.linspace(max(low, float(values.min())), min(high, float(values.max())), GRID)
    q25, q75 = np.percentile(values, (25, 75))
    spread = min(float(values.std()), float(q75 - q25) / 1.34) or float(values.std())
    width = max(0.9 * spread * values.size**-0.2, 1e-3 * (high - low), 1e-12)
    density = np.exp(-0.5 * ((at[:, None] - values[None, :]) / width) ** 2).sum(axis=1)
    return at, np.asarray(density)
