"""The cloud's end of the wire: opens what hubs send, hands it to be committed, acknowledges after that.

What is not authentic is counted, logged without content and never acknowledged. What is authentic reaches
``commit`` in the order of arrival, in groups: one transaction and one acknowledgement per hub for all that has
come in meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Final

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.clock import Clock
from core.errors import DecodeError, EnvelopeError, HometwinError
from core.messages import Ack, Downlink, Returned, Uplink, decode
from core.units import US_PER_DAY
from sync.broker_config import down_topic, up_topic
from sync.envelope import HELLO, UP, Hello, Keys, open_authentic, seal_down, uplink_of
from sync.faults import BrokerFault, Fault, Patience
from sync.mqtt import BrokerAddress, Connection, Incoming, connect

log = structlog.get_logger()

CLIENT_ID: Final = "hometwin-cloud"
# A group is what one transaction takes: large enough that a disk flush per group costs little, small enough
# that an acknowledgement comes well within the hub's time-out.
GROUP_MESSAGES: Final = 64
GROUP_BYTES: Final = 4 << 20
# An acknowledgement that a hub has not fetched by then is told again when the hub repeats its message.
ACK_EXPIRY_S: Final = 600
# "Begin again" to all hubs at a new connection saves them their time-out; for a whole fleet it would be a
# stampede, and their time-outs spread it out.
CALL_HUBS: Final = 100
CALL_EXPIRY_S: Final = 60


class Outcome(Enum):
    """What became of one uplink."""

    TAKEN = "taken"
    REPEATED = "repeated"
    REJECTED = "rejected"  # kept aside: this version cannot use it
    OUT_OF_ORDER = "out_of_order"  # its predecessor is missing: not acknowledged


class Received(msgspec.Struct, frozen=True):
    """An authentic uplink. ``uplink`` is None when this version does not know its body."""

    hub_id: str
    number: int
    after: int
    session: int
    clear: bytes
    uplink: Uplink | None


Commit = Callable[[Sequence[Received]], Awaitable[Sequence[Outcome]]]


class CloudLink:
    """The cloud's connection. ``bind`` first, then ``run`` as a task."""

    def __init__(
        self,
        address: BrokerAddress,
        keys: Keys,
        signing_key: Ed25519PrivateKey,
        clock: Clock,
        counters: Counter[str],
    ) -> None:
        self.connected = False
        self.problem = ""
        self.counters = counters
        self._address = address
        self._keys = keys
        self._signing_key = signing_key
        self._clock = clock
        self._connection: Connection | None = None
        self._commit: Commit | None = None
        self._on_hello: Callable[[str, int], Awaitable[None]] | None = None
        self._on_connected: Callable[[], Awaitable[None]] | None = None
        self._hub_ids: Callable[[], Sequence[str]] = tuple

    def bind(
        self,
        *,
        commit: Commit,
        on_hello: Callable[[str, int], Awaitable[None]] | None = None,
        on_connected: Callable[[], Awaitable[None]] | None = None,
        hub_ids: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """``commit`` returns one outcome per message once all are durable; an error means none is.

        ``on_hello(hub_id, last_down)``: a hub says which downlink it has. ``on_connected``: a new connection.
        ``hub_ids``: all known hubs, which are called at a new connection.
        """
        self._commit, self._on_hello, self._on_connected = commit, on_hello, on_connected
        self._hub_ids = hub_ids

    async def run(self, first_attempts_s: float | None = None) -> None:
        """Until cancelled. With ``first_attempts_s`` a broker that is not reached in that time ends it."""
        patience = Patience()
        give_up_s = None if first_attempts_s is None else time.monotonic() + first_attempts_s
        while True:
            stood_s = math.inf
            try:
                async with connect(self._address, CLIENT_ID) as connection:
                    await connection.subscribe(up_topic("+"))
                    give_up_s, stood_s = None, time.monotonic()
                    await self._serve(connection)
            except BrokerFault as err:
                fault, wait_s = patience.after(err, max(0.0, time.monotonic() - stood_s))
                self._note(fault)
                if give_up_s is not None and (
                    fault.fault is not Fault.UNREACHABLE or time.monotonic() + wait_s > give_up_s
                ):
                    raise
                await asyncio.sleep(wait_s)

    def send_down(self, downlink: Downlink) -> bool:
        """Publish a numbered message; False without a connection. The caller keeps it until confirmed."""
        return self._send_down(downlink, None)

    def answer(self, hub_id: str, answer: Returned) -> bool:
        """Answer a hub's question; False without a connection. A hub that gets no answer asks again.

        Outside the numbering (0), as acknowledgements are: the question binds it, and what is late does no harm.
        """
        now_us = self._clock.now_us()
        return self._send_down(Downlink(hub_id, 0, now_us, now_us + US_PER_DAY, answer), ACK_EXPIRY_S)

    def _send_down(self, downlink: Downlink, expiry_s: int | None) -> bool:
        key = self._keys(downlink.hub_id)
        if self._connection is None or key is None:
            return False
        self._publish(self._connection, key, downlink, expiry_s=expiry_s)
        self.counters["downlink.sent"] += 1
        return True

    def _note(self, err: BrokerFault) -> None:
        self.counters[f"sync.{err.fault.value}"] += 1
        if self.problem != str(err):
            self.problem = str(err)
            log.warning("sync.disconnected", fault=err.fault.value, reason=str(err))

    async def _serve(self, connection: Connection) -> None:
        self.connected, self.problem = True, ""
        self.counters["sync.connected"] += 1
        log.info("sync.connected", broker=str(self._address))
        self._connection = connection
        try:
            if self._on_connected is not None:
                await self._guard(self._on_connected())
            for hub_id in self._hub_ids()[:CALL_HUBS]:
                self._acknowledge(connection, hub_id, 0, (), CALL_EXPIRY_S)
            while True:
                await self._take_group(connection)
        finally:
            self._connection = None
            self.connected = False

    async def _take_group(self, connection: Connection) -> None:
        message = await connection.next_message()
        group: list[Received] = []
        hellos: dict[str, int] = {}
        messages: list[Incoming] = []
        size = 0
        while True:
            messages.append(message)
            size += len(message.payload)
            self._open(message, group, hellos)
            if len(group) >= GROUP_MESSAGES or size >= GROUP_BYTES or not connection.has_message():
                break
            message = await connection.next_message()
        if group and self._commit is not None:
            try:
                outcomes = await self._commit(group)
            except HometwinError as err:
                # Disk full, database gone: nothing is acknowledged, the hubs keep it and repeat.
                self.counters["uplink.not_stored"] += len(group)
                log.error("uplink.not_stored", messages=len(group), reason=str(err))
            else:
                self._answer(connection, group, outcomes)
        for message in messages:
            connection.finished(message)
        for hub_id, last_down in hellos.items():
            if self._on_hello is not None:
                await self._guard(self._on_hello(hub_id, last_down))

    async def _guard(self, step: Awaitable[None]) -> None:
        """A database that fails now will be asked again at the hub's next word; the link goes on."""
        try:
            await step
        except HometwinError as err:
            self.counters["downlink.not_looked_up"] += 1
            log.error("downlink.not_looked_up", reason=str(err))

    def _open(self, message: Incoming, group: list[Received], hellos: dict[str, int]) -> None:
        hub_id = message.topic.split("/")[1] if message.topic.count("/") == 2 else ""
        try:
            header, clear = open_authentic(self._keys, hub_id, message.payload, (UP, HELLO))
            if header.direction == HELLO:
                hellos[hub_id] = decode(clear, Hello).last_down
                return
        except (EnvelopeError, DecodeError) as err:
            known = self._keys(hub_id) is not None
            self.counters["uplink.forged" if known else "uplink.unknown_hub"] += 1
            log.warning("uplink.refused", topic_hub=hub_id[:40], bytes=len(message.payload), reason=err.what)
            return
        uplink: Uplink | None = None
        try:
            uplink = uplink_of(header, clear)
        except DecodeError as err:
            log.error("uplink.unusable", hub=hub_id, number=header.number, reason=err.what)
        group.append(Received(hub_id, header.number, header.after, header.session, clear, uplink))

    def _answer(self, connection: Connection, group: Sequence[Received], outcomes: Sequence[Outcome]) -> None:
        told: dict[tuple[str, int], list[int]] = {}
        missing: set[tuple[str, int]] = set()
        for received, outcome in zip(group, outcomes, strict=True):
            self.counters[f"uplink.{outcome.value}"] += 1
            hub_session = (received.hub_id, received.session)
            if outcome is Outcome.OUT_OF_ORDER:
                missing.add(hub_session)
            else:
                told.setdefault(hub_session, []).append(received.number)
        for hub_session, numbers in told.items():
            self._acknowledge(connection, *hub_session, tuple(numbers))
        for hub_session in missing:
            self._acknowledge(connection, *hub_session, ())

    def _acknowledge(
        self,
        connection: Connection,
        hub_id: str,
        session: int,
        numbers: tuple[int, ...],
        expiry_s: int = ACK_EXPIRY_S,
    ) -> None:
        key = self._keys(hub_id)
        if key is None:
            return
        # Acknowledgements stand outside the numbering (0): the session binds them, and they say nothing that
        # could come too late.
        now_us = self._clock.now_us()
        ack = Downlink(hub_id, 0, now_us, now_us + US_PER_DAY, Ack(numbers))
        self._publish(connection, key, ack, session=session, expiry_s=expiry_s)

    def _publish(
        self,
        connection: Connection,
        key: bytes,
        downlink: Downlink,
        *,
        session: int = 0,
        expiry_s: int | None = None,
    ) -> None:
        data = seal_down(key, self._signing_key, downlink, session=session)
        connection.publish_soon(down_topic(downlink.hub_id), data, expiry_s=expiry_s)
