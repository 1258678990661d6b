"""Heart Rate Measurement 0x2A37 and Body Sensor Location 0x2A38 (HRS 1.0, GATT Specification Supplement).

Reserved flag bits are kept and ignored. RR intervals fill the rest of the value: their flag promises at
least one, and an odd octet at the end is refused.
"""

from __future__ import annotations

from typing import Final

import msgspec

from edge.ble.profiles.wire import Reader, le

_WIDE: Final = 0x01
_CONTACT: Final = 0x02
_CONTACT_SUPPORTED: Final = 0x04
_ENERGY: Final = 0x08
_RR: Final = 0x10
_RESERVED: Final = 0xE0
RR_PER_S: Final = 1024  # unit of an RR interval


class HeartRateMeasurement(msgspec.Struct, frozen=True):
    """Beats per minute, energy in kJ since reset, RR intervals in 1/1024 s with the oldest first."""

    rate_bpm: int
    wide: bool = False  # 16-bit rate field
    contact_bits: int = 0
    energy_kj: int | None = None
    rr_1024: tuple[int, ...] = ()
    reserved_flags: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> HeartRateMeasurement:
        reader = Reader(data, "Heart Rate Measurement")
        flags = reader.u8("flags")
        wide = bool(flags & _WIDE)
        rate_bpm = reader.uint(2 if wide else 1, "rate")
        energy_kj = reader.u16("energy") if flags & _ENERGY else None
        intervals: list[int] = []
        if flags & _RR:
            intervals.append(reader.u16("RR interval"))
            while reader.left:
                intervals.append(reader.u16("RR interval"))
        reader.end()
        contact = flags & (_CONTACT | _CONTACT_SUPPORTED)
        return cls(rate_bpm, wide, contact, energy_kj, tuple(intervals), flags & _RESERVED)

    def __bytes__(self) -> bytes:
        flags = self.reserved_flags | self.contact_bits | (_WIDE if self.wide else 0)
        body = le(self.rate_bpm, 2 if self.wide else 1)
        if self.energy_kj is not None:
            flags |= _ENERGY
            body += le(self.energy_kj, 2)
        if self.rr_1024:
            flags |= _RR
            body += b"".join(le(interval, 2) for interval in self.rr_1024)
        return bytes((flags,)) + body

    @property
    def contact(self) -> bool | None:
        """Whether the strap touches skin; None when it cannot tell."""
        if not self.contact_bits & _CONTACT_SUPPORTED:
            return None
        return bool(self.contact_bits & _CONTACT)


class BodySensorLocation(msgspec.Struct, frozen=True):
    """Body Sensor Location: 0 other .. 6 foot. Reserved codes are kept: nothing depends on them."""

    code: int

    @classmethod
    def from_bytes(cls, data: bytes) -> BodySensorLocation:
        reader = Reader(data, "Body Sensor Location")
        location = cls(reader.u8("location"))
        reader.end()
        return location

    def __bytes__(self) -> bytes:
        return bytes((self.code,))
