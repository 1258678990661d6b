"""One hub among its neighbours: the engine away, entries by hand, the cloud's answers, a second hub."""

from __future__ import annotations

import asyncio
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiomqtt
import psutil
import pytest

from core.units import US_PER_H
from edge.demo.layout import HUB_ID
from edge.demo.processes import this_command
from sync.envelope import Command, seal_command
from tests.system.stack import Stack, recorded, running_stack

pytestmark = pytest.mark.system
# Participant 2307 has highs on this afternoon, so threshold alarms must ring.
START = "2023-11-09T12:00"


def hometwin(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line, with the demo's clock."""
    return subprocess.run(
        [sys.executable, "-m", "hometwin", *words, "--config", str(stack.layout.hub_toml)],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(stack.group.environ),
    )


@pytest.mark.timeout(240)
async def test_without_the_engine_the_hub_collects_and_warns_and_later_feeds_it_the_backlog(
    tmp_path: Path, recording_2307: Path
) -> None:
    async with running_stack(
        tmp_path, recording=recording_2307, speed=600, length="8h", start=START
    ) as stack:
        stack.parts = ("broker", "air", "sensors", "engine", "hub")
        await stack.start()
        await stack.when("engine up", lambda s: s["engine"]["up"] and s["engine"]["row"] > 0)
        stack.group.kill("engine", signal.SIGKILL, hold=True)
        away = await stack.when("engine down", lambda s: not s["engine"]["up"])
        status = await stack.when(
            "readings and alarms without the engine",
            lambda s: s["engine"]["rows"] > away["engine"]["rows"] + 30 and rung(s, away["now_us"]),
        )
        assert not status["engine"]["up"]
        assert status["engine"]["row"] <= away["engine"]["rows"]
        await stack.when("shown on the watch", lambda s: s["counters"].get("alarm.shown", 0) > 0)
        await stack.group.release("engine")
        status = await stack.when(
            "backlog fed", lambda s: s["engine"]["up"] and s["engine"]["row"] == s["engine"]["rows"]
        )
        assert status["forecast"] is not None
        levels = [
            line.split()[1] for line in (stack.layout.sensor_state / "watch.log").read_text().splitlines()
        ]
        assert {"1", "2"} & set(levels)


def rung(status: dict[str, Any], after_us: int) -> bool:
    """A threshold alarm was raised since then."""
    return any(
        a["raised"] and a["time_us"] > after_us and a["name"] in ("low", "urgent_low", "high", "urgent_high")
        for a in status["alarms"]["recent"]
    )


@pytest.mark.timeout(240)
async def test_an_engine_that_hangs_does_not_stop_the_hub(tmp_path: Path, recording_2307: Path) -> None:
    async with running_stack(
        tmp_path, recording=recording_2307, speed=600, length="8h", start=START
    ) as stack:
        stack.parts = ("broker", "air", "sensors", "engine", "hub")
        await stack.start()
        await stack.when("engine up", lambda s: s["engine"]["up"] and s["engine"]["row"] > 0)
        stack.group.kill("engine", signal.SIGSTOP)
        before = await asyncio.to_thread(stack.status)
        await stack.when("readings go on", lambda s: s["engine"]["rows"] > before["engine"]["rows"] + 30)
        stack.group.kill("engine", signal.SIGCONT)
        await stack.when("engine catches up", lambda s: s["engine"]["row"] == s["engine"]["rows"])


@pytest.mark.timeout(240)
async def test_entries_by_hand_reach_the_cloud_with_their_corrections(
    tmp_path: Path, recording_2307: Path
) -> None:
    async with running_stack(tmp_path, recording=recording_2307, speed=60, length="6h", start=START) as stack:
        await stack.start()
        await stack.when("connected", lambda s: s["sync"]["connected"] and "cgm_mgdl" in s["readings"])
        meal = await asyncio.to_thread(hometwin, stack, "log", "carbs", "45")
        assert meal.returncode == 0, meal.stderr
        name = meal.stdout.split()[-1]
        assert name.startswith("hand:")
        for words in (("log", "carbs", "40", "--replace", name), ("log", "bolus", "4")):
            assert (await asyncio.to_thread(hometwin, stack, *words)).returncode == 0
        for words, says in (
            (("log", "carbs", "5000"), "outside"),
            (("log", "carbs", "5", "--at", "noon"), "cannot read the time"),
            (("log", "carbs", "5", "--at", "2050-01-01T00:00"), "future"),
        ):
            refused = await asyncio.to_thread(hometwin, stack, *words)
            assert (refused.returncode, says in refused.stderr) == (2, True), refused.stderr
        await command_over_mqtt(stack, {"kind": "carbs_g", "value": 12})
        await stack.when("command taken", lambda s: s["counters"].get("hand.entries", 0) >= 4)
        # Not "nothing pending": readings go on, and on a busy machine something always is.
        await stack.when(
            "entries in the cloud",
            lambda _: (
                sum(r.source in ("hand", "command") for r in stack.cloud_rows(("carbs_g", "bolus_u"))) >= 4
            ),
        )
        rows = await asyncio.to_thread(stack.cloud_rows, ("carbs_g", "bolus_u"))
        by_hand = [(r.kind, r.value) for r in rows if r.source == "hand"]
        assert by_hand == [("carbs_g", 45.0), ("carbs_g", 40.0), ("bolus_u", 4.0)]
        assert [(r.kind, r.value, r.seq) for r in rows if r.source == "command"] == [("carbs_g", 12.0, 77)]


async def command_over_mqtt(stack: Stack, request: dict[str, Any]) -> None:
    """A sealed hand entry, sent twice, and one in clear that must do nothing."""
    hub = stack.layout.hub_toml.parent
    key = (hub / "envelope.key").read_bytes()
    sealed = seal_command(key, HUB_ID, Command(77, stack.clock.now_us(), {"do": "log", **request}))
    tls = ssl.create_default_context(cafile=str(hub / "ca.crt"))
    tls.load_cert_chain(hub / "client.crt", hub / "client.key")
    async with aiomqtt.Client(
        "127.0.0.1",
        stack.layout.broker_port,
        identifier="home-automation",
        tls_context=tls,
        protocol=aiomqtt.ProtocolVersion.V5,
    ) as client:
        for payload in (sealed, sealed, b'{"kind": "carbs_g", "value": 99}'):
            await client.publish(f"hometwin/{HUB_ID}/cmd", payload, qos=1)


@pytest.mark.timeout(240)
async def test_a_second_hub_on_the_same_store_is_told_so(tmp_path: Path, recording_2307: Path) -> None:
    async with running_stack(tmp_path, recording=recording_2307, speed=60, length="6h", start=START) as stack:
        stack.parts = ("air", "sensors", "hub")
        await stack.start()
        second = await asyncio.to_thread(hometwin, stack, "hub")
        assert second.returncode == 2
        assert "another process" in second.stderr, second.stderr
        assert "Traceback" not in second.stderr


@pytest.mark.timeout(240)
async def test_a_restarted_hub_keeps_bonds_record_and_alarms(tmp_path: Path, recording_2307: Path) -> None:
    async with running_stack(
        tmp_path, recording=recording_2307, speed=300, length="8h", start=START
    ) as stack:
        stack.parts = ("broker", "air", "sensors", "hub")
        await stack.start()
        first = await stack.when(
            "live with an alarm on the disk (it rings before)",
            lambda s: (
                all(d["state"] == "live" for d in s["devices"].values())
                and s["alarms"]["active"]
                and s["counters"].get("alarm.kept", 0) >= len(s["alarms"]["recent"])
            ),
        )
        stack.group.kill("hub")
        after = await stack.when(
            "live again", lambda s: all(d["state"] == "live" for d in s["devices"].values()), timeout_s=90
        )
        assert after["engine"]["rows"] >= first["engine"]["rows"]
        assert after["counters"].get("pairing.refused", 0) == 0
        numbers = [a["number"] for a in after["alarms"]["recent"] if a["raised"]]
        assert len(numbers) == len(set(numbers))
        standing = {a["number"] for a in first["alarms"]["active"]}
        assert standing <= set(numbers), "an alarm that stood before the restart was forgotten"
        until_us = after["now_us"] + US_PER_H
        expected = [t for t, _ in recorded(recording_2307, "cgm_mgdl", stack.start_us, until_us)]
        assert len(expected) > 10
        await stack.when(
            "every reading before, during and after the restart",
            lambda s: s["now_us"] > until_us and [t for t, _ in s["trace"]][: len(expected)] == expected,
        )


@pytest.mark.timeout(120)
def test_ctrl_c_ends_the_demo_with_every_process(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [
            *this_command("demo"),
            "--speed",
            "300",
            "--for",
            "2d",
            "--dir",
            str(tmp_path),
            "--portal-port",
            free(),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert demo.stdout is not None
    said = []
    for line in demo.stdout:
        said.append(line)
        if "portal http" in line:
            break
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=60)
    text = "".join(said) + rest
    assert demo.returncode == 0, text
    assert "Traceback" not in text
    left = [
        p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])
    ]
    assert left == []


def free() -> str:
    from edge.demo.layout import free_port

    return str(free_port())
