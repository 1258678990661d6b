"""The hub's clock that never jumps: the kernel's since the machine's boot, at the pace of the clock it is given."""

from __future__ import annotations

import time

from core.clock import Clock


def steady_us(clock: Clock) -> int:
    """Microseconds since the boot, stretched as ``clock`` stretches its own seconds."""
    return int(time.monotonic() / clock.wait_s(1_000_000) * 1e6)
