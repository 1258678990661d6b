"""Asks the cloud for what damage took from the store, page by page, for as long as it takes, or until patience ends.

Sensors that remember are asked first, by their own sessions: what they tell again is theirs, and needs no mark. A
question goes through the outbox like everything that the hub says; an answer that does not come is asked for again.
What comes back only goes into the record: no alarm, no display of what is new learns of it (edge/store/lost.py).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from core.clock import Clock
from core.errors import StoreError
from core.messages import Returned, encode
from core.units import US_PER_H, US_PER_MIN
from edge.store.lost import Lost, give_up, look, take_back
from edge.store.store import Store
from edge.store_care import StoreCare
from edge.store_thread import StoreThread

log = structlog.get_logger()

FIRST_US: Final = 5 * US_PER_MIN  # the pace of a CGM: by then most devices have spoken
# An answer takes seconds. Where there is none (a cloud that does not know the question) the pause doubles.
PAUSE_US: Final = 10 * US_PER_MIN
PAUSE_MOST_US: Final = 6 * US_PER_H
FLOOR_S: Final = 0.5


class CloudRefill:
    """``take`` what the cloud answers. ``on_rows``: there are new rows; ``wake_link``: the outbox has news."""

    def __init__(
        self,
        store: Store,
        thread: StoreThread,
        clock: Clock,
        care: StoreCare,
        counters: Counter[str],
        wake_link: Callable[[], None],
        on_rows: Callable[[], None],
    ) -> None:
        self._store, self._thread, self._clock, self._care = store, thread, clock, care
        self._counters, self._wake_link, self._on_rows = counters, wake_link, on_rows
        self._lost = Lost.load(store)
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._pause_us = self._again_us = PAUSE_US
        self._wait_s = self._real_s(FIRST_US)
        # Whether an answer can be on its way: who repeats one for ever costs the card nothing.
        self._is_asked = self._lost.ask is not None and self._lost.ask.number > 0

    def facts(self) -> dict[str, Any]:
        """For the status."""
        return {"asks": self._lost.ask is not None, "came": self._lost.came}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            async with self._lock:  # an answer to a question of before may come meanwhile
                if await self._is_done(self._look):
                    break
            await asyncio.sleep(self._real_s(PAUSE_US))
        while self._lost.ask is not None:
            self._news.clear()
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._news.wait()
            except TimeoutError:
                self._wait_s = self._real_s(self._pause_us)
                async with self._lock:
                    await self._is_done(self._step)
                self._wake_link()
        # What is lost later is looked for once the store was repaired, and so opened anew.
        await asyncio.Event().wait()

    async def take(self, page: Returned) -> None:
        """Of a verified message. What cannot be stored now is asked for again; what nobody asked for changes nothing."""
        async with self._lock:
            before = self._lost
            if not self._is_asked:
                self._counters["lost.unasked"] += 1
                return
            try:
                rest, came = await self._thread(take_back, self._store, before, page, self._clock.now_us())
            except StoreError as err:
                log.warning("lost.not_stored", reason=str(err))
                return
            if rest is before or before.ask is None:
                self._counters["lost.unasked"] += 1
                return
            self._lost, self._is_asked = rest, False
            self._counters["lost.returned"] += came
            if rest.ask is None:
                log.info("lost.asked", returned=before.ask.came + came)
            elif rest.ask.after > before.ask.after:
                self._wait_s, self._pause_us = 0.0, PAUSE_US
            else:  # some of it waits for its device to speak
                self._wait_s = self._real_s(self._again_us)
                self._again_us = min(2 * self._again_us, PAUSE_MOST_US)
            self._news.set()
        if came:
            self._on_rows()

    async def _is_done(self, step: Callable[[], None]) -> bool:
        """A full disk is tried again later."""
        try:
            await self._thread(step)
        except StoreError as err:
            log.warning("lost.not_asked", reason=str(err))
            return False
        return True

    def _real_s(self, span_us: int) -> float:
        return max(FLOOR_S, self._clock.wait_s(span_us))

    # --- on the store's thread

    def _look(self) -> None:
        now_us, repair = self._clock.now_us(), self._care.repair
        found = look(self._store, self._lost, secrets.randbits(63), now_us, repair)
        if found is not self._lost:
            self._lost = found.save(self._store)
            log.info("lost.asks_the_cloud", spans=len(found.spans))

    def _step(self) -> None:
        """Ask once more, unless the last question is still on its way."""
        ask = self._lost.ask
        if ask is None:
            return
        now = ask.at(self._clock.now_us())
        if now is None:
            self._lost = give_up(self._store, self._lost)
            log.info("lost.given_up", returned=ask.came)
            return
        waiting = self._store.pending(1)
        if not (self._care.space_low or (waiting and waiting[0][0] <= ask.number)):
            now = msgspec.structs.replace(now, number=self._store.enqueue(encode(now.question())))
            self._pause_us, self._is_asked = min(2 * self._pause_us, PAUSE_MOST_US), True
        if now is not ask:
            self._lost = msgspec.structs.replace(self._lost, ask=now).save(self._store)
