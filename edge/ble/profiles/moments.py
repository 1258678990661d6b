"""Date Time, Time Zone, DST Offset, Current Time and Local Time Information (GATT Specification Supplement).

Fields may be "not known" (0 for year, month and day; -128 for the zone; 255 for daylight saving). Such a
moment is kept as it is and has no microseconds: nothing fills in what the device does not know. Values
outside a field's range are reserved and refused.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from core.units import US_PER_MIN, US_PER_S
from edge.ble.profiles.wire import Reader, le

ZONE_UNKNOWN: Final = -128
DST_UNKNOWN: Final = 255
QUARTER_MIN: Final = 15  # unit of zone and daylight saving offsets
DST_VALUES: Final = (0, 2, 4, 8, DST_UNKNOWN)  # standard, half an hour, one hour, two hours, unknown
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  # local wall times are compared without a zone


class DateTime(msgspec.Struct, frozen=True):
    """Date Time 0x2A08: a wall time without a zone. Zero year, month or day: not known."""

    year: int
    month: int
    day: int
    hour: int = 0
    minute: int = 0
    second: int = 0

    @classmethod
    def read(cls, reader: Reader, field: str) -> DateTime:
        year = reader.u16(f"{field} year")
        if year != 0 and not 1582 <= year <= 9999:
            raise reader.refuse("reserved", f"{field} year")
        return cls(
            year,
            reader.one_of(1, range(13), f"{field} month"),
            reader.one_of(1, range(32), f"{field} day"),
            reader.one_of(1, range(24), f"{field} hours"),
            reader.one_of(1, range(60), f"{field} minutes"),
            reader.one_of(1, range(60), f"{field} seconds"),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> DateTime:
        reader = Reader(data, "Date Time")
        moment = cls.read(reader, "date time")
        reader.end()
        return moment

    def __bytes__(self) -> bytes:
        return le(self.year, 2) + bytes((self.month, self.day, self.hour, self.minute, self.second))

    def wall_us(self) -> int | None:
        """Microseconds from 1970-01-01 of the same wall clock; None when unknown or no such day exists."""
        if not (self.year and self.month and self.day):
            return None
        try:
            wall = datetime(self.year, self.month, self.day, self.hour, self.minute, self.second)  # noqa: DTZ001
        except ValueError:  # 31 February
            return None
        return (wall - _EPOCH) // timedelta(microseconds=1)


def utc_us(wall_us: int, zone: ZoneInfo) -> tuple[int, bool]:
    """Microseconds UTC of a wall time in ``zone``, and whether the wall time is ambiguous or skipped there.

    In the hour that happens twice the first one is taken; the caller marks such a time as doubtful.
    """
    wall = _EPOCH + timedelta(microseconds=wall_us)
    first = wall.replace(tzinfo=zone, fold=0).utcoffset() or timedelta()
    second = wall.replace(tzinfo=zone, fold=1).utcoffset() or timedelta()
    return wall_us - first // timedelta(microseconds=1), first != second


class ZonedTime(msgspec.Struct, frozen=True):
    """Date Time with Time Zone and DST Offset, as CGM Session Start Time and IDD Reference Time hold it."""

    at: DateTime
    zone_quarters: int = ZONE_UNKNOWN
    dst_quarters: int = DST_UNKNOWN

    @classmethod
    def read(cls, reader: Reader, field: str) -> ZonedTime:
        at = DateTime.read(reader, field)
        zone_quarters, dst_quarters = read_zone(reader, field)
        return cls(at, zone_quarters, dst_quarters)

    @classmethod
    def local(cls, now_us: int, zone: ZoneInfo) -> ZonedTime:
        """``now_us`` as the wall clock, zone and daylight saving of ``zone`` (whole seconds, rounded down)."""
        here = datetime.fromtimestamp(now_us // US_PER_S, UTC).astimezone(zone)
        at = DateTime(here.year, here.month, here.day, here.hour, here.minute, here.second)
        quarter = timedelta(minutes=QUARTER_MIN)
        total, total_rest = divmod(here.utcoffset() or timedelta(), quarter)
        dst, dst_rest = divmod(here.dst() or timedelta(), quarter)
        if total_rest or not -48 <= total <= 56 + 8:
            return cls(at)
        if dst_rest or dst not in DST_VALUES or not -48 <= total - dst <= 56:
            dst = 0  # "negative" daylight saving (Europe/Dublin): the sum is what counts
        return cls(at, total - dst, dst)

    def __bytes__(self) -> bytes:
        return bytes(self.at) + le(self.zone_quarters, 1) + le(self.dst_quarters, 1)

    def utc_us(self, fallback: ZoneInfo) -> tuple[int, bool] | None:
        """(microseconds UTC, doubtful), None when the date is unknown.

        A zone or daylight saving that the device does not know is taken from ``fallback``, the person's.
        """
        wall_us = self.at.wall_us()
        if wall_us is None:
            return None
        if self.zone_quarters == ZONE_UNKNOWN or self.dst_quarters == DST_UNKNOWN:
            return utc_us(wall_us, fallback)
        offset_min = (self.zone_quarters + self.dst_quarters) * QUARTER_MIN
        return wall_us - offset_min * US_PER_MIN, False


def read_zone(reader: Reader, field: str) -> tuple[int, int]:
    """Time Zone 0x2A0E and DST Offset 0x2A0D, in quarters of an hour."""
    zone_quarters = reader.sint(1, f"{field} zone")
    if zone_quarters != ZONE_UNKNOWN and not -48 <= zone_quarters <= 56:
        raise reader.refuse("reserved", f"{field} zone")
    return zone_quarters, reader.one_of(1, DST_VALUES, f"{field} daylight saving")


class CurrentTime(msgspec.Struct, frozen=True):
    """Current Time 0x2A2B: wall time with 1/256 s, and why it was last adjusted. Reserved reasons are kept."""

    at: DateTime
    weekday: int = 0  # 1 Monday .. 7 Sunday, 0 not known
    fraction_256: int = 0
    adjust_reason: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> CurrentTime:
        reader = Reader(data, "Current Time")
        moment = cls(
            DateTime.read(reader, "time"),
            reader.one_of(1, range(8), "day of week"),
            reader.u8("fractions"),
            reader.u8("adjust reason"),
        )
        reader.end()
        return moment

    def __bytes__(self) -> bytes:
        return bytes(self.at) + bytes((self.weekday, self.fraction_256, self.adjust_reason))


class LocalTimeInformation(msgspec.Struct, frozen=True):
    """Local Time Information 0x2A0F: zone and daylight saving in quarters of an hour."""

    zone_quarters: int
    dst_quarters: int

    @classmethod
    def from_bytes(cls, data: bytes) -> LocalTimeInformation:
        reader = Reader(data, "Local Time Information")
        zone_quarters, dst_quarters = read_zone(reader, "local time")
        reader.end()
        return cls(zone_quarters, dst_quarters)

    def __bytes__(self) -> bytes:
        return le(self.zone_quarters, 1) + le(self.dst_quarters, 1)
