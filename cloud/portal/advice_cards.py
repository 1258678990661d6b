"""The advice column: cards, and the dialog in which a clinician decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from zoneinfo import ZoneInfo

import structlog
from nicegui import ui

from cloud import decisions
from cloud.portal import advice_blocks
from cloud.portal.context import Context
from cloud.queries import AdviceCard
from cloud.tries import Try
from core.errors import HometwinError

log = structlog.get_logger()


class AdviceCards:
    """Drawn anew only when some advice has changed, so that nobody's click or text gets lost."""

    def __init__(
        self,
        portal: Context,
        decided: Callable[[], Awaitable[None]],
        current_user: Callable[[], str | None],
    ) -> None:
        self._portal, self._decided, self._current_user = portal, decided, current_user
        self._trying = ui.label().classes("empty")
        self._holder = ui.element("div").classes("advice-list")
        self._shown: tuple[object, ...] | None = None

    def tell(self, trying: Try) -> None:
        """What the adviser does now, and how its last try ended."""
        self._trying.set_text(" ".join(part for part in trying if part))

    def show(self, cards: Sequence[AdviceCard], now_us: int, zone: ZoneInfo) -> None:
        """Draw ``cards``, the undecided first."""
        key = tuple(
            (c.advice.advice_id, c.state, c.closed(now_us), c.set_aside, c.confirmed_us, c.outcome is None)
            for c in cards
        )
        if key == self._shown:
            return
        self._shown = key
        self._holder.clear()
        waiting = [c for c in cards if c.state == "proposed" and not c.closed(now_us)]
        done = [c for c in cards if c not in waiting]
        with self._holder:
            if not cards:
                ui.html(
                    '<p class="empty">None yet. From the second day of readings on the adviser proposes before'
                    " usual meals.</p>",
                    sanitize=False,
                )
            elif not waiting:
                ui.html('<p class="empty">Nothing waits for a decision.</p>', sanitize=False)
            for card in waiting:
                self._card(card, now_us, zone)
            for card in done:
                with ui.expansion(advice_blocks.advice_title(card, now_us, zone)).classes("folded"):
                    self._card(card, now_us, zone)

    def _card(self, card: AdviceCard, now_us: int, zone: ZoneInfo) -> None:
        with ui.element("article").classes(f"advice {'refused' if card.advice.refused else ''}"):
            ui.html(advice_blocks.advice_block(card, now_us, zone), sanitize=False)
            if card.state == "proposed" and not card.closed(now_us):
                with ui.element("div").classes("decide"):
                    ui.button("Approve", on_click=lambda c=card: self._ask(c, True)).props(
                        'no-caps unelevated color="primary"'
                    )
                    ui.button("Reject", on_click=lambda c=card: self._ask(c, False)).props(
                        'no-caps outline color="negative"'
                    )

    def _ask(self, card: AdviceCard, approve: bool) -> None:
        """Confirm with a note before anything happens."""
        now_us, zone = self._portal.clock.now_us(), self._portal.zone
        verb = "Approve" if approve else "Reject"
        with ui.dialog() as dialog, ui.card().classes("dialog"):
            ui.html(
                f"<h2>{verb} this advice?</h2><p>{advice_blocks.advice_summary(card.advice, now_us, zone)}</p>",
                sanitize=False,
            )
            label = "Note (optional)" if approve else "Why? (needed)"
            note = ui.textarea(label).props(f'outlined autofocus maxlength="{decisions.MAX_NOTE}"')
            note.classes("full")
            dose = None
            if approve and card.advice.refused is None:
                dose = ui.number(
                    "Dose, U (change it here; needs a note)", value=card.advice.dose_u, min=0, step=0.1
                )
                dose.props('outlined dense aria-label="Dose in units"').classes("full")
            with ui.element("div").classes("decide"):
                ui.button(
                    "Approve and send" if approve else "Reject",
                    on_click=lambda: self._decide(
                        dialog, card, approve, str(note.value or ""), None if dose is None else dose.value
                    ),
                ).props(f'no-caps unelevated color="{"primary" if approve else "negative"}"')
                ui.button("Cancel", on_click=dialog.close).props('no-caps flat color="primary"')
        dialog.on("hide", dialog.delete)
        dialog.open()

    async def _decide(
        self, dialog: ui.dialog, card: AdviceCard, approve: bool, note: str, dose_u: float | None
    ) -> None:
        who = self._current_user()
        if who is None:
            ui.navigate.to("/login")
            return
        try:
            await self._portal.db.run(
                decisions.decide,
                card.advice.advice_id,
                approve=approve,
                who=who,
                note=note,
                dose_u=dose_u,
                now_us=self._portal.clock.now_us(),
            )
        except HometwinError as err:
            ui.notify(f"{err.what}{f' ({err.mend})' if err.mend else ''}", type="negative")
            return
        log.info("advice.decided", approved=approve)
        dialog.close()
        ui.notify("Approved." if approve else "Rejected.", type="positive")
        await self._decided()
