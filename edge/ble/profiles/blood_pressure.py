"""Blood Pressure Measurement 0x2A35 and Feature 0x2A49 (BLS 1.1.1, GATT Specification Supplement 3.33-3.34).

Reserved flag, status and feature bits are kept and ignored.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

import msgspec

from edge.ble.profiles.ieee11073 import SFloat
from edge.ble.profiles.moments import DateTime
from edge.ble.profiles.wire import Reader, le

# 1 mmHg = 133.322387415 Pa by definition (conventional millimetre of mercury).
MMHG_PER_KPA: Final = 1000 / 133.322387415
_KPA: Final = 0x01
_TIME: Final = 0x02
_PULSE: Final = 0x04
_USER: Final = 0x08
_STATUS: Final = 0x10
_RESERVED: Final = 0xE0


class PressureStatus(IntFlag):
    BODY_MOVED = 1 << 0
    CUFF_LOOSE = 1 << 1
    IRREGULAR_PULSE = 1 << 2
    PULSE_TOO_FAST = 1 << 3
    PULSE_TOO_SLOW = 1 << 4
    POSITION_WRONG = 1 << 5


class BloodPressureMeasurement(msgspec.Struct, frozen=True):
    """Systolic, diastolic and mean pressure in mmHg, or kPa when ``in_kpa``."""

    systolic: SFloat
    diastolic: SFloat
    mean: SFloat
    in_kpa: bool = False
    at: DateTime | None = None
    pulse_bpm: SFloat | None = None
    user: int | None = None  # 0xFF unknown
    status: int | None = None
    reserved_flags: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> BloodPressureMeasurement:
        reader = Reader(data, "Blood Pressure Measurement")
        flags = reader.u8("flags")
        measurement = cls(
            SFloat.read(reader, "systolic"),
            SFloat.read(reader, "diastolic"),
            SFloat.read(reader, "mean"),
            bool(flags & _KPA),
            DateTime.read(reader, "time stamp") if flags & _TIME else None,
            SFloat.read(reader, "pulse rate") if flags & _PULSE else None,
            reader.u8("user") if flags & _USER else None,
            reader.u16("status") if flags & _STATUS else None,
            flags & _RESERVED,
        )
        reader.end()
        return measurement

    def __bytes__(self) -> bytes:
        flags = self.reserved_flags | (_KPA if self.in_kpa else 0)
        body = bytes(self.systolic) + bytes(self.diastolic) + bytes(self.mean)
        if self.at is not None:
            flags |= _TIME
            body += bytes(self.at)
        if self.pulse_bpm is not None:
            flags |= _PULSE
            body += bytes(self.pulse_bpm)
        if self.user is not None:
            flags |= _USER
            body += bytes((self.user,))
        if self.status is not None:
            flags |= _STATUS
            body += le(self.status, 2)
        return bytes((flags,)) + body

    def mmhg(self, pressure: SFloat) -> float | None:
        """One of the three pressures in mmHg; None for a special value."""
        number = pressure.number
        return number if number is None or not self.in_kpa else number * MMHG_PER_KPA


class BloodPressureFeature(msgspec.Struct, frozen=True):
    """Blood Pressure Feature: 16 bits."""

    bits: int

    @classmethod
    def from_bytes(cls, data: bytes) -> BloodPressureFeature:
        reader = Reader(data, "Blood Pressure Feature")
        feature = cls(reader.u16("features"))
        reader.end()
        return feature

    def __bytes__(self) -> bytes:
        return le(self.bits, 2)
