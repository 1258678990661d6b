"""BlueZ itself is not here: what bluetoothd would call is called, and what we send it is looked at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from bleak.backends.device import BLEDevice
from bleak.exc import BleakDBusError
from dbus_fast import DBusError, Message, MessageType

from core.errors import EnvironmentMissing
from edge.ble.bluez_agent import BluezStack, PairingAgent
from edge.ble.radio import make_radio

PATH = "/org/bluez/hci0/dev_C0_00_00_00_00_01"
ADDRESS = "C0:00:00:00:00:01"


def test_agent_gives_the_passkey_of_the_expected_device_only() -> None:
    agent = PairingAgent()
    agent.expect(ADDRESS, 123456)
    assert agent.passkey_for(PATH) == 123456
    with pytest.raises(DBusError):
        agent.passkey_for("/org/bluez/hci0/dev_C0_00_00_00_00_02")


def test_agent_agrees_to_just_works_only_where_no_passkey_is_configured() -> None:
    agent = PairingAgent()
    agent.expect(ADDRESS, None)
    agent.check_just_works(PATH)
    with pytest.raises(DBusError):
        agent.passkey_for(PATH)
    agent.expect(ADDRESS, 123456)
    with pytest.raises(DBusError):  # a peer that skips the passkey
        agent.check_just_works(PATH)
    with pytest.raises(DBusError):
        agent.check_just_works("/org/bluez/hci0/dev_FF_00_00_00_00_02")


def test_agent_offers_bluez_every_method_of_its_interface() -> None:
    methods = {m.name: (m.in_signature, m.out_signature) for m in PairingAgent().introspect().methods}
    assert methods == {
        "AuthorizeService": ("os", ""),
        "Cancel": ("", ""),
        "DisplayPasskey": ("ouq", ""),
        "Release": ("", ""),
        "RequestAuthorization": ("o", ""),
        "RequestConfirmation": ("ou", ""),
        "RequestPasskey": ("o", "u"),
        "RequestPinCode": ("o", "s"),
    }


class FakeBus:
    def __init__(self, refuse: str = "") -> None:
        self.calls: list[tuple[str, str]] = []
        self.refuse = refuse

    async def call(self, message: Message) -> Any:
        self.calls.append((message.member, message.path))
        if message.member == self.refuse:
            return SimpleNamespace(
                message_type=MessageType.ERROR, error_name="org.bluez.Error.Failed", body=[]
            )
        return SimpleNamespace(message_type=MessageType.METHOD_RETURN)


def bluez_device(paired: bool) -> BLEDevice:
    props = {"Paired": paired, "Adapter": "/org/bluez/hci0"}
    return BLEDevice(ADDRESS, "cgm", {"path": PATH, "props": props})


IN_PROGRESS = BleakDBusError("org.bluez.Error.InProgress", ["busy"])


async def test_connect_left_in_progress_is_disconnected_then_the_device_removed() -> None:
    stack = BluezStack()
    bus = stack._bus = FakeBus()
    await stack.after_failed_connect(bluez_device(paired=False), IN_PROGRESS)
    assert bus.calls == [("Disconnect", PATH)]
    await stack.after_failed_connect(bluez_device(paired=False), IN_PROGRESS)
    assert bus.calls[1:] == [("Disconnect", PATH), ("RemoveDevice", "/org/bluez/hci0")]


async def test_bonded_device_is_never_removed_because_its_bond_would_go_too() -> None:
    stack = BluezStack()
    bus = stack._bus = FakeBus()
    for _ in range(5):
        await stack.after_failed_connect(bluez_device(paired=True), IN_PROGRESS)
    assert {member for member, _ in bus.calls} == {"Disconnect"}


async def test_other_connect_failures_touch_nothing() -> None:
    stack = BluezStack()
    bus = stack._bus = FakeBus()
    await stack.after_failed_connect(bluez_device(False), BleakDBusError("org.bluez.Error.Failed", ["x"]))
    await stack.after_failed_connect(bluez_device(False), TimeoutError())
    assert bus.calls == []


async def test_machine_without_bluetooth_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
    radio = make_radio("bluez", lambda: None, lambda _data: None)
    with pytest.raises(EnvironmentMissing, match=r"no Bluetooth on this machine.*plug in or switch on"):
        await radio.start()
