"""Strict reading of little-endian characteristic values, and the E2E-CRC of the medical services.

Every refusal is a ``DecodeError`` whose text begins with one word of ``REASONS``, so that a session can
count refusals by kind (``reason_of``) without looking into the text. The text names the characteristic
and the field, never a value.

Reserved bits: the Bluetooth convention is "sent as zero, ignored on receipt". Our codecs keep reserved
*flag* bits (re-encoding is identical) and ignore them, but the length must still be exactly what the known
flags promise: a future field makes the value longer, and a longer value is refused, never half read.
Reserved *values* of an enumeration are kept as numbers where nothing depends on them, refused where the
meaning of other fields does.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from core.errors import DecodeError

# An attribute value has at most 512 octets (Core 5.4 Vol 3 Part F 3.2.9). Longer input is not a value, and
# the bound also bounds every loop over input in this package.
MAX_VALUE_BYTES: Final = 512

REASONS: Final = {
    "truncated": "the value ends before the fields its flags promise",
    "too_long": "octets are left after the last field",
    "size": "the size field cannot be true",
    "crc": "the E2E-CRC does not match",
    "reserved": "the field holds a reserved value",
    "prohibited": "the field holds a prohibited value",
    "encoding": "the text is not UTF-8",
    "unexpected": "the value does not belong here",
}


def refuse(reason: str, where: str) -> DecodeError:
    """The error for ``reason`` (a key of ``REASONS``) at characteristic and field ``where``."""
    return DecodeError(f"{reason}: {REASONS[reason]}", where=where, mend="the record is asked for again")


def reason_of(error: DecodeError) -> str:
    """The key of ``REASONS`` an error of this package was made with, ``other`` for a foreign one."""
    reason = error.what.partition(":")[0]
    return reason if reason in REASONS else "other"


def crc16(data: bytes) -> int:
    """CRC-CCITT D16+D12+D5+1, seed 0xFFFF, octets LSB first (CGMS 1.0.2 section 3.11, IDS 1.0.2 3.16).

    Worked example of both specifications: 3E 01 02 03 04 05 06 07 08 09 is sent with CRC octets 01 2F.
    """
    crc = 0xFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = (crc >> 1) ^ 0x8408 if crc & 1 else crc >> 1
    return crc


def with_crc(data: bytes) -> bytes:
    """``data`` followed by its E2E-CRC."""
    return data + crc16(data).to_bytes(2, "little")


def without_crc(data: bytes, where: str) -> bytes:
    """``data`` without its last two octets, which must be its E2E-CRC."""
    if len(data) < 3:
        raise refuse("truncated", where)
    if len(data) > MAX_VALUE_BYTES:
        raise refuse("too_long", where)
    body, crc = data[:-2], int.from_bytes(data[-2:], "little")
    if crc16(body) != crc:
        raise refuse("crc", where)
    return body


class Reader:
    """A cursor over one value. Every method names the field, for the error."""

    __slots__ = ("_at", "_data", "_where")

    def __init__(self, data: bytes, where: str) -> None:
        if len(data) > MAX_VALUE_BYTES:
            raise refuse("too_long", where)
        self._data = bytes(data)
        self._at = 0
        self._where = where

    @property
    def left(self) -> int:
        """Octets not yet read."""
        return len(self._data) - self._at

    def refuse(self, reason: str, field: str) -> DecodeError:
        """The error for ``reason`` at ``field`` of this value."""
        return refuse(reason, f"{self._where}: {field}")

    def take(self, count: int, field: str) -> bytes:
        """The next ``count`` octets."""
        if count > self.left:
            raise self.refuse("truncated", field)
        octets = self._data[self._at : self._at + count]
        self._at += count
        return octets

    def rest(self) -> bytes:
        """All octets not yet read."""
        return self.take(self.left, "rest")

    def uint(self, octets: int, field: str) -> int:
        """An unsigned little-endian integer."""
        return int.from_bytes(self.take(octets, field), "little")

    def sint(self, octets: int, field: str) -> int:
        """A two's complement little-endian integer."""
        return int.from_bytes(self.take(octets, field), "little", signed=True)

    def u8(self, field: str) -> int:
        return self.uint(1, field)

    def u16(self, field: str) -> int:
        return self.uint(2, field)

    def one_of(self, octets: int, allowed: Container[int], field: str, reason: str = "reserved") -> int:
        """An unsigned integer out of ``allowed``; anything else is refused for ``reason``."""
        value = self.uint(octets, field)
        if value not in allowed:
            raise self.refuse(reason, field)
        return value

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise self.refuse("too_long", "end")


def le(value: int, octets: int) -> bytes:
    """``value`` as little-endian octets, two's complement when negative."""
    return value.to_bytes(octets, "little", signed=value < 0)
