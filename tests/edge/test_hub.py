"""The hub's own promises, with a real store and no radio: a full card, a restart, a wearable that comes and goes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.clock import SystemClock
from core.errors import ConfigError, StoreError
from core.messages import Sample
from core.units import US_PER_MIN
from edge.config import DeviceConfig, HubConfig, RadioConfig
from edge.engine_messages import Answer
from edge.hub import Hub
from edge.hub_main import read_patient
from edge.status_text import status_lines
from edge.store.journal import read_line
from edge.store.repair import RepairReport
from edge.store.store import Store
from edge.store_care import StoreCare

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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model]\nname = 'x'\n", "model.name: unknown model 'x'"),
        ("[model.overrides]\nzz = 1.0\n", "model.overrides.zz: the model glucose has no such constant"),
        ("[model.overrides]\nke = nan\n", "model.overrides.ke: must lie in 0.02..0.5"),
        ("weight_kg = inf\n", "weight_kg: must lie in 5..400"),
    ],
)
def test_a_patient_file_that_the_engine_could_not_use_is_refused_at_the_hubs_start(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "patient.toml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        read_patient(HubConfig(hub_id="home", patient="patient.toml", base=str(tmp_path)))
    assert str(refused.value).startswith(str(tmp_path / "patient.toml"))
    assert "\n" not in str(refused.value)


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


async def test_hand_entries_are_in_the_audit_log_without_their_values(tmp_path: Path) -> None:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    first = await hub.log_by_hand({"kind": "bolus_u", "value": 9.25})
    await hub.log_by_hand({"kind": "bolus_u", "amends": [first["source"], first["seq"]], "deleted": True})
    entries = [read_line(line) for line in hub.store.journal(0, 9)]
    assert [(e.who, e.what) for e in entries] == [("person", "hand.entered"), ("person", "hand.deleted")]
    assert "9.25" not in str(entries)
    hub.thread.close()


async def test_a_repaired_store_and_a_full_disk_are_told_and_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    hub, watch = make_hub(tmp_path, clock)
    report = RepairReport(
        clock.us, "segments 1: damaged", "replay.sqlite.damaged-1", {}, {"segments": 1}, {}, 256, 1
    )
    hub.care = StoreCare(hub.config.store, hub.store, hub.thread, clock, cloud=False, repair=report)
    monkeypatch.setattr(hub.store.thinner, "free_bytes", lambda: 5 << 20)
    care = asyncio.create_task(hub.care.run())
    await until(lambda: hub.store.get_blob("repair") is not None)
    care.cancel()
    alarms = hub.alarms.on_health(
        True, True, clock.us, 0, repaired=hub.care.repaired, space_low=hub.care.space_low
    )
    assert [(a.name, a.level) for a in alarms] == [("store_repaired", 0), ("store_space", 0)]
    said = "\n".join(status_lines(hub.view.status(hub)))
    assert "damaged and repaired" in said
    assert "256 records missing" in said
    assert "low on space (5 MiB free)" in said
    await hub.take((reading(clock, 45),))
    await ring_until(hub, lambda: watch.written == [2])
    clock.us += 25 * 60 * US_PER_MIN
    assert not hub.care.repaired  # told for a day; it stays in the audit log
    hub.thread.close()
    hub.store.close()


async def test_a_clock_that_is_years_ahead_makes_no_record_old(tmp_path: Path) -> None:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    for n in range(600):
        hub.store.append((msgspec.structs.replace(reading(clock, 120), seq=1000 + n),))
        clock.us += 5 * US_PER_MIN
    before = hub.store.last_row
    config = msgspec.structs.replace(hub.config.store, raw_days=90)
    clock.us += 10 * 365 * 24 * 60 * US_PER_MIN
    hub.care = StoreCare(config, hub.store, hub.thread, clock, cloud=False)
    await hub.care._thin_the_old()
    assert hub.care.thinned == 0
    assert len(hub.store.read(0, 1000)) == before
    hub.thread.close()
    hub.store.close()


async def test_on_a_full_disk_the_oldest_readings_make_room_and_doses_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    for n in range(4):
        at_us = clock.us - US_PER_MIN * 60 * (5 - n)
        hub.store.append(
            [Sample(at_us + k * 1_000_000, "heart_rate_bpm", 60.0, "strap", at_us + k) for k in range(255)]
        )
        hub.store.append([Sample(at_us, "bolus_u", 2.0, "pump", n + 1)])
    monkeypatch.setattr(hub.store.thinner, "free_bytes", lambda: 5 << 20)
    care = asyncio.create_task(hub.care.run())
    await until(lambda: hub.care.thinned > 0)
    care.cancel()
    await asyncio.gather(care, return_exceptions=True)
    assert hub.care.thinned == 4 * 255
    assert [s.seq for s in hub.store.between(0, 1 << 62)] == [1, 2, 3, 4]
    assert any(read_line(line).what == "store.thinned" for line in hub.store.journal(0, 9))
    hub.thread.close()
    hub.store.close()


async def test_a_clock_that_was_set_is_marked_in_the_audit_log(tmp_path: Path) -> None:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    care = asyncio.create_task(hub.care.run())
    await until(lambda: hub.care._offset_us is not None)
    hub.store.append([reading(clock, 100)])
    clock.us -= 24 * 60 * US_PER_MIN
    hub.care.wake()
    await until(lambda: len(hub.store.journal(0, 9)) == 2)
    care.cancel()
    jump = read_line(hub.store.journal(0, 9)[1])
    assert jump.what == "clock.jumped"
    assert jump.detail["row"] == 1
    assert abs(jump.detail["step_s"] + 86_400) < 60
    hub.store.append([Sample(clock.us, "cgm_mgdl", 101.0, "cgm", 1 << 40)])
    assert [s.value for _, s in hub.store.read(0, 9)] == [100.0, 101.0]  # the order of arrival stands
    hub.thread.close()
    hub.store.close()


async def test_why_the_engine_cannot_work_is_in_the_status(tmp_path: Path) -> None:
    hub, _ = make_hub(tmp_path, HandClock())
    hub.engine.problem = "patient file: of a newer version"
    status = await hub.on_request({"do": "status"})
    assert "engine    down, 0 records behind; patient file: of a newer version" in status_lines(status)
    hub.engine.problem = ""
    hub.view.on_answer(Answer(None, None, note="nothing can be said"))
    status = await hub.on_request({"do": "status"})
    assert any(line.endswith("; nothing can be said") for line in status_lines(status))
    hub.store.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
