"""The hub's own promises, with a real store and no radio: a full card, a restart, a wearable that comes and goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.clock import SystemClock
from core.errors import StoreError
from core.messages import Sample
from core.units import US_PER_MIN
from edge.config import DeviceConfig, HubConfig, RadioConfig
from edge.hub import Hub
from edge.store.store import Store

KEY = bytes(range(32))
START_US = 1_767_600_000_000_000


class Wearables:
    """Stands for the supervisor: which wearables are linked, and what was written to them."""

    def __init__(self) -> None:
        self.wearables: dict[str, object] = {"watch": object()}
        self.written: list[int] = []
        self.states: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    async def alert(self, level: int, source: str | None = None) -> bool:
        if source not in self.wearables:
            return False
        self.written.append(level)
        return True


class HandClock(SystemClock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.us = START_US
        super().__init__(lambda: self.us * 1000)


def make_hub(folder: Path, clock: HandClock) -> tuple[Hub, Wearables]:
    config = HubConfig(
        hub_id="home",
        radio=RadioConfig(adapter="bumble:tcp-client:127.0.0.1:1"),
        device=(DeviceConfig("watch", "alert", "C0:00:00:00:00:05"),),
        base=str(folder),
    )
    store = Store.open(folder / "replay.sqlite", KEY, hub_id="home", clock=clock)
    hub = Hub(config, store, clock, None, "")
    wearables = Wearables()
    hub.supervisor = wearables  # type: ignore[assignment]
    return hub, wearables


def reading(clock: HandClock, mgdl: float) -> Sample:
    return Sample(clock.us, "cgm_mgdl", mgdl, "cgm", clock.us // US_PER_MIN)


async def ring_until(hub: Hub, holds: Callable[[], bool]) -> None:
    """Let the ringing part run until something is seen."""
    task = asyncio.create_task(hub._run_ring())
    deadline_s = time.monotonic() + 10
    try:
        while not holds():
            assert time.monotonic() < deadline_s, "the wearable was not told"
            await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_new_alarm_rings_even_at_the_same_level(tmp_path: Path) -> None:
    clock = HandClock()
    hub, watch = make_hub(tmp_path, clock)
    await hub.take((reading(clock, 260),))
    await ring_until(hub, lambda: watch.written == [1])
    clock.us += 5 * US_PER_MIN
    await hub.take((reading(clock, 65),))
    await ring_until(hub, lambda: watch.written == [1, 1])
    hub.thread.close()


async def test_a_wearable_that_reconnects_is_told_again(tmp_path: Path) -> None:
    clock = HandClock()
    hub, watch = make_hub(tmp_path, clock)
    await hub.take((reading(clock, 50),))
    await ring_until(hub, lambda: watch.written == [2])
    watch.wearables["watch"] = object()
    await ring_until(hub, lambda: watch.written == [2, 2])
    hub.thread.close()


async def test_only_what_rang_is_marked_as_delivered(tmp_path: Path) -> None:
    clock = HandClock()
    hub, watch = make_hub(tmp_path, clock)
    link = watch.wearables.pop("watch")
    await hub.take((reading(clock, 50),))
    clock.us += 5 * US_PER_MIN
    await hub.take((reading(clock, 120),))
    watch.wearables["watch"] = link
    clock.us += 5 * US_PER_MIN
    await hub.take((reading(clock, 260),))
    await ring_until(hub, lambda: watch.written == [1])
    delivered = {a.name for a in hub.view.recent_alarms if a.delivered}
    assert delivered == {"high"}
    hub.thread.close()


async def test_a_low_rings_although_the_store_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    hub, watch = make_hub(tmp_path, clock)

    def full(*_args: Any, **_more: Any) -> None:
        raise StoreError("no space left")

    for name in ("append", "next_number", "put_blob", "enqueue"):
        monkeypatch.setattr(hub.store, name, full)
    with pytest.raises(StoreError):
        await hub.take((reading(clock, 45),))
    await ring_until(hub, lambda: watch.written == [2])
    hub.thread.close()


async def test_a_restarted_hub_judges_the_reading_that_it_had_stored(tmp_path: Path) -> None:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    hub.store.append((reading(clock, 45),))  # killed before the alarm was judged
    hub.store.close()
    hub.thread.close()
    clock.us += 2 * US_PER_MIN
    again, watch = make_hub(tmp_path, clock)
    assert again.view.newest["cgm_mgdl"].value == 45
    await ring_until(again, lambda: watch.written == [2])
    again.store.close()
    again.thread.close()


async def test_standing_alarms_survive_a_restart_and_can_be_cleared(tmp_path: Path) -> None:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    await hub.take((reading(clock, 45),))
    numbers = {a.number for a in hub.alarms.active.values()}
    hub.store.close()
    hub.thread.close()
    again, _ = make_hub(tmp_path, clock)
    assert {a.number for a in again.alarms.active.values()} == numbers
    clock.us += 5 * US_PER_MIN
    await again.take((reading(clock, 120),))
    assert again.alarms.active == {}
    again.store.close()
    again.thread.close()


async def test_a_corrected_entry_leaves_the_screen(tmp_path: Path) -> None:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    first = await hub.log_by_hand({"kind": "bolus_u", "value": 9})
    assert hub.view.newest["bolus_u"].value == 9
    await hub.log_by_hand({"kind": "bolus_u", "amends": [first["source"], first["seq"]], "deleted": True})
    assert "bolus_u" not in hub.view.newest
    hub.thread.close()
