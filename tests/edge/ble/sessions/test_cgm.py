"""The CGM session, driven by bytes. Sensor times: session start 2026-07-01 11:00 UTC = 12:00 in London."""

from __future__ import annotations

import pytest

from core.errors import DecodeError, LinkTimeout, ProcedureError
from core.messages import Quality
from tests.edge.ble.sessions.desk import Desk, octets, us

MEASUREMENT, FEATURE, STATUS, START, RUN, RACP, OPS = 0x2AA7, 0x2AA8, 0x2AA9, 0x2AAA, 0x2AAB, 0x2A52, 0x2AAC
FEATURE_E2E = "00 10 00 59 CRC"
STARTED = "EA 07 07 01 0C 00 00 00 04 CRC"  # 2026-07-01 12:00:00, zone 0, daylight +1 h
START_US = us("2026-07-01T11:00:00")
START_MIN = START_US // 60_000_000
ALL = "01 01"
SUCCESS = (RACP, "06 00 01 01")
NONE_FOUND = (RACP, "06 00 01 06")
INTERVAL_5 = (OPS, "03 05 CRC")


def record(mgdl: int, offset_min: int) -> tuple[int, str]:
    return MEASUREMENT, f"08 00 {mgdl:02X} 00 {offset_min & 255:02X} {offset_min >> 8:02X} CRC"


def damaged(mgdl: int, offset_min: int) -> tuple[int, str]:
    return MEASUREMENT, f"08 00 {mgdl:02X} 00 {offset_min & 255:02X} {offset_min >> 8:02X} 00 00"


def desk(
    status: str = "3C 00 00 00 00 CRC",  # 60 min after the start: it is 12:00 UTC
    start: str = STARTED,
    *,
    cursor: int | None = None,
    durable: bool = True,
    now: str = "2026-07-01T12:00:00",
) -> Desk:
    values = {FEATURE: FEATURE_E2E, STATUS: status, START: start, RUN: "A8 00 CRC"}
    cursors = {} if cursor is None else {"cgm_mgdl": START_MIN + cursor}
    made = Desk("cgm", values, {MEASUREMENT, RACP, OPS}, cursors=cursors, durable=durable, now=now)
    made.on_write(OPS, INTERVAL_5)
    return made


def live(cursor: int = 60) -> Desk:
    """A session that has everything up to ``cursor`` and listens."""
    made = desk(cursor=cursor)
    made.on_write(RACP, NONE_FOUND)
    made.start()
    assert made.state == "live"
    assert made.session.idle
    return made


def offsets(made: Desk) -> list[int]:
    return [sample.seq - START_MIN for sample in made.samples]


def test_first_contact_fetches_all_history_in_order() -> None:
    made = desk()
    made.on_write(RACP, record(100, 0), record(101, 5), record(150, 55), SUCCESS)
    made.start()
    assert made.written(OPS) == [octets("02 CRC").hex(" ").upper()]
    assert made.written(RACP) == [ALL]
    assert made.subscribed == [OPS, RACP, MEASUREMENT]
    assert made.got() == [
        ("cgm_mgdl", 100.0, START_MIN),
        ("cgm_mgdl", 101.0, START_MIN + 5),
        ("cgm_mgdl", 150.0, START_MIN + 55),
    ]
    assert made.samples[0].time_us == START_US
    # 11:55 is not older than one and a half intervals at 12:00
    assert [sample.quality for sample in made.samples] == [Quality.BACKFILLED, Quality.BACKFILLED, 0]
    assert made.state == "live"
    assert made.session.idle
    assert made.facts["session_start_us"] == START_US
    assert made.facts["run_time_h"] == 168
    assert made.facts["interval_min"] == 5
    assert made.facts["session_running"] == 1


def test_reconnection_asks_only_for_what_is_missing() -> None:
    made = desk(cursor=50)
    made.on_write(RACP, record(110, 55), record(111, 60), SUCCESS)
    made.start()
    assert made.written(RACP) == ["01 03 01 33 00"]  # from offset 51 = 0x33
    assert offsets(made) == [55, 60]


def test_a_cursor_of_an_earlier_sensor_asks_for_everything() -> None:
    made = desk(cursor=-10_000)
    made.on_write(RACP, record(110, 0), SUCCESS)
    made.start()
    assert made.written(RACP) == [ALL]
    assert offsets(made) == [0]


def test_live_value_that_follows_is_handed_out_at_once() -> None:
    made = live()
    made.now_us += 5 * 60_000_000
    made.value(*record(120, 65))
    assert offsets(made) == [65]
    assert made.samples[0].quality == Quality.GOOD
    assert made.written(RACP) == ["01 03 01 3D 00"]


def test_live_value_after_a_gap_waits_for_the_missing_ones() -> None:
    made = live()
    made.hold_answers = True
    made.value(*record(130, 75))
    assert made.samples == []
    assert made.state == "asking"
    assert made.session.idle  # history was fetched before; this is catching up
    made.hold_answers = False
    made.answer()
    for notice in (record(125, 65), record(127, 70), record(130, 75), SUCCESS):
        made.value(*notice)
    assert offsets(made) == [65, 70, 75]
    assert made.written(RACP)[-1] == "01 03 01 3D 00"
    assert made.state == "live"


def test_a_gap_that_the_sensor_has_nothing_for_is_accepted() -> None:
    made = live()
    made.on_write(RACP, NONE_FOUND)
    made.now_us += 30 * 60_000_000
    made.value(*record(130, 90))
    assert offsets(made) == [90]
    assert made.state == "live"


def test_live_value_during_a_transfer_is_handed_out_after_it() -> None:
    made = desk()
    made.on_write(RACP, record(100, 0), record(170, 60), record(101, 5), record(102, 10), SUCCESS)
    made.start()
    assert offsets(made) == [0, 5, 10, 60]


def test_live_value_that_is_known_already_is_not_repeated() -> None:
    made = live()
    made.value(*record(120, 60))
    made.value(*record(121, 65))
    made.value(*record(121, 65))
    assert offsets(made) == [65]


def test_damaged_live_value_is_counted_and_asked_for_again() -> None:
    made = live()
    made.on_write(RACP, record(120, 65), SUCCESS)
    made.value(*damaged(120, 65))
    assert made.counts["decode_error.crc"] == 1
    assert offsets(made) == [65]
    assert made.state == "live"


def test_truncated_live_value_is_counted_and_asked_for_again() -> None:
    made = live()
    made.on_write(RACP, record(120, 65), SUCCESS)
    made.value(MEASUREMENT, "08 00 78 00 41")
    assert made.counts["decode_error.truncated"] == 1
    assert offsets(made) == [65]


def test_good_record_behind_a_damaged_one_does_not_overtake_it() -> None:
    made = live()
    made.on_write(RACP, record(120, 65), record(121, 66), SUCCESS)
    # Three records in one notification, one minute apart: close enough to look like neighbours.
    good, bad, after = record(119, 64)[1], damaged(120, 65)[1], record(121, 66)[1]
    data = octets(good) + octets(bad) + octets(after)
    made.take(made.session.on_value(MEASUREMENT, data, made.now_us, made.mono_s))
    assert offsets(made) == [64, 65, 66]


def test_damage_in_a_transfer_is_fetched_again_and_nothing_overtakes() -> None:
    made = desk()
    made.on_write(RACP, record(100, 0), damaged(101, 5), record(102, 10), SUCCESS)
    made.on_write(RACP, record(100, 0), record(101, 5), record(102, 10), SUCCESS)
    made.start()
    assert offsets(made) == [0, 5, 10]
    assert made.written(RACP) == [ALL, ALL]
    assert made.counts["decode_error.crc"] == 1
    assert made.counts["given_up.record"] == 0


def test_record_damaged_in_the_sensor_is_given_up_after_three_repeats() -> None:
    made = desk()
    for _ in range(4):
        made.on_write(RACP, record(100, 0), damaged(101, 5), record(102, 10), SUCCESS)
    made.start()
    assert len(made.written(RACP)) == 4
    assert offsets(made) == [0, 10]
    assert made.counts["decode_error.crc"] == 4
    assert made.counts["given_up.record"] == 1
    assert made.state == "live"
    made.value(*record(103, 15))  # and life goes on
    assert offsets(made) == [0, 10, 15]


def test_a_device_that_sends_only_nonsense_is_closed() -> None:
    made = desk()
    made.hold_answers = True
    made.start()
    made.hold_answers = False
    while made.waiting:
        made.answer()
    for _ in range(60):
        if made.closed is None:
            made.value(MEASUREMENT, "00 00 00 00 00 00")
    assert isinstance(made.closed, DecodeError)
    assert made.counts["decode_error.size"] == 51


def test_silence_in_a_transfer_closes_the_link_after_thirty_real_seconds() -> None:
    made = desk()
    made.start()
    assert made.state == "receiving"
    made.tick(real_s=29)
    made.value(*record(100, 0))  # a sign of life
    made.tick(real_s=29)
    assert made.closed is None
    made.tick(real_s=2)
    assert isinstance(made.closed, LinkTimeout)
    assert made.state == "closed"


def test_twin_time_does_not_time_a_link_out() -> None:
    made = desk()
    made.start()
    made.tick(twin_min=600)
    assert made.closed is None


def test_pace_that_is_never_told_closes_the_link() -> None:
    made = desk()
    made.script[OPS].clear()
    made.start()
    assert made.state == "preparing"
    made.tick(real_s=31)
    assert isinstance(made.closed, LinkTimeout)


@pytest.mark.parametrize("code", ["04", "09"])
def test_sensor_without_a_filter_is_asked_for_everything(code: str) -> None:
    made = desk(cursor=50)
    made.on_write(RACP, (RACP, f"06 00 01 {code}"))
    made.on_write(RACP, record(109, 50), record(110, 55), SUCCESS)
    made.start()
    assert made.written(RACP) == ["01 03 01 33 00", ALL]
    assert offsets(made) == [55]


@pytest.mark.parametrize("code", ["08", "0A"])
def test_transfer_not_completed_is_asked_for_again_after_a_pause(code: str) -> None:
    made = desk()
    made.on_write(RACP, record(100, 0), (RACP, f"06 00 01 {code}"))
    made.on_write(RACP, record(100, 0), record(101, 5), SUCCESS)
    made.start()
    assert made.state == "asking"
    assert len(made.written(RACP)) == 1
    made.tick(real_s=0.5)
    assert len(made.written(RACP)) == 1
    made.tick(real_s=0.6)
    assert offsets(made) == [0, 5]


def test_transfer_never_completed_closes_the_link() -> None:
    made = desk()
    for _ in range(5):
        made.on_write(RACP, (RACP, "06 00 01 08"))
    made.start()
    for _ in range(6):
        made.tick(real_s=1.1)
    assert isinstance(made.closed, ProcedureError)
    assert len(made.written(RACP)) == 4


@pytest.mark.parametrize("code", ["02", "03", "05", "7F"])
def test_refused_transfer_closes_the_link(code: str) -> None:
    made = desk()
    made.on_write(RACP, (RACP, f"06 00 01 {code}"))
    made.start()
    assert isinstance(made.closed, ProcedureError)


def test_damaged_end_of_transfer_is_asked_for_again() -> None:
    made = desk()
    made.on_write(RACP, record(100, 0), (RACP, "06 00 01"))
    made.on_write(RACP, record(100, 0), SUCCESS)
    made.start()
    made.tick(real_s=1.1)
    assert offsets(made) == [0]
    assert made.counts["decode_error.truncated"] == 1


def test_answer_may_overtake_the_confirmation_of_the_request() -> None:
    made = live()
    made.hold_answers = True
    made.value(*record(130, 75))
    made.value(*record(125, 65))
    made.value(*record(127, 70))
    made.value(*SUCCESS)
    assert offsets(made) == [65, 70, 75]
    assert made.state == "live"
    made.answer()  # the confirmation of the write, late
    assert made.state == "live"


def test_stray_answer_of_the_control_point_changes_nothing() -> None:
    made = live()
    made.value(*SUCCESS)
    assert made.state == "live"
    assert made.counts["unexpected.racp"] == 1


def test_long_history_leaves_in_parts_so_that_a_lost_link_keeps_what_it_got() -> None:
    made = desk("E8 03 00 00 00 CRC", now="2026-07-02T03:40:00")  # 1000 min after the start
    made.start()
    for number in range(200):
        made.value(*record(100, number * 5))
    assert made.state == "receiving"
    assert len(made.samples) >= 128
    assert offsets(made) == [5 * number for number in range(len(made.samples))]
    assert max(len(batch) for batch in made.batches) <= 64


def test_history_with_gaps_is_not_handed_out_across_one_before_the_end() -> None:
    made = desk("E8 03 00 00 00 CRC", now="2026-07-02T03:40:00")  # 1000 min after the start
    made.start()
    for number in range(128):
        made.value(*record(100, 300 + number * 5))
        if number == 5:
            made.value(*record(90, 5))  # against the rule of oldest first: a late one
    handed_out = len(made.samples)
    made.value(*SUCCESS)
    assert handed_out < len(made.samples) == 129
    assert offsets(made) == sorted(offsets(made))


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("FF 07", "nan"),
        ("00 08", "nres"),
        ("FE 07", "plus_inf"),
        ("02 08", "minus_inf"),
        ("01 08", "reserved"),
    ],
)
def test_special_values_are_counted_and_never_become_numbers(word: str, name: str) -> None:
    made = live()
    made.value(MEASUREMENT, f"08 00 {word} 41 00 CRC")
    made.value(*record(120, 70))
    assert offsets(made) == [70]
    assert made.counts[f"no_value.{name}"] == 1
    assert len(made.written(RACP)) == 1  # the special value was the missing record; nothing to fetch


def test_value_that_nobody_can_have_is_counted() -> None:
    made = live()
    made.value(*record(5, 65))
    assert made.samples == []
    assert made.counts["implausible.cgm_mgdl"] == 1


def test_sensor_that_doubts_itself_is_flagged() -> None:
    made = live()
    made.now_us += 5 * 60_000_000
    made.value(MEASUREMENT, "09 40 78 00 41 00 08 CRC")  # calibration required
    assert made.samples[0].quality == Quality.SENSOR_WARNING
    made.now_us += 5 * 60_000_000
    made.value(MEASUREMENT, "09 20 3C 00 46 00 01 CRC")  # below patient low: no doubt about the value
    assert made.samples[1].quality == Quality.GOOD


@pytest.mark.parametrize("offset_min", [55, 65])
def test_clock_five_minutes_off_is_told_and_flagged(offset_min: int) -> None:
    made = desk(f"{offset_min:02X} 00 00 00 00 CRC")
    made.on_write(RACP, record(100, 50), SUCCESS)
    made.start()
    assert made.facts["clock_offset_s"] == (offset_min - 60) * 60 + 30
    assert made.samples[0].quality & Quality.CLOCK_DOUBT


@pytest.mark.parametrize("offset_min", [58, 59, 60, 61, 62])
def test_clock_that_is_right_within_tolerance_is_not_doubted(offset_min: int) -> None:
    made = desk(f"{offset_min:02X} 00 00 00 00 CRC")
    made.on_write(RACP, record(100, 50), SUCCESS)
    made.start()
    assert not made.samples[0].quality & Quality.CLOCK_DOUBT


def test_slow_answer_under_a_fast_clock_is_no_wrong_clock() -> None:
    made = desk("3C 00 00 00 00 CRC")
    made.hold_answers = True
    made.start()
    made.answer()  # feature
    made.now_us += 20 * 60_000_000  # the status takes 20 min of twin time to arrive
    made.answer()
    made.hold_answers = False
    made.on_write(RACP, record(100, 50), SUCCESS)
    made.answer()
    assert not made.samples[0].quality & Quality.CLOCK_DOUBT


def test_sensor_never_started_is_started_and_dated() -> None:
    made = desk("00 00 01 01 00 CRC", "00 00 00 00 00 00 00 80 FF CRC")
    made.on_write(OPS, (OPS, "1C 1A 01 CRC"))
    made.values[START].append(octets("EA 07 07 01 0D 00 00 00 04 CRC"))  # 13:00 in London = 12:00 UTC
    made.on_write(RACP, NONE_FOUND)
    made.start()
    assert [data.split()[0] for data in made.written(OPS)] == ["02", "1A"]
    assert made.written(START)[0].startswith("EA 07 07 01 0D 00 00 00 04 ")
    assert len(made.written(START)[0].split()) == 11  # with its CRC
    assert made.state == "live"
    assert made.facts["session_start_us"] == us("2026-07-01T12:00:00")
    made.value(*record(100, 0))
    assert made.samples == []  # nothing before it is known: the sensor is asked
    made.value(*record(100, 0))
    made.value(*SUCCESS)
    assert made.got() == [("cgm_mgdl", 100.0, us("2026-07-01T12:00:00") // 60_000_000)]


def test_running_sensor_without_start_time_is_dated_but_not_started() -> None:
    made = desk("14 00 00 01 00 CRC", "00 00 00 00 00 00 00 80 FF CRC")
    made.values[START].append(octets("EA 07 07 01 0C 28 00 00 04 CRC"))  # the sensor subtracts its 20 min
    made.on_write(RACP, record(100, 0), record(101, 5), SUCCESS)
    made.start()
    assert [data.split()[0] for data in made.written(OPS)] == ["02"]
    assert made.written(START)[0].startswith("EA 07 07 01 0D 00 00 00 04 ")
    assert [sample.time_us for sample in made.samples] == [
        us("2026-07-01T11:40:00"),
        us("2026-07-01T11:45:00"),
    ]


def test_dated_session_is_never_dated_again() -> None:
    made = live()
    assert made.written(START) == []


def test_sensor_that_takes_no_start_time_is_closed() -> None:
    made = desk("14 00 00 01 00 CRC", "00 00 00 00 00 00 00 80 FF CRC")
    made.start()
    assert isinstance(made.closed, ProcedureError)


def test_stopped_sensor_is_started_only_when_its_history_is_durable() -> None:
    made = desk("3C 00 01 00 00 CRC", durable=False)
    made.values[START].append(octets("EA 07 07 01 0D 00 00 00 04 CRC"))
    made.on_write(RACP, record(100, 0), record(101, 5), SUCCESS)
    made.start()
    assert made.state == "storing"
    assert offsets(made) == [0, 5]
    assert made.written(OPS)[-1].startswith("02")
    made.stored(1)
    assert made.state == "storing"
    made.on_write(OPS, (OPS, "1C 1A 01 CRC"))
    made.on_write(RACP, NONE_FOUND)
    made.session.on_stored(())
    made.take(made.session.on_stored(tuple(made.samples[1:])))
    assert made.written(OPS)[-1].startswith("1A")
    assert made.state == "live"
    assert made.facts["session_running"] == 1


def test_sensor_at_its_end_that_refuses_to_start_is_left_alone() -> None:
    made = desk("3C 00 01 00 00 CRC")
    made.on_write(RACP, record(100, 0), SUCCESS)
    made.on_write(OPS, (OPS, "1C 1A 04 CRC"))
    made.start()
    assert made.state == "live"
    assert made.facts["session_running"] == 0
    assert made.counts["procedure_error.start_session"] == 1
    assert offsets(made) == [0]


def test_damaged_status_is_read_again() -> None:
    made = desk()
    made.values[STATUS].appendleft(octets("3C 00 00 00 00 00 00"))
    made.on_write(RACP, NONE_FOUND)
    made.start()
    assert made.state == "live"
    assert made.counts["decode_error.crc"] == 1


def test_feature_damaged_three_times_closes_the_link() -> None:
    made = desk()
    made.values[FEATURE].clear()
    made.values[FEATURE].append(bytes.fromhex("001000590000"))
    made.start()
    assert isinstance(made.closed, DecodeError)
    assert made.counts["decode_error.crc"] == 3


def test_sensor_gone_quiet_is_asked_but_not_in_a_hurry() -> None:
    made = live()
    made.on_write(RACP, record(120, 65), SUCCESS)
    made.tick(real_s=6, twin_min=12)
    assert made.samples == []
    made.tick(real_s=6, twin_min=1)
    assert offsets(made) == [65]
    made.tick(real_s=1, twin_min=60)  # a fast clock alone is no reason to ask again
    assert len(made.written(RACP)) == 2


def test_optional_reads_that_fail_do_not_matter() -> None:
    made = desk()
    made.on_write(RACP, NONE_FOUND)
    made.hold_answers = True
    made.start()
    for _ in range(3):
        made.answer()
    made.fail()  # run time
    made.hold_answers = False
    while made.waiting:
        made.answer()
    assert made.state == "live"


def test_cursor_moves_only_when_samples_are_durable() -> None:
    made = desk(durable=False)
    made.on_write(RACP, record(100, 0), record(101, 5), SUCCESS)
    made.start()
    assert made.session.cursors == {}  # type: ignore[attr-defined]
    made.stored(1)
    assert made.session.cursors == {"cgm_mgdl": START_MIN}  # type: ignore[attr-defined]
    made.on_write(OPS, INTERVAL_5)
    made.start()  # the link was lost and came back
    assert made.written(RACP)[-1] == "01 03 01 01 00"


def test_value_is_in_no_error_and_no_count() -> None:
    made = live()
    made.value(*damaged(123, 65))
    made.tick(real_s=31)
    assert "123" not in str(made.closed)
    assert not any("123" in name for name in made.counts)


def test_repeat_of_a_damaged_transfer_hands_out_nothing_early() -> None:
    """One record a minute while the sensor says five: neighbours prove nothing once a record is missing."""
    made = desk("E8 03 00 00 00 CRC", now="2026-07-02T03:40:00")  # 1000 min after the start
    good = [record(100, number) for number in range(129)]
    made.on_write(RACP, *good[:40], damaged(100, 40), *good[41:], SUCCESS)
    made.on_write(RACP, *good, SUCCESS)
    made.start()
    assert offsets(made) == list(range(129))


def test_late_confirmation_of_an_old_request_is_not_that_of_the_new_one() -> None:
    made = live()
    made.hold_answers = True
    made.value(*record(130, 75))
    made.value(*damaged(125, 65))
    made.value(*SUCCESS)  # before the write is confirmed; the damage asks for a repeat
    assert made.state == "asking"
    made.answer()
    assert made.state == "asking"
    assert made.written(RACP)[1:] == ["01 03 01 3D 00"] * 2
    made.answer()
    assert made.state == "receiving"
    for notice in (record(125, 65), record(127, 70), record(130, 75), SUCCESS):
        made.value(*notice)
    assert offsets(made) == [65, 70, 75]


def test_interval_is_the_sensors_own() -> None:
    made = desk(cursor=60)
    made.script[OPS].clear()
    made.on_write(OPS, (OPS, "03 0F CRC"))
    made.on_write(RACP, NONE_FOUND)
    made.start()
    made.value(*record(120, 75))  # fifteen minutes on: the next one, not a gap
    assert offsets(made) == [75]
    assert made.facts["interval_min"] == 15
