"""Every export is read by its content, in its own unit and on its own clock; nothing is dropped silently."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from core.errors import InputError
from core.messages import Quality
from core.units import MGDL_PER_MMOLL
from edge.readers import Record, read_record
from edge.readers.read import read_bytes
from edge.replay.outputs import iso

LONDON = ZoneInfo("Europe/London")
EXPORTS = Path(__file__).parents[2] / "vectors" / "exports"
NOW_US = 1_800_000_000_000_000  # 2027


def read(name: str) -> Record:
    return read_record(EXPORTS / name, LONDON, NOW_US)


def of(record: Record, kind: str) -> list[tuple[str, float]]:
    return [(iso(s.time_us), round(s.value, 2)) for s in record.samples if s.kind == kind]


def noted(record: Record, words: str) -> bool:
    return any(words in note for note in record.notes)


def text(data: str, zone: ZoneInfo = LONDON) -> Record:
    return read_bytes(data.encode(), "some file", zone, NOW_US)


def test_event_file_sets_the_year_2204_aside_and_says_which_line() -> None:
    record = read("events_small.csv")
    assert noted(record, "future (year 2204), set aside (first: line 7)")
    assert of(record, "carbs_g") == [("2024-03-31T01:10:00Z", 40.0)]


def test_event_file_drops_a_line_that_came_twice_and_counts_it() -> None:
    record = read("events_small.csv")
    assert len(of(record, "cgm_mgdl")) == 2
    assert noted(record, "1 × duplicate")


def test_packed_event_file_reads_the_same(tmp_path: Path) -> None:
    packed = tmp_path / "a.bin"
    packed.write_bytes(gzip.compress((EXPORTS / "events_small.csv").read_bytes()))
    assert read_record(packed, LONDON, NOW_US) == read("events_small.csv")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2024-01-01T00:00:00,cgm_mgdl,nan", "line 2"),
        ("2024-01-01T00:00:00,bolus_u,-1", "line 2"),
        ("2024-01-01T00:00:00,cgm_mgdl,10000", "mg/dL"),
        ("2024-01-01T00:00:00,cgm,100", "unknown kind"),
        ("yesterday,cgm_mgdl,100", "ISO 8601"),
    ],
)
def test_event_file_refuses_what_cannot_be_meant(line: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        text(f"time,kind,value\n{line}\n")


def test_event_file_in_mmoll_by_mistake_is_refused() -> None:
    lines = "\n".join(f"2024-01-01T00:{m:02d}:00,cgm_mgdl,{10 + m / 10}" for m in range(0, 60, 5))
    with pytest.raises(InputError, match="mmol/L"):
        text(f"time,kind,value\n{lines}\n")


def test_clarity_tells_the_repeated_hour_by_the_order_of_records() -> None:
    times = [time for time, _ in of(read("clarity_mgdl.csv"), "cgm_mgdl")]
    assert times == [
        "2024-10-26T23:50:00Z",
        "2024-10-27T00:20:00Z",
        "2024-10-27T00:50:00Z",
        "2024-10-27T01:20:00Z",
        "2024-10-27T01:50:00Z",
        "2024-10-27T02:20:00Z",
    ]


def test_clarity_low_and_high_are_bounds_and_flagged() -> None:
    record = read("clarity_mgdl.csv")
    flagged = [(s.value, s.quality) for s in record.samples if s.quality]
    assert flagged == [(40.0, int(Quality.SENSOR_WARNING)), (400.0, int(Quality.SENSOR_WARNING))]
    assert noted(record, "kept as that bound, flagged")


def test_clarity_reads_insulin_carbohydrate_and_calibration_and_counts_the_rest() -> None:
    record = read("clarity_mgdl.csv")
    assert of(record, "bolus_u") == [("2024-10-27T08:00:00Z", 4.5)]
    assert of(record, "long_acting_u") == [("2024-10-27T08:01:00Z", 18.0)]
    assert of(record, "carbs_g") == [("2024-10-27T08:02:00Z", 45.0)]
    assert of(record, "smbg_mgdl") == [("2024-10-27T07:05:10Z", 131.0)]
    assert noted(record, "'exercise', not used (first: line 16)")


def test_clarity_in_mmoll_with_decimal_commas_is_converted() -> None:
    record = read("clarity_mmoll_semicolon.csv")
    assert [v for _, v in of(record, "cgm_mgdl")] == [round(v * MGDL_PER_MMOLL, 2) for v in (6.0, 6.5)]
    assert of(record, "bolus_u") == [("2024-05-31T23:06:00Z", 2.5)]


def test_clarity_without_a_unit_is_refused_with_a_mend() -> None:
    data = (EXPORTS / "clarity_mgdl.csv").read_text().replace(" (mg/dL)", "")
    with pytest.raises(InputError, match=r"unit is not declared \(export"):
        text(data)


def test_clarity_whose_values_contradict_its_unit_is_refused() -> None:
    data = (EXPORTS / "clarity_mgdl.csv").read_text()
    with pytest.raises(InputError, match=r"impossible in the unit|look like mmol/L"):
        text(data.replace("Glucose Value (mg/dL)", "Glucose Value (mmol/L)"))


def test_libreview_takes_every_record_type_once() -> None:
    record = read("libreview_mmoll.csv")
    assert of(record, "cgm_mgdl") == [
        ("2024-03-15T08:00:00Z", 109.9),
        ("2024-03-15T08:15:00Z", 500.0),
        ("2024-03-15T08:20:00Z", 129.71),
    ]
    assert of(record, "smbg_mgdl") == [("2024-03-15T08:30:00Z", 99.09)]
    assert of(record, "bolus_u") == [("2024-03-15T08:31:00Z", 4.0)]
    assert of(record, "long_acting_u") == [("2024-03-15T22:00:00Z", 16.0)]
    assert of(record, "carbs_g") == [("2024-03-15T08:32:00Z", 35.0)]
    assert noted(record, "without grams")


def test_libreview_month_first_with_half_day_hours() -> None:
    record = read("libreview_us_mgdl.csv")
    assert of(record, "cgm_mgdl") == [("2024-03-15T00:05:00Z", 400.0), ("2024-03-15T14:30:00Z", 141.0)]


LIBRE_HEAD = "Device,Serial Number,Device Timestamp,Record Type,Historic Glucose mg/dL\n"


def test_libreview_days_that_follow_one_another_tell_day_from_month() -> None:
    record = text(LIBRE_HEAD + "".join(f"L,0,0{d}-03-2024 08:00,0,120\n" for d in (4, 5, 6)))
    assert [t[:10] for t, _ in of(record, "cgm_mgdl")] == ["2024-03-04", "2024-03-05", "2024-03-06"]
    assert noted(record, "day-month")


def test_libreview_that_leaves_day_and_month_open_is_refused() -> None:
    with pytest.raises(InputError, match="day and month"):
        text(LIBRE_HEAD + "L,0,05-03-2024 08:00,0,120\nL,0,05-03-2024 08:15,0,121\n")


def test_libreview_newest_first_still_tells_the_repeated_hour() -> None:
    stamps = ("02:15", "01:45", "01:15", "01:45", "01:15", "00:45")
    data = LIBRE_HEAD + "".join(f"L,0,27-10-2024 {s},0,120\n" for s in stamps)
    hours = [t[11:16] for t, _ in of(text(data), "cgm_mgdl")]
    assert hours == ["23:45", "00:15", "00:45", "01:15", "01:45", "02:15"]


def test_one_pass_through_a_repeated_hour_is_noted_as_undecided() -> None:
    data = LIBRE_HEAD + "".join(f"L,0,27-10-2024 {s},0,120\n" for s in ("00:45", "01:15", "02:15"))
    assert noted(text(data), "1 times fall in the hour that a clock change repeats")


def test_nightscout_basal_follows_profile_and_temporary_rates() -> None:
    assert of(read("nightscout.json"), "basal_uph") == [
        ("2024-06-01T00:00:00Z", 0.8),
        ("2024-06-01T04:00:00Z", 1.0),  # 06:00 in the profile's own zone
        ("2024-06-01T10:00:00Z", 1.5),
        ("2024-06-01T11:00:00Z", 1.0),
        ("2024-06-01T12:00:00Z", 0.5),
        ("2024-06-01T12:30:00Z", 1.0),
    ]


def test_nightscout_fingerstick_needs_its_unit() -> None:
    record = read("nightscout.json")
    assert of(record, "smbg_mgdl") == [("2024-06-01T00:10:50Z", 118.0), ("2024-06-01T07:00:00Z", 108.09)]
    assert noted(record, "fingerstick without a unit (first: treatments record 3)")


def test_nightscout_error_codes_and_second_uploaders_are_not_readings() -> None:
    record = read("nightscout.json")
    assert of(record, "cgm_mgdl") == [("2024-06-01T00:00:00Z", 120.0), ("2024-06-01T00:10:00Z", 401.0)]
    assert noted(record, "sensor error code")
    assert noted(record, "within 30 s")


def test_nightscout_extended_bolus_keeps_its_units() -> None:
    parts = [
        v for t, v in ((s.time_us, s.value) for s in read("nightscout.json").samples if s.kind == "bolus_u")
    ]
    assert sum(parts) == pytest.approx(4.2 + 4.0)


def test_nightscout_pen_injection_is_long_acting_by_its_name() -> None:
    assert of(read("nightscout.json"), "long_acting_u") == [("2024-06-01T21:00:00Z", 12.0)]


def test_nightscout_one_object_per_line_reads_like_an_array() -> None:
    whole = json.loads((EXPORTS / "nightscout.json").read_text())
    lines = [json.dumps(item) for key in ("entries", "treatments", "profile") for item in whole[key]]
    assert text("\n".join(lines)).samples == read("nightscout.json").samples


def test_nightscout_percent_without_a_profile_is_counted_not_guessed() -> None:
    whole = json.loads((EXPORTS / "nightscout.json").read_text())
    record = text(json.dumps(whole["entries"] + whole["treatments"]))
    assert noted(record, "per cent with no profile")
    assert of(record, "basal_uph") == [("2024-06-01T10:00:00Z", 1.5)]


def test_tidepool_units_are_those_of_each_record() -> None:
    record = read("tidepool.json")
    assert of(record, "cgm_mgdl") == [("2024-06-01T00:00:00Z", 119.98), ("2024-06-01T00:05:00Z", 400.0)]
    assert noted(record, "unit is not declared (first: record 5)")
    assert [s.quality for s in record.samples if s.value == 400.0] == [int(Quality.SENSOR_WARNING)]


def test_tidepool_counts_a_meal_once_beside_the_calculator() -> None:
    assert of(read("tidepool.json"), "carbs_g") == [
        ("2024-06-01T07:05:00Z", 30.0),
        ("2024-06-01T12:00:00Z", 55.0),
    ]


def test_tidepool_suspended_delivery_is_a_rate_of_zero() -> None:
    assert of(read("tidepool.json"), "basal_uph")[-1] == ("2024-06-01T07:00:00Z", 0.0)


def test_tidepool_extended_part_is_spread_and_whole() -> None:
    parts = [s.value for s in read("tidepool.json").samples if s.kind == "bolus_u"]
    assert sum(parts) == pytest.approx(3.0 + 2.0 + 3.0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x00\x01\x02", "not a text file"),
        (b"\x1f\x8b\x08broken", "gzip"),
        (b"a,b,c\n1,2,3\n", "not a recording of a known kind"),
        (b"[1,2,3]", "holds no records"),
        (b'[{"a": 1}]', "neither Nightscout's nor Tidepool's"),
        (b'[{"sgv": 100, "date": 1', "line 1"),
        (b"time,kind,value\n", "holds no events"),
        (b'"\nx,Device Timestamp\n,Record Type\n', "not a recording"),
        (b'"a\nDevice Timestamp,Record Type" x\n', "some file"),
    ],
)
def test_unusable_bytes_are_refused_with_place_and_reason(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_bytes(data, "some file", LONDON, NOW_US)
    assert "some file" in caught.value.where


def test_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path / "none.csv", LONDON)


def test_errors_and_notes_name_no_person() -> None:
    for path in EXPORTS.iterdir():
        assert not any("Nobody" in note or "Atall" in note for note in read(path.name).notes)
