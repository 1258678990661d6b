"""bleak's two backend classes over a BumbleHost, for machines without BlueZ: tests, demo, a bare dongle.

Given to bleak as ``BleakScanner(backend=BumbleScanner, host=host)`` and
``BleakClient(device, backend=BumbleClient, host=host, passkey=..., may_repair=...)``.
Not offered, and said so by NotImplementedError: access to single descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from bleak import BleakClient, BleakScanner
from bleak.assigned_numbers import gatt_char_props_to_strs
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient, NotifyCallback
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, AdvertisementDataCallback, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakError, BleakGATTProtocolError
from bleak.uuids import normalize_uuid_str
from bumble import att
from bumble.core import AdvertisingData, ProtocolError
from bumble.gatt import GATT_CLIENT_CHARACTERISTIC_CONFIGURATION_DESCRIPTOR as CCCD

from edge.ble.bonds import Bonds
from edge.ble.bumble_host import BOND_LOST_CODES, BumbleHost, LinkGone, unless_gone
from edge.ble.faults import BleakPairingError, Refusal

T = TypeVar("T")

MTU: Final = 247  # fits one data-length-extended packet (251 bytes less the L2CAP header)
ATT_S: Final = 10.0  # the specification allows 30 s; a healthy peer answers within one second
DISCOVER_S: Final = 10.0

_UUID_LISTS: Final = {
    AdvertisingData.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS: 2,
    AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS: 2,
    AdvertisingData.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS: 16,
    AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS: 16,
}
_NAMES: Final = (AdvertisingData.COMPLETE_LOCAL_NAME, AdvertisingData.SHORTENED_LOCAL_NAME)


class BumbleScanner(BaseBleakScanner):
    """Scans while started; several scanners share the controller's one scan."""

    def __init__(
        self,
        detection_callback: AdvertisementDataCallback | None,
        service_uuids: list[str] | None,
        scanning_mode: str = "active",
        *,
        host: BumbleHost,
        **kwargs: Any,
    ) -> None:
        super().__init__(detection_callback, service_uuids)
        self._host = host

    async def start(self) -> None:
        self.seen_devices = {}
        await _told(self._host.scan(self._on_advertisement))

    async def stop(self) -> None:
        await _told(self._host.stop_scan(self._on_advertisement))

    def _on_advertisement(self, address: str, advertisement: Any) -> None:
        data = _advertisement_data(advertisement)
        if not self.is_allowed_uuid(data.service_uuids):
            return
        if address not in self.seen_devices and len(self.seen_devices) >= 256:
            self.seen_devices.clear()  # bounded, whatever somebody transmits
        device = self.create_or_update_device(address, address, data.local_name, {"host": self._host}, data)
        self.call_detection_callbacks(device, data)


def _advertisement_data(advertisement: Any) -> AdvertisementData:
    """bleak's view of one advertisement; fields that break their own rules are left out."""
    name: str | None = None
    uuids: list[str] = []
    maker: dict[int, bytes] = {}
    for kind, value in advertisement.data.ad_structures:
        if kind in _NAMES:
            name = value.decode("utf-8", "replace")
        elif (size := _UUID_LISTS.get(kind)) is not None:
            starts = range(0, len(value) - size + 1, size)
            uuids.extend(normalize_uuid_str(_uuid_text(value[i : i + size])) for i in starts)
        elif kind == AdvertisingData.MANUFACTURER_SPECIFIC_DATA and len(value) >= 2:
            maker[int.from_bytes(value[:2], "little")] = bytes(value[2:])
    return AdvertisementData(name, maker, {}, uuids, None, advertisement.rssi, (advertisement,))


def _uuid_text(little_endian: bytes) -> str:
    text = bytes(reversed(little_endian)).hex()
    if len(text) == 4:
        return text
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


class BumbleClient(BaseBleakClient):
    """One connection. Every failure is a BleakError or TimeoutError; cancellation stays cancellation."""

    def __init__(
        self,
        address_or_ble_device: BLEDevice | str,
        services: set[str] | None = None,
        *,
        disconnected_callback: Callable[[], None] | None,
        timeout: float,
        host: BumbleHost,
        passkey: int | None = None,
        may_repair: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(address_or_ble_device, disconnected_callback=disconnected_callback, timeout=timeout)
        self._host, self._passkey = host, passkey
        # A passkey proves to us that it is the same device; without one a person has to allow it.
        self._may_repair = may_repair or passkey is not None
        self._connection: Any = None
        self._reason = 0
        self._secured = False
        self._securing = asyncio.Lock()
        self._refused: BleakPairingError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.repaired = False  # this connection replaced a bond that the peer had lost

    @property
    def name(self) -> str:
        return self.address

    @property
    def mtu_size(self) -> int:
        return 23 if self._connection is None else int(self._connection.att_mtu)

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def connect(self, pair: bool, **kwargs: Any) -> None:
        if self._connection is not None:
            raise BleakError("already connected")
        self._connection = connection = await _told(self._host.initiate(self.address, self._timeout))
        connection.once(connection.EVENT_DISCONNECTION, self._on_disconnection)
        connection.on(connection.EVENT_SECURITY_REQUEST, self._on_security_request)
        try:
            if self._host.bond_of(connection) is not None or pair:
                await self._secure(self._passkey)
            await self._exchange_mtu()
            await self._att(self._discover(), DISCOVER_S)
            if self._connection is None:
                raise BleakError("the link was lost while connecting")
        except BaseException:
            await asyncio.shield(self._drop(connection))
            raise

    async def disconnect(self) -> None:
        if (connection := self._connection) is not None:
            await self._host.disconnect(connection)

    async def _drop(self, connection: Any) -> None:
        self._disconnected_callback = None  # connect() itself tells the caller
        await self._host.disconnect(connection)

    def _on_disconnection(self, reason: int) -> None:
        self._connection, self._reason, self.services = None, reason, None
        for task in self._tasks:
            task.cancel()
        if self._disconnected_callback is not None:
            self._disconnected_callback()

    # Security

    async def pair(self, *args: Any, passkey: int | None = None, **kwargs: Any) -> None:
        """Encrypt, with a new bond where none is good enough. BleakPairingError when refused."""
        await self._secure(self._passkey if passkey is None else passkey)

    async def unpair(self) -> None:
        await self._host.forget(self.address)
        await self.disconnect()

    def _on_security_request(self, _auth_req: int) -> None:
        async def answer() -> None:
            with contextlib.suppress(BleakError, TimeoutError):  # the refused operation will tell
                await self._secure(self._passkey)

        task = asyncio.create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _secure(self, passkey: int | None) -> None:
        async with self._securing:
            connection = self._connected()
            if self._secured:
                return
            if self._refused is not None:
                raise self._refused  # one attempt per connection: some devices count them
            checked = self._host.bond_of(connection)
            if checked or (checked is not None and passkey is None):
                if await self._encrypt(connection):
                    self._secured = True
                    return
                if not self._may_repair:
                    raise BleakPairingError(Refusal.BOND_LOST)
                self.repaired = True
            try:
                await _told(self._host.pair(connection, passkey))
            except TimeoutError:
                self._refused = BleakPairingError(Refusal.TIMED_OUT)
                raise self._refused from None
            except BleakPairingError as refused:
                self._refused = refused
                raise
            self._secured = True

    async def _encrypt(self, connection: Any) -> bool:
        """False when the peer says that it has lost the bond and is still there to make a new one."""
        try:
            await self._host.encrypt(connection)
        except ProtocolError as error:
            if error.error_code not in BOND_LOST_CODES:
                raise BleakError("encryption failed") from None
            if self._connection is None:
                raise BleakPairingError(Refusal.BOND_LOST) from None
            return False
        except LinkGone:
            if self._reason not in BOND_LOST_CODES:
                raise BleakError("the link was lost while encrypting") from None
            # Another key than ours at the peer. The next connection may make a new bond.
            if self._may_repair:
                self._host.distrust(connection)
            raise BleakPairingError(Refusal.BOND_LOST) from None
        return True

    # GATT

    async def _exchange_mtu(self) -> None:
        with contextlib.suppress(BleakGATTProtocolError):  # an old peer may refuse; 23 bytes it is then
            await self._att(self._connected().gatt_client.request_mtu(MTU), ATT_S)

    async def _discover(self) -> None:
        client = self._connected().gatt_client
        await client.discover_services()
        collection = BleakGATTServiceCollection()
        for found in client.services:
            service = BleakGATTService(found, found.handle, normalize_uuid_str(found.uuid.to_hex_str("-")))
            collection.add_service(service)
            for proxy in await client.discover_characteristics((), found):
                collection.add_characteristic(
                    BleakGATTCharacteristic(
                        proxy,
                        proxy.handle,
                        normalize_uuid_str(proxy.uuid.to_hex_str("-")),
                        list(gatt_char_props_to_strs(int(proxy.properties))),
                        lambda: self.mtu_size - 3,
                        service,
                    )
                )
        self.services = collection

    async def read_gatt_char(
        self, characteristic: BleakGATTCharacteristic, *, use_cached: bool = False, **kwargs: Any
    ) -> bytearray:
        client = self._connected().gatt_client
        return bytearray(await self._att(client.read_value(characteristic.handle), ATT_S))

    async def write_gatt_char(
        self, characteristic: BleakGATTCharacteristic, data: Any, response: bool
    ) -> None:
        client = self._connected().gatt_client
        if not response and len(data) > self.mtu_size - 3:
            raise BleakError("a write without response must fit the MTU")
        await self._att(client.write_value(characteristic.handle, bytes(data), response), ATT_S)

    async def start_notify(
        self, characteristic: BleakGATTCharacteristic, callback: NotifyCallback, **kwargs: Any
    ) -> None:
        self._connected()
        proxy = characteristic.obj
        await self._att(proxy.discover_descriptors(), ATT_S)
        proxy.descriptors_discovered = True
        if proxy.get_descriptor(CCCD) is None:
            raise BleakError("the characteristic has no client configuration")
        await self._att(proxy.subscribe(lambda value: callback(bytearray(value))), ATT_S)

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        self._connected()
        await self._att(characteristic.obj.unsubscribe(force=True), ATT_S)

    async def read_gatt_descriptor(
        self, descriptor: BleakGATTDescriptor, *, use_cached: bool = False, **kwargs: Any
    ) -> bytearray:
        raise NotImplementedError("this backend lists no descriptors")

    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: Any) -> None:
        raise NotImplementedError("this backend lists no descriptors")

    def _connected(self) -> Any:
        if self._connection is None:
            raise BleakError("not connected")
        return self._connection

    async def _att(self, operation: Awaitable[T], timeout_s: float) -> T:
        """One ATT exchange. When it is broken off, so is the link: a late answer would be taken for the next."""
        connection = self._connection
        try:
            return await _told(operation, timeout_s)
        except (TimeoutError, asyncio.CancelledError):
            if connection is not None:
                await asyncio.shield(self._host.disconnect(connection))
            raise


async def _told(operation: Awaitable[T], timeout_s: float = 60.0) -> T:
    """Await ``operation`` and tell bumble's failures as bleak's."""
    try:
        return await unless_gone(operation, timeout_s)
    except (BleakError, TimeoutError):
        raise
    except LinkGone:
        raise BleakError("the link was lost") from None
    except att.ATT_Error as error:
        raise BleakGATTProtocolError(int(error.error_code)) from None
    except Exception as error:  # whatever a strange peer makes bumble trip over
        raise BleakError(f"bumble failed: {type(error).__name__}") from None


class BumbleStack:
    """What the radio needs of this backend; the counterpart of BluezStack."""

    serial = False  # the host itself keeps to one initiation at a time

    def __init__(self, transport: str, bonds: Bonds) -> None:
        self._transport, self._bonds = transport, bonds
        self._host: BumbleHost | None = None
        self.lost = asyncio.Event()

    async def open(self) -> None:
        self._host = BumbleHost(self._transport, self._bonds)
        self.lost = self._host.lost
        await self._host.open()

    async def close(self) -> None:
        if self._host is not None:
            await self._host.close()

    def scanner(self, callback: AdvertisementDataCallback) -> BleakScanner:
        return BleakScanner(callback, backend=BumbleScanner, host=self._host)

    def client(
        self,
        device: BLEDevice | str,
        on_disconnect: Callable[[BleakClient], None],
        timeout_s: float,
        passkey: int | None,
        may_repair: bool,
    ) -> BleakClient:
        return BleakClient(
            device,
            on_disconnect,
            timeout=timeout_s,
            backend=BumbleClient,
            host=self._host,
            passkey=passkey,
            may_repair=may_repair,
        )

    async def pair(self, client: BleakClient, passkey: int | None) -> None:
        await client.pair(passkey=passkey)

    def repaired(self, client: BleakClient) -> bool:
        return bool(getattr(client._backend, "repaired", False))

    def mtu(self, client: BleakClient) -> int:
        return client.mtu_size

    async def after_failed_connect(self, device: BLEDevice | str, error: BaseException) -> None:
        """Nothing is left behind: the host has called the controller off."""
