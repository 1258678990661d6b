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
from collections.abc import Callable, Hashable, Sequence
from enum import IntEnum
from functools import cache, partial
from itertools import accumulate
from operator import sub
from typing import Final, NamedTuple

from core.errors import DecodeError

MAX_ORDER: Final = 2  # differences of differences; a third order only amplifies noise
MAX_RICE_BITS: Final = 63
MAX_FIXED_BITS: Final = 140
_ESCAPE: Final = 24  # this many ones announce a length (7 bits) and the number itself: for rare jumps
_LENGTH_BITS: Final = 7
_MAX_SHIFT: Final = 140  # 20 bytes of 7 bits: far beyond any difference of differences of 64-bit numbers
_MAX_TEXT_BYTES: Final = 1024
# Where looking for a better packing costs more time than it saves space.
_FEW_BITS: Final = 64  # small in any packing
_REPEATS: Final = 16  # deflate needs numbers that occur so often
_NOISE_BITS: Final = 8  # a grid pays where a number costs more
_FLAT_PARTS: Final = 4  # a quarter of a bit a number is not worth looking for
# Settings are found in the middle of a long column: on all of it they would take longer than all the rest.
_FEW, _NEAR = 4, 4096  # so few, and so near each other, that ways differ by a byte or two
_ALL: Final = 128
_SAMPLE: Final = 96
_SURPRISE: Final = 10  # bits where 8 were expected
_LEAST_SURPRISE: Final = 64 * 8  # 64 times the bytes
_HABIT_USES: Final = 512  # columns, of some 30 segments; then all are found anew
_TABLE_WIDTH: Final = 5  # Rice codes up to this width are looked up


class Packing(IntEnum):
    """How the numbers of a column are written. Never renumber."""

    CONSTANT = 0  # or with constant differences
    RICE = 1
    DEFLATE = 2
    LOWEST = 3  # Rice codes of what lies above the lowest
    GRID = 4  # beats of a steady pace, and how far off each is
    FIXED = 5  # equal bits for each number above the lowest
    ZERO = 6  # nothing but 0
    COUNT = 7  # 0, 1, 2 …


def _zigzags(values: Sequence[int]) -> list[int]:
    """0, -1, 1, -2, 2 … as 0, 1, 2, 3, 4 …"""
    return [v << 1 if v >= 0 else ~(v << 1) for v in values]


def unzigzag(value: int) -> int:
    """The inverse of ``_zigzags``."""
    return -((value + 1) >> 1) if value & 1 else value >> 1


def varints(values: Sequence[int]) -> bytes:
    """Zigzag numbers, seven bits a byte, least first."""
    unsigned = _zigzags(values)
    if not unsigned or max(unsigned) < 128:
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


class _Way(NamedTuple):
    """A packing with its settings, found on some of the numbers."""

    bits: int  # about, of those numbers
    pack: Callable[[list[int]], bytes]


class Habits:
    """The ways that served columns before, by name: finding one takes as long as packing by it.

    A way that has grown too long for its column is found anew at once, any other now and then.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[_Way, int]] = {}  # and of how many numbers it was
        self._uses = 0

    def get(self, name: Hashable) -> tuple[_Way, int] | None:
        self._uses += 1
        if self._uses % _HABIT_USES == 0:
            self._known.clear()
        return self._known.get(name)

    def set(self, name: Hashable, way: _Way, count: int) -> None:
        self._known[name] = way, count


def pack_column(values: list[int]) -> bytes:
    """A small writing of ``values``; the reader must know how many there are."""
    return plan_column(values).pack()


def plan_column(
    values: list[int], *, grid: bool = True, habits: Habits | None = None, name: Hashable = None
) -> Plan:
    """The packing of ``values``, so that one form of a column can be weighed against another.

    ``grid``: a steady pace is looked for, which takes as long as all the rest. ``habits`` of the column ``name``
    are followed.
    """
    if not values:
        return Plan(0, bytes)
    count, first, last = len(values), values[0], values[-1]
    if first == last:
        if values.count(first) == count:
            return Plan(0, partial(_pack_constant, [first]))
    else:
        step = values[1] - first
        if last - first == step * (count - 1) and values == list(range(first, last + step, step)):
            return Plan(0, partial(_pack_constant, [first, step]))
    if count <= _FEW and max(values) - min(values) <= _NEAR:
        return Plan(8 * count, partial(_pack_fixed, values))
    if known := habits and habits.get(name):
        way, found_on = known
    else:
        begin = max(0, (count - _SAMPLE) // 2) if count > _ALL else 0
        sample = values[begin : begin + _SAMPLE] if count > _ALL else values
        if sample.count(sample[0]) == len(sample):
            sample = values
        way, found_on = _best_way(sample, grid), len(sample)
        if habits:
            habits.set(name, way, found_on)
    bits = way.bits * count // found_on

    def pack() -> bytes:
        packed = way.pack(values)
        if 64 * len(packed) <= _SURPRISE * bits + _LEAST_SURPRISE:
            return packed
        better = _best_way(values, grid)  # the other numbers did not tell of these
        if habits:
            habits.set(name, better, count)
        return min(packed, better.pack(values), key=len)

    return Plan(bits, pack)


def _best_way(values: list[int], grid: bool) -> _Way:
    """``values``: two or more, not all equal."""
    steps = _differences(values)
    second = _differences(steps)
    lengths = _length(values), _length(steps), _length(second)
    ways = []
    if grid and lengths[1] > _NOISE_BITS * len(values):
        ways = _grid_ways(values, steps)
        # A Rice code is longer than its number by a bit or more.
        if ways and ways[0].bits < min(lengths) + len(values):
            return ways[0]
    ways.append(_rice_way(values, (steps, second), lengths))
    if ways[-1].bits > _FEW_BITS and len(set(values)) * _REPEATS <= len(values):
        # Deflate finds what repeats, which differences would hide: try the plain numbers.
        ways.append(_Way(8 * len(_pack_deflate(values)), _pack_deflate))
    return min(ways, key=lambda way: way.bits)


def _differences(values: list[int]) -> list[int]:
    return list(map(sub, values[1:], values))


def _length(values: list[int]) -> int:
    return sum(map(int.bit_length, values))


def _pack_constant(numbers: list[int]) -> bytes:
    if numbers in ([0], [0, 1]):
        return bytes((Packing.ZERO if len(numbers) == 1 else Packing.COUNT,))
    return bytes((Packing.CONSTANT | len(numbers) - 1 << 4,)) + varints(numbers)


def _rice_way(
    values: list[int], differences: tuple[list[int], list[int]], lengths: tuple[int, int, int]
) -> _Way:
    """Rice codes of the numbers above the lowest, or of differences, in the width that needs the fewest bits; or
    equal bits for all above the lowest.
    """
    low, count = min(values), len(values)
    above = _above(values, low)
    # Lengths are what a far jump (a new day, a gap) does not spoil. A sign is one bit more.
    length, order = min((length + count - order, order) for order, length in enumerate(lengths))
    above_length = _length(above)
    each = (max(values) - low).bit_length()
    equal = _equal_way(values)
    # A Rice code is longer than its number by a bit or more.
    if each <= MAX_FIXED_BITS and each * count <= min(length, above_length) + count + count // _FLAT_PARTS:
        return equal
    lowest = above_length <= length
    bits, width = _rice_width(above if lowest else _zigzags((values, *differences)[order]))
    firsts = [low] if lowest else [values[0], *differences[0][:1]][:order]
    pack = partial(_pack_lowest, width) if lowest else partial(_pack_rice, order, width)
    rice = _Way(bits + 8 * len(varints(firsts)), pack)
    return equal if equal.bits <= rice.bits and each <= MAX_FIXED_BITS else rice


def _equal_way(values: list[int]) -> _Way:
    low = min(values)
    return _Way((max(values) - low).bit_length() * len(values) + low.bit_length(), _pack_fixed)


def _rice_width(unsigned: list[int]) -> tuple[int, int]:
    """Bits that Rice codes take, and the width that needs the fewest."""
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
    return best


def _above(values: list[int], low: int) -> list[int]:
    return [v - low for v in values] if low else values


def _pack_fixed(values: list[int]) -> bytes:
    low = min(values)
    width = (max(values) - low).bit_length()
    if width > MAX_FIXED_BITS:
        return _pack_rice(0, MAX_RICE_BITS, values)
    bits = (f"{{:0{width}b}}" * len(values)).format(*_above(values, low))
    return bytes((Packing.FIXED, width)) + varints((low,)) + _bytes_of(bits)


def _pack_lowest(width: int, values: list[int]) -> bytes:
    low = min(values)
    return bytes((Packing.LOWEST, width)) + varints((low,)) + _rice(_above(values, low), width)


def _pack_rice(order: int, width: int, values: list[int]) -> bytes:
    firsts = []
    for _ in range(order):
        firsts.append(values[0])
        values = _differences(values)
    return bytes((Packing.RICE | order << 4, width)) + varints(firsts) + _rice(_zigzags(values), width)


def _grid_ways(values: list[int], steps: list[int]) -> list[_Way]:
    """Beats of a steady pace and what is left: a number's noise is its own, and a gap is only a jump of beats."""
    usual = sorted(steps)[len(steps) // 2]
    span = values[-1] - values[0]
    if usual < 1 or span < usual:
        return []
    pace = span // ((span + usual // 2) // usual)
    found = []
    # A device's pace is a round number, and what was seen of it is not.
    for step in dict.fromkeys((round(pace, 3 - len(str(pace))), pace)):
        beats, rest = _on_grid(values, step)
        found.append((max(rest) - min(rest), step, beats, rest))
        if 2 * found[-1][0] < step:
            break
    spread, step, beats, _ = min(found)
    # Beats are mostly one after the other; what is left is mostly flat.
    bits = (
        8 * len(varints((step,)))
        + 2 * _length(_differences(_differences(beats)))
        + spread.bit_length() * len(values)
    )
    return [_Way(bits, partial(_pack_grid, step, Habits()))]


def _on_grid(values: list[int], step: int) -> tuple[list[int], list[int]]:
    start = values[0] - step // 2
    beats = [(v - start) // step for v in values]
    return beats, list(map(sub, values, map(step.__mul__, beats)))


def _pack_grid(step: int, habits: Habits, values: list[int]) -> bytes:
    parts = enumerate(_on_grid(values, step))
    packed = [plan_column(part, grid=False, habits=habits, name=place).pack() for place, part in parts]
    return bytes((Packing.GRID,)) + varints((step,)) + b"".join(packed)


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
    packed = _bytes_of(bits)
    # The reader needs no length of its own beyond the bytes'.
    return varints((len(packed),)) + packed


def _bytes_of(bits: str) -> bytes:
    """Most significant first, filled up with zeros."""
    size = (len(bits) + 7) // 8
    return int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big")


class ColumnWriter:
    """Collects numbers, texts and columns; ``bytes(writer)`` is the result."""

    def __init__(self) -> None:
        self._out = bytearray()

    def __bytes__(self) -> bytes:
        return bytes(self._out)

    def number(self, value: int) -> None:
        """One signed integer."""
        rest = value << 1 if value >= 0 else ~(value << 1)
        while rest > 127:
            self._out.append(rest & 127 | 128)
            rest >>= 7
        self._out.append(rest)

    def text(self, value: str) -> None:
        """Length and UTF-8."""
        data = value.encode()
        self.number(len(data))
        self._out += data

    def raw(self, data: bytes) -> None:
        """Bytes whose length the reader knows."""
        self._out += data

    def column(self, values: list[int]) -> None:
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
        if packing == Packing.ZERO and not order:
            return [0] * count
        if packing == Packing.COUNT and not order:
            return list(range(count))
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
        if packing == Packing.FIXED and not order:
            width, low = self.raw(1)[0], self.number()
            return [low + v for v in self._fixed(width, count)]
        if packing != Packing.RICE or order > min(MAX_ORDER, count - 1):
            raise DecodeError("names an unknown packing")
        width, firsts = self.raw(1)[0], self._numbers(order)
        return _summed([unzigzag(v) for v in self._rice(width, count - order)], firsts)

    def _rice(self, width: int, count: int) -> list[int]:
        return _unrice(self.raw(self.size(len(self._data))), width, count)

    def _fixed(self, width: int, count: int) -> list[int]:
        if not 0 < width <= MAX_FIXED_BITS:
            raise DecodeError("names an unknown packing")
        packed = self.raw((width * count + 7) // 8)
        bits, end = _bits_of(packed), width * count
        if "1" in bits[end:]:
            raise DecodeError("holds more than it names")
        return [int(bits[at : at + width], 2) for at in range(0, end, width)]

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


def _bits_of(packed: bytes) -> str:
    """The inverse of ``_bytes_of``. Text is the fastest bit reader that plain Python has: find() runs in C."""
    return f"{int.from_bytes(packed, 'big'):0{8 * len(packed)}b}" if packed else ""


def _unrice(packed: bytes, width: int, count: int) -> list[int]:
    if width > MAX_RICE_BITS:
        raise DecodeError("names an unknown packing")
    size = 8 * len(packed)
    bits = _bits_of(packed)
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
