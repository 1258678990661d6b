"""Weight Measurement 0x2A9D and Weight Scale Feature 0x2A9E (WSS 1.0, GATT Specification Supplement 3.275).

Reserved flag and feature bits are kept and ignored. Weight 0xFFFF means "measurement unsuccessful".
"""

from __future__ import annotations

from typing import Final

import msgspec

from edge.ble.profiles.moments import DateTime
from edge.ble.profiles.wire import Reader, le

UNSUCCESSFUL: Final = 0xFFFF
KG_PER_LB: Final = 0.45359237  # international avoirdupois pound, exact
_IMPERIAL: Final = 0x01
_TIME: Final = 0x02
_USER: Final = 0x04
_BODY: Final = 0x08
_RESERVED: Final = 0xF0


class WeightMeasurement(msgspec.Struct, frozen=True):
    """``steps`` of 0.005 kg, or 0.01 lb when ``imperial``; height in steps of 1 mm or 0.1 inch."""

    steps: int
    imperial: bool = False
    at: DateTime | None = None
    user: int | None = None  # 0xFF unknown
    bmi_tenths: int | None = None
    height_steps: int | None = None
    reserved_flags: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> WeightMeasurement:
        reader = Reader(data, "Weight Measurement")
        flags = reader.u8("flags")
        measurement = cls(
            reader.u16("weight"),
            bool(flags & _IMPERIAL),
            DateTime.read(reader, "time stamp") if flags & _TIME else None,
            reader.u8("user") if flags & _USER else None,
            reader.u16("body mass index") if flags & _BODY else None,
            reader.u16("height") if flags & _BODY else None,
            flags & _RESERVED,
        )
        reader.end()
        return measurement

    def __bytes__(self) -> bytes:
        flags = self.reserved_flags | (_IMPERIAL if self.imperial else 0)
        body = le(self.steps, 2)
        if self.at is not None:
            flags |= _TIME
            body += bytes(self.at)
        if self.user is not None:
            flags |= _USER
            body += bytes((self.user,))
        if self.bmi_tenths is not None and self.height_steps is not None:
            flags |= _BODY
            body += le(self.bmi_tenths, 2) + le(self.height_steps, 2)
        return bytes((flags,)) + body

    @property
    def weight_kg(self) -> float | None:
        """Weight in kg; None when the measurement did not succeed."""
        if self.steps == UNSUCCESSFUL:
            return None
        return self.steps / 100 * KG_PER_LB if self.imperial else self.steps / 200


class WeightScaleFeature(msgspec.Struct, frozen=True):
    """Weight Scale Feature: 32 bits."""

    bits: int

    @classmethod
    def from_bytes(cls, data: bytes) -> WeightScaleFeature:
        reader = Reader(data, "Weight Scale Feature")
        feature = cls(reader.uint(4, "features"))
        reader.end()
        return feature

    def __bytes__(self) -> bytes:
        return le(self.bits, 4)
