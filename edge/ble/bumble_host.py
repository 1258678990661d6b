"""One bumble host on one HCI transport: scan, initiate, encrypt, pair. Knows no bleak.

Measured on bumble 0.0.236 and worked around here:
- its own connect timeout leaves the controller initiating, so we cancel and wait for the verdict;
- a known resolving key makes ``connect_le`` scan first, without a timeout; we dial what we have seen;
- a lost transport tells no connection that it is gone; we do;
- passkey 000000 trips an ``assert self.passkey`` in its SMP; see ``_Passkey``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

from bumble import hci, smp
from bumble.core import ProtocolError
from bumble.device import Device, DeviceConfiguration
from bumble.host import Host
from bumble.keys import KeyStore, PairingKeys
from bumble.pairing import PairingConfig, PairingDelegate
from bumble.transport import open_transport

from edge.ble.bonds import Bonds
from edge.ble.faults import BleakPairingError, Refusal

# At DEBUG bumble logs link keys and readings; above it, a traceback for each packet a hostile peer garbles.
# What matters of either comes out of our calls as an error.
logging.getLogger("bumble").setLevel(logging.CRITICAL)

OPEN_S: Final = 10.0  # power-on is about 25 HCI commands; a controller that needs longer is not there
CANCEL_S: Final = 2.0  # LE Create Connection Cancel answers within one HCI round trip
ENCRYPT_S: Final = 10.0  # a few connection intervals; the link layer gives up after 40 s
PAIR_S: Final = 30.0  # the SMP transaction timeout (Core 5.4, Vol 3, Part H, 3.4)
DISCONNECT_S: Final = 3.0
LOST_REASON: Final = 0x08  # connection timeout: what the peers of a vanished controller see
SCAN_INTERVAL_MS: Final = 60.0
SCAN_WINDOW_MS: Final = 30.0  # half duty: the other half belongs to the connections

_REFUSALS: Final = {
    smp.ErrorCode.PASSKEY_ENTRY_FAILED: Refusal.WRONG_PASSKEY,
    smp.ErrorCode.CONFIRM_VALUE_FAILED: Refusal.WRONG_PASSKEY,
    smp.ErrorCode.DHKEY_CHECK_FAILED: Refusal.WRONG_PASSKEY,
    smp.ErrorCode.AUTHENTICATION_REQUIREMENTS: Refusal.PASSKEY_NEEDED,
    smp.ErrorCode.PAIRING_NOT_SUPPORTED: Refusal.NOT_SUPPORTED,
    smp.ErrorCode.REPEATED_ATTEMPTS: Refusal.REPEATED,
}
# HCI error codes by which a peer says that it does not have our key (Core 5.4, Vol 1, Part F).
BOND_LOST_CODES: Final = frozenset({0x05, 0x06, 0x3D})


class LinkGone(Exception):
    """The connection ended under an operation. bumble says so by CancelledError, which is not for us."""


async def unless_gone(operation: Any, timeout_s: float) -> Any:
    """Await a bumble coroutine. LinkGone when bumble cancelled it, TimeoutError when it took too long.

    A CancelledError goes on only when this very task is being cancelled.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await operation
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise LinkGone from None


class _Passkey(int):
    """An int that is true even when it is 0."""

    def __bool__(self) -> bool:
        return True


class _Delegate(PairingDelegate):
    """The hub's side of pairing: a keyboard when a passkey is configured, nothing otherwise."""

    def __init__(self, passkey: int | None) -> None:
        none, keyboard = PairingDelegate.NO_OUTPUT_NO_INPUT, PairingDelegate.KEYBOARD_INPUT_ONLY
        super().__init__(io_capability=none if passkey is None else keyboard)
        self.passkey = passkey
        self.downgraded = False

    async def accept(self) -> bool:
        return False  # asked only when the peripheral itself begins to pair, which is not its role

    async def confirm(self, auto: bool = False) -> bool:
        self.downgraded = self.passkey is not None
        return not self.downgraded

    async def compare_numbers(self, number: int, digits: int) -> bool:
        return False  # nobody looks

    async def get_number(self) -> int | None:
        return None if self.passkey is None else _Passkey(self.passkey)


class _Keys(KeyStore):
    """The bonds as bumble reads them. It never writes: ``pair`` judges new keys first and stores them."""

    def __init__(self, bonds: Bonds) -> None:
        self._bonds = bonds

    async def get(self, name: str) -> PairingKeys | None:
        record = self._bonds.get(name)
        return None if record is None else PairingKeys.from_dict(record)

    async def get_all(self) -> list[tuple[str, PairingKeys]]:
        return [(name, PairingKeys.from_dict(record)) for name, record in self._bonds.all().items()]


class _HubDevice(Device):
    """Dials the address it has seen, never the identity behind it (that would start a scan)."""

    async def refresh_resolving_list(self) -> None:
        await super().refresh_resolving_list()
        self.address_resolver.can_resolve_to = lambda address: False


class BumbleHost:
    """Lives from ``open`` to ``close``; ``lost`` is set when the transport has gone under it."""

    def __init__(self, transport: str, bonds: Bonds) -> None:
        self._spec, self._bonds = transport, bonds
        self.lost = asyncio.Event()
        self._transport: Any = None
        self._device: Any = None
        self._initiating = asyncio.Lock()
        self._delegates: dict[int, _Delegate] = {}
        self._distrusted: set[str] = set()
        self._seen: dict[str, Any] = {}
        self._works: set[asyncio.Task[Any]] = set()
        self._listeners: list[Callable[[str, Any], None]] = []

    async def open(self) -> None:
        """Open the transport and power the controller on. Some Exception when there is none."""
        await self._bonds.open()
        async with asyncio.timeout(OPEN_S):
            self._transport = await open_transport(self._spec)
            host = Host(self._transport.source, self._transport.sink)
            config = DeviceConfiguration(
                name="hometwin",
                address=hci.Address(self._bonds.own_address),
                irk=self._bonds.own_irk,
                gatt_service_enabled=False,
            )
            self._device = _HubDevice(config=config, host=host)
            self._device.keystore = _Keys(self._bonds)
            self._device.pairing_config_factory = self._pairing_config
            self._device.on(Device.EVENT_ADVERTISEMENT, self._on_advertisement)
            self._transport.source.terminated.add_done_callback(lambda _: self._on_lost())
            await unless_gone(self._device.power_on(), OPEN_S)

    async def close(self) -> None:
        """Disconnect everything and leave the transport. Never raises for a radio that is already gone."""
        for work in list(self._works):
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)
        if self._device is not None and not self.lost.is_set():
            await asyncio.gather(*(self.disconnect(link) for link in list(self._device.connections.values())))
            with contextlib.suppress(Exception):
                async with asyncio.timeout(DISCONNECT_S):
                    await self._device.power_off()
        if self._transport is not None:
            await self._transport.close()
        self._on_lost()

    def _on_lost(self) -> None:
        if self.lost.is_set():
            return
        self.lost.set()
        device = self._device
        for handle in list(device.connections) if device is not None else ():
            with contextlib.suppress(Exception):
                device.on_disconnection(handle, LOST_REASON)

    # Scanning

    async def scan(self, listener: Callable[[str, Any], None]) -> None:
        """Report advertisements as (identity address, bumble Advertisement) until ``stop_scan``."""
        self._listeners.append(listener)
        if len(self._listeners) == 1:
            await self._command(
                self._device.start_scanning(
                    active=True,
                    filter_duplicates=False,
                    scan_interval=SCAN_INTERVAL_MS,
                    scan_window=SCAN_WINDOW_MS,
                    scanning_phys=(hci.HCI_LE_1M_PHY,),
                )
            )

    async def stop_scan(self, listener: Callable[[str, Any], None]) -> None:
        if listener not in self._listeners:
            return
        self._listeners.remove(listener)
        if not self._listeners and not self.lost.is_set():
            await self._command(self._device.stop_scanning())

    def _on_advertisement(self, advertisement: Any) -> None:
        on_air = identity = advertisement.address
        if on_air.is_resolvable and self._device.address_resolver is not None:
            identity = self._device.address_resolver.resolve(on_air) or on_air
        name = identity.to_string(False)
        if name not in self._seen and len(self._seen) >= 256:
            self._seen.clear()  # a busy street, or somebody making addresses up: the next report refills it
        self._seen[name] = on_air
        for listener in list(self._listeners):
            listener(name, advertisement)

    # Connections

    async def initiate(self, address: str, timeout_s: float) -> Any:
        """A connection to ``address``. TimeoutError, LinkGone, or a ProtocolError of bumble.

        When the caller is cancelled the controller is still called off, in the background.
        """
        give_up = asyncio.Event()
        work = asyncio.create_task(self._initiate(address, timeout_s, give_up))
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # read, wanted or not
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not work.done():
                give_up.set()
                raise
            if not work.cancelled() and work.exception() is None:
                await self.disconnect(work.result())
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise LinkGone from None

    async def _initiate(self, address: str, timeout_s: float, give_up: asyncio.Event) -> Any:
        async with self._initiating:
            if give_up.is_set() or self.lost.is_set():
                raise LinkGone
            await self._drop_orphans()
            dialled = self._seen.get(address) or _guess_address(address)
            dialling = asyncio.ensure_future(self._device.connect_le(dialled, timeout=None))
            stopped = asyncio.ensure_future(give_up.wait())
            try:
                await asyncio.wait(
                    {dialling, stopped}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
                if not dialling.done():
                    await self._call_off(dialling)
            finally:
                stopped.cancel()
                dialling.cancel()
            if dialling.cancelled() or give_up.is_set():
                if not dialling.cancelled() and dialling.exception() is None:
                    await self.disconnect(dialling.result())
                if give_up.is_set() or self.lost.is_set():
                    raise LinkGone
                raise TimeoutError
            return dialling.result()

    async def _call_off(self, dialling: asyncio.Future[Any]) -> None:
        """Tell the controller to stop initiating and wait for its verdict; leave ``dialling`` cancelled."""
        with contextlib.suppress(Exception):
            await self._command(self._device.send_sync_command(hci.HCI_LE_Create_Connection_Cancel_Command()))
        await asyncio.wait({dialling}, timeout=CANCEL_S)
        if dialling.done() and not dialling.cancelled() and dialling.exception() is None:
            return  # it connected at the last moment
        dialling.cancel()
        await asyncio.wait({dialling})
        if not dialling.cancelled():
            dialling.exception()  # the controller's "cancelled" verdict: known, and read here
            raise TimeoutError

    async def _drop_orphans(self) -> None:
        """Disconnect what came up after we had stopped waiting for it."""
        host = self._device.host
        for handle in set(host.connections) - set(self._device.connections):
            with contextlib.suppress(Exception):
                await self._command(
                    self._device.send_async_command(
                        hci.HCI_Disconnect_Command(connection_handle=handle, reason=0x13)
                    )
                )

    async def disconnect(self, connection: Any) -> None:
        """End a connection; quiet when it has already ended."""
        if connection.handle not in self._device.connections or self.lost.is_set():
            return
        with contextlib.suppress(LinkGone, TimeoutError, ProtocolError):
            await unless_gone(connection.disconnect(), DISCONNECT_S)
        if self._device.connections.get(connection.handle) is connection:
            with contextlib.suppress(Exception):  # the controller is mute: at least we know it is over
                self._device.on_disconnection(connection.handle, LOST_REASON)

    async def _command(self, operation: Any) -> Any:
        return await unless_gone(operation, OPEN_S)

    # Security

    def bond_of(self, connection: Any) -> bool | None:
        """None without a good bond; otherwise whether a passkey was checked when it was made."""
        name = str(connection.peer_address)
        record = None if name in self._distrusted else self._bonds.get(name)
        return None if record is None else bool((record.get("ltk") or {}).get("authenticated"))

    def distrust(self, connection: Any) -> None:
        """Use this bond no more, but keep it until a new one has replaced it: the peer may be an impostor."""
        self._distrusted.add(str(connection.peer_address))

    async def forget(self, address: str) -> None:
        await self._bonds.forget(address, f"{address}/P")

    async def encrypt(self, connection: Any) -> None:
        """Encrypt with the stored bond. ProtocolError with an HCI code when the peer has no such key."""
        await unless_gone(self._device.encrypt(connection), ENCRYPT_S)

    async def pair(self, connection: Any, passkey: int | None) -> None:
        """Make a bond and store it. BleakPairingError, LinkGone or TimeoutError; nothing is stored then."""
        # Filed under the address we dialled: the identity a peer claims could be another device's.
        name = str(connection.peer_address)
        delegate = self._delegates[connection.handle] = _Delegate(passkey)
        made: list[PairingKeys] = []
        connection.once(connection.EVENT_PAIRING, made.append)
        try:
            await unless_gone(self._device.pair(connection), PAIR_S)
        except ProtocolError as error:
            if delegate.downgraded:
                raise BleakPairingError(Refusal.DOWNGRADED) from None
            refusal = _REFUSALS.get(error.error_code, Refusal.REFUSED)
            raise BleakPairingError(refusal) from None
        finally:
            self._delegates.pop(connection.handle, None)
            with contextlib.suppress(KeyError):
                connection.remove_listener(connection.EVENT_PAIRING, made.append)
        if not made or made[0].ltk is None:
            raise BleakPairingError(Refusal.LEGACY)
        if passkey is not None and not made[0].ltk.authenticated:
            raise BleakPairingError(Refusal.DOWNGRADED)
        await self._bonds.put({name: made[0].to_dict()})
        self._distrusted.discard(name)
        await self._device.refresh_resolving_list()

    def _pairing_config(self, connection: Any) -> Any:
        delegate = self._delegates.get(connection.handle) or _Delegate(None)
        return PairingConfig(
            sc=True,
            mitm=delegate.passkey is not None,
            bonding=True,
            delegate=delegate,
            # The default is the controller's public address, which another dongle would not have.
            identity_address_type=PairingConfig.AddressType.RANDOM,
        )


def _guess_address(address: str) -> Any:
    """An address never seen on air: static random when its two top bits are ones, else public."""
    static = int(address[:2], 16) >= 0xC0
    return hci.Address(address, hci.AddressType.RANDOM_DEVICE if static else hci.AddressType.PUBLIC_DEVICE)
