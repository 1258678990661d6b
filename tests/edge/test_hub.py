"""The hub's own promises, with a real store and no radio: a full card, a restart, a wearable that comes and goes."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from core.clock import SystemClock
from core.errors import ConfigError, StoreError
from core.messages import Sample, decode
from core.units import US_PER_DAY, US_PER_MIN
from edge.config import DeviceConfig, HubConfig, RadioConfig
from edge.control import ask_hub
from edge.engine_messages import Answer
from edge.hub import Hub
from edge.hub_main import read_patient
from edge.status_text import status_lines
from edge.store.database import no_space
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
    hub.supervisor = hub.ringing._supervisor = wearables  # type: ignore[assignment]
    return hub, wearables


def reading(clock: HandClock, mgdl: float) -> Sample:
    return Sample(clock.us, "cgm_mgdl", mgdl, "cgm", clock.us // US_PER_MIN)


async def ring_until(hub: Hub, holds: Callable[[], bool]) -> None:
    """Let the ringing part run until something is seen."""
    task = asyncio.create_task(hub.ringing.run())
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


async def test_a_bolus_that_looks_like_a_slip_is_stored_only_when_said_to_be_right(tmp_path: Path) -> None:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    for units in (2.0, 3.0, 6.0, 4.0, 2.5):
        await hub.log_by_hand({"kind": "bolus_u", "value": units})
    rows = hub.store.last_row
    asked = await hub.log_by_hand({"kind": "bolus_u", "value": 80})
    assert (asked["unsure"], hub.store.last_row) == (True, rows)
    assert "13 times your largest" in asked["said"]
    clock.us += 15 * US_PER_DAY  # the usual ones are long ago
    assert "seq" in await hub.log_by_hand({"kind": "bolus_u", "value": 20})
    stored = await hub.log_by_hand({"kind": "bolus_u", "value": 80, "sure": True})
    assert hub.view.newest["bolus_u"].value == 80
    assert stored["said"].endswith(f"hand:{stored['seq']}")
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
    hub.thread.close()
    hub.store.close()


@pytest.mark.parametrize("begin_us", [0, START_US - US_PER_DAY * 90, START_US + US_PER_DAY * 400])
async def test_a_repair_is_told_for_a_day_whatever_the_clock_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin_us: int
) -> None:
    steady = [1]
    monkeypatch.setattr("edge.store_care.steady_us", lambda _: steady[0])
    clock = HandClock()
    clock.us = begin_us
    hub, _ = make_hub(tmp_path, clock)
    report = RepairReport(
        clock.us, "segments 1: damaged", "replay.sqlite.damaged-1", {}, {"segments": 1}, {}, 256, 1
    )
    hub.care = StoreCare(hub.config.store, hub.store, hub.thread, clock, cloud=False, repair=report)
    care = asyncio.create_task(hub.care.run())
    await until(lambda: hub.care._offset_us is not None)
    clock.us = START_US  # the network tells the time
    assert hub.care.repaired
    hub.care.wake()
    await until(lambda: decode(hub.store.get_blob("repair") or b"", RepairReport).time_us == START_US)
    care.cancel()
    clock.us += 23 * 60 * US_PER_MIN
    steady[0] += 23 * 60 * US_PER_MIN
    hub.care = StoreCare(hub.config.store, hub.store, hub.thread, clock, cloud=False)  # a restart
    assert hub.care.repaired
    clock.us += 2 * 60 * US_PER_MIN
    steady[0] += 2 * 60 * US_PER_MIN
    assert not hub.care.repaired  # it stays in the audit log
    hub.thread.close()
    hub.store.close()


def live(store: Store, from_us: int, days: int) -> None:
    """With a strap that is read about each 10 minutes."""
    rng = random.Random(from_us)
    for day_us in range(from_us, from_us + days * US_PER_DAY, US_PER_DAY):
        times_us = range(day_us, day_us + US_PER_DAY, 10 * US_PER_MIN)
        store.append(
            Sample(t + rng.randrange(US_PER_MIN), "heart_rate_bpm", float(rng.randrange(50, 150)), "strap", t)
            for t in times_us
        )


async def test_readings_are_averaged_by_age_only_when_a_week_of_readings_bears_out_the_clock(
    tmp_path: Path,
) -> None:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    config = msgspec.structs.replace(
        hub.config.store, raw_days=90, fine_days=90
    )  # hourly: it is read each 10 min

    async def thinned() -> int:
        hub.care = StoreCare(config, hub.store, hub.thread, clock, cloud=False)
        await hub.care._thin_the_old()
        return hub.care.thinned

    live(hub.store, START_US, 30)
    clock.us = START_US + 30 * US_PER_DAY
    assert await thinned() == 0
    assert not hub.care.thinning_waits
    clock.us += 365 * US_PER_DAY  # a clock that is wrong, or a hub that was off: nobody can tell yet
    hub.store.append([Sample(clock.us, "heart_rate_bpm", 60.0, "strap", clock.us)])
    assert await thinned() == 0
    assert "too few days of readings" in "\n".join(status_lines(hub.view.status(hub)))
    live(hub.store, clock.us + 1, 5)
    clock.us += 5 * US_PER_DAY
    assert await thinned() == 0
    assert hub.care.thinning_waits
    assert len(hub.store.between(0, 1 << 62)) == 35 * 144 + 1
    live(hub.store, clock.us + 2, 4)
    clock.us += 4 * US_PER_DAY
    assert await thinned() >= 28 * 144
    assert not hub.care.thinning_waits
    assert len(hub.store.between(clock.us - 90 * US_PER_DAY, 1 << 62)) == 9 * 144 + 1
    # What is averaged counts as well: with little kept raw, averaging goes on.
    config = msgspec.structs.replace(config, raw_days=1, fine_days=1)
    for n in range(3, 6):
        live(hub.store, clock.us + n, 9)
        clock.us += 9 * US_PER_DAY
        assert await thinned() > 0
        assert not hub.care.thinning_waits
    hub.thread.close()
    hub.store.close()


async def test_a_full_disk_without_old_readings_is_told_once_and_truly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    hub.store.append([reading(clock, 100)])
    report = RepairReport(clock.us, "damaged", "replay.sqlite.damaged-1", {}, {}, {}, 0, 0)
    hub.care = StoreCare(hub.config.store, hub.store, hub.thread, clock, cloud=False, repair=report)
    looks, full = [0], [True]

    def no_room(*_: object, **__: object) -> int:
        looks[0] += 1
        raise no_space(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        if full[0]:
            raise no_space(tmp_path)

    monkeypatch.setattr(hub.store.thinner, "free_bytes", lambda: 0)
    monkeypatch.setattr(hub.store.thinner, "thin", no_room)
    put_blob = hub.store.put_blob
    monkeypatch.setattr(hub.store, "put_blob", lambda *args: refuse() or put_blob(*args))
    hub.care.told_of_space()
    hub._store_ok = False  # as after a reading that was refused
    with structlog.testing.capture_logs() as logs:
        part = asyncio.create_task(hub._keep("care", hub.care.run))
        for _ in range(3):
            seen = looks[0]
            hub.care.wake()
            await until(lambda seen=seen: looks[0] > seen and hub.care.full)  # type: ignore[misc]
        said = "\n".join(status_lines(hub.view.status(hub)))
        assert "new readings are not stored" in said
        assert "averages" not in said
        hub._store_ok = True
        assert "no old readings are left" in "\n".join(status_lines(hub.view.status(hub)))
        full[0] = False
        monkeypatch.setattr(hub.store.thinner, "free_bytes", lambda: 1 << 40)
        hub.care.wake()
        await until(lambda: hub.store.get_blob("repair") is not None)  # done late, but done
    part.cancel()
    events = [entry["event"] for entry in logs]
    assert events.count("store.full") == 1
    assert "part.failed" not in events
    hub.thread.close()
    hub.store.close()


async def test_an_erased_hub_ends_quietly(tmp_path: Path) -> None:
    clock = HandClock()
    hub, watch = make_hub(tmp_path, clock)
    hub.config.control_socket.parent.mkdir(parents=True, exist_ok=True)
    watch.run = asyncio.Event().wait  # type: ignore[attr-defined]
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(hub.run())
        await until(lambda: hub.config.control_socket.exists())
        erase = {"do": "erase", "confirm": "home"}
        answer = await asyncio.to_thread(ask_hub, hub.config.control_socket, erase)
        assert "replay.sqlite" in answer["gone"]
        await asyncio.gather(task, return_exceptions=True)
    assert "store.erased" in [entry["event"] for entry in logs]
    assert [entry for entry in logs if entry["event"] == "part.failed"] == []


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
