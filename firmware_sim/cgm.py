"""Virtual continuous glucose monitor: CGM Service 0x181F with E2E-CRC (CGMS 1.0.2).

It starts its session by itself when it is first powered on (real sensors start at insertion), unless told to
wait for the collector. One record per minute at most; all of a session are kept.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable
from typing import Any, ClassVar, Final

from bumble import att
from bumble.core import UUID
from bumble.gatt import Service

from firmware_sim.clock import US_PER_MIN, SimClock
from firmware_sim.errors import SimError
from firmware_sim.flash import Flash, Record
from firmware_sim.octets import (
    crc_holds,
    date_time,
    parse_date_time,
    s8,
    sfloat,
    u8,
    u16,
    u24,
    utc_time,
    utc_us,
    with_crc,
)
from firmware_sim.peripheral import Peripheral
from firmware_sim.racp import PLAIN, Filter, RecordAccess
from firmware_sim.recording import Event
from firmware_sim.table import INDICATE, NOTIFY, READ, WRITE

# CGM Feature: device battery low detection, E2E-CRC, multiple bonds. Type 9 interstitial fluid (low nibble),
# location 5 subcutaneous tissue (high nibble).
FEATURES: Final = 1 << 9 | 1 << 12 | 1 << 13
TYPE_AND_LOCATION: Final = 9 | 5 << 4
# Status octet (first of three), time octet (second)
SESSION_STOPPED: Final = 1 << 0
BATTERY_LOW: Final = 1 << 1
TIME_SYNC_REQUIRED: Final = 1 << 8
LOW_BATTERY_PCT: Final = 10
FLAG_STATUS_OCTET: Final = 1 << 7
RUN_TIME_H: Final = 45 * 24  # the 16-bit time offset in minutes ends after 45.5 days
# CGM Specific Ops Control Point
OP_SET_INTERVAL, OP_GET_INTERVAL, OP_INTERVAL = 0x01, 0x02, 0x03
OP_RESET_ALERT, OP_START, OP_STOP, OP_RESPONSE = 0x19, 0x1A, 0x1B, 0x1C
OK, UNKNOWN_OP, INVALID_OPERAND, NOT_COMPLETED = 1, 2, 3, 4
ATT_MISSING_CRC, ATT_INVALID_CRC = 0x80, 0x81  # application errors of the service
ATT_OUT_OF_RANGE = 0xFF
ATT_IN_PROGRESS, ATT_CCCD_IMPROPER = 0xFE, 0xFD


def measurement(glucose_mgdl: float, offset_min: int, status: int = 0) -> bytes:
    """CGM Measurement (0x2AA7) without its CRC; the size octet counts the two octets to come.

    Only the status octet of the annunciation is ever written, and only when it has a bit set.
    """
    tail = u8(status) if status else b""
    flags = FLAG_STATUS_OCTET if status else 0
    return u8(6 + len(tail) + 2) + u8(flags) + sfloat(glucose_mgdl) + u16(offset_min) + tail


class Cgm(Peripheral):
    """See the module. ``waits``: no session before the collector starts one."""

    name: ClassVar[str] = "cgm"
    address: ClassVar[str] = "C0:00:00:00:00:01"
    passkey: ClassVar[int | None] = 123456
    title: ClassVar[str] = "Twin CGM"
    model: ClassVar[str] = "Virtual CGM"
    main_service: ClassVar[int] = 0x181F

    def __init__(self, flash: Flash, clock: SimClock, start_us: int, waits: bool = False) -> None:
        super().__init__(flash, clock)
        self.corrupt_left = 0  # records still to get a wrong CRC (fault)
        self.tamper_left = 0  # records still to be changed without a new CRC (fault)
        self.zero_left = 0  # records still to claim a size of zero (fault)
        start_us -= start_us % US_PER_MIN
        flash.state.setdefault(
            "session",
            {
                "start_us": None if waits else start_us,  # by which offsets are counted
                "told_us": None if waits else start_us,  # what the characteristic says
                "zone": [0, 0],  # quarters of an hour: time zone, daylight saving
                "stopped": waits,
                "interval_min": 5,
            },
        )
        self._measurement = self.characteristic(0x2AA7, NOTIFY)
        self._racp_point = self.characteristic(0x2A52, WRITE | INDICATE, write=self._on_racp)
        self._ops_point = self.characteristic(0x2AAC, WRITE | INDICATE, write=self._on_ops)
        self._access = RecordAccess(
            dialect=PLAIN,
            filters={1: Filter(2, lambda octets: int.from_bytes(octets, "little"), lambda r: r.key)},
            records=lambda: self.flash.records,
            send=lambda record: self.send(self._measurement, self._sealed(record), is_record=True),
            respond=lambda octets: self.send(self._racp_point, octets),
            subscribed=lambda: self.subscribed(self._racp_point) and self.subscribed(self._measurement),
            spawn=self.spawn,
        )
        self._ops_busy = False

    @property
    def session(self) -> dict[str, Any]:
        session: dict[str, Any] = self.flash.state["session"]
        return session

    def services(self) -> list[Service]:
        return [
            Service(
                UUID.from_16_bits(self.main_service),
                [
                    self._measurement,
                    self.characteristic(0x2AA8, READ, read=self._read_feature),
                    self.characteristic(0x2AA9, READ, read=self._read_status),
                    self.characteristic(
                        0x2AAA, READ | WRITE, read=self._read_start, write=self._on_start_time
                    ),
                    self.characteristic(0x2AAB, READ, read=lambda: with_crc(u16(RUN_TIME_H))),
                    self._racp_point,
                    self._ops_point,
                ],
            )
        ]

    # -- time -------------------------------------------------------------------------------------------

    def _offset_min(self, time_us: int) -> int:
        """Minutes since the session's start by this device's counter, which a clock fault moves."""
        return int((time_us + self.clock_offset_us - self.session["start_us"]) // US_PER_MIN)

    def _running(self, time_us: int) -> bool:
        """False once the session is stopped, by the collector or by its age."""
        session = self.session
        if not session["stopped"] and self._offset_min(time_us) > RUN_TIME_H * 60:
            session["stopped"] = True
            self.flash.save()
        return not session["stopped"]

    # -- events -----------------------------------------------------------------------------------------

    def play(self, index: int, event: Event) -> None:
        if not self._running(event.time_us) or event.time_us < self.session["start_us"]:
            self.counters["outside_session"] += 1
            return
        offset_min = self._offset_min(event.time_us)
        last = self.flash.records[-1].key if self.flash.records else -1
        if self.clock_offset_us and offset_min <= last:
            offset_min = last + 1  # a counter set back goes on upwards; records never change places
        if offset_min <= last:
            self.counters["same_minute"] += 1
            return
        status = BATTERY_LOW if self.battery_pct < LOW_BATTERY_PCT else 0
        record = Record(index, offset_min, event.time_us, (measurement(event.value, offset_min, status),))
        self.flash.append([record])
        if self.session["interval_min"] and self.subscribed(self._measurement):
            self.send_soon(self._measurement, self._sealed(record), is_record=True)

    def _sealed(self, record: Record) -> bytes:
        """The record with its CRC, or with the fault that was ordered."""
        value = record.parts[0]
        if self.zero_left > 0:
            self.zero_left -= 1
            self.counters["zero_size"] += 1
            return with_crc(b"\0" + value[1:])
        sealed = bytearray(with_crc(value))
        if self.corrupt_left > 0:
            self.corrupt_left -= 1
            self.counters["bad_crc"] += 1
            sealed[-1] ^= 0x5A
        elif self.tamper_left > 0:
            self.tamper_left -= 1
            self.counters["tampered"] += 1
            sealed[2] ^= 0x10
        return bytes(sealed)

    def can_send_live(self) -> Awaitable[Any] | None:
        return None if self._access.idle.is_set() else self._access.idle.wait()

    def on_link_lost(self) -> None:
        self._access.reset()
        self._ops_busy = False

    # -- characteristics --------------------------------------------------------------------------------

    def _read_feature(self) -> bytes:
        return with_crc(u24(FEATURES) + u8(TYPE_AND_LOCATION))

    def _read_status(self) -> bytes:
        session, now_us = self.session, self.clock.now_us()
        running = self._running(now_us)
        status = 0 if running else SESSION_STOPPED
        if self.battery_pct < LOW_BATTERY_PCT:
            status |= BATTERY_LOW
        if session["told_us"] is None:
            status |= TIME_SYNC_REQUIRED
        offset_min = self._offset_min(now_us) if session["start_us"] is not None else 0
        return with_crc(u16(min(max(offset_min, 0), 0xFFFF)) + u24(status))

    def _read_start(self) -> bytes:
        session = self.session
        if session["told_us"] is None:
            return with_crc(bytes(9))  # all zero: not known (GATT Specification Supplement, Date Time)
        zone, dst = session["zone"]
        wall = utc_time(session["told_us"]) + dt.timedelta(minutes=15 * (zone + dst))
        return with_crc(date_time(wall) + s8(zone) + u8(dst))

    def _on_start_time(self, data: bytes) -> None:
        """The collector writes its present time; the start follows from our own count (CGMS 3.4)."""
        self._check_crc(data, 9)
        if self.session["start_us"] is None:
            raise att.ATT_Error(ATT_OUT_OF_RANGE)
        zone, dst = int.from_bytes(data[7:8], "little", signed=True), data[8]
        if not -48 <= zone <= 56 or dst not in (0, 2, 4, 8):
            raise att.ATT_Error(ATT_OUT_OF_RANGE)
        try:
            wall = parse_date_time(data[:7]).replace(tzinfo=dt.UTC)
            now_us = utc_us(wall - dt.timedelta(minutes=15 * (zone + dst)))
        except (ValueError, OverflowError):
            raise att.ATT_Error(ATT_OUT_OF_RANGE) from None
        elapsed_us = self.clock.now_us() + self.clock_offset_us - self.session["start_us"]
        told_us = now_us - elapsed_us
        self.session.update(told_us=told_us - told_us % 1_000_000, zone=[zone, dst])
        self.flash.save()

    def _check_crc(self, data: bytes, length: int) -> None:
        if len(data) == length:
            raise att.ATT_Error(ATT_MISSING_CRC)
        if len(data) != length + 2:
            raise att.ATT_Error(0x0D)
        if not crc_holds(data):
            raise att.ATT_Error(ATT_INVALID_CRC)

    def _on_racp(self, data: bytes) -> None:
        self._access.on_write(data)

    def _on_ops(self, data: bytes) -> None:
        if not self.subscribed(self._ops_point):
            raise att.ATT_Error(ATT_CCCD_IMPROPER)
        if self._ops_busy:
            raise att.ATT_Error(ATT_IN_PROGRESS)
        if len(data) < 3:
            raise att.ATT_Error(ATT_MISSING_CRC)
        if not crc_holds(data):
            raise att.ATT_Error(ATT_INVALID_CRC)
        self._ops_busy = True
        self.spawn(self._answer_ops(data[0], data[1:-2]))

    async def _answer_ops(self, op_code: int, operand: bytes) -> None:
        answer = self._operate(op_code, operand)
        if isinstance(answer, int):
            answer = bytes([OP_RESPONSE, op_code, answer])
        self._ops_busy = False  # as with record access: over when the answer leaves
        await self.send(self._ops_point, with_crc(answer))

    def _operate(self, op_code: int, operand: bytes) -> int | bytes:
        """A response code, or the whole answer."""
        session = self.session
        if op_code == OP_SET_INTERVAL:
            if len(operand) != 1:
                return INVALID_OPERAND
            session["interval_min"] = operand[0]
        elif operand and op_code in (OP_GET_INTERVAL, OP_RESET_ALERT, OP_START, OP_STOP):
            return INVALID_OPERAND
        elif op_code == OP_GET_INTERVAL:
            return bytes([OP_INTERVAL, session["interval_min"]])
        elif op_code == OP_START:
            if not session["stopped"]:
                return NOT_COMPLETED  # one session at a time
            now_us = self.clock.now_us()
            session.update(start_us=now_us - now_us % US_PER_MIN, told_us=None, zone=[0, 0], stopped=False)
            self.flash.erase_records()  # a device with one session forgets the one before
        elif op_code == OP_STOP:
            session["stopped"] = True
        elif op_code != OP_RESET_ALERT:
            return UNKNOWN_OP
        self.flash.save()
        return OK

    # -- faults -----------------------------------------------------------------------------------------

    def fault(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        n = request.get("n", 1)
        if what not in ("bad_crc_next", "tamper_next", "zero_size_next"):
            return super().fault(what, request)
        if not isinstance(n, int) or not 1 <= n <= 1000:
            raise SimError("n must be a number from 1 to 1000", where="control")
        if what == "bad_crc_next":
            self.corrupt_left = n
        elif what == "tamper_next":
            self.tamper_left = n
        else:
            self.zero_left = n
        return {}

    def status(self) -> dict[str, Any]:
        return super().status() | {"session_stopped": self.session["stopped"]}
