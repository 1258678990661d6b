"""The page that shows what the twin takes to cause what, what that lets it say, and what records say then."""

from __future__ import annotations

from html import escape
from typing import Final

from fastapi import Request
from nicegui import ui

from cloud import queries
from cloud.adviser import TWIN_KINDS, patient_of
from cloud.portal.context import Context, context
from cloud.portal.frame import Block, frame, token
from cloud.whatif_job import Effect, Record, Reply
from core.causal.identify import identify
from core.causal.twin_graph import INSULIN, LATER, NODES, twin_graph, twin_svg
from core.errors import HometwinError
from core.units import US_PER_DAY

DAYS: Final = 60  # of one person's record
DAYS_OF_ALL: Final = 14  # of everybody's, so that a town's records are one question
ALL: Final = "*"  # no hub has this name


@ui.page("/causes")
async def causes(request: Request) -> None:
    """The causal graph, the verdict with and without illness, and a question to the records of one person or of all."""
    portal = context()
    lines = await portal.db.query(queries.people, portal.clock.now_us())
    page = CausesPage(portal, token(request), {p.hub_id: p.person for p in lines})
    with frame("Causes", request):
        ui.html(page_html(), sanitize=False).classes("full")
        page.build()


class CausesPage:
    """The question of one browser tab."""

    def __init__(self, portal: Context, session: str | None, people: dict[str, str]) -> None:
        self._portal, self._session, self._people = portal, session, people
        self._is_busy = False

    def build(self) -> None:
        """Create the elements."""
        with ui.element("section").classes("card"):
            ui.html(
                f"<h2>Ask the records</h2><p>What does a correction do to glucose two hours later? Asked of the last {DAYS} days "
                f"({DAYS_OF_ALL} of everybody), adjusted for why it was given. What no sensor tells, you have to.</p>",
                sanitize=False,
            )
            choices = {**({ALL: "Everybody"} if len(self._people) > 1 else {}), **self._people}
            who = ui.select(choices, value=next(iter(choices), None), label="Whose record").classes("full")
            ill = ui.checkbox("Nobody asked about was ill in this time")
            active = ui.checkbox("Nobody exercised in this time (needed without heart rates)")
            ui.button(
                "Ask the records",
                on_click=lambda: self._ask(str(who.value), bool(ill.value), bool(active.value)),
            ).props("no-caps")
            self._answer = Block("full")

    async def _ask(self, who: str, never_ill: bool, never_active: bool) -> None:
        if self._portal.sessions.name(self._session) is None:
            ui.navigate.to("/login")
            return
        hubs = [h for h in self._people if who in (ALL, h)]
        if self._is_busy or not hubs:
            return
        self._is_busy = True
        try:
            self._answer.show("<p>Reading the record and asking the twin …</p>")
            days = DAYS if len(hubs) == 1 else DAYS_OF_ALL
            since_us = self._portal.clock.now_us() - days * US_PER_DAY
            records = []
            for hub_id in hubs:
                samples = await self._portal.db.query(queries.samples, hub_id, since_us, TWIN_KINDS)
                records.append(Record(tuple(samples), patient_of(self._portal.config, hub_id)[1]))
            reply = await self._portal.questions.reply(Effect(tuple(records), never_ill, never_active))
        except HometwinError as err:
            reply = Reply(problem=err.what)
        finally:
            self._is_busy = False
        if self._portal.sessions.name(self._session) is None:
            ui.navigate.to("/login")
            return
        self._answer.show(answer_html(reply))


def answer_html(reply: Reply) -> str:
    """A table, or why there is none."""
    if reply.said is None:
        return f'<p role="alert"><b>Refused:</b> {escape(reply.problem or "no answer")}.</p>'
    rows = "".join(
        f"<tr><td>{escape(who)}</td><td>{mean:+.1f}</td><td>{low:+.1f} to {high:+.1f}</td></tr>"
        for who, mean, low, high in reply.said.rows
    )
    rows += "".join(
        f"<tr><td>{escape(who)}</td><td>refused</td><td>{escape(why)}</td></tr>"
        for who, why in reply.said.refused
    )
    words = "".join(f"<li>{escape(text)}.</li>" for text in reply.said.words)
    return (
        "<table><tr><th>who says</th><th>effect, mg/dL</th><th>95 % interval</th></tr>"
        f"{rows}</table><ul>{words}</ul>"
    )


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
