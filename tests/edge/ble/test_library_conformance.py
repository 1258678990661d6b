"""Canary: the points of bleak, bumble and dbus-fast that the radio rests on. Red here: read their changelog."""

from __future__ import annotations

import importlib.metadata
import inspect

import bleak
import pytest
from bleak.assigned_numbers import gatt_char_props_to_strs
from bleak.backends.client import BaseBleakClient
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakDBusError, BleakError, BleakGATTProtocolError
from bumble import att, hci, smp
from bumble.controller import Controller
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.gatt_client import CharacteristicProxy, Client
from bumble.host import Host
from bumble.keys import KeyStore, PairingKeys
from bumble.pairing import PairingConfig, PairingDelegate

from edge.ble.bumble_backend import BumbleClient, BumbleScanner


def names(function: object) -> set[str]:
    return set(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_versions_are_those_the_notes_were_made_on() -> None:
    assert importlib.metadata.version("bumble") == "0.0.236"
    assert importlib.metadata.version("bleak").startswith("3.")


def test_bleak_hands_unknown_keywords_to_a_custom_backend() -> None:
    assert inspect.signature(bleak.BleakClient).parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    assert inspect.signature(bleak.BleakScanner).parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    client = bleak.BleakClient("C0:00:00:00:00:01", backend=BumbleClient, host=None, passkey=1)
    assert isinstance(client._backend, BumbleClient)
    scanner = bleak.BleakScanner(lambda _device, _data: None, backend=BumbleScanner, host=None)
    assert isinstance(scanner._backend, BumbleScanner)


def test_backend_implements_all_that_bleak_declares() -> None:
    assert not inspect.isabstract(BumbleClient)
    assert not inspect.isabstract(BumbleScanner)
    for base, ours in ((BaseBleakClient, BumbleClient), (BaseBleakScanner, BumbleScanner)):
        for name in getattr(base, "__abstractmethods__", ()):
            assert name in vars(ours), name


def test_bleak_shapes() -> None:
    assert AdvertisementData._fields[:6] == (
        "local_name",
        "manufacturer_data",
        "service_data",
        "service_uuids",
        "tx_power",
        "rssi",
    )
    assert set(gatt_char_props_to_strs(0x12)) == {"read", "notify"}
    assert BleakGATTProtocolError(0x05).args[0] == 0x05
    assert BleakDBusError("org.bluez.Error.InProgress", []).dbus_error == "org.bluez.Error.InProgress"
    assert issubclass(BleakGATTProtocolError, BleakError)


def test_bumble_device_and_connection() -> None:
    assert {"peer_address", "own_address_type", "timeout"} <= names(Device.connect_le)
    assert {"active", "filter_duplicates", "scan_interval", "scan_window", "scanning_phys"} <= names(
        Device.start_scanning
    )
    assert {"connection_handle", "reason"} <= names(Device.on_disconnection)
    for event in ("EVENT_DISCONNECTION", "EVENT_SECURITY_REQUEST", "EVENT_PAIRING"):
        assert hasattr(Connection, event)
    assert hasattr(Device, "EVENT_ADVERTISEMENT")
    fields = {"name", "address", "irk", "gatt_service_enabled"}
    assert fields <= set(DeviceConfiguration.__dataclass_fields__)
    for name in ("pair", "encrypt", "power_on", "power_off", "refresh_resolving_list", "send_sync_command"):
        assert inspect.iscoroutinefunction(getattr(Device, name)), name
    assert {"controller_source", "controller_sink"} <= names(Host)


def test_bumble_security() -> None:
    assert {"sc", "mitm", "bonding", "delegate", "identity_address_type"} <= names(PairingConfig)
    for name in ("accept", "confirm", "compare_numbers", "get_number"):
        assert inspect.iscoroutinefunction(getattr(PairingDelegate, name)), name
    assert {"update", "get", "get_all"} <= set(dir(KeyStore))
    keys = PairingKeys(ltk=PairingKeys.Key(value=bytes(16), authenticated=True))
    assert PairingKeys.from_dict(keys.to_dict()).ltk.authenticated
    assert "can_resolve_to" in vars(smp.AddressResolver)
    assert smp.ErrorCode.CONFIRM_VALUE_FAILED == 4
    assert hci.Address("C0:00:00:00:00:01/P").to_string(False) == "C0:00:00:00:00:01"


def test_bumble_gatt_client() -> None:
    assert {"handle", "properties", "descriptors_discovered"} <= set(
        vars(CharacteristicProxy(None, 1, 2, att.UUID(0x2A19), 0x10))
    )
    for name in ("discover_services", "discover_characteristics", "read_value", "write_value", "request_mtu"):
        assert inspect.iscoroutinefunction(getattr(Client, name)), name
    assert att.ATT_Error(0x80).error_code == 0x80


def test_stock_controller_still_ignores_cancel() -> None:
    """When this fails bumble has mended it, and the virtual controllers need their own version no more."""
    source = inspect.getsource(Controller.on_hci_le_create_connection_cancel_command)
    assert "pending_le_connection" not in source


@pytest.mark.parametrize("member", ["RequestPasskey", "RequestConfirmation", "RequestAuthorization"])
def test_dbus_methods_stay_callable_in_process(member: str) -> None:
    from edge.ble.bluez_agent import PairingAgent

    assert callable(getattr(PairingAgent(), member))
