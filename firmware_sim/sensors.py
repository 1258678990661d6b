"""Virtual sensors that play a person on the virtual air.

``python -m firmware_sim.sensors --air 127.0.0.1:PORT --recording EVENTS.csv.gz --from 2023-10-12T00:00 --for 7d``
prints ``sensors ready`` once every device advertises, and runs until SIGINT or SIGTERM. Twin time comes from
``HOMETWIN_CLOCK``. ``--only cgm,pump`` plays some of the devices, so that each can be its own process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bumble.host import Host
from bumble.transport import open_transport

from firmware_sim.cgm import Cgm
from firmware_sim.clock import US_PER_DAY, SimClock, clock_from_text
from firmware_sim.console import quiet_logging
from firmware_sim.control import Control
from firmware_sim.errors import SimError
from firmware_sim.flash import Flash
from firmware_sim.meter import Meter
from firmware_sim.peripheral import Peripheral
from firmware_sim.player import play
from firmware_sim.pump import Pump
from firmware_sim.recording import DEVICES, Event, parse_span, parse_time, read_recording, share_out
from firmware_sim.wearables import Strap, Watch

AIR_WAIT_S: Final = 10.0  # the air may be starting at the same time as we are


def build(
    name: str,
    folder: Path,
    fingerprint: str,
    clock: SimClock,
    zone: ZoneInfo,
    start_us: int,
    waits: bool = False,
) -> Peripheral:
    """One device with its flash opened in ``folder``."""
    flash = Flash(folder, name, fingerprint)
    match name:
        case "cgm":
            return Cgm(flash, clock, start_us, waits)
        case "strap":
            return Strap(flash, clock)
        case "pump":
            return Pump(flash, clock)
        case "meter":
            return Meter(flash, clock, zone)
        case "watch":
            return Watch(flash, clock, folder / "watch.log")
    flash.close()
    raise SimError(f"unknown device {name[:40]!r}", where="--only", mend="use " + " ".join(DEVICES))


def person_events(seed: int, start_us: int, span_us: int, zone: ZoneInfo) -> list[Event]:
    """What a virtual person lives through; the model is loaded only when it is asked for."""
    person = importlib.import_module("firmware_sim.person")
    days = -(-span_us // US_PER_DAY)
    lived: Iterable[Any] = person.VirtualPerson(seed, timezone=zone.key).events(start_us, days)
    return sorted(Event(int(t), kind, float(value)) for t, kind, value in lived)


class _Plan:
    """What the command line asks for, checked before anything is opened."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.clock = clock_from_text(os.environ.get("HOMETWIN_CLOCK", ""))
        try:
            self.zone = ZoneInfo(args.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise SimError(f"unknown time zone {args.timezone[:40]!r}", where="--timezone") from None
        self.names = [name.strip() for name in args.only.split(",")] if args.only else list(DEVICES)
        for name in self.names:
            if name not in DEVICES:
                raise SimError(
                    f"unknown device {name[:40]!r}", where="--only", mend="use " + ",".join(DEVICES)
                )
        start_us = self._start(args.start)
        span_us = parse_span(args.span) if args.span else None
        if args.recording:
            events = read_recording(args.recording, self.zone)
            if not events:
                raise SimError("the recording is empty", where=str(args.recording))
            self.start_us = events[0].time_us if start_us is None else start_us
            self.end_us = events[-1].time_us + 1 if span_us is None else self.start_us + span_us
            source = args.recording.name
        else:
            if start_us is None:
                raise SimError("a virtual person needs a start", where="--from", mend="give an ISO-8601 time")
            if args.person < 0:
                raise SimError("must not be negative", where="--person")
            self.start_us = start_us
            self.end_us = start_us + (span_us or 7 * US_PER_DAY)
            events = person_events(args.person, start_us, self.end_us - start_us, self.zone)
            source = f"person-{args.person}"
        self.fingerprint = f"{source}@{self.start_us}"
        shares, _ = share_out(events)
        self.shares = {
            name: [e for e in shares[name] if self.start_us <= e.time_us < self.end_us] for name in self.names
        }

    def _start(self, text: str | None) -> int | None:
        if text is None:
            return None
        try:
            return parse_time(text, self.zone)
        except (ValueError, OverflowError):
            raise SimError(
                f"not a time: {text[:40]!r}", where="--from", mend="write 2023-10-12T00:00"
            ) from None


async def _open_air(where: str) -> Any:
    """A transport to the air, waiting a little for it to come up."""
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SimError(f"not HOST:PORT: {where[:60]!r}", where="--air")
    deadline = asyncio.get_running_loop().time() + AIR_WAIT_S
    while True:
        try:
            return await open_transport(f"tcp-client:{where}")
        except OSError as err:
            if asyncio.get_running_loop().time() > deadline:
                raise SimError(
                    f"no air: {err.strerror or err}", where=where, mend="start python -m firmware_sim.air"
                ) from None
            await asyncio.sleep(0.1)


async def _power_off(devices: Iterable[Peripheral]) -> None:
    """All at once: with the air gone each would wait for its own answer."""
    await asyncio.gather(*(device.power_off() for device in devices))


async def _run(args: argparse.Namespace, plan: _Plan) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        devices: dict[str, Peripheral] = {}
        for name in plan.names:
            device = build(
                name, args.state, plan.fingerprint, plan.clock, plan.zone, plan.start_us, args.cgm_waits
            )
            stack.callback(device.flash.close)
            devices[name] = device
        losses = []
        for device in devices.values():
            transport = await _open_air(args.air)
            stack.push_async_callback(transport.close)
            losses.append(asyncio.ensure_future(transport.source.terminated))
            await device.power_on(Host(transport.source, transport.sink))
        stack.push_async_callback(_power_off, devices.values())
        if args.control:
            await stack.enter_async_context(Control(args.control, devices))
        sys.stdout.write("sensors ready\n")
        sys.stdout.flush()
        players = [
            asyncio.create_task(
                play(device, device.script(plan.shares[name], plan.start_us, plan.end_us), plan.clock)
            )
            for name, device in devices.items()
        ]
        stopped = asyncio.create_task(stop.wait())
        waiting: set[asyncio.Future[Any]] = {stopped, *players, *losses}
        try:
            while not stopped.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if stop.is_set():
                    break  # everything may be going down together; that is no fault of the air
                if any(loss in done for loss in losses):
                    raise SimError("the air is gone", where=args.air, exit_code=1)
                for player in done:
                    player.result()  # a device that cannot play on ends the process with its reason
        finally:
            for task in (*players, stopped):
                task.cancel()
            await asyncio.gather(*players, stopped, return_exceptions=True)


def main(argv: list[str] | None = None) -> int:
    """Entry of ``python -m firmware_sim.sensors``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m firmware_sim.sensors", description="Virtual sensors.")
    parser.add_argument("--air", required=True, metavar="HOST:PORT")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--recording", type=Path, metavar="EVENTS", help="CSV (.gz) with time,kind,value")
    source.add_argument("--person", type=int, metavar="SEED", help="a virtual person")
    parser.add_argument(
        "--from", dest="start", metavar="ISO", help="start; default: the recording's first event"
    )
    parser.add_argument("--for", dest="span", metavar="SPAN", help="7d, 36h, 90m; default: to the end, or 7d")
    parser.add_argument("--timezone", default="Europe/London", help="zone of naive times and of the meter")
    parser.add_argument("--control", type=Path, metavar="SOCKET", help="Unix socket for faults")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="the devices' own memory")
    parser.add_argument("--only", default="", metavar="NAMES", help="of " + ",".join(DEVICES))
    parser.add_argument("--cgm-waits", action="store_true", help="the CGM waits for Start Session")
    args = parser.parse_args(argv)
    quiet_logging()
    try:
        asyncio.run(_run(args, _Plan(args)))
    except SimError as err:
        sys.stderr.write(f"sensors: {err}\n")
        return err.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
