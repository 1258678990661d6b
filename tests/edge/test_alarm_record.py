"""Alarms on the disk and on their way to the cloud: cut at every write, each change is told, and once in the history."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core.errors import StoreError
from core.messages import Alarm, decode
from edge.alarm_record import AlarmRecord
from edge.store.store import Store
from edge.store_thread import StoreThread
from tests.edge.test_hub import KEY, HandClock

LOW = Alarm(1, 1_000_000, "low", 1, True, 64.0, 5.0)
HIGH = Alarm(2, 2_000_000, "high", 1, True, 260.0, 5.0)
OVER = Alarm(3, 3_000_000, "low", 1, False, 80.0, 5.0)


class Cut:
    """The store's thread, on which the power is cut before write ``at``."""

    def __init__(self, at: int, *, lasting: bool = True) -> None:
        self.thread = StoreThread()
        self.at, self.lasting, self.writes = at, lasting, 0

    async def __call__(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        self.writes += 1
        if self.writes > self.at and (self.lasting or self.writes == self.at + 1):
            raise StoreError("no power", where="store")
        return await self.thread(call, *args, **kwargs)


class Life:
    """One start of a hub: its record, and what it told the cloud."""

    def __init__(self, folder: Path, at: int, told: list[int], *, lasting: bool = True) -> None:
        self.store = Store.open(folder / "replay.sqlite", KEY, hub_id="home", clock=HandClock())
        self.cut = Cut(at, lasting=lasting)
        self.told = told
        self.counters: Counter[str] = Counter()
        self.record = AlarmRecord(self.store, self.cut, self.tell, self.counters)  # type: ignore[arg-type]

    async def tell(self, alarm: Alarm) -> None:
        await self.cut(self.told.append, alarm.number)

    def history(self) -> list[int]:
        return [decode(kept.data, Alarm).number for kept in self.store.archive.read("alarms", 0, 99)]

    def close(self) -> None:
        self.cut.thread.close()
        self.store.close()


@pytest.mark.parametrize("at", range(6))
async def test_whatever_write_is_the_last_each_change_is_told_and_kept_once(tmp_path: Path, at: int) -> None:
    told: list[int] = []
    first = Life(tmp_path, 99, told)
    await first.record.keep([LOW], lambda: (LOW,))
    first.close()
    cut = Life(tmp_path, at, told)  # five writes: what stands; then each change told and kept
    assert cut.record.load() == (LOW,)
    assert not cut.record.is_behind
    if at < 5:
        with pytest.raises(StoreError, match="no power"):
            await cut.record.keep([HIGH, OVER], lambda: (HIGH,))
    else:
        await cut.record.keep([HIGH, OVER], lambda: (HIGH,))
    assert cut.record.is_behind == (at < 5)
    cut.close()
    after = Life(tmp_path, 99, told)
    standing = after.record.load()
    await after.record.keep([], lambda: standing)
    # Nothing was written at all: the low still stands, and the readings are judged again.
    expected = [1, 2, 3] if at else [1]
    assert standing == ((HIGH,) if at else (LOW,))
    assert after.history() == expected
    assert sorted(set(told)) == expected
    after.close()


async def test_what_a_full_disk_refused_is_kept_when_there_is_room_and_told_once(tmp_path: Path) -> None:
    told: list[int] = []
    life = Life(tmp_path, 2, told, lasting=False)  # the third write, into the history, fails once
    with pytest.raises(StoreError):
        await life.record.keep([LOW], lambda: (LOW,))
    assert (life.record.is_behind, told, life.history()) == (True, [1], [])
    await life.record.keep([HIGH], lambda: (LOW, HIGH))
    assert (life.record.is_behind, told, life.history()) == (False, [1, 2], [1, 2])
    assert life.counters["alarm.kept"] == 2
    life.close()
