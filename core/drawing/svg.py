"""A small plotter: numbers in, an SVG element out. Colours are CSS classes, so that one picture serves light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

Point = tuple[float, float]
FONT_PX: Final = 12


class Plot:
    """One set of axes. ``x``, ``y``: data ranges; pixels grow to the right and downwards."""

    def __init__(
        self,
        width: int,
        height: int,
        x: tuple[float, float],
        y: tuple[float, float],
        label: str,
        *,
        left: int = 40,
        right: int = 10,
        top: int = 12,
        bottom: int = 24,
    ) -> None:
        self.width, self.height, self.label = width, height, label
        self.x0, self.x1 = x if x[1] > x[0] else (x[0] - 0.5, x[0] + 0.5)
        self.y0, self.y1 = y if y[1] > y[0] else (y[0] - 0.5, y[0] + 0.5)
        self.left, self.right, self.top, self.bottom = left, width - right, top, height - bottom
        self.parts: list[str] = []

    def px(self, x: float) -> float:
        return self.left + (x - self.x0) / (self.x1 - self.x0) * (self.right - self.left)

    def py(self, y: float) -> float:
        y = min(max(y, self.y0), self.y1)
        return self.bottom - (y - self.y0) / (self.y1 - self.y0) * (self.bottom - self.top)

    def line(self, points: Sequence[Point], css: str) -> None:
        """A line through points; nothing for fewer than two."""
        if len(points) >= 2:
            self.parts.append(f'<path class="{css}" d="{self._path(points)}"/>')

    def band(self, low: Sequence[Point], high: Sequence[Point], css: str) -> None:
        """The area between two lines over the same x."""
        if len(low) >= 2:
            back = self._path([*reversed(high)]).replace("M", "L", 1)
            self.parts.append(f'<path class="{css}" d="{self._path(low)}{back}Z"/>')

    def dots(self, points: Iterable[Point], css: str, radius: float = 2.0) -> None:
        """One path of round dots: a tenth of the bytes of circle elements."""
        moves = "".join(f"M{self.px(x):.1f} {self.py(y):.1f}h0" for x, y in points)
        if moves:
            self.parts.append(f'<path class="dots {css}" stroke-width="{2 * radius:g}" d="{moves}"/>')

    def box(self, x0: float, x1: float, y0: float, y1: float, css: str, title: str = "") -> None:
        """A rectangle between data coordinates, at least half a pixel wide."""
        left, right = sorted((self.px(x0), self.px(x1)))
        top, bottom = sorted((self.py(y0), self.py(y1)))
        tip = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(
            f'<rect class="{css}" x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0.5):.1f}" '
            f'height="{max(bottom - top, 0.5):.1f}">{tip}</rect>'
        )

    def text(self, x_px: float, y_px: float, words: str, css: str = "tick", anchor: str = "middle") -> None:
        self.parts.append(
            f'<text class="{css}" x="{x_px:.1f}" y="{y_px:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def grid_y(self, ticks: Iterable[float], form: str = "{:g}") -> None:
        """Horizontal lines with numbers at the left."""
        for y in ticks:
            if self.y0 <= y <= self.y1:
                py = self.py(y)
                self.parts.append(f'<path class="grid" d="M{self.left} {py:.1f}H{self.right}"/>')
                self.text(self.left - 6, py + 4, form.format(y), anchor="end")

    def ticks_x(self, ticks: Iterable[tuple[float, str]], grid: bool = True) -> None:
        """Words below the axis, with a line upwards; words that would run into the one before are left out."""
        free = -math.inf
        for x, words in ticks:
            if not self.x0 <= x <= self.x1:
                continue
            px = self.px(x)
            if grid:
                self.parts.append(f'<path class="grid" d="M{px:.1f} {self.top}V{self.bottom}"/>')
            half = 3.6 * len(words)
            middle = min(max(px, half), self.width - half)
            if middle - half > free:
                self.text(middle, self.bottom + 16, words)
                free = middle + half + 6

    def svg(self) -> str:
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(self.label)}">'
            + "".join(self.parts)
            + "</svg>"
        )

    def _path(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{self.px(x):.1f} {self.py(y):.1f}" for x, y in points)


def runs(points: Sequence[Point], gap: float) -> list[list[Point]]:
    """Points cut where the next is more than ``gap`` away: a gap stays a gap."""
    pieces: list[list[Point]] = []
    for point in points:
        if pieces and point[0] - pieces[-1][-1][0] <= gap:
            pieces[-1].append(point)
        else:
            pieces.append([point])
    return pieces


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers inside [low, high], about so many."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def both_widths(wide: str, narrow: str) -> str:
    """Two drawings of one thing: the page shows the one that fits."""
    return f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
