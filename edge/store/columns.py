"""Columns of integers as few bits: differences, then Rice codes or deflate. The packing inside a segment.

Pure functions on bytes. Integers have no size limit here, so nothing can overflow; what is read is bounded.
Rice codes (R. F. Rice, JPL 79-22, 1979) suit readings: noise around zero with a width of its own per column,
and no table to pay for. Repeating patterns (which series comes next) go to deflate instead.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import Final

from core.errors import DecodeError

MAX_ORDER: Final = 2  # differences of differences; a third order only amplifies noise
MAX_RICE_BITS: Final = 63
_ESCAPE: Final = 24  # this many ones announce a length (7 bits) and the number itself: for rare jumps
_LENGTH_BITS: Final = 7
_MAX_SHIFT: Final = 140  # 20 bytes of 7 bits: far beyond any difference of differences of 64-bit numbers
_MAX_TEXT_BYTES: Final = 1024


class Packing(IntEnum):
    """How the numbers of a column are written. Never renumber."""

    CONSTANT = 0
    RICE = 1
    DEFLATE = 2


def zigzag(value: int) -> int:
    """0, -1, 1, -2, 2 … as 0, 1, 2, 3, 4 …"""
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    """The inverse of ``zigzag``."""
    return -((value + 1) >> 1) if value & 1 else value >> 1


def varints(values: Sequence[int]) -> bytes:
    """Zigzag numbers, seven bits a byte, least first."""
    out = bytearray()
    for value in values:
        rest = zigzag(value)
        while rest > 127:
            out.append(rest & 127 | 128)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def pack_column(values: Sequence[int]) -> bytes:
    """A small writing of ``values``; the reader must know how many there are."""
    if not values:
        return b""
    if values.count(values[0]) == len(values):
        return bytes((Packing.CONSTANT,)) + varints(values[:1])
    order = _best_order(values)[1]
    rice = _pack_rice(values, order)
    # Deflate finds what repeats, which differences would hide: try the plain numbers.
    deflated = _pack_deflate(values)
    return rice if len(rice) <= len(deflated) else deflated


def column_bits(values: Sequence[int]) -> int:
    """About how many bits ``pack_column`` needs: cheap enough to choose between two forms of a column."""
    if not values or values.count(values[0]) == len(values):
        return 0
    return _best_order(values)[0]


def _best_order(values: Sequence[int]) -> tuple[int, int]:
    """Bits and order of the differences that pack best."""
    best = (1 << 62, 0)
    rest = list(values)
    for order in range(min(MAX_ORDER, len(values) - 1) + 1):
        if order:
            rest = [b - a for a, b in pairwise(rest)]
        unsigned = [zigzag(v) for v in rest]
        best = min(best, (_rice_bits(unsigned, _usual_width(unsigned)), order))
    return best


def _pack_rice(values: Sequence[int], order: int) -> bytes:
    firsts, rest = [], list(values)
    for _ in range(order):
        firsts.append(rest[0])
        rest = [b - a for a, b in pairwise(rest)]
    unsigned = [zigzag(v) for v in rest]
    around = _usual_width(unsigned)
    widths = range(max(0, around - 1), min(MAX_RICE_BITS, around + 1) + 1)
    width = min(widths, key=lambda w: _rice_bits(unsigned, w))
    return bytes((Packing.RICE | order << 4, width)) + varints(firsts) + _rice(unsigned, width)


def _pack_deflate(values: Sequence[int]) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = packer.compress(varints(values)) + packer.flush()
    return bytes((Packing.DEFLATE,)) + varints((len(deflated),)) + deflated


def _usual_width(unsigned: Sequence[int]) -> int:
    """Plain low bits per number. The median resists the few jumps (a new day, a gap), which are escaped."""
    middle = sorted(unsigned)[len(unsigned) // 2]
    return min(MAX_RICE_BITS, max(0, middle.bit_length() - 1))


def _rice_bits(unsigned: Sequence[int], width: int) -> int:
    limit = _ESCAPE << width
    jumps = [v for v in unsigned if v >= limit]
    usual = sum([v >> width for v in unsigned if v < limit]) + (1 + width) * (len(unsigned) - len(jumps))
    return usual + sum(_ESCAPE + _LENGTH_BITS + v.bit_length() for v in jumps)


def _rice(unsigned: Sequence[int], width: int) -> bytes:
    parts = []
    for value in unsigned:
        ones = value >> width
        if ones >= _ESCAPE:
            parts.append("1" * _ESCAPE + f"{value.bit_length():07b}{value:b}")
        elif width:
            parts.append("1" * ones + f"0{value & ((1 << width) - 1):0{width}b}")
        else:
            parts.append("1" * ones + "0")
    bits = "".join(parts)
    size = (len(bits) + 7) // 8
    # A first bit keeps leading zeros; the reader needs no length of its own beyond the bytes'.
    return varints((size,)) + int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big")


class ColumnWriter:
    """Collects numbers, texts and columns; ``bytes(writer)`` is the result."""

    def __init__(self) -> None:
        self._out = bytearray()

    def __bytes__(self) -> bytes:
        return bytes(self._out)

    def number(self, value: int) -> None:
        """One signed integer."""
        self._out += varints((value,))

    def text(self, value: str) -> None:
        """Length and UTF-8."""
        data = value.encode()
        self.number(len(data))
        self._out += data

    def raw(self, data: bytes) -> None:
        """Bytes whose length the reader knows."""
        self._out += data

    def column(self, values: Sequence[int]) -> None:
        """Many integers, in the smallest packing."""
        self._out += pack_column(values)


class ColumnReader:
    """Reads what ColumnWriter wrote; DecodeError (and nothing else) for any other bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        return self._numbers(1)[0]

    def size(self, limit: int) -> int:
        """A number that counts something: 0..limit."""
        value = self.number()
        if not 0 <= value <= limit:
            raise DecodeError("counts more than it can hold")
        return value

    def text(self) -> str:
        try:
            return self.raw(self.size(_MAX_TEXT_BYTES)).decode()
        except UnicodeDecodeError:
            raise DecodeError("holds a text that is not UTF-8") from None

    def raw(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise DecodeError("ends too early")
        data = self._data[self._at : end]
        self._at = end
        return data

    def column(self, count: int) -> list[int]:
        """``count`` integers."""
        if not count:
            return []
        head = self.raw(1)[0]
        packing, order = head & 15, head >> 4
        if packing == Packing.CONSTANT and not order:
            return self._numbers(1) * count
        if packing == Packing.DEFLATE and not order:
            inner = ColumnReader(_inflate(self.raw(self.size(len(self._data))), 20 * count))
            values = inner._numbers(count)
            inner.end()
            return values
        if packing != Packing.RICE or order > min(MAX_ORDER, count - 1):
            raise DecodeError("names an unknown packing")
        width = self.raw(1)[0]
        firsts = self._numbers(order)
        values = _unrice(self.raw(self.size(len(self._data))), width, count - order)
        for first in reversed(firsts):
            values = list(accumulate(values, initial=first))
        return values

    def end(self) -> None:
        """DecodeError when something is left."""
        if self._at != len(self._data):
            raise DecodeError("holds more than it names")

    def _numbers(self, count: int) -> list[int]:
        data, at = self._data, self._at
        out = []
        try:
            for _ in range(count):
                byte = data[at]
                at += 1
                value = byte & 127
                shift = 7
                while byte > 127:
                    byte = data[at]
                    at += 1
                    value |= (byte & 127) << shift
                    shift += 7
                    if shift > _MAX_SHIFT:
                        raise DecodeError("holds a number without end")
                out.append(unzigzag(value))
        except IndexError:
            raise DecodeError("ends too early") from None
        self._at = at
        return out


def _inflate(packed: bytes, limit: int) -> bytes:
    try:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        plain = unpacker.decompress(packed, limit)
    except zlib.error:
        raise DecodeError("cannot be inflated") from None
    if not unpacker.eof or unpacker.unused_data:
        raise DecodeError("ends too early or holds too much")
    return plain


def _unrice(packed: bytes, width: int, count: int) -> list[int]:
    if width > MAX_RICE_BITS:
        raise DecodeError("names an unknown packing")
    size = 8 * len(packed)
    # Text is the fastest bit reader that plain Python has: find() runs in C.
    bits = f"{int.from_bytes(packed, 'big'):0{size}b}" if size else ""
    at, out = 0, []
    for _ in range(count):
        stop = bits.find("0", at, at + _ESCAPE)
        if stop < 0:
            start = at + _ESCAPE + _LENGTH_BITS
            if start > size:
                raise DecodeError("ends too early")
            at = start + int(bits[start - _LENGTH_BITS : start], 2)
            value = int(bits[start:at] or "0", 2)
        else:
            start = stop + 1
            value = stop - at << width
            at = start + width
            if width and at <= size:
                value |= int(bits[start:at], 2)
        if at > size:
            raise DecodeError("ends too early")
        out.append(unzigzag(value))
    if size - at >= 8 or "1" in bits[at:]:
        raise DecodeError("holds more than it names")
    return out
