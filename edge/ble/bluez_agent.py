"""BlueZ under bleak: the pairing agent bleak does not ship, and the repairs its D-Bus objects need.

Facts behind it (BlueZ 5.66, bleak 3.1): without an ``org.bluez.Agent1`` pairing ends in
AuthenticationFailed; a process killed while connecting leaves ``InProgress`` behind until the device is
disconnected or removed; a device may vanish from BlueZ's list and only a new scan brings it back;
``BleakClient.mtu_size`` is 23 with a warning, the characteristics know better.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import structlog
from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementDataCallback
from bleak.exc import BleakDBusError, BleakError
from dbus_fast import BusType, DBusError, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusObjectPath, DBusStr, DBusUInt16, DBusUInt32
from dbus_fast.service import ServiceInterface, dbus_method

from edge.ble.faults import DBUS_IN_PROGRESS

log = structlog.get_logger()

AGENT_PATH: Final = "/org/hometwin/agent"
# The hub types the passkey printed on a device; a device without display pairs by just works all the same.
CAPABILITY: Final = "KeyboardOnly"
PAIR_S: Final = 30.0  # the SMP transaction timeout
_REJECTED: Final = "org.bluez.Error.Rejected"


class PairingAgent(ServiceInterface):
    """Answers bluetoothd for the devices it was told to expect; everybody else is rejected."""

    def __init__(self) -> None:
        super().__init__("org.bluez.Agent1")
        self._expected: dict[str, int | None] = {}

    def expect(self, address: str, passkey: int | None) -> None:
        self._expected[address.upper()] = passkey

    def passkey_for(self, device_path: str) -> int:
        """The passkey of the device at this D-Bus path. DBusError Rejected when there is none."""
        passkey = self._expected.get(address_in(device_path))
        if passkey is None:
            raise DBusError(_REJECTED, "no passkey is configured for this device")
        return passkey

    def check_just_works(self, device_path: str) -> None:
        """Agree to pair without passkey, only with a device that is configured so. DBusError otherwise."""
        address = address_in(device_path)
        if address not in self._expected or self._expected[address] is not None:
            raise DBusError(_REJECTED, "this device must not pair without its passkey")

    @dbus_method()
    def RequestPasskey(self, device: DBusObjectPath) -> DBusUInt32:
        return self.passkey_for(device)

    @dbus_method()
    def RequestPinCode(self, device: DBusObjectPath) -> DBusStr:
        raise DBusError(_REJECTED, "classic pairing is not offered")

    @dbus_method()
    def RequestAuthorization(self, device: DBusObjectPath) -> None:
        self.check_just_works(device)

    @dbus_method()
    def RequestConfirmation(self, device: DBusObjectPath, passkey: DBusUInt32) -> None:
        self.check_just_works(device)

    @dbus_method()
    def AuthorizeService(self, device: DBusObjectPath, uuid: DBusStr) -> None:
        raise DBusError(_REJECTED, "the hub offers no services")

    @dbus_method()
    def DisplayPasskey(self, device: DBusObjectPath, passkey: DBusUInt32, entered: DBusUInt16) -> None:
        log.debug("bluez.display_passkey")

    @dbus_method()
    def Cancel(self) -> None:
        log.debug("bluez.pairing_cancelled")

    @dbus_method()
    def Release(self) -> None:
        log.info("bluez.agent_released")


def address_in(device_path: str) -> str:
    """``C0:00:00:00:00:01`` from ``/org/bluez/hci0/dev_C0_00_00_00_00_01``."""
    return device_path.rpartition("/dev_")[2].replace("_", ":").upper()


class BluezStack:
    """What the radio needs of BlueZ; the counterpart of BumbleStack."""

    serial = True  # BlueZ queues concurrent connects behind one another and times the last ones out

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.agent = PairingAgent()
        self._bus: Any = None
        self._watch: asyncio.Task[None] | None = None
        self._stuck: dict[str, int] = {}

    async def open(self) -> None:
        """Register the agent. Any D-Bus failure goes out as it is; the radio names it."""
        self.lost = asyncio.Event()
        bus = self._bus = MessageBus(bus_type=BusType.SYSTEM)
        await bus.connect()
        bus.export(AGENT_PATH, self.agent)
        await self._call(
            "/org/bluez", "org.bluez.AgentManager1", "RegisterAgent", "os", [AGENT_PATH, CAPABILITY]
        )
        await self._call("/org/bluez", "org.bluez.AgentManager1", "RequestDefaultAgent", "o", [AGENT_PATH])
        self._watch = asyncio.create_task(self._wait_lost(bus, self.lost))

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._bus is not None:
            with contextlib.suppress(Exception):
                await self._call(
                    "/org/bluez", "org.bluez.AgentManager1", "UnregisterAgent", "o", [AGENT_PATH]
                )
            self._bus.disconnect()
            self._bus = None

    @staticmethod
    async def _wait_lost(bus: Any, lost: asyncio.Event) -> None:
        with contextlib.suppress(Exception):
            await bus.wait_for_disconnect()
        lost.set()

    def scanner(self, callback: AdvertisementDataCallback) -> BleakScanner:
        # Duplicates too: an advertisement must be fresh to be worth a connect.
        return BleakScanner(callback, bluez={"filters": {"DuplicateData": True}})

    def client(
        self,
        device: BLEDevice | str,
        on_disconnect: Callable[[BleakClient], None],
        timeout_s: float,
        passkey: int | None,
        may_repair: bool,
    ) -> BleakClient:
        self.agent.expect(device if isinstance(device, str) else device.address, passkey)
        return BleakClient(device, on_disconnect, timeout=timeout_s)

    async def pair(self, client: BleakClient, passkey: int | None) -> None:
        self.agent.expect(client.address, passkey)
        async with asyncio.timeout(PAIR_S):
            await client.pair()

    def repaired(self, client: BleakClient) -> bool:
        return False  # BlueZ keeps its bonds to itself

    def mtu(self, client: BleakClient) -> int:
        sizes = [c.max_write_without_response_size for s in client.services for c in s.characteristics]
        return max(sizes, default=20) + 3

    async def after_failed_connect(self, device: BLEDevice | str, error: BaseException) -> None:
        """Free a device that BlueZ still holds as connecting: disconnect it, and remove it if that did not help.

        Removing loses the bond, so a bonded device is only ever disconnected.
        """
        if not isinstance(error, BleakDBusError) or error.dbus_error != DBUS_IN_PROGRESS:
            return
        if isinstance(device, str):
            return
        path, properties = device.details["path"], device.details.get("props", {})
        self._stuck[path] = self._stuck.get(path, 0) + 1
        log.warning("bluez.connect_in_progress", times=self._stuck[path])
        await self._call(path, "org.bluez.Device1", "Disconnect")
        if self._stuck[path] >= 2 and not properties.get("Paired", False):
            self._stuck.pop(path)
            await self._call(properties["Adapter"], "org.bluez.Adapter1", "RemoveDevice", "o", [path])

    async def _call(
        self, path: str, interface: str, member: str, signature: str = "", body: list[Any] | None = None
    ) -> None:
        if self._bus is None:
            raise BleakError("D-Bus is not connected")
        reply = await self._bus.call(
            Message(
                destination="org.bluez",
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=body or [],
            )
        )
        if reply.message_type == MessageType.ERROR:
            raise BleakDBusError(reply.error_name, reply.body)
