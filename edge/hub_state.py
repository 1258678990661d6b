"""What the hub must remember of itself between runs: sealed blobs in the store."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from core.messages import Alarm, DoseAdvice, Prior, StandingPolicy, decode, encode
from core.units import US_PER_MIN
from edge.store.store import Store

KEPT_ADVICE = 20


class AdviceNote(msgspec.Struct, frozen=True):
    """What the hub knows about one piece of advice beside its text."""

    expires_us: int
    void: str = ""  # why it must not be used; empty: it may
    confirmed_us: int = 0  # when the person said what was done; 0: not yet
    took_u: float = 0.0
    since_us: int = 0  # when the hub had it first; 0: an older version did not keep that
    void_us: int = 0  # when it was withdrawn after it had been shown; 0: it was not
    void_word: str = ""  # the same as ``void`` in a word, for the cloud; an older version did not keep it

    def state(self, now_us: int) -> str:
        """open | void | expired | confirmed."""
        if self.confirmed_us:
            return "confirmed"
        if self.void:
            return "void"
        return "expired" if now_us > self.expires_us else "open"


class DownState(msgspec.Struct, frozen=True):
    """The last message accepted from the cloud, and what it brought."""

    last_number: int = 0
    prior: Prior | None = None
    advice: tuple[DoseAdvice, ...] = ()
    notes: dict[str, AdviceNote] = {}  # by advice_id
    policy: StandingPolicy | None = None

    def with_prior(self, number: int, prior: Prior) -> DownState:
        return msgspec.structs.replace(self, last_number=number, prior=prior)

    def with_policy(self, number: int, policy: StandingPolicy) -> DownState:
        """The newest policy takes the place of the one before."""
        return msgspec.structs.replace(self, last_number=number, policy=policy)

    def with_number(self, number: int) -> DownState:
        """A message was refused for good: only its number counts."""
        return msgspec.structs.replace(self, last_number=number)

    def with_advice(self, number: int, advice: DoseAdvice, note: AdviceNote) -> DownState:
        """The same advice may be sent again after a crash of the cloud: it takes the place of the older copy.

        What was withdrawn stays so, and what was done stays done.
        """
        others = tuple(a for a in self.advice if a.advice_id != advice.advice_id)
        kept = (*others, advice)[-KEPT_ADVICE:]
        old = self.notes.get(advice.advice_id)
        if old is not None:
            note = msgspec.structs.replace(
                note, confirmed_us=old.confirmed_us, took_u=old.took_u, since_us=old.since_us or note.since_us
            )
            if old.void_us:
                note = msgspec.structs.replace(
                    note, void=old.void, void_us=old.void_us, void_word=old.void_word
                )
        notes = {a.advice_id: self.notes[a.advice_id] for a in kept if a.advice_id in self.notes}
        notes[advice.advice_id] = note
        return msgspec.structs.replace(
            self, last_number=max(self.last_number, number), advice=kept, notes=notes
        )

    def with_note(self, advice_id: str, note: AdviceNote) -> DownState:
        return msgspec.structs.replace(self, notes={**self.notes, advice_id: note})

    def note(self, advice: DoseAdvice) -> AdviceNote:
        """Its note; advice of before there were notes has none, and is open for its half hour."""
        return self.notes.get(advice.advice_id, AdviceNote(advice.for_time_us + 30 * US_PER_MIN))


class AlarmState(msgspec.Struct, frozen=True):
    """Alarms that were active, and what had changed with the last write (edge.alarm_record)."""

    active: tuple[Alarm, ...] = ()
    untold: tuple[Alarm, ...] = ()


class CommandState(msgspec.Struct, frozen=True):
    """Hand entries that came over MQTT lately, as (id, time): a repeated one does nothing."""

    seen: tuple[tuple[int, int], ...] = ()


S = TypeVar("S", DownState, AlarmState, CommandState)


def load_state(store: Store, name: str, kind: type[S]) -> S:
    """The stored state, or a fresh one."""
    data = store.get_blob(name)
    return kind() if data is None else decode(data, kind)


def save_state(store: Store, name: str, state: DownState | AlarmState | CommandState) -> None:
    """Replace the stored state; durable on return."""
    store.put_blob(name, encode(state))
