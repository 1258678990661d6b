"""The rim to the broker: one MQTT 5 connection over TLS, and plain words for whatever goes wrong with it.

Everything above speaks of topics and bytes. aiomqtt and paho appear only here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiomqtt
import msgspec
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from core.errors import ConfigError
from sync.broker_config import PACKET_OVERHEAD_BYTES, SESSION_DAYS
from sync.envelope import MAX_ENVELOPE_BYTES
from sync.faults import FAILURE_CODES, BrokerFault, Fault, fault_of, fault_of_text, refusal_of
from sync.keyfiles import read_file, read_secret

# A dead connection (no FIN: router switched off) is noticed after at most twice this. Shorter costs a hub on
# a mobile link data; longer costs the person fresh advice.
KEEPALIVE_S: Final = 20
CONNECT_TIMEOUT_S: Final = 10.0
PROBE_TIMEOUT_S: Final = 2.0
SESSION_EXPIRY_S: Final = SESSION_DAYS * 86_400
# PUBLISH packets without PUBACK, either way. paho queues what is beyond it in order; the broker holds back,
# so a process that is slow to finish messages keeps few of them in memory.
MAX_INFLIGHT: Final = 64


class BrokerAddress(msgspec.Struct, frozen=True):
    """Where the broker is and how we prove who we are."""

    host: str
    port: int
    ca: Path
    cert: Path
    key: Path

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext:
        """A context that trusts this house's authority only; ConfigError names a missing or wrong file."""
        for path in (self.ca, self.cert):
            read_file(path)
        read_secret(self.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(self.ca)
        except (ssl.SSLError, OSError):
            raise ConfigError("is not a certificate", where=str(self.ca)) from None
        try:
            context.load_cert_chain(self.cert, self.key)
        except (ssl.SSLError, OSError):
            raise ConfigError(
                "is not a certificate, or its key is another one",
                where=f"{self.cert}, {self.key}",
                mend="copy both from the folder that provision made",
            ) from None
        return context


class Incoming(msgspec.Struct, frozen=True):
    """One message from the broker."""

    topic: str
    payload: bytes
    packet_id: int = 0
    qos: int = 0


class _Client(aiomqtt.Client):
    """aiomqtt drops the reason in a PUBACK; there a broker's ACL says that we may not write this topic.

    (Mosquitto lets anybody subscribe to anything and filters at delivery, so that is the only word on it.)
    And its ``subscribe`` goes on waiting when the connection has ended, so ``gone`` says when that is.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # PUBACK when we say so: what a killed process had not finished, the broker delivers again.
        self._client.manual_ack_set(True)
        self.refusal: ReasonCode | None = None
        self.gone = asyncio.Event()
        self._not_connecting = threading.Event()
        self._not_connecting.set()

    def _client_connect(self) -> None:
        self._not_connecting.clear()
        try:
            super()._client_connect()
        finally:
            self._not_connecting.set()

    async def drop(self) -> None:
        """Close whatever an attempt to connect has left open. It runs in a thread that cannot be cancelled."""
        await asyncio.to_thread(self._not_connecting.wait, CONNECT_TIMEOUT_S)
        await asyncio.sleep(0)  # what the thread has put on the loop has run now
        if self._misc_task is not None:
            self._misc_task.cancel()
        sock = self._client.socket()
        if sock is not None:
            for forget in (self._loop.remove_reader, self._loop.remove_writer):
                forget(sock.fileno())
            self._client.on_socket_close = None
            self._client.on_socket_unregister_write = None
            sock.close()

    def acknowledge(self, packet_id: int, qos: int) -> None:
        self._client.ack(packet_id, qos)

    def _on_disconnect(self, *args: Any, **kwargs: Any) -> None:
        super()._on_disconnect(*args, **kwargs)
        self.gone.set()

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        if reason_code.value >= FAILURE_CODES and self.refusal is None:
            self.refusal = reason_code
            client.disconnect()
        super()._on_publish(client, userdata, mid, reason_code, properties)


class Connection:
    """A live connection. Any method may raise BrokerFault; after that the connection is over."""

    def __init__(self, client: _Client, address: BrokerAddress) -> None:
        self._client = client
        self._address = address
        self._publishing: set[asyncio.Task[None]] = set()

    async def subscribe(self, topic: str) -> None:
        """Receive ``topic`` with QoS 1."""
        asking = asyncio.ensure_future(self._client.subscribe(topic, qos=1))
        gone = asyncio.ensure_future(self._client.gone.wait())
        try:
            await asyncio.wait((asking, gone), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise BrokerFault(
                    Fault.LOST, "the connection to the broker was lost", where=str(self._address)
                )
            codes = asking.result()
        except aiomqtt.MqttError as err:
            raise fault_of(err, self._address) from None
        finally:
            for task in (asking, gone):
                task.cancel()
            await asyncio.gather(asking, gone, return_exceptions=True)
        for code in codes:
            if isinstance(code, ReasonCode) and code.value >= FAILURE_CODES:
                raise refusal_of(code, self._address)

    def publish_soon(self, topic: str, payload: bytes, *, expiry_s: int | None = None) -> None:
        """Send with QoS 1, in the order of the calls. What cannot be sent is lost with the connection."""
        task = asyncio.create_task(self._publish(topic, payload, expiry_s))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish(self, topic: str, payload: bytes, expiry_s: int | None) -> None:
        properties: Properties | None = None
        if expiry_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
        # Errors say that the connection ended, which the reader of messages learns too.
        with contextlib.suppress(aiomqtt.MqttError):
            # Without time limit: the keepalive watches the connection, and confirmation is end to end anyway.
            await self._client.publish(topic, payload, qos=1, properties=properties, timeout=math.inf)

    async def next_message(self) -> Incoming:
        """The next message; BrokerFault when the connection ends."""
        try:
            message = await anext(self._client.messages)
        except aiomqtt.MqttError as err:
            if self._client.refusal is not None:
                raise refusal_of(self._client.refusal, self._address) from None
            raise fault_of(err.__cause__ or err, self._address, connected=True) from None
        payload = message.payload if isinstance(message.payload, bytes) else b""
        return Incoming(message.topic.value, payload, message.mid, message.qos)

    def finished(self, message: Incoming) -> None:
        """Tell the broker that it need not deliver ``message`` again. In the order of arrival."""
        if message.qos:
            self._client.acknowledge(message.packet_id, message.qos)

    def has_message(self) -> bool:
        """Whether next_message would return at once."""
        return len(self._client.messages) > 0

    async def abandon(self) -> None:
        """Stop waiting for publications that are still on their way."""
        for task in tuple(self._publishing):
            task.cancel()
        await asyncio.gather(*self._publishing, return_exceptions=True)


@contextlib.asynccontextmanager
async def connect(address: BrokerAddress, identifier: str) -> AsyncIterator[Connection]:
    """A connection that resumes the session of ``identifier`` at the broker.

    Raises BrokerFault in words a person can act on.
    """
    watcher = _Watcher()
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.ReceiveMaximum = MAX_INFLIGHT
    properties.MaximumPacketSize = MAX_ENVELOPE_BYTES + PACKET_OVERHEAD_BYTES
    context = address.tls_context()
    client = _Client(
        address.host,
        address.port,
        identifier=identifier,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=False,
        properties=properties,
        tls_context=context,
        keepalive=KEEPALIVE_S,
        timeout=CONNECT_TIMEOUT_S,
        max_inflight_messages=MAX_INFLIGHT,
        logger=watcher.logger,
        # Many small packets both ways: with Nagle's algorithm each exchange would wait 40 ms for an ACK.
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
    client.pending_calls_threshold = 1 << 30  # the windows above bound them
    await _enter(client, address, context, watcher)
    connection = Connection(client, address)
    try:
        yield connection
    finally:
        await connection.abandon()
        # Saying goodbye to a broker that has gone fails, and nobody needs to know.
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


async def _enter(client: _Client, address: BrokerAddress, context: ssl.SSLContext, watcher: _Watcher) -> None:
    # With TLS 1.3 the broker judges our certificate after the handshake. paho only logs that alert and aiomqtt
    # then waits for a CONNACK until its time-out, so the log line itself ends the wait.
    entering = asyncio.ensure_future(client.__aenter__())
    try:
        await asyncio.wait((entering, watcher.failed), return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            raise await _diagnose(address, context) or fault_of_text(watcher.failed.result(), address)
        await entering
    except BaseException as err:
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        await client.drop()
        if isinstance(err, aiomqtt.MqttError):
            raise fault_of(err, address) from None
        raise


class _Watcher(logging.Handler):
    """Takes what paho would log; the first complaint before the connection stands becomes its reason."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.logger = logging.Logger("hometwin.mqtt", logging.WARNING)
        self.logger.addHandler(self)
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def emit(self, record: logging.LogRecord) -> None:
        # connect() runs in a thread of its own, which may outlive the loop
        with contextlib.suppress(RuntimeError):
            self.failed.get_loop().call_soon_threadsafe(self._set, record.getMessage())

    def _set(self, text: str) -> None:
        if not self.failed.done():
            self.failed.set_result(text)


async def _diagnose(address: BrokerAddress, context: ssl.SSLContext) -> BrokerFault | None:
    """Ask once more without sending anything: a reset that follows our own bytes may swallow the alert."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()
    except TimeoutError:
        return None
    except OSError as err:  # ssl.SSLError is one
        return fault_of_text(str(err), address)
    return None
