"""What the hub must remember of itself between runs: sealed blobs in the store."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from core.messages import Alarm, DoseAdvice, Prior, decode, encode
from edge.store.store import Store

KEPT_ADVICE = 20


class DownState(msgspec.Struct, frozen=True):
    """The last message accepted from the cloud, and what it brought."""

    last_number: int = 0
    prior: Prior | None = None
    advice: tuple[DoseAdvice, ...] = ()

    def with_prior(self, number: int, prior: Prior) -> DownState:
        return DownState(number, prior, self.advice)

    def with_advice(self, number: int, advice: DoseAdvice) -> DownState:
        """The same advice may be sent again after a crash of the cloud: it takes the place of the older copy."""
        others = tuple(a for a in self.advice if a.advice_id != advice.advice_id)
        return DownState(number, self.prior, (*others, advice)[-KEPT_ADVICE:])


class AlarmState(msgspec.Struct, frozen=True):
    """Alarms that were active."""

    active: tuple[Alarm, ...] = ()


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
