"""The hub's end of the wire: drains the outbox, takes what the cloud signed, and survives everything.

An outbox number is done only after the cloud's acknowledgement, which the cloud sends after its commit. So a
lost message, a lost acknowledgement, a killed broker, hub or cloud all end the same way: it is sent again,
and the cloud drops the repetition.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from core.clock import Clock
from core.errors import DecodeError, ReplayedError, StoreError, WireError
from core.messages import Ack, Downlink, Returned
from sync.broker_config import command_topic, down_topic, up_topic
from sync.commands import CommandGate, OnCommand
from sync.envelope import DownlinkGate, Hello, open_down_with_header, seal_hello, seal_up_encoded
from sync.faults import BrokerFault, Patience
from sync.keyfiles import read_envelope_key, read_verify_key
from sync.mqtt import BrokerAddress, Connection, Incoming, connect
from sync.session import SessionTable

log = structlog.get_logger()

# What is on its way is held in memory, so the window is bounded in bytes as well as in messages.
MAX_IN_FLIGHT_BYTES: Final = 4 << 20
# A flood of repeated downlinks is not worth as many answers.
HELLO_PAUSE_S: Final = 1.0
# Said now and then anyway, in case the broker dropped something for us while we were connected.
HELLO_EVERY_S: Final = 900.0


class Outbox(Protocol):
    """What the store offers for sending. Synchronous; called through ``in_thread``."""

    def pending(self, limit: int) -> Sequence[tuple[int, bytes]]:
        """The first ``limit`` messages that are not done, rising by number."""
        ...

    def done(self, numbers: Sequence[int]) -> None:
        """The cloud has them durably: they may be forgotten."""
        ...


InThread = Callable[..., Awaitable[Any]]  # runs a blocking call off the event loop, as asyncio.to_thread does
OnDown = Callable[[Downlink], Awaitable[None]]


class HubLink:
    """One hub's link. ``bind`` first, then ``run`` as a task; ``wake`` when the outbox has news."""

    def __init__(
        self,
        hub_id: str,
        address: BrokerAddress,
        envelope_key: bytes,
        cloud_key: Ed25519PublicKey,
        clock: Clock,
        *,
        allow_clear_commands: bool = False,
        counters: Counter[str] | None = None,
    ) -> None:
        self.hub_id = hub_id
        self.connected = False
        self.problem = ""  # why it is not connected, in one line; empty when all is well
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.commands = CommandGate(hub_id, envelope_key, clock, allow_clear=allow_clear_commands)
        self._address = address
        self._key = envelope_key
        self._cloud_key = cloud_key
        self._clock = clock
        self._table = SessionTable()
        self._session = secrets.randbits(63)
        self._payloads: dict[int, bytes] = {}  # of the numbers in flight
        self._gate = DownlinkGate(0)
        self._wakened = asyncio.Event()
        self._outbox_has_more = True
        self._called_us = 0  # when the cloud last called on us to begin again
        self._hello_s = -math.inf
        self._stood_s = math.inf  # when the connection stood; infinite before
        self._outbox: Outbox | None = None
        self._in_thread: InThread = asyncio.to_thread
        self._on_down: OnDown | None = None
        self._on_command: OnCommand | None = None

    def bind(
        self,
        *,
        outbox: Outbox,
        on_down: OnDown,
        on_command: OnCommand | None = None,
        last_number: int = 0,
        in_thread: InThread | None = None,
        counters: Counter[str] | None = None,
        seen_commands: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Join the link to the hub's parts, once, before ``run``.

        ``on_down`` returns once the message is durable; ``last_number`` is the greatest downlink number that
        is. ``on_command`` gets the request of a hand entry and its id (sync.commands.OnCommand). After a
        StoreError of either the message comes again; any other exception is counted, and the message done with.
        ``in_thread`` runs the outbox's calls, normally on the store's own thread.
        """
        self._outbox, self._on_down, self._on_command = outbox, on_down, on_command
        self._gate = DownlinkGate(last_number)
        self.commands.remember(seen_commands)
        if in_thread is not None:
            self._in_thread = in_thread
        if counters is not None:
            self.counters = counters

    @property
    def last_number(self) -> int:
        """The greatest downlink number accepted."""
        return self._gate.last_number

    def wake(self) -> None:
        """The outbox may have something new."""
        self._outbox_has_more = True
        self._wakened.set()

    async def run(self) -> None:
        """Until cancelled. Connects, drains, listens; after any failure waits and begins again.

        Only what the hub itself must mend gets out: StoreError of the outbox, ConfigError of a lost file.
        """
        patience = Patience()
        while True:
            self._stood_s = math.inf
            try:
                async with connect(self._address, self.hub_id) as connection:
                    await connection.subscribe(down_topic(self.hub_id))
                    await connection.subscribe(command_topic(self.hub_id))
                    await self._serve(connection)
            except BrokerFault as err:
                fault, wait_s = patience.after(err, max(0.0, time.monotonic() - self._stood_s))
                self._note(fault)
                await asyncio.sleep(wait_s)

    def _note(self, err: BrokerFault) -> None:
        self.counters[f"sync.{err.fault.value}"] += 1
        if self.problem != str(err):  # a day offline is one line in the log
            self.problem = str(err)
            log.warning("sync.disconnected", fault=err.fault.value, reason=str(err))

    async def _serve(self, connection: Connection) -> None:
        self._stood_s = time.monotonic()
        self._table.on_connected(self._stood_s)
        self.connected, self.problem = True, ""
        self._outbox_has_more = (
            True  # a reading of the outbox that the last connection began may be lost with it
        )
        self.counters["sync.connected"] += 1
        log.info("sync.connected", hub=self.hub_id, in_flight=len(self._table.in_flight))
        self._say_hello(connection)
        sending = asyncio.create_task(self._send_all(connection), name="sync-send")
        receiving = asyncio.create_task(self._receive_all(connection), name="sync-receive")
        try:
            done, _ = await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what ended it: BrokerFault, or StoreError of the outbox
        finally:
            self.connected = False
            self._table.on_lost()
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def _send_all(self, connection: Connection) -> None:
        while True:
            self._wakened.clear()
            await self._fill()
            for send in self._table.due(time.monotonic()):
                data = seal_up_encoded(
                    self._key,
                    self.hub_id,
                    send.number,
                    self._clock.now_us(),
                    self._payloads[send.number],
                    after=send.after,
                    session=self._session,
                )
                connection.publish_soon(up_topic(self.hub_id), data)
                self.counters["uplink.sent"] += 1
            self.counters["uplink.resent"] = self._table.resends
            if time.monotonic() - self._hello_s >= HELLO_EVERY_S:
                self._say_hello(connection)
            wait_s = min(self._table.deadline_s, self._hello_s + HELLO_EVERY_S) - time.monotonic()
            # Not asyncio.wait_for: in Python 3.11 it swallows a cancellation that meets the event it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wakened.wait()

    async def _fill(self) -> None:
        """Take from the outbox what fits into the window; not for single places, that would read all anew."""
        table = self._table
        if self._outbox is None or not self._outbox_has_more or table.room < table.window // 4:
            return
        self._outbox_has_more = False  # before the call: a wake() during it must not be lost
        rows = await self._in_thread(self._outbox.pending, table.window)
        used = sum(map(len, self._payloads.values()))
        fitting: list[int] = []
        for number, payload in rows:
            if number in self._payloads:
                continue
            used += len(payload)
            if used > MAX_IN_FLIGHT_BYTES and (fitting or self._payloads):
                break
            fitting.append(number)
        payloads = dict(rows)
        self._payloads.update((number, payloads[number]) for number in table.offer(fitting))
        if len(rows) >= table.window or used > MAX_IN_FLIGHT_BYTES:
            self._outbox_has_more = True

    async def _receive_all(self, connection: Connection) -> None:
        while True:
            message = await connection.next_message()
            try:
                if message.topic == command_topic(self.hub_id):
                    await self._take_command(message.payload)
                else:
                    await self._take_down(connection, message)
            except ReplayedError as err:
                self.counters["downlink.replayed"] += 1
                log.info("downlink.refused", reason=err.what)
                if time.monotonic() - self._hello_s > HELLO_PAUSE_S:
                    self._say_hello(connection)  # the cloud does not know yet that we have it
            except (WireError, DecodeError) as err:
                self.counters["downlink.forged" if isinstance(err, WireError) else "downlink.unusable"] += 1
                log.warning("downlink.refused", reason=err.what)
            except StoreError:
                raise
            except Exception as err:
                self._failed("command" if message.topic == command_topic(self.hub_id) else "down", err)
            connection.finished(message)

    async def _take_down(self, connection: Connection, message: Incoming) -> None:
        header, down = open_down_with_header(self._key, self._cloud_key, self.hub_id, message.payload)
        if isinstance(down.body, Ack):
            await self._take_ack(header.session, down.issued_us, down.body)
            return
        # An answer stands outside the numbering: whoever asked knows which question is open, so each counts once.
        is_answer = isinstance(down.body, Returned)
        if not is_answer:
            self._gate.check(down, self._clock.now_us())
        if self._on_down is not None:
            try:
                await self._on_down(down)
            except StoreError:
                raise
            except Exception as err:
                # Not accepted, so the cloud may send it again at our next word; but it blocks nothing.
                self._failed("down", err)
                return
        if is_answer:
            return
        self._gate.accept(down)
        self.counters["downlink.accepted"] += 1
        self._say_hello(connection)

    async def _take_ack(self, session: int, issued_us: int, ack: Ack) -> None:
        if session != self._session and (session or ack.numbers):
            # Of an earlier life of this hub. Numbers may have been given anew since; they will be told again.
            self.counters["ack.other_session"] += 1
            return
        if not ack.numbers:
            # "Begin again" costs a whole window, so each such call counts once: a broker could repeat it for ever.
            if issued_us <= self._called_us:
                self.counters["ack.replayed"] += 1
                return
            self._called_us = issued_us
        done = self._table.on_ack(ack.numbers, time.monotonic())
        if done and self._outbox is not None:
            # The table has let go of them, so the outbox must too, even when the connection ends meanwhile:
            # a number that only the outbox held would never be sent, nor forgotten, before the next start.
            forgetting = asyncio.ensure_future(self._in_thread(self._outbox.done, list(done)))
            try:
                await asyncio.shield(forgetting)
            except asyncio.CancelledError:
                forgetting.add_done_callback(lambda _: self.wake())  # till then they may fill what we read
                raise
            finally:
                for number in done:
                    self._payloads.pop(number, None)
            self.counters["uplink.acknowledged"] += len(done)
        if not ack.numbers:
            self.counters["uplink.rewound"] += 1
        self._wakened.set()

    async def _take_command(self, payload: bytes) -> None:
        taken = self.commands.open(payload, self.counters)
        if taken is None or self._on_command is None:
            return
        try:
            await self._on_command(taken.request, taken.command_id)
        except Exception as err:
            if isinstance(err, StoreError):
                self.commands.forget(taken.command_id)  # the broker brings it again
                raise
            self._failed("command", err)
        except BaseException:
            self.commands.forget(taken.command_id)
            raise

    def _failed(self, what: str, err: Exception) -> None:
        """Whoever acts on a message stumbled over it. The error's text may quote it, so only its type is told."""
        self.counters[f"{what}.failed"] += 1
        log.error("sync.message_failed", what=what, error=type(err).__name__)

    def _say_hello(self, connection: Connection) -> None:
        self._hello_s = time.monotonic()
        data = seal_hello(self._key, self.hub_id, Hello(self._gate.last_number))
        connection.publish_soon(up_topic(self.hub_id), data)


def link_from_files(
    hub_id: str,
    host: str,
    port: int,
    ca: Path,
    cert: Path,
    key: Path,
    envelope_key: Path,
    cloud_key: Path,
    clock: Clock,
    *,
    allow_clear_commands: bool = False,
) -> HubLink:
    """A link from the files that provision made for this hub; ConfigError names the one that is wrong."""
    address = BrokerAddress(host, port, ca, cert, key)
    address.tls_context()
    return HubLink(
        hub_id,
        address,
        read_envelope_key(envelope_key),
        read_verify_key(cloud_key),
        clock,
        allow_clear_commands=allow_clear_commands,
    )
