"""Whether a sensor's clock is right, from when its readings arrive; and readings put back on the hub's clock.

A reading cannot arrive before it was taken, and a live one arrives soon after. The least delay of an hour is
therefore the transport's own (half a minute or so), whatever was late in between, plus the error of the
sensor's clock. A clock that runs ahead shows at once: readings come from the future. One that lags looks like
a slow transport, so it is believed only of a source that has been prompt before. A clock that drifts is a
clock that is wrong by a little more each day.

Glucose itself cannot decide this within days: when meals, whose logged times are wrong by more than five
minutes, are all there is to compare with, the likelihood of one day's readings is nearly as high at 10 min off.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec

from core.messages import Sample
from core.units import US_PER_H, US_PER_MIN

LIVE_MIN: Final = 180.0  # delays beyond are imports and backfill, and say nothing about a clock
PROMPT_MIN: Final = 0.5  # usual least delay of a live source
PROMPT_SD_MIN: Final = 0.5
HOURS: Final = 3  # so many hours are compared
HOUR_ARRIVALS: Final = 3
APART_MIN: Final = 2.0  # readings that come together after an outage are one arrival, and a late one
KEPT: Final = 6
APPLY_MIN: Final = 1.5  # an offset smaller than this, less twice its SD, is left alone


class ClockOffset(NamedTuple):
    """How far a source's clock is ahead of the hub's (negative: behind), minutes."""

    offset_min: float
    sd_min: float
    confident: bool  # readings are put right by this much


NO_OFFSET: Final = ClockOffset(0.0, math.inf, False)


class Watch:
    """Least delays of one source, hour by hour of arrival."""

    def __init__(self) -> None:
        self.hours: list[tuple[int, float, int]] = []  # (hour, least delay in min, arrivals)
        self.prompt = False  # has been right before
        self.last_us = 0  # of the last arrival

    def note(self, time_us: int, received_us: int) -> None:
        """One reading: its own time, and when the hub had it."""
        delay_min = (received_us - time_us) / US_PER_MIN
        if received_us <= 0 or abs(delay_min) > LIVE_MIN:
            return
        fresh = int(received_us - self.last_us >= APART_MIN * US_PER_MIN)
        self.last_us = max(self.last_us, received_us)
        hour = received_us // US_PER_H
        if self.hours and self.hours[-1][0] == hour:
            _, least, count = self.hours[-1]
            self.hours[-1] = (hour, min(least, delay_min), count + fresh)
        elif not self.hours or hour > self.hours[-1][0]:
            self.hours.append((hour, delay_min, fresh))
            del self.hours[:-KEPT]
        found = self._found()
        if abs(found.offset_min) + 2.0 * found.sd_min < 2.0 * APPLY_MIN:
            self.prompt = True

    def offset(self) -> ClockOffset:
        """What the last hours say; nothing (infinite SD) until there are enough."""
        found = self._found()
        beyond = abs(found.offset_min) - 2.0 * found.sd_min > APPLY_MIN
        return found._replace(confident=beyond and (found.offset_min > 0.0 or self.prompt))

    def _found(self) -> ClockOffset:
        least = [delay for _, delay, count in self.hours if count >= HOUR_ARRIVALS][-HOURS:]
        if len(least) < HOURS:
            return NO_OFFSET
        low, middle, high = sorted(least)
        apart = min(middle - low, high - middle)  # two hours that agree outvote one that was late as a whole
        return ClockOffset(PROMPT_MIN - middle, math.hypot(PROMPT_SD_MIN, apart), False)


class Clocks:
    """The clocks of all CGM sources of one person. Depends on nothing but what was shown to it, in order."""

    def __init__(self) -> None:
        self.watches: dict[str, Watch] = {}

    def copy(self) -> Clocks:
        """An independent copy."""
        other = Clocks()
        for source, watch in self.watches.items():
            other.watches[source] = mine = Watch()
            mine.hours, mine.prompt, mine.last_us = list(watch.hours), watch.prompt, watch.last_us
        return other

    def align(self, sample: Sample) -> Sample:
        """The sample, with its time put right when its source's clock is known to be wrong."""
        if sample.kind != "cgm_mgdl" or sample.received_us <= 0 or sample.amends is not None:
            return sample
        watch = self.watches.setdefault(sample.source, Watch())
        watch.note(sample.time_us, sample.received_us)
        found = watch.offset()
        if not found.confident:
            return sample
        return msgspec.structs.replace(sample, time_us=sample.time_us - round(found.offset_min * US_PER_MIN))
