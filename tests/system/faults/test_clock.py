"""The hub's clock jumps: by a day, by summer time, back before its own last shutdown. Nothing breaks, nothing lies."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from core.messages import Sample, encode
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge.config import HubConfig, RadioConfig
from edge.demo.view import age, data_age
from edge.engine_link import EngineLink
from edge.engine_messages import Answer, Ask, Done, Hello, Ready, ToEngine
from edge.export import export
from edge.frames import read_frame, write_frame
from edge.hub import Hub
from edge.status_text import status_lines
from edge.store.arrivals import RECEIVED_STEP_US
from edge.store.keys import create_key
from edge.store.store import Store
from edge.store_thread import StoreThread
from tests.edge.store.conftest import HUB, KEY, START_US, FixedClock
from tests.edge.store.conftest import reading as numbered
from tests.edge.test_hub import HandClock, make_hub, reading

JUMPS_US = (0, US_PER_MIN, US_PER_H, -US_PER_H, US_PER_DAY, -US_PER_DAY, -400 * US_PER_DAY)
LONDON = ZoneInfo("Europe/London")


@pytest.mark.parametrize("seed", range(4))
def test_the_stores_order_and_numbers_rise_whatever_the_clock_does(path: Path, seed: int) -> None:
    rng, clock = random.Random(seed), FixedClock()
    given: list[tuple[Sample, int]] = []  # and what the clock said
    numbers: dict[str, list[int]] = {"outbox": [], "alarm": []}
    store = Store.open(path, KEY, hub_id=HUB, clock=clock)
    for _ in range(120):
        clock.us += rng.choice(JUMPS_US)
        if rng.randrange(10) == 0:  # booted anew, perhaps before its last shutdown
            store.close()
            store = Store.open(path, KEY, hub_id=HUB, clock=clock)
        # The sensors' own times do not jump; some arrive late.
        count = rng.choice((1, 1, 1, 60))
        first = len(given)
        new = [
            numbered(n, time_us=START_US + (n - rng.randrange(3) * 5) * US_PER_MIN)
            for n in range(first, first + count)
        ]
        assert len(store.append(new)) == count
        given += [(sample, clock.us) for sample in new]
        numbers["outbox"].append(store.enqueue(b"x", sample_row=store.last_row))
        numbers["alarm"].append(store.next_number("alarm"))
    store.close()
    with Store.open(path, KEY, hub_id=HUB, clock=clock) as store:
        assert store.check().ok
        rows = store.read(0, 1 << 30)
        assert [row for row, _ in rows] == list(range(1, len(given) + 1))
        for (_, kept), (sample, now_us) in zip(rows, given, strict=True):
            assert (kept.key, kept.time_us, kept.value) == (sample.key, sample.time_us, sample.value)
            assert 0 <= kept.received_us - now_us < RECEIVED_STEP_US
        times = [sample.time_us for sample, _ in given]
        between = store.between(min(times), max(times) + 1)
        assert [s.time_us for s in between] == sorted(times)
        assert [n for n, _ in store.pending(1 << 30)] == numbers["outbox"]
    for line in numbers.values():
        assert all(a < b for a, b in pairwise(line)), "a number came twice"


def test_both_times_of_arrival_are_kept_when_the_wall_clock_falls_back_a_day(tmp_path: Path) -> None:
    """Through folding, reopening and export: what the wall clock said, and how much time really passed."""
    radio = RadioConfig(adapter="bumble:tcp-client:127.0.0.1:1")
    config = HubConfig(hub_id="home", radio=radio, base=str(tmp_path))
    config.state.mkdir()
    key, clock = create_key(tmp_path / "store.key"), FixedClock(START_US + 40_000)
    booted_us = START_US - US_PER_H + 30_000  # by the wall clock, which is then set
    given: list[tuple[int, int]] = []

    def steady() -> int:
        return clock.us - booted_us

    for first, count in ((0, 1), (1, 1), (2, 300), (302, 5)):  # all but the first: after the jump
        with Store.open(config.store_path, key, hub_id="home", clock=clock) as store:
            store.arrivals.steady = steady
            for n in range(first, first + count):
                clock.us += 5 * US_PER_MIN
                store.append([numbered(n, time_us=START_US + n * 5 * US_PER_MIN)])
                given.append((clock.us, clock.us - booted_us))
        if first == 0:
            clock.us, booted_us = clock.us - US_PER_DAY, booted_us - US_PER_DAY
    with Store.open(config.store_path, key, hub_id="home", clock=clock) as store:
        rows = store.read(0, 1000)
        assert store.check().ok
    assert [(row, kept.seq) for row, kept in rows] == [(n + 1, n) for n in range(307)]
    for (_, kept), (wall_us, steady_us) in zip(rows, given, strict=True):
        assert 0 <= kept.received_us - wall_us < RECEIVED_STEP_US
        assert abs(kept.steady_us - steady_us) <= 1.5 * RECEIVED_STEP_US
    steps = [b.steady_us - a.steady_us for (_, a), (_, b) in pairwise(rows)]
    assert min(steps) > 4.9 * US_PER_MIN
    assert rows[1][1].received_us - rows[0][1].received_us == 5 * US_PER_MIN - US_PER_DAY
    export(config, tmp_path / "out")
    with (tmp_path / "out" / "samples.csv").open(encoding="utf-8", newline="") as file:
        told = [
            (int(row["row"]), datetime.fromisoformat(row["received"]), int(row["steady_us"]))
            for row in csv.DictReader(file)
        ]
    wanted = [(row, datetime.fromtimestamp(s.received_us / 1e6, UTC), s.steady_us) for row, s in rows]
    assert told == wanted


@contextlib.asynccontextmanager
async def living(folder: Path, clock: HandClock) -> AsyncIterator[Hub]:
    hub, _ = make_hub(folder, clock)
    yield hub
    hub.thread.close()
    hub.store.close()


def active(hub: Hub) -> set[str]:
    return set(hub.alarms.active)


async def tick(hub: Hub, clock: HandClock, minutes: int, steady: list[int]) -> None:
    """Time passes on both clocks, minute by minute, without a reading."""
    for _ in range(minutes):
        clock.us += US_PER_MIN
        steady[0] += US_PER_MIN
        await hub._act_on(hub.alarms.on_time(clock.now_us(), steady[0]))


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clock that never jumps, in the test's hand."""
    now = [10**15]
    monkeypatch.setattr(Hub, "_steady_us", lambda _hub: now[0])
    return now


@pytest.mark.parametrize("jump_us", [US_PER_DAY, -US_PER_DAY, US_PER_H, -US_PER_H])
async def test_after_a_jump_silence_is_noticed_and_the_next_low_rings(
    tmp_path: Path, steady: list[int], jump_us: int
) -> None:
    clock = HandClock()
    async with living(tmp_path, clock) as hub:
        await hub.take((reading(clock, 50),))
        assert active(hub) == {"urgent_low", "low"}
        await hub.take((later(clock, 120),))
        assert active(hub) == set()
        clock.us += jump_us
        await tick(hub, clock, 1, steady)
        assert not active(hub) - {"signal_loss"}, "an old reading rang"
        await tick(hub, clock, 25, steady)
        assert active(hub) == {"signal_loss"}
        await hub.take((reading(clock, 45),))
        assert active(hub) == {"urgent_low", "low"}
        raised = [a for a in hub.view.recent_alarms if a.raised and a.name == "low"]
        assert raised[-1].data_age_s == 0
        assert all(a.data_age_s >= 0 for a in hub.view.recent_alarms)
        line = [a.number for a in hub.view.recent_alarms]
        assert line == sorted(set(line))
        newest = hub.view.newest["cgm_mgdl"]
        assert (newest.value, newest.time_us) == (45, clock.us), "an older reading is shown as the newest"


def later(clock: HandClock, mgdl: float) -> Sample:
    clock.us += 5 * US_PER_MIN
    return reading(clock, mgdl)


async def test_a_reading_from_a_future_that_never_was_has_no_age_on_any_screen(
    tmp_path: Path, steady: list[int]
) -> None:
    clock = HandClock()
    async with living(tmp_path, clock) as hub:
        await hub.take((reading(clock, 120),))
        clock.us -= US_PER_DAY
        text = "\n".join(status_lines(hub.view.status(hub)))
        assert "measured an unknown time ago" in text
        assert "-" not in text.partition("glucose")[2].splitlines()[0]
    made = {"data_age_s": 60.0, "made_at_us": clock.us + US_PER_DAY}
    assert data_age({"now_us": clock.us}, made) == "from data an unknown time old"
    assert age(-20) == "0 s"  # clocks of sensors differ a little


async def test_a_hub_that_boots_before_its_last_shutdown_keeps_its_alarms_and_judges_what_comes(
    tmp_path: Path, steady: list[int]
) -> None:
    clock = HandClock()
    async with living(tmp_path, clock) as hub:
        await hub.take((reading(clock, 45),))
        standing = {a.number for a in hub.alarms.active.values()}
        stored = hub.store.read(0, 10)
    clock.us -= US_PER_DAY
    async with living(tmp_path, clock) as hub:
        assert hub.store.read(0, 10) == stored
        assert {a.number for a in hub.alarms.active.values()} == standing, "a standing alarm was forgotten"
        assert "cgm_mgdl" not in hub.view.newest, "a reading from its future is shown as the present"
        await hub.take((reading(clock, 120),))
        assert active(hub) == set()
        numbers = [a.number for a in hub.view.recent_alarms if not a.raised]
        assert min(numbers) > max(standing)


@pytest.mark.parametrize("night", ["2026-10-25", "2026-03-29"])
async def test_a_night_when_clocks_change_has_no_gap_and_no_double(
    tmp_path: Path, steady: list[int], night: str
) -> None:
    clock = HandClock()
    clock.us = round(datetime.fromisoformat(f"{night}T00:00").replace(tzinfo=LONDON).timestamp() * 1e6)
    start_us, taken = clock.us, 0
    async with living(tmp_path, clock) as hub:
        for _ in range(5 * 12):  # five hours, in which the local clock moves four or six
            await hub.take((reading(clock, 120),))
            taken += 1
            await tick(hub, clock, 5, steady)
            assert active(hub) == set()
        stored = hub.store.between(start_us, clock.us)
        assert [s.time_us for s in stored] == [start_us + n * 5 * US_PER_MIN for n in range(taken)]
        local = [datetime.fromtimestamp(s.time_us / 1e6, UTC).astimezone(LONDON) for s in stored]
        assert local[-1].utcoffset() != local[0].utcoffset()


async def test_the_engine_is_asked_anew_when_the_clock_was_set_back(tmp_path: Path) -> None:
    """Else its last answer, made in a future that never was, would stay on the screen until that time comes."""
    asked: asyncio.Queue[int] = asyncio.Queue()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (data := await read_frame(reader)) is not None:
            question = msgspec.msgpack.decode(data, type=ToEngine)
            if isinstance(question, Ask):
                asked.put_nowait(question.now_us)
            done = Ready(0, restored=False) if isinstance(question, Hello) else Done(0)
            await write_frame(writer, encode(Answer(None, None) if isinstance(question, Ask) else done))
        writer.close()

    async def ignore(_message: object) -> None:
        pass

    socket = tmp_path / "engine.sock"
    server = await asyncio.start_unix_server(engine, str(socket))
    clock, thread = HandClock(), StoreThread()
    with Store.open(tmp_path / "replay.sqlite", KEY, hub_id=HUB, clock=clock) as store:
        link = EngineLink(socket, store, thread, clock, "", Counter(), ignore, ignore, lambda _up: None)
        task = asyncio.create_task(link.run())
        async with asyncio.timeout(30):
            first_us = await asked.get()
            clock.us -= US_PER_DAY
            link.wake()
            assert await asked.get() == first_us - US_PER_DAY
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        thread.close()
    server.close()
