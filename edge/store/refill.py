"""Which sensors are asked again for what was lost: their cursor stands before the gap until they told it anew.

A sensor's history is read upwards from the cursor. Once a record comes again that was known when the gap was found,
the reading has passed the gap, and the true cursor holds again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from core.errors import DecodeError
from core.messages import decode, encode
from core.units import US_PER_DAY, US_PER_H

BLOB: Final = "refill"
# Sensors without a memory never answer; no sensor of ours remembers longer.
PATIENCE_US: Final = 30 * US_PER_DAY
# Patience is counted in steps, each written to the disk. One that seems longer, or goes back, is mostly a clock that was
# set (a Pi boots in 1970, until the network tells the time) or a hub that was off, when no sensor could answer.
STEP_LEAST_US: Final = US_PER_H
STEP_MOST_US: Final = 6 * US_PER_H


class Wanted(msgspec.Struct, frozen=True):
    """Of one source: from where, and which number ends it."""

    floor: int | None  # ask for what comes after this; None: for everything
    until: int


class Refill(msgspec.Struct, frozen=True):
    """All that is wanted. ``since_us``: when ``waited_us`` was counted last."""

    since_us: int = 0
    wanted: dict[str, Wanted] = {}
    waited_us: int = 0

    @staticmethod
    def of(data: bytes | None) -> Refill:
        """What a blob holds; nothing wanted when it is no such blob."""
        if data is None:
            return Refill()
        try:
            return decode(data, Refill)
        except DecodeError:
            return Refill()

    def __bytes__(self) -> bytes:
        return encode(self)

    def at(self, now_us: int) -> Refill:
        """What is wanted now, self when that is as it was: nothing once patience has ended."""
        step_us = now_us - self.since_us
        if not self.wanted or 0 <= step_us < STEP_LEAST_US:
            return self
        waited_us = self.waited_us + min(max(0, step_us), STEP_MOST_US)
        return Refill() if waited_us > PATIENCE_US else Refill(now_us, self.wanted, waited_us)

    def cursors(self, source: str, known: Mapping[str, int]) -> dict[str, int]:
        """The cursors to ask ``source`` from."""
        wanted = self.wanted.get(source)
        if wanted is None:
            return dict(known)
        if wanted.floor is None:
            return {}
        return {kind: min(seq, wanted.floor) for kind, seq in known.items()}

    def after(self, source: str, seq: int) -> Refill:
        """What is still wanted once a record came that was known."""
        wanted = self.wanted.get(source)
        if wanted is None or seq < wanted.until:
            return self
        return msgspec.structs.replace(self, wanted={s: w for s, w in self.wanted.items() if s != source})
