"""What the store needs while the hub works: sealing anew after a change of keys, thinning, an eye on the disk.

Small steps with pauses between them, on the store's own thread: a reading never waits longer than one step. A failure
here is told and tried again; it never stops anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Any, Final

import msgspec
import structlog

from core.clock import Clock
from core.errors import DecodeError, StoreError
from core.messages import decode, encode
from core.units import US_PER_DAY, US_PER_H
from edge.config import StoreConfig
from edge.steady import steady_us
from edge.store import untold
from edge.store.database import NO_SPACE
from edge.store.journal import Detail
from edge.store.repair import REPAIR_BLOB, RepairReport, forget_oldest
from edge.store.store import Store
from edge.store.thinning import FOR_SPACE, OLD, RESERVE_BYTES, SURE_DAYS, SURE_WITHIN_DAYS, YOUNG
from edge.store_thread import StoreThread

log = structlog.get_logger()

PAUSE_S: Final = 0.05  # between steps of some milliseconds: at most a tenth of the store's time
LOOK_S: Final = 60.0
THIN_EVERY_US: Final = 6 * US_PER_H
ALARM_US: Final = US_PER_DAY  # so long a repair is told as an alarm; in the audit log it stays
# A wall clock that moved by more than this against the steady one was set: by a person, or by NTP after a start.
JUMP_US: Final = 2_000_000
_EVER: Final = 1 << 62
MIB: Final = 1 << 20
# Averages cannot be undone, and whoever has been told can free space: so readings become averages for its sake only when
# less than this share of the floor is left (and little enough: a floor may be set high to be told early) and the alarm
# has stood for a day, or when the disk is about to be full.
TIGHT_SHARE: Final = 8
TIGHT_MOST_BYTES: Final = 8 * MIB
BRIM_BYTES: Final = 4 * MIB  # the log alone may take as much (database.py)
ALARM_FIRST_US: Final = US_PER_DAY
ASIDE_KEPT_FOR_SPACE: Final = 1  # the newest damaged file: it may still hold what a repair could not read


class StoreCare:
    """``wake`` it when there is something to do at once. ``cloud``: samples wait for its acknowledgement."""

    def __init__(
        self,
        config: StoreConfig,
        store: Store,
        thread: StoreThread,
        clock: Clock,
        *,
        cloud: bool,
        repair: RepairReport | None = None,
    ) -> None:
        self._config, self._store, self._thread, self._clock = config, store, thread, clock
        self._cloud = cloud
        self._news = asyncio.Event()
        self._thinned_us = -_EVER
        self._offset_us: int | None = None  # wall time less steady time, when last looked at
        self.free_bytes = math.inf
        self.thinned = 0  # readings that became aggregates, since the start
        self.full = False  # the disk: not even what makes room could be written
        self.exhausted = False  # too little room, and no reading left whose average would be smaller
        self.making_room = False  # readings become averages for the sake of space
        self._low_since_us: int | None = None  # steady time: when the disk was found to be low, and is since
        self._low_is_told = False
        self.thinning_waits = False  # for days that bear out the clock
        self._begun = False
        self._repair_is_known = repair is None
        self.repair = repair or _load_repair(store)
        # Told for so long on the clock that never jumps, too: a Pi boots in 1970 and learns the time later.
        self._told_until_us = steady_us(clock) + ALARM_US - self._repair_age_us

    def wake(self) -> None:
        """Something was asked for."""
        self._news.set()

    @property
    def space_low(self) -> bool:
        """Whether the disk has less room than the configuration wants."""
        return self.free_bytes < self._config.free_floor_mib * MIB

    def told_of_space(self) -> None:
        """The alarm that the disk is low was judged: from now on people can know."""
        if not self._low_is_told:
            self._low_is_told = True
            self.wake()

    def _needs_room(self) -> bool:
        """Whether readings must become averages now."""
        if self._low_since_us is None or not self._low_is_told:
            return False
        if self.free_bytes < BRIM_BYTES:
            return True
        tight_bytes = min(self._config.free_floor_mib * MIB / TIGHT_SHARE, TIGHT_MOST_BYTES)
        low_us = steady_us(self._clock) - self._low_since_us
        return self.free_bytes < tight_bytes and low_us >= ALARM_FIRST_US

    @property
    def repaired(self) -> bool:
        """Whether the store was repaired lately."""
        return self._repair_age_us < ALARM_US or steady_us(self._clock) < self._told_until_us

    @property
    def _repair_age_us(self) -> float:
        return math.inf if self.repair is None else abs(self._clock.now_us() - self.repair.time_us)

    def facts(self) -> dict[str, Any]:
        """For the status."""
        return {
            "rows": self._store.last_row,
            "mib": self._store.path.stat().st_size / MIB if self._store.path.exists() else None,
            "ways_in": self._store.keys.ways_in,
            "repair": msgspec.to_builtins(self.repair) if self.repair else None,
            "tampered": self.repair is not None and self.repair.tampered,
            "refilling": self._store.refilling,
            "free_mib": self.free_bytes / MIB,
            "space_low": self.space_low,
            "full": self.full,
            "exhausted": self.exhausted,
            "making_room": self.making_room,
            "thinned": self.thinned,
            "thinning_waits": self.thinning_waits,
            "rotating": self._store.keys.rotating,
            "keys_copied": self._store.has_key_copy,
        }

    async def run(self) -> None:
        """Until cancelled. A full disk is looked at again like any other: trying sooner frees nothing."""
        steps = (self._make_room, self._begin, self._watch_clock, self._seal_anew, self._thin_the_old)
        while True:
            self._news.clear()
            was_full, self.full = self.full, False
            for step in steps:
                try:
                    await step()
                except StoreError as err:
                    if err.what != NO_SPACE:
                        raise
                    self.full = True
            if self.full and not was_full:
                log.error("store.full", free_mib=self.free_bytes / MIB)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()

    async def _begin(self) -> None:
        """Once: a mark in the audit log, and the last repair is remembered."""
        if not self._begun:
            self._begun = True
            await self._note("hub.started", row=self._store.last_row)
        if not self._repair_is_known:
            await self._keep_repair()

    async def _keep_repair(self) -> None:
        assert self.repair is not None
        await self._thread(self._store.put_blob, REPAIR_BLOB, encode(self.repair))
        self._repair_is_known = True
        await self._thread(untold.clear, self._store.path)

    async def _note(self, what: str, **detail: Detail) -> None:
        """A full disk must not stop what makes room on it."""
        try:
            await self._thread(self._store.note, "hub", what, **detail)
        except StoreError as err:
            log.warning("store.not_noted", what=what, reason=str(err))

    async def _watch_clock(self) -> None:
        """Mark in the audit log where the wall clock was set: between two marks, differences of times are true."""
        pace = 1 / self._clock.wait_s(1_000_000)  # of our time against real time
        offset_us = self._clock.now_us() - steady_us(self._clock)
        before, self._offset_us = self._offset_us, offset_us
        if before is not None and abs(offset_us - before) > JUMP_US * max(1.0, pace):
            step_s = (offset_us - before) / 1e6
            log.warning("clock.jumped", step_s=step_s)
            await self._note("clock.jumped", step_s=round(step_s, 3), row=self._store.last_row)
            if self.repair is not None and steady_us(self._clock) < self._told_until_us:
                # It was dated by the clock of before; that of now is the better one.
                moved_us = self.repair.time_us + offset_us - before
                self.repair = msgspec.structs.replace(self.repair, time_us=moved_us)
                await self._keep_repair()

    async def _seal_anew(self) -> None:
        if not self._store.keys.rotating:
            return
        log.info("store.sealing_anew")
        while await self._thread(self._store.keys.reseal):  # noqa: ASYNC110 - the sleep is the pause
            await asyncio.sleep(PAUSE_S)
        log.info("store.sealed_anew")

    async def _look_at_disk(self) -> None:
        self.free_bytes = float(await self._thread(self._store.thinner.free_bytes))
        if not self.space_low:
            self._low_since_us, self._low_is_told = None, False
        elif self._low_since_us is None:
            self._low_since_us = steady_us(self._clock)

    async def _make_room(self) -> None:
        """On a disk that fills, whoever fills it: give the newest readings the pages of the oldest.

        Nothing is thinned for others' sake: once the file has room inside for a while, it is enough.
        """
        self.exhausted = self.making_room = False
        await self._look_at_disk()
        is_short = await self._thread(self._store.thinner.reserve_bytes) < RESERVE_BYTES
        if is_short and self._needs_room():
            await self._forget_damaged()
        if not (is_short and self._needs_room()):
            if self.free_bytes >= BRIM_BYTES:
                await self._thread(self._store.thinner.hold_spare)
            return
        self.making_room = True
        thinned = 0
        settled_us = await self._thread(self._store.thinner.settled_us)
        for unsent in (False, True):  # what the cloud has not acknowledged goes last
            for before_us, widths_us in ((settled_us, FOR_SPACE), (_EVER, YOUNG)):
                while await self._thread(self._store.thinner.reserve_bytes) < RESERVE_BYTES:
                    count = await self._thin_for_room(before_us, widths_us, unsent)
                    if count is None:
                        break
                    thinned += count
                    await asyncio.sleep(PAUSE_S)
        self.exhausted = await self._thread(self._store.thinner.reserve_bytes) < RESERVE_BYTES
        if thinned:
            self.thinned += thinned
            log.warning("store.thinned_for_space", readings=thinned)

    async def _forget_damaged(self) -> None:
        """Before any reading: damaged files, all of whose good records are in the store."""
        gone = await self._thread(forget_oldest, self._store.path, ASIDE_KEPT_FOR_SPACE)
        if gone:
            log.warning("store.damaged_files_removed", files=gone)
            await self._note("store.damaged_files_removed", files=", ".join(gone), why="space")
            await self._look_at_disk()

    async def _thin_for_room(self, before_us: int, widths_us: tuple[int, ...], unsent: bool) -> int | None:
        def thin() -> int | None:
            return self._store.thinner.thin(
                before_us, widths_us, unsent=unsent, cloud=self._cloud, why="space"
            )

        try:
            return await self._thread(thin)
        except StoreError:
            if not await self._thread(self._store.thinner.use_spare):
                raise
            return await self._thread(thin)

    async def _thin_the_old(self) -> None:
        now_us = self._clock.now_us()
        if not self._config.raw_days or 0 <= now_us - self._thinned_us < THIN_EVERY_US:
            return
        self._thinned_us = now_us
        # Averages cannot be undone, so age counts from what days of readings bear out, not from a clock that may be wrong.
        raw_us = self._config.raw_days * US_PER_DAY
        sure_us = await self._thread(self._store.thinner.sure_us, now_us)
        await self._thin_before(sure_us - raw_us, YOUNG)
        if self._config.fine_days:
            fine_us = sure_us - self._config.fine_days * US_PER_DAY
            await self._thin_before(
                fine_us, OLD
            )  # what stayed raw, as 5-min averages would not have been smaller
            while await self._thread(self._store.thinner.coarsen, fine_us):  # noqa: ASYNC110 - the sleep is the pause
                await asyncio.sleep(PAUSE_S)
        waits = now_us - sure_us > SURE_WITHIN_DAYS * US_PER_DAY and await self._thread(
            self._store.thinner.may, now_us - raw_us, cloud=self._cloud
        )
        if waits and not self.thinning_waits:
            log.warning("store.thinning_waits", days=SURE_DAYS)
        self.thinning_waits = waits

    async def _thin_before(self, before_us: int, widths_us: tuple[int, ...]) -> None:
        thinned = 0
        while (
            count := await self._thread(self._store.thinner.thin, before_us, widths_us, cloud=self._cloud)
        ) is not None:
            thinned += count
            await asyncio.sleep(PAUSE_S)
        if thinned:
            self.thinned += thinned
            log.info("store.thinned", readings=thinned)


def _load_repair(store: Store) -> RepairReport | None:
    data = store.get_blob(REPAIR_BLOB)
    with contextlib.suppress(DecodeError):
        return None if data is None else decode(data, RepairReport)
    return None
