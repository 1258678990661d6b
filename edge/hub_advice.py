"""The hub's part of the approval loop: what may be shown, what the person did, and advice under a standing policy.

A signed message has been opened and its number checked before (sync.envelope); here it must also be for this
person and rest on the record that this hub holds, and no insulin may have come between. No numerics: the engine computes.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from core import evidence
from core.advice_types import Policy, within_standing
from core.clock import Clock
from core.errors import InputError, RefusedError, StoreError
from core.messages import Confirmation, DoseAdvice, Downlink, OwnAdvice, Sample, StandingPolicy, Up
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN, US_PER_S
from edge import dose_match
from edge.engine_link import EngineLink
from edge.engine_messages import AskAdvice
from edge.hand import taken_doubt
from edge.hub_state import AdviceNote, DownState
from edge.store.store import Store

log = structlog.get_logger()

MAX_TAKEN_U: Final = 100.0
OWN_LIFE_US: Final = 15 * US_PER_MIN  # advice for now is old after three readings
MAX_LATE_US: Final = US_PER_DAY  # what was done can be said for a day
ACTING_US: Final = 6 * US_PER_H  # a dose's work; after it a missing one no longer counts
AHEAD_US: Final = US_PER_DAY  # a pump's clock may be ahead: what it dates later was taken all the same

InThread = Callable[..., Awaitable[Any]]
Note = Callable[..., Awaitable[None]]


class Void(NamedTuple):
    """Why advice must not be used: a word for logs, and a sentence for people."""

    word: str
    said: str


class Between(NamedTuple):
    """What insulin on record says of open advice: void, or taken, whole or in part; else nothing came between."""

    void: Void | None = None
    is_taken: bool = False
    part_u: float = 0.0
    begun_us: int = 0  # when the first part was taken


OTHER_RECORD: Final = Void(
    "other_record",
    "it was made for another record: a dose, meal or reading differs from what this hub holds",
)
INSULIN_AFTER: Final = Void("insulin_after", "insulin was taken after the data this advice rests on")
INSULIN_LATE: Final = Void(
    "insulin_late", "insulin came on record, or was corrected, that this advice does not know of"
)
UNREADABLE: Final = "the record cannot be read now, so nobody knows what insulin was taken since"


class AdviceDesk:
    """The state is the hub's ``DownState``, read and replaced through two functions.

    Its own is only what the last ``review`` found: which doses seem to be taken already, and what cannot be told now.
    """

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
        note: Note,
        status_due: Callable[[], None],
    ) -> None:
        self.person = person
        self._store, self._thread, self._clock = store, thread, clock
        self._counters, self._engine = counters, engine
        self._state, self._keep, self._send, self._note = state, keep, send, note
        self._status_due = status_due
        self._own = f"{hub_id}-own-"
        self._turn = asyncio.Lock()  # what is judged from the state and written to it is one step
        self._taken: frozenset[str] = frozenset()  # open, and a bolus on record is about this dose
        self._parts: dict[
            str, float
        ] = {}  # not confirmed, and so many units on record may be a part of the dose
        # Open on the disk and void all the same, and why: the disk cannot be read, or takes nothing.
        self._untold: dict[str, str] = {}

    # ---- what comes down ----------------------------------------------------------------------------

    async def take_advice(self, message: Downlink, advice: DoseAdvice) -> None:
        """Keep verified advice, marked void when it rests on another record; another person's does nothing."""
        if advice.person != self.person:
            await self._refuse(message, "wrong_person")
            return
        await self.review()
        async with self._turn:
            now_us = self._clock.now_us()
            old = self._state().notes.get(advice.advice_id)
            void: Void | None = None
            if old is None or not (old.confirmed_us or old.void_us):
                void = await self._why_not(advice, now_us)
            note = _new_note(message.expires_us, void, now_us)
            await self._keep(lambda down: down.with_advice(message.number, advice, note))
            if void is not None:
                self._counters[f"down.{void.word}"] += 1
                await self._tell_void(advice.advice_id, void)

    async def _why_not(self, advice: DoseAdvice, now_us: int) -> Void | None:
        """Why advice that came down must not be used; None: it may. It may have come before, and been shown."""
        if advice.evidence != await self._evidence(advice.data_time_us):
            return OTHER_RECORD
        if advice.dose_u <= 0:
            return None
        old = self._state().notes.get(advice.advice_id)
        if old is not None and not old.void:
            return (await self._insulin_between(advice, _since(advice, old), now_us, was_shown=True)).void
        for other in self._state().advice:
            is_other = other.advice_id != advice.advice_id and other.advice_id not in self._taken
            if is_other and self._may_be_taken(other, now_us):
                said = f"the dose of advice {other.advice_id} may have been taken: nobody has said yet"
                return Void("another_open", said)
        return (await self._insulin_between(advice, now_us, now_us, was_shown=False)).void

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

    # ---- what insulin does to advice that is here ----------------------------------------------------

    async def review(self) -> None:
        """Withdraw open advice that insulin came between. Before anybody sees or says anything; never fails."""
        async with self._turn:
            now_us, state = self._clock.now_us(), self._state()
            taken: set[str] = set()
            parts: dict[str, float] = {}
            untold: dict[str, str] = {}
            for advice in state.advice:
                note = state.note(advice)
                is_open = note.state(now_us) == "open"
                # Who took a part before the end takes the rest after it.
                may_be_begun = note.state(now_us - dose_match.NEAR_US) == "open"
                if advice.dose_u <= 0 or not (is_open or may_be_begun):
                    continue
                try:
                    since_us = _since(advice, note)
                    found = await self._insulin_between(advice, since_us, now_us, was_shown=True)
                except StoreError:
                    if is_open:
                        untold[advice.advice_id] = UNREADABLE
                    continue
                if found.part_u > 0 and found.begun_us <= note.expires_us:
                    parts[advice.advice_id] = found.part_u
                if not is_open:
                    continue
                if found.is_taken:
                    taken.add(advice.advice_id)
                if found.void is not None and not await self._withdraw(advice, note, found.void, now_us):
                    untold[advice.advice_id] = found.void.said
            self._taken, self._parts, self._untold = frozenset(taken), parts, untold

    async def _withdraw(self, advice: DoseAdvice, note: AdviceNote, void: Void, now_us: int) -> bool:
        """False: the disk does not take it, so it is found again next time."""
        gone = msgspec.structs.replace(note, void=void.said, void_us=now_us, void_word=void.word)
        try:
            await self._keep(lambda down: down.with_note(advice.advice_id, gone))
        except StoreError:
            return False
        self._counters["advice.withdrawn"] += 1
        await self._tell_void(advice.advice_id, void)
        return True

    async def _tell_void(self, advice_id: str, void: Void) -> None:
        """Which and why reaches the cloud with the hub's status, and the audit log."""
        self._counters["advice.void"] += 1
        log.warning("advice.void", why=void.word)
        self._status_due()
        await self._note("hub", "advice.void", advice_id=advice_id, why=void.word)

    async def _insulin_between(
        self, advice: DoseAdvice, since_us: int, now_us: int, *, was_shown: bool
    ) -> Between:
        """Whether insulin makes advice void, or seems to be this very dose or a part of it.

        The cloud knows the record up to the newest reading; the hub's own engine knew all that was stored when it was
        asked. A dose that a person noted and no bolus stands for is known to neither.
        """
        known_us = advice.approved_us if advice.advice_id.startswith(self._own) else advice.data_time_us
        insulin: list[Sample] = await self._thread(
            self._store.between, known_us - evidence.SPAN_US, now_us + AHEAD_US, evidence.INSULIN
        )
        doses, boluses = await self._noted(now_us)
        missing = dose_match.missing_u(doses, boluses)
        for dose in doses:
            if self._counts(dose.advice_id, now_us) and missing[dose.advice_id] > evidence.TRACE_U:
                said = f"{missing[dose.advice_id]:.1f} U that you noted for advice {dose.advice_id} are not on record"
                return Between(Void("noted_not_on_record", said))
        unknown = [s for s in insulin if s.time_us > known_us or s.received_us > since_us]
        if sum(s.value for s in unknown) <= evidence.TRACE_U:
            return Between()
        this = dose_match.advised(advice.advice_id, advice.dose_u, since_us, now_us)
        doses.sort(key=lambda dose: -dose.units)
        if was_shown and len(doses) in dose_match.matched([*doses, this], boluses).values():
            return Between(is_taken=True)
        parts = dose_match.parts(this, doses, boluses, now_us) if was_shown else []
        keys = {part.key for part in parts}
        if parts and sum(s.value for s in unknown if s.key not in keys) <= evidence.TRACE_U:
            units = sum(part.value for part in parts)
            return (
                Between(is_taken=True)
                if units >= this.least_u
                else Between(part_u=units, begun_us=parts[0].time_us)
            )
        return Between(INSULIN_AFTER if evidence.insulin_after(unknown, known_us) else INSULIN_LATE)

    async def _noted(self, now_us: int) -> tuple[list[dose_match.Dose], list[Sample]]:
        """All doses that the person said were taken, and the boluses among which they are looked for."""
        state, doses = self._state(), []
        oldest_us = now_us - MAX_LATE_US
        for advice in state.advice:
            note = state.note(advice)
            if note.confirmed_us and note.took_u > evidence.TRACE_U:
                since_us = min(_since(advice, note), note.confirmed_us)
                until_us = max(note.confirmed_us, advice.for_time_us)
                doses.append(dose_match.noted(advice.advice_id, note.took_u, since_us, until_us))
                oldest_us = min(oldest_us, since_us)
        boluses: list[Sample] = await self._thread(
            self._store.between, oldest_us - dose_match.NEAR_US, now_us + AHEAD_US, ("bolus_u",)
        )
        return doses, boluses

    def _counts(self, advice_id: str, now_us: int) -> bool:
        """Whether a dose that was noted can still act."""
        return self._state().notes[advice_id].confirmed_us > now_us - ACTING_US

    def _may_be_taken(self, advice: DoseAdvice, now_us: int) -> bool:
        """A dose that was shown, while it stands, or is begun: withdrawn since, somebody may have taken it before."""
        note = self._state().note(advice)
        stands = now_us <= note.expires_us or advice.advice_id in self._parts
        was_shown = not note.void or note.void_us
        return bool(
            advice.dose_u > 0
            and was_shown
            and not note.confirmed_us
            and stands
            and advice.person in ("", self.person)
        )

    async def _refuse_twice(self, now_us: int) -> None:
        """RefusedError while a dose may have been taken that the twin does not know of: it would advise it again."""
        for advice in self._state().advice:
            if self._may_be_taken(advice, now_us):
                stands = (
                    "was withdrawn after it was shown" if self._state().note(advice).void else "is still open"
                )
                part_u = self._parts.get(advice.advice_id, 0.0)
                raise RefusedError(
                    f"advice {advice.advice_id} ({advice.dose_u:g} U) {f'is begun: {part_u:g} U are on record' if part_u else stands}",
                    mend=f"say first what you took: hometwin advice confirm {advice.advice_id} --took UNITS (0: none)",
                )
        doses, boluses = await self._noted(now_us)
        missing = dose_match.missing_u(doses, boluses)
        for dose in doses:
            missing_u = missing[dose.advice_id]
            if self._counts(dose.advice_id, now_us) and missing_u > evidence.TRACE_U:
                raise RefusedError(
                    f"you noted {dose.units:g} U for advice {dose.advice_id}, and {missing_u:.1f} U of it are not on record",
                    mend=f"enter the dose with hometwin log bolus {dose.units:g}, or wait until your pump reports it",
                )

    def set_aside(self) -> dict[str, str]:
        """Advice that must not be used, each with the word why, for the hub's status."""
        notes = ((a.advice_id, self._state().note(a)) for a in self._state().advice)
        return {advice_id: note.void_word or "void" for advice_id, note in notes if note.void}

    # ---- what the person sees and says --------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """All advice held, oldest first, each with its state as of the last review, as JSON-able values."""
        now_us, state = self._clock.now_us(), self._state()
        rows = []
        for advice in state.advice:
            note = state.note(advice)
            row: dict[str, Any] = msgspec.to_builtins(advice)
            row.update(
                state=self._state_of(advice, note, now_us),
                void=note.void or self._untold.get(advice.advice_id, ""),
                withdrawn_us=note.void_us,
                part_u=self._parts.get(advice.advice_id, 0.0),
                expires_us=note.expires_us,
                took_u=note.took_u if note.confirmed_us else None,
            )
            rows.append(row)
        return rows

    def _state_of(self, advice: DoseAdvice, note: AdviceNote, now_us: int) -> str:
        if advice.person and advice.person != self.person and not note.confirmed_us:
            return "void"  # the hub has come to live with somebody else since
        state = note.state(now_us)
        if state == "open" and advice.advice_id in self._untold:
            return "void"
        if advice.advice_id in self._parts and state in ("open", "expired"):
            return "part"
        return "taken" if state == "open" and advice.advice_id in self._taken else state

    def policy_row(self) -> dict[str, Any] | None:
        """The standing policy that holds now, as JSON-able values."""
        policy = self._policy()
        row: dict[str, Any] | None = None if policy is None else msgspec.to_builtins(policy)
        return row

    async def confirm(self, request: dict[str, Any]) -> dict[str, Any]:
        """Keep what the person did about one piece of advice, once, and tell the cloud.

        A dose far from the advised one is asked about instead (``unsure``), unless the request is ``sure``.
        """
        await self.review()
        async with self._turn:
            return await self._confirm(request, self._clock.now_us())

    async def _confirm(self, request: dict[str, Any], now_us: int) -> dict[str, Any]:
        advice_id, took = request.get("advice_id"), request.get("took_u")
        state = self._state()
        advice = next((a for a in state.advice if a.advice_id == advice_id), None)
        if advice is None:
            raise InputError("no such advice", where="advice_id", mend="hometwin advice lists them")
        note = state.note(advice)
        if took is None:
            if advice.dose_u > 0 and self._state_of(advice, note, now_us) == "void":
                why = note.void or self._untold.get(advice.advice_id, "it was for somebody else")
                raise RefusedError(
                    f"this advice is void: {why}",
                    mend=f"do not take it. If you did, say how much: hometwin advice confirm {advice_id} --took UNITS",
                )
            if advice.advice_id in self._parts:
                raise RefusedError(
                    f"only {self._parts[advice.advice_id]:g} U of its {advice.dose_u:g} U are on record",
                    mend=f"say how much you took in all: hometwin advice confirm {advice_id} --took UNITS",
                )
            took = advice.dose_u
        if isinstance(took, bool) or not isinstance(took, (int, float)):
            raise InputError("must be a number of units", where="took_u")
        if not (math.isfinite(took) and 0 <= took <= MAX_TAKEN_U):
            raise InputError(f"must lie in 0..{MAX_TAKEN_U:g} U", where="took_u")
        if note.confirmed_us:
            raise RefusedError("this advice is confirmed already", mend="correct the dose with hometwin log")
        if now_us > note.expires_us + MAX_LATE_US:
            raise RefusedError("this advice is more than a day old", mend="enter the dose with hometwin log")
        if request.get("sure") is not True and (doubt := taken_doubt(took, advice.dose_u)):
            return {"unsure": True, "said": doubt}
        done = msgspec.structs.replace(note, confirmed_us=now_us, took_u=float(took))
        await self._keep(lambda down: down.with_note(advice.advice_id, done))
        self._counters["advice.confirmed"] += 1
        await self._send(Confirmation(advice.advice_id, now_us, float(took)))
        said = f"noted: {took:g} U of {advice.dose_u:g} U advised"
        missing = dose_match.missing_u(*await self._noted(now_us))
        if missing.get(advice.advice_id, 0.0) > evidence.TRACE_U:
            said += "; the dose itself is not on record yet: unless your pump reports it, enter it with hometwin log"
        return {"said": said}

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
        recent = [
            a
            for a in self._state().advice
            if a.advice_id.startswith(self._own) and a.approved_us > now_us - US_PER_DAY and a.dose_u > 0
        ]
        if len(recent) >= policy.max_per_day:
            raise RefusedError(f"the standing policy allows {policy.max_per_day} doses a day")
        answer = await self._engine.advise(
            AskAdvice(now_us, float(carbs_g), question, policy, f"{self._own}{now_us // US_PER_S}")
        )
        if answer.advice is None:
            raise InputError(answer.note or "the engine gave no advice")
        await self.review()  # a dose may have been begun meanwhile
        async with self._turn:
            advice = await self._give(answer.advice, policy, now_us)
        await self.review()
        return {"advice": next(row for row in self.rows() if row["advice_id"] == advice.advice_id)}

    async def _give(self, answer: DoseAdvice, policy: StandingPolicy, now_us: int) -> DoseAdvice:
        """Keep the engine's advice and tell the cloud, unless a dose may have been taken that is not on record."""
        if answer.dose_u > 0:  # sugar against a low is never held back
            await self._refuse_twice(self._clock.now_us())
        advice = msgspec.structs.replace(
            answer,
            approved_by=f"standing policy of {policy.approved_by}"[:80],
            approved_us=now_us,
            person=self.person,
            evidence=await self._evidence(answer.data_time_us),
        )
        void: Void | None = None
        if advice.dose_u > 0:  # what came while the engine thought is no part of a dose that nobody had seen
            found = await self._insulin_between(advice, now_us, self._clock.now_us(), was_shown=False)
            void = found.void
        expires_us = min(now_us + OWN_LIFE_US, policy.expires_us)
        note = _new_note(expires_us, void, now_us)
        await self._keep(lambda down: down.with_advice(0, advice, note))
        if void is not None:
            await self._tell_void(advice.advice_id, void)
        self._counters["advice.alone"] += 1
        await self._send(OwnAdvice(advice, policy.policy_id))
        return advice

    def _policy(self) -> StandingPolicy | None:
        """The standing policy, while it holds for this person."""
        policy = self._state().policy
        if policy is None or policy.person != self.person or self._clock.now_us() > policy.expires_us:
            return None
        return policy


def _new_note(expires_us: int, void: Void | None, now_us: int) -> AdviceNote:
    """Of advice that has just come."""
    if void is None:
        return AdviceNote(expires_us, since_us=now_us)
    return AdviceNote(expires_us, void.said, since_us=now_us, void_word=void.word)


def _since(advice: DoseAdvice, note: AdviceNote) -> int:
    """When the hub had the advice first, and nobody could have taken its dose before."""
    return note.since_us or advice.approved_us
