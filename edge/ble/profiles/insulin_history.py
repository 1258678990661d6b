"""IDD History Data 0x2B28 (IDS 1.0.2 section 4.9): one event of the pump's history.

Events that tell how much insulin was given and when are decoded into fields. The other standard events are
kept as octets, after their length has been checked against their table. Manufacturer events
(0xF000-0xFFF0) have unknown lengths and are kept as they are. An event type that is no Hamming code word is
prohibited and refused. Reserved bits of flags are kept and ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

import msgspec

from edge.ble.profiles.ieee11073 import SFloat
from edge.ble.profiles.insulin import OCTET_CODES, WORD_CODES
from edge.ble.profiles.moments import DateTime, ZonedTime
from edge.ble.profiles.wire import Reader, le, with_crc, without_crc

_WHERE: Final = "IDD History Data"
MAX_EVENT_BYTES: Final = 10  # IDS table 4.94; the whole record has 8 to 20 octets
CORRUPTION_SEQUENCE: Final = 0xFFFF_FFFF  # of a Data Corruption event, not a place in the history


class EventType(IntEnum):
    REFERENCE_TIME = 0x000F
    REFERENCE_TIME_BASE_OFFSET = 0x0033
    BOLUS_CALCULATED_1 = 0x003C
    BOLUS_CALCULATED_2 = 0x0055
    BOLUS_PROGRAMMED_1 = 0x005A
    BOLUS_PROGRAMMED_2 = 0x0066
    BOLUS_DELIVERED_1 = 0x0069
    BOLUS_DELIVERED_2 = 0x0096
    BASAL_RATE_CHANGED = 0x0099
    TBR_STARTED = 0x00A5
    TBR_ENDED = 0x00AA
    TBR_CHANGED = 0x00C3
    PROFILE_ACTIVATED = 0x00CC
    BASAL_PROFILE_BLOCK = 0x00F0
    TOTAL_DAILY_INSULIN = 0x00FF
    THERAPY_CONTROL = 0x0303
    OPERATIONAL_STATE = 0x030C
    RESERVOIR = 0x0330
    ANNUNCIATION_1 = 0x033F
    ANNUNCIATION_2 = 0x0356
    ISF_PROFILE_BLOCK = 0x0359
    CARB_RATIO_PROFILE_BLOCK = 0x0365
    TARGET_PROFILE_BLOCK = 0x036A
    PRIMING_STARTED = 0x0395
    PRIMING_DONE = 0x039A
    DATA_CORRUPTION = 0x03A6
    POINTER = 0x03A9
    BOLUS_TEMPLATE_1 = 0x03C0
    BOLUS_TEMPLATE_2 = 0x03CF
    TBR_TEMPLATE = 0x03F3
    MAX_BOLUS = 0x03FC


# Fixed octets, then the octets that bits 0, 1, 2 of the first octet (flags) add.
_SIZES: Final[dict[int, tuple[int, tuple[int, ...]]]] = {
    EventType.BOLUS_CALCULATED_1: (8, ()),
    EventType.BOLUS_CALCULATED_2: (8, ()),
    EventType.BOLUS_PROGRAMMED_2: (1, (2, 1, 1)),
    EventType.TBR_STARTED: (6, (1,)),
    EventType.TBR_ENDED: (5, (1, 2)),
    EventType.TBR_CHANGED: (8, (1,)),
    EventType.PROFILE_ACTIVATED: (3, ()),
    EventType.BASAL_PROFILE_BLOCK: (6, ()),
    EventType.TOTAL_DAILY_INSULIN: (9, ()),
    EventType.THERAPY_CONTROL: (2, ()),
    EventType.OPERATIONAL_STATE: (2, ()),
    EventType.RESERVOIR: (2, ()),
    EventType.ANNUNCIATION_1: (6, (2, 2)),
    EventType.ANNUNCIATION_2: (1, (2, 2, 2)),
    EventType.ISF_PROFILE_BLOCK: (6, ()),
    EventType.CARB_RATIO_PROFILE_BLOCK: (6, ()),
    EventType.TARGET_PROFILE_BLOCK: (8, ()),
    EventType.PRIMING_STARTED: (2, ()),
    EventType.PRIMING_DONE: (4, (2,)),
    EventType.DATA_CORRUPTION: (0, ()),
    EventType.POINTER: (0, ()),
    EventType.BOLUS_TEMPLATE_1: (8, ()),
    EventType.BOLUS_TEMPLATE_2: (1, (2,)),
    EventType.TBR_TEMPLATE: (6, ()),
    EventType.MAX_BOLUS: (4, ()),
}


class RecordingReason(IntEnum):
    UNDETERMINED = 0x0F
    SET_DATE_TIME = 0x33
    PERIODIC = 0x3C
    DATE_TIME_LOSS = 0x55


class BolusType(IntEnum):
    UNDETERMINED = 0x0F
    FAST = 0x33
    EXTENDED = 0x3C
    MULTIWAVE = 0x55


class ReferenceTime(msgspec.Struct, frozen=True):
    """The absolute time that later relative offsets count from."""

    reason: int
    at: ZonedTime

    @classmethod
    def read(cls, reader: Reader) -> ReferenceTime:
        reason = reader.one_of(1, OCTET_CODES, "recording reason", "prohibited")
        return cls(reason, ZonedTime.read(reader, "reference time"))

    def __bytes__(self) -> bytes:
        return bytes((self.reason,)) + bytes(self.at)


class ReferenceTimeBaseOffset(msgspec.Struct, frozen=True):
    """The same for a pump that keeps a base time; the user-facing time is ``base`` + ``offset_min``."""

    reason: int
    base: DateTime
    offset_min: int

    @classmethod
    def read(cls, reader: Reader) -> ReferenceTimeBaseOffset:
        reason = reader.one_of(1, OCTET_CODES, "recording reason", "prohibited")
        return cls(reason, DateTime.read(reader, "base time"), reader.sint(2, "time offset"))

    def __bytes__(self) -> bytes:
        offset = self.offset_min.to_bytes(2, "little", signed=True)
        return bytes((self.reason,)) + bytes(self.base) + offset


class BolusPart1(msgspec.Struct, frozen=True):
    """First part of a programmed or delivered bolus: amounts in U, duration of the extended part."""

    bolus_id: int
    bolus_type: int
    fast_u: SFloat
    extended_u: SFloat
    duration_min: int

    @classmethod
    def read(cls, reader: Reader) -> BolusPart1:
        return cls(
            reader.u16("bolus identifier"),
            reader.one_of(1, OCTET_CODES, "bolus type", "prohibited"),
            SFloat.read(reader, "fast amount"),
            SFloat.read(reader, "extended amount"),
            reader.u16("duration"),
        )

    def __bytes__(self) -> bytes:
        head = le(self.bolus_id, 2) + bytes((self.bolus_type,))
        return head + bytes(self.fast_u) + bytes(self.extended_u) + le(self.duration_min, 2)


class BolusDelivered2(msgspec.Struct, frozen=True):
    """Second part: start in seconds after the bolus was programmed, and how and why it ended."""

    start_offset_s: int
    activation: int | None = None
    end_reason: int | None = None
    annunciation: int | None = None
    reserved_flags: int = 0

    @classmethod
    def read(cls, reader: Reader) -> BolusDelivered2:
        flags = reader.u8("flags")
        return cls(
            reader.uint(4, "start time offset"),
            reader.u8("activation type") if flags & 1 else None,
            reader.u8("end reason") if flags & 2 else None,
            reader.u16("annunciation") if flags & 4 else None,
            flags & ~7,
        )

    def __bytes__(self) -> bytes:
        flags, body = self.reserved_flags, le(self.start_offset_s, 4)
        for bit, value, octets in (
            (1, self.activation, 1),
            (2, self.end_reason, 1),
            (4, self.annunciation, 2),
        ):
            if value is not None:
                flags |= bit
                body += le(value, octets)
        return bytes((flags,)) + body


class BasalRateChanged(msgspec.Struct, frozen=True):
    """The delivered basal rate in U/h before and after, whatever changed it."""

    old_uph: SFloat
    new_uph: SFloat
    context: int | None = None
    reserved_flags: int = 0

    @classmethod
    def read(cls, reader: Reader) -> BasalRateChanged:
        flags = reader.u8("flags")
        return cls(
            SFloat.read(reader, "old basal rate"),
            SFloat.read(reader, "new basal rate"),
            reader.u8("basal delivery context") if flags & 1 else None,
            flags & ~1,
        )

    def __bytes__(self) -> bytes:
        flags = self.reserved_flags | (self.context is not None)
        context = b"" if self.context is None else bytes((self.context,))
        return bytes((flags,)) + bytes(self.old_uph) + bytes(self.new_uph) + context


class OtherEvent(msgspec.Struct, frozen=True):
    """An event the hub does not use, as octets."""

    octets: bytes

    def __bytes__(self) -> bytes:
        return self.octets


Event = ReferenceTime | ReferenceTimeBaseOffset | BolusPart1 | BolusDelivered2 | BasalRateChanged | OtherEvent

_DECODED: Final[dict[int, Callable[[Reader], Event]]] = {
    EventType.REFERENCE_TIME: ReferenceTime.read,
    EventType.REFERENCE_TIME_BASE_OFFSET: ReferenceTimeBaseOffset.read,
    EventType.BOLUS_PROGRAMMED_1: BolusPart1.read,
    EventType.BOLUS_DELIVERED_1: BolusPart1.read,
    EventType.BOLUS_DELIVERED_2: BolusDelivered2.read,
    EventType.BASAL_RATE_CHANGED: BasalRateChanged.read,
}


def _read_other(event_type: int, reader: Reader) -> OtherEvent:
    if event_type not in _SIZES:  # reserved or manufacturer: no table to check against
        if reader.left > MAX_EVENT_BYTES:
            raise reader.refuse("too_long", "event data")
        return OtherEvent(reader.rest())
    fixed, optional = _SIZES[event_type]
    octets = reader.take(fixed, "event data")
    for bit, size in enumerate(optional):
        if octets[0] >> bit & 1:
            octets += reader.take(size, "optional event data")
    return OtherEvent(octets)


class HistoryRecord(msgspec.Struct, frozen=True):
    """One event: type, sequence number, seconds since the last reference time, and its data."""

    event_type: int
    sequence: int
    offset_s: int
    event: Event
    e2e: bool = False

    @classmethod
    def from_bytes(cls, data: bytes, e2e: bool = False) -> HistoryRecord:
        reader = Reader(without_crc(data, _WHERE) if e2e else data, _WHERE)
        event_type = reader.u16("event type")
        if event_type not in WORD_CODES and not is_manufacturer(event_type):
            raise reader.refuse("prohibited", "event type")
        sequence = reader.uint(4, "sequence number")
        offset_s = reader.u16("relative offset")
        read = _DECODED.get(event_type)
        event = read(reader) if read else _read_other(event_type, reader)
        reader.end()
        return cls(event_type, sequence, offset_s, event, e2e)

    def __bytes__(self) -> bytes:
        head = le(self.event_type, 2) + le(self.sequence, 4) + le(self.offset_s, 2)
        record = head + bytes(self.event)
        return with_crc(record) if self.e2e else record

    @property
    def name(self) -> str:
        """The event type in words, for counters."""
        if self.event_type in _EVENT_TYPES:
            return EventType(self.event_type).name.lower()
        return "manufacturer" if is_manufacturer(self.event_type) else "reserved"


_EVENT_TYPES: Final = frozenset(int(kind) for kind in EventType)


def is_manufacturer(event_type: int) -> bool:
    """Whether a manufacturer defined the event. Code words only by the book; real pumps take any number."""
    return 0xF000 <= event_type <= 0xFFF0
