"""Devices that mean harm, on a live virtual air: only their own visit suffers, the strap beside them stays live."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from bumble.gatt import CharacteristicValue

from edge.ble import driver
from edge.ble.session import make_session

from .bench import Air, C, Sensor, Service, open_air, until
from .test_supervisor import Device, House, run

CGM = Device("cgm", "cgm", "C0:00:00:00:00:02")
STRAP = Device("strap", "heart_rate", "C0:00:00:00:00:01")
MEASUREMENT, FEATURE, STATUS, START, RUN, RACP, OPS = 0x2AA7, 0x2AA8, 0x2AA9, 0x2AAA, 0x2AAB, 0x2A52, 0x2AAC
OFFSET_MIN = 60
HARMED = frozenset({"connecting", "backing_off", "quarantined", "absent", "syncing", "pairing"})


class RealHouse(House):
    """A house whose sessions are those of the hub."""

    def new_session(self, profile: str, source: str, cursors: dict[str, int], timezone: ZoneInfo) -> Any:
        return make_session(profile, source, cursors, timezone)

    def cursors(self, source: str) -> dict[str, int]:
        kinds = {sample.kind for sample in self.samples if sample.source == source}
        return {
            kind: max(s.seq for s in self.samples if (s.source, s.kind) == (source, kind)) for kind in kinds
        }

    def of(self, source: str) -> list[float]:
        return [sample.value for sample in self.samples if sample.source == source]


class Cgm(Sensor):
    """A sensor with three records in its memory. Every operation on it passes ``step`` first."""

    def __init__(self, air: Air, step: Callable[[Cgm, int], None] = lambda sensor, uuid: None) -> None:
        self.step = step
        self.keeps_records = False
        self.steps = 0  # of this connection
        self.lies: dict[int, bytes] = {}  # characteristic -> what a read of it gives
        start = datetime.now(UTC) - timedelta(minutes=OFFSET_MIN)
        self.truth = {
            FEATURE: bytes.fromhex("00000059FFFF"),
            STATUS: bytes((OFFSET_MIN, 0, 0, 0, 0)),
            START: start.year.to_bytes(2, "little")
            + bytes((start.month, start.day, start.hour, start.minute, start.second, 0, 0)),
            RUN: b"\xa8\x00",
        }
        self.characteristics: dict[int, Any] = {}
        for uuid in (*self.truth, MEASUREMENT, RACP, OPS):
            control = uuid in (RACP, OPS)
            properties = C.Properties.WRITE | C.Properties.INDICATE if control else C.Properties.READ
            if uuid == MEASUREMENT:
                properties = C.Properties.NOTIFY
            value = CharacteristicValue(read=self.reader(uuid), write=self.writer(uuid))
            made = C(f"{uuid:04X}", properties, C.READABLE | C.WRITEABLE, value)
            made.on("subscription", lambda *_, uuid=uuid: self.pass_step(uuid))
            self.characteristics[uuid] = made
        self.tasks: list[asyncio.Task[None]] = []
        super().__init__(air, CGM.address, extra=(Service("181F", list(self.characteristics.values())),))

    async def start(self) -> Sensor:
        await super().start()
        self.device.on("connection", lambda _: setattr(self, "steps", 0))
        return self

    def pass_step(self, uuid: int) -> None:
        self.steps += 1
        self.step(self, uuid)

    def reader(self, uuid: int) -> Callable[[Any], bytes]:
        def read(_: Any) -> bytes:
            self.pass_step(uuid)
            return self.lies.get(uuid, self.truth.get(uuid, b""))

        return read

    def writer(self, uuid: int) -> Callable[[Any, bytes], None]:
        def write(_: Any, data: bytes) -> None:
            self.pass_step(uuid)
            self.tasks.append(asyncio.create_task(self.answer(uuid, data)))

        return write

    async def answer(self, uuid: int, data: bytes) -> None:
        if uuid == OPS:
            await self.send(OPS, b"\x03\x05")
            return
        if self.keeps_records:
            return
        first = int.from_bytes(data[3:5], "little") if data[1] == 3 else 0
        offsets = [offset for offset in (50, 55, 60) if offset >= first]
        for offset in offsets:
            await self.send(MEASUREMENT, bytes((6, 0, 100, 0, offset, 0)))
        await self.send(RACP, b"\x06\x00\x01\x01" if offsets else b"\x06\x00\x01\x06")

    async def send(self, uuid: int, data: bytes) -> None:
        self.pass_step(uuid)
        if uuid == MEASUREMENT:
            await self.device.notify_subscribers(self.characteristics[uuid], data)
        else:
            await self.device.indicate_subscribers(self.characteristics[uuid], data)


@pytest.fixture
async def air() -> AsyncIterator[tuple[Air, str]]:
    async with open_air() as opened:
        yield opened


async def strap_lives(house: House, strap: Sensor) -> None:
    """The strap beside the hostile device is live on its first link, and what it says now arrives."""
    await until(house.is_("live"))
    told = house.facts.get("strap", {}).get("battery_pct", 0) % 100 + 1
    await strap.device.notify_subscribers(strap.battery, bytes((told,)))
    await until(lambda: house.facts["strap"]["battery_pct"] == told)
    assert strap.connections == 1


async def test_sensor_that_behaves_is_live_so_that_the_other_tests_mean_something(
    air: tuple[Air, str],
) -> None:
    sensor = await Cgm(air[0]).start()
    house = RealHouse(air[1], [CGM])
    async with run(house):
        await until(house.is_("live", "cgm"))
        assert house.of("cgm") == [100.0, 100.0, 100.0]
        assert sensor.connections == 1


async def test_sensor_that_advertises_and_never_answers_harms_nobody(air: tuple[Air, str]) -> None:
    strap = await Sensor(air[0]).start()
    mute = await Cgm(air[0]).start()
    mute.controller.deaf = True
    house = RealHouse(air[1], [STRAP, CGM])
    async with run(house):
        await until(lambda: house.counters["link.failed"] >= 1, 30.0)
        await strap_lives(house, strap)
        assert house.supervisor.states["cgm"] in HARMED
        mute.controller.deaf = False
        await until(house.is_("live", "cgm"), 40.0)


@pytest.mark.parametrize("value", [b"\x00\x48", b"", bytes(20)])
async def test_flood_is_cut_and_ends_in_quarantine(air: tuple[Air, str], value: bytes) -> None:
    flooding = Device("flood", "heart_rate", "C0:00:00:00:00:03")
    strap = await Sensor(air[0]).start()
    flood = await Sensor(air[0], flooding.address).start()
    house = RealHouse(air[1], [STRAP, flooding])

    async def pour() -> None:
        while True:
            for _ in range(50):
                await flood.notify(value)
            await asyncio.sleep(0)

    async with run(house):
        await until(house.is_("live", "flood"))
        pouring = asyncio.create_task(pour())
        try:
            await until(lambda: house.counters["link.flood"] >= 1, 30.0)
            await strap_lives(house, strap)
            await until(house.is_("quarantined", "flood"), 60.0)
            await strap_lives(house, strap)
        finally:
            pouring.cancel()
    assert house.counters["device.surprise"] == 0


async def test_service_that_comes_and_goes_between_connections_is_no_surprise(air: tuple[Air, str]) -> None:
    strap = await Sensor(air[0]).start()
    house = RealHouse(air[1], [STRAP, CGM])
    async with run(house):
        for kind, state in [(Cgm, "live"), (None, "lacking"), (Cgm, "live")]:
            sensor = await (Cgm(air[0]) if kind else Sensor(air[0], CGM.address)).start()
            if state == "live":
                await until(house.is_(state, "cgm"), 20.0)
            else:
                await until(lambda: "lacks" in house.supervisor.reasons.get("cgm", ""), 20.0)
            sensor.vanish()
            sensor.drop()
            air[0].remove_controller(sensor.controller)
        await strap_lives(house, strap)
    assert house.counters["device.surprise"] == 0
    assert house.of("cgm") == [100.0, 100.0, 100.0]


@pytest.mark.parametrize("seed", range(4))
async def test_random_bytes_on_every_characteristic_are_counted(air: tuple[Air, str], seed: int) -> None:
    rng = random.Random(seed)
    strap = await Sensor(air[0]).start()
    sensor = Cgm(air[0])
    if seed % 2:  # reads that are in order, so that the session gets as far as its records
        sensor.keeps_records = True
    else:
        sensor.lies = {uuid: rng.randbytes(rng.randrange(20)) for uuid in sensor.truth}
    await sensor.start()
    house = RealHouse(air[1], [STRAP, CGM])

    async def babble() -> None:
        while True:
            data = rng.choice([b"", b"\x00", bytes(20), rng.randbytes(rng.randrange(20))])
            uuid = rng.choice([MEASUREMENT, MEASUREMENT, RACP, OPS])
            for connection in list(sensor.device.connections.values()):
                await sensor.device.notify_subscriber(connection, sensor.characteristics[uuid], data)
            await asyncio.sleep(0.002)

    async with run(house):
        babbling = asyncio.create_task(babble())
        try:
            await until(
                lambda: sum(n for name, n in house.counters.items() if name.startswith("decode_error")) > 10,
                30.0,
            )
            await strap_lives(house, strap)
        finally:
            babbling.cancel()
    assert house.counters["device.surprise"] == 0
    assert all(sample.time_us <= time.time_ns() // 1000 + 75 * 60_000_000 for sample in house.samples)


async def test_link_cut_at_every_step_of_the_session_in_turn_ends_live_with_every_record_once(
    air: tuple[Air, str],
) -> None:
    cut = {"at": 1, "done": 0}

    def step(sensor: Cgm, uuid: int) -> None:
        if sensor.steps == cut["at"]:
            cut["at"] += 1
            cut["done"] += 1
            sensor.drop()

    strap = await Sensor(air[0]).start()
    await Cgm(air[0], step).start()
    house = RealHouse(air[1], [STRAP, CGM])
    async with run(house):
        await until(lambda: house.of("cgm") and house.is_("live", "cgm")() and cut["done"] > 8, 90.0)
        await strap_lives(house, strap)
        assert house.of("cgm") == [100.0, 100.0, 100.0]
    assert house.counters["link.drop"] >= 8
    assert house.counters["device.surprise"] == 0


class Pipe:
    """A link that subscribes at once and then takes what is pushed."""

    characteristics = frozenset({0x2A37})

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.push: Callable[[bytes], None] = lambda _: None

    async def subscribe(self, uuid: int, callback: Callable[[bytes], None]) -> None:
        self.push = callback


async def test_values_that_wait_are_bounded_whatever_comes() -> None:
    from core.clock import SystemClock
    from edge.ble.backoff import DEFAULT_PACE

    async def sink(samples: tuple[Any, ...]) -> None:
        await asyncio.Event().wait()  # a disk that does not return

    pipe = Pipe()
    visit = driver.Visit(
        pipe,  # type: ignore[arg-type]
        make_session("heart_rate", "strap", {}, ZoneInfo("UTC")),
        "heart_rate",
        sink=sink,
        clock=SystemClock(time.time_ns),
        pace=DEFAULT_PACE,
        count=lambda _: None,
        on_facts=lambda _: None,
        on_idle=lambda _: None,
    )
    running = asyncio.create_task(visit.run())
    deadline_s = time.monotonic() + 5
    while not running.done() and time.monotonic() < deadline_s and len(visit._values) < driver.MOST_WAITING:
        for _ in range(1000):
            pipe.push(b"\x00\x48")
        await asyncio.sleep(0)
    for _ in range(50_000):
        pipe.push(b"\x00\x48")
    assert len(visit._values) <= driver.MOST_WAITING
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
