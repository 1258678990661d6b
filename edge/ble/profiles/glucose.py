"""Glucose Service: measurement 0x2A18, measurement context 0x2A34, feature 0x2A51.

Source: GLS 1.0.1, GATT Specification Supplement 3.117-3.119. Concentration is kg/L or mol/L, carbohydrate
kg, medication kg or litre. Reserved flag bits and reserved codes are kept and ignored here; what they mean
for a sample is the session's matter.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

import msgspec

from core.units import mgdl_from_mmoll
from edge.ble.profiles.ieee11073 import SFloat
from edge.ble.profiles.moments import DateTime
from edge.ble.profiles.wire import Reader, le

_OFFSET: Final = 0x01
_CONCENTRATION: Final = 0x02
_MOLAR: Final = 0x04
_ANNUNCIATION: Final = 0x08
_CONTEXT: Final = 0x10
_RESERVED: Final = 0xE0

CONTROL_SOLUTION_TYPE: Final = 0xA
CONTROL_SOLUTION_LOCATION: Final = 0x4


class MeterStatus(IntFlag):
    """Sensor Status Annunciation of a meter reading."""

    BATTERY_LOW = 1 << 0
    MALFUNCTION = 1 << 1
    SAMPLE_TOO_SMALL = 1 << 2
    STRIP_INSERTION = 1 << 3
    STRIP_TYPE = 1 << 4
    RESULT_TOO_HIGH = 1 << 5
    RESULT_TOO_LOW = 1 << 6
    TEMPERATURE_HIGH = 1 << 7
    TEMPERATURE_LOW = 1 << 8
    INTERRUPTED = 1 << 9
    GENERAL_FAULT = 1 << 10
    TIME_FAULT = 1 << 11


class Concentration(msgspec.Struct, frozen=True):
    """Glucose, fluid type and sample location: present together or not at all."""

    glucose: SFloat
    molar: bool  # mol/L, otherwise kg/L
    fluid_type: int
    location: int

    @property
    def mgdl(self) -> float | None:
        """Glucose in mg/dL; None for a special value. 1 kg/L = 1e5 mg/dL."""
        if not self.molar:
            return self.glucose.scaled(5)
        mmoll = self.glucose.scaled(3)
        return None if mmoll is None else mgdl_from_mmoll(mmoll)

    @property
    def control_solution(self) -> bool:
        """A test of the meter, not of a person."""
        return self.fluid_type == CONTROL_SOLUTION_TYPE or self.location == CONTROL_SOLUTION_LOCATION


class GlucoseMeasurement(msgspec.Struct, frozen=True):
    """One logbook record. The user-facing time is ``base`` plus ``offset_min``."""

    sequence: int
    base: DateTime
    offset_min: int | None = None
    concentration: Concentration | None = None
    status: int | None = None
    context_follows: bool = False
    spare_flags: int = 0  # reserved bits, and the unit bit of a record without concentration

    @classmethod
    def from_bytes(cls, data: bytes) -> GlucoseMeasurement:
        reader = Reader(data, "Glucose Measurement")
        flags = reader.u8("flags")
        sequence = reader.u16("sequence number")
        base = DateTime.read(reader, "base time")
        offset_min = reader.sint(2, "time offset") if flags & _OFFSET else None
        concentration = None
        if flags & _CONCENTRATION:
            glucose = SFloat.read(reader, "concentration")
            type_location = reader.u8("type and sample location")
            concentration = Concentration(
                glucose, bool(flags & _MOLAR), type_location & 0xF, type_location >> 4
            )
        status = reader.u16("status") if flags & _ANNUNCIATION else None
        reader.end()
        spare = flags & (_RESERVED if concentration else _RESERVED | _MOLAR)
        return cls(sequence, base, offset_min, concentration, status, bool(flags & _CONTEXT), spare)

    def __bytes__(self) -> bytes:
        flags = self.spare_flags | (_CONTEXT if self.context_follows else 0)
        body = le(self.sequence, 2) + bytes(self.base)
        if self.offset_min is not None:
            flags |= _OFFSET
            body += self.offset_min.to_bytes(2, "little", signed=True)
        if self.concentration is not None:
            part = self.concentration
            flags |= _CONCENTRATION | (_MOLAR if part.molar else 0)
            body += bytes(part.glucose) + bytes((part.location << 4 | part.fluid_type,))
        if self.status is not None:
            flags |= _ANNUNCIATION
            body += le(self.status, 2)
        return bytes((flags,)) + body

    @property
    def annunciation(self) -> MeterStatus:
        return MeterStatus(self.status or 0)


RAPID: Final = 1
SHORT: Final = 2
INTERMEDIATE: Final = 3
LONG: Final = 4
PREMIXED: Final = 5


class Carbohydrate(msgspec.Struct, frozen=True):
    """What was eaten: meal code (1 breakfast .. 7 brunch) and mass."""

    meal: int
    mass_kg: SFloat

    @property
    def grams(self) -> float | None:
        return self.mass_kg.scaled(3)


class Medication(msgspec.Struct, frozen=True):
    """What was taken: insulin code (1 rapid .. 5 pre-mixed) and its mass (kg) or volume (litre)."""

    code: int
    amount: SFloat
    by_volume: bool

    @property
    def units_u100(self) -> float | None:
        """Units of a U-100 insulin (1 U = 1e-5 L); None for a mass, which says nothing about units."""
        return self.amount.scaled(5) if self.by_volume else None


class Exercise(msgspec.Struct, frozen=True):
    """Duration in seconds (0xFFFF: longer) and intensity in percent."""

    duration_s: int
    intensity_pct: int


class GlucoseContext(msgspec.Struct, frozen=True):
    """Context of the record with the same ``sequence``."""

    sequence: int
    extended_flags: int | None = None
    carbohydrate: Carbohydrate | None = None
    meal: int | None = None
    tester_health: int | None = None
    exercise: Exercise | None = None
    medication: Medication | None = None
    hba1c_pct: SFloat | None = None
    volume_unit: bool = False  # the unit bit, also of a record without medication

    @classmethod
    def from_bytes(cls, data: bytes) -> GlucoseContext:
        reader = Reader(data, "Glucose Measurement Context")
        flags = reader.u8("flags")
        sequence = reader.u16("sequence number")
        volume = bool(flags & 0x20)
        context = cls(
            sequence,
            reader.u8("extended flags") if flags & 0x80 else None,
            Carbohydrate(reader.u8("carbohydrate code"), SFloat.read(reader, "carbohydrate"))
            if flags & 0x01
            else None,
            reader.u8("meal") if flags & 0x02 else None,
            reader.u8("tester and health") if flags & 0x04 else None,
            Exercise(reader.u16("exercise duration"), reader.u8("exercise intensity"))
            if flags & 0x08
            else None,
            Medication(reader.u8("medication code"), SFloat.read(reader, "medication"), volume)
            if flags & 0x10
            else None,
            SFloat.read(reader, "HbA1c") if flags & 0x40 else None,
            volume,
        )
        reader.end()
        return context

    def __bytes__(self) -> bytes:
        flags = 0x20 if self.volume_unit else 0
        body = le(self.sequence, 2)
        if self.extended_flags is not None:
            flags |= 0x80
            body += le(self.extended_flags, 1)
        if self.carbohydrate is not None:
            flags |= 0x01
            body += bytes((self.carbohydrate.meal,)) + bytes(self.carbohydrate.mass_kg)
        if self.meal is not None:
            flags |= 0x02
            body += bytes((self.meal,))
        if self.tester_health is not None:
            flags |= 0x04
            body += bytes((self.tester_health,))
        if self.exercise is not None:
            flags |= 0x08
            body += le(self.exercise.duration_s, 2) + bytes((self.exercise.intensity_pct,))
        if self.medication is not None:
            flags |= 0x10
            body += bytes((self.medication.code,)) + bytes(self.medication.amount)
        if self.hba1c_pct is not None:
            flags |= 0x40
            body += bytes(self.hba1c_pct)
        return bytes((flags,)) + body


class GlucoseFeature(msgspec.Struct, frozen=True):
    """Glucose Feature: 16 bits; reserved ones are kept and ignored."""

    bits: int

    @classmethod
    def from_bytes(cls, data: bytes) -> GlucoseFeature:
        reader = Reader(data, "Glucose Feature")
        feature = cls(reader.u16("features"))
        reader.end()
        return feature

    def __bytes__(self) -> bytes:
        return le(self.bits, 2)
