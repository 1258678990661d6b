"""The pump: history layouts, the insulin dialect of record access, status changed, and no commands."""

import pytest

from firmware_sim.clock import US_PER_H
from firmware_sim.octets import u16
from firmware_sim.pump import POWER_ON, TICK, Pump, history
from firmware_sim.recording import Event
from tests.firmware_sim.central import eventually
from tests.firmware_sim.conftest import MIN_US, START_US, House, Opener

CHANGED, STATUS, FEATURES, READER, COMMAND, RACP, HISTORY = (
    0x2B20,
    0x2B21,
    0x2B23,
    0x2B24,
    0x2B25,
    0x2B27,
    0x2B28,
)


def live(pump: Pump, house: House, events: list[tuple[float, str, float]]) -> None:
    for minute, kind, value in events:
        time_us = START_US + int(minute * MIN_US)
        house.hand.us = max(house.hand.us, time_us)
        pump.play(pump.flash.next_event, Event(time_us, kind, value))


def stored(pump: Pump) -> list[str]:
    return [r.parts[0].hex() for r in pump.flash.records]


async def test_history_begins_with_a_reference_time_and_counts_from_it(house: House) -> None:
    pump = await house.device("pump", on_air=False)
    live(pump, house, [(0, POWER_ON, 0), (5, "basal_uph", 0.97), (10, "bolus_u", 4.25)])
    assert stored(pump) == [
        # reference time: reason set date time, 2023-10-12 00:00:00, zone 0, saving 0
        "0f00" + "01000000" + "0000" + "33" + "e7070a0c000000" + "00" + "00",
        # therapy control state: stop -> run
        "0303" + "02000000" + "0000" + "33" + "55",
        # basal rate changed after 300 s: context present; 0 -> 97 x 10^-2 U/h; by the device itself
        "9900" + "03000000" + "2c01" + "01" + "0000" + "61e0" + "33",
        # bolus 1 programmed: fast, 425 x 10^-2 U, no extended part, no duration
        "5a00" + "04000000" + "5802" + "0100" + "33" + "a9e1" + "0000" + "0000",
        "6600" + "05000000" + "5802" + "04" + "33",
        # the same bolus delivered
        "6900" + "06000000" + "5802" + "0100" + "33" + "a9e1" + "0000" + "0000",
        # activation type and end reason present; started when programmed; manual; amount delivered
        "9600" + "07000000" + "5802" + "03" + "00000000" + "33" + "33",
    ]
    assert history(0x0099, 0x01020304, 0xFFFF, b"\1").hex() == "9900" + "04030201" + "ffff" + "01"


async def test_a_reference_is_recorded_before_the_relative_offset_can_overflow(house: House) -> None:
    pump = await house.device("pump", on_air=False)
    script = pump.script(
        [Event(START_US + 40 * US_PER_H, "bolus_u", 1.0)], START_US, START_US + 48 * US_PER_H
    )
    assert [e.time_us for e in script] == sorted(e.time_us for e in script)
    for index, event in enumerate(script):
        house.hand.us = event.time_us
        pump.play(index, event)
    offsets = [int.from_bytes(r.parts[0][6:8], "little") for r in pump.flash.records]
    assert max(offsets) == 4 * 3600
    assert sum(e.kind == TICK for e in script) == 7


async def test_readable_characteristics_follow_the_service(opened: Opener) -> None:
    _, hub = await opened("pump")
    # no E2E protection: CRC 0xFFFF, counter 0; 100 IU/mL; basal, fast bolus, activation type, multiple bonds
    assert (await hub.read(FEATURES)).hex() == "ffff" + "00" + "6400" + "220c00"
    assert (await hub.read(STATUS)).hex() == "55" + "96" + "2c01" + "01"
    assert (await hub.read(0x2A2B))[:7].hex() == "e7070a0c000000"
    assert await hub.read(0x2A0F) == b"\0\0"


@pytest.mark.parametrize(
    ("request_hex", "expected"),
    [
        ("3333", [1, 2, 3, 4]),
        ("33330f", [1, 2, 3, 4]),  # with the filter type that some collectors add
        ("3355" + "0f" + "03000000", [3, 4]),
        ("333c" + "0f" + "02000000", [1, 2]),
        ("335a" + "0f" + "02000000" + "03000000", [2, 3]),
        ("3366", [1]),
        ("3369", [4]),
        ("336933", [1]),  # last reference time
        ("3355" + "3c" + "01000000", [2, 3, 4]),  # without reference times
    ],
)
async def test_history_is_reported_in_the_insulin_dialect(
    house: House, opened: Opener, request_hex: str, expected: list[int]
) -> None:
    pump, hub = await opened("pump")
    live(pump, house, [(0, POWER_ON, 0), (5, "basal_uph", 1.0), (10, "basal_uph", 1.1)])
    values = await hub.subscribe(HISTORY)
    await hub.subscribe(RACP)
    assert (await hub.ask(RACP, bytes.fromhex(request_hex))).hex() == "0f0f33f0"
    assert [int.from_bytes(v[2:6], "little") for v in values] == expected


@pytest.mark.parametrize(
    ("request_hex", "answer_hex"),
    [
        ("5a33", "660f04000000"),
        ("3355" + "0f" + "64000000", "0f0f3306"),  # no records found
        ("330f", "0f0f3303"),
        ("3301", "0f0f3304"),
        ("3355" + "0f" + "0300", "0f0f3305"),
        ("3355" + "aa" + "03000000", "0f0f3309"),
        ("3c33", "0f0f3c02"),
        ("550f", "0f0f55f0"),
    ],
)
async def test_record_access_answers(house: House, opened: Opener, request_hex: str, answer_hex: str) -> None:
    pump, hub = await opened("pump")
    live(pump, house, [(0, POWER_ON, 0), (5, "basal_uph", 1.0), (10, "basal_uph", 1.1)])
    await hub.subscribe(HISTORY)
    await hub.subscribe(RACP)
    assert (await hub.ask(RACP, bytes.fromhex(request_hex))).hex() == answer_hex


async def test_new_history_is_indicated_until_the_reader_resets_it(house: House, opened: Opener) -> None:
    pump, hub = await opened("pump")
    live(pump, house, [(0, POWER_ON, 0)])
    changed = await hub.subscribe(CHANGED)
    await hub.subscribe(READER)
    live(pump, house, [(5, "bolus_u", 2.0)])
    await eventually(lambda: changed)
    assert changed[-1] == u16(1 << 7 | 1 << 6)  # history recorded, active bolus changed
    assert (await hub.ask(READER, bytes.fromhex("0c03" + "c000"))).hex() == "0303" + "0c03" + "0f"
    assert await hub.read(CHANGED) == b"\0\0"
    live(pump, house, [(10, "basal_uph", 0.5)])
    await eventually(lambda: len(changed) == 2)
    assert changed[-1] == u16(1 << 7 | 1 << 5)
    assert (await hub.ask(READER, bytes.fromhex("aa55"))).hex() == "0303" + "aa55" + "70"


async def test_a_storm_of_changes_needs_few_indications(house: House, opened: Opener) -> None:
    pump, hub = await opened("pump")
    changed = await hub.subscribe(CHANGED)
    live(pump, house, [(0, POWER_ON, 0)] + [(float(i), "basal_uph", 1.0) for i in range(1, 500)])
    await eventually(lambda: changed)
    assert len(pump.flash.records) == 501
    assert len(changed) < 10


async def test_commands_are_refused(opened: Opener) -> None:
    pump, hub = await opened("pump")
    await hub.subscribe(COMMAND)
    # set bolus of 1 U: op code 0x114B
    answer = await hub.ask(COMMAND, bytes.fromhex("4b11" + "0033" + "0100" + "0000" + "0000"))
    assert answer.hex() == "550f" + "4b11" + "70"
    assert pump.counters["commands_refused"] == 1
    assert pump.flash.records == []


async def test_a_wrong_clock_makes_a_new_reference(house: House, opened: Opener) -> None:
    pump, _ = await opened("pump")
    live(pump, house, [(0, POWER_ON, 0), (5, "basal_uph", 1.0)])
    await pump.control("clock", {"offset_s": 300})
    live(pump, house, [(6, "basal_uph", 1.1)])
    reference, after = stored(pump)[-2:]
    assert reference == "0f00" + "04000000" + "0000" + "33" + "e7070a0c000a00" + "0000"
    assert after[:16] == "9900" + "05000000" + "3c00"
    assert [r.event for r in pump.flash.records] == [0, 0, 1, 1, 2]


async def test_numbers_references_and_rates_survive_a_kill(house: House, opened: Opener) -> None:
    pump, _ = await opened("pump")
    live(pump, house, [(0, POWER_ON, 0), (5, "basal_uph", 1.0), (6, "bolus_u", 1.0)])
    await house.kill(pump)
    again = await house.device("pump")
    live(again, house, [(10, "basal_uph", 1.1), (11, "bolus_u", 2.0)])
    assert stored(again)[7] == "9900" + "08000000" + "5802" + "01" + "0100" + "0bf0" + "33"
    assert stored(again)[8][16:20] == "0200"  # the second bolus has its own number
