"""A week of a real person over Bluetooth, through twenty faults, into the cloud's database: exactly once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from core.errors import HometwinError
from tests.system.stack import Row, Stack, recorded, running_stack, sfloat_step

SPEED = float(os.environ.get("HOMETWIN_SYSTEM_SPEED", "2000"))
SEED = int(os.environ.get("HOMETWIN_SYSTEM_SEED", "20260105"))
HUB_RSS_LIMIT_MIB = 60.0

pytestmark = pytest.mark.system


def fault_plan(stack: Stack, rng: random.Random) -> list[tuple[str, Callable[[], Awaitable[object]]]]:
    """Twenty faults: each kind at least twice, in random order."""

    def drop(device: str) -> Callable[[], Awaitable[object]]:
        return lambda: stack.sensors_do(device, "drop")

    def kill(name: str, sig: signal.Signals = signal.SIGKILL) -> Callable[[], Awaitable[object]]:
        async def act() -> None:
            stack.group.kill(name, sig)

        return act

    def away(device: str) -> Callable[[], Awaitable[object]]:
        async def act() -> None:
            await stack.sensors_do(device, "out_of_range")
            await asyncio.sleep(rng.uniform(0.5, 3.0))
            await stack.sensors_do(device, "in_range")

        return act

    faults = [(f"drop {d}", drop(d)) for d in ("cgm", "pump", "meter", "strap", "cgm")]
    faults += [(f"{d} out of range", away(d)) for d in ("cgm", "meter")]
    faults += [("kill sensors", kill("sensors"))] * 3
    faults += [("kill hub", kill("hub"))] * 4
    faults += [("kill engine", kill("engine"))] * 2
    faults += [("restart broker", kill("broker", signal.SIGTERM)), ("kill broker", kill("broker"))]
    faults += [("restart cloud", kill("cloud", signal.SIGTERM)), ("kill cloud", kill("cloud"))]
    rng.shuffle(faults)
    assert len(faults) == 20
    return faults


@pytest.mark.timeout(1200)
async def test_a_week_with_twenty_faults_reaches_the_cloud_exactly_once_and_in_order(
    tmp_path: Path, recording_2307: Path
) -> None:
    rng = random.Random(SEED)
    print(f"seed {SEED}, speed {SPEED:g}")
    async with running_stack(
        tmp_path, recording=recording_2307, speed=SPEED, length="7d", start="2023-11-06T00:00"
    ) as stack:
        await stack.start()
        faults = fault_plan(stack, rng)
        real_s = (stack.end_us - stack.clock.now_us()) / 1e6 / SPEED
        times_s = sorted(rng.uniform(0.04, 0.96) * real_s for _ in faults)
        began_s = time.monotonic()
        rss_mib = 0.0
        for at_s, (name, act) in zip(times_s, faults, strict=True):
            await asyncio.sleep(max(0.0, began_s + at_s - time.monotonic()))
            rss_mib = max(rss_mib, resident_mib(stack, "hub"))
            print(f"{time.monotonic() - began_s:6.1f} s  {name}")
            await act()
        while stack.clock.now_us() < stack.end_us:  # noqa: ASYNC110  # a clock has no event
            await asyncio.sleep(0.5)

        expected = {
            kind: recorded(recording_2307, kind, stack.start_us, stack.end_us)
            for kind in ("cgm_mgdl", "bolus_u", "carbs_g", "basal_uph")
        }
        assert len(expected["cgm_mgdl"]) > 1900  # the recording holds what this test is about
        assert len(expected["bolus_u"]) > 50
        assert len(expected["carbs_g"]) > 20
        rows = await settled(stack, {kind: len(rows) for kind, rows in expected.items()})
        for kind, unit in (("cgm_mgdl", 1.0), ("bolus_u", 1.0), ("carbs_g", 1000.0), ("basal_uph", 1.0)):
            check_exactly_once(kind, [r for r in rows if r.kind == kind], expected[kind], unit)
        check_order_per_source(rows)
        check_heart_rate(stack, recording_2307)
        status = await stack.when(
            "engine up", lambda s: s["engine"]["up"] and s["engine"]["row"] == s["engine"]["rows"]
        )
        check_loop_closed(stack, status)
        print(f"{len(rows)} records, hub at most {rss_mib:.1f} MiB resident")
        assert rss_mib < HUB_RSS_LIMIT_MIB


async def settled(stack: Stack, counts: dict[str, int]) -> list[Row]:
    """The cloud's rows once all expected ones are there (or time is up: then the comparison tells)."""
    deadline_s = time.monotonic() + 180
    rows: list[Row] = []
    while time.monotonic() < deadline_s:
        rows = await asyncio.to_thread(stack.cloud_rows, tuple(counts))
        if all(sum(r.kind == kind for r in rows) >= n for kind, n in counts.items()):
            try:
                if (await asyncio.to_thread(stack.status))["sync"]["pending"] == 0:
                    break
            except HometwinError:
                pass
        await asyncio.sleep(0.5)
    return rows


def check_exactly_once(kind: str, rows: list[Row], expected: list[tuple[int, float]], unit: float) -> None:
    got = sorted((r.time_us, r.value) for r in rows)
    missing = sorted({t for t, _ in expected} - {t for t, _ in got})
    invented = sorted({t for t, _ in got} - {t for t, _ in expected})
    assert not missing, (
        f"{kind}: {len(missing)} of {len(expected)} records are missing, first at {missing[0]}"
    )
    assert not invented, f"{kind}: {len(invented)} records were invented, first at {invented[0]}"
    assert len(got) == len(expected), f"{kind}: {len(got)} records for {len(expected)}"
    for (time_us, value), (_, original) in zip(got, expected, strict=True):
        assert abs(value - original) <= sfloat_step(original, unit), f"{kind} at {time_us} changed on its way"


def check_order_per_source(rows: list[Row]) -> None:
    last: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row.source, row.kind)
        assert row.seq > last.get(key, -1), f"{key} out of order at row {row.row}"
        last[key] = row.seq


def check_heart_rate(stack: Stack, recording: Path) -> None:
    """A strap has no memory: beats may be lost with the link, but none is invented."""
    heard = stack.cloud_rows(("heart_rate_bpm",))
    sent = recorded(recording, "heart_rate_bpm", stack.start_us, stack.end_us)
    assert len(heard) > len(sent) * 0.3
    values = {round(v) for _, v in sent}
    assert {round(r.value) for r in heard} <= values
    times = [r.time_us for r in heard]
    assert times == sorted(times)


def check_loop_closed(stack: Stack, status: dict[str, object]) -> None:
    """Forecasts were made, alarms rang on the watch, a prior and a piece of advice came back."""
    forecast, prior, advice = status["forecast"], status["prior"], status["advice"]
    assert isinstance(forecast, dict)
    assert all(low < high for low, high in zip(forecast["p05"], forecast["p95"], strict=True))
    assert isinstance(prior, dict)
    assert prior["version"] >= 1
    assert isinstance(advice, list)
    assert advice, "no advice came back"
    assert "demo" in advice[-1]["approved_by"]
    rung = (stack.layout.sensor_state / "watch.log").read_text().splitlines()
    assert any(line.split()[1] in ("1", "2") for line in rung)


def resident_mib(stack: Stack, name: str) -> float:
    """Resident memory of a child, in MiB; 0 while it is away."""
    process = stack.group.children[name].process
    try:
        assert process is not None
        text = Path(f"/proc/{process.pid}/status").read_text()
    except (OSError, AssertionError):
        return 0.0
    lines = [line for line in text.splitlines() if line.startswith("VmRSS")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0
