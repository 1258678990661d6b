"""One clock protocol, given to whoever needs time. This module reads no clock itself.

Times are ``int`` microseconds UTC. ``ScaledClock`` lets a week pass in minutes: processes that share
its three numbers and the machine's clock agree on the time without talking.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from core.errors import ConfigError


class Clock(Protocol):
    """Tells the time, and how long a span of it lasts for the one who waits."""

    def now_us(self) -> int:
        """Microseconds UTC."""
        ...

    def wait_s(self, span_us: int) -> float:
        """Real seconds until ``span_us`` have passed on this clock (never negative)."""
        ...


class SystemClock:
    """The machine's clock. ``wall_ns`` is ``time.time_ns`` at the rim."""

    def __init__(self, wall_ns: Callable[[], int]) -> None:
        self._wall_ns = wall_ns

    def now_us(self) -> int:
        return self._wall_ns() // 1000

    def wait_s(self, span_us: int) -> float:
        return max(0.0, span_us / 1e6)


class ScaledClock:
    """Runs ``speed`` times faster than the machine's clock from ``real_epoch_us`` on."""

    def __init__(
        self, wall_ns: Callable[[], int], speed: float, real_epoch_us: int, twin_epoch_us: int
    ) -> None:
        if not 0 < speed <= 1e6:
            raise ConfigError("clock speed must lie in (0, 1e6]", where="clock.speed")
        self._wall_ns = wall_ns
        self._speed = speed
        self._real_epoch_us = real_epoch_us
        self._twin_epoch_us = twin_epoch_us

    def now_us(self) -> int:
        real_us = self._wall_ns() // 1000
        return self._twin_epoch_us + int((real_us - self._real_epoch_us) * self._speed)

    def wait_s(self, span_us: int) -> float:
        return max(0.0, span_us / 1e6 / self._speed)


def span_us(clock: Clock, real_s: float) -> int:
    """The span of ``clock``'s time (microseconds) that passes in ``real_s`` seconds of the one who waits."""
    return int(real_s / max(clock.wait_s(1_000_000), 1e-9) * 1e6)


def clock_from_text(text: str, wall_ns: Callable[[], int]) -> Clock:
    """A clock from ``HOMETWIN_CLOCK``: empty, or ``speed,real_epoch_us,twin_epoch_us``."""
    if not text:
        return SystemClock(wall_ns)
    try:
        speed, real_epoch_us, twin_epoch_us = text.split(",")
        return ScaledClock(wall_ns, float(speed), int(real_epoch_us), int(twin_epoch_us))
    except ValueError as err:
        raise ConfigError(
            "clock must be 'speed,real_epoch_us,twin_epoch_us'", where="HOMETWIN_CLOCK"
        ) from err
