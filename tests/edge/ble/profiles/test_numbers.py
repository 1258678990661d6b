"""Numbers, CRC and code words against slow and independent routes."""

from __future__ import annotations

import binascii
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.ble.profiles.ieee11073 import Float32, SFloat, Special
from edge.ble.profiles.insulin import OCTET_CODES, WORD_CODES, next_counter
from edge.ble.profiles.insulin_history import EventType
from edge.ble.profiles.wire import crc16, with_crc


def twos_complement(text: str) -> int:
    return int(text, 2) - (1 << len(text) if text[0] == "1" else 0)


def test_every_sfloat_word_is_the_nearest_float_of_its_decimal_or_special() -> None:
    special = {0x07FF, 0x0800, 0x0801, 0x0802, 0x07FE}
    for word in range(0x10000):
        bits = f"{word:016b}"
        value = SFloat(word)
        if word in special:
            assert value.number is None
            assert value.special is not None
            continue
        exact = Decimal(twos_complement(bits[4:])) * Decimal(10) ** twos_complement(bits[:4])
        assert value.number == float(exact), hex(word)
        assert value.scaled(5) == float(exact * 100_000), hex(word)
        assert value.special is None


@given(word=st.integers(0, 0xFFFFFFFF))
def test_float32_is_the_nearest_float_of_its_decimal(word: int) -> None:
    bits = f"{word:032b}"
    value = Float32(word)
    if value.special is None:
        exact = Decimal(twos_complement(bits[8:])) * Decimal(10) ** twos_complement(bits[:8])
        assert value.number == float(exact)
    else:
        assert value.number is None


def test_special_values_never_turn_into_numbers_by_scaling() -> None:
    for word in (0x07FF, 0x0800, 0x0801, 0x0802, 0x07FE):
        assert SFloat(word).scaled(5) is None
    assert SFloat(0x07FE).special is Special.PLUS_INF


@given(mantissa=st.integers(-2048, 2047), exponent=st.integers(-8, 7))
def test_of_makes_the_word_of_mantissa_and_exponent(mantissa: int, exponent: int) -> None:
    value = SFloat.of(mantissa, exponent)
    if value.special is None:
        assert value.number == float(Decimal(mantissa) * Decimal(10) ** exponent)


def test_crc_equals_the_example_of_the_specifications() -> None:
    assert with_crc(bytes.fromhex("3E010203040506070809"))[-2:] == bytes.fromhex("012F")


@given(data=st.binary(max_size=64))
def test_crc_equals_the_library_route_over_reversed_octets(data: bytes) -> None:
    turned = bytes(int(f"{octet:08b}"[::-1], 2) for octet in data)
    assert crc16(data) == int(f"{binascii.crc_hqx(turned, 0xFFFF):016b}"[::-1], 2)


def test_code_words_are_those_of_the_insulin_delivery_service() -> None:
    """IDS 1.0.2 section 5 lists 15 octet codes and 2047 word codes; each differs from all in 4 bits."""
    words: list[int] = [0]
    for value in range(1, 0x400):  # the greedy code of distance 4, slowly
        if all((value ^ word).bit_count() >= 4 for word in words):
            words.append(value)
    assert {word for word in WORD_CODES if word < 0x400} == set(words) - {0}
    assert {0xFF96, 0xFF99, 0xFFA5, 0xFFAA, 0xFFC3, 0xFFCC, 0xFFF0, 0xFFFF} <= WORD_CODES
    assert len(WORD_CODES) == 2047
    assert len(OCTET_CODES) == 15
    assert all(event in WORD_CODES for event in EventType)


def test_every_single_bit_error_in_an_event_type_is_noticed() -> None:
    for event in EventType:
        for bit in range(16):
            assert event ^ (1 << bit) not in WORD_CODES


@pytest.mark.parametrize(("counter", "following"), [(0, 1), (1, 2), (254, 255), (255, 1)])
def test_protection_counter_skips_zero(counter: int, following: int) -> None:
    assert next_counter(counter) == following
