"""Virtual insulin pump: Insulin Delivery Service 0x183A (IDS 1.0.1), read-only for the hub.

The pump follows its recording; commands are refused. Its history: reference times, bolus programmed and
delivered (two parts each), basal rate changes. The pump's clock runs in UTC (time zone and saving zero).
E2E protection is not offered: public implementations disagree whether history data carry the counter.
"""

from __future__ import annotations

import bisect
from collections.abc import Awaitable
from typing import Any, ClassVar, Final

from bumble import att
from bumble.core import UUID
from bumble.gatt import Service

from firmware_sim.clock import US_PER_H, US_PER_S, SimClock
from firmware_sim.flash import Flash, Record
from firmware_sim.octets import current_time, date_time, parse_date_time, sfloat, u8, u16, u24, u32, utc_time
from firmware_sim.peripheral import Peripheral
from firmware_sim.racp import INSULIN, Filter, RecordAccess
from firmware_sim.recording import Event
from firmware_sim.table import INDICATE, NOTIFY, READ, WRITE

# History event types (IDS 1.0.1 table 4.35)
REFERENCE_TIME: Final = 0x000F
BOLUS_PROGRAMMED_1, BOLUS_PROGRAMMED_2 = 0x005A, 0x0066
BOLUS_DELIVERED_1, BOLUS_DELIVERED_2 = 0x0069, 0x0096
BASAL_RATE_CHANGED: Final = 0x0099
THERAPY_STATE_CHANGED: Final = 0x0303
# Fields
SET_DATE_TIME, PERIODIC_RECORDING = 0x33, 0x3C
FAST_BOLUS: Final = 0x33
MANUAL_BOLUS: Final = 0x33
PROGRAMMED_AMOUNT_DELIVERED: Final = 0x33
DEVICE_BASED: Final = 0x33
STATE_STOP, STATE_RUN = 0x33, 0x55
OPERATIONAL_READY: Final = 0x96
# IDD Status Changed bits
BASAL_CHANGED, BOLUS_CHANGED, HISTORY_RECORDED = 1 << 5, 1 << 6, 1 << 7
# IDD Features: basal rate, fast bolus, activation type, multiple bonds
FEATURES: Final = 1 << 1 | 1 << 5 | 1 << 10 | 1 << 11
INSULIN_U_PER_ML: Final = 100.0
RESERVOIR_U: Final = 300.0
# The relative offset is 16-bit seconds (18.2 h), so a reference at least that often; six hours leaves room.
REFERENCE_EVERY_US: Final = 6 * US_PER_H
# Status reader and command control points
SRCP_RESPONSE, SRCP_RESET_STATUS, CCP_RESPONSE = 0x0303, 0x030C, 0x0F55
CP_SUCCESS, CP_UNKNOWN_OP, CP_INVALID_OPERAND = 0x0F, 0x70, 0x71

# Kinds that only the pump's own script has
TICK, POWER_ON = "pump_reference", "pump_power_on"


def history(event_type: int, seq: int, offset_s: int, data: bytes) -> bytes:
    """IDD History Data (0x2B28)."""
    return u16(event_type) + u32(seq) + u16(offset_s) + data


def bolus_part_1(bolus_id: int, amount_u: float) -> bytes:
    """Event data shared by Bolus Programmed and Bolus Delivered part 1: fast amount only, no duration."""
    return u16(bolus_id) + u8(FAST_BOLUS) + sfloat(amount_u) + sfloat(0.0) + u16(0)


class Pump(Peripheral):
    """See the module."""

    name: ClassVar[str] = "pump"
    address: ClassVar[str] = "C0:00:00:00:00:03"
    passkey: ClassVar[int | None] = 654321
    title: ClassVar[str] = "Twin Pump"
    model: ClassVar[str] = "Virtual Insulin Pump"
    main_service: ClassVar[int] = 0x183A

    def __init__(self, flash: Flash, clock: SimClock) -> None:
        super().__init__(flash, clock)
        self._changed_flags = 0
        self._changed = self.characteristic(0x2B20, READ | INDICATE, read=lambda: u16(self._changed_flags))
        self._status = self.characteristic(0x2B21, READ | INDICATE, read=self._read_status)
        self._reader_point = self.characteristic(0x2B24, WRITE | INDICATE, write=self._on_reader)
        self._command_point = self.characteristic(0x2B25, WRITE | INDICATE, write=self._on_command)
        self._racp_point = self.characteristic(0x2B27, WRITE | INDICATE, write=self._on_racp)
        self._history = self.characteristic(0x2B28, NOTIFY)
        self._change_ready = False
        number = self._event_number
        self._access = RecordAccess(
            dialect=INSULIN,
            filters={
                0x0F: Filter(4, number, lambda r: r.key),
                0x33: Filter(4, number, lambda r: r.key if _is_reference(r) else None),
                0x3C: Filter(4, number, lambda r: None if _is_reference(r) else r.key),
            },
            records=lambda: self.flash.records,
            send=lambda record: self.send(self._history, record.parts[0], is_record=True),
            respond=lambda octets: self.send(self._racp_point, octets),
            subscribed=lambda: self.subscribed(self._racp_point) and self.subscribed(self._history),
            spawn=self.spawn,
        )

    @staticmethod
    def _event_number(octets: bytes) -> int:
        return int.from_bytes(octets, "little")

    def services(self) -> list[Service]:
        return [
            Service(
                UUID.from_16_bits(self.main_service),
                [
                    self._changed,
                    self._status,
                    # no annunciation is active
                    self.characteristic(0x2B22, READ | INDICATE, read=lambda: b"\0"),
                    # CRC and counter have fixed values where E2E protection is not supported
                    self.characteristic(
                        0x2B23,
                        READ,
                        read=lambda: u16(0xFFFF) + u8(0) + sfloat(INSULIN_U_PER_ML) + u24(FEATURES),
                    ),
                    self._reader_point,
                    self._command_point,
                    self._racp_point,
                    self._history,
                ],
            ),
            Service(
                UUID.from_16_bits(0x1805),
                [
                    self.characteristic(
                        0x2A2B,
                        READ | WRITE,
                        read=lambda: current_time(utc_time(self._own_us(self.clock.now_us()))),
                        write=self._on_set_time,
                    ),
                    self.characteristic(0x2A0F, READ, read=lambda: b"\0\0"),  # UTC, no saving
                ],
            ),
        ]

    # -- time -------------------------------------------------------------------------------------------

    def _own_us(self, time_us: int) -> int:
        return time_us + self.clock_offset_us

    def script(self, events: list[Event], start_us: int, end_us: int) -> list[Event]:
        """The recording's events with power-on and periodic reference times among them."""
        own = [Event(start_us, POWER_ON, 0.0)]
        own += [Event(t, TICK, 0.0) for t in range(start_us + REFERENCE_EVERY_US, end_us, REFERENCE_EVERY_US)]
        merged = list(own)
        for event in events:
            bisect.insort_right(merged, event, key=lambda e: e.time_us)
        return merged

    def _reference(self, reason: int, time_us: int) -> tuple[int, bytes]:
        self.flash.state["reference_us"] = self._own_us(time_us)
        return REFERENCE_TIME, u8(reason) + date_time(utc_time(self._own_us(time_us))) + b"\0\0"

    def _on_set_time(self, data: bytes) -> None:
        if len(data) != 10:
            raise att.ATT_Error(0x0D)
        try:
            told = parse_date_time(data[:7])
            offset_s = (told - utc_time(self.clock.now_us()).replace(tzinfo=None)).total_seconds()
        except (ValueError, OverflowError):
            raise att.ATT_Error(0xFF) from None
        self.set_clock_offset(round(offset_s))

    def set_clock_offset(self, offset_s: int) -> None:
        super().set_clock_offset(offset_s)
        now_us = self.clock.now_us()
        self._record(self.flash.next_event - 1, now_us, [self._reference(SET_DATE_TIME, now_us)])
        self._tell(0)

    # -- events -----------------------------------------------------------------------------------------

    def play(self, index: int, event: Event) -> None:
        if event.kind == POWER_ON:
            entries = [
                self._reference(SET_DATE_TIME, event.time_us),
                (THERAPY_STATE_CHANGED, bytes([STATE_STOP, STATE_RUN])),
            ]
            changed = 0
        elif event.kind == TICK:
            entries, changed = [self._reference(PERIODIC_RECORDING, event.time_us)], 0
        elif event.kind == "bolus_u":
            entries, changed = self._bolus(event.value), BOLUS_CHANGED
        else:
            entries, changed = [self._basal(event.value)], BASAL_CHANGED
        self._record(index, event.time_us, entries)
        self._tell(changed)

    def _bolus(self, amount_u: float) -> list[tuple[int, bytes]]:
        bolus_id = self.flash.state["bolus_id"] = self.flash.state.get("bolus_id", 0) % 0xFFFF + 1
        part_1 = bolus_part_1(bolus_id, amount_u)
        return [
            (BOLUS_PROGRAMMED_1, part_1),
            (BOLUS_PROGRAMMED_2, u8(1 << 2) + u8(MANUAL_BOLUS)),  # activation type present
            (BOLUS_DELIVERED_1, part_1),
            # activation type and end reason present; it started when it was programmed
            (BOLUS_DELIVERED_2, u8(0b11) + u32(0) + u8(MANUAL_BOLUS) + u8(PROGRAMMED_AMOUNT_DELIVERED)),
        ]

    def _basal(self, rate_uph: float) -> tuple[int, bytes]:
        old = self.flash.state.get("basal_uph", 0.0)
        self.flash.state["basal_uph"] = rate_uph
        return BASAL_RATE_CHANGED, u8(1) + sfloat(old) + sfloat(rate_uph) + u8(DEVICE_BASED)

    def _record(self, index: int, time_us: int, entries: list[tuple[int, bytes]]) -> None:
        """Store the entries of one event under consecutive sequence numbers."""
        offset_s = max(0, self._own_us(time_us) - self._reference_us(time_us)) // US_PER_S
        seq = self.flash.records[-1].key if self.flash.records else 0
        records = [
            Record(index, seq + i, time_us, (history(kind, seq + i, min(offset_s, 0xFFFF), data),))
            for i, (kind, data) in enumerate(entries, start=1)
        ]
        self.flash.save()  # reference, bolus id and rate first: a kill in between only repeats an event
        self.flash.append(records)

    def _reference_us(self, time_us: int) -> int:
        return int(self.flash.state.get("reference_us", self._own_us(time_us)))

    def _tell(self, changed: int) -> None:
        """Indicate what changed; while one indication waits for its confirmation, further ones join it."""
        self._changed_flags |= changed | HISTORY_RECORDED
        if self.subscribed(self._changed) and not self._change_ready:
            self._change_ready = True
            self.spawn(self._indicate_change())

    async def _indicate_change(self) -> None:
        self._change_ready = False
        await self.send(self._changed, u16(self._changed_flags))

    def can_send_live(self) -> Awaitable[Any] | None:
        return None if self._access.idle.is_set() else self._access.idle.wait()

    def on_link_lost(self) -> None:
        self._access.reset()
        self._change_ready = False

    # -- control points ---------------------------------------------------------------------------------

    def _read_status(self) -> bytes:
        return bytes([STATE_RUN, OPERATIONAL_READY]) + sfloat(RESERVOIR_U) + u8(1)  # reservoir attached

    def _on_racp(self, data: bytes) -> None:
        self._access.on_write(data)

    def _on_reader(self, data: bytes) -> None:
        if not self.subscribed(self._reader_point):
            raise att.ATT_Error(0xFD)
        if len(data) < 2:
            raise att.ATT_Error(0x0D)
        op_code, code = int.from_bytes(data[:2], "little"), CP_UNKNOWN_OP
        if op_code == SRCP_RESET_STATUS:
            code = CP_INVALID_OPERAND
            if len(data) == 4:
                self._changed_flags &= ~int.from_bytes(data[2:], "little")
                code = CP_SUCCESS
        self.spawn(self.send(self._reader_point, u16(SRCP_RESPONSE) + u16(op_code) + u8(code)))

    def _on_command(self, data: bytes) -> None:
        """This pump takes no commands from anybody."""
        if not self.subscribed(self._command_point):
            raise att.ATT_Error(0xFD)
        if len(data) < 2:
            raise att.ATT_Error(0x0D)
        self.counters["commands_refused"] += 1
        self.spawn(self.send(self._command_point, u16(CCP_RESPONSE) + data[:2] + u8(CP_UNKNOWN_OP)))


def _is_reference(record: Record) -> bool:
    return record.parts[0][:2] == u16(REFERENCE_TIME)
