"""The what-if page of one person: sliders, both courses, the effect and what to beware of."""

from __future__ import annotations

import time
from html import escape
from typing import Final

from fastapi import Request
from nicegui import ui

from cloud import queries
from cloud.adviser import TWIN_KINDS, patient_of
from cloud.portal import blocks, chart, whatif_view, words
from cloud.portal.context import Context, context
from cloud.portal.frame import Block, frame, is_dark, token
from cloud.portal.whatif_view import SLIDERS, SPANS
from cloud.whatif_job import Answer, Question, Window
from core.causal.change import parse_all
from core.errors import HometwinError, InputError
from core.messages import Sample
from core.units import US_PER_DAY, US_PER_H

LEARN_US: Final = (
    5 * US_PER_DAY
)  # of the record before now: two days before the earliest window, and the filter's start
LEARNING: Final = "Learning this window from the record (some five seconds; longer on a busy machine) …"
MAX_OTHER: Final = 400  # characters of typed changes


@ui.page("/whatif/{hub_id}")
async def whatif_page(request: Request, hub_id: str) -> None:
    """Ask about one person."""
    portal = context()
    now_us = portal.clock.now_us()
    view = await portal.db.query(queries.person, hub_id, now_us - US_PER_DAY, now_us)
    if view is None:
        with frame("Unknown person", request):
            ui.html('<h1>There is no such person</h1><p><a href="/">All people</a></p>', sanitize=False)
        return
    readings = await portal.db.query(queries.history_span_us, hub_id)
    first_us, last_us = readings if readings is not None else (None, None)
    opening = whatif_view.opening(whatif_view.anchor_us(now_us, last_us), first_us)
    page = WhatifPage(portal, hub_id, token(request), is_dark(request), opening)
    with frame(f"What if: {view.line.person}", request):
        page.build(blocks.person_title(view.line))
    ui.timer(0.1, page.learn, once=True)


class WhatifPage:
    """The page of one browser tab. Sliders may move faster than answers come: the last position counts."""

    def __init__(self, portal: Context, hub_id: str, session: str | None, dark: bool, opening: str) -> None:
        self._portal, self._hub_id, self._session, self._dark = portal, hub_id, session, dark
        self._name = opening
        self._span = SPANS[opening]
        self._values = {s.name: s.neutral for s in SLIDERS}
        self._other = ""
        self._window: Window | None = None
        self._samples: list[Sample] = []
        self._answer: Answer | None = None
        self._is_busy = self._is_stale = False
        self._is_learned = False
        self._began_s = 0.0
        self._client = ui.context.client

    def build(self, title: str) -> None:
        """Create the elements."""
        ui.html(
            f'<p class="crumb"><a href="/person/{escape(self._hub_id, quote=True)}">← Person</a></p><h1>What if: {title}</h1>',
            sanitize=False,
        )
        self._times = Block("quiet")
        self._state = Block("subtitle")
        self._cautions = Block("full")
        with ui.element("div").classes("columns"):
            with ui.element("div").classes("wide"), ui.element("section").classes("card chart first"):
                with ui.element("div").classes("bar"):
                    ui.html("<h2>Glucose with and without the change</h2>", sanitize=False)
                    choice = ui.toggle(list(SPANS), value=self._name, on_change=self._choose)
                    choice.props('no-caps unelevated dense toggle-color="primary" aria-label="Window"')
                self._chart = ui.echart({}).classes("plot")
            with ui.element("div").classes("narrow"):
                with ui.element("section").classes("card second"):
                    ui.html("<h2>Changes</h2>", sanitize=False)
                    self._sliders: list[ui.slider] = []
                    self._rows = {s.name: self._slider(s) for s in SLIDERS}
                    typed = ui.input("Other change", placeholder="carbs_g@2026-01-02T12:30=0")
                    typed.props(f'maxlength="{MAX_OTHER}"').classes("full")
                    typed.on("keydown.enter", lambda: self._type(str(typed.value or "")))
                    ui.button("Ask", on_click=lambda: self._type(str(typed.value or ""))).props("no-caps")
                with ui.element("section").classes("card third"):
                    ui.html("<h2>Effect</h2>", sanitize=False)
                    self._figures = Block("full")
        self._show_sliders()
        self._wait()
        ui.timer(1.0, self._tell_wait)

    def _slider(self, slider: whatif_view.Slider) -> ui.element:
        with ui.element("div").classes("full") as row:
            label = ui.label(_words(slider, slider.neutral))

            async def moved(event: object) -> None:
                value = float(getattr(event, "value", slider.neutral) or 0.0)
                self._values[slider.name] = min(max(value, slider.low), slider.high)
                label.set_text(_words(slider, self._values[slider.name]))
                await self._ask()

            made = ui.slider(
                min=slider.low, max=slider.high, step=slider.step, value=slider.neutral, on_change=moved
            ).props(f'aria-label="{slider.label}"')
            self._sliders.append(made)
        return row

    def _show_sliders(self) -> None:
        for name, row in self._rows.items():
            row.set_visibility(name in self._span.sliders)

    async def learn(self) -> None:
        """Read the record and learn the window, then answer."""
        if self._has_ended():
            return
        now_us = self._portal.clock.now_us()
        last = await self._portal.db.query(queries.newest_reading, self._hub_id)
        anchor_us = whatif_view.anchor_us(now_us, last.time_us if last else None)
        samples = await self._portal.db.query(queries.samples, self._hub_id, anchor_us - LEARN_US, TWIN_KINDS)
        first_us = next((s.time_us for s in samples if s.kind == queries.GLUCOSE), None)
        asked = whatif_view.window_us(self._span, anchor_us)
        found = whatif_view.there(asked, anchor_us, first_us)
        if found is None:
            self._window = None
            self._times.show("")
            self._say(whatif_view.too_few(self._span, anchor_us, first_us, self._portal.zone))
            return
        start_us, end_us = found
        try:
            patient_toml = patient_of(self._portal.config, self._hub_id)[1]
        except HometwinError as err:
            self._say(err.what)
            return
        newest_us = samples[-1].time_us if samples else 0
        key = f"{self._hub_id}/{start_us}/{end_us}/{newest_us}/{len(samples)}"
        fresh = Window(key, tuple(samples), patient_toml, start_us, end_us)
        window = self._window = self._portal.questions.recent((self._hub_id, self._name), fresh)
        self._samples = list(window.samples)
        ends = " to ".join(
            f"{words.local(t, self._portal.zone):%a %d %b %H:%M}" for t in (window.start_us, window.end_us)
        )
        said = "; beside the last reading, which is old, not beside now" if anchor_us != now_us else ""
        if found != asked:
            before_h = whatif_view.BEFORE_US / US_PER_H
            said += f"; no longer, as readings are young: {before_h:.0f} h of them must lie before a window"
        self._times.show(f"<p>{escape(ends + said)}</p>")
        self._wait()
        reply = await self._portal.questions.reply(
            window, lambda: self._window is window and not self._client.is_deleted
        )
        if self._window is not window or self._client.is_deleted:
            return  # another window was chosen since, or nobody looks any more
        if reply.problem is not None:
            self._window = None
            self._say(f"No answer: {reply.problem}")
            return
        self._is_learned = True
        for slider in self._sliders:
            slider.enable()
        await self._ask()

    def _wait(self) -> None:
        """Learning has begun: nothing can be asked until it is done, and the page says so."""
        self._is_learned, self._began_s = False, time.monotonic()
        for slider in self._sliders:
            slider.disable()
        self._say(LEARNING)

    def _tell_wait(self) -> None:
        if self._window is not None and not self._is_learned:
            typed = f" Then it answers {self._other}." if self._other else ""
            self._say(f"{LEARNING} {time.monotonic() - self._began_s:.0f} s.{typed}")

    async def _ask(self) -> None:
        """Answer for where the sliders stand now."""
        if self._is_busy:
            self._is_stale = True
            return
        self._is_busy = True
        try:
            while True:
                self._is_stale = False
                await self._ask_once()
                if not self._is_stale:
                    break
        finally:
            self._is_busy = False

    async def _ask_once(self) -> None:
        window = self._window
        if window is None or not self._is_learned or self._has_ended():
            return
        changes = whatif_view.changes_of(self._values, self._span, window.start_us, self._other)
        reply = await self._portal.questions.reply(Question(window.key, changes))
        if not reply.is_known:  # the worker began anew, or has learned many other windows since
            learned = await self._portal.questions.reply(window)
            if learned.problem is None:
                reply = await self._portal.questions.reply(Question(window.key, changes))
        if self._has_ended() or window is not self._window:
            return
        if reply.answer is None:
            self._say(f"No answer: {reply.problem or 'the window is not known'}")
            return
        self._answer = reply.answer
        self._say(", ".join(changes) or "Nothing is changed yet: move a slider.")
        self._cautions.show(whatif_view.cautions(reply.answer) if changes else "")
        self._figures.show(whatif_view.summary(reply.answer))
        self._draw(reply.answer)

    def _draw(self, answer: Answer) -> None:
        colours = chart.DARK if self._dark else chart.LIGHT
        self._chart.options.clear()
        self._chart.options.update(
            whatif_view.options(answer, self._samples, self._portal.zone, colours, dark=self._dark)
        )
        self._chart.update()

    async def _choose(self, event: object) -> None:
        chosen = str(getattr(event, "value", ""))
        if self._has_ended() or chosen not in SPANS:
            return
        self._name, self._span, self._window = chosen, SPANS[chosen], None
        self._show_sliders()
        await self.learn()

    async def _type(self, text: str) -> None:
        text = text[:MAX_OTHER]
        try:
            parse_all(whatif_view.typed_changes(text), self._portal.zone)
        except InputError as err:  # said at once: learning may take a while
            self._say(f"No answer: {err}")
            return
        self._other = text.strip()
        self._tell_wait()
        await self._ask()

    def _say(self, text: str) -> None:
        self._state.show(f"<p>{escape(text)}</p>")

    def _has_ended(self) -> bool:
        """Whether the session this page was opened with is over; then the tab is sent to the login."""
        if self._portal.sessions.name(self._session) is not None:
            return False
        ui.navigate.to("/login")
        return True


def _words(slider: whatif_view.Slider, value: float) -> str:
    return f"{slider.label}: {value:g} {slider.unit}"
