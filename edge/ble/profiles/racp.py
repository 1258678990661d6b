"""Record Access Control Point 0x2A52 (GATT Specification Supplement 3.199) for glucose meter and CGM.

The filter of both services is one octet 0x01 (sequence number, or time offset) and a uint16; the meter may
also filter by user-facing time (0x02, seven octets). There is no E2E-CRC on this control point.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

from edge.ble.profiles.wire import Reader, le


class Op(IntEnum):
    REPORT = 0x01
    DELETE = 0x02
    ABORT = 0x03
    COUNT = 0x04
    COUNT_RESPONSE = 0x05
    RESPONSE = 0x06


class Operator(IntEnum):
    NULL = 0x00
    ALL = 0x01
    LESS_OR_EQUAL = 0x02
    GREATER_OR_EQUAL = 0x03
    WITHIN = 0x04
    FIRST = 0x05
    LAST = 0x06


class ResponseCode(IntEnum):
    SUCCESS = 0x01
    OP_CODE_NOT_SUPPORTED = 0x02
    INVALID_OPERATOR = 0x03
    OPERATOR_NOT_SUPPORTED = 0x04
    INVALID_OPERAND = 0x05
    NO_RECORDS = 0x06
    ABORT_UNSUCCESSFUL = 0x07
    NOT_COMPLETED = 0x08
    OPERAND_NOT_SUPPORTED = 0x09
    BUSY = 0x0A


NUMBER_FILTER: Final = 0x01
TIME_FILTER: Final = 0x02
_FILTER_BYTES: Final = {NUMBER_FILTER: 2, TIME_FILTER: 7}
_OPS: Final = frozenset(Op)
_OPERATORS: Final = frozenset(Operator)
_BOUNDS: Final = {Operator.LESS_OR_EQUAL: 1, Operator.GREATER_OR_EQUAL: 1, Operator.WITHIN: 2}


class Racp(msgspec.Struct, frozen=True):
    """One message on the control point, either way. ``operand`` has the length its op and operator ask for."""

    op: Op
    operator: Operator = Operator.NULL
    operand: bytes = b""

    @classmethod
    def report_all(cls) -> Racp:
        return cls(Op.REPORT, Operator.ALL)

    @classmethod
    def report_from(cls, number: int) -> Racp:
        """Records whose number (sequence number or time offset) is at least ``number`` (0..65535)."""
        return cls(Op.REPORT, Operator.GREATER_OR_EQUAL, bytes((NUMBER_FILTER,)) + le(number, 2))

    @classmethod
    def report_newest(cls) -> Racp:
        return cls(Op.REPORT, Operator.LAST)

    @classmethod
    def from_bytes(cls, data: bytes) -> Racp:
        reader = Reader(data, "Record Access Control Point")
        op = Op(reader.one_of(1, _OPS, "op code"))
        operator = Operator(reader.one_of(1, _OPERATORS, "operator"))
        answer = op in (Op.COUNT_RESPONSE, Op.RESPONSE)
        if (answer or op is Op.ABORT) != (operator is Operator.NULL):
            raise reader.refuse("unexpected", "operator")
        if answer:
            operand = reader.take(2, "operand")
        elif operator in _BOUNDS:
            kind = reader.take(1, "filter type")
            if kind[0] not in _FILTER_BYTES:
                raise reader.refuse("reserved", "filter type")
            operand = kind + reader.take(_BOUNDS[operator] * _FILTER_BYTES[kind[0]], "filter")
        else:
            operand = b""
        reader.end()
        return cls(op, operator, operand)

    def __bytes__(self) -> bytes:
        return bytes((self.op, self.operator)) + self.operand

    @property
    def response(self) -> tuple[int, int] | None:
        """(request op code, response code) of a response, None for any other message."""
        return (self.operand[0], self.operand[1]) if self.op is Op.RESPONSE else None

    @property
    def count(self) -> int | None:
        """The number of records of a count response."""
        return int.from_bytes(self.operand, "little") if self.op is Op.COUNT_RESPONSE else None
