"""What a device session and its driver say to each other. No socket, no clock, no disk in sight.

The driver executes ``Action``s one after the other and answers each with exactly one ``on_read``,
``on_done`` or ``on_failed``; notifications and indications go to ``on_value`` as they come. ``Event``s are
for the hub. All times are passed in: ``now_us`` is twin time (microseconds UTC), ``mono_s`` a monotonic
clock in real seconds, because a radio does not run faster when the twin's clock does.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from core.errors import HometwinError
from core.messages import Sample


class Read(msgspec.Struct, frozen=True):
    """Read a characteristic; answered by ``on_read`` or ``on_failed``."""

    uuid: int


class Write(msgspec.Struct, frozen=True):
    """Write a characteristic; answered by ``on_done`` or ``on_failed``."""

    uuid: int
    data: bytes
    response: bool = True


class Subscribe(msgspec.Struct, frozen=True):
    """Turn on notifications or indications; answered by ``on_done`` or ``on_failed``."""

    uuid: int


class Close(msgspec.Struct, frozen=True):
    """Disconnect. Not answered. ``error`` says why, None when the session simply ended."""

    error: HometwinError | None


Action = Read | Write | Subscribe | Close


class Samples(msgspec.Struct, frozen=True):
    """Store these durably, in this order and all or none; then call ``on_stored`` with them."""

    samples: tuple[Sample, ...]


class Facts(msgspec.Struct, frozen=True):
    """What the device says of itself: battery_pct, manufacturer, session_start_us, clock_offset_s, ..."""

    fields: dict[str, str | int | float]


class Counted(msgspec.Struct, frozen=True):
    """Something to count, e.g. ``decode_error.crc``: refused, skipped or given up. Never a value."""

    name: str


Event = Samples | Facts | Counted


class Step(msgspec.Struct, frozen=True):
    """What follows from one call."""

    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()


class Session(Protocol):
    """One device on one link; ``start`` begins anew after a reconnection."""

    @property
    def state(self) -> str: ...

    @property
    def idle(self) -> bool:
        """The device's history has been fetched; only new values come now."""
        ...

    def start(self, present: frozenset[int], now_us: int, mono_s: float) -> Step: ...

    def on_read(self, uuid: int, data: bytes, now_us: int, mono_s: float) -> Step: ...

    def on_value(self, uuid: int, data: bytes, now_us: int, mono_s: float) -> Step: ...

    def on_done(self, uuid: int, now_us: int, mono_s: float) -> Step: ...

    def on_failed(self, uuid: int, error: HometwinError, now_us: int, mono_s: float) -> Step: ...

    def on_stored(self, samples: tuple[Sample, ...]) -> Step: ...

    def on_tick(self, now_us: int, mono_s: float) -> Step: ...
