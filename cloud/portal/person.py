"""One person's page: now, chart, ranges, advice to decide, alarms, estimate, prior, devices."""

from __future__ import annotations

from html import escape
from typing import Final

from fastapi import Request
from nicegui import ui

from cloud import queries, tries
from cloud.portal import advice_blocks, blocks, chart
from cloud.portal.advice_cards import AdviceCards
from cloud.portal.context import Context, context
from cloud.portal.frame import Block, frame, is_dark, token
from cloud.portal.policy_form import PolicyForm
from cloud.queries import PersonView
from core.metrics import CgmMetrics, cgm_metrics
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN

REFRESH_S: Final = 2.0
WINDOWS: Final = {
    "6 h": 6 * US_PER_H,
    "24 h": US_PER_DAY,
    "3 days": 3 * US_PER_DAY,
    "7 days": 7 * US_PER_DAY,
    "14 days": 14 * US_PER_DAY,
}
FIRST_WINDOW: Final = "24 h"
REDRAW_US: Final = US_PER_MIN  # ages in words and the "now" line move although no data came


@ui.page("/person/{hub_id}")
async def person_page(request: Request, hub_id: str) -> None:
    """Everything known about one person."""
    page = PersonPage(context(), hub_id, token(request), is_dark(request))
    first = await page.load()
    if first is None:
        with frame("Unknown person", request):
            ui.html('<h1>There is no such person</h1><p><a href="/">All people</a></p>', sanitize=False)
        return
    with frame(first.line.person, request):
        page.build(first)
    ui.timer(REFRESH_S, page.refresh, immediate=False)


class PersonPage:
    """The page of one browser tab."""

    def __init__(self, portal: Context, hub_id: str, session: str | None, dark: bool) -> None:
        self._portal, self._hub_id, self._session = portal, hub_id, session
        self._window = FIRST_WINDOW
        self._mark: tuple[int, ...] = ()
        self._drawn_us = 0
        self._dark = dark
        self._view: PersonView | None = None

    async def load(self) -> PersonView | None:
        """Read the page's content; None for an unknown hub."""
        now_us = self._portal.clock.now_us()
        self._mark = await self._portal.db.query(queries.change_mark, self._hub_id)
        # One insulin life more than shown: insulin on board needs the boluses before the window.
        start_us = now_us - max(WINDOWS[self._window], 7 * US_PER_H)
        self._view = await self._portal.db.query(queries.person, self._hub_id, start_us, now_us)
        return self._view

    def build(self, view: PersonView) -> None:
        """Create the elements, filled."""
        ui.html(
            f'<p class="crumb"><a href="/">← People</a> · <a href="/whatif/{escape(self._hub_id, quote=True)}">What if …</a>'
            f"</p><h1>{blocks.person_title(view.line)}</h1>",
            sanitize=False,
        )
        self._status = Block("subtitle")
        self._banner = Block("full")
        self._figures = Block("full")
        with ui.element("div").classes("columns"):
            with ui.element("div").classes("wide"):
                self._build_chart(view)
                self._ranges = _section("Time in ranges", "third")
                self._alarms = _section("Alarms", "fourth")
                self._estimate = _section("What the twin has learned", "fifth estimate")
                self._states = _folded("All states of the model", "fifth")
            with ui.element("div").classes("narrow"):
                with _box("Advice", "second"):
                    self._advice = AdviceCards(self._portal, self._decided, self._current_user)
                self._scorecard = _section("The adviser's record", "third")
                with _box("Standing policies", "sixth"):
                    self._policies = Block("full")
                    PolicyForm(self._portal, self._hub_id, self._decided, self._current_user)
                self._prior = _section("Population prior", "sixth")
                self._devices = _section("Sensors and hub", "sixth")
                self._counters = _folded("Counters of the hub", "sixth")
        self._show(view)

    def _build_chart(self, view: PersonView) -> None:
        now_us = self._portal.clock.now_us()
        with ui.element("section").classes("card chart first"):
            with ui.element("div").classes("bar"):
                ui.html("<h2>Glucose, insulin, meals</h2>", sanitize=False)
                choice = ui.toggle(list(WINDOWS), value=self._window, on_change=self._choose_window)
                choice.props('no-caps unelevated dense toggle-color="primary" aria-label="Time window"')
            self._chart = ui.echart(self._options(view, now_us)).classes("plot")
            ui.on("hometwin-theme", self._on_theme)
            self._table = _folded("The same as a table")

    def _has_ended(self) -> bool:
        """Whether the session this page was opened with is over; then the tab is sent to the login."""
        if self._current_user() is not None:
            return False
        ui.navigate.to("/login")
        return True

    async def refresh(self) -> None:
        """Show what has changed since the last look."""
        if self._has_ended():
            return
        now_us = self._portal.clock.now_us()
        mark = await self._portal.db.query(queries.change_mark, self._hub_id)
        grown_us = now_us - self._drawn_us
        self._advice.tell(tries.of(self._hub_id))
        if mark == self._mark and grown_us < REDRAW_US:
            if self._view is not None:  # a meal's time passes although no data came
                self._advice.show(self._view.advice, now_us, self._portal.zone)
            return
        view = await self.load()
        if view is not None:
            self._show(view)

    def _show(self, view: PersonView) -> None:
        now_us, zone = self._portal.clock.now_us(), self._portal.zone
        start_us = now_us - WINDOWS[self._window]
        window_words = f"last {self._window}"
        shown = [s for s in view.samples if s.time_us >= start_us]
        metrics = _metrics(view, start_us, now_us)
        self._status.show(blocks.status_line(view, now_us))
        self._banner.show(blocks.alarm_banner(view, now_us))
        self._banner.hide_when_empty()
        self._figures.show(blocks.key_figures(view, metrics, window_words, now_us))
        self._ranges.show(blocks.range_bar(metrics, window_words))
        self._table.show(blocks.readings_table(shown, now_us, zone))
        self._alarms.show(
            blocks.alarms_table([a for a in view.alarms if a.time_us >= start_us], now_us, zone)
        )
        self._estimate.show(
            blocks.context_line(view, now_us) + blocks.estimate_table(view.estimate, view.prior, now_us)
        )
        self._states.show(blocks.states_table(view.estimate))
        self._prior.show(blocks.prior_block(view.prior, now_us, zone))
        self._devices.show(blocks.devices_block(view.line.status, now_us))
        self._counters.show(blocks.counters_table(view.line.status))
        self._advice.tell(tries.of(self._hub_id))
        self._advice.show(view.advice, now_us, zone)
        self._scorecard.show(advice_blocks.scorecard_block(view.scorecard))
        self._policies.show(advice_blocks.policies_block(view.policies, now_us, zone))
        self._draw(view, now_us)

    def _draw(self, view: PersonView, now_us: int) -> None:
        self._chart.options.clear()
        self._chart.options.update(self._options(view, now_us))
        self._chart.update()
        self._drawn_us = now_us

    def _options(self, view: PersonView, now_us: int) -> dict[str, object]:
        colours = chart.DARK if self._dark else chart.LIGHT
        window_us = WINDOWS[self._window]
        return chart.options(view.samples, view.forecast, now_us, window_us, self._portal.zone, colours)

    async def _choose_window(self, event: object) -> None:
        chosen = str(getattr(event, "value", FIRST_WINDOW))
        if self._has_ended() or chosen not in WINDOWS:
            return
        self._window = chosen
        view = await self.load()
        if view is not None:
            self._show(view)

    def _on_theme(self, event: object) -> None:
        dark = getattr(event, "args", None) == "dark"
        if dark != self._dark and self._view is not None and not self._has_ended():
            self._dark = dark
            self._draw(self._view, self._portal.clock.now_us())

    def _current_user(self) -> str | None:
        """Who decides: the session must still stand at the moment of the click."""
        return self._portal.sessions.name(self._session)

    async def _decided(self) -> None:
        if self._has_ended():
            return
        view = await self.load()
        if view is not None:
            self._show(view)


def _metrics(view: PersonView, start_us: int, now_us: int) -> CgmMetrics:
    glucose = [s for s in view.samples if s.kind == queries.GLUCOSE]
    return cgm_metrics([s.time_us for s in glucose], [s.value for s in glucose], start_us, now_us + 1)


def _box(title: str, order: str) -> ui.element:
    """A titled card. ``order`` is its place where both columns become one."""
    section = ui.element("section").classes(f"card {order}")
    with section:
        ui.html(f"<h2>{title}</h2>", sanitize=False)
    return section


def _section(title: str, order: str) -> Block:
    with _box(title, order):
        return Block("full")


def _folded(title: str, order: str = "") -> Block:
    """A part that opens on demand and stays open while its content changes."""
    with ui.expansion(title).classes(f"folded {order}"):
        return Block("full")
