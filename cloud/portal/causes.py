"""The page that shows what the twin takes to cause what, and what that lets it say."""

from __future__ import annotations

from html import escape

from fastapi import Request
from nicegui import ui

from cloud.portal.frame import frame
from core.causal.identify import identify
from core.causal.twin_graph import INSULIN, LATER, NODES, twin_graph, twin_svg


@ui.page("/causes")
async def causes(request: Request) -> None:
    """The causal graph, what stands for each node in a record, and the verdict with and without illness."""
    with frame("Causes", request):
        ui.html(page_html(), sanitize=False).classes("full")


def page_html() -> str:
    """The page's content; of no person, so it needs no data."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(words.meaning)}</td>"
        f"<td>{escape(words.measured_by or 'nothing: not measured')}</td></tr>"
        for name, words in NODES.items()
    )
    verdicts = "".join(
        f"<li>{when}: {escape(identify(graph, INSULIN, LATER).words())}.</li>"
        for when, graph in (
            ("As hubs record it", twin_graph()),
            ("Were illness recorded", twin_graph(illness_recorded=True)),
        )
    )
    return (
        '<p class="crumb"><a href="/">← People</a></p><h1>What causes what</h1>'
        '<p class="subtitle">People inject because glucose is high, so records alone make insulin look harmful. '
        "This graph says what has to be accounted for. It is an assumption, not a finding.</p>"
        f'<section class="card">{twin_svg()}</section>'
        f'<section class="card"><h2>Can the effect of a dose be read from records?</h2><ul>{verdicts}</ul></section>'
        f'<section class="card"><h2>What stands for each node</h2><table><tr><th>node</th><th>what it is</th>'
        f"<th>measured by</th></tr>{rows}</table></section>"
    )
