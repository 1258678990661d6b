"""The hub's part of the approval loop: what may be shown, what the person did, and advice under a standing policy.

A signed message has been opened and its number checked before (sync.envelope); here it must also be for this
person and rest on the record that this hub holds. No numerics: the engine computes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog

from core import evidence
from core.advice_types import Policy, within_standing
from core.clock import Clock
from core.errors import InputError, RefusedError
from core.messages import Confirmation, DoseAdvice, Downlink, OwnAdvice, Sample, StandingPolicy, Up
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN, US_PER_S
from edge.engine_link import EngineLink
from edge.engine_messages import AskAdvice
from edge.hub_state import AdviceNote, DownState
from edge.store.store import Store

log = structlog.get_logger()

MAX_TAKEN_U: Final = 100.0
OWN_LIFE_US: Final = 15 * US_PER_MIN  # advice for now is old after three readings
MAX_LATE_US: Final = US_PER_DAY  # what was done can be said for a day
ACTING_US: Final = 6 * US_PER_H  # a dose's work; after it a missing one no longer counts
NEAR_US: Final = 30 * US_PER_MIN  # between a dose and the word about it
ENOUGH_U: Final = 0.1  # rounding of pens and pumps

InThread = Callable[..., Awaitable[Any]]


class AdviceDesk:
    """Holds nothing of its own: the state is the hub's ``DownState``, read and replaced through two functions."""

    def __init__(
        self,
        hub_id: str,
        person: str,
        store: Store,
        thread: InThread,
        clock: Clock,
        counters: Counter[str],
        engine: EngineLink,
        state: Callable[[], DownState],
        keep: Callable[[Callable[[DownState], DownState]], Awaitable[None]],
        send: Callable[[Up], Awaitable[None]],
    ) -> None:
        self.person = person
        self._hub_id = hub_id
        self._store, self._thread, self._clock = store, thread, clock
        self._counters, self._engine = counters, engine
        self._state, self._keep, self._send = state, keep, send

    # ---- what comes down ----------------------------------------------------------------------------

    async def take_advice(self, message: Downlink, advice: DoseAdvice) -> None:
        """Keep verified advice, marked void when it rests on another record; another person's does nothing."""
        if advice.person != self.person:
            await self._refuse(message, "wrong_person")
            return
        void = ""
        if advice.evidence != await self._evidence(advice.data_time_us):
            self._counters["down.other_record"] += 1
            log.warning("advice.void", number=message.number)
            void = "it was made for another record: a dose, meal or reading differs from what this hub holds"
        note = AdviceNote(message.expires_us, void)
        await self._keep(lambda down: down.with_advice(message.number, advice, note))

    async def take_policy(self, message: Downlink, policy: StandingPolicy) -> None:
        """Keep a standing policy; another person's, or one with numbers that nobody can dose by, does nothing."""
        if policy.person != self.person:
            await self._refuse(message, "wrong_person")
            return
        try:
            within_standing(Policy(), policy)
        except InputError:
            await self._refuse(message, "unusable")
            return
        await self._keep(lambda down: down.with_policy(message.number, policy))

    async def _refuse(self, message: Downlink, why: str) -> None:
        self._counters[f"down.{why}"] += 1
        log.warning("down.refused", why=why, number=message.number)
        await self._keep(lambda down: down.with_number(message.number))

    async def _evidence(self, data_time_us: int) -> str:
        samples: list[Sample] = await self._thread(
            self._store.between, data_time_us - evidence.SPAN_US, data_time_us + 1, evidence.KINDS
        )
        return evidence.digest(samples, data_time_us)

    # ---- what the person sees and says --------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """All advice held, oldest first, each with its state, as JSON-able values."""
        now_us, state = self._clock.now_us(), self._state()
        rows = []
        for advice in state.advice:
            note = state.note(advice)
            row: dict[str, Any] = msgspec.to_builtins(advice)
            row.update(
                state=self._state_of(advice, note, now_us),
                void=note.void,
                expires_us=note.expires_us,
                took_u=note.took_u if note.confirmed_us else None,
            )
            rows.append(row)
        return rows

    def _state_of(self, advice: DoseAdvice, note: AdviceNote, now_us: int) -> str:
        if advice.person and advice.person != self.person and not note.confirmed_us:
            return "void"  # the hub has come to live with somebody else since
        return note.state(now_us)

    def policy_row(self) -> dict[str, Any] | None:
        """The standing policy that holds now, as JSON-able values."""
        policy = self._policy()
        row: dict[str, Any] | None = None if policy is None else msgspec.to_builtins(policy)
        return row

    async def confirm(self, request: dict[str, Any]) -> dict[str, Any]:
        """Keep what the person did about one piece of advice, once, and tell the cloud."""
        advice_id, took = request.get("advice_id"), request.get("took_u")
        state, now_us = self._state(), self._clock.now_us()
        advice = next((a for a in state.advice if a.advice_id == advice_id), None)
        if advice is None:
            raise InputError("no such advice", where="advice_id", mend="hometwin advice lists them")
        if took is None:
            took = advice.dose_u
        if isinstance(took, bool) or not isinstance(took, (int, float)):
            raise InputError("must be a number of units", where="took_u")
        if not (math.isfinite(took) and 0 <= took <= MAX_TAKEN_U):
            raise InputError(f"must lie in 0..{MAX_TAKEN_U:g} U", where="took_u")
        note = state.note(advice)
        if note.confirmed_us:
            raise RefusedError("this advice is confirmed already", mend="correct the dose with hometwin log")
        if now_us > note.expires_us + MAX_LATE_US:
            raise RefusedError("this advice is more than a day old", mend="enter the dose with hometwin log")
        done = msgspec.structs.replace(note, confirmed_us=now_us, took_u=float(took))
        await self._keep(lambda down: down.with_note(advice.advice_id, done))
        self._counters["advice.confirmed"] += 1
        await self._send(Confirmation(advice.advice_id, now_us, float(took)))
        said = f"noted: {took:g} U of {advice.dose_u:g} U advised"
        if took > 0 and await self._missing_u(done, now_us) > ENOUGH_U:
            said += "; the dose itself is not on record yet: unless your pump reports it, enter it with hometwin log"
        return {"said": said}

    async def _missing_u(self, note: AdviceNote, now_us: int) -> float:
        """How much of a dose that the person said was taken no bolus on record stands for."""
        about: list[Sample] = await self._thread(
            self._store.between, note.confirmed_us - NEAR_US, now_us + NEAR_US, ("bolus_u",)
        )
        return note.took_u - sum(s.value for s in about)

    async def _refuse_twice(self, state: DownState, own: str, now_us: int) -> None:
        """RefusedError while a dose may have been taken that the twin does not know of: it would advise it again."""
        for advice in state.advice:
            note = state.note(advice)
            if (
                advice.advice_id.startswith(own)
                and advice.dose_u > 0
                and self._state_of(advice, note, now_us) == "open"
            ):
                raise RefusedError(
                    f"advice {advice.advice_id} ({advice.dose_u:g} U) is still open",
                    mend=f"say first what you took: hometwin advice confirm {advice.advice_id} --took UNITS (0: none)",
                )
            if note.confirmed_us > now_us - ACTING_US and note.took_u > 0:
                missing_u = await self._missing_u(note, now_us)
                if missing_u > ENOUGH_U:
                    raise RefusedError(
                        f"you noted {note.took_u:g} U for advice {advice.advice_id}, and {missing_u:.1f} U of it are not on record",
                        mend=f"enter the dose with hometwin log bolus {note.took_u:g}, or wait until your pump reports it",
                    )

    # ---- alone, within a standing policy ------------------------------------------------------------

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Advice from this hub's own engine, when a standing policy allows it."""
        carbs_g, question = request.get("carbs_g", 0.0), request.get("question")
        if isinstance(carbs_g, bool) or not isinstance(carbs_g, (int, float)) or not math.isfinite(carbs_g):
            raise InputError("must be a number of grams", where="carbs_g")
        question = question or ("meal" if carbs_g > 0 else "now")
        now_us, policy = self._clock.now_us(), self._policy()
        if policy is None:
            raise RefusedError(
                "no standing policy allows this hub to advise alone", mend="ask your clinician for one"
            )
        if question not in policy.questions:
            raise RefusedError(f"the standing policy allows: {', '.join(policy.questions)}")
        state = self._state()
        own = f"{self._hub_id}-own-"
        recent = [
            a
            for a in state.advice
            if a.advice_id.startswith(own) and a.approved_us > now_us - US_PER_DAY and a.dose_u > 0
        ]
        if len(recent) >= policy.max_per_day:
            raise RefusedError(f"the standing policy allows {policy.max_per_day} doses a day")
        answer = await self._engine.advise(
            AskAdvice(now_us, float(carbs_g), question, policy, f"{own}{now_us // US_PER_S}")
        )
        if answer.advice is None:
            raise InputError(answer.note or "the engine gave no advice")
        if answer.advice.dose_u > 0:  # sugar against a low is never held back
            await self._refuse_twice(state, own, now_us)
        advice = msgspec.structs.replace(
            answer.advice,
            approved_by=f"standing policy of {policy.approved_by}"[:80],
            approved_us=now_us,
            person=self.person,
            evidence=await self._evidence(answer.advice.data_time_us),
        )
        note = AdviceNote(min(now_us + OWN_LIFE_US, policy.expires_us))
        await self._keep(lambda down: down.with_advice(0, advice, note))
        self._counters["advice.alone"] += 1
        await self._send(OwnAdvice(advice, policy.policy_id))
        row: dict[str, Any] = msgspec.to_builtins(advice)
        return {"advice": {**row, "state": note.state(now_us), "void": "", "expires_us": note.expires_us}}

    def _policy(self) -> StandingPolicy | None:
        """The standing policy, while it holds for this person."""
        policy = self._state().policy
        if policy is None or policy.person != self.person or self._clock.now_us() > policy.expires_us:
            return None
        return policy
