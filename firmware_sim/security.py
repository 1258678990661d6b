"""Who may read and write: what bumble's GATT server does not enforce, each virtual device guards itself.

bumble calls a link "authenticated" as soon as it is encrypted; here only a bond made with a passkey counts.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

from bumble import att, smp
from bumble.keys import KeyStore, PairingKeys
from bumble.pairing import PairingConfig, PairingDelegate

from firmware_sim.flash import Flash

READ_NOT_PERMITTED: Final = 0x02
WRITE_NOT_PERMITTED: Final = 0x03
INSUFFICIENT_AUTHENTICATION: Final = 0x05
INSUFFICIENT_ENCRYPTION: Final = 0x0F


class Need(IntEnum):
    """What a characteristic asks of the link."""

    OPEN = 0
    ENCRYPTED = 1
    AUTHENTICATED = 2


class Bonds(KeyStore):
    """Pairing keys and the client configuration of each bonded peer, in the device's own memory."""

    def __init__(self, flash: Flash) -> None:
        self._flash = flash
        flash.state.setdefault("bonds", {})
        flash.state.setdefault("cccd", {})

    async def delete(self, name: str) -> None:
        self._flash.state["bonds"].pop(name, None)
        self._flash.state["cccd"].pop(name, None)
        self._flash.save()

    async def update(self, name: str, keys: PairingKeys) -> None:
        self._flash.state["bonds"][name] = keys.to_dict()
        self._flash.save()

    async def get(self, name: str) -> PairingKeys | None:
        return self.peek(name)

    async def get_all(self) -> list[tuple[str, PairingKeys]]:
        return [(name, PairingKeys.from_dict(keys)) for name, keys in self._flash.state["bonds"].items()]

    def peek(self, name: str) -> PairingKeys | None:
        """The keys of one peer, at once: security must be decided before the next request is served."""
        keys = self._flash.state["bonds"].get(name)
        return PairingKeys.from_dict(keys) if keys else None

    def configuration(self, name: str) -> dict[str, str]:
        """Client configuration of one bonded peer: characteristic UUID to two octets in hex."""
        return dict(self._flash.state["cccd"].get(name, {}))

    def configure(self, name: str, uuid: str, value: bytes) -> None:
        """Remember what a peer subscribed to; only bonds survive the link, so others are not kept."""
        if name in self._flash.state["bonds"]:
            self._flash.state["cccd"].setdefault(name, {})[uuid] = value.hex()
            self._flash.save()

    def forget_all(self) -> None:
        self._flash.state["bonds"].clear()
        self._flash.state["cccd"].clear()
        self._flash.save()


class _Display(PairingDelegate):
    """A device with a sticker or a tiny display: it shows six digits, always the same."""

    def __init__(self, passkey: int) -> None:
        super().__init__(io_capability=PairingDelegate.DISPLAY_OUTPUT_ONLY)
        self._passkey = passkey

    async def generate_passkey(self) -> int:
        return self._passkey


class StrictSession(smp.Session):
    """Pairing as a device that needs a passkey must do it: never without one, and a second try is possible."""

    def send_pairing_response_command(self) -> None:
        if self.pairing_config.mitm and self.pairing_method == smp.PairingMethod.JUST_WORKS:
            self.send_pairing_failed(smp.ErrorCode.AUTHENTICATION_REQUIREMENTS)
            return
        super().send_pairing_response_command()

    def on_pairing_failure(self, reason: Any) -> None:
        super().on_pairing_failure(reason)
        # bumble keeps the dead session until the link ends, and then answers a new attempt from it
        self.on_disconnection(0)


def pairing_config(passkey: int | None) -> PairingConfig:
    """With a passkey: displayed by us, typed at the hub, protected against the man in the middle."""
    if passkey is None:
        delegate = PairingDelegate(io_capability=PairingDelegate.NO_OUTPUT_NO_INPUT)
    else:
        delegate = _Display(passkey)
    return PairingConfig(
        sc=True,
        mitm=passkey is not None,
        bonding=True,
        delegate=delegate,
        identity_address_type=PairingConfig.AddressType.RANDOM,
    )


def proven(session: smp.Session | None, keys: PairingKeys | None) -> bool:
    """True when the key that now encrypts the link came from a passkey.

    During pairing the session knows the method; later the stored key remembers it.
    """
    if session is not None and not session.completed:
        return bool(session.pairing_method != smp.PairingMethod.JUST_WORKS)
    return keys is not None and any(
        key is not None and key.authenticated for key in (keys.ltk, keys.ltk_central, keys.ltk_peripheral)
    )


def seal(attributes: list[att.Attribute]) -> None:
    """Make every attribute obey its own permissions: bumble's server lets anybody write a read-only value."""
    flags = att.Attribute.Permissions

    def refuse(code: int, attribute: att.Attribute) -> Any:
        async def refusing(*_: Any) -> bytes:
            raise att.ATT_Error(code, attribute.handle)

        return refusing

    for attribute in attributes:
        if not attribute.permissions & flags.READABLE:
            attribute.read_value = refuse(READ_NOT_PERMITTED, attribute)
        if not attribute.permissions & flags.WRITEABLE:
            attribute.write_value = refuse(WRITE_NOT_PERMITTED, attribute)
