"""The logbook meter: layouts and history over the air."""

import datetime as dt

import pytest

from firmware_sim.meter import LONG_ACTING, RAPID_ACTING, Meter, context, measurement
from firmware_sim.recording import Event
from tests.firmware_sim.central import eventually
from tests.firmware_sim.conftest import MIN_US, START_US, House, Opener

MEASUREMENT, CONTEXT, RACP = 0x2A18, 0x2A34, 0x2A52
NOON = dt.datetime(2023, 10, 12, 12, 30, 5, tzinfo=dt.UTC)
NOON_HEX = "e7070a0c0c1e05"


def live(meter: Meter, events: list[tuple[float, str, float]]) -> None:
    script = [Event(START_US + int(minute * MIN_US), kind, value) for minute, kind, value in events]
    for index, event in enumerate(meter.script(script, START_US, START_US)):
        meter.play(index, event)


def test_measurement_is_in_kilograms_per_litre_with_type_and_location() -> None:
    # flags: concentration; seq 1; 126 mg/dL = 126 x 10^-5 kg/L; capillary whole blood from a finger
    assert measurement(1, NOON, 126.0, False).hex() == "02" + "0100" + NOON_HEX + "7eb0" + "11"
    # a record may be a context only
    assert measurement(0x0201, NOON, None, True).hex() == "10" + "0102" + NOON_HEX


def test_context_carries_meals_in_kilograms_and_doses_in_litres() -> None:
    # lunch of 45 g = 45 x 10^-3 kg
    assert context(2, NOON, 45.0, None).hex() == "01" + "0200" + "02" + "2dd0"
    # 4.5 U rapid = 45 x 10^-6 L; flags: medication and litres
    assert context(3, NOON, None, (RAPID_ACTING, 4.5)).hex() == "30" + "0300" + "01" + "2da0"
    # 20 U long acting = 2 x 10^-4 L
    assert context(4, NOON, None, (LONG_ACTING, 20.0)).hex() == "30" + "0400" + "04" + "02c0"
    assert context(5, NOON, 30.0, (RAPID_ACTING, 3.0)).hex() == "31" + "0500" + "02" + "03e0" + "01" + "03b0"


async def test_events_of_one_time_share_a_record_where_the_format_allows(house: House) -> None:
    meter = await house.device("meter", on_air=False)
    live(
        meter,
        [
            (0, "smbg_mgdl", 110.0),
            (0, "carbs_g", 30.0),
            (0, "bolus_u", 3.0),
            (0, "long_acting_u", 12.0),  # a second dose does not fit
            (7, "carbs_g", 20.0),
            (7, "carbs_g", 10.0),  # nor a second meal
        ],
    )
    assert [(r.key, r.event, len(r.parts)) for r in meter.flash.records] == [
        (1, 2, 2),
        (2, 3, 2),
        (3, 4, 2),
        (4, 5, 2),
    ]
    # 00:00 UTC is 01:00 on a London wall in October
    assert meter.flash.records[0].parts[0].hex() == "12" + "0100" + "e7070a0c010000" + "0bc0" + "11"


@pytest.mark.parametrize(
    ("request_hex", "expected"),
    [
        ("0101", [1, 2, 3]),
        ("0103010200", [2, 3]),
        ("0106", [3]),
        ("010302" + "e7070a0c010500", [2, 3]),  # by user-facing time
    ],
)
async def test_history_reports_measurement_then_its_context(
    house: House, opened: Opener, request_hex: str, expected: list[int]
) -> None:
    meter, hub = await opened("meter")
    live(meter, [(0, "smbg_mgdl", 110.0), (5, "carbs_g", 40.0), (9, "long_acting_u", 18.0)])
    for uuid in (MEASUREMENT, CONTEXT, RACP):
        await hub.subscribe(uuid)
    assert await hub.ask(RACP, bytes.fromhex(request_hex)) == b"\x06\x00\x01\x01"
    numbers = [int.from_bytes(v[1:3], "little") for v in hub.values[MEASUREMENT]]
    assert numbers == expected
    order = [(uuid, int.from_bytes(v[1:3], "little")) for uuid, v in hub.log if uuid != RACP]
    wanted = [(u, n) for n in expected for u in (MEASUREMENT, CONTEXT) if (u, n) != (CONTEXT, 1)]
    assert order == wanted


async def test_new_records_are_notified_at_once(opened: Opener) -> None:
    meter, hub = await opened("meter")
    for uuid in (MEASUREMENT, CONTEXT, RACP):
        await hub.subscribe(uuid)
    live(meter, [(0, "carbs_g", 40.0)])
    await eventually(lambda: hub.values[CONTEXT])
    assert [uuid for uuid, _ in hub.log] == [MEASUREMENT, CONTEXT]


async def test_the_meters_clock_can_be_wrong_read_and_set_right(house: House, opened: Opener) -> None:
    meter, hub = await opened("meter")
    await meter.control("clock", {"offset_s": 600})
    assert (await hub.read(0x2A2B))[:7].hex() == "e7070a0c010a00"
    live(meter, [(0, "smbg_mgdl", 100.0)])
    assert meter.flash.records[0].parts[0][3:10].hex() == "e7070a0c010a00"
    assert await hub.read(0x2A0F) == b"\x00\x04"  # London, summer time
    await hub.write(0x2A2B, bytes.fromhex("e7070a0c010000" + "040000"))
    assert meter.status()["clock_offset_s"] == 0


async def test_numbers_go_on_after_a_kill(house: House, opened: Opener) -> None:
    meter, _ = await opened("meter")
    live(meter, [(0, "smbg_mgdl", 110.0), (5, "carbs_g", 40.0)])
    await house.kill(meter)
    again = await house.device("meter")
    assert again.flash.next_event == 2
    again.script([Event(START_US, "x", 0)] * 2 + [Event(START_US + MIN_US, "smbg_mgdl", 90.0)], 0, 0)
    again.play(2, Event(START_US + MIN_US, "smbg_mgdl", 90.0))
    assert [r.key for r in again.flash.records] == [1, 2, 3]
