"""Packed integers come back exactly, and foreign bytes end in DecodeError."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DecodeError
from edge.store.columns import ColumnReader, ColumnWriter, Habits, Packing, pack_column, plan_column

NUMBERS = st.one_of(st.integers(-3, 3), st.integers(-1000, 1000), st.integers(-(1 << 66), 1 << 66))


@given(st.lists(st.lists(NUMBERS, max_size=60), max_size=4), st.text(max_size=20))
def test_columns_and_texts_come_back(columns: list[list[int]], text: str) -> None:
    out = ColumnWriter()
    for column in columns:
        out.column(column)
    out.text(text)
    reader = ColumnReader(bytes(out))
    assert [reader.column(len(column)) for column in columns] == columns
    assert reader.text() == text
    reader.end()


WALK = list(accumulate((n * n * 7919 >> 5) % 7 - 3 for n in range(500)))


@pytest.mark.parametrize(
    ("values", "packing", "most_bytes"),
    [
        ([7] * 500, Packing.CONSTANT, 2),
        ([1_700_000_000 + 300 * n for n in range(500)], Packing.CONSTANT, 10),  # steps
        ([0] * 500, Packing.ZERO, 1),
        (list(range(500)), Packing.COUNT, 1),
        # a minute late for a day: nothing but two changes
        ([300 * n + 60 * (n > 99) - 60 * (n > 399) for n in range(500)], Packing.GRID, 25),
        (WALK, Packing.RICE, 215),  # steps of seven sizes: 2.8 bits
        (
            [(n * n * 2_654_435_761 >> 7) % 1000 for n in range(500)],
            Packing.FIXED,
            635,
        ),  # flat noise: 10 bits
        ([0, 1, 2] * 200, Packing.DEFLATE, 20),  # a pattern
        (
            [(n * n * 2_654_435_761 >> 7) % 13 for n in range(500)],
            Packing.LOWEST,
            320,
        ),  # one-sided noise of 13 values: 3.7 bits
        # 10 bits of jitter of its own on each, a gap of two days and a pace that must be found: 10.6 bits
        (
            [1_700_000 * n + n * n * 7919 % 1009 + 170_000_000_000 * (n > 99) for n in range(500)],
            Packing.GRID,
            750,
        ),
    ],
)
def test_each_packing_serves_what_it_is_for(values: list[int], packing: Packing, most_bytes: int) -> None:
    packed = pack_column(values)
    assert packed[0] & 15 == packing
    assert len(packed) <= most_bytes


def test_a_column_unlike_its_middle_is_packed_as_it_is() -> None:
    calm, wild = [100 + n % 3 for n in range(200)], [n * n * 7919 % 100_003 for n in range(150)]
    assert len(pack_column(wild + calm + wild)) < len(pack_column(wild + wild)) + len(pack_column(calm)) * 4


def test_habits_are_given_up_when_they_do_not_serve() -> None:
    habits = Habits()
    calm, wild = [n % 3 for n in range(300)], [n * n * 7919 % 100_003 for n in range(300)]
    for values in (calm, wild, calm, WALK[:4], WALK, wild):
        packed = plan_column(values, habits=habits, name="x").pack()
        assert ColumnReader(packed).column(len(values)) == values
        if values is wild:  # what follows a habit of longer numbers is only not as short as it might be
            assert len(packed) <= 1.05 * len(pack_column(values))


def test_one_far_jump_does_not_widen_a_whole_column() -> None:
    steady = [n % 5 for n in range(250)]
    assert len(pack_column([*steady, 10**15, *steady])) < len(pack_column(steady + steady)) + 40


@given(st.binary(max_size=80), st.integers(0, 40))
def test_any_bytes_give_a_value_or_a_decode_error(data: bytes, count: int) -> None:
    reader = ColumnReader(data)
    try:
        assert len(reader.column(count)) == count
        reader.text()
        reader.end()
    except DecodeError:
        pass


@given(st.lists(st.integers(-50, 5000), min_size=3, max_size=40), st.data())
def test_a_cut_column_is_refused(values: list[int], data: st.DataObject) -> None:
    packed = pack_column(values)
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    with pytest.raises(DecodeError):
        ColumnReader(cut).column(len(values))


def test_an_endless_number_is_refused() -> None:
    with pytest.raises(DecodeError, match="without end"):
        ColumnReader(b"\xff" * 100).number()


def test_a_grid_within_a_grid_is_refused() -> None:
    with pytest.raises(DecodeError, match="unknown packing"):
        ColumnReader(bytes((Packing.GRID, 2)) * 500).column(9)


@pytest.mark.parametrize("head", [0x0F, 0x20, 0x31, 0x12, 0x13, 0x14, 0x05])
def test_an_unknown_packing_is_refused(head: int) -> None:
    with pytest.raises(DecodeError, match="unknown packing"):
        ColumnReader(bytes((head, 0, 0, 0, 0))).column(9)


@pytest.mark.parametrize(("size", "body"), [(2, b"\x00\x00"), (1, b"\x40")])
def test_bytes_or_bits_left_over_within_a_column_are_refused(size: int, body: bytes) -> None:
    head = bytes((Packing.RICE, 0))  # order 0, width 0: the number 0 is a single zero bit
    assert ColumnReader(head + b"\x02\x00").column(1) == [0]
    with pytest.raises(DecodeError, match="more than it names"):
        ColumnReader(head + bytes((2 * size,)) + body).column(1)
