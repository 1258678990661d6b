"""The two commands as real processes: readiness, faults, kill -9, clean ends, clear errors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from bumble.host import Host
from bumble.transport import open_transport

from firmware_sim.cgm import Cgm
from tests.firmware_sim.central import Central, eventually
from tests.firmware_sim.test_cgm import MEASUREMENT, RACP, offsets
from tests.firmware_sim.test_control import ask

ROOT = Path(__file__).parents[2]
FROM = "2023-10-12T00:00:00+00:00"
FROM_US = 1_697_068_800_000_000
READY_S = 30.0  # two busy cores and a cold import of bumble


def readings(path: Path, count: int) -> Path:
    lines = ["time,kind,value"]
    for i in range(count):
        hour, minute = divmod(5 * i, 60)
        day, hour = divmod(hour, 24)
        lines.append(f"2023-10-{12 + day:02d}T{hour:02d}:{minute:02d}:00+00:00,cgm_mgdl,{100 + i % 50}")
        lines.append(f"2023-10-{12 + day:02d}T{hour:02d}:{minute:02d}:00+00:00,heart_rate_bpm,70")
    path.write_text("\n".join(lines) + "\n")
    return path


class Runner:
    def __init__(self, folder: Path, speed: float) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        self.env = os.environ | {"HOMETWIN_CLOCK": f"{speed},{time.time_ns() // 1000},{FROM_US}"}

    def start(self, module: str, *args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"firmware_sim.{module}", *args],
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def air(self) -> int:
        process = self.start("air", "--port-file", str(self.folder / "port"))
        line = first_line(process.stdout)
        assert line.startswith("air ready port=")
        port = int(line.rpartition("=")[2])
        assert (self.folder / "port").read_text() == f"{port}\n"
        return port

    def sensors(self, port: int, *args: str) -> subprocess.Popen[str]:
        process = self.start(
            "sensors",
            *("--air", f"127.0.0.1:{port}", "--recording", str(self.folder / "e.csv"), "--from", FROM),
            *("--state", str(self.folder / "state"), "--control", str(self.folder / "c.sock"), *args),
        )
        assert first_line(process.stdout) == "sensors ready\n"
        return process


def first_line(stream: IO[str] | None) -> str:
    assert stream is not None
    line = stream.readline()  # an ended process gives "" at once; a hanging one is ended by the test's limit
    return line


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    runner = Runner(tmp_path, 3000.0)
    yield runner
    for process in runner.processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


async def test_a_killed_sensor_process_goes_on_where_it_was_with_its_bond(
    runner: Runner, tmp_path: Path
) -> None:
    readings(tmp_path / "e.csv", 500)
    port = await asyncio.to_thread(runner.air)
    process = await asyncio.to_thread(runner.sensors, port, "--only", "cgm,strap")
    transport = await open_transport(f"tcp-client:127.0.0.1:{port}")
    hub = await Central(Host(transport.source, transport.sink)).start()
    device = Cgm  # address and passkey are all a hub needs to know
    await hub.open(device)
    values = await hub.subscribe(MEASUREMENT)
    await hub.subscribe(RACP)
    await eventually(lambda: len(values) > 3)  # live
    process.kill()
    await asyncio.to_thread(process.communicate)
    await eventually(lambda: not hub.device.connections)
    again = await asyncio.to_thread(runner.sensors, port, "--only", "cgm,strap")
    await hub.open(device)  # the bond still holds: no pairing
    values = await hub.subscribe(MEASUREMENT)
    await hub.subscribe(RACP)
    assert await hub.ask(RACP, b"\x01\x01") == b"\x06\x00\x01\x01"
    heard = offsets(values)
    history = heard[heard.index(0) :]  # a live reading may come before the first of the history, none within
    assert list(dict.fromkeys(history)) == list(range(0, max(history) + 5, 5))  # in order, none lost
    # What was measured while the history went out is told live once it is over, and may have been part of it.
    assert len({offset for offset in history if history.count(offset) > 1}) <= 1
    assert len(history) > 10
    (status,) = await ask(tmp_path / "c.sock", b'{"device":"cgm","do":"status"}')
    assert status["authenticated"]
    assert status["bonds"] == 1
    await ask(tmp_path / "c.sock", b'{"device":"cgm","do":"drop"}')
    await eventually(lambda: not hub.device.connections)
    again.send_signal(signal.SIGTERM)
    _, errors = await asyncio.to_thread(again.communicate, timeout=15)
    assert again.returncode == 0, errors
    assert "Traceback" not in errors
    assert not (tmp_path / "c.sock").exists()
    runner.processes[0].send_signal(signal.SIGINT)
    _, errors = await asyncio.to_thread(runner.processes[0].communicate, timeout=15)
    assert runner.processes[0].returncode == 0, errors
    assert errors == ""


async def test_sensors_end_with_one_line_when_the_air_dies(runner: Runner, tmp_path: Path) -> None:
    readings(tmp_path / "e.csv", 10)
    port = await asyncio.to_thread(runner.air)
    process = await asyncio.to_thread(runner.sensors, port)
    transport = await open_transport(f"tcp-client:127.0.0.1:{port}")
    hub = await Central(Host(transport.source, transport.sink)).start()
    await hub.connect(Cgm)
    runner.processes[0].kill()
    _, errors = await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("sensors: 127.0.0.1:")
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--recording", "none.csv"], "none.csv: no such file"),
        (["--recording", "bad.csv"], "bad.csv:2: unknown kind"),
        (["--recording", "e.csv", "--from", "noon"], "--from: not a time"),
        (["--recording", "e.csv", "--for", "long"], "--for: not a span"),
        (["--recording", "e.csv", "--only", "toaster"], "--only: unknown device 'toaster'"),
        (["--recording", "e.csv", "--timezone", "Mars/Base"], "--timezone: unknown time zone"),
        (["--person", "1"], "--from: a virtual person needs a start"),
        (["--person", "-1", "--from", "2026-01-05"], "--person: must not be negative"),
        (["--recording", "e.csv", "--air", "here"], "--air: not HOST:PORT"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    message: str,
) -> None:
    from firmware_sim import sensors

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sensors, "quiet_logging", lambda: None)  # it would outlive this test
    readings(Path("e.csv"), 3)
    Path("bad.csv").write_text("time,kind,value\n2023-10-12,pulse,1\n")
    common = [] if "--air" in args else ["--air", "127.0.0.1:9"]
    assert sensors.main([*common, "--state", "state", *args]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_a_taken_port_ends_the_air_with_code_2(runner: Runner) -> None:
    port = runner.air()
    second = runner.start("air", "--port", str(port))
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 2
    assert errors.count("\n") == 1
    assert f":{port}: cannot listen" in errors


def test_two_processes_cannot_share_a_device_and_states_are_not_mixed_up(tmp_path: Path) -> None:
    from firmware_sim.errors import SimError
    from firmware_sim.flash import Flash

    flash = Flash(tmp_path, "cgm", "a@1")
    with pytest.raises(SimError, match="another process"):
        Flash(tmp_path, "cgm", "a@1")
    flash.save()
    flash.close()
    with pytest.raises(SimError, match="another recording"):
        Flash(tmp_path, "cgm", "b@1")
    (tmp_path / "cgm.json").write_text("{")
    with pytest.raises(SimError, match="not a device state"):
        Flash(tmp_path, "cgm", "a@1")
