"""Virtual heart-rate strap (Heart Rate Service 0x180D, HRS 1.0) and alert watch (Immediate Alert 0x1802)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar, Final

import structlog
from bumble.core import UUID
from bumble.gatt import Service

from firmware_sim.clock import SimClock
from firmware_sim.flash import Flash
from firmware_sim.octets import u8, u16
from firmware_sim.peripheral import Peripheral
from firmware_sim.recording import Event
from firmware_sim.table import NOTIFY, READ, WRITE_COMMAND

log = structlog.get_logger()

FLAG_16_BIT: Final = 1 << 0
FLAG_CONTACT: Final = 0b11 << 1  # contact is supported and detected
FLAG_RR: Final = 1 << 4
CHEST: Final = 1
# At 2000 times real speed a value every 5 min of twin time is 7 a second; a hub needs no more than 5.
LIVE_INTERVAL_S: Final = 0.2


def heart_rate_measurement(rate_bpm: float) -> bytes:
    """Heart Rate Measurement (0x2A37) with one RR interval (1/1024 s) of that rate."""
    rate = min(max(round(rate_bpm), 1), 0xFFFF)
    wide = rate > 0xFF
    flags = FLAG_CONTACT | FLAG_RR | (FLAG_16_BIT if wide else 0)
    return u8(flags) + (u16(rate) if wide else u8(rate)) + u16(min(round(60 * 1024 / rate), 0xFFFF))


class LiveLimiter:
    """Lets one through at most every ``interval_s`` real seconds."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last_s = -interval_s

    def wait_s(self) -> float:
        """Real seconds until the next one may pass."""
        return max(0.0, self._last_s + self._interval_s - time.monotonic())

    def passed(self) -> None:
        self._last_s = time.monotonic()


class Strap(Peripheral):
    """Sends the newest value at most every 0.2 real seconds and remembers nothing."""

    name: ClassVar[str] = "strap"
    address: ClassVar[str] = "C0:00:00:00:00:02"
    title: ClassVar[str] = "Twin Strap"
    model: ClassVar[str] = "Virtual Heart Rate Strap"
    main_service: ClassVar[int] = 0x180D
    has_memory: ClassVar[bool] = False

    def __init__(self, flash: Flash, clock: SimClock) -> None:
        super().__init__(flash, clock)
        self._measurement = self.characteristic(0x2A37, NOTIFY)
        self._limiter = LiveLimiter(LIVE_INTERVAL_S)

    def services(self) -> list[Service]:
        location = self.characteristic(0x2A38, READ, read=lambda: bytes([CHEST]))
        return [Service(UUID.from_16_bits(self.main_service), [self._measurement, location])]

    def play(self, index: int, event: Event) -> None:
        if self._limiter.wait_s() > 0:
            self.counters["thinned"] += 1
            return
        if self.subscribed(self._measurement):
            self._limiter.passed()
            self.send_soon(self._measurement, heart_rate_measurement(event.value), is_record=True)


class Watch(Peripheral):
    """Writes every alert level to ``watch.log`` as ``real_time_us level``."""

    name: ClassVar[str] = "watch"
    address: ClassVar[str] = "C0:00:00:00:00:05"
    title: ClassVar[str] = "Twin Watch"
    model: ClassVar[str] = "Virtual Alert Watch"
    main_service: ClassVar[int] = 0x1802
    has_memory: ClassVar[bool] = False

    def __init__(self, flash: Flash, clock: SimClock, log_path: Path) -> None:
        super().__init__(flash, clock)
        self._log_path = log_path
        self.level = 0

    def services(self) -> list[Service]:
        alert = self.characteristic(0x2A06, WRITE_COMMAND, write=self._on_level)
        return [Service(UUID.from_16_bits(self.main_service), [alert])]

    def play(self, index: int, event: Event) -> None:
        """No event is a watch's."""

    def _on_level(self, data: bytes) -> None:
        if len(data) != 1 or data[0] > 2:  # reserved levels are ignored (IAS 1.0 section 3.1)
            self.counters["bad_level"] += 1
            return
        self.level = data[0]
        self.counters["alerts"] += 1
        with self._log_path.open("a") as out:
            out.write(f"{time.time_ns() // 1000} {self.level}\n")
        log.info("watch.alert", level=self.level)

    def status(self) -> dict[str, Any]:
        return super().status() | {"level": self.level}
