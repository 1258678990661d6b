"""Clocks that are wrong, the device's or the hub's, and numbers that begin anew: nothing is muted, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.messages import Quality
from tests.edge.ble.sessions import test_cgm as cgm
from tests.edge.ble.sessions import test_meter as meter
from tests.edge.ble.sessions import test_pump as pump
from tests.edge.ble.sessions.desk import MIN_US, Desk, octets, us

NOW = us("2026-07-01T12:00:00")
DAY_MIN = 24 * 60
STARTED_2056 = "08 08 07 01 0C 00 00 00 04 CRC"
LATER = "08 08 07 01 0C 00 00"  # 2056, on a meter's face


# --- continuous glucose monitor ---


@pytest.mark.parametrize("offset_min", [0xFF00, 60 + 5 + 16])
def test_live_record_of_the_future_mutes_nothing(offset_min: int) -> None:
    made = cgm.live()
    made.on_write(cgm.RACP, cgm.NONE_FOUND)  # should its time come
    made.tick(1, 5)
    made.value(*cgm.record(100, offset_min))
    assert made.samples == []
    assert made.counts["implausible.time"] == 1
    for step in range(1, 7):
        made.value(*cgm.record(50, 60 + 5 * step))
        made.tick(6, 5)
    assert cgm.offsets(made) == [65, 70, 75, 80, 85, 90]
    assert made.session.cursors == {"cgm_mgdl": cgm.START_MIN + 90}  # type: ignore[attr-defined]
    assert len(made.written(cgm.RACP)) <= 2


def test_record_of_the_future_in_the_history_mutes_nothing() -> None:
    made = cgm.desk()
    made.on_write(cgm.RACP, cgm.record(100, 0), cgm.record(100, 60), cgm.record(90, 0xFFF0), cgm.SUCCESS)
    made.start()
    made.tick(1, 5)
    made.value(*cgm.record(50, 65))
    assert cgm.offsets(made) == [0, 60, 65]
    assert made.counts["implausible.time"] == 1
    assert "clock_warning" not in made.facts  # the sensor's clock is right; that record is not


def test_record_that_came_with_a_wrong_time_is_fetched_with_its_right_one() -> None:
    made = cgm.live()
    made.tick(1, 5)
    made.value(*cgm.record(50, 0x4141))  # it was the one of 65
    made.tick(1, 5)
    made.on_write(cgm.RACP, cgm.record(50, 65), cgm.record(52, 70), cgm.SUCCESS)
    made.value(*cgm.record(52, 70))
    assert cgm.offsets(made) == [65, 70]


def test_sensor_decades_ahead_stores_nothing_says_so_and_is_asked_ever_less() -> None:
    made = cgm.desk(start=STARTED_2056)
    for _ in range(200):
        made.on_write(cgm.RACP, cgm.record(100, 0), cgm.record(100, 60), cgm.SUCCESS)
    made.start()
    assert made.samples == []
    assert made.session.cursors == {}  # type: ignore[attr-defined]
    assert made.facts["clock_warning"]
    assert int(made.facts["clock_offset_s"]) > 900_000_000
    assert made.state == "live"
    for _ in range(6 * 60):  # six hours
        made.tick(60, 1)
        made.value(*cgm.record(100, 65))
    assert made.samples == []
    assert len(made.written(cgm.RACP)) <= 6
    assert made.closed is None


def test_sensor_an_hour_ahead_is_heard_and_doubted() -> None:
    made = cgm.desk("78 00 00 00 00 CRC")  # 120 min after the start, and it is 60
    made.on_write(cgm.RACP, cgm.record(100, 115), cgm.record(50, 120), cgm.SUCCESS)
    made.start()
    assert cgm.offsets(made) == [115, 120]
    assert all(sample.quality & Quality.CLOCK_DOUBT for sample in made.samples)
    assert made.facts["clock_offset_s"] == 3630
    made.value(*cgm.record(50, 200))  # but not further ahead than its clock is
    assert cgm.offsets(made) == [115, 120]


@pytest.mark.parametrize("behind_min", [2 * DAY_MIN, 56 * 365 * DAY_MIN])
@pytest.mark.parametrize("cursor", [None, 30])
def test_hub_that_booted_in_the_past_takes_all_once_its_clock_is_right(
    behind_min: int, cursor: int | None
) -> None:
    made = cgm.desk(cursor=cursor)
    made.now_us -= behind_min * MIN_US
    records = [cgm.record(100, offset_min) for offset_min in range(0, 65, 5)]
    made.on_write(cgm.RACP, *records, cgm.SUCCESS)
    made.on_write(cgm.RACP, *records, cgm.record(55, 65), cgm.SUCCESS)
    made.start()
    assert made.samples == []
    assert made.facts["clock_warning"]
    made.tick(30, 1)
    made.now_us += behind_min * MIN_US
    made.values[cgm.STATUS].append(octets("42 00 00 00 00 CRC"))
    made.values[cgm.STATUS].popleft()
    made.tick(1, 5)
    made.value(*cgm.record(55, 65))
    made.tick(10, 1)
    first = 0 if cursor is None else 35
    kept = [offset_min for offset_min in cgm.offsets(made) if offset_min >= first]
    assert kept == list(range(first, 70, 5))
    assert {sample.quality & Quality.CLOCK_DOUBT for sample in made.samples} == {0}
    assert made.facts["clock_warning"] == ""


def test_hub_a_little_behind_takes_the_records_when_their_time_comes() -> None:
    made = cgm.desk("5A 00 00 00 00 CRC")  # 90 min after the start, and it is 60
    records = [cgm.record(100, 90), cgm.record(100, 140)]
    made.on_write(cgm.RACP, *records, cgm.SUCCESS)
    made.on_write(cgm.RACP, cgm.record(100, 140), cgm.SUCCESS)
    made.start()
    assert cgm.offsets(made) == [90]
    made.values[cgm.STATUS] = type(made.values[cgm.STATUS])([octets("7D 00 00 00 00 CRC")])
    made.tick(6, 66)
    assert cgm.offsets(made) == [90, 140]


def test_cursor_of_the_future_hides_nothing() -> None:
    made = cgm.desk(cursor=0xFF00)
    made.on_write(cgm.RACP, cgm.record(100, 0), cgm.record(50, 60), cgm.SUCCESS)
    made.start()
    assert made.written(cgm.RACP) == [cgm.ALL]
    assert cgm.offsets(made) == [0, 60]
    assert made.counts["cursor.ahead"] == 1
    made.tick(1, 5)
    made.value(*cgm.record(50, 65))
    assert cgm.offsets(made) == [0, 60, 65]


def test_sensor_whose_clock_lies_before_what_is_stored_is_told() -> None:
    made = cgm.desk(cursor=3 * DAY_MIN, now="2026-07-04T12:00:00")
    made.on_write(cgm.RACP, cgm.NONE_FOUND)
    made.start()
    assert made.facts["numbers_warning"]
    assert made.counts["sequence.restarted"] == 1


@settings(max_examples=60, deadline=None)
@given(
    offsets=st.lists(st.integers(0, 0xFFFF), max_size=30, unique=True),
    now_min=st.integers(-3 * DAY_MIN, 60 * DAY_MIN),
    status_min=st.integers(0, 0xFFFF),
)
def test_no_cgm_sample_is_of_the_future_and_all_come_in_the_end(
    offsets: list[int], now_min: int, status_min: int
) -> None:
    made = cgm.desk(f"{status_min & 255:02X} {status_min >> 8:02X} 00 00 00 CRC")
    made.now_us = cgm.START_US + now_min * MIN_US
    for _ in range(3):
        made.on_write(cgm.RACP, *(cgm.record(100, o) for o in sorted(offsets)), cgm.SUCCESS)
    made.start()
    for offset_min in offsets:
        made.value(*cgm.record(100, offset_min))
    assert all(sample.time_us <= made.now_us + 75 * MIN_US for sample in made.samples)
    made.now_us = cgm.START_US + 0xFFFF * MIN_US
    made.values[cgm.STATUS] = type(made.values[cgm.STATUS])([octets("FF FF 00 00 00 CRC")])
    for _ in range(4):
        made.on_write(cgm.RACP, *(cgm.record(100, o) for o in sorted(offsets)), cgm.SUCCESS)
        made.tick(200, 400)
    assert sorted(cgm.offsets(made)) == sorted(offsets)


# --- meter and pump: the number is the cursor, the time may be wrong ---


def test_meter_record_of_the_future_waits_until_a_later_one_shows_that_its_clock_was_wrong() -> None:
    made = meter.desk(meter.stick(1), meter.stick(2, at=LATER))
    assert made.got() == [("smbg_mgdl", 138.0, 1)]
    assert made.facts["clock_warning"]
    made.on_write(meter.RACP, meter.stick(2, at=LATER), meter.stick(3), meter.SUCCESS)
    made.tick(20, 20)
    assert [sample.seq for sample in made.samples] == [1, 3]
    assert made.counts["given_up.record"] == 1
    assert made.facts["clock_warning"] == ""


def test_meter_is_heard_after_the_hub_booted_in_the_past() -> None:
    made = Desk("glucose_meter", {}, {meter.MEASUREMENT, meter.CONTEXT, meter.RACP})
    made.now_us -= 400 * DAY_MIN * MIN_US
    for _ in range(3):
        made.on_write(meter.RACP, meter.stick(1), meter.entry(2), meter.meal(2), meter.SUCCESS)
    made.start()
    assert made.samples == []
    made.value(*meter.stick(3))
    made.now_us += 400 * DAY_MIN * MIN_US
    made.tick(6)
    assert made.got()[:2] == [("smbg_mgdl", 138.0, 1), ("carbs_g", 45.0, 2)]
    assert {sample.time_us for sample in made.samples} == {meter.T}


def test_pump_is_heard_after_the_hub_booted_in_the_past() -> None:
    history = (
        pump.reference(0),
        pump.basal(1, 60),
        pump.programmed(2, 600),
        pump.delivered(3, 660),
        pump.delivered_2(4, 660, start_s=5),
    )
    made = pump.desk(*history, now="1970-01-01T00:05:00")
    made.on_write(pump.RACP, *history, pump.SUCCESS)
    made.start()
    assert made.samples == []
    assert made.facts["clock_warning"]
    made.now_us = NOW
    made.tick(6)
    assert made.got() == [("basal_uph", 0.82, 1), ("bolus_u", 4.5, 3)]
    assert [sample.time_us - pump.T for sample in made.samples] == [60_000_000, 605_000_000]
    assert made.facts["clock_warning"] == ""


def test_pump_whose_clock_was_wrong_for_a_while_loses_only_what_cannot_be_dated() -> None:
    ahead = (pump.HISTORY, f"{pump.head(0x0F, 2, 0)} 33 08 08 07 01 0C 00 00 00 04")
    made = pump.desk(
        *(pump.reference(0), pump.basal(1, 60), ahead, pump.basal(3, 60)),
        *(pump.reference(4, reason="33"), pump.basal(5, 120)),
    ).start()
    assert [(sample.seq, sample.time_us - pump.T) for sample in made.samples] == [
        (1, 60_000_000),
        (5, 120_000_000),
    ]
    assert made.counts["given_up.record"] == 2
    assert "clock_warning" not in made.facts


def test_pump_whose_clock_is_ahead_waits_and_keeps_what_came_before() -> None:
    ahead = (pump.HISTORY, f"{pump.head(0x0F, 2, 0)} 33 08 08 07 01 0C 00 00 00 04")
    made = pump.desk(pump.reference(0), pump.basal(1, 60), ahead, pump.basal(3, 60)).start()
    assert [sample.seq for sample in made.samples] == [1]
    assert made.session.cursors == {"basal_uph": 1}  # type: ignore[attr-defined]
    assert made.facts["clock_warning"]
    made.on_write(
        pump.RACP, ahead, pump.basal(3, 60), pump.reference(4, reason="33"), pump.basal(5, 120), pump.SUCCESS
    )
    made.tick(20, 20)
    assert [sample.seq for sample in made.samples] == [1, 5]


@pytest.mark.parametrize("profile", ["glucose_meter", "insulin_pump"])
@pytest.mark.parametrize(("newest", "warned"), [(5, True), (499, True), (500, False)])
def test_numbers_that_begin_anew_are_told(profile: str, newest: int, warned: bool) -> None:
    if profile == "insulin_pump":
        made = pump.desk(cursors={"basal_uph": 500})
        device, record, asked = pump, pump.basal(newest, 60), "33 69"
    else:
        made = Desk(profile, {}, {meter.MEASUREMENT, meter.CONTEXT, meter.RACP}, cursors={"smbg_mgdl": 500})
        low, high = newest & 255, newest >> 8
        device, asked = meter, "01 06"  # type: ignore[assignment]
        record = (meter.MEASUREMENT, f"02 {low:02X} {high:02X} {meter.NOON} 8A B0 12")
    made.on_write(device.RACP, device.NONE_FOUND)
    made.on_write(device.RACP, record, device.SUCCESS)
    made.start()
    assert made.written(device.RACP)[-1] == asked
    assert made.state == "live"
    assert made.session.idle
    assert made.samples == []  # a dose twice is worse than a dose late
    assert made.counts["sequence.restarted"] == int(warned)
    assert bool(made.facts.get("numbers_warning")) == warned
    made.on_write(device.RACP, device.NONE_FOUND)
    made.tick(6, 6)
    assert len(made.written(device.RACP)) == 3  # compared once
    assert made.state == "live"


@pytest.mark.parametrize("answer", ["06 00 01 04", "06 00 01 06", "06 00 01 08", "06 00 01 02", None])
def test_meter_that_cannot_tell_its_newest_record_is_used_all_the_same(answer: str | None) -> None:
    made = Desk("glucose_meter", {}, {meter.MEASUREMENT, meter.CONTEXT, meter.RACP}, cursors={"smbg_mgdl": 9})
    made.on_write(meter.RACP, meter.NONE_FOUND)
    if answer is not None:
        made.on_write(meter.RACP, (meter.RACP, answer))
    made.start()
    made.tick(31)
    assert made.closed is None
    assert made.state == "live"
    made.tick(1, 1)
    made.value(*meter.stick(10))
    assert [sample.seq for sample in made.samples] == [10]


def test_record_made_while_the_newest_is_compared_is_not_lost() -> None:
    made = Desk("glucose_meter", {}, {meter.MEASUREMENT, meter.CONTEXT, meter.RACP}, cursors={"smbg_mgdl": 9})
    made.on_write(meter.RACP, meter.NONE_FOUND)
    made.on_write(meter.RACP, meter.stick(11), meter.SUCCESS)
    made.on_write(meter.RACP, meter.stick(10), meter.stick(11), meter.SUCCESS)
    made.start()
    assert [sample.seq for sample in made.samples] == [10, 11]
    assert made.counts["sequence.restarted"] == 0


# --- devices without numbers ---


def test_cuff_with_a_date_of_the_future_is_taken_now_with_doubt() -> None:
    made = Desk("weight", {}, {0x2A9D}).start()
    made.value(0x2A9D, f"02 B0 36 {LATER}")
    assert [(sample.time_us, sample.seq) for sample in made.samples] == [(NOW, NOW)]
    assert made.samples[0].quality == Quality.CLOCK_DOUBT
    assert made.counts["implausible.time"] == 1


def test_strap_is_heard_again_when_the_hub_clock_comes_back_from_the_future() -> None:
    made = Desk("heart_rate", {}, {0x2A37}, cursors={"heart_rate_bpm": us("2056-07-01T12:00:00")}).start()
    made.value(0x2A37, "00 48")
    made.tick(70, 2)
    made.value(0x2A37, "00 49")
    assert [sample.value for sample in made.samples] == [72, 73]
    assert made.samples[0].quality == Quality.CLOCK_DOUBT  # one of the two clock readings was wrong
