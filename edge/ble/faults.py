"""What bleak and its backends raise, told in our one tree of errors.

No bumble and no D-Bus here: names of D-Bus errors are plain strings, so both backends share this table.
The library's own text never goes on: it may quote bytes of a reading.
"""

from __future__ import annotations

import enum
from typing import Final

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


class Refusal(enum.Enum):
    """Why pairing or encryption failed: (what, how to mend it)."""

    WRONG_PASSKEY = ("the passkey is wrong", "correct the device's passkey in the configuration")
    BOND_LOST = (
        "the device no longer knows its bond with this hub",
        "if it is yours, allow it to pair again in the configuration",
    )
    PASSKEY_NEEDED = (
        "the device asks for a passkey and the configuration has none",
        "add the passkey printed on the device",
    )
    DOWNGRADED = (
        "the device paired without checking the passkey",
        "remove the passkey from the configuration if the device has none",
    )
    LEGACY = (
        "the device offers legacy pairing only, which a listener can break",
        "use it through BlueZ, or replace it",
    )
    NOT_SUPPORTED = ("the device refuses to pair", "put it in pairing mode")
    REPEATED = ("the device refuses pairing after too many attempts", "wait, then put it in pairing mode")
    TIMED_OUT = ("pairing was not finished in time", "put the device in pairing mode")
    REFUSED = ("pairing failed", "put the device in pairing mode and check its passkey")


class BleakPairingError(BleakError):
    """Raised by our backend, which may speak bleak's language only."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value[0])
        self.refusal = refusal


# Refused for want of security; the answer to them is pairing (Core 5.4, Vol 3, Part F, 3.4.1.1).
SECURITY_CODES: Final = frozenset({0x05, 0x08, 0x0C, 0x0F})

_NO_BLUETOOTH_MEND: Final = "plug in or switch on a Bluetooth adapter, or set radio to a bumble transport"
_UNAVAILABLE: Final = {
    BleakBluetoothNotAvailableReason.NO_BLUETOOTH: "no Bluetooth adapter found",
    BleakBluetoothNotAvailableReason.NO_BLE_CENTRAL_ROLE: "the Bluetooth adapter cannot connect to sensors",
    BleakBluetoothNotAvailableReason.POWERED_OFF: "Bluetooth is switched off",
    BleakBluetoothNotAvailableReason.DENIED_BY_SYSTEM: "this user may not use Bluetooth",
}
_DBUS_PAIRING: Final = {
    "org.bluez.Error.AuthenticationFailed": Refusal.WRONG_PASSKEY,
    "org.bluez.Error.AuthenticationRejected": Refusal.NOT_SUPPORTED,
    "org.bluez.Error.AuthenticationCanceled": Refusal.REFUSED,
    "org.bluez.Error.AuthenticationTimeout": Refusal.TIMED_OUT,
}
_DBUS_ABSENT: Final = frozenset(
    {
        "org.freedesktop.DBus.Error.ServiceUnknown",  # bluetoothd is not installed or not running
        "org.freedesktop.DBus.Error.NameHasNoOwner",
        "org.freedesktop.DBus.Error.Spawn.ServiceNotFound",
        "org.freedesktop.DBus.Error.AccessDenied",
        "org.bluez.Error.NotReady",
    }
)
DBUS_IN_PROGRESS: Final = "org.bluez.Error.InProgress"


def needs_security(error: BaseException) -> bool:
    """True when the peer would answer after pairing."""
    if isinstance(error, BleakGATTProtocolError):
        return int(error.args[0]) in SECURITY_CODES
    return isinstance(error, BleakDBusError) and error.dbus_error == "org.bluez.Error.NotPaired"


def link_error(error: BaseException, where: str = "") -> HometwinError:
    """Our error for anything that a bleak call raised (never for CancelledError)."""
    match error:
        case HometwinError():
            return error
        case BleakPairingError():
            what, mend = error.refusal.value
            return PairingError(what, where=where, mend=mend)
        case BleakBluetoothNotAvailableError():
            what = _UNAVAILABLE.get(error.reason, "Bluetooth is not available")
            return EnvironmentMissing(what, where=where or "radio", mend=_NO_BLUETOOTH_MEND)
        case BleakGATTProtocolError():
            return ProcedureError(
                f"the device refused with ATT error 0x{int(error.args[0]):02X}", where=where
            )
        case BleakCharacteristicNotFoundError():
            return ProcedureError("the device lacks a characteristic its profile requires", where=where)
        case BleakDeviceNotFoundError():
            return LinkError(
                "the device has left the adapter's list", where=where, mend="a new scan finds it"
            )
        case BleakDBusError():
            return _dbus_error(error.dbus_error, where)
        case TimeoutError():
            return LinkTimeout("the device did not answer in time", where=where)
        case _:
            return LinkError(f"the link failed ({type(error).__name__})", where=where)


def _dbus_error(name: str, where: str) -> HometwinError:
    if (refusal := _DBUS_PAIRING.get(name)) is not None:
        what, mend = refusal.value
        return PairingError(what, where=where, mend=mend)
    if name in _DBUS_ABSENT:
        return EnvironmentMissing(
            "BlueZ does not answer on D-Bus",
            where=where or "radio",
            mend="install and start bluetooth.service",
        )
    return LinkError(f"the link failed ({name.rpartition('.')[2]})", where=where)


def _in_words(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


def no_radio(error: BaseException, choice: str) -> HometwinError:
    """Our error when the radio itself cannot be opened."""
    told = link_error(error, where="radio")
    if isinstance(told, EnvironmentMissing):
        return told
    if choice == "bluez":
        return EnvironmentMissing(
            f"no Bluetooth on this machine ({_in_words(error)})", where="radio", mend=_NO_BLUETOOTH_MEND
        )
    return EnvironmentMissing(
        f"no controller behind {choice!r} ({_in_words(error)})",
        where="radio",
        mend="start the virtual air, or correct the radio setting",
    )
