"""Strap and watch: live values without memory, alert levels with a log."""

from pathlib import Path

import pytest

from firmware_sim.recording import Event
from firmware_sim.wearables import heart_rate_measurement
from tests.firmware_sim.central import eventually
from tests.firmware_sim.conftest import START_US, House, Opener


@pytest.mark.parametrize(
    ("rate", "octets"),
    [
        (60.0, "16" + "3c" + "0004"),  # contact supported and detected, one RR interval of 1024/1024 s
        (72.4, "16" + "48" + "5503"),  # 60 * 1024 / 72 = 853
        (300.0, "17" + "2c01" + "cd00"),  # above 255 the rate takes two octets
    ],
)
def test_heart_rate_layout(rate: float, octets: str) -> None:
    assert heart_rate_measurement(rate).hex() == octets


async def test_strap_sends_at_most_every_fifth_of_a_second_and_keeps_nothing(opened: Opener) -> None:
    strap, hub = await opened("strap")
    values = await hub.subscribe(0x2A37)
    for index in range(200):
        strap.play(index, Event(START_US, "heart_rate_bpm", 60.0 + index))
    await eventually(lambda: values)
    assert len(values) == 1
    assert strap.counters["thinned"] == 199
    assert strap.flash.records == []


async def test_strap_needs_encryption_but_no_passkey(house: House) -> None:
    strap, hub = await house.device("strap"), await house.hub()
    await hub.connect(strap)
    await hub.discover()
    with pytest.raises(Exception, match="INSUFFICIENT_AUTHENTICATION"):
        await hub.subscribe(0x2A37)
    await hub.pair(None)
    await hub.subscribe(0x2A37)
    assert not strap.authenticated


async def test_watch_logs_every_level_and_ignores_nonsense(house: House, opened: Opener) -> None:
    watch, hub = await opened("watch")
    for data in (b"\2", b"\7", b"", b"\1\1", b"\0"):
        await hub.write(0x2A06, data, response=False)
    log_path: Path = house.folder / "watch.log"
    await eventually(lambda: log_path.exists() and len(log_path.read_text().splitlines()) == 2)
    lines = [line.split() for line in log_path.read_text().splitlines()]
    assert [level for _, level in lines] == ["2", "0"]
    assert all(time_us.isdecimal() for time_us, _ in lines)
    assert watch.counters["bad_level"] == 3


async def test_watch_ignores_alerts_from_strangers(house: House) -> None:
    watch, hub = await house.device("watch"), await house.hub()
    await hub.connect(watch)
    await hub.discover()
    await hub.write(0x2A06, b"\2", response=False)
    await eventually(lambda: watch.counters["refused_write"] == 1)
    assert not (house.folder / "watch.log").exists()
