"""When a sample arrived, on two clocks: the wall's, which may be set at any time, and one that never jumps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from core.clock import Clock

# Arrivals are rounded up to this: finer tells nothing about a reading and would cost a byte of four.
RECEIVED_STEP_US: Final = 100_000


class Arrivals:
    """Stamps of what arrives. ``steady``: microseconds since the machine's boot; None, and it is not known."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.steady: Callable[[], int] | None = None
        self._offset_us: int | None = None  # wall time less steady time, in whole steps
        self._last_us = RECEIVED_STEP_US  # of steady time; 0 would say that it is not known

    def now(self) -> tuple[int, int]:
        """Wall and steady time in microseconds, in whole steps; the steady one never falls.

        Their difference stays the same until the wall clock is set: rounded apart, they would differ by a step
        now and then, which means nothing and packs badly.
        """
        wall_us = self._clock.now_us()
        received_us = -(-wall_us // RECEIVED_STEP_US) * RECEIVED_STEP_US
        if self.steady is None:
            return received_us, 0
        offset_us = wall_us - self.steady()
        if self._offset_us is None or abs(offset_us - self._offset_us) >= RECEIVED_STEP_US:
            self._offset_us = round(offset_us / RECEIVED_STEP_US) * RECEIVED_STEP_US
        self._last_us = max(self._last_us, received_us - self._offset_us)
        return received_us, self._last_us
