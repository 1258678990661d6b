"""Hand entries that come over MQTT: sealed with the hub's key, each taken once, for a day.

A program of the house (Home Assistant, a phone) publishes ``seal_command(...)`` on ``hometwin/<hub>/cmd`` with
the hub's certificate. Clear JSON is taken only when the configuration says that the broker is trusted.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
import structlog

from core.clock import Clock
from core.errors import DecodeError, EnvelopeError
from core.units import US_PER_DAY
from sync.envelope import open_command

log = structlog.get_logger()

# A day lets an entry wait for a hub that is switched off over night. Its time is that of its sending, so a
# late arrival does no harm; the memory of what was taken must last as long.
COMMAND_LIFE_US: Final = US_PER_DAY
REMEMBERED: Final = 1000  # nobody enters a thousand things by hand in a day; beyond it the oldest are refused
MAX_CLEAR_BYTES: Final = 4096

OnCommand = Callable[[dict[str, Any]], Awaitable[None]]


class CommandGate:
    """Opens command messages and lets each through once. Counts and logs what it refuses."""

    def __init__(self, hub_id: str, key: bytes, clock: Clock, *, allow_clear: bool) -> None:
        self._hub_id = hub_id
        self._key = key
        self._clock = clock
        self._allow_clear = allow_clear
        self._seen: OrderedDict[int, int] = OrderedDict()  # command id -> sent_us, in order of arrival
        self._horizon_us = 0  # what was sent before may have been seen and forgotten

    @property
    def seen(self) -> tuple[tuple[int, int], ...]:
        """(command id, sent_us) of what was taken lately; ``remember`` it after a restart."""
        return tuple(self._seen.items())

    def remember(self, seen: Iterable[tuple[int, int]]) -> None:
        """These were taken already."""
        self._seen.update(seen)

    def open(self, payload: bytes, counters: Counter[str]) -> dict[str, Any] | None:
        """The request in ``payload``, or None when it was refused, counted and logged."""
        try:
            command = open_command(self._key, self._hub_id, payload)
        except EnvelopeError:
            return self._open_clear(payload, counters)
        except DecodeError:
            return self._refuse("unusable", counters)
        now_us = self._clock.now_us()
        if command.sent_us <= max(now_us - COMMAND_LIFE_US, self._horizon_us):
            return self._refuse("late", counters)
        if command.command_id in self._seen:
            return self._refuse("repeated", counters)
        self._seen[command.command_id] = command.sent_us
        while len(self._seen) > REMEMBERED:
            self._horizon_us = max(self._horizon_us, self._seen.popitem(last=False)[1])
        counters["command.accepted"] += 1
        return {"time_us": command.sent_us, **command.request}

    def _open_clear(self, payload: bytes, counters: Counter[str]) -> dict[str, Any] | None:
        is_clear = payload.lstrip()[:1] == b"{"
        if not is_clear or not self._allow_clear:
            return self._refuse("clear_refused" if is_clear else "forged", counters)
        if len(payload) > MAX_CLEAR_BYTES:
            return self._refuse("unusable", counters)
        try:
            request = msgspec.json.decode(payload, type=dict[str, Any])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self._refuse("unusable", counters)
        counters["command.accepted"] += 1
        return request

    def _refuse(self, why: str, counters: Counter[str]) -> dict[str, Any] | None:
        counters[f"command.{why}"] += 1
        log.warning("command.refused", why=why)
        return None
