"""The virtual air: one process, one TCP listener, one controller per accepted socket.

A hub and sensors each open ``tcp-client:HOST:PORT`` and speak HCI (H4) as to a dongle. What bumble 0.0.236's own
controller lacks is added here, each with its reason: create-connection-cancel, public-address routing,
Reset, RSSI, link loss (reason 8) and going out of range. The same classes serve in-process in tests.

``python -m firmware_sim.air --port 0`` prints ``air ready port=NNNN`` once it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import structlog
from bumble import hci, ll
from bumble.controller import Connection, Controller, LegacyAdvertiser
from bumble.core import PhysicalTransport
from bumble.link import LocalLink
from bumble.transport.common import PacketParser

from firmware_sim.errors import SimError
from firmware_sim.faults import FAULT, AirFaultCommand

LINK_LOST: Final = hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR  # reason 8: supervision timeout
DEFAULT_RSSI_DBM: Final = -55  # a sensor on the body, the hub in the same room
_OK: Final = hci.HCI_ErrorCode.SUCCESS
_MASK = hci.LeFeatureMask

log = structlog.get_logger()


class Ether(LocalLink):
    """The shared medium: who hears whom, how loudly, and how links end when somebody vanishes."""

    def __init__(self) -> None:
        super().__init__()
        self._rssi_dbm: dict[frozenset[str], int] = {}

    def set_rssi(self, dbm: int, address: str, other: str = "") -> None:
        """Loudness between two addresses, or between one address and everybody."""
        self._rssi_dbm[frozenset((address, other))] = dbm

    def rssi(self, sender: AirController, receiver: AirController) -> int:
        """dBm at which ``receiver`` hears ``sender``: a set value, else one that depends on the pair only."""
        for a, b in ((sender.addresses, receiver.addresses), (receiver.addresses, sender.addresses)):
            for key in (frozenset((x, y)) for x in a for y in (*b, "")):
                if key in self._rssi_dbm:
                    return self._rssi_dbm[key]
        spread = sum(sender.addresses[0].encode()) % 9  # stable per sender, a few dB like a real room
        return DEFAULT_RSSI_DBM - spread

    def reachable(self, a: Controller, b: Controller) -> bool:
        return bool(a.in_range and b.in_range)

    # The stock link stamps LE data with the sender's random address, so a central that connected from its
    # public one (BlueZ does) sends into the void. A connection's own address is the right stamp.
    def send_acl_data(
        self, sender_controller: Any, destination_address: Any, transport: Any, data: bytes
    ) -> None:
        if transport != PhysicalTransport.LE:
            super().send_acl_data(sender_controller, destination_address, transport, data)
            return
        connection = sender_controller.le_connections.get(destination_address)
        receiver = self.find_le_controller(destination_address)
        if connection and receiver and self.reachable(sender_controller, receiver):
            asyncio.get_running_loop().call_soon(
                receiver.on_link_acl_data, connection.self_address, transport, data
            )

    # The stock link hands every advertisement to everybody; with a dozen controllers that is the largest cost
    # of the whole air, so only those who listen (or want to connect) are called.
    def send_advertising_pdu(self, sender_controller: Any, packet: Any) -> None:
        loop = asyncio.get_running_loop()
        for controller in self.controllers:
            if controller is sender_controller or not self.reachable(sender_controller, controller):
                continue
            if isinstance(packet, ll.ConnectInd) or controller.listening:
                loop.call_soon(controller.on_ll_advertising_pdu, packet)

    # The stock link raises when the receiver is gone, which would end the sender's socket too.
    def send_ll_control_pdu(self, sender_address: Any, receiver_address: Any, packet: Any) -> None:
        sender = self.find_le_controller(sender_address)
        receiver = self.find_le_controller(receiver_address)
        if receiver is None or (sender is not None and not self.reachable(sender, receiver)):
            return
        asyncio.get_running_loop().call_soon(receiver.on_ll_control_pdu, sender_address, packet)

    def on_address_changed(self, controller: Any) -> None:
        """One address has one owner: a restarted sensor takes it over from the socket it left behind."""
        for other in list(self.controllers):
            if other is not controller and other.random_address == controller.random_address:
                if str(controller.random_address).startswith("00:00:00:00:00:00"):
                    continue
                log.info("air.address_taken_over", address=str(controller.random_address))
                other.retire()

    def lose_links(self, controller: Any) -> None:
        """End all links of ``controller`` on both sides, as a supervision timeout does."""
        for connection in list(controller.le_connections.values()):
            peer = self.find_le_controller(connection.peer_address)
            if peer is not None and (mirror := peer.le_connections.get(connection.self_address)):
                peer.on_le_disconnected(mirror, LINK_LOST)
            controller.on_le_disconnected(connection, LINK_LOST)


class _Advertiser(LegacyAdvertiser):
    """The stock advertiser reads the interval as milliseconds; HCI counts 0.625 ms."""

    def _on_timer_fired(self) -> None:
        self.send_advertising_data()
        self.timer_handle = asyncio.get_running_loop().call_later(
            max(self.advertising_interval_min * 0.000625, 0.02), self._on_timer_fired
        )


class AirController(Controller):
    """bumble's software controller with the gaps closed that a hub runs into."""

    # With LL_PRIVACY or extended advertising offered, Linux 6.1 waits for an Enhanced Connection Complete that
    # this controller never sends. Legacy advertising does everything we need.
    le_features = Controller.le_features & ~(
        _MASK.LL_PRIVACY | _MASK.LE_EXTENDED_ADVERTISING | _MASK.LE_PERIODIC_ADVERTISING
    )
    # 27 would cut every PDU into pieces at 27 bytes: ten times the events for the same data.
    le_acl_data_packet_length = 251

    def __init__(self, name: str, **kwargs: Any) -> None:
        self.in_range = True
        self.pending_le_connection: Any = None
        super().__init__(name, **kwargs)
        self.le_legacy_advertiser = _Advertiser(self)

    @property
    def addresses(self) -> tuple[str, str]:
        """Random and public address as text, without the type suffix."""
        return str(self.random_address).split("/")[0], str(self.public_address).split("/")[0]

    @property
    def listening(self) -> bool:
        return bool(self.le_scan_enable or self.pending_le_connection)

    def retire(self) -> None:
        """Take this controller out of the air; its peers see the link time out."""
        self.le_legacy_advertiser.stop()
        self.link.lose_links(self)
        with contextlib.suppress(KeyError):
            self.link.remove_controller(self)

    # -- scanning and connecting ----------------------------------------------------------------------

    def on_advertising_pdu(self, pdu: Any) -> None:
        if not isinstance(pdu, ll.AdvInd):
            super().on_advertising_pdu(pdu)
            return
        sender = self.link.find_le_controller(pdu.advertiser_address)
        if sender is None:
            return
        if self.le_scan_enable:
            event_type = hci.HCI_LE_Advertising_Report_Event.EventType
            self._report(event_type.ADV_IND, pdu.advertiser_address, pdu.data, sender)
            if self.le_scan_type:  # active: the advertiser answers the scan request
                response = sender.le_legacy_advertiser.scan_response_data
                self._report(event_type.SCAN_RSP, pdu.advertiser_address, response, sender)
        pending = self.pending_le_connection
        # The advertiser may have taken another central since it sent this; then we go on waiting.
        if pending and pending.peer_address == pdu.advertiser_address and sender.le_legacy_advertiser.enabled:
            self.create_le_connection(pdu.advertiser_address)

    def _report(self, event_type: Any, address: Any, data: bytes, sender: Any) -> None:
        report = hci.HCI_LE_Advertising_Report_Event.Report(
            event_type=event_type,
            address_type=address.address_type,
            address=address,
            data=data,
            rssi=self.link.rssi(sender, self),
        )
        self.send_hci_packet(hci.HCI_LE_Advertising_Report_Event([report]))

    def on_hci_le_create_connection_cancel_command(self, _command: Any) -> Any:
        """The stock handler does nothing, so after one timeout every later connect is refused."""
        pending, self.pending_le_connection = self.pending_le_connection, None
        if pending is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        failure = hci.HCI_LE_Connection_Complete_Event(
            status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
            connection_handle=0,
            role=hci.Role.CENTRAL,
            peer_address_type=pending.peer_address.address_type,
            peer_address=pending.peer_address,
            connection_interval=0,
            peripheral_latency=0,
            supervision_timeout=0,
            central_clock_accuracy=0,
        )
        # After the Command Complete that our caller is about to send
        asyncio.get_running_loop().call_soon(self.send_hci_packet, failure)
        return hci.HCI_StatusReturnParameters(_OK)

    def on_le_disconnected(self, connection: Connection, reason: int) -> None:
        """Both ends may hang up at once; the second report of the same link is dropped."""
        if self.le_connections.get(connection.peer_address) is connection:
            super().on_le_disconnected(connection, reason)

    def on_ll_control_pdu(self, sender_address: Any, packet: Any) -> None:
        if sender_address in self.le_connections:  # else it crossed with a link loss
            super().on_ll_control_pdu(sender_address, packet)

    def on_link_acl_data(self, sender_address: Any, transport: Any, data: bytes) -> None:
        if transport != PhysicalTransport.LE or sender_address in self.le_connections:
            super().on_link_acl_data(sender_address, transport, data)

    # -- housekeeping ---------------------------------------------------------------------------------

    def on_hci_reset_command(self, _command: Any) -> Any:
        """The stock handler keeps links, scans and advertisements of the host that just restarted."""
        self.link.lose_links(self)
        self.le_legacy_advertiser.stop()
        self.le_legacy_advertiser = _Advertiser(self)
        for advertising_set in self.advertising_sets.values():
            advertising_set.stop()
        self.advertising_sets.clear()
        self.pending_le_connection = None
        self.le_scan_enable = False
        self._random_address = hci.Address("00:00:00:00:00:00")
        return hci.HCI_StatusReturnParameters(_OK)

    def on_hci_read_rssi_command(self, command: Any) -> Any:
        connection = self.find_le_connection_by_handle(command.handle)
        peer = self.link.find_le_controller(connection.peer_address) if connection else None
        if peer is None:
            return hci.HCI_Read_RSSI_ReturnParameters(
                status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR, handle=command.handle, rssi=127
            )
        return hci.HCI_Read_RSSI_ReturnParameters(
            status=_OK, handle=command.handle, rssi=self.link.rssi(peer, self)
        )

    def on_hci_air_fault_command(self, command: AirFaultCommand) -> Any:
        """A sensor asks for a fault of its own link (vendor command; nobody else sends it)."""
        match command.action:
            case FAULT.DROP:
                self.link.lose_links(self)
            case FAULT.OUT_OF_RANGE:
                self.in_range = False
                self.link.lose_links(self)
            case FAULT.IN_RANGE:
                self.in_range = True
            case FAULT.RSSI:
                self.link.set_rssi(command.rssi, self.addresses[0])
            case _:
                return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.INVALID_COMMAND_PARAMETERS_ERROR)
        return hci.HCI_StatusReturnParameters(_OK)


class _Plug(asyncio.Protocol):
    """One accepted socket: bytes in through the H4 parser, packets out."""

    def __init__(self, ether: Ether, number: int, public: bool) -> None:
        self._ether = ether
        self._number = number
        # Without a public address bumble hosts take their static random one as identity, which, unlike a
        # number of this listener, is the same after a reconnection. BlueZ insists on a public one.
        self._address = hci.Address.ANY
        if public:
            tail = f"{number >> 8 & 0xFF:02X}:{number & 0xFF:02X}"
            self._address = hci.Address(f"F0:F1:F2:F3:{tail}", hci.Address.PUBLIC_DEVICE_ADDRESS)
        self._parser = PacketParser()
        self._transport: asyncio.WriteTransport | None = None
        self._controller: AirController | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._controller = AirController(
            f"plug{self._number}", host_sink=self, link=self._ether, public_address=self._address
        )
        self._parser.set_packet_sink(self._controller)
        log.debug("air.plugged", plug=self._number)

    def on_packet(self, packet: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(packet)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except Exception as err:  # one host's nonsense must not silence the others
            log.warning("air.bad_host", plug=self._number, error=type(err).__name__)
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._controller is not None:
            self._controller.retire()
            self._controller = None
        log.debug("air.unplugged", plug=self._number)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class AirServer:
    """The listener. ``async with AirServer(port=0) as air: air.port``."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        ether: Ether | None = None,
        public_addresses: bool = False,
    ) -> None:
        self.ether = ether or Ether()
        self._host = host
        self._public_addresses = public_addresses
        self.port = port
        self._server: asyncio.Server | None = None
        self._plugs: list[_Plug] = []
        self._numbers: Iterator[int] = iter(range(1, 1 << 16))

    def _plug(self) -> _Plug:
        plug = _Plug(self.ether, next(self._numbers), self._public_addresses)
        self._plugs = [p for p in self._plugs if p._transport is not None]
        self._plugs.append(plug)
        return plug

    async def __aenter__(self) -> AirServer:
        try:
            self._server = await asyncio.get_running_loop().create_server(self._plug, self._host, self.port)
        except (OSError, OverflowError) as err:
            reason = getattr(err, "strerror", None) or "the port cannot be used"
            raise SimError(
                f"cannot listen: {reason}",
                where=f"{self._host}:{self.port}",
                mend="choose another --port, or 0 for a free one",
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for plug in self._plugs:
            plug.close()
        await asyncio.sleep(0)  # let the sockets report their loss, so no controller outlives the server


async def _run(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with AirServer(args.host, args.port, public_addresses=args.public) as air:
        if args.port_file:
            try:
                partial = args.port_file.with_name(args.port_file.name + ".part")
                partial.write_text(f"{air.port}\n")
                partial.replace(args.port_file)  # a reader sees the whole number or no file
            except OSError as err:
                raise SimError(f"cannot write: {err.strerror}", where=str(args.port_file)) from None
        sys.stdout.write(f"air ready port={air.port}\n")
        sys.stdout.flush()
        if args.ready_fd is not None:
            try:
                os.write(args.ready_fd, f"{air.port}\n".encode())
                os.close(args.ready_fd)
            except OSError as err:
                raise SimError(f"cannot write: {err.strerror}", where=f"--ready-fd {args.ready_fd}") from None
        await stop.wait()


def main(argv: list[str] | None = None) -> int:
    """Entry of ``python -m firmware_sim.air``; returns the exit code."""
    from firmware_sim.console import quiet_logging

    parser = argparse.ArgumentParser(prog="python -m firmware_sim.air", description="The virtual air.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (loopback)")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free port")
    parser.add_argument("--port-file", type=Path, help="file that receives the port number")
    parser.add_argument("--ready-fd", type=int, help="descriptor that receives the port number")
    parser.add_argument("--public", action="store_true", help="give each socket a public address (for BlueZ)")
    args = parser.parse_args(argv)
    quiet_logging()
    try:
        asyncio.run(_run(args))
    except SimError as err:
        sys.stderr.write(f"air: {err}\n")
        return err.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
