"""A causal graph as an SVG picture, from its data alone. Pure: the caller writes the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Final

from core.causal.graph import Graph

Point = tuple[float, float]
BOX_W: Final = 138.0
BOX_H: Final = 34.0
STEP_X: Final = 168.0
STEP_Y: Final = 84.0
MARGIN: Final = 16.0

# Both grounds, light and dark; class names carry the graph's own prefix so that a page's style cannot meet them.
CSS: Final = """
.cg { --cg-ink:#1c2733; --cg-line:#8795a3; --cg-box:#ffffff; --cg-act:#17507f; --cg-end:#0f7f5b; --cg-gone:#8a4b00; }
@media (prefers-color-scheme: dark) { .cg { --cg-ink:#e6ebf0; --cg-line:#6c7b89; --cg-box:#182029; --cg-act:#8cc4f2;
  --cg-end:#4cc596; --cg-gone:#f0b145; } }
.cg text { font: 12.5px system-ui, "DejaVu Sans", sans-serif; fill: var(--cg-ink); }
.cg rect { fill: var(--cg-box); stroke: var(--cg-line); stroke-width: 1.2; }
.cg .act rect { stroke: var(--cg-act); stroke-width: 2.4; } .cg .end rect { stroke: var(--cg-end); stroke-width: 2.4; }
.cg .gone rect { stroke: var(--cg-gone); stroke-dasharray: 5 3; stroke-width: 1.8; }
.cg path { fill: none; stroke: var(--cg-line); stroke-width: 1.2; } .cg .asked { stroke: var(--cg-act); stroke-width: 2.6; }
.cg .tip { fill: var(--cg-line); stroke: none; } .cg .tip.asked { fill: var(--cg-act); }
"""


def graph_svg(
    graph: Graph,
    places: Mapping[str, Point],
    treatment: str = "",
    outcome: str = "",
    reasons: Mapping[tuple[str, str], str] | None = None,
    label: str = "Causal graph",
) -> str:
    """SVG text. ``places``: column and row of each node, placed so that no straight arrow meets a third. Latent nodes are dashed; ``reasons`` become tooltips."""
    graph.check(*places)
    across = max(x for x, _ in places.values())
    down = max(y for _, y in places.values())
    width = 2 * MARGIN + BOX_W + across * STEP_X
    height = 2 * MARGIN + BOX_H + down * STEP_Y
    at = {
        name: (MARGIN + BOX_W / 2 + x * STEP_X, MARGIN + BOX_H / 2 + y * STEP_Y)
        for name, (x, y) in places.items()
    }
    why = reasons or {}
    parts = [
        _arrow(
            at[cause],
            at[effect],
            (cause, effect) == (treatment, outcome),
            f"{cause} → {effect}" + (f": {why[cause, effect]}" if (cause, effect) in why else ""),
        )
        for cause, effect in graph.edges
    ]
    for name in graph.nodes:
        kind = (
            "act" if name == treatment
            else "end" if name == outcome
            else "gone" if name in graph.latent
            else "seen"
        )  # fmt: skip
        parts.append(_box(name, at[name], kind))
    return (
        f'<svg class="cg" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img" aria-label="{escape(label)}"><style>{CSS}</style>{"".join(parts)}</svg>\n'
    )


def _box(name: str, centre: Point, kind: str) -> str:
    x, y = centre
    words = f"{name} (not measured)" if kind == "gone" else name
    size = ' style="font-size:11px"' if kind == "gone" else ""
    return (
        f'<g class="{kind}"><rect x="{x - BOX_W / 2:.1f}" y="{y - BOX_H / 2:.1f}" width="{BOX_W:.1f}" '
        f'height="{BOX_H:.1f}" rx="7"/><text x="{x:.1f}" y="{y + 4.5:.1f}" text-anchor="middle"{size}>'
        f"{escape(words)}</text></g>"
    )


def _arrow(start: Point, end: Point, asked: bool, words: str) -> str:
    """A straight arrow from the edge of one box to the edge of another."""
    tail, tip = _edge_of(start, end), _edge_of(end, start)
    angle = math.atan2(tip[1] - tail[1], tip[0] - tail[0])
    wings = "".join(
        f"L{tip[0] - 9 * math.cos(angle + turn):.1f} {tip[1] - 9 * math.sin(angle + turn):.1f}"
        for turn in (0.42, -0.42)
    )
    line, head = (' class="asked"', "tip asked") if asked else ("", "tip")
    return (
        f'<path{line} d="M{tail[0]:.1f} {tail[1]:.1f}L{tip[0]:.1f} {tip[1]:.1f}"><title>{escape(words)}</title></path>'
        f'<path class="{head}" d="M{tip[0]:.1f} {tip[1]:.1f}{wings}Z"/>'
    )


def _edge_of(box: Point, toward: Point) -> Point:
    """Where the line from a box's centre leaves the box."""
    dx, dy = toward[0] - box[0], toward[1] - box[1]
    scale = min(
        (BOX_W / 2 + 2) / abs(dx) if dx else math.inf,
        (BOX_H / 2 + 2) / abs(dy) if dy else math.inf,
    )
    return box[0] + scale * dx, box[1] + scale * dy
