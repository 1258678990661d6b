"""Wall times, zones and daylight saving."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DecodeError
from edge.ble.profiles.moments import DateTime, ZonedTime, utc_us
from edge.ble.profiles.wire import Reader

ZONES = (
    "UTC",
    "Europe/London",
    "Europe/Dublin",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Kiritimati",
)
LONDON = ZoneInfo("Europe/London")


def us(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[misc,arg-type]


@given(second=st.integers(1_300_000_000, 2_000_000_000), zone=st.sampled_from(ZONES))
def test_a_moment_written_for_a_sensor_reads_back_to_the_second(second: int, zone: str) -> None:
    written = ZonedTime.local(second * 1_000_000 + 999_999, ZoneInfo(zone))
    read = ZonedTime.read(Reader(bytes(written), "x"), "x")
    assert read == written
    assert read.utc_us(ZoneInfo("Asia/Tokyo")) == (second * 1_000_000, False)


def test_wall_time_without_zone_is_the_persons() -> None:
    start = ZonedTime(DateTime(2026, 7, 1, 8))
    assert start.utc_us(LONDON) == (us(2026, 7, 1, 7), False)


def test_zone_of_the_device_wins_over_the_persons() -> None:
    start = ZonedTime(DateTime(2026, 7, 1, 8), -20, 4)
    assert start.utc_us(LONDON) == (us(2026, 7, 1, 12), False)


@pytest.mark.parametrize(
    ("wall", "doubtful"),
    [
        (DateTime(2026, 10, 25, 0, 59), False),
        (DateTime(2026, 10, 25, 1, 30), True),  # happens twice
        (DateTime(2026, 3, 29, 1, 30), True),  # never happens
        (DateTime(2026, 3, 29, 2, 0), False),
    ],
)
def test_hours_that_happen_twice_or_never_are_doubtful(wall: DateTime, doubtful: bool) -> None:
    wall_us = wall.wall_us()
    assert wall_us is not None
    assert utc_us(wall_us, LONDON)[1] is doubtful


@pytest.mark.parametrize("at", [DateTime(0, 1, 1), DateTime(2026, 0, 1), DateTime(2026, 1, 0)])
def test_unknown_date_has_no_microseconds(at: DateTime) -> None:
    assert at.wall_us() is None
    assert ZonedTime(at, 0, 0).utc_us(LONDON) is None


@given(data=st.binary(min_size=9, max_size=9), zone=st.sampled_from(ZONES))
def test_any_accepted_moment_has_microseconds_or_none(data: bytes, zone: str) -> None:
    try:
        moment = ZonedTime.read(Reader(data, "x"), "x")
    except DecodeError:
        return
    moment.utc_us(ZoneInfo(zone))


@given(
    year=st.integers(1582, 9999),
    month=st.integers(1, 12),
    day=st.integers(1, 31),
    zone=st.sampled_from(ZONES),
    zone_known=st.booleans(),
)
def test_far_years_do_not_overflow(year: int, month: int, day: int, zone: str, zone_known: bool) -> None:
    at = DateTime(year, month, day, 23, 59, 59)
    ZonedTime(at, 0 if zone_known else -128, 0).utc_us(ZoneInfo(zone))
