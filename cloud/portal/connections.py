"""Who may hold a connection to the portal, and how long without asking anything.

uvicorn waits for ever for the end of a request's header, so half a request from anybody would take one of the
process's descriptors away from ingest and database. Here a request must be whole in time, and when there are too
many connections the oldest that waits for the rest of a request makes room: whoever asks at once is always served.
"""

from __future__ import annotations

import asyncio
import resource
import time
from typing import Any, Final, NamedTuple

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cloud.portal.guard import BODY_S
from cloud.portal.limits import client_of

log = structlog.get_logger()

HEADER_S: Final = 10.0  # real seconds in which a header must be here; a browser sends one in one packet
# A browser holds six connections and one live socket for each of its tabs.
MAX_PER_CLIENT: Final = 64
MAX_CONNECTIONS: Final = 256
# The rest of the descriptors is for listening, the broker, the database and the worker processes' pipes.
SHARE_OF_DESCRIPTORS: Final = 4
# How many the loop accepts before it lets anything else run: they are open before they can be refused.
BACKLOG: Final = 64
TELL_EVERY_S: Final = 60.0
BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"retry-after: 10\r\nconnection: close\r\ncontent-length: 21\r\n\r\ntoo many connections\n"
)


class Limits(NamedTuple):
    """See the constants above. ``exempt``: the proxy through which all clients come has no limit of its own."""

    header_s: float = HEADER_S
    per_client: int = MAX_PER_CLIENT
    in_total: int = MAX_CONNECTIONS
    exempt: str = ""


def limits_here(trusted_proxy: str) -> Limits:
    """The limits, well below what this process may open."""
    may_open, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(
        in_total=max(1, min(MAX_CONNECTIONS, may_open // SHARE_OF_DESCRIPTORS)), exempt=trusted_proxy
    )


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A live socket leaves this class with its handshake, and still counts."""

    _told_s = -TELL_EVERY_S  # shared: the log tells of a crowd once a minute, not once a connection

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._is_in = False
        self._deadline: asyncio.TimerHandle | None = None
        self.waits_since_s: float | None = None  # None: a whole request is here and is being answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if not self._make_room(_client(transport)):
            transport.write(BUSY)
            transport.close()
            return
        self._is_in = True
        super().connection_made(transport)
        self._wait(self._limits.header_s)

    def data_received(self, data: bytes) -> None:
        if self._is_in:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._is_in:
            super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        self._wait(2 * BODY_S)  # the guard says more kindly, after one, that a body is too slow
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.cycle is not None and self.cycle.response_complete:
            self._wait(self._limits.header_s)  # the rest of a request that was refused before its end
        else:
            self._stop_waiting()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._stop_waiting()
        super().handle_websocket_upgrade()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._wait(self._limits.header_s)  # for the next request

    def _wait(self, limit_s: float) -> None:
        self._stop_waiting()
        self.waits_since_s = time.monotonic()
        self._deadline = self.loop.call_later(limit_s, self.transport.abort)

    def _stop_waiting(self) -> None:
        self.waits_since_s = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _make_room(self, client: str) -> bool:
        """Whether one more may come in, after the one that has waited longest had to leave for it if need be."""
        held = [c for c in self.connections if not c.transport.is_closing()]
        if client != client_of(self._limits.exempt):
            own = [c for c in held if _client(c.transport) == client]
            if len(own) >= self._limits.per_client:
                return self._drop_oldest(own)
        return len(held) < self._limits.in_total or self._drop_oldest(held)

    def _drop_oldest(self, among: list[Any]) -> bool:
        waiting = [c for c in among if isinstance(c, BoundedProtocol) and c.waits_since_s is not None]
        oldest = min(waiting, key=lambda c: c.waits_since_s or 0.0, default=None)
        if time.monotonic() - BoundedProtocol._told_s >= TELL_EVERY_S:
            BoundedProtocol._told_s = time.monotonic()
            log.warning("portal.crowded", connections=len(self.connections), refused=oldest is None)
        if oldest is None:
            return False
        oldest.transport.abort()
        return True


def _client(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return client_of(peer[0]) if peer else ""
