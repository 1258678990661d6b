"""CGM Specific Ops Control Point 0x2AAC (CGMS 1.0.2 section 3.7, GATT Specification Supplement 3.46).

The operand of every op code has one form; a reserved op code is refused because its operand has none.
The two documents disagree on the communication interval response (op code 0x03): UINT8 in the service,
uint16 in the supplement. Both widths are accepted and kept.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

from edge.ble.profiles.ieee11073 import SFloat
from edge.ble.profiles.wire import Reader, le, with_crc, without_crc


class Op(IntEnum):
    SET_INTERVAL = 0x01
    GET_INTERVAL = 0x02
    INTERVAL_RESPONSE = 0x03
    SET_CALIBRATION = 0x04
    GET_CALIBRATION = 0x05
    CALIBRATION_RESPONSE = 0x06
    SET_PATIENT_HIGH = 0x07
    GET_PATIENT_HIGH = 0x08
    PATIENT_HIGH_RESPONSE = 0x09
    SET_PATIENT_LOW = 0x0A
    GET_PATIENT_LOW = 0x0B
    PATIENT_LOW_RESPONSE = 0x0C
    SET_HYPO = 0x0D
    GET_HYPO = 0x0E
    HYPO_RESPONSE = 0x0F
    SET_HYPER = 0x10
    GET_HYPER = 0x11
    HYPER_RESPONSE = 0x12
    SET_RATE_OF_DECREASE = 0x13
    GET_RATE_OF_DECREASE = 0x14
    RATE_OF_DECREASE_RESPONSE = 0x15
    SET_RATE_OF_INCREASE = 0x16
    GET_RATE_OF_INCREASE = 0x17
    RATE_OF_INCREASE_RESPONSE = 0x18
    RESET_DEVICE_ALERT = 0x19
    START_SESSION = 0x1A
    STOP_SESSION = 0x1B
    RESPONSE = 0x1C


class ResponseCode(IntEnum):
    SUCCESS = 0x01
    OP_CODE_NOT_SUPPORTED = 0x02
    INVALID_OPERAND = 0x03
    PROCEDURE_NOT_COMPLETED = 0x04
    PARAMETER_OUT_OF_RANGE = 0x05


_OPS: Final = frozenset(Op)
# Levels in mg/dL, rates in mg/dL/min.
_SFLOAT_OPS: Final = frozenset(
    {
        Op.SET_PATIENT_HIGH,
        Op.PATIENT_HIGH_RESPONSE,
        Op.SET_PATIENT_LOW,
        Op.PATIENT_LOW_RESPONSE,
        Op.SET_HYPO,
        Op.HYPO_RESPONSE,
        Op.SET_HYPER,
        Op.HYPER_RESPONSE,
        Op.SET_RATE_OF_DECREASE,
        Op.RATE_OF_DECREASE_RESPONSE,
        Op.SET_RATE_OF_INCREASE,
        Op.RATE_OF_INCREASE_RESPONSE,
    }
)


class Calibration(msgspec.Struct, frozen=True):
    """Calibration Data Record (CGMS table 3.7). Times in minutes since session start."""

    glucose_mgdl: SFloat
    offset_min: int
    type_location: int
    next_offset_min: int
    number: int
    status: int  # bit 0 rejected, 1 out of range, 2 pending

    @classmethod
    def read(cls, reader: Reader) -> Calibration:
        return cls(
            SFloat.read(reader, "calibration glucose"),
            reader.u16("calibration time"),
            reader.u8("calibration type and location"),
            reader.u16("next calibration time"),
            reader.u16("calibration number"),
            reader.u8("calibration status"),
        )

    def __bytes__(self) -> bytes:
        return (
            bytes(self.glucose_mgdl)
            + le(self.offset_min, 2)
            + le(self.type_location, 1)
            + le(self.next_offset_min, 2)
            + le(self.number, 2)
            + le(self.status, 1)
        )


class Response(msgspec.Struct, frozen=True):
    """Operand of op code RESPONSE: which request, and how it went (reserved codes are kept: not success)."""

    request: int
    code: int

    def __bytes__(self) -> bytes:
        return bytes((self.request, self.code))


class Interval(msgspec.Struct, frozen=True):
    """Communication interval in minutes: 0 stops periodic values, 0xFF asks for the fastest."""

    minutes: int
    octets: int = 1

    def __bytes__(self) -> bytes:
        return le(self.minutes, self.octets)


class RecordNumber(msgspec.Struct, frozen=True):
    """Number of a calibration record, 0xFFFF for the last one."""

    number: int

    def __bytes__(self) -> bytes:
        return le(self.number, 2)


Operand = Calibration | Response | Interval | RecordNumber | SFloat | None


class CgmOps(msgspec.Struct, frozen=True):
    """One message on the control point, either way."""

    op: Op
    operand: Operand = None
    e2e: bool = False

    @classmethod
    def from_bytes(cls, data: bytes, e2e: bool = False) -> CgmOps:
        where = "CGM Specific Ops Control Point"
        reader = Reader(without_crc(data, where) if e2e else data, where)
        op = Op(reader.one_of(1, _OPS, "op code"))
        operand: Operand = None
        if op in _SFLOAT_OPS:
            operand = SFloat.read(reader, "level")
        elif op is Op.SET_INTERVAL:
            operand = Interval(reader.u8("interval"))
        elif op is Op.INTERVAL_RESPONSE:
            octets = 2 if reader.left == 2 else 1
            operand = Interval(reader.uint(octets, "interval"), octets)
        elif op in (Op.SET_CALIBRATION, Op.CALIBRATION_RESPONSE):
            operand = Calibration.read(reader)
        elif op is Op.GET_CALIBRATION:
            operand = RecordNumber(reader.u16("calibration number"))
        elif op is Op.RESPONSE:
            operand = Response(reader.u8("request op code"), reader.u8("response code"))
        reader.end()
        return cls(op, operand, e2e)

    def __bytes__(self) -> bytes:
        body = bytes((self.op,)) + (b"" if self.operand is None else bytes(self.operand))
        return with_crc(body) if self.e2e else body
