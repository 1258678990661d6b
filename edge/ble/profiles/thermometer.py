"""Temperature Measurement 0x2A1C (HTS 1.0, GATT Specification Supplement 3.238).

Reserved flag bits and reserved body sites are kept and ignored.
"""

from __future__ import annotations

from typing import Final

import msgspec

from edge.ble.profiles.ieee11073 import Float32
from edge.ble.profiles.moments import DateTime
from edge.ble.profiles.wire import Reader

_FAHRENHEIT: Final = 0x01
_TIME: Final = 0x02
_SITE: Final = 0x04
_RESERVED: Final = 0xF8


class TemperatureMeasurement(msgspec.Struct, frozen=True):
    """Body temperature in °C, or °F when ``fahrenheit``; ``site`` 1 armpit .. 9 ear drum."""

    value: Float32
    fahrenheit: bool = False
    at: DateTime | None = None
    site: int | None = None
    reserved_flags: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> TemperatureMeasurement:
        reader = Reader(data, "Temperature Measurement")
        flags = reader.u8("flags")
        measurement = cls(
            Float32.read(reader, "temperature"),
            bool(flags & _FAHRENHEIT),
            DateTime.read(reader, "time stamp") if flags & _TIME else None,
            reader.u8("temperature type") if flags & _SITE else None,
            flags & _RESERVED,
        )
        reader.end()
        return measurement

    def __bytes__(self) -> bytes:
        flags = self.reserved_flags | (_FAHRENHEIT if self.fahrenheit else 0)
        body = bytes(self.value)
        if self.at is not None:
            flags |= _TIME
            body += bytes(self.at)
        if self.site is not None:
            flags |= _SITE
            body += bytes((self.site,))
        return bytes((flags,)) + body

    @property
    def temp_c(self) -> float | None:
        """Temperature in °C; None for a special value."""
        number = self.value.number
        return number if number is None or not self.fahrenheit else (number - 32) / 1.8
