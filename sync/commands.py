"""Hand entries that come over MQTT: sealed with the hub's key, each taken once, for a day.

A program of the house (Home Assistant, a phone) publishes ``seal_command(...)`` on ``hometwin/<hub>/cmd`` with
the hub's certificate. Clear JSON is taken only when the configuration says that the broker is trusted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from core.clock import Clock
from core.errors import DecodeError, EnvelopeError
from core.units import US_PER_DAY, US_PER_MIN
from sync.envelope import INT64_MAX, open_command

log = structlog.get_logger()

# A day lets an entry wait for a hub that is switched off over night. Its time is that of its sending, so a
# late arrival does no harm; the memory of what was taken must last as long.
COMMAND_LIFE_US: Final = US_PER_DAY
REMEMBERED: Final = 1000  # nobody enters a thousand things by hand in a day; beyond it the oldest are refused
# Clocks of one house differ by less; what claims to come from later would outlive the memory of it.
FUTURE_US: Final = 5 * US_PER_MIN
# Command ids are never negative, so the horizon travels among them under this one.
HORIZON_ID: Final = -1
MAX_CLEAR_BYTES: Final = 4096

# ``command_id`` is None for a clear command. It is the same in every delivery of one command: a receiver that
# makes it part of its record's key stores one record, even when it is killed before it remembers the command.
OnCommand = Callable[[dict[str, Any], int | None], Awaitable[None]]


class Taken(NamedTuple):
    """A command to act on. ``command_id``: None when it came in clear, else in 0..2^63-1."""

    request: dict[str, Any]
    command_id: int | None


class CommandGate:
    """Opens command messages and lets each through once. Counts and logs what it refuses."""

    def __init__(self, hub_id: str, key: bytes, clock: Clock, *, allow_clear: bool) -> None:
        self._hub_id = hub_id
        self._key = key
        self._clock = clock
        self._allow_clear = allow_clear
        self._seen: dict[int, int] = {}  # command id -> sent_us
        self._horizon_us = 0  # what was sent up to then may have been seen and forgotten

    @property
    def seen(self) -> tuple[tuple[int, int], ...]:
        """(command id, sent_us) of what was taken lately; ``remember`` it after a restart.

        The pair of HORIZON_ID says up to when commands have been forgotten.
        """
        horizon = ((HORIZON_ID, self._horizon_us),) if self._horizon_us else ()
        return (*horizon, *self._seen.items())

    def remember(self, seen: Iterable[tuple[int, int]]) -> None:
        """These were taken already; the horizon among them holds again."""
        for command_id, sent_us in seen:
            if command_id == HORIZON_ID:
                self._horizon_us = max(self._horizon_us, sent_us)
            else:
                self._seen[command_id] = sent_us
        self._trim()

    def forget(self, command_id: int | None) -> None:
        """It could not be acted on after all: let it through when it comes again."""
        if command_id is not None:
            self._seen.pop(command_id, None)

    def open(self, payload: bytes, counters: Counter[str]) -> Taken | None:
        """What ``payload`` asks for, or None when it was refused, counted and logged."""
        try:
            command = open_command(self._key, self._hub_id, payload)
        except EnvelopeError:
            return self._open_clear(payload, counters)
        except DecodeError:
            return self._refuse("unusable", counters)
        now_us = self._clock.now_us()
        if not 0 <= command.command_id <= INT64_MAX:
            return self._refuse("unusable", counters)
        if command.sent_us > now_us + FUTURE_US:
            return self._refuse("future", counters)
        if command.sent_us <= max(now_us - COMMAND_LIFE_US, self._horizon_us):
            return self._refuse("late", counters)
        if command.command_id in self._seen:
            return self._refuse("repeated", counters)
        self._seen[command.command_id] = command.sent_us
        self._trim()
        counters["command.accepted"] += 1
        return Taken({"time_us": command.sent_us, **command.request}, command.command_id)

    def _trim(self) -> None:
        """Forget the earliest sent beyond REMEMBERED: so the horizon never passes what is remembered."""
        while len(self._seen) > REMEMBERED:
            earliest = min(self._seen, key=self._seen.__getitem__)
            self._horizon_us = max(self._horizon_us, self._seen.pop(earliest))

    def _open_clear(self, payload: bytes, counters: Counter[str]) -> Taken | None:
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
        return Taken(request, None)

    def _refuse(self, why: str, counters: Counter[str]) -> Taken | None:
        counters[f"command.{why}"] += 1
        log.warning("command.refused", why=why)
        return None
