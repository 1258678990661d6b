"""Virtual logbook meter: Glucose Service 0x1808 (GLS 1.0.1) with Glucose Measurement Context.

Fingersticks are measurements; meals and pen doses are context of a record that may have no concentration.
The meter's clock shows the person's local time, without a zone, as real meters do.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable
from typing import Any, ClassVar, Final
from zoneinfo import ZoneInfo

from bumble import att
from bumble.core import UUID
from bumble.gatt import Service

from firmware_sim.clock import SimClock
from firmware_sim.errors import SimError
from firmware_sim.flash import Flash, Record
from firmware_sim.octets import (
    current_time,
    date_time,
    dst_offset,
    parse_date_time,
    sfloat,
    time_zone,
    u8,
    u16,
    utc_time,
    utc_us,
)
from firmware_sim.peripheral import Peripheral
from firmware_sim.racp import PLAIN, Filter, RecordAccess
from firmware_sim.recording import Event
from firmware_sim.table import INDICATE, NOTIFY, READ, WRITE

FLAG_CONCENTRATION: Final = 1 << 1  # with type and location; bit 2 clear: kg/L
FLAG_CONTEXT_FOLLOWS: Final = 1 << 4
CAPILLARY_WHOLE_BLOOD_FINGER: Final = 1 | 1 << 4
CONTEXT_CARBS: Final = 1 << 0
CONTEXT_MEDICATION: Final = 1 << 4
CONTEXT_LITRES: Final = 1 << 5
RAPID_ACTING, LONG_ACTING = 1, 4
FEATURES: Final = 1 << 0 | 1 << 10  # low battery detection, multiple bonds
KG_PER_L_PER_MGDL: Final = 1e-5
L_PER_U: Final = 1e-5  # U-100: one unit is a hundredth of a millilitre
MEDICATION: Final = {"bolus_u": RAPID_ACTING, "long_acting_u": LONG_ACTING}


def measurement(seq: int, base: dt.datetime, glucose_mgdl: float | None, context: bool) -> bytes:
    """Glucose Measurement (0x2A18) at the wall-clock time ``base``."""
    flags = FLAG_CONTEXT_FOLLOWS if context else 0
    tail = b""
    if glucose_mgdl is not None:
        flags |= FLAG_CONCENTRATION
        tail = sfloat(glucose_mgdl * KG_PER_L_PER_MGDL) + u8(CAPILLARY_WHOLE_BLOOD_FINGER)
    return u8(flags) + u16(seq) + date_time(base) + tail


def meal_name(base: dt.datetime) -> int:
    """Carbohydrate ID by the hour: 1 breakfast, 2 lunch, 3 dinner, 4 snack."""
    for low, high, name in ((5, 10, 1), (11, 14, 2), (17, 21, 3)):
        if low <= base.hour < high:
            return name
    return 4


def context(
    seq: int, base: dt.datetime, carbs_g: float | None, medication: tuple[int, float] | None
) -> bytes:
    """Glucose Measurement Context (0x2A34): carbohydrates in kg, a dose in litres of U-100 insulin."""
    flags, tail = 0, b""
    if carbs_g is not None:
        flags |= CONTEXT_CARBS
        tail += u8(meal_name(base)) + sfloat(carbs_g * 1e-3)
    if medication is not None:
        flags |= CONTEXT_MEDICATION | CONTEXT_LITRES
        tail += u8(medication[0]) + sfloat(medication[1] * L_PER_U)
    return u8(flags) + u16(seq) + tail


class Meter(Peripheral):
    """See the module."""

    name: ClassVar[str] = "meter"
    address: ClassVar[str] = "C0:00:00:00:00:04"
    passkey: ClassVar[int | None] = 111222
    title: ClassVar[str] = "Twin Meter"
    model: ClassVar[str] = "Virtual Logbook Meter"
    main_service: ClassVar[int] = 0x1808

    def __init__(self, flash: Flash, clock: SimClock, zone: ZoneInfo) -> None:
        super().__init__(flash, clock)
        self._zone = zone
        self._script: list[Event] = []
        self._measurement = self.characteristic(0x2A18, NOTIFY)
        self._context = self.characteristic(0x2A34, NOTIFY)
        self._racp_point = self.characteristic(0x2A52, WRITE | INDICATE, write=self._on_racp)
        self._access = RecordAccess(
            dialect=PLAIN,
            filters={
                1: Filter(2, lambda octets: int.from_bytes(octets, "little"), lambda r: r.key),
                2: Filter(7, parse_date_time, lambda r: parse_date_time(r.parts[0][3:10])),
            },
            records=lambda: self.flash.records,
            send=self._send_record,
            respond=lambda octets: self.send(self._racp_point, octets),
            subscribed=lambda: self.subscribed(self._racp_point) and self.subscribed(self._measurement),
            spawn=self.spawn,
        )

    def services(self) -> list[Service]:
        return [
            Service(
                UUID.from_16_bits(self.main_service),
                [
                    self._measurement,
                    self._context,
                    self.characteristic(0x2A51, READ, read=lambda: u16(FEATURES)),
                    self._racp_point,
                ],
            ),
            Service(
                UUID.from_16_bits(0x1805),
                [
                    self.characteristic(
                        0x2A2B,
                        READ | WRITE,
                        read=lambda: current_time(self._wall(self.clock.now_us())),
                        write=self._on_set_time,
                    ),
                    self.characteristic(0x2A0F, READ, read=self._local_time),
                ],
            ),
        ]

    # -- time -------------------------------------------------------------------------------------------

    def _wall(self, time_us: int) -> dt.datetime:
        """What the meter's display shows at a true time."""
        return utc_time(time_us + self.clock_offset_us).astimezone(self._zone)

    def _local_time(self) -> bytes:
        wall = self._wall(self.clock.now_us())
        return time_zone(wall) + dst_offset(wall)

    def _on_set_time(self, data: bytes) -> None:
        if len(data) != 10:
            raise att.ATT_Error(0x0D)
        try:
            wall = parse_date_time(data[:7]).replace(tzinfo=self._zone)
            self.set_clock_offset(round((utc_us(wall) - self.clock.now_us()) / 1e6))
        except (ValueError, OverflowError):
            raise att.ATT_Error(0xFF) from None

    # -- events -----------------------------------------------------------------------------------------

    def script(self, events: list[Event], start_us: int, end_us: int) -> list[Event]:
        self._script = events
        return events

    def play(self, index: int, event: Event) -> None:
        """One act may be several events of the same time: they make one record where the format allows it.

        The first event of a group writes the record for all of it; the others find themselves written.
        """
        if self.flash.records and index <= self.flash.records[-1].event:
            return
        group = {event.kind: event}
        last = index
        for other in self._script[index + 1 :]:
            # one concentration, one meal and one dose fit into a record
            dose_twice = other.kind in MEDICATION and any(kind in MEDICATION for kind in group)
            if other.time_us != event.time_us or other.kind in group or dose_twice:
                break
            group[other.kind] = other
            last += 1
        base = self._wall(event.time_us)
        seq = self.flash.records[-1].key + 1 if self.flash.records else 1
        if seq > 0xFFFF:
            raise SimError("the meter's 16-bit sequence numbers are used up", where="meter")
        value = {kind: member.value for kind, member in group.items()}
        dose = next(((MEDICATION[kind], v) for kind, v in value.items() if kind in MEDICATION), None)
        has_context = "carbs_g" in value or dose is not None
        parts = [measurement(seq, base, value.get("smbg_mgdl"), has_context)]
        if has_context:
            parts.append(context(seq, base, value.get("carbs_g"), dose))
        self.flash.append([Record(last, seq, event.time_us, tuple(parts))])
        for characteristic, part in zip((self._measurement, self._context), parts, strict=False):
            self.send_soon(characteristic, part, is_record=True)

    async def _send_record(self, record: Record) -> None:
        for characteristic, part in zip((self._measurement, self._context), record.parts, strict=False):
            await self.send(characteristic, part, is_record=True)

    def can_send_live(self) -> Awaitable[Any] | None:
        return None if self._access.idle.is_set() else self._access.idle.wait()

    def on_link_lost(self) -> None:
        self._access.reset()

    def _on_racp(self, data: bytes) -> None:
        self._access.on_write(data)
