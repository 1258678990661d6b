"""A damaged store in a running house: what the cloud had acknowledged is in the hub again, once, and no alarm knows of it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import msgspec
import pytest

from core.messages import Quality, Sample
from core.units import US_PER_DAY, US_PER_MIN
from edge.demo.layout import HUB_ID
from edge.store.journal import read_line
from edge.store.store import FOLD_SAMPLES, Store
from tests.edge.store.test_tamper import sql
from tests.system.faults.ledger import EVERYTHING
from tests.system.stack import Stack, running_stack

pytestmark = pytest.mark.system
START = "2023-11-09T12:00"
LOW_MGDL = 41.5  # told nowhere but in what is lost


def past(start_us: int) -> list[Sample]:
    """Days of before, which no sensor remembers: a strap's beats, lows, and a meal that was corrected and taken back."""
    made: list[Sample] = []
    for n in range(FOLD_SAMPLES * 3):
        time_us = start_us - 3 * US_PER_DAY + n * 5 * US_PER_MIN
        if n % 2:
            made.append(Sample(time_us, "heart_rate_bpm", float(50 + n % 90), "strap", time_us))
        else:
            made.append(Sample(time_us, "cgm_mgdl", LOW_MGDL, "cgm", time_us // US_PER_MIN))
    by_hand, number = int(Quality.BY_HAND), start_us // 1000 - 10**9
    at_us = made[FOLD_SAMPLES].time_us
    meals = [
        Sample(at_us, "carbs_g", 30.0, "hand", number, by_hand),
        Sample(at_us, "carbs_g", 33.0, "hand", number + 1, by_hand, amends=("hand", number)),
        Sample(at_us, "carbs_g", 0.0, "hand", number + 2, by_hand, amends=("hand", number + 1), deleted=True),
    ]
    return [*made[: FOLD_SAMPLES + 9], *meals, *made[FOLD_SAMPLES + 9 :]]


def opened(stack: Stack) -> Store:
    folder = stack.layout.hub_toml.parent
    (folder / "state").mkdir(mode=0o700, exist_ok=True)
    key = (folder / "store.key").read_bytes()
    return Store.open(folder / "state" / "replay.sqlite", key, hub_id=HUB_ID, clock=stack.clock)


def told(sample: Sample) -> Sample:
    """Without how and when it reached the store."""
    quality = sample.quality & ~(Quality.RETURNED | Quality.BACKFILLED)
    return msgspec.structs.replace(sample, quality=quality, received_us=0, steady_us=0)


async def stopped(stack: Stack) -> Store:
    """The hub is ended, and its store opened in its place."""
    stack.group.kill("hub", signal.SIGTERM, hold=True)
    process = stack.group.children["hub"].process
    assert process is not None
    await process.wait()
    return opened(stack)


@pytest.mark.timeout(240)
async def test_what_damage_took_comes_back_from_the_cloud_once_and_rings_nothing(
    tmp_path: Path, recording_2307: Path
) -> None:
    async with running_stack(
        tmp_path, recording=recording_2307, speed=600, length="1d", start=START
    ) as stack:
        stack.parts = ("broker", "cloud", "air", "sensors", "hub")
        with opened(stack) as store:
            lived = past(stack.start_us)
            for at in range(0, len(lived), FOLD_SAMPLES):
                store.append(lived[at : at + FOLD_SAMPLES])
            path = store.path
        await stack.start()
        await stack.when(
            "the cloud has it, and sensors speak",
            lambda s: (
                s["sync"]["pending"] == 0
                and s["sync"]["sent_through_row"] >= len(lived) + 4
                and {"cgm_mgdl", "heart_rate_bpm"} <= set(s["readings"])
            ),
        )
        with await stopped(stack) as store:
            before = [s for _, s in store.read(0, EVERYTHING)]
        sql(path, f"UPDATE segments SET sealed = zeroblob(64) WHERE number = {FOLD_SAMPLES + 1}")
        await stack.group.release("hub")
        status = await stack.when(
            "all is back",
            lambda s: (
                s["store"]["repair"] and s["store"]["cloud"]["came"] and not s["store"]["cloud"]["asks"]
            ),
        )
        assert status["store"]["cloud"]["came"] == FOLD_SAMPLES == status["store"]["repair"]["rows_lost"]
        assert "store_repaired" in [alarm["name"] for alarm in status["alarms"]["active"]]
        assert status["readings"]["cgm_mgdl"]["value"] != LOW_MGDL
        alarms = [*status["alarms"]["active"], *status["alarms"]["recent"]]
        assert LOW_MGDL not in [alarm["value"] for alarm in alarms]
        await stack.when("and was told again", lambda s: s["sync"]["pending"] == 0)
        rows = await asyncio.to_thread(stack.cloud_rows, ("cgm_mgdl", "heart_rate_bpm", "carbs_g"))
        with await stopped(stack) as store:
            after = [s for _, s in store.read(0, EVERYTHING)]
            standing = store.between(0, stack.start_us, ("carbs_g",))
            lines = [read_line(line) for line in store.journal(0, EVERYTHING)]
        lost = {s.key: told(s) for s in before[FOLD_SAMPLES : 2 * FOLD_SAMPLES]}
        returned = [s for s in after if s.quality & Quality.RETURNED]
        assert {s.key: told(s) for s in returned} == lost
        assert len({s.key for s in after}) == len(after)
        assert set(map(told, before)) <= set(map(told, after))
        assert [s for s in standing if s.source == "hand"] == []  # the deletion came back as well
        assert [e.detail for e in lines if e.what == "store.refilled"] == [{"returned": FOLD_SAMPLES}]
        assert len({(r.source, r.kind, r.seq) for r in rows}) == len(rows)
        assert not any(r.quality & Quality.RETURNED for r in rows)  # the cloud knew them by their keys
