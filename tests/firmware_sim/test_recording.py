"""Reading recordings, and who plays what."""

import gzip
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from firmware_sim.clock import clock_from_text
from firmware_sim.errors import SimError
from firmware_sim.recording import Event, parse_span, parse_time, read_recording, share_out

LONDON = ZoneInfo("Europe/London")


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz"])
def test_events_come_in_time_order_with_naive_times_in_the_persons_zone(tmp_path: Path, name: str) -> None:
    text = "time,kind,value\n2023-10-12T01:05:00,carbs_g,45\n2023-10-12T00:00:00+00:00,cgm_mgdl,100.5\n"
    assert read_recording(write(tmp_path / name, text), LONDON) == [
        Event(1_697_068_800_000_000, "cgm_mgdl", 100.5),
        Event(1_697_069_100_000_000, "carbs_g", 45.0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "time,kind,value\n2023-10-12,cgm_mgdl,1\n2023-10-12,blood_type,2\n",
            r":3: unknown kind 'blood_type'.*use",
        ),
        ("time,kind,value\nyesterday,cgm_mgdl,1\n", r":2: not an ISO-8601 time"),
        ("time,kind,value\n2023-10-12,cgm_mgdl,high\n", r":2: the value is not a number$"),
        ("time,kind,value\n2023-10-12,cgm_mgdl,inf\n", r":2: the value is not a number$"),
        ("time,kind,value\n2023-10-12,cgm_mgdl\n", r":2: 2 columns"),
        ("when,what\n", r":1: the first line must be"),
        ("", r":1: the first line must be"),
    ],
)
def test_a_bad_line_is_named_without_its_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SimError, match=message):
        read_recording(write(tmp_path / "e.csv", text), LONDON)


def test_files_that_cannot_be_read_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SimError, match=r"none\.csv: no such file"):
        read_recording(tmp_path / "none.csv", LONDON)
    (tmp_path / "torn.csv.gz").write_bytes(
        gzip.compress(b"time,kind,value\n" + b"2023-10-12,cgm_mgdl,100\n" * 1000)[:-20]
    )
    (tmp_path / "text.csv.gz").write_text("time,kind,value\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("torn.csv.gz", "text.csv.gz", "binary.csv", "."):
        with pytest.raises(SimError, match="cannot be read"):
            read_recording(tmp_path / name, LONDON)


def test_boluses_belong_to_the_pump_or_else_to_the_logbook() -> None:
    bolus, meal, steps = Event(1, "bolus_u", 2.0), Event(2, "carbs_g", 30.0), Event(3, "steps", 5.0)
    shares, orphans = share_out([bolus, meal, steps])
    assert (shares["meter"], shares["pump"], orphans) == ([bolus, meal], [], 1)
    basal = Event(0, "basal_uph", 0.5)
    shares, _ = share_out([basal, bolus, meal])
    assert (shares["meter"], shares["pump"]) == ([meal], [basal, bolus])


def test_spans_and_times() -> None:
    assert parse_span("7d") == 7 * 86_400_000_000
    assert parse_span("1.5h") == 5_400_000_000
    for text in ("", "7", "d", "-1d", "0h", "nand", "1e400d"):
        with pytest.raises(SimError, match="--for"):
            parse_span(text)
    # the hour that comes twice in autumn means its first coming
    assert parse_time("2023-10-29T01:30:00", LONDON) == parse_time("2023-10-29T00:30:00+00:00", LONDON)


def test_clock_text() -> None:
    clock = clock_from_text("300,1000000,5000000")
    assert clock.wait_s(300_000_000) == 1.0
    for text in ("fast", "0,1,2", "1,2", "1,2,x"):
        with pytest.raises(SimError, match="HOMETWIN_CLOCK"):
            clock_from_text(text)
