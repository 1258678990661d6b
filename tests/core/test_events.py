"""The event file: local times become UTC, and every mistake is named by its line."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.events import parse_events

LONDON = ZoneInfo("Europe/London")


def utc(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1e6)


def test_naive_times_are_local_and_order_does_not_matter() -> None:
    lines = ["time,kind,value", "2026-07-01T12:05:00,carbs_g,40", "2026-07-01T12:00:00,cgm_mgdl,120.5"]
    first, second = parse_events(lines, LONDON, "x.csv")
    assert (first.time_us, first.kind, first.value) == (utc("2026-07-01T11:00:00"), "cgm_mgdl", 120.5)
    assert second.kind == "carbs_g"


def test_a_zone_in_the_file_wins() -> None:
    (sample,) = parse_events(["time,kind,value", "2026-07-01T12:00:00+02:00,bolus_u,4"], LONDON, "x")
    assert sample.time_us == utc("2026-07-01T10:00:00")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("2026-07-01T12:00:00,sugar,4", "unknown kind"),
        ("2026-07-01T12:00:00,bolus_u,-4", "outside"),
        ("2026-07-01T12:00:00,bolus_u,nan", "outside"),
        ("2026-07-01T12:00:00,bolus_u,four", "not a number"),
        ("2026-07-01T12:00:00,bolus_u,1_2", "not a number"),  # Python would read 12
        ("yesterday,bolus_u,4", "not ISO 8601"),
        ("2026-07-01T12:00:00,bolus_u", "2 columns"),
    ],
)
def test_a_wrong_line_is_named(line: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        parse_events(["time,kind,value", "2026-07-01T11:00:00,bolus_u,1", line], LONDON, "x.csv")
    assert "x.csv: line 3" in str(caught.value)


def test_a_file_without_header_or_events_is_refused() -> None:
    with pytest.raises(InputError, match="first line"):
        parse_events(["2026-07-01T12:00:00,bolus_u,4"], LONDON, "x.csv")
    with pytest.raises(InputError, match="no events"):
        parse_events(["time,kind,value"], LONDON, "x.csv")


@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_text_gives_samples_or_an_input_error(lines: list[str]) -> None:
    try:
        parse_events(["time,kind,value", *lines], LONDON, "x.csv")
    except InputError:
        return
