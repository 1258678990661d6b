"""PLX Spot-Check 0x2A5E, Continuous 0x2A5F and Features 0x2A60 (PLXS 1.0.1).

Reserved bits of flags and status fields are kept and ignored.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

import msgspec

from edge.ble.profiles.ieee11073 import SFloat
from edge.ble.profiles.moments import DateTime
from edge.ble.profiles.wire import Reader, le

CLOCK_NOT_SET: Final = 0x10


class PlxStatus(IntFlag):
    """Measurement Status; bits 0-4 are reserved."""

    ONGOING = 1 << 5
    EARLY_ESTIMATE = 1 << 6
    VALIDATED = 1 << 7
    FULLY_QUALIFIED = 1 << 8
    FROM_STORAGE = 1 << 9
    DEMONSTRATION = 1 << 10
    TESTING = 1 << 11
    CALIBRATING = 1 << 12
    UNAVAILABLE = 1 << 13
    QUESTIONABLE = 1 << 14
    INVALID = 1 << 15


class Oximetry(msgspec.Struct, frozen=True):
    """Saturation in percent and pulse rate per minute."""

    spo2_pct: SFloat
    pulse_bpm: SFloat

    @classmethod
    def read(cls, reader: Reader, field: str) -> Oximetry:
        return cls(SFloat.read(reader, f"{field} SpO2"), SFloat.read(reader, f"{field} pulse rate"))

    def __bytes__(self) -> bytes:
        return bytes(self.spo2_pct) + bytes(self.pulse_bpm)


class Remarks(msgspec.Struct, frozen=True):
    """The three optional fields both measurements end with; three flag bits in the same order."""

    status: int | None = None
    sensor_status: int | None = None
    amplitude_pct: SFloat | None = None

    @classmethod
    def read(cls, reader: Reader, bits: int) -> Remarks:
        return cls(
            reader.u16("measurement status") if bits & 1 else None,
            reader.uint(3, "device and sensor status") if bits & 2 else None,
            SFloat.read(reader, "pulse amplitude index") if bits & 4 else None,
        )

    @property
    def bits(self) -> int:
        present = (self.status is not None, self.sensor_status is not None, self.amplitude_pct is not None)
        return sum(bit << place for place, bit in enumerate(present))

    def __bytes__(self) -> bytes:
        return (
            (b"" if self.status is None else le(self.status, 2))
            + (b"" if self.sensor_status is None else le(self.sensor_status, 3))
            + (b"" if self.amplitude_pct is None else bytes(self.amplitude_pct))
        )

    @property
    def plx_status(self) -> PlxStatus:
        return PlxStatus(self.status or 0)


class PlxSpotCheck(msgspec.Struct, frozen=True):
    """One spot check, perhaps from the oximeter's memory."""

    value: Oximetry
    at: DateTime | None = None
    remarks: Remarks = Remarks()
    clock_not_set: bool = False
    reserved_flags: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> PlxSpotCheck:
        reader = Reader(data, "PLX Spot-Check Measurement")
        flags = reader.u8("flags")
        value = Oximetry.read(reader, "spot check")
        at = DateTime.read(reader, "time stamp") if flags & 0x01 else None
        remarks = Remarks.read(reader, flags >> 1)
        reader.end()
        return cls(value, at, remarks, bool(flags & CLOCK_NOT_SET), flags & 0xE0)

    def __bytes__(self) -> bytes:
        flags = self.reserved_flags | (CLOCK_NOT_SET if self.clock_not_set else 0) | self.remarks.bits << 1
        body = bytes(self.value)
        if self.at is not None:
            flags |= 0x01
            body += bytes(self.at)
        return bytes((flags,)) + body + bytes(self.remarks)


class PlxContinuous(msgspec.Struct, frozen=True):
    """One live value with normal, fast and slow averaging."""

    normal: Oximetry
    fast: Oximetry | None = None
    slow: Oximetry | None = None
    remarks: Remarks = Remarks()
    reserved_flags: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> PlxContinuous:
        reader = Reader(data, "PLX Continuous Measurement")
        flags = reader.u8("flags")
        value = cls(
            Oximetry.read(reader, "normal"),
            Oximetry.read(reader, "fast") if flags & 0x01 else None,
            Oximetry.read(reader, "slow") if flags & 0x02 else None,
            Remarks.read(reader, flags >> 2),
            flags & 0xE0,
        )
        reader.end()
        return value

    def __bytes__(self) -> bytes:
        flags = self.reserved_flags | self.remarks.bits << 2
        body = bytes(self.normal)
        for bit, part in ((0x01, self.fast), (0x02, self.slow)):
            if part is not None:
                flags |= bit
                body += bytes(part)
        return bytes((flags,)) + body + bytes(self.remarks)


class PlxFeatures(msgspec.Struct, frozen=True):
    """Supported features, and which status bits the oximeter can set."""

    bits: int
    status_support: int | None = None
    sensor_status_support: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> PlxFeatures:
        reader = Reader(data, "PLX Features")
        bits = reader.u16("features")
        features = cls(
            bits,
            reader.u16("measurement status support") if bits & 1 else None,
            reader.uint(3, "device and sensor status support") if bits & 2 else None,
        )
        reader.end()
        return features

    def __bytes__(self) -> bytes:
        return (
            le(self.bits, 2)
            + (b"" if self.status_support is None else le(self.status_support, 2))
            + (b"" if self.sensor_status_support is None else le(self.sensor_status_support, 3))
        )
