"""A small air for these tests: controllers behind one TCP port for the hub, peripherals in-process.

The stock controller is corrected where it would hide the hub's mistakes: Cancel cancels, LE data is
stamped with the connection's own address, and a link can be dropped or a peer made deaf.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from bumble import hci, ll
from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData, PhysicalTransport
from bumble.device import Device, DeviceConfiguration
from bumble.gatt import Characteristic, Service
from bumble.host import Host
from bumble.keys import MemoryKeyStore
from bumble.link import LocalLink
from bumble.pairing import PairingConfig, PairingDelegate
from bumble.smp import ErrorCode, PairingMethod, Session
from bumble.transport.common import StreamPacketSink, StreamPacketSource

C = Characteristic


async def until(condition: Callable[[], Any], within_s: float = 10.0) -> Any:
    """Wait for a condition; AssertionError at the deadline."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not (value := condition()):
        assert asyncio.get_running_loop().time() < deadline, "condition not met in time"
        await asyncio.sleep(0.01)
    return value


class AirController(Controller):
    deaf = False
    cancels = True

    def on_hci_le_create_connection_cancel_command(self, command: Any) -> Any:
        if not self.cancels:
            return super().on_hci_le_create_connection_cancel_command(command)
        if self.pending_le_connection is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        pending, self.pending_le_connection = self.pending_le_connection, None
        asyncio.get_running_loop().call_soon(
            self.send_hci_packet,
            hci.HCI_LE_Connection_Complete_Event(
                status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
                connection_handle=0,
                role=hci.Role.CENTRAL,
                peer_address_type=pending.peer_address.address_type,
                peer_address=pending.peer_address,
                connection_interval=0,
                peripheral_latency=0,
                supervision_timeout=0,
                central_clock_accuracy=0,
            ),
        )
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    def on_link_acl_data(self, sender_address: Any, transport: Any, data: bytes) -> None:
        if not self.deaf:
            super().on_link_acl_data(sender_address, transport, data)


class Air(LocalLink):
    def __init__(self) -> None:
        super().__init__()
        self.hubs: list[AirController] = []
        self.sockets: list[asyncio.Transport] = []
        self.muted: set[Any] = set()

    def send_acl_data(self, sender: Any, destination: Any, transport: Any, data: bytes) -> None:
        if transport != PhysicalTransport.LE:
            return
        connection = sender.le_connections.get(destination)
        receiver = self.find_le_controller(destination)
        if connection is not None and receiver is not None:
            asyncio.get_running_loop().call_soon(
                receiver.on_link_acl_data, connection.self_address, transport, data
            )

    def send_advertising_pdu(self, sender: Any, packet: Any) -> None:
        if sender not in self.muted:
            super().send_advertising_pdu(sender, packet)

    def drop(self, controller: AirController, reason: int = 0x08) -> None:
        """Both ends see a supervision timeout."""
        for connection in list(controller.le_connections.values()):
            connection.send_ll_control_pdu(ll.TerminateInd(reason))
            controller.on_le_disconnected(connection, reason)

    def attach_hub(self) -> StreamPacketSource:
        air = self

        class Socket(StreamPacketSource):
            def connection_made(self, transport: Any) -> None:
                air.sockets.append(transport)
                self.controller = AirController(
                    f"hub{len(air.hubs)}", host_source=self, host_sink=StreamPacketSink(transport), link=air
                )
                air.hubs.append(self.controller)

            def connection_lost(self, exc: Exception | None) -> None:
                air.drop(self.controller)
                air.remove_controller(self.controller)

        return Socket()


@contextlib.asynccontextmanager
async def open_air() -> AsyncIterator[tuple[Air, str]]:
    """An air and the radio setting that reaches it."""
    air = Air()
    server = await asyncio.get_running_loop().create_server(air.attach_hub, "127.0.0.1", 0)
    try:
        yield air, f"bumble:tcp-client:127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for socket in air.sockets:
            socket.close()


class Passkey(int):
    def __bool__(self) -> bool:
        return True  # bumble asserts the passkey's truth, and 000000 is a passkey


class Display(PairingDelegate):
    def __init__(self, passkey: int | None) -> None:
        none, display = PairingDelegate.NO_OUTPUT_NO_INPUT, PairingDelegate.DISPLAY_OUTPUT_ONLY
        super().__init__(io_capability=none if passkey is None else display)
        self.passkey = passkey

    async def generate_passkey(self) -> int:
        assert self.passkey is not None
        return Passkey(self.passkey)


class StrictSession(Session):
    """What a real device with a passkey does to a hub that has no keyboard."""

    def send_pairing_response_command(self) -> None:
        if self.mitm and self.pairing_method == PairingMethod.JUST_WORKS:
            self.send_pairing_failed(ErrorCode.AUTHENTICATION_REQUIREMENTS)
        else:
            super().send_pairing_response_command()


class Sensor:
    """A heart-rate peripheral with a battery; the measurement needs encryption when ``secure``."""

    def __init__(
        self,
        air: Air,
        address: str = "C0:00:00:00:00:01",
        *,
        passkey: int | None = None,
        secure: bool = False,
        sc: bool = True,
        extra: tuple[Service, ...] = (),
    ) -> None:
        self.air, self.address, self.passkey, self.sc = air, address, passkey, sc
        guard = C.READ_REQUIRES_ENCRYPTION if secure else C.READABLE
        write_guard = C.WRITE_REQUIRES_ENCRYPTION if secure else C.WRITEABLE
        self.value = C("2A37", C.Properties.NOTIFY | C.Properties.READ, guard, b"\x00\x48")
        self.control = C("2A39", C.Properties.WRITE | C.Properties.INDICATE, write_guard, b"\x00")
        self.battery = C("2A19", C.Properties.READ | C.Properties.NOTIFY, C.READABLE, b"\x5a")
        self.services = [
            Service("180D", [self.value, self.control]),
            Service("180F", [self.battery]),
            *extra,
        ]
        self.device: Any = None
        self.controller: Any = None

    async def start(self) -> Sensor:
        self.controller = AirController(self.address, link=self.air, public_address="00:00:00:00:00:00")
        host = Host()
        host.controller = self.controller
        config = DeviceConfiguration(name="strap", address=hci.Address(self.address), irk=bytes(15) + b"\x07")
        self.device = Device(config=config, host=host)
        self.device.keystore = MemoryKeyStore()
        self.device.add_services(self.services)
        self.device.advertising_data = bytes(
            AdvertisingData(
                [
                    (AdvertisingData.FLAGS, b"\x06"),
                    (AdvertisingData.COMPLETE_LOCAL_NAME, b"strap"),
                    (AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS, bytes(UUID("180D"))),
                ]
            )
        )
        self.device.pairing_config_factory = lambda connection: PairingConfig(
            sc=self.sc, mitm=self.passkey is not None, bonding=True, delegate=Display(self.passkey)
        )
        self.device.smp_session_proxy = StrictSession
        self.device.advertising_interval_min = self.device.advertising_interval_max = 20.0
        await self.device.power_on()
        await self.device.start_advertising(auto_restart=True)
        return self

    async def notify(self, data: bytes) -> None:
        await self.device.notify_subscribers(self.value, data)

    def forget_bonds(self) -> None:
        self.device.keystore = MemoryKeyStore()

    def drop(self, reason: int = 0x08) -> None:
        self.air.drop(self.controller, reason)

    def vanish(self) -> None:
        """Advertises into the void from now on."""
        self.air.muted.add(self.controller)

    def appear(self) -> None:
        self.air.muted.discard(self.controller)

    @property
    def connections(self) -> int:
        return len(self.device.connections)
