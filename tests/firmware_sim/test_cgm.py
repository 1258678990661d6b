"""The CGM: layouts, history, session and faults, read over the air by a plain central."""

from typing import Any

import pytest
from bumble.att import ATT_Error

from firmware_sim.cgm import Cgm, measurement
from firmware_sim.octets import crc_holds, with_crc
from firmware_sim.recording import Event
from tests.firmware_sim.central import Central, eventually
from tests.firmware_sim.conftest import MIN_US, START_US, House, Opener

MEASUREMENT, FEATURE, STATUS, START, RUN, OPS, RACP = 0x2AA7, 0x2AA8, 0x2AA9, 0x2AAA, 0x2AAB, 0x2AAC, 0x2A52


def glucose(cgm: Cgm, house: House, minutes: list[float], value: float = 100.0) -> None:
    """Readings at these minutes of the session, the clock following."""
    for minute in minutes:
        time_us = START_US + int(minute * MIN_US)
        house.hand.us = max(house.hand.us, time_us)
        cgm.play(cgm.flash.next_event, Event(time_us, "cgm_mgdl", value))


def offsets(values: list[bytes]) -> list[int]:
    assert all(crc_holds(value) and value[0] == len(value) for value in values)
    return [int.from_bytes(value[4:6], "little") for value in values]


async def listening(opened: Opener) -> tuple[Any, Central]:
    cgm, hub = await opened("cgm")
    for uuid in (MEASUREMENT, RACP, OPS):
        await hub.subscribe(uuid)
    return cgm, hub


def test_measurement_is_size_flags_concentration_offset_and_status_only_when_set() -> None:
    # 8 octets with the CRC to come; no flags; 123 mg/dL; 5 min
    assert measurement(123.0, 5).hex() == "08" + "00" + "7b00" + "0500"
    # the status octet (battery low, bit 1) is announced by flag 7 and makes the record one octet longer
    assert measurement(98.6, 0x1234, 0x02).hex() == "09" + "80" + "daf3" + "3412" + "02"


async def test_readable_characteristics_follow_the_service(house: House, opened: Opener) -> None:
    _, hub = await opened("cgm")
    house.hand.us = START_US + 90 * MIN_US
    # low battery detection (9), E2E-CRC (12), multiple bonds (13); type 9 interstitial, location 5 subcutaneous
    assert await hub.read(FEATURE) == with_crc(bytes.fromhex("003200" + "59"))
    assert await hub.read(STATUS) == with_crc(bytes.fromhex("5a00" + "000000"))
    assert await hub.read(START) == with_crc(bytes.fromhex("e7070a0c000000" + "00" + "00"))
    assert await hub.read(RUN) == with_crc(bytes.fromhex("3804"))  # 1080 h
    assert await hub.read(0x2A19) == b"\x64"


@pytest.mark.parametrize(
    ("request_hex", "expected"),
    [
        ("0101", [0, 5, 10, 15, 20]),  # all
        ("0103010a00", [10, 15, 20]),  # at least 10
        ("0102010a00", [0, 5, 10]),  # at most 10
        ("010401" + "0500" + "0f00", [5, 10, 15]),  # within
        ("0105", [0]),
        ("0106", [20]),
    ],
)
async def test_history_is_reported_as_asked(
    house: House, opened: Opener, request_hex: str, expected: list[int]
) -> None:
    cgm, hub = await opened("cgm")
    glucose(cgm, house, [0, 5, 10, 15, 20])
    values = await hub.subscribe(MEASUREMENT)
    await hub.subscribe(RACP)
    assert await hub.ask(RACP, bytes.fromhex(request_hex)) == b"\x06\x00\x01\x01"
    assert offsets(values) == expected
    assert hub.log[-1][0] == RACP  # the answer comes after the last record


@pytest.mark.parametrize(
    ("request_hex", "answer_hex"),
    [
        ("0401", "05000500"),
        ("0403010b00", "05000200"),
        ("0403016400", "05000000"),
        ("0103016400", "06000106"),  # no records found
        ("0100", "06000103"),  # invalid operator: null
        ("01", "06000103"),
        ("0107", "06000104"),  # operator not supported
        ("0103", "06000105"),  # invalid operand: none
        ("01030100", "06000105"),
        ("010401" + "0f00" + "0500", "06000105"),  # upside down
        ("010101", "06000105"),  # an operand where none belongs
        ("0103020a00", "06000109"),  # filter type not supported
        ("0201", "06000202"),  # deleting is not supported
        ("7f01", "06007f02"),
        ("0601", "06000602"),
        ("0300", "06000301"),  # abort with nothing running
        ("0301", "06000303"),
    ],
)
async def test_record_access_answers_counts_and_errors(
    house: House, opened: Opener, request_hex: str, answer_hex: str
) -> None:
    cgm, hub = await listening(opened)
    glucose(cgm, house, [0, 5, 10, 15, 20])
    assert (await hub.ask(RACP, bytes.fromhex(request_hex))).hex() == answer_hex


async def test_a_long_report_can_be_aborted_and_another_request_waits(house: House, opened: Opener) -> None:
    cgm, hub = await opened("cgm")
    glucose(cgm, house, [float(minute) for minute in range(2000)])
    values, answers = await hub.subscribe(MEASUREMENT), await hub.subscribe(RACP)
    await hub.write(RACP, b"\x01\x01")
    with pytest.raises(ATT_Error) as refused:
        await hub.write(RACP, b"\x04\x01")
    assert refused.value.error_code == 0xFE  # procedure already in progress
    await hub.write(RACP, b"\x03\x00")
    await eventually(lambda: answers)
    assert answers == [b"\x06\x00\x03\x01"]
    assert len(values) < 2000
    assert await hub.ask(RACP, b"\x01\x06") == b"\x06\x00\x01\x01"  # and the next one works


async def test_record_access_without_subscriptions_is_improperly_configured(opened: Opener) -> None:
    _, hub = await opened("cgm")
    with pytest.raises(ATT_Error) as refused:
        await hub.write(RACP, b"\x01\x01")
    assert refused.value.error_code == 0xFD


async def test_live_values_are_notified_and_wait_behind_a_report(house: House, opened: Opener) -> None:
    cgm, hub = await opened("cgm")
    glucose(cgm, house, [0, 5])
    values, answers = await hub.subscribe(MEASUREMENT), await hub.subscribe(RACP)
    await hub.write(RACP, b"\x01\x01")
    glucose(cgm, house, [10])
    await eventually(lambda: len(values) == 3)
    assert offsets(values) == [0, 5, 10]
    assert [uuid for uuid, _ in hub.log].index(RACP) == 2
    assert answers == [b"\x06\x00\x01\x01"]


async def test_one_record_per_minute_the_first_counts(house: House) -> None:
    cgm = await house.device("cgm", on_air=False)
    glucose(cgm, house, [5.0, 5.5, 6.0])
    assert [r.key for r in cgm.flash.records] == [5, 6]
    assert cgm.counters["same_minute"] == 1


async def test_history_survives_a_killed_process_and_a_line_cut_short(house: House, opened: Opener) -> None:
    cgm, hub = await opened("cgm")
    glucose(cgm, house, [0, 5, 10])
    await house.kill(cgm)
    with (house.folder / "cgm.records").open("a") as out:
        out.write('{"e": 3, "k": 15, "t')
    await eventually(lambda: not hub.device.connections)
    again = await house.device("cgm")
    assert again.flash.next_event == 3
    glucose(again, house, [15])
    await hub.open(again)
    values = await hub.subscribe(MEASUREMENT)
    await hub.subscribe(RACP)
    await hub.ask(RACP, b"\x01\x01")
    assert offsets(values) == [0, 5, 10, 15]


async def test_faults_spoil_the_next_record_only_and_the_record_itself_stays_good(
    house: House, opened: Opener
) -> None:
    cgm, hub = await opened("cgm")
    glucose(cgm, house, [0, 5])
    values = await hub.subscribe(MEASUREMENT)
    await hub.subscribe(RACP)
    for fault in ("bad_crc_next", "tamper_next", "truncate_next", "zero_size_next"):
        values.clear()
        await cgm.control(fault, {"n": 1})
        await hub.ask(RACP, b"\x01\x01")
        assert len(values) == 2
        assert not (crc_holds(values[0]) and values[0][0] == len(values[0])), fault
        assert offsets(values[1:]) == [5]
    values.clear()
    await hub.ask(RACP, b"\x01\x01")
    assert offsets(values) == [0, 5]


async def test_low_battery_is_notified_and_marks_later_records(house: House, opened: Opener) -> None:
    cgm, hub = await listening(opened)
    battery = await hub.subscribe(0x2A19)
    await cgm.control("battery", {"pct": 5})
    await eventually(lambda: battery)
    assert battery == [b"\x05"]
    glucose(cgm, house, [5])
    await eventually(lambda: hub.values[MEASUREMENT])
    assert hub.values[MEASUREMENT][0][:-2].hex() == "09" + "80" + "6400" + "0500" + "02"
    assert (await hub.read(STATUS))[2:5] == b"\x02\0\0"


async def test_a_wrong_clock_moves_new_offsets_and_status_but_never_the_order(
    house: House, opened: Opener
) -> None:
    cgm, hub = await listening(opened)
    glucose(cgm, house, [0, 5])
    await cgm.control("clock", {"offset_s": 300})
    glucose(cgm, house, [10])
    assert (await hub.read(STATUS))[:2] == b"\x0f\0"  # 10 min true, 15 by the device
    await cgm.control("clock", {"offset_s": -600})
    glucose(cgm, house, [15])
    assert [r.key for r in cgm.flash.records] == [0, 5, 15, 16]


async def test_session_can_be_stopped_and_started_by_the_collector(house: House, opened: Opener) -> None:
    cgm, hub = await listening(opened)
    glucose(cgm, house, [0, 5])
    assert await hub.ask(OPS, with_crc(b"\x1a")) == with_crc(b"\x1c\x1a\x04")  # running: not completed
    assert await hub.ask(OPS, with_crc(b"\x1b")) == with_crc(b"\x1c\x1b\x01")
    assert (await hub.read(STATUS))[2] == 1
    glucose(cgm, house, [10])
    assert len(cgm.flash.records) == 2
    house.hand.us = START_US + 20 * MIN_US + 7_000_000
    assert await hub.ask(OPS, with_crc(b"\x1a")) == with_crc(b"\x1c\x1a\x01")
    assert (await hub.read(STATUS))[2:4] == b"\x00\x01"  # running, time synchronisation required
    assert await hub.read(START) == with_crc(bytes(9))
    # London, summer: 01:20:07 on the wall is 00:20:07 UTC; seven seconds have passed since the session's minute
    await hub.write(START, with_crc(bytes.fromhex("e7070a0c011407" + "00" + "04")))
    assert await hub.read(START) == with_crc(bytes.fromhex("e7070a0c011400" + "00" + "04"))
    cgm.play(5, Event(START_US + 25 * MIN_US, "cgm_mgdl", 90.0))
    assert [r.key for r in cgm.flash.records] == [5]


async def test_a_session_ends_with_its_run_time(house: House) -> None:
    cgm = await house.device("cgm", on_air=False)
    glucose(cgm, house, [0.0, 45 * 24 * 60.0, 45 * 24 * 60.0 + 5])
    assert [r.key for r in cgm.flash.records] == [0, 45 * 24 * 60]
    assert cgm.status()["session_stopped"]


async def test_a_waiting_cgm_records_nothing_before_its_session(house: House) -> None:
    cgm = await house.device("cgm", waits=True)
    hub = await house.hub()
    await hub.open(cgm)
    glucose(cgm, house, [0, 5])
    assert cgm.flash.records == []
    await hub.subscribe(OPS)
    assert (await hub.read(STATUS))[2:4] == b"\x01\x01"
    assert await hub.ask(OPS, with_crc(b"\x1a")) == with_crc(b"\x1c\x1a\x01")
    glucose(cgm, house, [10])
    assert [r.key for r in cgm.flash.records] == [5]


@pytest.mark.parametrize(
    ("uuid", "data", "code"),
    [
        (OPS, b"\x1a", 0x80),  # missing CRC
        (OPS, b"\x1a\0\0", 0x81),  # invalid CRC
        (START, bytes.fromhex("e7070a0c011407" + "0000"), 0x80),
        (START, bytes.fromhex("e7070a0c011407" + "0000" + "0000"), 0x81),
        (START, b"\0", 0x0D),
        (START, with_crc(bytes.fromhex("e7070d0c011407" + "0000")), 0xFF),  # month 13
        (START, with_crc(bytes.fromhex("e7070a0c011407" + "0003")), 0xFF),  # no such saving
    ],
)
async def test_writes_are_checked(opened: Opener, uuid: int, data: bytes, code: int) -> None:
    _, hub = await listening(opened)
    with pytest.raises(ATT_Error) as refused:
        await hub.write(uuid, data)
    assert refused.value.error_code == code


async def test_specific_operations(opened: Opener) -> None:
    _, hub = await listening(opened)
    assert await hub.ask(OPS, with_crc(b"\x02")) == with_crc(b"\x03\x05")
    assert await hub.ask(OPS, with_crc(b"\x01\x01")) == with_crc(b"\x1c\x01\x01")
    assert await hub.ask(OPS, with_crc(b"\x02")) == with_crc(b"\x03\x01")
    assert await hub.ask(OPS, with_crc(b"\x01")) == with_crc(b"\x1c\x01\x03")
    assert await hub.ask(OPS, with_crc(b"\x04\x00")) == with_crc(b"\x1c\x04\x02")
