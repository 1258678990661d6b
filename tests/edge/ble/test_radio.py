from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError

from core.errors import ConfigError, LinkError, PairingError
from edge.ble.faults import BleakPairingError, Refusal
from edge.ble.radio import Advertisement, BleakRadio, make_radio, short_uuid

ADDRESS = "C0:00:00:00:00:01"


class FakeClient:
    """A bleak client whose one characteristic needs security until paired."""

    def __init__(self, stack: FakeStack, on_disconnect: Callable[[Any], None]) -> None:
        self.stack, self.on_disconnect = stack, on_disconnect
        self.paired = False
        characteristic = type("C", (), {"uuid": "00002a37-0000-1000-8000-00805f9b34fb"})()
        self.services = [type("S", (), {"characteristics": [characteristic, characteristic]})()]

    async def connect(self) -> None:
        self.stack.connecting += 1
        self.stack.most_at_once = max(self.stack.most_at_once, self.stack.connecting)
        try:
            await asyncio.sleep(0.01)
            if self.stack.connect_error is not None:
                raise self.stack.connect_error
        finally:
            self.stack.connecting -= 1

    async def read_gatt_char(self, _characteristic: Any) -> bytearray:
        if not self.paired or self.stack.insatiable:
            raise BleakGATTProtocolError(0x05)
        return bytearray(b"\x01")

    async def start_notify(self, characteristic: Any, callback: Callable[[Any, bytearray], None]) -> None:
        self.paired = True
        self.notify = lambda data: callback(characteristic, bytearray(data))

    async def disconnect(self) -> None:
        self.on_disconnect(self)


class FakeScanner:
    def __init__(self, stack: FakeStack, callback: Callable[..., None]) -> None:
        self.stack, self.callback = stack, callback

    async def start(self) -> None:
        self.stack.scanning += 1

    async def stop(self) -> None:
        self.stack.scanning -= 1


class FakeStack:
    def __init__(self, serial: bool = False) -> None:
        self.serial, self.lost = serial, asyncio.Event()
        self.scanning = self.connecting = self.most_at_once = self.pairings = 0
        self.connect_error: Exception | None = None
        self.pair_error: Exception | None = None
        self.insatiable = False
        self.dialled: list[Any] = []
        self.failed: list[Exception] = []

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def scanner(self, callback: Any) -> Any:
        self.callback = callback
        return FakeScanner(self, callback)

    def client(
        self, device: Any, on_disconnect: Any, timeout_s: float, passkey: Any, may_repair: bool
    ) -> Any:
        self.dialled.append(device)
        self.last = FakeClient(self, on_disconnect)
        return self.last

    async def pair(self, client: Any, passkey: int | None) -> None:
        self.pairings += 1
        if self.pair_error is not None:
            raise self.pair_error
        client.paired = True

    def repaired(self, client: Any) -> bool:
        return False

    def mtu(self, client: Any) -> int:
        return 100

    async def after_failed_connect(self, device: Any, error: BaseException) -> None:
        self.failed.append(error)

    def advertise(self, address: str = ADDRESS, uuids: tuple[str, ...] = ()) -> BLEDevice:
        device = BLEDevice(address, "x", {})
        self.callback(device, AdvertisementData("x", {}, {}, list(uuids), None, -40, ()))
        return device


async def started(stack: FakeStack) -> BleakRadio:
    radio = BleakRadio(stack, "fake")
    await radio.start()
    return radio


@pytest.mark.parametrize("choice", ["", "usb", "bumble", "bumble:", "BLUEZ"])
def test_unknown_radio_names_the_choices(choice: str) -> None:
    with pytest.raises(ConfigError, match="bluez or bumble"):
        make_radio(choice, lambda: None, lambda _data: None)


def test_short_uuids_are_those_on_the_bluetooth_base() -> None:
    assert short_uuid("00002A37-0000-1000-8000-00805F9B34FB") == 0x2A37
    for other in ("6e400001-b5a3-f393-e0a9-e50e24dcca9e", "00012a37-0000-1000-8000-00805f9b34fb", "2a37", ""):
        assert short_uuid(other) is None


async def test_advertisement_carries_its_service_numbers_and_skips_the_others() -> None:
    stack = FakeStack()
    radio = await started(stack)
    heard: list[Advertisement] = []
    radio.on_advertisement = heard.append
    stack.advertise(uuids=("0000181f-0000-1000-8000-00805f9b34fb", "6e400001-b5a3-f393-e0a9-e50e24dcca9e"))
    assert (heard[0].address, heard[0].services, heard[0].rssi) == (ADDRESS, frozenset({0x181F}), -40)


async def test_the_freshest_device_object_is_dialled_and_a_vanished_one_forgotten() -> None:
    stack = FakeStack()
    radio = await started(stack)
    device = stack.advertise()
    stack.connect_error = BleakDeviceNotFoundError(ADDRESS)
    with pytest.raises(LinkError, match="new scan"):
        await radio.connect(ADDRESS.lower(), 1, None)
    stack.connect_error = None
    await radio.connect(ADDRESS, 1, None)
    assert stack.dialled == [device, ADDRESS]
    assert [type(e) for e in stack.failed] == [BleakDeviceNotFoundError]


@pytest.mark.parametrize(("serial", "most"), [(True, 1), (False, 3)])
async def test_bluez_connects_one_at_a_time(serial: bool, most: int) -> None:
    stack = FakeStack(serial)
    radio = await started(stack)
    await asyncio.gather(*(radio.connect(ADDRESS, 1, None) for _ in range(3)))
    assert stack.most_at_once == most


async def test_operation_refused_for_security_is_repeated_once_after_pairing() -> None:
    stack = FakeStack()
    link = await (await started(stack)).connect(ADDRESS, 1, None)
    assert await link.read(0x2A37) == b"\x01"
    assert stack.pairings == 1


async def test_device_that_wants_more_than_just_works_is_told_as_missing_passkey() -> None:
    stack = FakeStack()
    stack.insatiable = True
    link = await (await started(stack)).connect(ADDRESS, 1, None)
    with pytest.raises(PairingError, match="asks for a passkey"):
        await link.read(0x2A37)
    assert stack.pairings == 1


async def test_refused_pairing_comes_out_of_the_operation_that_needed_it() -> None:
    stack = FakeStack()
    stack.pair_error = BleakPairingError(Refusal.WRONG_PASSKEY)
    link = await (await started(stack)).connect(ADDRESS, 1, 1)
    with pytest.raises(PairingError, match="passkey is wrong"):
        await link.read(0x2A37)


async def test_failing_callback_does_not_reach_the_library() -> None:
    stack = FakeStack()
    link = await (await started(stack)).connect(ADDRESS, 1, None)

    def bad(_data: bytes) -> None:
        raise RuntimeError

    await link.subscribe(0x2A37, bad)
    stack.last.notify(b"\x00")


async def test_closed_link_refuses_and_close_is_repeatable() -> None:
    stack = FakeStack()
    radio = await started(stack)
    link = await radio.connect(ADDRESS, 1, None)
    await link.close()
    await link.close()
    assert link.closed.is_set()
    with pytest.raises(LinkError, match="closed"):
        await link.read(0x2A37)


async def test_scan_can_be_switched_and_start_and_stop_repeated() -> None:
    stack = FakeStack()
    radio = await started(stack)
    await radio.start()
    assert stack.scanning == 1
    await radio.scan(False)
    await radio.scan(False)
    assert stack.scanning == 0
    await radio.scan(True)
    await radio.stop()
    await radio.stop()
    assert stack.scanning == 0


async def test_made_up_addresses_do_not_grow_the_memory() -> None:
    stack = FakeStack()
    radio = await started(stack)
    for n in range(2000):
        stack.advertise(f"C0:00:00:00:{n >> 8:02X}:{n & 255:02X}")
    assert len(radio._devices) <= 256


async def test_strange_failure_of_the_library_is_a_link_error() -> None:
    stack = FakeStack()
    radio = await started(stack)
    for error in (BleakError("x"), EOFError(), AssertionError()):
        stack.connect_error = error
        with pytest.raises(LinkError):
            await radio.connect(ADDRESS, 1, None)


def test_bumble_and_numerics_stay_out_until_the_radio_setting_names_them() -> None:
    code = (
        "import sys, edge.ble.radio, edge.ble.supervisor\n"
        "edge.ble.radio.make_radio('bluez', lambda: None, lambda d: None)\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'bumble', 'numpy', 'numba', 'scipy'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
