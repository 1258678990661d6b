from __future__ import annotations

import pytest
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakCharacteristicNotFoundError,
    BleakDBusError,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
)

from core.errors import (
    EnvironmentMissing,
    HometwinError,
    LinkError,
    LinkTimeout,
    PairingError,
    ProcedureError,
)
from edge.ble.faults import BleakPairingError, Refusal, link_error, needs_security, no_radio

NO_ADAPTER = BleakBluetoothNotAvailableError("x", BleakBluetoothNotAvailableReason.NO_BLUETOOTH)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (BleakError("42 mg/dL"), LinkError),
        (TimeoutError(), LinkTimeout),
        (BleakPairingError(Refusal.WRONG_PASSKEY), PairingError),
        (BleakGATTProtocolError(0x80), ProcedureError),
        (BleakCharacteristicNotFoundError("x"), ProcedureError),
        (BleakDeviceNotFoundError("C0:00:00:00:00:01", "C0:00:00:00:00:01"), LinkError),
        (BleakDBusError("org.bluez.Error.AuthenticationFailed", ["42 mg/dL"]), PairingError),
        (BleakDBusError("org.bluez.Error.InProgress", ["42 mg/dL"]), LinkError),
        (BleakDBusError("org.freedesktop.DBus.Error.ServiceUnknown", ["x"]), EnvironmentMissing),
        (NO_ADAPTER, EnvironmentMissing),
        (ValueError("42 mg/dL"), LinkError),
    ],
)
def test_each_library_error_has_its_place_and_quotes_nothing(
    raised: Exception, kind: type[HometwinError]
) -> None:
    told = link_error(raised)
    assert type(told) is kind
    assert "42" not in str(told)
    assert "C0:00" not in str(told)


def test_our_own_errors_pass_unchanged() -> None:
    error = PairingError("x")
    assert link_error(error) is error


@pytest.mark.parametrize("code", [0x05, 0x08, 0x0C, 0x0F])
def test_refusals_for_want_of_security_ask_for_pairing(code: int) -> None:
    assert needs_security(BleakGATTProtocolError(code))
    assert not needs_security(BleakGATTProtocolError(0x03))


@pytest.mark.parametrize(
    ("raised", "choice", "words"),
    [
        (NO_ADAPTER, "bluez", "no Bluetooth adapter found"),
        (FileNotFoundError("/run/dbus"), "bluez", "no Bluetooth on this machine"),
        (ConnectionRefusedError(), "bumble:tcp-client:127.0.0.1:9", "no controller behind"),
    ],
)
def test_missing_radio_is_one_line_with_a_cure(raised: Exception, choice: str, words: str) -> None:
    told = no_radio(raised, choice)
    assert isinstance(told, EnvironmentMissing)
    assert told.exit_code == 2
    assert words in str(told)
    assert told.mend
    assert "\n" not in str(told)
