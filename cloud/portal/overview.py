"""The first page: all people, whoever needs attention first."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui

from cloud import queries
from cloud.portal import blocks
from cloud.portal.context import context
from cloud.portal.frame import Block, frame, token

REFRESH_S = 3.0


@ui.page("/")
async def overview(request: Request) -> None:
    """One card per person."""
    portal = context()
    session = token(request)
    with frame("People", request):
        ui.html("<h1>People</h1>", sanitize=False)
        summary, cards = Block("subtitle"), Block("full")

    async def refresh() -> None:
        if portal.sessions.name(session) is None:
            ui.navigate.to("/login")
            return
        now_us = portal.clock.now_us()
        lines = await portal.db.query(queries.people, now_us)
        summary.show(blocks.overview_line(lines, now_us))
        cards.show(blocks.person_cards(lines, now_us))

    await refresh()
    ui.timer(REFRESH_S, refresh, immediate=False)
