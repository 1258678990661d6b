"""``hometwin demo``: the whole loop on one machine, every part a process of its own, watched live."""

from __future__ import annotations

import asyncio
import gzip
import re
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.live import Live

from core.clock import clock_from_text
from core.errors import EnvironmentMissing, HometwinError, InputError
from core.events import parse_event_time, parse_events
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN, US_PER_S
from edge.config import find_zone
from edge.control import ask_hub
from edge.demo.layout import DemoLayout, make_layout, require_free
from edge.demo.processes import Group, child_environ, this_command
from edge.demo.view import Scene, age, low_chance, render
from sync.broker import find_mosquitto

# Where a virtual person's demo begins: a Monday at midnight.
PERSON_START: Final = "2026-01-05T00:00"
# The clock starts this much after the first process, so that nothing happens before somebody listens.
HEAD_START_S: Final = 6.0
REFRESH_S: Final = 0.4
PLAIN_EVERY_S: Final = 10.0
DRAIN_TIMEOUT_S: Final = 60.0
LONGEST: Final = 10_000  # of any unit: what is longer is a slip of the finger
EARLIEST_US: Final = round(datetime(1990, 1, 1, tzinfo=UTC).timestamp()) * US_PER_S
LATEST_US: Final = round(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * US_PER_S
UNITS: Final = {"m": US_PER_MIN, "h": US_PER_H, "d": US_PER_DAY}


@dataclass(frozen=True)
class DemoPlan:
    """What to play, how fast, for how long, where."""

    recording: Path | None
    speed: float
    length: str
    start: str
    timezone: str
    seed: int
    folder: Path | None
    portal_port: int
    approval: str = "demo"


async def run_demo(plan: DemoPlan) -> None:
    """Play until the end of the plan or Ctrl-C; then end every process and say what happened."""
    length_us = parse_length(plan.length)
    start_us = find_start(plan)
    if not EARLIEST_US <= start_us < LATEST_US:
        raise InputError("the start lies outside 1990..2100", where="--from", mend="check the year")
    if plan.approval not in ("demo", "clinician"):
        raise InputError("must be demo or clinician", where="--approval")
    require_free(plan.portal_port, "--portal-port")
    find_mosquitto()
    patient = find_patient(plan)
    is_new = plan.folder is None or not plan.folder.exists()
    root = make_root(plan.folder)
    demo = None
    try:
        layout = make_layout(root, plan.timezone, plan.portal_port, plan.approval, patient)
        demo = Demo(plan, layout, start_us, start_us + length_us)
        try:
            await demo.play()
        finally:
            await demo.end()
    finally:
        # A start that failed leaves no folder behind: the same command must work the next time.
        if plan.folder is not None and demo is not None and demo.is_playing:
            Console().print(f"everything of this demo is kept in {root}")
        else:
            clear(root, and_itself=is_new)  # keys lie in it
            hint = "--dir FOLDER keeps it" if plan.folder is None else "it did not start"
            Console().print(f"nothing of this demo is kept: {hint}")


class Demo:
    """One running demo: its processes and its screen."""

    def __init__(self, plan: DemoPlan, layout: DemoLayout, start_us: int, end_us: int) -> None:
        self.plan = plan
        self.layout = layout
        self.start_us = start_us
        self.end_us = end_us
        self.console = Console()
        real_epoch_us = time.time_ns() // 1000 + round(HEAD_START_S * US_PER_S)
        clock_text = f"{plan.speed:g},{real_epoch_us},{start_us}"
        self.clock = clock_from_text(clock_text, time.time_ns)
        self.group = Group(layout.logs, child_environ(clock_text))
        self.login = ""
        self.last_status: dict[str, Any] | None = None
        self.is_playing = False  # every part runs
        self.parts: tuple[str, ...] = ("broker", "cloud", "air", "sensors", "engine", "hub")

    async def start(self) -> None:
        """Broker, cloud, air, sensors, engine, hub: each waits until the one before is ready."""
        self.console.print(
            "starting the broker, the cloud twin, the virtual air with its sensors, the engine and the hub …"
        )
        layout = self.layout
        commands: dict[str, tuple[list[str], Callable[[], bool]]] = {
            "broker": (
                [find_mosquitto(), "-c", str(layout.mosquitto_conf)],
                lambda: port_open(layout.broker_port),
            ),
            "cloud": (
                this_command("cloud", "--config", str(layout.cloud_toml)),
                lambda: port_open(layout.portal_port),
            ),
            "air": (
                this_command("sim", "air", "--port", str(layout.air_port)),
                lambda: port_open(layout.air_port),
            ),
            "sensors": (self.sensors_command(), lambda: self._said("sensors", "sensors ready")),
            "engine": (
                this_command("engine", "--config", str(layout.hub_toml)),
                layout.engine_socket.exists,
            ),
            "hub": (this_command("hub", "--config", str(layout.hub_toml)), layout.hub_socket.exists),
        }
        for name in self.parts:
            command, ready = commands[name]
            await self.group.start(name, command, ready)

    def sensors_command(self) -> list[str]:
        """The virtual sensors, playing the recording or a virtual person."""
        layout, plan = self.layout, self.plan
        what = ["--recording", str(plan.recording)] if plan.recording else ["--person", str(plan.seed)]
        start = datetime.fromtimestamp(self.start_us / 1e6, UTC).isoformat()
        return this_command(
            "sim",
            "sensors",
            "--air",
            f"127.0.0.1:{layout.air_port}",
            *what,
            "--from",
            start,
            "--for",
            plan.length,
            "--timezone",
            plan.timezone,
            "--control",
            str(layout.sensor_control),
            "--state",
            str(layout.sensor_state),
        )

    async def play(self) -> None:
        """Start everything and show it until the end of the plan."""
        await self.start()
        self.is_playing = True
        if self.console.is_terminal:
            with Live(console=self.console, screen=True, auto_refresh=False, redirect_stderr=False) as live:
                while await self._step():
                    size = self.console.size
                    live.update(render(self.last_status, self.scene(), size.width, size.height), refresh=True)
                    await asyncio.sleep(REFRESH_S)
        else:
            await self._play_plainly()
        await self._drain()
        self._summary()

    async def _play_plainly(self) -> None:
        """Without a terminal: one line now and then."""
        self.console.print(f"portal {self.scene().portal}  {self.scene().login}")
        self.console.print(f"in another terminal: {self.scene().hint}", soft_wrap=True, highlight=False)
        next_line_s = 0.0
        while await self._step():
            if time.monotonic() >= next_line_s and self.last_status is not None:
                next_line_s = time.monotonic() + PLAIN_EVERY_S
                self.console.print(plain_line(self.last_status, self.plan.timezone), highlight=False)
            await asyncio.sleep(REFRESH_S)

    async def _step(self) -> bool:
        """Look at the hub; False at the end of the plan."""
        if self.group.failed.is_set():
            name = self.group.failed_name
            raise EnvironmentMissing(f"ended: {self.group.last_words(name)}", where=name)
        try:
            self.last_status = await asyncio.to_thread(ask_hub, self.layout.hub_socket, {"do": "status"})
        except HometwinError:
            self.last_status = None
        return self.clock.now_us() < self.end_us

    async def _drain(self) -> None:
        """Give the hub time to hand everything over before it is asked to stop."""
        deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
        while time.monotonic() < deadline_s:
            await self._step()
            status = self.last_status
            if (
                status
                and status["sync"]["pending"] == 0
                and status["sync"]["sent_through_row"] >= status["engine"]["rows"]
            ):
                return
            await asyncio.sleep(REFRESH_S)

    def scene(self) -> Scene:
        """What the screen shows beside the hub's own status."""
        if not self.login:
            self.login = self._find_login()
        return Scene(
            portal=f"http://127.0.0.1:{self.layout.portal_port}",
            login=self.login,
            speed=self.plan.speed,
            start_us=self.start_us,
            end_us=self.end_us,
            processes={n: (c.alive, c.restarts) for n, c in self.group.children.items()},
            hint=f"export HOMETWIN_CONFIG={self.layout.hub_toml}",
        )

    def _find_login(self) -> str:
        """The password that the cloud made at its first start."""
        path = self.layout.cloud_toml.parent / "portal.password"
        try:
            return f"name clinician, password {path.read_text().strip()}"
        except OSError:
            return ""

    def _said(self, name: str, words: str) -> bool:
        try:
            return words in self.group.children[name].log_path.read_text(errors="replace")
        except OSError:
            return False

    def _summary(self) -> None:
        if self.last_status is not None:
            restarts = self.group.children["hub"].restarts
            self.console.print(
                summary_line(self.last_status, self.end_us - self.start_us, restarts), highlight=False
            )

    async def end(self) -> None:
        """End every process, last started first."""
        await self.group.stop()


def clear(root: Path, *, and_itself: bool) -> None:
    """Remove what a demo put into its folder; the folder as well where the demo made it."""
    if and_itself:
        shutil.rmtree(root, ignore_errors=True)
        return
    for child in root.iterdir():
        if child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        else:
            child.unlink(missing_ok=True)


def make_root(folder: Path | None) -> Path:
    """The demo's folder: the one given, made when it is not there, or a temporary one."""
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="hometwin-demo-"))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        used = any(folder.iterdir())
    except OSError as err:
        raise InputError(f"cannot use this folder: {err.strerror}", where=f"--dir {folder}") from None
    if used:
        raise InputError(
            "is not empty", where=f"--dir {folder}", mend="name a new folder: each demo starts afresh"
        )
    return folder.resolve()


def find_patient(plan: DemoPlan) -> str:
    """What a virtual person's clinic knows of them, as a patient file; nothing is known of a recording's."""
    if plan.recording is not None:
        return ""
    command = this_command("sim", "person", "--person", str(plan.seed), "--timezone", plan.timezone)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise EnvironmentMissing("the virtual person could not be made", where="sim person")
    return done.stdout


def parse_length(text: str) -> int:
    """Microseconds of ``90m``, ``6h`` or ``2d``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text.strip())
    if not match or not 0 < float(match.group(1)) <= LONGEST:
        raise InputError(f"cannot read the length {text[:20]!r}", where="--for", mend="use 90m, 6h or 2d")
    return round(float(match.group(1)) * UNITS[match.group(2)])


def find_start(plan: DemoPlan) -> int:
    """Where to begin: as asked, else at midnight of the first day with glucose readings."""
    zone = find_zone(plan.timezone, "--timezone")
    if plan.recording is None:
        return parse_event_time(plan.start or PERSON_START, zone, "--from")
    try:
        opener = gzip.open if plan.recording.suffix == ".gz" else open
        with opener(plan.recording, "rt", encoding="utf-8", newline="") as lines:
            samples = parse_events(lines, zone, str(plan.recording))
    except FileNotFoundError:
        raise InputError(
            "no such file", where=str(plan.recording), mend="check the path after --recording"
        ) from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as err:
        raise InputError(f"cannot be read: {type(err).__name__}", where=str(plan.recording)) from None
    if plan.start:
        start_us = parse_event_time(plan.start, zone, "--from")
        end_us = start_us + parse_length(plan.length)
        if not any(start_us <= s.time_us < end_us for s in samples):
            raise InputError(
                "the recording holds nothing in this span", where="--from", mend="check --from and --for"
            )
        return start_us
    samples = [s for s in samples if EARLIEST_US <= s.time_us < LATEST_US]
    if not samples:
        raise InputError("holds no events between 1990 and 2100", where=str(plan.recording))
    first_us = next((s.time_us for s in samples if s.kind == "cgm_mgdl"), samples[0].time_us)
    midnight = datetime.fromtimestamp(first_us / 1e6, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    return round(midnight.timestamp() * 1e6)


def port_open(port: int) -> bool:
    """Somebody listens on this port of loopback."""
    import socket

    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def plain_line(status: dict[str, Any], timezone: str) -> str:
    """The state of things in one line, for logs and pipes."""
    now = datetime.fromtimestamp(status["now_us"] / 1e6, ZoneInfo(timezone))
    parts = [f"{now:%a %H:%M}"]
    reading, forecast = status["readings"].get("cgm_mgdl"), status["forecast"]
    parts.append(
        f"glucose {reading['value']:.0f} mg/dL {age(reading['age_s'])} ago" if reading else "no reading yet"
    )
    if forecast and None not in forecast["mean"]:
        parts.append(f"30 min {forecast['mean'][0]:.0f} ({forecast['p05'][0]:.0f}–{forecast['p95'][0]:.0f})")
    if chance := low_chance(status):
        parts.append(chance.partition(",")[0])
    active = [a["name"].replace("_", " ") for a in status["alarms"]["active"]]
    parts.append("alarms: " + (", ".join(active) or "none"))
    parts.append(
        f"links {sum(d['state'] == 'live' for d in status['devices'].values())}/{len(status['devices'])}"
    )
    sync = status["sync"]
    parts.append(f"cloud {'connected' if sync['connected'] else 'offline'}, {sync['pending']} waiting")
    return " · ".join(parts)


def summary_line(status: dict[str, Any], played_us: int, hub_restarts: int) -> str:
    """What came of it. The store counts records; alarms and rings are counted by the hub since it started."""
    alarms = sum(a["raised"] for a in status["alarms"]["recent"])
    since = " since the hub's last start" if hub_restarts else ""
    return (
        f"played {age(played_us / US_PER_S)}: {status['store']['rows']} records stored, "
        f"{status['sync']['pending']} messages still to be sent, {alarms} recent alarms, "
        f"{status['counters'].get('alarm.shown', 0)} shown on the watch{since}"
    )
