"""Standing policies: what a clinician allows the hub to advise alone, in one small form."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

import structlog
from nicegui import ui

from cloud import decisions, queries
from cloud.adviser import patient_of
from cloud.portal.context import Context
from core.advice_types import policy_of
from core.errors import HometwinError, InputError
from core.messages import StandingPolicy
from core.units import US_PER_DAY

log = structlog.get_logger()


class PolicyForm:
    """A button, and the dialog behind it."""

    def __init__(
        self,
        portal: Context,
        hub_id: str,
        decided: Callable[[], Awaitable[None]],
        current_user: Callable[[], str | None],
    ) -> None:
        self._portal, self._hub_id = portal, hub_id
        self._decided, self._current_user = decided, current_user
        ui.button("Allow advice without asking", on_click=self._open).props('no-caps outline color="primary"')

    def _open(self) -> None:
        try:
            limits = policy_of(patient_of(self._portal.config, self._hub_id)[0])
        except HometwinError as err:
            ui.notify(err.what, type="negative")
            return
        with ui.dialog() as dialog, ui.card().classes("dialog"):
            ui.html(
                "<h2>Standing policy</h2><p>Within these limits the hub may advise this person alone, also while it is"
                " offline, until the policy ends. Every such advice is reported here.</p>",
                sanitize=False,
            )
            questions = ui.select(
                ["meal", "correction", "now"], value=["meal", "now"], multiple=True, label="Questions"
            ).props("outlined dense")
            dose = ui.number("Largest dose, U", value=min(limits.max_dose_u, 6.0), min=0.1, step=0.5)
            iob = ui.number("Most insulin on board, U", value=limits.max_iob_u, min=0.1, step=0.5)
            per_day = ui.number("Doses a day", value=4, min=1, max=24, step=1)
            days = ui.number("Valid for days", value=7, min=1, max=decisions.MAX_POLICY_DAYS, step=1)
            for field in (questions, dose, iob, per_day, days):
                field.classes("full")
            with ui.element("div").classes("decide"):
                ui.button(
                    "Sign and send",
                    on_click=lambda: self._approve(
                        dialog, questions.value, dose.value, iob.value, per_day.value, days.value
                    ),
                ).props('no-caps unelevated color="primary"')
                ui.button("Cancel", on_click=dialog.close).props('no-caps flat color="primary"')
        dialog.on("hide", dialog.delete)
        dialog.open()

    async def _approve(
        self,
        dialog: ui.dialog,
        questions: list[str],
        dose: float | None,
        iob: float | None,
        per_day: float | None,
        days: float | None,
    ) -> None:
        who = self._current_user()
        if who is None:
            ui.navigate.to("/login")
            return
        now_us = self._portal.clock.now_us()
        try:
            if None in (dose, iob, per_day, days):
                raise InputError("fill in every field")
            limits = policy_of(patient_of(self._portal.config, self._hub_id)[0])
            policy = StandingPolicy(
                policy_id=f"{self._hub_id}-{secrets.token_hex(4)}",
                person=await self._portal.db.query(queries.person_mark, self._hub_id),
                questions=tuple(questions),
                max_dose_u=float(dose or 0),
                max_iob_u=float(iob or 0),
                max_per_day=int(per_day or 0),
                target_mgdl=limits.target_mgdl,
                carb_ratio_g_per_u=limits.carb_ratio_g_per_u,
                correction_mgdl_per_u=limits.correction_mgdl_per_u,
                expires_us=now_us + int(float(days or 0) * US_PER_DAY),
                approved_by=who,
                approved_us=now_us,
            )
            await self._portal.db.run(decisions.approve_policy, self._hub_id, policy, now_us)
        except HometwinError as err:
            ui.notify(str(err), type="negative")
            return
        log.info("policy.approved", hub=self._hub_id)
        dialog.close()
        ui.notify("Policy signed; it goes out now.", type="positive")
        await self._decided()
