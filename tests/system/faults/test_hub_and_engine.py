"""Twenty kills of the real hub and engine under load, and a hub that starts a day early and a day late.

``python -m bench faults`` makes it 200 (HOMETWIN_PROCESS_KILLS), which takes some ten minutes.
After each kill of the hub its store is opened and compared with the recording that the sensors play: what was
acknowledged is there, in the same rows as before, and nothing else is.
"""

from __future__ import annotations

import asyncio
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from core.errors import WrongKeyError
from core.messages import Sample
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge.demo.layout import HUB_ID
from edge.store.store import Store
from tests.system.faults.ledger import EVERYTHING, Figures, asked, facts
from tests.system.stack import Stack, recorded, running_stack, sfloat_step

pytestmark = pytest.mark.system
KILLS = asked("PROCESS_KILLS", 20)
SEED = asked("FAULT_SEED", 20260101)
SPEED = 1200.0
LENGTH = f"{8 + KILLS // 5}d"  # more than the kills need; the test ends with them
START = "2023-11-06T00:00"
UNITS = {"cgm_mgdl": 1.0, "bolus_u": 1.0, "carbs_g": 1000.0, "basal_uph": 1.0}


@dataclass
class Watch:
    """The store between two lives of the hub."""

    stack: Stack
    truth: dict[
        str, dict[int, list[float]]
    ]  # kind -> time -> values: some pumps note two rates in one minute
    rows: list[Sample] = field(default_factory=list)
    checked: int = 0

    def look(self, acknowledged: int) -> None:
        """Compare; ``acknowledged``: the rows that the hub said it had."""
        folder = self.stack.layout.hub_toml.parent
        path, key = folder / "state" / "replay.sqlite", (folder / "store.key").read_bytes()
        with pytest.raises(WrongKeyError):
            Store.open(path, bytes(32), hub_id=HUB_ID, clock=self.stack.clock)
        with Store.open(path, key, hub_id=HUB_ID, clock=self.stack.clock) as store:
            report = store.check()
            assert report.ok, report.first_bad
            found = store.read(0, EVERYTHING)
        assert [row for row, _ in found] == list(range(1, len(found) + 1))
        assert len(found) >= acknowledged, f"{acknowledged - len(found)} acknowledged samples are lost"
        samples = [sample for _, sample in found]
        same = samples[: len(self.rows)]
        assert [facts(s) for s in same] == [facts(s) for s in self.rows], "stored rows have changed"
        assert len({s.key for s in samples}) == len(samples), "a record is there twice"
        for sample in samples[len(self.rows) :]:
            if sample.kind in self.truth:
                values = self.truth[sample.kind].get(sample.time_us, [])
                assert any(abs(sample.value - v) <= sfloat_step(v, UNITS[sample.kind]) for v in values), (
                    f"a {sample.kind} record was invented"
                )
        self.checked += len(found)
        self.rows = samples

    def complete_until(self, time_us: int) -> None:
        """Every reading of the recording up to then is there, once and in its order."""
        got = [s.time_us for s in self.rows if s.kind == "cgm_mgdl" and s.time_us <= time_us]
        assert got == sorted(t for t in self.truth["cgm_mgdl"] if t <= time_us)


def shifted(clock_text: str, by_us: int) -> str:
    """The same clock, off by so much."""
    speed, real_epoch_us, twin_epoch_us = clock_text.split(",")
    return f"{speed},{real_epoch_us},{int(twin_epoch_us) + by_us}"


async def kill_hub(stack: Stack, watch: Watch, acknowledged: int, by_us: int = 0) -> None:
    """Kill the hub, look at its store, start it again with its clock off by ``by_us``."""
    stack.group.kill("hub", signal.SIGKILL, hold=True)
    process = stack.group.children["hub"].process
    assert process is not None
    await process.wait()
    # Not in a thread: the engine is started meanwhile, and until it is itself that fork of ours would hold the lock.
    watch.look(acknowledged)
    right = dict(stack.group.environ)
    stack.group.environ = {**right, "HOMETWIN_CLOCK": shifted(right["HOMETWIN_CLOCK"], by_us)}
    await stack.group.release("hub")
    stack.group.environ = right


@pytest.mark.timeout(300 + 30 * KILLS)
async def test_kills_and_wrong_clocks_lose_nothing_acknowledged_and_invent_nothing(
    tmp_path: Path, recording_2307: Path, figures: Figures
) -> None:
    rng = random.Random(SEED)
    async with running_stack(
        tmp_path, recording=recording_2307, speed=SPEED, length=LENGTH, start=START
    ) as stack:
        stack.parts = ("broker", "air", "sensors", "engine", "hub")
        await stack.start()
        truth: dict[str, dict[int, list[float]]] = {kind: {} for kind in UNITS}
        for kind, by_time in truth.items():
            for time_us, value in recorded(recording_2307, kind, stack.start_us, stack.end_us):
                by_time.setdefault(time_us, []).append(value)
        watch = Watch(stack, truth)
        working = 0
        for pair in range(KILLS // 2):
            status = await new_rows(stack, len(watch.rows), f"before kill {2 * pair}")
            if pair % 2:  # else it is killed wherever it is, also while it starts
                await stack.when("the engine is up", lambda s: s["engine"]["up"], 120)
                working += 1
            await asyncio.sleep(rng.random() * 0.3)  # anywhere in what it does
            stack.group.kill("engine", signal.SIGKILL)
            status = await new_rows(stack, status["engine"]["rows"], "without the engine")
            await asyncio.sleep(rng.random() * 0.3)
            await kill_hub(stack, watch, status["engine"]["rows"])
        await a_day_behind(stack, watch)
        await a_day_ahead(stack, watch)
        # Its clock is right again: it has fetched whatever it could not take or date meanwhile.
        until_us = stack.clock.now_us()
        await stack.when(
            "the newest reading again",
            lambda s: s["readings"].get("cgm_mgdl", {}).get("time_us", 0) >= until_us,
            120,
        )
        await stack.when("the engine has all of it", lambda s: s["engine"]["row"] == s["engine"]["rows"], 180)
        status = await asyncio.to_thread(stack.status)
        assert honest(status)
        stack.group.kill("hub", signal.SIGKILL, hold=True)
        process = stack.group.children["hub"].process
        assert process is not None
        await process.wait()
        watch.look(status["engine"]["rows"])
        watch.complete_until(until_us)
        figures(
            f"seed {SEED}: {KILLS // 2 * 2} kills survived ({KILLS // 2} of the hub, {KILLS // 2} of the engine, {working} "
            f"surely while it worked) and 2 wrong clocks; {len(watch.rows)} records at the end, "
            f"{watch.checked} records checked",
            kills=KILLS // 2 * 2,
            records=watch.checked,
        )


async def new_rows(stack: Stack, than: int, why: str) -> dict[str, Any]:
    """Wait until the hub has stored more rows; its status."""
    return await stack.when(f"new rows {why}", lambda s: s["engine"]["rows"] > than, 120)


def honest(status: dict[str, Any]) -> bool:
    """No number on display comes from the future, and none is shown as new that is not."""
    now_us = status["now_us"]
    forecast = status["forecast"]
    readings = all(r["age_s"] > -300 for r in status["readings"].values())
    if forecast is None:
        return readings
    age_s = forecast["data_age_s"]  # null: no reading at all
    as_new = forecast["status"] == "ok" and forecast["made_at_us"] > now_us - US_PER_H
    # Of what it rests on. The newest reading on display may be older than that while a clock is behind: the engine then
    # comes upon readings that the store had before.
    return readings and not (as_new and (age_s is None or age_s > 2 * 3600))


async def a_day_behind(stack: Stack, watch: Watch) -> None:
    """A Pi without a clock chip boots before its own last shutdown: it takes nothing that lies in its future."""
    status = await stack.when("new rows", lambda s: s["engine"]["rows"] > len(watch.rows), 120)
    await kill_hub(stack, watch, status["engine"]["rows"], -US_PER_DAY)
    wrong = await stack.when(
        "it notices the silence",
        lambda s: "signal_loss" in [a["name"] for a in s["alarms"]["active"]],
        120,
    )
    assert abs(wrong["now_us"] + US_PER_DAY - stack.clock.now_us()) < 4 * US_PER_H
    assert honest(wrong), wrong["readings"]
    await kill_hub(stack, watch, wrong["engine"]["rows"])
    await stack.when("it takes readings again", lambda s: s["engine"]["rows"] > len(watch.rows), 120)


async def a_day_ahead(stack: Stack, watch: Watch) -> None:
    """A wrong time from the network: what comes is a day old by that clock, and said to be."""
    status = await asyncio.to_thread(stack.status)
    await kill_hub(stack, watch, status["engine"]["rows"], US_PER_DAY)
    wrong = await stack.when(
        "a forecast that says how old its data are",
        lambda s: (
            s["forecast"] is not None
            and s["forecast"]["made_at_us"] > stack.clock.now_us() + US_PER_DAY // 2
            and "signal_loss" in [a["name"] for a in s["alarms"]["active"]]
        ),
        120,
    )
    age_s = wrong["forecast"]["data_age_s"]
    assert age_s is None or age_s > 20 * 3600
    assert wrong["forecast"]["status"] != "ok"
    assert honest(wrong)
    await kill_hub(stack, watch, wrong["engine"]["rows"])
    await stack.when(
        "it is at home in its time again",
        lambda s: (
            s["readings"].get("cgm_mgdl", {}).get("age_s", 1e9) < 15 * 60
            and s["now_us"] < stack.clock.now_us() + US_PER_MIN
        ),
        120,
    )
