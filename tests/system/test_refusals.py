"""What must be refused is refused: with a clear error, a counter, and everything else going on."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import ssl
import subprocess
import sys
from pathlib import Path

import aiomqtt
import pytest

from edge.demo.layout import HUB_ID
from edge.demo.processes import this_command
from sync.provision import provision
from tests.system.stack import Stack, recorded, running_stack

pytestmark = pytest.mark.system
START = "2023-11-06T12:00"


async def start_without_cloud(stack: Stack) -> None:
    """Everything but the cloud: these tests are about the hub."""
    stack.parts = ("broker", "air", "sensors", "engine", "hub")
    await stack.start()


@pytest.mark.timeout(180)
async def test_a_wrong_passkey_is_refused_and_the_other_devices_go_on(
    tmp_path: Path, recording_2307: Path
) -> None:
    async with running_stack(
        tmp_path, recording=recording_2307, speed=200, length="12h", start=START
    ) as stack:
        hub_toml = stack.layout.hub_toml
        hub_toml.write_text(hub_toml.read_text().replace("passkey = 123456", "passkey = 999999"))
        await start_without_cloud(stack)
        status = await stack.when(
            "pairing refused, pump live",
            lambda s: s["counters"].get("pairing.refused", 0) > 0 and s["devices"]["pump"]["state"] == "live",
        )
        assert status["devices"]["cgm"]["state"] != "live"
        assert "cgm_mgdl" not in status["readings"]
        reason = status["devices"]["cgm"]["reason"]
        assert "passkey" in reason, reason


@pytest.mark.timeout(180)
async def test_truncated_and_damaged_notifications_are_counted_and_fetched_again_whole(
    tmp_path: Path, recording_2307: Path
) -> None:
    async with running_stack(
        tmp_path, recording=recording_2307, speed=600, length="6h", start=START
    ) as stack:
        await start_without_cloud(stack)
        await stack.when(
            "cgm live", lambda s: s["devices"]["cgm"]["state"] == "live" and "cgm_mgdl" in s["readings"]
        )
        assert (await stack.sensors_do("cgm", "truncate_next", n=2))["ok"]
        await stack.when("truncations counted", lambda s: counted(s, "decode_error.") >= 2)
        assert (await stack.sensors_do("cgm", "bad_crc_next", n=1))["ok"]
        await stack.when("bad CRC counted", lambda s: counted(s, "decode_error.") >= 3)
        expected = recorded(recording_2307, "cgm_mgdl", stack.start_us, stack.end_us)
        await stack.when(
            "every reading arrived",
            lambda s: s["now_us"] > stack.end_us and len(trace_times(s)) >= len(expected),
        )
        status = await asyncio.to_thread(stack.status)
        assert trace_times(status) == [t for t, _ in expected]


def counted(status: dict[str, dict[str, int]], prefix: str) -> int:
    """The sum of all counters whose names begin so."""
    return sum(n for name, n in status["counters"].items() if name.startswith(prefix))


def trace_times(status: dict[str, list[tuple[int, float]]]) -> list[int]:
    return [t for t, _ in status["trace"]]


@pytest.mark.timeout(180)
async def test_a_hub_with_a_foreign_certificate_is_refused_by_the_broker_and_goes_on_collecting(
    tmp_path: Path, recording_2307: Path
) -> None:
    foreign = tmp_path / "foreign"
    provision(foreign, [HUB_ID], "127.0.0.1", 8883)
    async with running_stack(
        tmp_path / "demo", recording=recording_2307, speed=200, length="12h", start=START
    ) as stack:
        for name in ("client.crt", "client.key"):
            shutil.copy(foreign / "hubs" / HUB_ID / name, stack.layout.hub_toml.parent / name)
        await start_without_cloud(stack)
        status = await stack.when(
            "refused by the broker, readings stored",
            lambda s: bool(s["sync"]["problem"]) and "cgm_mgdl" in s["readings"],
        )
        assert not status["sync"]["connected"]
        assert "certificate" in status["sync"]["problem"], status["sync"]["problem"]
        refused = [
            n
            for name, n in status["counters"].items()
            if name.startswith("sync.") and name != "sync.connected"
        ]
        assert sum(refused) >= 1
        assert status["sync"]["pending"] > 0


@pytest.mark.timeout(180)
async def test_a_tampered_envelope_changes_nothing_and_is_counted(
    tmp_path: Path, recording_2307: Path
) -> None:
    async with running_stack(
        tmp_path, recording=recording_2307, speed=600, length="6h", start=START
    ) as stack:
        await stack.start()
        await stack.when("connected", lambda s: s["sync"]["connected"] and "cgm_mgdl" in s["readings"])
        hub = stack.layout.hub_toml.parent
        tls = ssl.create_default_context(cafile=str(hub / "ca.crt"))
        tls.load_cert_chain(hub / "client.crt", hub / "client.key")
        async with aiomqtt.Client(
            "127.0.0.1",
            stack.layout.broker_port,
            identifier="forger",
            tls_context=tls,
            protocol=aiomqtt.ProtocolVersion.V5,
        ) as forger:
            for forged in (b"", b"\x00" * 64, b"HT" + bytes(200)):
                await forger.publish(f"hometwin/{HUB_ID}/up", forged, qos=1)
        log = stack.layout.logs / "cloud.log"
        async with asyncio.timeout(30):
            while log.read_text().count("refused") < 1:  # noqa: ASYNC110  # a log has no event
                await asyncio.sleep(0.1)
        expected = recorded(recording_2307, "cgm_mgdl", stack.start_us, stack.end_us)
        await stack.when(
            "all sent after the forgeries",
            lambda s: (
                s["now_us"] > stack.end_us and s["sync"]["pending"] == 0 and len(s["trace"]) >= len(expected)
            ),
        )
        rows = await asyncio.to_thread(stack.cloud_rows, ("cgm_mgdl",))
        assert [r.time_us for r in rows] == [t for t, _ in expected]


@pytest.mark.timeout(180)
async def test_a_tampered_record_in_the_store_is_set_aside_and_the_hub_goes_on(
    tmp_path: Path, recording_2307: Path
) -> None:
    async with running_stack(
        tmp_path, recording=recording_2307, speed=600, length="6h", start=START
    ) as stack:
        await start_without_cloud(stack)
        await stack.when("some rows", lambda s: s["engine"]["rows"] > 5)
        await stack.group.stop(["hub"])
        path = stack.layout.hub_toml.parent / "state" / "replay.sqlite"
        tamper_one_byte(path)
        await stack.group.start(
            "hub", this_command("hub", "--config", str(stack.layout.hub_toml)), stack.layout.hub_socket.exists
        )
        status = await stack.when("told", lambda s: s["store"]["repair"] is not None)
        repair = status["store"]["repair"]
        assert repair["damaged"] == {"tail": 1}
        assert (path.parent / repair["set_aside"]).exists()
        assert status["counters"]["store.repaired"] == 1
        expected = recorded(recording_2307, "cgm_mgdl", stack.start_us, stack.end_us)
        # The record that was lost is asked for again: in the end nothing is missing.
        await stack.when(
            "every reading is there again",
            lambda s: s["now_us"] > stack.end_us and len(trace_times(s)) >= len(expected),
        )


def tamper_one_byte(path: Path) -> None:
    """Flip one bit in the largest sealed value of the tail, as somebody with the card could."""
    db = sqlite3.connect(path)
    try:
        tables = [row[0] for row in db.execute("select name from sqlite_master where type='table'")]
        for table in tables:
            columns = [
                row[1] for row in db.execute(f'pragma table_info("{table}")') if row[2].upper() == "BLOB"
            ]
            if "tail" not in table or not columns:
                continue
            row_id, sealed = db.execute(f'select rowid, "{columns[-1]}" from "{table}" limit 1').fetchone()
            changed = bytearray(sealed)
            changed[len(changed) // 2] ^= 1
            db.execute(f'update "{table}" set "{columns[-1]}" = ? where rowid = ?', (bytes(changed), row_id))
            db.commit()
            return
        raise AssertionError(f"no sealed tail among {tables}")
    finally:
        db.close()


def test_the_command_line_never_shows_a_traceback(tmp_path: Path) -> None:
    """Every wrong input: one line that names what and where, exit code 2."""
    missing = str(tmp_path / "absent.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("hub_id = 'x'\ncolour = 3\n")
    events = tmp_path / "events.csv"
    events.write_text("time,kind,value\n2026-01-05T00:00:00,sugar,4\n")
    home = str(tmp_path / "home.toml")
    Path(home).write_text("hub_id = 'x'\n")
    cases: list[tuple[list[str], str]] = [
        (["hub", "--config", missing], "no such file"),
        (["engine", "--config", str(bad)], "unknown key 'colour'"),
        (["cloud", "--config", missing], "no such file"),
        (["hub", "--config", home], "store.key"),
        (["status", "--config", home], "no hub answers"),
        (["log", "carbs", "45", "--config", home], "no hub answers"),
        (["log", "sugar", "45", "--config", home], "unknown word"),
        (["demo", "--recording", str(tmp_path / "absent.csv")], "no such file"),
        (["demo", "--recording", str(events)], "line 2"),
        (["demo", "--for", "2 weeks"], "--for"),
        (["keys", "check", missing], "absent.toml"),
        (["sim", "moon"], "unknown part"),
    ]
    for words, says in cases:
        ended = subprocess.run(
            [sys.executable, "-m", "hometwin", *words], capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 2, (words, ended.returncode, ended.stderr)
        assert says in ended.stderr, (words, ended.stderr)
        assert "Traceback" not in ended.stderr, (words, ended.stderr)
        assert len(ended.stderr.strip().splitlines()) == 1, (words, ended.stderr)
