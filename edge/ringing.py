"""Makes wearables ring: each is told the strongest active alarm, again with every connection, until it took it.

A wearable forgets with its link (Immediate Alert has no memory), so each new connection is told again; and each
newly raised alarm rings even when the level stays the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from core.errors import StoreError
from core.messages import Alarm
from edge.alarms.threshold import ThresholdAlarms
from edge.ble.supervisor import Supervisor
from edge.hub_view import HubView

RING_RETRY_S: Final = 1.0


class Rung(NamedTuple):
    """What one wearable was told last: on which connection, how strong, because of which alarms."""

    link: object
    level: int
    numbers: frozenset[int]


class Ringing:
    """Of one running hub. ``delivered`` hears of an alarm that a wearable took for the first time."""

    def __init__(
        self,
        supervisor: Supervisor,
        alarms: ThresholdAlarms,
        view: HubView,
        counters: Counter[str],
        delivered: Callable[[Alarm], Awaitable[None]],
    ) -> None:
        self._supervisor, self._alarms, self._view = supervisor, alarms, view
        self._counters, self._delivered = counters, delivered
        self._news = asyncio.Event()
        self._rung: dict[str, Rung] = {}

    def wake(self) -> None:
        """Alarms have changed."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled: keep every wearable showing the strongest active alarm."""
        while True:
            self._news.clear()
            wearables = self._supervisor.wearables
            await asyncio.gather(*(self._ring(source, link) for source, link in wearables.items()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RING_RETRY_S):
                    await self._news.wait()

    async def _ring(self, source: str, link: object) -> None:
        active = [alarm for alarm in self._alarms.active.values() if alarm.level > 0]
        wanted = Rung(link, self._alarms.level, frozenset(alarm.number for alarm in active))
        shown = self._rung.get(source)
        if shown is None or shown.link is not link:
            shown = Rung(link, 0, frozenset())
        if wanted.level == shown.level and wanted.numbers <= shown.numbers:
            return
        if not await self._supervisor.alert(wanted.level, source):
            return
        self._rung[source] = wanted
        self._counters["alarm.shown" if wanted.level else "alarm.unshown"] += 1
        for alarm in active:
            delivered = self._view.mark_delivered(alarm)
            if delivered is not None:
                with contextlib.suppress(StoreError):
                    await self._delivered(delivered)
