"""IDD Record Access Control Point 0x2B27 (IDS 1.0.2 sections 3.9 and 4.8).

Like the common RACP, but op codes and operators are Hamming codes, filters are uint32 sequence numbers,
success is 0xF0, and E2E-Protection adds a counter and a CRC.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

from edge.ble.profiles.insulin import Protection, protect, unprotect
from edge.ble.profiles.wire import Reader, le


class Op(IntEnum):
    RESPONSE = 0x0F
    REPORT = 0x33
    DELETE = 0x3C
    ABORT = 0x55
    COUNT = 0x5A
    COUNT_RESPONSE = 0x66


class Operator(IntEnum):
    NULL = 0x0F
    ALL = 0x33
    LESS_OR_EQUAL = 0x3C
    GREATER_OR_EQUAL = 0x55
    WITHIN = 0x5A
    FIRST = 0x66
    LAST = 0x69


class ResponseCode(IntEnum):
    OP_CODE_NOT_SUPPORTED = 0x02
    INVALID_OPERATOR = 0x03
    OPERATOR_NOT_SUPPORTED = 0x04
    INVALID_OPERAND = 0x05
    NO_RECORDS = 0x06
    ABORT_UNSUCCESSFUL = 0x07
    NOT_COMPLETED = 0x08
    OPERAND_NOT_SUPPORTED = 0x09
    NOT_APPLICABLE = 0x0A
    SUCCESS = 0xF0


BY_SEQUENCE: Final = 0x0F
BY_REFERENCE_TIME: Final = 0x33
BY_NON_REFERENCE_TIME: Final = 0x3C
_FILTERS: Final = frozenset({BY_SEQUENCE, BY_REFERENCE_TIME, BY_NON_REFERENCE_TIME})
_OPS: Final = frozenset(Op)
_OPERATORS: Final = frozenset(Operator)
_BOUNDS: Final = {Operator.LESS_OR_EQUAL: 4, Operator.GREATER_OR_EQUAL: 4, Operator.WITHIN: 8}


class IddRacp(msgspec.Struct, frozen=True):
    """One message on the control point, either way."""

    op: Op
    operator: Operator = Operator.NULL
    operand: bytes = b""
    protection: Protection | None = None

    @classmethod
    def report_all(cls, protection: Protection | None) -> IddRacp:
        return cls(Op.REPORT, Operator.ALL, b"", protection)

    @classmethod
    def report_from(cls, sequence: int, protection: Protection | None) -> IddRacp:
        """Records whose sequence number is at least ``sequence``: the one filter every pump must have."""
        operand = bytes((BY_SEQUENCE,)) + le(sequence, 4)
        return cls(Op.REPORT, Operator.GREATER_OR_EQUAL, operand, protection)

    @classmethod
    def report_newest(cls, protection: Protection | None) -> IddRacp:
        return cls(Op.REPORT, Operator.LAST, b"", protection)

    @classmethod
    def from_bytes(cls, data: bytes, e2e: bool = False) -> IddRacp:
        where = "IDD Record Access Control Point"
        body, protection = unprotect(data, e2e, where)
        reader = Reader(body, where)
        op = Op(reader.one_of(1, _OPS, "op code"))
        operator = Operator(reader.one_of(1, _OPERATORS, "operator"))
        answer = op in (Op.COUNT_RESPONSE, Op.RESPONSE)
        if (answer or op is Op.ABORT) != (operator is Operator.NULL):
            raise reader.refuse("unexpected", "operator")
        if answer:
            operand = reader.take(4 if op is Op.COUNT_RESPONSE else 2, "operand")
        elif operator in _BOUNDS:
            kind = reader.one_of(1, _FILTERS, "filter type")
            operand = bytes((kind,)) + reader.take(_BOUNDS[operator], "filter")
        else:
            operand = b""
        reader.end()
        return cls(op, operator, operand, protection)

    def __bytes__(self) -> bytes:
        return protect(bytes((self.op, self.operator)) + self.operand, self.protection)

    @property
    def response(self) -> tuple[int, int] | None:
        """(request op code, response code) of a response, None for any other message."""
        return (self.operand[0], self.operand[1]) if self.op is Op.RESPONSE else None

    @property
    def count(self) -> int | None:
        """The number of records of a count response."""
        return int.from_bytes(self.operand, "little") if self.op is Op.COUNT_RESPONSE else None
