"""Bytes against vectors worked out by hand from the specifications."""

import datetime as dt
import math
from zoneinfo import ZoneInfo

import pytest

from firmware_sim.octets import (
    crc16,
    crc_holds,
    current_time,
    date_time,
    dst_offset,
    parse_date_time,
    sfloat,
    time_zone,
    u24,
    utc_time,
    utc_us,
    with_crc,
)


@pytest.mark.parametrize(
    ("value", "octets"),
    [
        (0.0, "0000"),
        (114.0, "7200"),  # IEEE 11073-20601 example: 114 = 0x0072
        (120.0, "7800"),
        (36.4, "6cf1"),  # 364 x 10^-1: exponent 0xF, mantissa 0x16C
        (0.97, "61e0"),  # 97 x 10^-2: exponent 0xE
        (284.69, "1d01"),  # four digits do not fit below 2046: 285
        (204.5, "fdf7"),  # 2045 x 10^-1, the largest mantissa
        (-1.0, "ff0f"),  # mantissa -1 = 0xFFF, exponent 0
        (1.2e-3, "0cc0"),  # 12 x 10^-4: exponent 0xC; 120 mg/dL in kg/L
        (5e-6, "05a0"),  # half a unit of U-100 in litres
        (20450.0, "fd17"),  # 2045 x 10^1
        (1e-12, "0000"),  # below the format's resolution
    ],
)
def test_sfloat_is_exponent_over_mantissa_least_significant_octet_first(value: float, octets: str) -> None:
    assert sfloat(value).hex() == octets


@pytest.mark.parametrize(
    ("value", "octets"), [(math.nan, "ff07"), (math.inf, "fe07"), (-math.inf, "0208"), (1e12, "fe07")]
)
def test_sfloat_special_values_have_their_reserved_codes(value: float, octets: str) -> None:
    assert sfloat(value).hex() == octets


def test_sfloat_never_writes_a_finite_value_as_a_special_one() -> None:
    for mantissa in range(-2100, 2101):
        code = int.from_bytes(sfloat(mantissa / 10), "little") & 0xFFF
        assert code not in (0x7FE, 0x7FF, 0x800, 0x801, 0x802)


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"123456789", 0x6F91),  # the catalogue's check value of CRC-16/MCRF4XX
        (b"\0\0", 0xF0B8),
        (b"\1\0\0", 0x63EF),
        (bytes.fromhex("130100e2070606 0e350e0000 54b019"), 0x8368),
    ],
)
def test_crc_is_ccitt_least_significant_bit_first_seeded_with_ones(data: bytes, crc: int) -> None:
    assert crc16(data) == crc
    assert with_crc(data) == data + bytes([crc & 0xFF, crc >> 8])
    assert crc_holds(with_crc(data))
    assert not crc_holds(data + bytes([crc & 0xFF, crc >> 8 ^ 1]))


def test_date_time_is_year_first_then_single_octets() -> None:
    moment = dt.datetime(2023, 10, 12, 13, 14, 15, tzinfo=dt.UTC)
    assert date_time(moment).hex() == "e7070a0c0d0e0f"
    assert parse_date_time(date_time(moment)) == moment.replace(tzinfo=None)
    with pytest.raises(ValueError, match="octets"):
        parse_date_time(b"\0")
    with pytest.raises(ValueError, match="month"):
        parse_date_time(bytes.fromhex("e7070d01000000"))


def test_zone_and_saving_are_quarters_of_an_hour() -> None:
    summer = dt.datetime(2023, 7, 1, 12, tzinfo=ZoneInfo("Europe/London"))
    winter = dt.datetime(2023, 12, 1, 12, tzinfo=ZoneInfo("America/St_Johns"))
    assert (time_zone(summer), dst_offset(summer)) == (b"\x00", b"\x04")
    assert (time_zone(winter), dst_offset(winter)) == (b"\xf2", b"\x00")  # -3.5 h = -14 quarters


def test_current_time_has_monday_as_one_and_fractions_of_256() -> None:
    moment = dt.datetime(2023, 10, 9, 0, 0, 0, 500_000, tzinfo=dt.UTC)  # a Monday
    assert current_time(moment).hex() == "e7070a09000000" + "01" + "80" + "00"


def test_time_conversions_are_exact() -> None:
    time_us = 1_697_068_800_123_457
    assert utc_us(utc_time(time_us)) == time_us
    assert u24(0x3200) == b"\x00\x32\x00"
