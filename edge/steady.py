"""The hub's clock that never jumps: the kernel's since the machine's boot, at the pace of the clock it is given."""

from __future__ import annotations

import time

from core.clock import Clock, span_us


def steady_us(clock: Clock) -> int:
    """Microseconds since the boot, stretched as ``clock`` stretches its own seconds."""
    return span_us(clock, time.monotonic())


def stretch_us(clock: Clock, real_s: float) -> int:
    """What ``real_s`` seconds last longer on ``clock`` than in truth: nothing on a true clock."""
    return max(0, span_us(clock, real_s) - round(real_s * 1e6))
