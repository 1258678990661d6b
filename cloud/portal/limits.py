"""How often a password may be tried: per client strictly, all together only slower.

A client is an address of IPv4, or a network of 64 bits of IPv6 (what one household or server gets). Addresses
are those of the connection; a header that anybody can write counts only from ``[web] trusted_proxy``.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

MAX_CLIENTS: Final = 10_000  # remembered; beyond it the longest silent are forgotten
# When many clients fail at once, everybody waits this long before the check, right or wrong. Nobody is locked
# out: somebody with the right password gets in a second later.
CROWD_DELAY_S: Final = 1.0
# Hashing takes a core for a tenth of a second; the pages need the other one.
AT_ONCE: Final = 2


class RateLimit:
    """At most ``attempts`` failures per ``window_s`` and client; beyond ten times as many in all, a delay."""

    def __init__(
        self, attempts: int = 5, window_s: float = 60.0, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._attempts, self._window_s, self._now_s = attempts, window_s, now_s
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._all: list[float] = []
        self._room = asyncio.Semaphore(AT_ONCE)

    def wait_s(self, address: str) -> float:
        """0 when this client may try, else the seconds until it may."""
        recent = self._recent(self._failures.get(client_of(address), []))
        if len(recent) < self._attempts:
            return 0.0
        return max(0.0, recent[-self._attempts] + self._window_s - self._now_s())

    @property
    def delay_s(self) -> float:
        """What everybody waits before a check, because so many fail."""
        return CROWD_DELAY_S if len(self._recent(self._all)) >= 10 * self._attempts else 0.0

    def begin(self, address: str) -> None:
        """Count an attempt before it is checked, so that many at once do not slip through together."""
        client = client_of(address)
        self._failures[client] = [*self._recent(self._failures.get(client, [])), self._now_s()]
        self._failures.move_to_end(client)
        while len(self._failures) > MAX_CLIENTS:
            self._failures.popitem(last=False)
        self._all = [*self._all[1 - 10 * self._attempts :], self._now_s()]

    def succeeded(self, address: str) -> None:
        """It was the right password: the attempt does not count."""
        for recent in (self._failures.get(client_of(address)), self._all):
            if recent:
                recent.pop()

    @asynccontextmanager
    async def checking(self) -> AsyncIterator[None]:
        """Around the check of a password."""
        await asyncio.sleep(self.delay_s)
        async with self._room:
            yield

    def _recent(self, times: list[float]) -> list[float]:
        start_s = self._now_s() - self._window_s
        return [t for t in times if t > start_s]


@functools.lru_cache(1024)
def client_of(address: str) -> str:
    """The client behind an address. Pure."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
