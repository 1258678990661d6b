"""The logbook meter: fingersticks, meals and pen doses, driven by bytes."""

from __future__ import annotations

import pytest

from core.messages import Quality
from tests.edge.ble.sessions.desk import Desk, us

MEASUREMENT, CONTEXT, FEATURE, RACP = 0x2A18, 0x2A34, 0x2A51, 0x2A52
CURRENT_TIME, LOCAL_TIME = 0x2A2B, 0x2A0F
SUCCESS = (RACP, "06 00 01 01")
NONE_FOUND = (RACP, "06 00 01 06")
NOON = "EA 07 07 01 0C 00 00"  # 12:00 on the meter's face, 11:00 UTC in a London summer
T = us("2026-07-01T11:00:00")


def stick(seq: int, context: bool = False, at: str = NOON) -> tuple[int, str]:
    """138 mg/dL from a finger."""
    return MEASUREMENT, f"{'12' if context else '02'} {seq:02X} 00 {at} 8A B0 12"


def entry(seq: int, at: str = NOON) -> tuple[int, str]:
    """A record without a fingerstick; its context follows."""
    return MEASUREMENT, f"10 {seq:02X} 00 {at}"


def meal(seq: int) -> tuple[int, str]:
    """45 g for breakfast."""
    return CONTEXT, f"01 {seq:02X} 00 01 2D D0"


def dose(seq: int, code: int = 1, flags: str = "30") -> tuple[int, str]:
    """45e-6 litre: 4.5 U of U-100."""
    return CONTEXT, f"{flags} {seq:02X} 00 {code:02X} 2D A0"


def meal_and_dose(seq: int) -> tuple[int, str]:
    return CONTEXT, f"31 {seq:02X} 00 01 2D D0 01 2D A0"


def desk(*records: tuple[int, str], cursors: dict[str, int] | None = None, **more: str) -> Desk:
    values = {FEATURE: "00 04"} | {int(uuid, 16): text for uuid, text in more.items()}
    made = Desk("glucose_meter", values, {MEASUREMENT, CONTEXT, RACP}, cursors=cursors)
    made.on_write(RACP, *records, SUCCESS if records else NONE_FOUND)
    return made.start()


def test_first_contact_fetches_the_whole_logbook() -> None:
    made = desk(stick(1), entry(2), meal(2), stick(3, context=True), meal_and_dose(3))
    assert made.written(RACP) == ["01 01"]
    assert made.got() == [
        ("smbg_mgdl", 138.0, 1),
        ("carbs_g", 45.0, 2),
        ("smbg_mgdl", 138.0, 3),
        ("carbs_g", 45.0, 3),
        ("bolus_u", 4.5, 3),
    ]
    assert {sample.time_us for sample in made.samples} == {T}
    assert all(sample.quality == Quality.BACKFILLED for sample in made.samples)
    assert made.state == "live"
    assert made.session.idle


def test_reconnection_asks_from_the_greatest_number_of_any_kind() -> None:
    made = desk(cursors={"smbg_mgdl": 7, "carbs_g": 9, "bolus_u": 3})
    assert made.written(RACP)[0] == "01 03 01 0A 00"


@pytest.mark.parametrize(
    ("code", "kind"), [(1, "bolus_u"), (2, "bolus_u"), (3, "long_acting_u"), (4, "long_acting_u")]
)
def test_insulin_goes_to_the_kind_of_its_action(code: int, kind: str) -> None:
    assert desk(entry(1), dose(1, code)).got() == [(kind, 4.5, 1)]


@pytest.mark.parametrize(("code", "flags"), [(5, "30"), (0, "30"), (99, "30"), (1, "10")])
def test_insulin_that_fits_no_kind_is_counted_not_guessed(code: int, flags: str) -> None:
    made = desk(entry(1), dose(1, code, flags))
    assert made.samples == []
    assert made.counts["unmapped.medication"] == 1


def test_dose_with_a_special_value_is_counted() -> None:
    made = desk(entry(1), (CONTEXT, "30 01 00 01 FF 07"), stick(2))
    assert made.got() == [("smbg_mgdl", 138.0, 2)]
    assert made.counts["no_value.nan"] == 1


def test_molar_meter_is_converted() -> None:
    made = desk((MEASUREMENT, f"06 01 00 {NOON} 37 C0 11"))  # 5.5 mmol/L
    assert made.samples[0].value == pytest.approx(5.5 * 18.0156)


def test_control_solution_is_no_reading_of_a_person() -> None:
    made = desk((MEASUREMENT, f"02 01 00 {NOON} 8A B0 4A"), stick(2))
    assert made.got() == [("smbg_mgdl", 138.0, 2)]
    assert made.counts["skipped.control_solution"] == 1


def test_context_that_did_not_come_is_asked_for_again() -> None:
    made = Desk("glucose_meter", {}, {MEASUREMENT, CONTEXT, RACP})
    made.on_write(RACP, stick(1), entry(2), (CONTEXT, "01 02 00 01 2D"), stick(3), SUCCESS)
    made.on_write(RACP, stick(1), entry(2), meal(2), stick(3), SUCCESS)
    made.start()
    assert made.counts["decode_error.truncated"] == 1
    assert made.got() == [("smbg_mgdl", 138.0, 1), ("carbs_g", 45.0, 2), ("smbg_mgdl", 138.0, 3)]


def test_context_that_never_comes_keeps_back_nothing_else_for_ever() -> None:
    made = Desk("glucose_meter", {}, {MEASUREMENT, CONTEXT, RACP})
    for _ in range(4):
        made.on_write(RACP, stick(1, context=True), stick(2), SUCCESS)
    made.start()
    assert made.got() == [("smbg_mgdl", 138.0, 1), ("smbg_mgdl", 138.0, 2)]
    assert made.counts["given_up.record"] == 1
    assert len(made.written(RACP)) == 4


def test_live_record_waits_for_its_context() -> None:
    made = desk(stick(1))
    made.value(*entry(2))
    assert len(made.samples) == 1
    made.value(*meal(2))
    assert made.got()[1:] == [("carbs_g", 45.0, 2)]


def test_live_record_after_a_gap_fetches_what_is_between() -> None:
    made = desk(stick(1))
    made.on_write(RACP, stick(2), stick(3), SUCCESS)
    made.value(*stick(3))
    assert made.written(RACP)[-1] == "01 03 01 02 00"
    assert [sample.seq for sample in made.samples] == [1, 2, 3]


def test_meter_is_polled_for_new_records() -> None:
    made = desk(stick(1))
    made.on_write(RACP, stick(2), SUCCESS)
    made.tick(real_s=6, twin_min=6)
    assert [sample.seq for sample in made.samples] == [1, 2]
    assert made.state == "live"
    made.tick(real_s=1, twin_min=60)
    made.tick(real_s=60, twin_min=-57)
    assert len(made.written(RACP)) == 2


def test_time_offset_is_added_to_base_time() -> None:
    made = desk((MEASUREMENT, f"03 01 00 {NOON} C4 FF 8A B0 12"))  # -60 min
    assert made.samples[0].time_us == T - 3_600_000_000


def test_record_without_a_date_is_counted_never_dated_by_guess() -> None:
    made = desk(stick(1, at="00 00 00 00 0C 00 00"), stick(2))
    assert made.got() == [("smbg_mgdl", 138.0, 2)]
    assert made.counts["no_time"] == 1


@pytest.mark.parametrize(
    "at",
    [
        "D9 07 01 01 00 00 00",  # 2009: never set
        "EA 07 03 1D 01 1E 00",  # 29 March 01:30 does not exist in London
        "EA 07 07 01 0D 0A 00",  # ten minutes after now
    ],
)
def test_time_that_cannot_be_trusted_is_flagged(at: str) -> None:
    made = desk(stick(1, at=at))
    assert made.samples[0].quality & Quality.CLOCK_DOUBT


def test_time_fault_told_by_the_meter_is_flagged() -> None:
    made = desk((MEASUREMENT, f"0A 01 00 {NOON} 8A B0 12 00 08"))
    assert made.samples[0].quality & Quality.CLOCK_DOUBT
    assert not made.samples[0].quality & Quality.SENSOR_WARNING


def test_bad_strip_is_flagged() -> None:
    made = desk((MEASUREMENT, f"0A 01 00 {NOON} 8A B0 12 08 00"))
    assert made.samples[0].quality & Quality.SENSOR_WARNING


def test_wrong_current_time_is_told_and_flagged() -> None:
    made = Desk(
        "glucose_meter",
        {CURRENT_TIME: "EA 07 07 01 0D 05 00 03 00 00"},  # 13:05 in London; it is 13:00
        {MEASUREMENT, CONTEXT, RACP},
    )
    made.on_write(RACP, stick(1), SUCCESS)
    made.start()
    assert made.facts["clock_offset_s"] in (300, 301)
    assert made.samples[0].quality & Quality.CLOCK_DOUBT


@pytest.mark.parametrize(
    ("face", "local_time", "offset_s"),
    [
        ("0C 00 00", "00 00", 0),
        ("0D 00 00", "00 04", 0),
        ("0D 00 00", "80 FF", 0),
        ("0C 05 00", "00 00", 300),
    ],
)
def test_current_time_is_read_in_the_zone_the_device_says(face: str, local_time: str, offset_s: int) -> None:
    """A device that keeps UTC, and says so, is not an hour late in a London summer. It is 12:00 UTC."""
    made = Desk(
        "glucose_meter",
        {CURRENT_TIME: f"EA 07 07 01 {face} 03 00 00", LOCAL_TIME: local_time},
        {MEASUREMENT, CONTEXT, RACP},
    )
    made.on_write(RACP, stick(1), SUCCESS)
    made.start()
    assert made.facts["clock_offset_s"] == offset_s
    assert bool(made.samples[0].quality & Quality.CLOCK_DOUBT) == bool(offset_s)
