"""What the store needs now and then while the hub works: sealing anew after a change of the data key.

Small steps with pauses between them, on the store's own thread: a reading never waits longer than one step.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from edge.store.store import Store
from edge.store_thread import StoreThread

log = structlog.get_logger()

PAUSE_S: Final = 0.05  # between steps of some milliseconds: at most a tenth of the store's time
LOOK_S: Final = 60.0


class StoreCare:
    """``wake`` it when there is something to do at once."""

    def __init__(self, store: Store, thread: StoreThread) -> None:
        self._store, self._thread = store, thread
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Something was asked for."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._news.clear()
            if self._store.keys.rotating:
                await self._seal_anew()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()

    async def _seal_anew(self) -> None:
        log.info("store.sealing_anew")
        while await self._thread(self._store.keys.reseal):  # noqa: ASYNC110 - the sleep is the pause
            await asyncio.sleep(PAUSE_S)
        log.info("store.sealed_anew")
