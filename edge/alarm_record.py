"""What was raised and cleared: on the disk, and on its way to the cloud, at whatever moment the power is cut.

One write says which alarms stand and what changed. Only then does each change go to the outbox and into the history: after
a cut between, what changed is still known, and is told at the next start. The cloud knows an alarm by its number, so
twice the same is once. A store that takes nothing delays the record, never the alarm; what waits is tried again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from core.errors import DecodeError
from core.messages import Alarm, decode, encode
from edge.hub_state import AlarmState, load_state, save_state
from edge.store.store import Store
from edge.store_thread import StoreThread

AREA: Final = "alarms"  # of the archive
BLOB: Final = "alarms"
HISTORY_BYTES: Final = 256 << 10  # some 3,000 alarms
# A disk that takes nothing for weeks: beyond this many the oldest changes are not told any more.
WAITING_MOST: Final = 1000


class AlarmRecord:
    """The record of one hub's alarms. ``tell`` gives one to the cloud's outbox."""

    def __init__(
        self,
        store: Store,
        thread: StoreThread,
        tell: Callable[[Alarm], Awaitable[None]],
        counters: Counter[str],
    ) -> None:
        self._store = store
        self._thread = thread
        self._tell = tell
        self._counters = counters
        self._waiting: deque[Alarm] = deque(maxlen=WAITING_MOST)
        self._told: set[int] = set()  # of those that wait: in the outbox, not yet in the history
        self._turn = asyncio.Lock()

    def load(self) -> tuple[Alarm, ...]:
        """Alarms that stood at the last change; what was not told of it waits for the next ``keep``."""
        state = load_state(self._store, BLOB, AlarmState)
        if state.untold:
            known = {self._number(kept.data) for kept in self._store.archive.read(AREA, 0, 1 << 30)}
            self._waiting.extend(alarm for alarm in state.untold if alarm.number not in known)
        return state.active

    @property
    def is_behind(self) -> bool:
        """Whether a change is not on the disk yet."""
        return bool(self._waiting)

    async def keep(self, changes: Sequence[Alarm], standing: Callable[[], tuple[Alarm, ...]]) -> None:
        """Keep ``changes`` and what waits; durable on return. StoreError: it waits.

        ``standing()``: the alarms that stand when the write is made, which may be later than the call.
        """
        self._waiting.extend(changes)
        async with self._turn:
            now = tuple(self._waiting)
            if not now:
                return
            await self._thread(save_state, self._store, BLOB, AlarmState(standing(), now))
            for alarm in now:
                if alarm.number not in self._told:
                    await self._tell(alarm)
                    self._told.add(alarm.number)
                await self._thread(self._store.archive.keep, AREA, encode(alarm), HISTORY_BYTES)
                self._told.discard(alarm.number)
                self._counters["alarm.kept"] += 1
                if self._waiting and self._waiting[0] is alarm:
                    self._waiting.popleft()

    @staticmethod
    def _number(data: bytes) -> int | None:
        try:
            return decode(data, Alarm).number
        except DecodeError:  # written by another version
            return None
