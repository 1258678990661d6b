"""What many devices share: battery level, alert level, device information.

Battery levels above 100 and alert levels above 2 are reserved and refused: they would be acted on.
"""

from __future__ import annotations

import msgspec

from edge.ble.profiles.wire import Reader, le, refuse


class BatteryLevel(msgspec.Struct, frozen=True):
    """Battery Level 0x2A19, 0..100 % (BAS 1.1)."""

    percent: int

    @classmethod
    def from_bytes(cls, data: bytes) -> BatteryLevel:
        reader = Reader(data, "Battery Level")
        level = cls(reader.one_of(1, range(101), "level"))
        reader.end()
        return level

    def __bytes__(self) -> bytes:
        return bytes((self.percent,))


class AlertLevel(msgspec.Struct, frozen=True):
    """Alert Level 0x2A06: 0 no alert, 1 mild, 2 high (IAS 1.0)."""

    level: int

    @classmethod
    def from_bytes(cls, data: bytes) -> AlertLevel:
        reader = Reader(data, "Alert Level")
        alert = cls(reader.one_of(1, range(3), "level"))
        reader.end()
        return alert

    def __bytes__(self) -> bytes:
        return bytes((self.level,))


class DeviceText(msgspec.Struct, frozen=True):
    """A string of the Device Information Service (DIS 1.2): UTF-8 without terminator."""

    text: str

    @classmethod
    def from_bytes(cls, data: bytes) -> DeviceText:
        octets = Reader(data, "Device Information").rest()
        try:
            return cls(octets.decode("utf-8"))
        except UnicodeDecodeError:
            raise refuse("encoding", "Device Information: text") from None

    def __bytes__(self) -> bytes:
        return self.text.encode("utf-8")

    @property
    def shown(self) -> str:
        """The printable part, at most 64 characters, so a device cannot write into logs or terminals."""
        return "".join(c for c in self.text[:64] if c.isprintable()).strip()


class SystemId(msgspec.Struct, frozen=True):
    """System ID 0x2A23: 40-bit manufacturer part and 24-bit organisation identifier (EUI-64)."""

    manufacturer_id: int
    organisation_id: int

    @classmethod
    def from_bytes(cls, data: bytes) -> SystemId:
        reader = Reader(data, "System ID")
        system = cls(reader.uint(5, "manufacturer identifier"), reader.uint(3, "organisation identifier"))
        reader.end()
        return system

    def __bytes__(self) -> bytes:
        return le(self.manufacturer_id, 5) + le(self.organisation_id, 3)


class PnpId(msgspec.Struct, frozen=True):
    """PnP ID 0x2A50. Reserved vendor sources are kept: nothing depends on them."""

    vendor_source: int
    vendor: int
    product: int
    version: int

    @classmethod
    def from_bytes(cls, data: bytes) -> PnpId:
        reader = Reader(data, "PnP ID")
        pnp = cls(
            reader.u8("vendor source"), reader.u16("vendor"), reader.u16("product"), reader.u16("version")
        )
        reader.end()
        return pnp

    def __bytes__(self) -> bytes:
        return le(self.vendor_source, 1) + le(self.vendor, 2) + le(self.product, 2) + le(self.version, 2)
