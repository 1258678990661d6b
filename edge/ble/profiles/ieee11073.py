"""IEEE 11073-20601 SFLOAT (medfloat16) and FLOAT (medfloat32): signed decimal mantissa and exponent.

SFLOAT: 4-bit exponent above a 12-bit mantissa. FLOAT: 8-bit exponent above a 24-bit mantissa. Both parts
are two's complement, value = mantissa * 10**exponent. Five words are not numbers (GATT Specification
Supplement table 2.1, CGMS 1.0.2 table 3.8). The word is kept as received, so special values survive
re-encoding and never turn into numbers; ``number`` is None for them.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from edge.ble.profiles.wire import Reader, le


class Special(Enum):
    """What a word that is no number means."""

    NAN = "nan"  # no valid result
    NRES = "nres"  # not at this resolution
    PLUS_INF = "plus_inf"
    MINUS_INF = "minus_inf"
    RESERVED = "reserved"


_SFLOAT_SPECIAL: Final = {
    0x07FF: Special.NAN,
    0x0800: Special.NRES,
    0x07FE: Special.PLUS_INF,
    0x0802: Special.MINUS_INF,
    0x0801: Special.RESERVED,
}
_FLOAT_SPECIAL: Final = {
    0x007FFFFF: Special.NAN,
    0x00800000: Special.NRES,
    0x007FFFFE: Special.PLUS_INF,
    0x00800002: Special.MINUS_INF,
    0x00800001: Special.RESERVED,
}


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _decimal(mantissa: int, exponent: int) -> float:
    # Integer division rounds once, so 991e-1 is the float nearest to 99.1, which 991 * 0.1 is not.
    return mantissa / 10**-exponent if exponent < 0 else float(mantissa * 10**exponent)


class SFloat(msgspec.Struct, frozen=True):
    """A 16-bit SFLOAT as the word that was received."""

    word: int

    @classmethod
    def read(cls, reader: Reader, field: str) -> SFloat:
        return cls(reader.uint(2, field))

    @classmethod
    def of(cls, mantissa: int, exponent: int = 0) -> SFloat:
        """The word for ``mantissa * 10**exponent`` (-2048..2047, -8..7), without any rounding."""
        if not (-2048 <= mantissa <= 2047 and -8 <= exponent <= 7):
            raise ValueError("mantissa or exponent does not fit an SFLOAT")
        return cls((exponent & 0xF) << 12 | mantissa & 0xFFF)

    def __bytes__(self) -> bytes:
        return le(self.word, 2)

    @property
    def special(self) -> Special | None:
        return _SFLOAT_SPECIAL.get(self.word)

    @property
    def number(self) -> float | None:
        """The number, None for a special value."""
        return self.scaled(0)

    def scaled(self, power: int) -> float | None:
        """The number times 10**``power``, rounded once; None for a special value."""
        if self.special is not None:
            return None
        return _decimal(_signed(self.word & 0xFFF, 12), _signed(self.word >> 12, 4) + power)


class Float32(msgspec.Struct, frozen=True):
    """A 32-bit FLOAT as the word that was received."""

    word: int

    @classmethod
    def read(cls, reader: Reader, field: str) -> Float32:
        return cls(reader.uint(4, field))

    @classmethod
    def of(cls, mantissa: int, exponent: int = 0) -> Float32:
        """The word for ``mantissa * 10**exponent`` (24 and 8 bits, signed), without any rounding."""
        if not (-(1 << 23) <= mantissa < 1 << 23 and -128 <= exponent <= 127):
            raise ValueError("mantissa or exponent does not fit a FLOAT")
        return cls((exponent & 0xFF) << 24 | mantissa & 0xFFFFFF)

    def __bytes__(self) -> bytes:
        return le(self.word, 4)

    @property
    def special(self) -> Special | None:
        return _FLOAT_SPECIAL.get(self.word)

    @property
    def number(self) -> float | None:
        """The number, None for a special value."""
        if self.special is not None:
            return None
        return _decimal(_signed(self.word & 0xFFFFFF, 24), _signed(self.word >> 24, 8))
