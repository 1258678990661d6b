"""Columns of integers as few bits: differences, then Rice codes or deflate. The packing inside a segment.

Pure functions on bytes. Integers have no size limit here, so nothing can overflow; what is read is bounded.
Rice codes (R. F. Rice, JPL 79-22, 1979) suit readings: noise around zero with a width of its own per column,
and no table to pay for. Repeating patterns (which series comes next) go to deflate instead, and times that scatter
around a steady pace to a grid: their differences would hold the noise of two.

Packing is what a fold costs, so its loops are ``map``, ``sorted`` and ``join``, which run in C.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cache, partial
from itertools import accumulate
from operator import sub
from typing import Final, NamedTuple

from core.errors import DecodeError

MAX_ORDER: Final = 2  # differences of differences; a third order only amplifies noise
MAX_RICE_BITS: Final = 63
_ESCAPE: Final = 24  # this many ones announce a length (7 bits) and the number itself: for rare jumps
_LENGTH_BITS: Final = 7
_MAX_SHIFT: Final = 140  # 20 bytes of 7 bits: far beyond any difference of differences of 64-bit numbers
_MAX_TEXT_BYTES: Final = 1024
# Where looking for a better packing costs more time than it saves space.
_FEW_BITS: Final = 64  # small in any packing
_REPEATS: Final = 4  # deflate needs numbers that occur so often
_NOISE_BITS: Final = 8  # a grid pays where a number costs more
_TABLE_WIDTH: Final = 5  # Rice codes up to this width are looked up


class Packing(IntEnum):
    """How the numbers of a column are written. Never renumber."""

    CONSTANT = 0  # or with constant differences
    RICE = 1
    DEFLATE = 2
    LOWEST = 3  # Rice codes of what lies above the lowest
    GRID = 4  # beats of a steady pace, and how far off each is


def _zigzags(values: Sequence[int]) -> list[int]:
    """0, -1, 1, -2, 2 … as 0, 1, 2, 3, 4 …"""
    return [v << 1 if v >= 0 else ~(v << 1) for v in values]


def unzigzag(value: int) -> int:
    """The inverse of ``_zigzags``."""
    return -((value + 1) >> 1) if value & 1 else value >> 1


def varints(values: Sequence[int]) -> bytes:
    """Zigzag numbers, seven bits a byte, least first."""
    unsigned = _zigzags(values)
    if max(unsigned, default=0) < 128:
        return bytes(unsigned)
    out = bytearray()
    for rest in unsigned:
        while rest > 127:
            out.append(rest & 127 | 128)
            rest >>= 7
        out.append(rest)
    return bytes(out)


class Plan(NamedTuple):
    """How a column will be packed."""

    bits: int  # about
    pack: Callable[[], bytes]


def pack_column(values: Sequence[int]) -> bytes:
    """A small writing of ``values``; the reader must know how many there are."""
    return plan_column(values).pack()


def plan_column(values: Sequence[int], *, grid: bool = True) -> Plan:
    """The packing of ``values``, so that one form of a column can be weighed against another.

    ``grid``: a steady pace is looked for, which takes as long as all the rest.
    """
    return _plan(list(values), grid) if values else Plan(0, bytes)


def _plan(values: list[int], grid: bool) -> Plan:
    count = len(values)
    if values.count(values[0]) == count:
        return Plan(0, partial(_pack_constant, values[:1]))
    steps = list(map(sub, values[1:], values))
    if steps.count(steps[0]) == count - 1:
        return Plan(0, partial(_pack_constant, [values[0], steps[0]]))
    plans = [_plan_rice(values, steps)]
    if grid and plans[0].bits > _NOISE_BITS * count:
        plans += _plan_grid(values, steps)
    if len(set(values)) * _REPEATS <= count and plans[0].bits > _FEW_BITS:
        # Deflate finds what repeats, which differences would hide: try the plain numbers.
        packed = _pack_deflate(values)
        plans.append(Plan(8 * len(packed), lambda: packed))
    return min(plans, key=lambda plan: plan.bits)


def _pack_constant(numbers: list[int]) -> bytes:
    return bytes((Packing.CONSTANT | len(numbers) - 1 << 4,)) + varints(numbers)


def _plan_rice(values: list[int], steps: list[int]) -> Plan:
    """Rice codes of the numbers above the lowest, or of differences, in the width that needs the fewest bits."""
    low, second = min(values), list(map(sub, steps[1:], steps))
    above = [v - low for v in values]
    # Lengths are what a far jump (a new day, a gap) does not spoil. A sign is one bit more.
    signed = ((values, 0), (steps, 1), (second, 2))
    length, order = min((sum(map(int.bit_length, rest)) + len(rest), order) for rest, order in signed)
    if sum(map(int.bit_length, above)) <= length:
        head, firsts, unsigned = int(Packing.LOWEST), [low], above
    else:
        firsts = [values[0], steps[0]][:order]
        head, unsigned = Packing.RICE | order << 4, _zigzags(signed[order][0])
    ordered = sorted(unsigned)
    around = max(0, ordered[len(ordered) // 2].bit_length() - 1)
    best = (1 << 62, 0)
    for width in range(max(0, around - 1), min(MAX_RICE_BITS, around + 1) + 1):
        limit = _ESCAPE << width
        usual = len(ordered) if ordered[-1] < limit else bisect_left(ordered, limit)
        # Shifting each number and not their sum would drop half a one of each.
        ones = (sum(ordered[:usual]) >> width) - (usual // 2 if width else 0)
        jumps = sum([_ESCAPE + _LENGTH_BITS + v.bit_length() for v in ordered[usual:]])
        best = min(best, (ones + usual * (1 + width) + jumps, width))
    bits, width = best
    numbers = varints(firsts)
    return Plan(bits + 8 * len(numbers), lambda: bytes((head, width)) + numbers + _rice(unsigned, width))


def _plan_grid(values: list[int], steps: list[int]) -> list[Plan]:
    """Beats of a steady pace and what is left: a number's noise is its own, and a gap is only a jump of beats."""
    usual = sorted(steps)[len(steps) // 2]
    span = values[-1] - values[0]
    if usual < 1 or span < usual:
        return []
    pace = span // ((span + usual // 2) // usual)
    plans = []
    # A device's pace is a round number, and what was seen of it is not.
    for step in (round(pace, 3 - len(str(pace))), pace):
        start = values[0] - step // 2
        beats = [(v - start) // step for v in values]
        rest = [v - step * beat for v, beat in zip(values, beats, strict=True)]
        plans.append((max(rest) - min(rest), step, beats, rest))
    _, step, beats, rest = min(plans)
    head = bytes((Packing.GRID,)) + varints((step,))
    parts = _plan(beats, grid=False), _plan(rest, grid=False)
    bits = 8 * len(head) + sum(part.bits for part in parts)
    return [Plan(bits, lambda: head + b"".join(part.pack() for part in parts))]


def _pack_deflate(values: list[int]) -> bytes:
    # A small window is enough and sooner ready.
    packer = zlib.compressobj(9, zlib.DEFLATED, -12, 5)
    deflated = packer.compress(varints(values)) + packer.flush()
    return bytes((Packing.DEFLATE,)) + varints((len(deflated),)) + deflated


@cache
def _codes(width: int) -> list[str]:
    """Codes of all numbers of a width that are not escaped."""
    return [_code(value, width) for value in range(_ESCAPE << width)]


def _code(value: int, width: int) -> str:
    if value >> width >= _ESCAPE:
        return "1" * _ESCAPE + f"{value.bit_length():0{_LENGTH_BITS}b}{value:b}"
    # A bit above the low ones keeps their leading zeros; then it goes.
    low = format(value & (1 << width) - 1 | 1 << width, "b")[1:]
    return "1" * (value >> width) + "0" + low


def _rice(unsigned: list[int], width: int) -> bytes:
    if width > _TABLE_WIDTH:
        bits = "".join([_code(value, width) for value in unsigned])
    else:
        codes, limit = _codes(width), _ESCAPE << width
        bits = "".join([codes[value] if value < limit else _code(value, width) for value in unsigned])
    size = (len(bits) + 7) // 8
    # The reader needs no length of its own beyond the bytes'.
    return varints((size,)) + int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big")


class ColumnWriter:
    """Collects numbers, texts and columns; ``bytes(writer)`` is the result."""

    def __init__(self) -> None:
        self._out = bytearray()

    def __bytes__(self) -> bytes:
        return bytes(self._out)

    def number(self, value: int) -> None:
        """One signed integer."""
        if 0 <= value < 64:
            self._out.append(value << 1)
        else:
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

    def planned(self, plan: Plan) -> None:
        """A column whose packing was weighed before."""
        self._out += plan.pack()


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

    def column(self, count: int, *, within_grid: bool = False) -> list[int]:
        """``count`` integers."""
        if not count:
            return []
        head = self.raw(1)[0]
        packing, order = head & 15, head >> 4
        if packing == Packing.CONSTANT and order <= min(1, count - 1):
            *firsts, constant = self._numbers(order + 1)
            return _summed([constant] * (count - order), firsts)
        if packing == Packing.DEFLATE and not order:
            inner = ColumnReader(_inflate(self.raw(self.size(len(self._data))), 20 * count))
            values = inner._numbers(count)
            inner.end()
            return values
        if packing == Packing.GRID and not order and not within_grid:
            step = self.number()
            beats, rest = self.column(count, within_grid=True), self.column(count, within_grid=True)
            return [step * beat + more for beat, more in zip(beats, rest, strict=True)]
        if packing == Packing.LOWEST and not order:
            width, low = self.raw(1)[0], self.number()
            return [low + v for v in self._rice(width, count)]
        if packing != Packing.RICE or order > min(MAX_ORDER, count - 1):
            raise DecodeError("names an unknown packing")
        width, firsts = self.raw(1)[0], self._numbers(order)
        return _summed([unzigzag(v) for v in self._rice(width, count - order)], firsts)

    def _rice(self, width: int, count: int) -> list[int]:
        return _unrice(self.raw(self.size(len(self._data))), width, count)

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


def _summed(values: list[int], firsts: list[int]) -> list[int]:
    """The inverse of taking differences, once for each of ``firsts``."""
    for first in reversed(firsts):
        values = list(accumulate(values, initial=first))
    return values


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
        out.append(value)
    if size - at >= 8 or "1" in bits[at:]:
        raise DecodeError("holds more than it names")
    return out
