"""The terminal view says what is known, with ages, and draws gaps as gaps; nothing missing breaks it."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
from rich.console import Console

from core.errors import InputError
from core.units import US_PER_DAY, US_PER_MIN
from edge.demo.demo import parse_length, plain_line, summary_line
from edge.demo.plot import plot_glucose
from edge.demo.view import Scene, age, render
from edge.status_text import status_lines

NOW_US = 1_767_600_000_000_000
SCENE = Scene(
    "http://127.0.0.1:8080", "name x", 300, NOW_US - US_PER_DAY, NOW_US + US_PER_DAY, {"hub": (True, 2)}, ""
)


def status(**more: Any) -> dict[str, Any]:
    """A hub that has just started: nothing is known."""
    empty: dict[str, Any] = {
        "hub_id": "demo",
        "now_us": NOW_US,
        "timezone": "Europe/London",
        "readings": {},
        "trace": [],
        "estimate": None,
        "forecast": None,
        "engine": {"up": False, "row": 0, "rows": 0, "problem": ""},
        "alarms": {"active": [], "recent": []},
        "devices": {"cgm": {"profile": "cgm", "state": "absent", "reason": "", "facts": {}}},
        "sync": {"configured": True, "connected": False, "pending": 3, "sent_through_row": 0, "problem": ""},
        "store": {
            "rows": 0,
            "mib": 1.25,
            "ways_in": 1,
            "repair": None,
            "tampered": False,
            "refilling": [],
            "free_mib": 1000.0,
            "space_low": False,
            "full": False,
            "exhausted": False,
            "making_room": False,
            "thinning_waits": False,
            "ok": True,
            "rotating": False,
            "keys_copied": True,
        },
        "prior": None,
        "advice": [],
        "counters": {},
    }
    return empty | more


def forecast(value: float | None) -> dict[str, Any]:
    one = [value, value]
    return {
        "made_at_us": NOW_US,
        "horizons_min": [30.0, 60.0],
        "mean": one,
        "p05": one,
        "p50": one,
        "p95": one,
        "status": "ok",
        "data_age_s": None,
    }


def likely_low(chance: float | None, made_min_ago: int = 1) -> dict[str, Any]:
    made_us = NOW_US - made_min_ago * US_PER_MIN
    return forecast(85.0) | {"low_chance": chance, "data_age_s": 180.0, "made_at_us": made_us}


@pytest.mark.parametrize(
    ("chance", "said"), [(0.12, "12 %"), (0.004, "under 1 %"), (0.998, "over 99 %"), (1.0, "over 99 %")]
)
def test_the_chance_of_a_low_is_told_with_the_age_of_its_reading(chance: float, said: str) -> None:
    state = status(forecast=likely_low(chance))
    line = f"chance of a low (< 70) within 30 min: {said}, from a reading 4 min old"
    assert line in status_lines(state)
    assert line in drawn(state, 140)
    assert said in drawn(state, 80, 24)
    for width in range(100, 140):
        assert "reading 4 min old ─" in drawn(state, width)
    assert f"within 30 min: {said}" in plain_line(state, "Europe/London")


@pytest.mark.parametrize("made", [None, forecast(85.0), likely_low(None), likely_low(0.3, made_min_ago=12)])
def test_a_chance_that_nobody_told_or_long_ago_is_not_shown(made: dict[str, Any] | None) -> None:
    state = status(forecast=made)
    for text in (drawn(state, 140), plain_line(state, "Europe/London"), *status_lines(state)):
        assert "chance of a low" not in text


def drawn(state: dict[str, Any] | None, width: int = 120, height: int = 40) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    console.print(render(state, SCENE, width, height))
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 100, 160])
def test_a_hub_that_knows_nothing_says_so(width: int) -> None:
    text = drawn(status(), width)
    assert "no glucose reading yet" in text
    assert "engine is away" in " ".join(text.split()) or width == 60
    assert "starting" in drawn(None, width)


def test_an_old_reading_shows_its_age_and_an_unbounded_forecast_draws_nothing() -> None:
    reading = {"value": 64.0, "time_us": NOW_US, "age_s": 7200.0, "source": "cgm", "quality": 0}
    text = drawn(status(readings={"cgm_mgdl": reading}, forecast=forecast(None)))
    assert "64 mg/dL" in text
    assert "2.0 h ago" in text
    assert "░" not in text


def test_a_gap_in_the_readings_is_a_gap_in_the_picture() -> None:
    trace = [(NOW_US - m * US_PER_MIN, 120.0) for m in (300, 295, 60, 55)]
    row = next(
        line for line in plot_glucose(trace, None, None, NOW_US, 100, 15).plain.splitlines() if "●" in line
    )
    first, last = row.index("●"), row.rindex("●")
    between = row[first:last].strip("●")
    assert len(between) > 20
    assert "●" not in between


def test_the_band_is_drawn_between_its_bounds() -> None:
    band = forecast(100.0) | {"p05": [80.0, 60.0], "p95": [120.0, 160.0]}
    assert "░" in plot_glucose([], band, None, NOW_US, 100, 20).plain


def test_a_warning_of_a_device_is_shown_where_people_look() -> None:
    device = {
        "profile": "cgm",
        "state": "syncing",
        "reason": "",
        "facts": {"clock_warning": "its clock is wrong"},
    }
    state = status(devices={"cgm": device})
    assert "its clock is wrong" in drawn(state)
    assert "cgm       syncing: its clock is wrong" in status_lines(state)


def test_status_and_plain_line_need_no_reading() -> None:
    assert "glucose   no reading yet" in status_lines(status())
    assert "no reading yet" in plain_line(status(), "Europe/London")


@pytest.mark.parametrize(("width", "height"), [(130, 42), (100, 30), (80, 24)])
def test_alarms_are_seen_on_a_small_terminal(width: int, height: int) -> None:
    alarm = {
        "number": 1,
        "time_us": NOW_US,
        "name": "urgent_low",
        "level": 2,
        "raised": True,
        "value": 50.0,
        "delivered": True,
    }
    devices = {f"d{i}": {"profile": "cgm", "state": "live", "reason": "", "facts": {}} for i in range(5)}
    state = status(alarms={"active": [alarm], "recent": [alarm]}, devices=devices)
    assert "urgent low 50" in drawn(state, width, height)


@pytest.mark.parametrize(("width", "height", "is_drawn"), [(80, 24, False), (100, 30, True), (120, 40, True)])
def test_a_small_terminal_has_numbers_instead_of_a_misleading_picture(
    width: int, height: int, is_drawn: bool
) -> None:
    devices = {f"d{i}": {"profile": "cgm", "state": "live", "reason": "", "facts": {}} for i in range(5)}
    text = drawn(status(devices=devices, forecast=forecast(100.0)), width, height)
    assert ("-6 h" in text) == is_drawn
    assert "twin" in text
    assert "60 min" in text
    assert len(text.splitlines()) <= height


def test_the_footer_keeps_each_mark_beside_its_process() -> None:
    names = {n: (True, 0) for n in ("broker", "cloud", "air", "sensors", "engine", "hub")}
    scene = dataclasses.replace(SCENE, login="name clinician, password abcdefghijkl", processes=names)
    for width in (80, 100, 110, 120, 140):
        console = Console(width=width, height=40, file=io.StringIO(), force_terminal=False)
        console.print(render(status(), scene, width, 40))
        lines = console.file.getvalue().splitlines()
        assert not any(line.rstrip(" │").endswith("●") for line in lines)
        assert any("Ctrl-C ends" in line for line in lines)


def test_alarms_of_another_day_say_so_and_an_end_is_not_a_second_low() -> None:
    alarm = {"number": 1, "name": "low", "level": 1, "delivered": False}
    recent = [
        {**alarm, "time_us": NOW_US - US_PER_DAY, "raised": True, "value": 69.0},
        {**alarm, "number": 2, "time_us": NOW_US - 60 * US_PER_MIN, "raised": False, "value": 79.0},
    ]
    text = drawn(status(alarms={"active": [], "recent": recent}))
    assert "Sun 08:00 low 69" in text
    assert "07:00 low ended at 79" in text
    assert "Mon 07:00" not in text


def test_ages_are_told_in_the_unit_that_people_use() -> None:
    assert [age(s) for s in (None, 20, 600, 9000)] == ["never", "20 s", "10 min", "2.5 h"]


@pytest.mark.parametrize("text", ["", "2", "d", "-1d", "0h", "1w", "1e9d", "nan"])
def test_a_length_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_length(text)
    assert parse_length("1.5h") == 90 * US_PER_MIN


def test_the_last_line_counts_what_is_stored_not_what_the_restarted_hub_remembers() -> None:
    restarted = status(
        store=status()["store"] | {"rows": 1113}, counters={"samples.stored": 529, "alarm.shown": 2}
    )
    line = summary_line(restarted, US_PER_DAY, hub_restarts=1)
    assert "played 24.0 h: 1113 records stored" in line
    assert line.endswith("2 shown on the watch since the hub's last start")
    assert "since" not in summary_line(restarted, US_PER_DAY, hub_restarts=0)


@pytest.mark.parametrize(
    ("lost", "others", "told"),
    [
        (None, {}, "an unknown number of records missing"),
        (7, {}, "7 records missing"),
        (0, {"blobs": 3, "outbox": 2}, "5 records missing"),
        (0, {"segments": 1}, "an unknown number of records missing"),
    ],
)
def test_what_a_repair_lost_is_said_and_where_nobody_knows_that_too(
    lost: int | None, others: dict[str, int], told: str
) -> None:
    state = status()
    repair = {"time_us": state["now_us"], "rows_lost": lost, "others_lost": others, "set_aside": "damaged-1"}
    state["store"] = {**state["store"], "repair": repair}
    [line] = [line for line in status_lines(state) if line.startswith("store")]
    assert told in line


def test_a_store_that_is_well_is_said_in_a_line() -> None:
    assert (
        "store     well: 0 records, 1.2 MiB, no second way in (hometwin keys passphrase adds one)"
        in status_lines(status())
    )


def test_a_copy_of_the_keys_that_could_not_be_written_is_said() -> None:
    state = status()
    state["store"] = {**state["store"], "keys_copied": False}
    assert "could not write the copy of its wrapped keys" in "".join(status_lines(state))
