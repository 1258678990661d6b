"""The radio as the rest of the hub sees it: advertisements in, links out, our errors only.

``BleakRadio`` wraps bleak. What differs between BlueZ and our bumble backend is a ``Stack``; bumble is
imported only when the radio setting names it. UUIDs are 16-bit ints here and text below.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import msgspec
import structlog
from bleak import BleakClient, BleakScanner
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, AdvertisementDataCallback
from bleak.exc import BleakDeviceNotFoundError

from core.errors import ConfigError, EnvironmentMissing, LinkError, ProcedureError
from edge.ble.bonds import Bonds, Load, Save
from edge.ble.faults import BleakPairingError, Refusal, link_error, needs_security, no_radio

log = structlog.get_logger()
T = TypeVar("T")

_BASE_TAIL: Final = "-0000-1000-8000-00805f9b34fb"  # Bluetooth base UUID: 16-bit numbers live in front of it
_MOST_DEVICES: Final = 256  # addresses remembered; a crowd or a forger must not grow us
STOP_S: Final = 5.0


class Advertisement(msgspec.Struct, frozen=True):
    """One advertisement as received. ``seen_mono_s`` is the monotonic clock; ``rssi`` is in dBm."""

    address: str
    name: str
    services: frozenset[int]
    rssi: int
    seen_mono_s: float


class Link(Protocol):
    """A connection whose characteristics are known. Every failure is a LinkError."""

    characteristics: frozenset[int]
    mtu: int
    closed: asyncio.Event
    repaired: bool  # this link replaced a bond that the device had lost

    async def read(self, uuid: int) -> bytes: ...
    async def write(self, uuid: int, data: bytes, response: bool) -> None: ...
    async def subscribe(self, uuid: int, callback: Callable[[bytes], None]) -> None: ...
    async def pair(self, passkey: int | None) -> None: ...
    async def close(self) -> None: ...


class Radio(Protocol):
    """One adapter. ``lost`` is set when it has gone; ``stop`` and ``start`` bring it back."""

    on_advertisement: Callable[[Advertisement], None] | None
    lost: asyncio.Event

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def scan(self, wanted: bool) -> None: ...
    async def connect(
        self, address: str, timeout_s: float, passkey: int | None, *, may_repair: bool = False
    ) -> Link: ...


class Stack(Protocol):
    """What differs between the backends under bleak."""

    serial: bool  # True: connect to one device at a time
    lost: asyncio.Event

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    def scanner(self, callback: AdvertisementDataCallback) -> BleakScanner: ...
    def client(
        self,
        device: BLEDevice | str,
        on_disconnect: Callable[[BleakClient], None],
        timeout_s: float,
        passkey: int | None,
        may_repair: bool,
    ) -> BleakClient: ...
    async def pair(self, client: BleakClient, passkey: int | None) -> None: ...
    def repaired(self, client: BleakClient) -> bool: ...
    def mtu(self, client: BleakClient) -> int: ...
    async def after_failed_connect(self, device: BLEDevice | str, error: BaseException) -> None: ...


def make_radio(choice: str, load: Load, save: Save) -> BleakRadio:
    """The radio named by the setting: ``bluez`` or ``bumble:<transport>``. Opens nothing yet.

    Raises ConfigError for another name, EnvironmentMissing when bumble is not installed.
    """
    if choice == "bluez":
        from edge.ble.bluez_agent import BluezStack

        return BleakRadio(BluezStack(), choice)
    kind, _, transport = choice.partition(":")
    if kind != "bumble" or not transport:
        raise ConfigError(
            f"unknown radio {choice[:60]!r}", where="radio", mend="use bluez or bumble:tcp-client:HOST:PORT"
        )
    try:
        from edge.ble.bumble_backend import BumbleStack
    except ImportError as error:
        raise EnvironmentMissing(
            "bumble is not installed", where="radio", mend="pip install 'hometwin[sim]'"
        ) from error
    return BleakRadio(BumbleStack(transport, Bonds(load, save)), choice)


class BleakRadio:
    """``Radio`` over bleak with either stack."""

    def __init__(self, stack: Stack, choice: str) -> None:
        self._stack, self._choice = stack, choice
        self.on_advertisement: Callable[[Advertisement], None] | None = None
        self.lost = asyncio.Event()
        self._scanner: BleakScanner | None = None
        self._devices: dict[str, BLEDevice] = {}
        self._links: set[BleakLink] = set()
        self._turn = asyncio.Lock()
        self._started = False

    async def start(self) -> None:
        """Open the adapter and scan. EnvironmentMissing when there is none; a second start does nothing."""
        if self._started:
            return
        try:
            await self._stack.open()
            self.lost = self._stack.lost
            await self.scan(True)  # BlueZ tells only now whether there is an adapter
        except Exception as error:
            await self._quietly(self._stack.close())
            self._scanner = None
            raise no_radio(error, self._choice) from error
        self._started = True

    async def stop(self) -> None:
        """Close all links and leave the adapter. Never raises; a second stop does nothing."""
        if not self._started:
            return
        self._started = False
        await self._quietly(self.scan(False))
        await asyncio.gather(*(self._quietly(link.close()) for link in list(self._links)))
        await self._quietly(self._stack.close())
        self._devices.clear()

    async def scan(self, wanted: bool) -> None:
        """Scan or stop scanning. Off and on again also clears what the adapter remembers."""
        if wanted and self._scanner is None:
            scanner = self._stack.scanner(self._detected)
            try:
                await scanner.start()
            except Exception as error:
                raise link_error(error, where="radio") from error
            self._scanner = scanner
        elif not wanted and self._scanner is not None:
            scanner, self._scanner = self._scanner, None
            try:
                await scanner.stop()
            except Exception as error:
                raise link_error(error, where="radio") from error

    async def connect(
        self, address: str, timeout_s: float, passkey: int | None, *, may_repair: bool = False
    ) -> Link:
        """A link to ``address``, encrypted when a bond exists. LinkError, LinkTimeout or PairingError.

        ``may_repair`` allows a new bond without passkey when the device has lost the old one.
        """
        address = address.upper()
        device = self._devices.get(address, address)
        link = BleakLink(self._stack, passkey)
        turn = self._turn if self._stack.serial else contextlib.nullcontext()
        async with turn:
            client = self._stack.client(device, link.on_disconnect, timeout_s, passkey, may_repair)
            try:
                await client.connect()
            except Exception as error:
                if isinstance(error, BleakDeviceNotFoundError):
                    self._devices.pop(address, None)  # only a fresh advertisement brings it back
                await self._quietly(self._stack.after_failed_connect(device, error))
                raise link_error(error) from error
        link.opened(client)
        self._links.add(link)
        link.on_closed = self._links.discard
        if link.closed.is_set():
            self._links.discard(link)
            raise LinkError("the link was lost while connecting")
        return link

    def _detected(self, device: BLEDevice, data: AdvertisementData) -> None:
        address = device.address.upper()
        if address not in self._devices and len(self._devices) >= _MOST_DEVICES:
            self._devices.clear()
        self._devices[address] = device
        if self.on_advertisement is not None:
            services = frozenset(n for n in map(short_uuid, data.service_uuids) if n is not None)
            self.on_advertisement(
                Advertisement(address, data.local_name or "", services, data.rssi, time.monotonic())
            )

    async def _quietly(self, step: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(STOP_S):
                await step
        except Exception as error:
            log.debug("radio.cleanup_failed", error=type(error).__name__)


class BleakLink:
    """``Link`` over a BleakClient. An operation refused for want of security is repeated once after pairing."""

    def __init__(self, stack: Stack, passkey: int | None) -> None:
        self._stack, self._passkey = stack, passkey
        self._client: BleakClient | None = None
        self._by_uuid: dict[int, BleakGATTCharacteristic] = {}
        self.characteristics: frozenset[int] = frozenset()
        self.mtu = 23
        self.closed = asyncio.Event()
        self.repaired = False
        self.on_closed: Callable[[BleakLink], None] | None = None

    def opened(self, client: BleakClient) -> None:
        self._client = client
        try:
            for service in client.services:
                for characteristic in service.characteristics:
                    number = short_uuid(characteristic.uuid)
                    if number is not None:
                        self._by_uuid.setdefault(number, characteristic)
        except Exception:  # services are gone as soon as the link is
            self.on_disconnect(client)
        self.characteristics = frozenset(self._by_uuid)
        self.mtu = self._stack.mtu(client)
        self.repaired = self._stack.repaired(client)

    def on_disconnect(self, _client: BleakClient) -> None:
        self.closed.set()
        if self.on_closed is not None:
            self.on_closed(self)

    async def read(self, uuid: int) -> bytes:
        client, characteristic = self._at(uuid)
        return bytes(await self._secured(lambda: client.read_gatt_char(characteristic)))

    async def write(self, uuid: int, data: bytes, response: bool) -> None:
        client, characteristic = self._at(uuid)
        await self._secured(lambda: client.write_gatt_char(characteristic, data, response))

    async def subscribe(self, uuid: int, callback: Callable[[bytes], None]) -> None:
        client, characteristic = self._at(uuid)

        def on_value(_characteristic: BleakGATTCharacteristic, value: bytearray) -> None:
            try:
                callback(bytes(value))
            except Exception as error:  # below us is a library's receive path: nothing of ours may break it
                log.error("link.callback_failed", error=type(error).__name__)

        await self._secured(lambda: client.start_notify(characteristic, on_value))

    async def pair(self, passkey: int | None) -> None:
        """Encrypt the link, making a bond when there is none. PairingError when the device refuses."""
        client = self._open_client()
        try:
            await self._stack.pair(client, passkey)
        except Exception as error:
            raise link_error(error) from error
        self.repaired = self._stack.repaired(client)

    async def close(self) -> None:
        """Disconnect; quiet when already closed."""
        if self._client is None or self.closed.is_set():
            return
        try:
            await self._client.disconnect()
        except Exception as error:
            log.debug("link.close_failed", error=type(error).__name__)
        self.on_disconnect(self._client)

    async def _secured(self, operation: Callable[[], Awaitable[T]]) -> T:
        try:
            return await operation()
        except Exception as error:
            if not needs_security(error):
                raise link_error(error) from error
        await self.pair(self._passkey)
        try:
            return await operation()
        except Exception as error:
            if needs_security(error):  # paired, and still not enough: the device wants its passkey
                refusal = Refusal.PASSKEY_NEEDED if self._passkey is None else Refusal.REFUSED
                error = BleakPairingError(refusal)
            raise link_error(error) from None

    def _open_client(self) -> BleakClient:
        if self._client is None or self.closed.is_set():
            raise LinkError("the link is closed")
        return self._client

    def _at(self, uuid: int) -> tuple[BleakClient, BleakGATTCharacteristic]:
        client = self._open_client()
        characteristic = self._by_uuid.get(uuid)
        if characteristic is None:
            raise ProcedureError(f"the device has no characteristic 0x{uuid:04X}")
        return client, characteristic


def short_uuid(text: Any) -> int | None:
    """The 16-bit number of a UUID in bleak's text form; None when it has none."""
    uuid = str(text).lower()
    if len(uuid) == 36 and uuid.startswith("0000") and uuid.endswith(_BASE_TAIL):
        with contextlib.suppress(ValueError):
            return int(uuid[4:8], 16)
    return None
