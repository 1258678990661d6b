"""Bytes as the Bluetooth specifications define them, written here from their text and from nothing of ours.

Sources: Core Vol 3 (byte order: least significant octet first); IEEE 11073-20601 (SFLOAT);
GATT Specification Supplement (Date Time, Time Zone, DST Offset); CGMS 1.0.2 section 3.11 and IDS 1.0.1
section 3.1 (E2E-CRC).
"""

from __future__ import annotations

import datetime as dt
import math
import struct
from typing import Final

SFLOAT_NAN: Final = 0x07FF
SFLOAT_NRES: Final = 0x0800
SFLOAT_PLUS_INFINITY: Final = 0x07FE
SFLOAT_MINUS_INFINITY: Final = 0x0802
# 0x07FE..0x0802 are the special values, so a finite mantissa keeps clear of them on both sides.
_MANTISSA_MAX: Final = 0x07FD
_EXPONENT_MIN, _EXPONENT_MAX = -8, 7

TIME_ZONE_UNKNOWN: Final = -128
DST_UNKNOWN: Final = 255


def u8(value: int) -> bytes:
    return struct.pack("<B", value)


def u16(value: int) -> bytes:
    return struct.pack("<H", value)


def u24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def s8(value: int) -> bytes:
    return struct.pack("<b", value)


def sfloat(value: float) -> bytes:
    """A 16-bit medical float: 4-bit exponent, 12-bit mantissa, both two's complement, base ten.

    The finest exponent that holds the value is used (three to four significant digits), then trailing zeros
    go, so 120 is 120 x 10^0. NaN and infinities have their reserved codes; a value too large is an infinity.
    """
    if math.isnan(value):
        return u16(SFLOAT_NAN)
    for exponent in range(_EXPONENT_MIN, _EXPONENT_MAX + 1):
        # scaling by an exact integer power keeps 0.97 -> 97 free of binary noise
        scaled = value * 10**-exponent if exponent < 0 else value / 10**exponent
        if math.isinf(scaled):
            break
        mantissa = round(scaled)
        if abs(mantissa) <= _MANTISSA_MAX:
            while mantissa and mantissa % 10 == 0 and exponent < 0:
                mantissa //= 10
                exponent += 1
            if mantissa == 0:
                exponent = 0
            return u16((exponent & 0xF) << 12 | (mantissa & 0xFFF))
    return u16(SFLOAT_PLUS_INFINITY if value > 0 else SFLOAT_MINUS_INFINITY)


def crc16(data: bytes) -> int:
    """E2E-CRC: CRC-CCITT (x^16 + x^12 + x^5 + 1), seed 0xFFFF, least significant bit first, no final xor."""
    crc = 0xFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ 0x8408 if crc & 1 else crc >> 1
    return crc


def with_crc(data: bytes) -> bytes:
    """``data`` and its E2E-CRC behind it."""
    return data + u16(crc16(data))


def crc_holds(data: bytes) -> bool:
    """True when the last two octets are the E2E-CRC of those before."""
    return len(data) > 2 and u16(crc16(data[:-2])) == data[-2:]


def date_time(moment: dt.datetime) -> bytes:
    """Date Time (0x2A08), 7 octets, of the given wall-clock time; its zone is not written."""
    return struct.pack(
        "<HBBBBB", moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second
    )


def parse_date_time(data: bytes) -> dt.datetime:
    """The naive wall-clock time in 7 octets, or ValueError."""
    if len(data) != 7:
        raise ValueError("a Date Time has 7 octets")
    return dt.datetime(*struct.unpack("<HBBBBB", data))  # noqa: DTZ001  the octets carry no zone


def time_zone(moment: dt.datetime) -> bytes:
    """Time Zone (0x2A0E): standard offset from UTC in quarters of an hour, without daylight saving."""
    offset, saving = moment.utcoffset(), moment.dst()
    if offset is None:
        return s8(TIME_ZONE_UNKNOWN)
    return s8(round((offset - (saving or dt.timedelta())).total_seconds() / 900))


def dst_offset(moment: dt.datetime) -> bytes:
    """DST Offset (0x2A0D): daylight saving in quarters of an hour (0, 2, 4 or 8)."""
    if moment.utcoffset() is None:
        return u8(DST_UNKNOWN)
    return u8(round((moment.dst() or dt.timedelta()).total_seconds() / 900))


def utc_us(moment: dt.datetime) -> int:
    """Microseconds UTC of an aware time, exactly (no float on the way)."""
    delta = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def utc_time(time_us: int) -> dt.datetime:
    """The aware UTC time of microseconds UTC."""
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=time_us)


def current_time(moment: dt.datetime) -> bytes:
    """Current Time (0x2A2B), 10 octets: Date Time, day of week (1 Monday), 1/256 s, adjust reason."""
    return date_time(moment) + bytes([moment.isoweekday(), moment.microsecond * 256 // 1_000_000, 0])
