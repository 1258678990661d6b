"""Continuous Glucose Monitoring: measurement, feature, status, session start and run time.

Source: CGM Service 1.0.2, GATT Specification Supplement 3.42-3.47. All glucose values are mg/dL.

E2E-CRC: bit 12 of the feature says whether every other characteristic of the service carries a CRC, so
their decoders take ``e2e``. The feature itself always has the field (0xFFFF when there is no E2E-CRC).
Reserved bits of flags, feature and annunciation are kept and ignored. An annunciation octet that is
present though zero goes against "only an octet with a bit set is attached"; it does no harm and is kept.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

import msgspec

from core.errors import DecodeError
from edge.ble.profiles.ieee11073 import SFloat
from edge.ble.profiles.moments import ZonedTime
from edge.ble.profiles.wire import Reader, crc16, le, refuse, with_crc, without_crc

MIN_RECORD_BYTES: Final = 6  # size, flags, glucose, time offset (CGMS 3.1.1.1)
_CRC_UNUSED: Final = 0xFFFF

_TREND: Final = 0x01
_QUALITY: Final = 0x02
_WARNING: Final = 0x20
_CAL_TEMP: Final = 0x40
_STATUS: Final = 0x80
_KNOWN_FLAGS: Final = _TREND | _QUALITY | _WARNING | _CAL_TEMP | _STATUS


class Annunciation(IntFlag):
    """Sensor Status Annunciation and CGM Status: octets status, calibration/temperature, warning."""

    SESSION_STOPPED = 1 << 0
    BATTERY_LOW = 1 << 1
    TYPE_INCORRECT = 1 << 2
    MALFUNCTION = 1 << 3
    DEVICE_ALERT = 1 << 4
    GENERAL_FAULT = 1 << 5
    TIME_SYNC_REQUIRED = 1 << 8
    CALIBRATION_NOT_ALLOWED = 1 << 9
    CALIBRATION_RECOMMENDED = 1 << 10
    CALIBRATION_REQUIRED = 1 << 11
    TEMPERATURE_HIGH = 1 << 12
    TEMPERATURE_LOW = 1 << 13
    CALIBRATION_PENDING = 1 << 14
    BELOW_PATIENT_LOW = 1 << 16
    ABOVE_PATIENT_HIGH = 1 << 17
    BELOW_HYPO = 1 << 18
    ABOVE_HYPER = 1 << 19
    RATE_OF_DECREASE = 1 << 20
    RATE_OF_INCREASE = 1 << 21
    BELOW_DEVICE_RANGE = 1 << 22
    ABOVE_DEVICE_RANGE = 1 << 23


class CgmMeasurement(msgspec.Struct, frozen=True):
    """One CGM Measurement record. ``offset_min`` counts from the session start and numbers the record."""

    glucose_mgdl: SFloat
    offset_min: int
    status: int | None = None
    cal_temp: int | None = None
    warning: int | None = None
    trend_mgdl_per_min: SFloat | None = None
    quality_pct: SFloat | None = None
    e2e: bool = False
    reserved_flags: int = 0

    @classmethod
    def from_bytes(cls, data: bytes, e2e: bool = False) -> CgmMeasurement:
        """Decode exactly one record."""
        where = "CGM Measurement"
        _check_size(data, 0, e2e)
        if data[0] != len(data):
            raise refuse("too_long", where)
        reader = Reader(without_crc(data, where) if e2e else data, where)
        reader.u8("size")
        flags = reader.u8("flags")
        record = cls(
            SFloat.read(reader, "glucose"),
            reader.u16("time offset"),
            reader.u8("status") if flags & _STATUS else None,
            reader.u8("calibration and temperature") if flags & _CAL_TEMP else None,
            reader.u8("warning") if flags & _WARNING else None,
            SFloat.read(reader, "trend") if flags & _TREND else None,
            SFloat.read(reader, "quality") if flags & _QUALITY else None,
            e2e,
            flags & ~_KNOWN_FLAGS,
        )
        reader.end()
        return record

    def __bytes__(self) -> bytes:
        flags = self.reserved_flags
        body = bytes(self.glucose_mgdl) + le(self.offset_min, 2)
        for bit, octet in ((_STATUS, self.status), (_CAL_TEMP, self.cal_temp), (_WARNING, self.warning)):
            if octet is not None:
                flags |= bit
                body += le(octet, 1)
        for bit, number in ((_TREND, self.trend_mgdl_per_min), (_QUALITY, self.quality_pct)):
            if number is not None:
                flags |= bit
                body += bytes(number)
        record = bytes((2 + len(body) + 2 * self.e2e, flags)) + body
        return with_crc(record) if self.e2e else record

    @property
    def annunciation(self) -> Annunciation:
        """The three octets as one set of bits; an absent octet has none."""
        return Annunciation((self.status or 0) | (self.cal_temp or 0) << 8 | (self.warning or 0) << 16)


def _check_size(data: bytes, at: int, e2e: bool) -> int:
    """The size field of the record at ``at``, once it can be true."""
    where = "CGM Measurement: size"
    if at >= len(data):
        raise refuse("truncated", where)
    size = data[at]
    if size < MIN_RECORD_BYTES + 2 * e2e:
        raise refuse("size", where)
    if at + size > len(data):
        raise refuse("truncated", where)
    return size


def salvage(data: bytes, e2e: bool) -> tuple[list[CgmMeasurement], list[DecodeError]]:
    """The good records of one notification and the refusals, in order.

    A record with a bad CRC inside a true size costs only itself; an untrue size costs the rest, because
    nothing says where the next record begins.
    """
    good: list[CgmMeasurement] = []
    bad: list[DecodeError] = []
    Reader(data, "CGM Measurement")  # bounds the length, hence the loop
    at = 0
    while at < len(data) or not (good or bad):
        try:
            size = _check_size(data, at, e2e)
        except DecodeError as err:
            bad.append(err)
            break
        try:
            good.append(CgmMeasurement.from_bytes(data[at : at + size], e2e))
        except DecodeError as err:
            bad.append(err)
        at += size
    return good, bad


class CgmMeasurements(msgspec.Struct, frozen=True):
    """A CGM Measurement value: one or more records. All must be good; see ``salvage`` for the opposite."""

    records: tuple[CgmMeasurement, ...]

    @classmethod
    def from_bytes(cls, data: bytes, e2e: bool = False) -> CgmMeasurements:
        good, bad = salvage(data, e2e)
        if bad:
            raise bad[0]
        return cls(tuple(good))

    def __bytes__(self) -> bytes:
        return b"".join(bytes(record) for record in self.records)


class Feature(IntFlag):
    """CGM Feature bits that matter to the hub."""

    CALIBRATION = 1 << 0
    E2E_CRC = 1 << 12
    MULTIPLE_BOND = 1 << 13
    MULTIPLE_SESSIONS = 1 << 14
    TREND = 1 << 15
    QUALITY = 1 << 16


class CgmFeature(msgspec.Struct, frozen=True):
    """CGM Feature: 24 bits, fluid type and sample location (4 bits each), CRC always present.

    Without E2E-CRC the CRC field "typically" is 0xFFFF "or any other value": kept, not checked.
    """

    features: int
    fluid_type: int
    location: int
    unchecked_crc: int | None = _CRC_UNUSED

    @classmethod
    def from_bytes(cls, data: bytes) -> CgmFeature:
        reader = Reader(data, "CGM Feature")
        features = reader.uint(3, "features")
        type_location = reader.u8("type and sample location")
        crc = reader.u16("crc")
        reader.end()
        if features & Feature.E2E_CRC and crc != crc16(data[:4]):
            raise refuse("crc", "CGM Feature")
        unchecked = None if features & Feature.E2E_CRC else crc
        return cls(features, type_location & 0xF, type_location >> 4, unchecked)

    def __bytes__(self) -> bytes:
        body = le(self.features, 3) + bytes((self.location << 4 | self.fluid_type,))
        return with_crc(body) if self.unchecked_crc is None else body + le(self.unchecked_crc, 2)

    @property
    def e2e(self) -> bool:
        return bool(self.features & Feature.E2E_CRC)


class CgmStatus(msgspec.Struct, frozen=True):
    """CGM Status: minutes since session start by the sensor's own clock, and always three status octets."""

    offset_min: int
    bits: int
    e2e: bool = False

    @classmethod
    def from_bytes(cls, data: bytes, e2e: bool = False) -> CgmStatus:
        reader = Reader(without_crc(data, "CGM Status") if e2e else data, "CGM Status")
        status = cls(reader.u16("time offset"), reader.uint(3, "status"), e2e)
        reader.end()
        return status

    def __bytes__(self) -> bytes:
        body = le(self.offset_min, 2) + le(self.bits, 3)
        return with_crc(body) if self.e2e else body

    @property
    def annunciation(self) -> Annunciation:
        return Annunciation(self.bits)


class CgmSessionStart(msgspec.Struct, frozen=True):
    """CGM Session Start Time. Written with the client's time *now*; read as the time of offset zero."""

    start: ZonedTime
    e2e: bool = False

    @classmethod
    def from_bytes(cls, data: bytes, e2e: bool = False) -> CgmSessionStart:
        where = "CGM Session Start Time"
        reader = Reader(without_crc(data, where) if e2e else data, where)
        start = cls(ZonedTime.read(reader, "start"), e2e)
        reader.end()
        return start

    def __bytes__(self) -> bytes:
        return with_crc(bytes(self.start)) if self.e2e else bytes(self.start)


class CgmRunTime(msgspec.Struct, frozen=True):
    """CGM Session Run Time: the expected length of the session."""

    run_h: int
    e2e: bool = False

    @classmethod
    def from_bytes(cls, data: bytes, e2e: bool = False) -> CgmRunTime:
        where = "CGM Session Run Time"
        reader = Reader(without_crc(data, where) if e2e else data, where)
        run = cls(reader.u16("run time"), e2e)
        reader.end()
        return run

    def __bytes__(self) -> bytes:
        return with_crc(le(self.run_h, 2)) if self.e2e else le(self.run_h, 2)
