"""Violin plots as SVG, in the look of all reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.drawing.svg import Plot, nice_ticks

GRID: Final = 64  # points of a density
FLOOR_SHARE: Final = 0.02  # where a density is thinner than this share of its peak, the violin ends


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
