"""How long to wait before the next attempt on a device. Pure: the error, a count and a generator go in.

Two families. A lost link, a timeout or a full disk mends itself: short pauses that double. A wrong
passkey or a peer that breaks the protocol does not: after a few strikes the device is quarantined, so
that it neither drains its own battery nor holds the adapter, and a person reads a clear state.
All spans are real seconds: radios do not know the twin's clock.
"""

from __future__ import annotations

import random
from typing import Final

import msgspec

from core.errors import DecodeError, HometwinError, PairingError, ProcedureError


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The supervisor's real-time spans in seconds. The defaults are for living sensors."""

    fresh_s: float = 3.0  # an advertisement older than this may come from a device that has left
    connect_s: float = 8.0  # connect and discover; longer only blocks the one initiator for the others
    operation_s: float = 40.0  # backstop for one read or write, which may have to pair first (30 s)
    tick_s: float = 0.25  # the session contract asks for at least two ticks per second
    probe_s: float = 60.0  # a link without traffic for this long is asked for its battery
    probe_answer_s: float = 10.0
    settled_s: float = 5.0  # a link that worked this long clears earlier failures
    rescan_s: float = 30.0  # scan restart while a device stays away (BlueZ forgets to repeat itself)
    close_s: float = 3.0  # a clean disconnect takes a few connection intervals
    link_first_s: float = 0.5  # most drops are a body in the way for a moment
    link_most_s: float = 30.0  # a device back in range is found again within half a minute
    stubborn_first_s: float = 2.0
    stubborn_most_s: float = 60.0
    quarantine_s: float = 900.0  # repeated wrong passkeys lock some devices; 15 minutes is kind to them
    surprise_first_s: float = 5.0  # an error nobody foresaw: never a tight loop
    surprise_most_s: float = 300.0


DEFAULT_PACE: Final = Pace()
PAIRING_STRIKES: Final = 3  # a bond may be half made at a power cut; a passkey is not wrong by chance
PROTOCOL_STRIKES: Final = 5  # a burst of noise can spoil a transfer, not five visits in a row


def strikes_allowed(error: BaseException) -> int | None:
    """How many times in a row this kind of error may happen before quarantine; None when it mends itself."""
    if isinstance(error, PairingError):
        return PAIRING_STRIKES
    if isinstance(error, (DecodeError, ProcedureError)):
        return PROTOCOL_STRIKES
    return None


def is_quarantined(error: BaseException, attempts: int) -> bool:
    """True when ``attempts`` failures of this kind in a row (1 is the first) ask for the long pause."""
    allowed = strikes_allowed(error)
    return allowed is not None and attempts >= allowed


def retry_after_s(
    error: BaseException, attempts: int, rng: random.Random, pace: Pace = DEFAULT_PACE
) -> float:
    """Real seconds until the next attempt after ``attempts`` failures of this kind in a row (from 1).

    The pause doubles and is drawn from its upper half, so that devices which dropped together do not
    return together.
    """
    if is_quarantined(error, attempts):
        return pace.quarantine_s * rng.uniform(0.9, 1.1)
    first_s, most_s = _span(error, pace)
    doubled = min(most_s, first_s * 2.0 ** min(max(attempts, 1) - 1, 32))
    return doubled * rng.uniform(0.5, 1.0)


def _span(error: BaseException, pace: Pace) -> tuple[float, float]:
    if strikes_allowed(error) is not None:
        return pace.stubborn_first_s, pace.stubborn_most_s
    if isinstance(error, HometwinError):
        return pace.link_first_s, pace.link_most_s
    return pace.surprise_first_s, pace.surprise_most_s
