"""Devices on an in-process air, with a clock that the test sets by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from firmware_sim.air import Ether
from firmware_sim.clock import SimClock
from firmware_sim.peripheral import Peripheral
from firmware_sim.sensors import build
from tests.firmware_sim.central import Central, wire

START_US = 1_697_068_800_000_000  # 2023-10-12T00:00:00Z, a whole minute
MIN_US = 60_000_000
ZONE = ZoneInfo("Europe/London")


@dataclass
class Hand:
    """A wall clock moved by the test."""

    us: int = START_US

    def __call__(self) -> int:
        return self.us * 1000


@dataclass
class House:
    """One air with the devices a test asks for."""

    ether: Ether
    hand: Hand
    folder: Path
    devices: list[Peripheral]
    hubs: list[Central]

    async def device(self, name: str, on_air: bool = True, **options: Any) -> Any:
        device = build(
            name,
            self.folder,
            "test",
            SimClock(wall_ns=self.hand),
            ZONE,
            START_US,
            options.get("waits", False),
        )
        self.devices.append(device)
        if on_air:
            await device.power_on(wire(self.ether, name))
        return device

    async def kill(self, device: Peripheral) -> None:
        """As kill -9: the socket goes, the flash stays as it is."""
        assert device.device is not None
        device.device.host.controller.retire()
        device._end_link()
        device.flash.close()
        self.devices.remove(device)

    async def hub(self, public: bool = False) -> Central:
        central = await Central(wire(self.ether, f"hub{len(self.hubs)}", public), public).start()
        self.hubs.append(central)
        return central


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(Ether(), Hand(), tmp_path, [], [])
    yield house
    for device in house.devices:
        await device.power_off()
        device.flash.close()


Opener = Callable[[str], Awaitable[tuple[Any, Central]]]


@pytest.fixture
async def opened(house: House) -> Opener:
    """A device and a hub that has paired with it and discovered its services."""

    async def open_device(name: str) -> tuple[Any, Central]:
        device = await house.device(name)
        hub = await house.hub()
        await hub.open(device)
        return device, hub

    return open_device
