"""A provisioned house with a real Mosquitto, links, and an outbox in memory. Waiting is for conditions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import aiomqtt

from core.clock import SystemClock
from core.messages import Ack, Downlink, Sample, SampleBatch, encode
from sync.broker import Broker, start_broker
from sync.broker_config import up_topic
from sync.cloud_link import CloudLink, Outcome, Received
from sync.hub_link import HubLink, link_from_files
from sync.keyfiles import read_envelope_key, read_signing_key
from sync.mqtt import BrokerAddress
from sync.provision import Paths, provision

CLOCK = SystemClock(time.time_ns)
DEADLINE_S = 30.0
T0_US = 1_767_362_400_000_000  # 2026-01-02 14:00 UTC


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def wait_until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.01)


def batch(first: int, count: int = 1, source: str = "cgm") -> bytes:
    """An outbox payload: ``count`` CGM samples with seq from ``first`` on."""
    samples = (
        Sample(T0_US + 60_000_000 * seq, "cgm_mgdl", 100.0 + seq % 100, source, seq)
        for seq in range(first, first + count)
    )
    return encode(SampleBatch(tuple(samples)))


class MemoryOutbox:
    """The store's outbox, without a disk."""

    def __init__(self) -> None:
        self.waiting: dict[int, bytes] = {}
        self.finished: list[int] = []
        self.next = 1
        self.greatest_read = 0

    def enqueue(self, payload: bytes) -> int:
        number, self.next = self.next, self.next + 1
        self.waiting[number] = payload
        return number

    def pending(self, limit: int) -> Sequence[tuple[int, bytes]]:
        rows = list(self.waiting.items())[:limit]
        self.greatest_read = max(self.greatest_read, len(rows))
        return rows

    def done(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self.waiting[number]
            self.finished.append(number)


class House:
    """Provisioned files and, once started, a broker."""

    def __init__(self, root: Path, hubs: Sequence[str] = ("hub-1", "hub-2")) -> None:
        self.port = free_port()
        self.paths = Paths(root)
        self.made = provision(root, hubs, "127.0.0.1", self.port)
        self.broker: Broker | None = None

    def start(self) -> Broker:
        self.broker = start_broker(self.paths.broker_conf)
        return self.broker

    def stop(self) -> None:
        if self.broker is not None:
            self.broker.stop()

    def address(self, folder: Path, port: int | None = None) -> BrokerAddress:
        return BrokerAddress(
            "127.0.0.1",
            port or self.port,
            folder / "ca.crt",
            folder / "client.crt",
            folder / "client.key",
        )

    def hub_key(self, hub_id: str) -> bytes:
        return read_envelope_key(self.paths.hub(hub_id) / "envelope.key")

    def signing_key(self):
        return read_signing_key(self.paths.cloud / "signing.key")

    def hub_link(self, hub_id: str = "hub-1", folder: Path | None = None, port: int | None = None) -> HubLink:
        folder = folder or self.paths.hub(hub_id)
        names = ("ca.crt", "client.crt", "client.key", "envelope.key", "cloud.pub")
        return link_from_files(
            hub_id, "127.0.0.1", port or self.port, *(folder / name for name in names), CLOCK
        )

    def keys(self, hub_id: str) -> bytes | None:
        path = self.paths.cloud / "hubs" / f"{hub_id}.key"
        return path.read_bytes() if path.exists() else None

    def cloud_link(self, counters: Counter[str] | None = None) -> CloudLink:
        return CloudLink(
            self.address(self.paths.cloud),
            self.keys,
            self.signing_key(),
            CLOCK,
            Counter() if counters is None else counters,
        )

    @contextlib.asynccontextmanager
    async def client(self, folder: Path, identifier: str) -> AsyncIterator[aiomqtt.Client]:
        """A raw MQTT client with the certificate in ``folder``."""
        async with aiomqtt.Client(
            "127.0.0.1",
            self.port,
            identifier=identifier,
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=self.address(folder).tls_context(),
        ) as client:
            yield client


class MemoryCloud:
    """Follows the cloud's rules without a database: takes in order, once."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[str, int], bytes] = {}
        self.order: list[tuple[str, int]] = []
        self.last: dict[str, int] = {}
        self.hellos: list[tuple[str, int]] = []
        self.lose_next_commits = 0

    async def commit(self, group: Sequence[Received]) -> list[Outcome]:
        return [self._take(received) for received in group]

    def _take(self, received: Received) -> Outcome:
        assert received.uplink is not None
        key = (received.hub_id, received.number)
        if key in self.bodies:
            return Outcome.REPEATED
        if received.after not in (0, self.last.get(received.hub_id, 0)):
            return Outcome.OUT_OF_ORDER
        self.last[received.hub_id] = received.number
        self.bodies[key] = encode(received.uplink.body)
        self.order.append(key)
        return Outcome.TAKEN

    async def on_hello(self, hub_id: str, last_down: int) -> None:
        self.hellos.append((hub_id, last_down))


@contextlib.asynccontextmanager
async def running(*links: HubLink | CloudLink) -> AsyncIterator[None]:
    """The links run inside the block and have ended after it."""
    tasks = [asyncio.create_task(link.run()) for link in links]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result


async def ignore_down(_: Downlink) -> None:
    """For links whose downlinks do not matter."""


def ack(hub_id: str, *numbers: int) -> Downlink:
    return Downlink(hub_id, 0, 0, 1, Ack(numbers))


UP_1 = up_topic("hub-1")
