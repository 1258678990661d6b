"""Twin time for virtual devices: a small equal of the hub's clock, because nothing of ours is imported here.

``HOMETWIN_CLOCK`` is empty (the machine's clock) or ``speed,real_epoch_us,twin_epoch_us``.
Times are ``int`` microseconds UTC. Link time (Bluetooth, retries) is real and never passes here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from firmware_sim.errors import SimError

US_PER_S: Final = 1_000_000
US_PER_MIN: Final = 60 * US_PER_S
US_PER_H: Final = 60 * US_PER_MIN
US_PER_DAY: Final = 24 * US_PER_H


@dataclass(frozen=True, slots=True)
class SimClock:
    """Twin time running ``speed`` times faster than the machine's clock since ``real_epoch_us``."""

    speed: float = 1.0
    real_epoch_us: int = 0
    twin_epoch_us: int = 0
    wall_ns: Callable[[], int] = time.time_ns

    def now_us(self) -> int:
        """Microseconds UTC of twin time."""
        real_us = self.wall_ns() // 1000
        return self.twin_epoch_us + int((real_us - self.real_epoch_us) * self.speed)

    def wait_s(self, span_us: int) -> float:
        """Real seconds that a span of twin time lasts (never negative)."""
        return max(0.0, span_us / US_PER_S / self.speed)


def clock_from_text(text: str) -> SimClock:
    """The clock that ``HOMETWIN_CLOCK`` describes, or SimError."""
    if not text:
        return SimClock()
    try:
        speed_text, real_text, twin_text = text.split(",")
        clock = SimClock(float(speed_text), int(real_text), int(twin_text))
    except ValueError:
        raise SimError("clock must be 'speed,real_epoch_us,twin_epoch_us'", where="HOMETWIN_CLOCK") from None
    if not 0 < clock.speed <= 1e6:
        raise SimError("clock speed must lie in (0, 1e6]", where="HOMETWIN_CLOCK")
    return clock
