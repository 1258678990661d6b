"""Plays events into one device as their time comes, whether or not a hub is near.

Where the device stopped is known from its own records, so a restarted process goes on where it was: what happened
while it was dead is recorded late, as a sensor does whose radio, not whose body, had failed.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from typing import Final

import structlog

from firmware_sim.clock import SimClock
from firmware_sim.peripheral import Peripheral
from firmware_sim.recording import Event

log = structlog.get_logger()

LONGEST_NAP_S: Final = 1.0  # a stepped machine clock is noticed after this long
# A late start can have months to catch up on; the radio gets its turn in between. One record takes 20 us.
TURN_S: Final = 0.02


async def play(device: Peripheral, events: list[Event], clock: SimClock) -> None:
    """Until the last event is played. ``events`` in time order."""
    if device.has_memory:
        index = device.flash.next_event
    else:  # what was not heard at its time is gone
        index = bisect.bisect_left(events, clock.now_us(), key=lambda event: event.time_us)
    if device.flash.records:
        log.info("sensor.resumed", device=device.name, records=len(device.flash.records))
    while index < len(events):
        turn_ends_s = time.monotonic() + TURN_S
        now_us = clock.now_us()
        while index < len(events) and events[index].time_us <= now_us:
            device.play(index, events[index])
            index += 1
            if time.monotonic() > turn_ends_s:
                break
        else:
            if index < len(events):
                await asyncio.sleep(min(clock.wait_s(events[index].time_us - now_us), LONGEST_NAP_S))
            continue
        await asyncio.sleep(0)
    log.info("sensor.played_out", device=device.name)
