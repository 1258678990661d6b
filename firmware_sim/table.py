"""The attribute table of a virtual device: every access is checked, every subscription remembered.

bumble's own server reads and writes whatever it is asked for and forgets subscriptions when a link ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Final

from bumble import att
from bumble.core import UUID
from bumble.device import Connection, Device
from bumble.gatt import Characteristic, Descriptor, Service

from firmware_sim.security import INSUFFICIENT_AUTHENTICATION, INSUFFICIENT_ENCRYPTION, Bonds, Need

READ = Characteristic.Properties.READ
WRITE = Characteristic.Properties.WRITE
WRITE_COMMAND = Characteristic.Properties.WRITE_WITHOUT_RESPONSE
NOTIFY = Characteristic.Properties.NOTIFY
INDICATE = Characteristic.Properties.INDICATE

ATT_INVALID_LENGTH: Final = 0x0D
ATT_VALUE_NOT_ALLOWED: Final = 0x13


class AttributeTable:
    """What a device shows to a hub, and to whom. The device class fills in link and bonds."""

    model: ClassVar[str]
    need: Need  # what a characteristic asks of the link unless it says otherwise
    bonds: Bonds
    counters: Counter[str]
    device: Device | None
    connection: Connection | None
    authenticated: bool
    battery: Characteristic

    def characteristic(
        self,
        uuid: int,
        properties: Characteristic.Properties,
        *,
        read: Callable[[], bytes] | None = None,
        write: Callable[[bytes], None] | None = None,
        need: Need | None = None,
    ) -> Characteristic:
        """A characteristic that asks ``need`` (the device's own by default) of the link for any access."""
        wanted = self.need if need is None else need
        flags = att.Attribute.Permissions
        permissions = flags(0)
        if properties & READ:
            permissions |= flags.READABLE
        if properties & (WRITE | WRITE_COMMAND):
            permissions |= flags.WRITEABLE

        def reading(bearer: Any) -> bytes:
            self._admit(bearer, wanted)
            return read() if read else b""

        def writing(bearer: Any, value: bytes) -> None:
            try:
                self._admit(bearer, wanted)
            except att.ATT_Error:
                self.counters["refused_write"] += 1
                if properties & WRITE:
                    raise
                return  # a write command has no answer, not even a refusal
            if write:
                write(bytes(value))

        value = att.AttributeValueV2(read=reading, write=writing)
        if not properties & (NOTIFY | INDICATE):
            return Characteristic(UUID.from_16_bits(uuid), properties, permissions, value)
        cccd = Descriptor(
            UUID.from_16_bits(0x2902),
            flags.READABLE | flags.WRITEABLE,
            att.AttributeValueV2(
                read=lambda bearer: self._read_cccd(bearer, made),
                write=lambda bearer, octets: self._write_cccd(bearer, made, bytes(octets), wanted),
            ),
        )
        made: Characteristic = Characteristic(UUID.from_16_bits(uuid), properties, permissions, value, [cccd])
        return made

    def _admit(self, bearer: Any, need: Need) -> None:
        """Nothing, or the ATT error of Core Vol 3 Part C table 10.2: unpaired 0x05, bonded but plain 0x0F."""
        if need is Need.OPEN:
            return
        if not bearer.encryption:
            self.counters["refused_unencrypted"] += 1
            bonded = self.bonds.peek(str(bearer.peer_address)) is not None
            raise att.ATT_Error(INSUFFICIENT_ENCRYPTION if bonded else INSUFFICIENT_AUTHENTICATION)
        if need is Need.AUTHENTICATED and not self.authenticated:
            self.counters["refused_unauthenticated"] += 1
            raise att.ATT_Error(INSUFFICIENT_AUTHENTICATION)

    # bumble forgets these when the link ends; a bonded peer may rely on them (Core Vol 3 Part G 3.3.3.3)
    def _subscriptions(self, bearer: Any) -> dict[int, bytes]:
        assert self.device is not None
        return self.device.gatt_server.subscribers.setdefault(bearer, {})

    def _read_cccd(self, bearer: Any, characteristic: Characteristic) -> bytes:
        return self._subscriptions(bearer).get(characteristic.handle, b"\0\0")

    def _write_cccd(self, bearer: Any, characteristic: Characteristic, value: bytes, need: Need) -> None:
        self._admit(bearer, need)
        if len(value) != 2:
            raise att.ATT_Error(ATT_INVALID_LENGTH)
        offered = (1 if characteristic.properties & NOTIFY else 0) | (
            2 if characteristic.properties & INDICATE else 0
        )
        if int.from_bytes(value, "little") & ~offered:
            raise att.ATT_Error(ATT_VALUE_NOT_ALLOWED)
        self._subscriptions(bearer)[characteristic.handle] = value
        self.bonds.configure(str(bearer.peer_address), characteristic.uuid.to_hex_str(), value)

    def _common_services(self) -> list[Service]:
        def text(value: str) -> Callable[[], bytes]:
            return lambda: value.encode()

        def information(uuid: int, value: str) -> Characteristic:
            return self.characteristic(uuid, READ, read=text(value), need=Need.OPEN)

        return [
            Service(UUID.from_16_bits(0x180F), [self.battery]),
            Service(
                UUID.from_16_bits(0x180A),
                [
                    information(0x2A29, "Hometwin Virtual Devices"),
                    information(0x2A24, self.model),
                    information(0x2A26, "1.0"),
                ],
            ),
        ]

    def subscribed(self, characteristic: Characteristic) -> bool:
        """True when the connected peer asked for this characteristic and the link is worthy of it."""
        link = self.connection
        if (
            link is None
            or not link.encryption
            or (self.need is Need.AUTHENTICATED and not self.authenticated)
        ):
            return False
        return self._subscriptions(link).get(characteristic.handle, b"\0\0") != b"\0\0"
