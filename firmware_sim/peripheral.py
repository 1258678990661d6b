"""One virtual device on the air: advertising, pairing, guarded characteristics, live values, faults.

A device class below this one says which services it has and what its events mean; everything that every device
must get right is here. Values longer than a notification can carry are an error of ours, never cut silently.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter, deque
from collections.abc import Awaitable
from typing import Any, ClassVar, Final

import structlog
from bumble import att, hci
from bumble.core import AdvertisingData
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.gatt import Characteristic, Service
from bumble.host import Host

from firmware_sim.clock import SimClock
from firmware_sim.errors import SimError
from firmware_sim.faults import FAULT, AirFaultCommand
from firmware_sim.flash import Flash
from firmware_sim.recording import Event
from firmware_sim.security import (
    Bonds,
    Need,
    StrictSession,
    pairing_config,
    proven,
    seal,
)
from firmware_sim.table import INDICATE, NOTIFY, READ, AttributeTable

# A hub reconnects on a fresh advertisement, and at 2000 times real speed 100 ms are three minutes of twin time.
ADVERTISING_INTERVAL_MS: Final = 100
# Records in flight before the sender waits: enough to fill the pipe, few enough that an abort is heard soon.
SEND_WINDOW: Final = 8

log = structlog.get_logger()


class NotificationTooLong(Exception):
    """A value does not fit into one notification: a bug in the device, not a fault of the link."""


class Peripheral(AttributeTable):
    """A device with GATT services. ``name`` is its key on the command line and in the control socket."""

    name: ClassVar[str]
    address: ClassVar[str]
    passkey: ClassVar[int | None] = None
    title: ClassVar[str]  # advertised name
    model: ClassVar[str]
    main_service: ClassVar[int]
    has_memory: ClassVar[bool] = True

    def __init__(self, flash: Flash, clock: SimClock) -> None:
        self.flash = flash
        self.clock = clock
        self.counters: Counter[str] = Counter()
        self.bonds = Bonds(flash)
        flash.state.setdefault("battery_pct", 100)
        flash.state.setdefault("irk", os.urandom(16).hex())
        flash.state.setdefault("clock_offset_s", 0)
        self.connection: Connection | None = None
        self.authenticated = False
        self.in_range = True
        self.truncate_left = 0  # records still to be cut short (fault)
        self.need = Need.AUTHENTICATED if self.passkey is not None else Need.ENCRYPTED
        self._tasks: set[asyncio.Task[None]] = set()
        self._restart: asyncio.Task[None] | None = None
        self._live: deque[tuple[Characteristic, bytes, bool]] = deque()
        self._live_ready = asyncio.Event()
        self._sent_since_drain = 0
        self.battery = self.characteristic(0x2A19, READ | NOTIFY, read=lambda: bytes([self.battery_pct]))
        self.device: Device | None = None

    # -- what a device class says -----------------------------------------------------------------------

    def services(self) -> list[Service]:
        """The device's own services; battery and device information are added here."""
        raise NotImplementedError

    def play(self, index: int, event: Event) -> None:
        """An event has happened: remember it, and tell a listening hub."""
        raise NotImplementedError

    def script(self, events: list[Event], start_us: int, end_us: int) -> list[Event]:
        """The events this device will play, with any of its own added; indices into it are stored."""
        return events

    def can_send_live(self) -> Awaitable[Any] | None:
        """What to wait for before live values may go out (a running record transfer)."""
        return None

    def on_link_lost(self) -> None:
        """The link has ended."""

    def on_battery(self) -> None:
        """The battery level has changed."""

    def fault(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        """A fault that only this kind of device knows; SimError for others."""
        raise SimError(f"{self.name} cannot do {what[:40]!r}", where="control")

    # -- clocks and battery -----------------------------------------------------------------------------

    @property
    def battery_pct(self) -> int:
        return int(self.flash.state["battery_pct"])

    @property
    def clock_offset_us(self) -> int:
        """How far the device's own clock is wrong (fault); positive: it runs ahead."""
        return int(self.flash.state["clock_offset_s"] * 1_000_000)

    # -- life -------------------------------------------------------------------------------------------

    async def power_on(self, host: Host) -> None:
        """Start advertising over an HCI host that is wired to the air."""
        config = DeviceConfiguration(
            name=self.title,
            address=hci.Address(self.address, hci.Address.RANDOM_DEVICE_ADDRESS),
            irk=bytes.fromhex(self.flash.state["irk"]),
        )
        device = self.device = Device(config=config, host=host)
        device.keystore = self.bonds
        device.pairing_config_factory = lambda _: pairing_config(self.passkey)
        device.smp_session_proxy = StrictSession
        device.add_services([*self.services(), *self._common_services()])
        seal(device.gatt_server.attributes)
        device.advertising_data = bytes(
            AdvertisingData(
                [
                    (AdvertisingData.FLAGS, b"\x06"),
                    (
                        AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
                        self.main_service.to_bytes(2, "little"),
                    ),
                    (AdvertisingData.COMPLETE_LOCAL_NAME, self.title.encode()),
                ]
            )
        )
        device.on(Device.EVENT_CONNECTION, self._on_connection)
        self.flash.save()
        await device.power_on()
        await self._advertise()

    async def _advertise(self) -> None:
        assert self.device is not None
        await self.device.start_advertising(
            advertising_interval_min=ADVERTISING_INTERVAL_MS,
            advertising_interval_max=ADVERTISING_INTERVAL_MS,
        )

    async def _advertise_again(self) -> None:
        # bumble can restart advertising itself, but reports an air that vanishes meanwhile as its own crash
        with contextlib.suppress(Exception):
            await self._advertise()

    async def power_off(self) -> None:
        """Hang up and go silent. What the device remembers stays in its flash."""
        self._end_link()
        if self._restart is not None:
            self._restart.cancel()
        if self.device is not None:
            with contextlib.suppress(Exception):  # the air may be gone already
                async with asyncio.timeout(1.0):
                    await self.device.stop_advertising()
                    await self.device.power_off()

    def _on_connection(self, connection: Connection) -> None:
        self._end_link()
        self.connection = connection
        self.counters["connected"] += 1
        connection.on(connection.EVENT_DISCONNECTION, lambda _: self._on_disconnection(connection))
        connection.on(connection.EVENT_CONNECTION_ENCRYPTION_CHANGE, lambda: self._on_encryption(connection))
        connection.on(connection.EVENT_PAIRING, lambda _: self._on_encryption(connection))
        connection.on(connection.EVENT_PAIRING_FAILURE, self._on_pairing_failure)
        self.spawn(self._send_live())
        log.info("sensor.connected", device=self.name)

    def _on_pairing_failure(self, reason: Any) -> None:
        self.counters["pairing_refused"] += 1
        log.info("sensor.pairing_refused", device=self.name, reason=getattr(reason, "name", str(reason)))

    def _on_encryption(self, connection: Connection) -> None:
        assert self.device is not None
        peer = str(connection.peer_address)
        session = self.device.smp_manager.sessions.get(connection.handle)
        self.authenticated = bool(connection.encryption) and proven(session, self.bonds.peek(peer))
        subscriptions = self._subscriptions(connection)
        for uuid, value in self.bonds.configuration(peer).items():
            for attribute in self.device.gatt_server.attributes:
                if isinstance(attribute, Characteristic) and attribute.uuid.to_hex_str() == uuid:
                    subscriptions.setdefault(attribute.handle, bytes.fromhex(value))

    def _on_disconnection(self, connection: Connection) -> None:
        if self.connection is connection:
            self._end_link()
            self._restart = asyncio.create_task(self._advertise_again())
            log.info("sensor.disconnected", device=self.name)

    def _end_link(self) -> None:
        self.connection = None
        self.authenticated = False
        self._live.clear()
        for task in list(self._tasks):
            task.cancel()
        self.on_link_lost()

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Run ``work`` as long as the present link lasts."""

        async def guarded() -> None:
            try:
                await work
            except (TimeoutError, att.ATT_Error, hci.HCI_Error) as err:
                log.info("sensor.send_failed", device=self.name, error=type(err).__name__)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.counters["bugs"] += 1
            log.error("sensor.bug", device=self.name, error=f"{type(error).__name__}: {error}")

    # -- sending ----------------------------------------------------------------------------------------

    async def send(self, characteristic: Characteristic, value: bytes, *, is_record: bool = False) -> None:
        """Notify or indicate ``value`` on the present link; nothing when nobody subscribed."""
        link, device = self.connection, self.device
        if link is None or device is None or not self.subscribed(characteristic):
            return
        if is_record and self.truncate_left > 0:
            self.truncate_left -= 1
            self.counters["truncated"] += 1
            value = value[: max(1, len(value) - 3)]
        room = link.att_mtu - 3
        if len(value) > room:
            raise NotificationTooLong(f"{self.name}: {len(value)} octets where {room} fit")
        if characteristic.properties & INDICATE:
            await device.gatt_server.indicate_subscriber(link, characteristic, value)
        else:
            await device.gatt_server.notify_subscriber(link, characteristic, value)
            self._sent_since_drain += 1
            if self._sent_since_drain >= SEND_WINDOW:
                self._sent_since_drain = 0
                await link.drain()
        self.counters["sent"] += 1

    def send_soon(self, characteristic: Characteristic, value: bytes, *, is_record: bool = False) -> None:
        """Queue a live value behind whatever is being sent; dropped when nobody listens (memory has it)."""
        if self.subscribed(characteristic):
            self._live.append((characteristic, value, is_record))
            self._live_ready.set()

    async def _send_live(self) -> None:
        while True:
            await self._live_ready.wait()
            self._live_ready.clear()
            while self._live:
                if (busy := self.can_send_live()) is not None:
                    await busy
                if self._live:
                    characteristic, value, is_record = self._live.popleft()
                    await self.send(characteristic, value, is_record=is_record)

    # -- faults and state for the control socket ----------------------------------------------------------

    async def disturb(self, action: FAULT, rssi: int = 0) -> None:
        """Ask the air for a fault of this device's link."""
        assert self.device is not None
        await self.device.send_sync_command(AirFaultCommand(action=int(action), rssi=rssi))

    async def control(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command of the control socket; SimError when it makes no sense."""
        match what:
            case "status":
                return self.status()
            case "drop":
                await self.disturb(FAULT.DROP)
            case "out_of_range":
                await self.disturb(FAULT.OUT_OF_RANGE)
                self.in_range = False
            case "in_range":
                await self.disturb(FAULT.IN_RANGE)
                self.in_range = True
            case "rssi":
                await self.disturb(FAULT.RSSI, _number(request, "dbm", -127, 20))
            case "battery":
                self.flash.state["battery_pct"] = _number(request, "pct", 0, 100)
                self.flash.save()
                self.on_battery()
                self.send_soon(self.battery, bytes([self.battery_pct]))
            case "lose_bond":
                self.bonds.forget_all()
                await self.disturb(FAULT.DROP)
            case "clock":
                self.set_clock_offset(_number(request, "offset_s", -86_400, 86_400))
            case "truncate_next":
                self.truncate_left = _number(request, "n", 1, 1000, default=1)
            case _:
                return self.fault(what, request)
        return {}

    def set_clock_offset(self, offset_s: int) -> None:
        """Set the device's clock wrong by this much (0: right again)."""
        self.flash.state["clock_offset_s"] = offset_s
        self.flash.save()

    def status(self) -> dict[str, Any]:
        """What a test wants to know; no readings."""
        link = self.connection
        return {
            "connected": link is not None,
            "encrypted": bool(link and link.encryption),
            "authenticated": self.authenticated,
            "bonds": len(self.flash.state["bonds"]),
            "records": len(self.flash.records),
            "battery_pct": self.battery_pct,
            "in_range": self.in_range,
            "clock_offset_s": self.flash.state["clock_offset_s"],
            "counters": dict(self.counters),
        }


def _number(request: dict[str, Any], key: str, low: int, high: int, default: int | None = None) -> int:
    value = request.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise SimError(f"{key} must be a number from {low} to {high}", where="control")
    return int(value)
