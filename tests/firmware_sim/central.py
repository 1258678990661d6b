"""A plain bumble central for tests: pairs, subscribes, reads; knows nothing of the hub's code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bumble import hci
from bumble.core import UUID
from bumble.device import Connection, Device, DeviceConfiguration, Peer
from bumble.host import Host
from bumble.pairing import PairingConfig, PairingDelegate

from firmware_sim.air import AirController, Ether
from firmware_sim.peripheral import Peripheral

HUB_ADDRESS = "C0:00:00:00:00:99"


async def eventually(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """The condition's value as soon as it is true; AssertionError after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)
    return value


def wire(ether: Ether, name: str, public: bool = False) -> Host:
    """An HCI host whose controller is on the given air."""
    host = Host()
    address = hci.Address("F0:F1:F2:F3:F4:F5", 0) if public else hci.Address.ANY
    host.controller = AirController(name, link=ether, public_address=address)
    return host


class _Keyboard(PairingDelegate):
    def __init__(self, passkey: int) -> None:
        super().__init__(io_capability=PairingDelegate.KEYBOARD_INPUT_ONLY)
        self._passkey = passkey

    async def get_number(self) -> int | None:
        return self._passkey


class Central:
    """The hub's place in these tests."""

    def __init__(self, host: Host, public: bool = False) -> None:
        self.device = Device(
            config=DeviceConfiguration(name="central", address=hci.Address(HUB_ADDRESS)), host=host
        )
        self.own_type = hci.OwnAddressType.PUBLIC if public else hci.OwnAddressType.RANDOM
        self.connection: Connection | None = None
        self.peer: Peer | None = None
        self.values: dict[int, list[bytes]] = {}
        self.log: list[tuple[int, bytes]] = []

    async def start(self) -> Central:
        await self.device.power_on()
        return self

    def with_passkey(self, passkey: int | None) -> None:
        """What a hub needs: a keyboard where the device shows a passkey, nothing for just works."""
        self.device.pairing_config_factory = lambda _: PairingConfig(
            sc=True,
            mitm=passkey is not None,
            bonding=True,
            delegate=PairingDelegate() if passkey is None else _Keyboard(passkey),
        )

    async def connect(self, device: Peripheral) -> Connection:
        async with asyncio.timeout(10):
            connection = await self.device.connect(
                hci.Address(device.address), own_address_type=self.own_type, timeout=None
            )
        self.connection = connection
        self.peer = Peer(connection)
        return connection

    async def discover(self) -> None:
        assert self.peer is not None
        async with asyncio.timeout(10):
            await self.peer.request_mtu(185)
            await self.peer.discover_services()
            await self.peer.discover_characteristics()

    async def pair(self, passkey: int | None) -> None:
        assert self.connection is not None
        self.with_passkey(passkey)
        async with asyncio.timeout(10):
            await self.connection.pair()

    async def open(self, device: Peripheral) -> None:
        """Connect, pair (or use the bond) and discover."""
        connection = await self.connect(device)
        keys = await self.device.keystore.get(str(connection.peer_address))
        if keys is None:
            await self.pair(device.passkey)
        else:
            async with asyncio.timeout(10):
                await connection.encrypt()
        await self.discover()

    def characteristic(self, uuid: int) -> Any:
        assert self.peer is not None
        return self.peer.get_characteristics_by_uuid(UUID.from_16_bits(uuid))[0]

    async def read(self, uuid: int) -> bytes:
        async with asyncio.timeout(10):
            return bytes(await self.characteristic(uuid).read_value())

    async def write(self, uuid: int, data: bytes, response: bool = True) -> None:
        async with asyncio.timeout(10):
            await self.characteristic(uuid).write_value(data, with_response=response)

    async def subscribe(self, uuid: int) -> list[bytes]:
        """Subscribe (indications where notifications are not offered); the list grows."""
        received = self.values.setdefault(uuid, [])

        def heard(value: bytes) -> None:
            received.append(bytes(value))
            self.log.append((uuid, bytes(value)))

        async with asyncio.timeout(10):
            await self.characteristic(uuid).subscribe(heard)
        return received

    async def ask(self, uuid: int, request: bytes, timeout_s: float = 10.0) -> bytes:
        """Write to a control point and wait for its answer."""
        answers = self.values[uuid]
        before = len(answers)
        await self.write(uuid, request)
        await eventually(lambda: len(answers) > before, timeout_s)
        return answers[before]

    async def close(self) -> None:
        if self.connection is not None:
            async with asyncio.timeout(10):
                await self.connection.disconnect()
