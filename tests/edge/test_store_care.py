"""A disk that fills: people are told first, then what is not the record goes, and old readings become averages last."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import pytest

# Loading it here lets stores be made in this process, which is much quicker.
import sqlite_utils  # noqa: F401

from core.messages import Quality, Sample
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN, US_PER_S
from edge.config import StoreConfig
from edge.status_text import status_lines
from edge.store.aggregates import COARSE_US, FINE_US
from edge.store.journal import read_line
from edge.store.store import Store
from edge.store.thinning import RESERVE_BYTES
from edge.store_care import ALARM_FIRST_US, BRIM_BYTES, TIGHT_MOST_BYTES, StoreCare
from edge.store_thread import StoreThread
from tests.edge.test_hub import KEY, START_US, HandClock, make_hub, until

MIB = 1 << 20


class Disk:
    """A store on a disk with as much room as a test says, and a clock that does not jump."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, floor_mib: int = 64) -> None:
        self.clock, self.steady_us, self.free = HandClock(), US_PER_H, 60 * MIB
        monkeypatch.setattr("edge.store_care.steady_us", lambda _: self.steady_us)
        self.store = Store.open(folder / "replay.sqlite", KEY, hub_id="home", clock=self.clock)
        monkeypatch.setattr(self.store.thinner, "free_bytes", lambda: self.free)
        fill(self.store)
        self.thread = StoreThread()
        config = StoreConfig(free_floor_mib=floor_mib)
        self.care = StoreCare(config, self.store, self.thread, self.clock, cloud=False)

    async def look(self, *, later_us: int = 0, told: bool = True) -> int:
        """How many readings became averages."""
        before = self.care.thinned
        self.steady_us += later_us
        await self.care._make_room()
        if told and self.care.space_low:
            self.care.told_of_space()
        return self.care.thinned - before

    def close(self) -> None:
        self.thread.close()
        self.store.close()


def fill(store: Store) -> None:
    """Four segments of a strap each second, with a dose in each."""
    rng = random.Random(4)
    for n in range(4):
        at_us = START_US - US_PER_H * (5 - n)
        beats = range(at_us, at_us + 255 * US_PER_S, US_PER_S)
        store.append([Sample(t, "heart_rate_bpm", float(rng.randrange(50, 150)), "strap", t) for t in beats])
        store.append([Sample(at_us, "bolus_u", 2.0, "pump", n + 1)])


def said(store: Store) -> list[tuple[str, object]]:
    entries = [read_line(line) for line in store.journal(0, 99)]
    return [(entry.what, entry.detail.get("why")) for entry in entries]


async def test_below_the_floor_people_are_told_and_nothing_is_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default floor is 40 years of a CGM: a full apt cache had all readings averaged before anybody knew."""
    disk = Disk(tmp_path, monkeypatch)
    for free in (60 * MIB, TIGHT_MOST_BYTES):
        disk.free = free
        for _ in range(3):
            assert await disk.look(later_us=30 * US_PER_DAY) == 0
        assert disk.care.space_low
        assert not disk.care.exhausted
    assert len(disk.store.read(0, 9999)) == 4 * 256
    disk.close()


@pytest.mark.parametrize("floor_mib", [64, 1 << 20])
async def test_on_a_nearly_full_disk_readings_become_averages_a_day_after_the_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, floor_mib: int
) -> None:
    disk = Disk(tmp_path, monkeypatch, floor_mib)
    disk.free = TIGHT_MOST_BYTES - 1
    assert await disk.look() == 0
    disk.clock.us += 400 * US_PER_DAY  # a wall clock that is set is no time to act
    assert await disk.look(later_us=ALARM_FIRST_US - US_PER_MIN) == 0
    disk.free = 1 << 50
    assert await disk.look() == 0  # somebody freed space, and it went again: a new day
    disk.free = TIGHT_MOST_BYTES - 1
    assert await disk.look(later_us=2 * US_PER_MIN) == 0
    assert await disk.look(later_us=ALARM_FIRST_US - US_PER_MIN) == 0
    assert await disk.look(later_us=US_PER_MIN) == 4 * 255
    assert [s.seq for s in disk.store.between(0, 1 << 62)] == [1, 2, 3, 4]
    assert said(disk.store) == [("store.thinned", "space")]
    assert disk.care.making_room
    assert disk.care.exhausted  # nothing is left, and still it is not enough
    assert await disk.look(later_us=US_PER_MIN) == 0
    disk.close()


async def test_a_low_floor_lowers_when_averaging_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, monkeypatch, floor_mib=40)
    disk.free = 5 * MIB
    for _ in range(3):
        assert await disk.look(later_us=US_PER_DAY) == 0
    disk.free -= 1
    assert disk.free > BRIM_BYTES
    assert await disk.look() == 4 * 255
    disk.close()


async def test_a_disk_that_is_about_to_be_full_is_not_waited_for_but_the_alarm_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, monkeypatch)
    disk.free = BRIM_BYTES - 1
    for _ in range(3):
        assert await disk.look(told=False, later_us=US_PER_DAY) == 0
    disk.care.told_of_space()
    assert await disk.look() == 4 * 255
    disk.close()


async def test_a_file_with_room_inside_averages_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, monkeypatch)
    disk.free = 0
    monkeypatch.setattr(disk.store.thinner, "reserve_bytes", lambda: RESERVE_BYTES)
    for n in (1, 2):
        (tmp_path / f"replay.sqlite.damaged-{n}").write_bytes(b"x")
    for _ in range(3):
        assert await disk.look(later_us=US_PER_DAY) == 0
    assert not disk.care.exhausted
    assert not disk.care.making_room
    assert len(list(tmp_path.glob("*.damaged-*"))) == 2
    disk.close()


async def test_of_a_cgm_on_a_full_disk_the_newest_days_stay_and_their_gaps_can_be_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, monkeypatch)
    rng, disk.free = random.Random(3), 0
    made = [
        Sample(START_US + n * 5 * US_PER_MIN + rng.randrange(2 * US_PER_S), "cgm_mgdl", float(v), "cgm", n)
        for n, v in enumerate(rng.randrange(60, 250) for _ in range(7 * 288))
    ]
    missed = made.pop(-300)
    for at in range(0, len(made), 24):
        disk.clock.us = made[at : at + 24][-1].time_us
        disk.store.append(made[at : at + 24])
    assert await disk.look() == 0
    assert await disk.look() > 3 * 288 + 4 * 255
    raw = disk.store.between(disk.clock.us - US_PER_DAY, 1 << 62, ["cgm_mgdl"])
    assert len(raw) >= 288 - 1
    widths = {one.kind: one.width_us for _, record in disk.store.thinner.read(0, 9) for one in record}
    assert widths == {"heart_rate_bpm": FINE_US, "cgm_mgdl": COARSE_US}
    assert disk.store.append([msgspec.structs.replace(missed, quality=int(Quality.BACKFILLED))])
    assert await disk.look() == 0  # bounded: nothing is looked at in vain
    assert disk.store.check().ok
    disk.close()


async def test_older_damaged_files_go_before_any_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, monkeypatch)
    names = ["damaged-1", "damaged-1-wal", "damaged-2", "damaged-3", "damaged-1-whole", "damaged-log-1"]
    for name in names:
        (tmp_path / f"replay.sqlite.{name}").write_bytes(b"x")
    monkeypatch.setattr(
        disk.store.thinner,
        "free_bytes",
        lambda: disk.free if (tmp_path / "replay.sqlite.damaged-2").exists() else 30 * MIB,
    )
    disk.free = 0
    assert await disk.look() == 0
    assert await disk.look() == 0
    left = {p.name.removeprefix("replay.sqlite.") for p in tmp_path.glob("*.damaged-*")}
    assert left == {"damaged-3", "damaged-1-whole", "damaged-log-1"}
    assert said(disk.store) == [("store.damaged_files_removed", "space")]
    assert "replay.sqlite.damaged-1, replay.sqlite.damaged-2" in disk.store.journal(0, 9)[0]
    assert len(disk.store.read(0, 9999)) == 4 * 256
    disk.close()


async def test_in_the_hub_the_alarm_is_up_before_the_first_reading_is_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, _ = make_hub(tmp_path, HandClock())
    fill(hub.store)
    monkeypatch.setattr(hub.store.thinner, "free_bytes", lambda: BRIM_BYTES - 1)
    thin, alarmed = hub.store.thinner.thin, list[bool]()

    def watched(*args: object, **more: object) -> int | None:
        alarmed.append("store_space" in hub.alarms.active)
        return thin(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(hub.store.thinner, "thin", watched)
    care = asyncio.create_task(hub.care.run())
    await until(lambda: hub.care.space_low and hub.care._begun)
    assert hub.care.thinned == 0
    assert "or old readings must become averages" in "\n".join(status_lines(hub.view.status(hub)))
    alarms = asyncio.create_task(hub._run_alarms())
    await until(lambda: hub.care.thinned > 0)
    for part in (care, alarms):
        part.cancel()
    await asyncio.gather(care, alarms, return_exceptions=True)
    assert alarmed
    assert all(alarmed)
    assert len(hub.store.between(0, 1 << 62, ["bolus_u"])) == 4
    hub.thread.close()
    hub.store.close()
