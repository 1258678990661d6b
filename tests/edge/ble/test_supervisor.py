from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from structlog.testing import capture_logs

from core.clock import SystemClock
from core.errors import DecodeError, EnvironmentMissing, HometwinError, StoreError
from core.messages import Sample
from edge.ble.backoff import Pace
from edge.ble.radio import make_radio
from edge.ble.session import Close, Counted, Facts, Read, Samples, Step, Subscribe, Write
from edge.ble.supervisor import Supervisor

from .bench import Air, C, Sensor, Service, open_air, until

UTC = ZoneInfo("UTC")
QUICK = Pace(
    fresh_s=2.0,
    connect_s=2.0,
    tick_s=0.05,
    rescan_s=1.0,
    link_first_s=0.05,
    link_most_s=0.2,
    stubborn_first_s=0.05,
    stubborn_most_s=0.1,
    quarantine_s=30.0,
    surprise_first_s=0.05,
    surprise_most_s=0.1,
)


class Device(msgspec.Struct, frozen=True):
    source: str
    profile: str
    address: str
    passkey: int | None = None
    repair: bool = False


class ScriptedSession:
    """Reads the battery, subscribes to heart rate, then stores the first byte of each value as a sample."""

    def __init__(self, source: str, cursors: dict[str, int]) -> None:
        self.source, self.seq = source, cursors.get("heart_rate_bpm", 0)
        self.state, self.idle = "new", False
        self.told: list[str] = []
        self.ticks = 0

    def start(self, present: frozenset[int], now_us: int, mono_s: float) -> Step:
        return Step((Read(0x2A19), Subscribe(0x2A37)), ())

    def on_read(self, uuid: int, data: bytes, now_us: int, mono_s: float) -> Step:
        self.told.append(f"read {uuid:04X}")
        return Step((), (Facts({"battery_pct": data[0]}),))

    def on_value(self, uuid: int, data: bytes, now_us: int, mono_s: float) -> Step:
        if len(data) < 2:
            return Step((), (Counted("decode_error.truncated"),))
        self.seq += 1
        return Step((), (Samples((Sample(now_us, "heart_rate_bpm", data[1], self.source, self.seq),)),))

    def on_done(self, uuid: int, now_us: int, mono_s: float) -> Step:
        self.told.append(f"done {uuid:04X}")
        self.idle = True
        return Step((), ())

    def on_failed(self, uuid: int, error: HometwinError, now_us: int, mono_s: float) -> Step:
        self.told.append(f"failed {uuid:04X} {type(error).__name__}")
        return Step((), ())

    def on_stored(self, samples: tuple[Sample, ...]) -> Step:
        self.told.append("stored")
        return Step((), ())

    def on_tick(self, now_us: int, mono_s: float) -> Step:
        self.ticks += 1
        return Step((), ())


class House:
    """A supervisor, its store and what it said."""

    def __init__(self, choice: str, devices: list[Device], session: Any = None, pace: Pace = QUICK) -> None:
        self.samples: list[Sample] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.counters: Counter[str] = Counter()
        self.sessions: list[Any] = []
        self.make = session or ScriptedSession
        self.sink_error: Exception | None = None
        self.bonds: bytes | None = None
        self.supervisor = Supervisor(
            make_radio(choice, lambda: self.bonds, self.save_bonds),
            devices,
            self.sink,
            self.cursors,
            SystemClock(time.time_ns),
            UTC,
            self.counters,
            lambda source, facts: self.facts.setdefault(source, {}).update(facts),
            pace=pace,
            rng=random.Random(7),
            session=self.new_session,
        )

    def save_bonds(self, data: bytes) -> None:
        self.bonds = data

    async def sink(self, samples: tuple[Sample, ...]) -> None:
        if self.sink_error is not None:
            raise self.sink_error
        self.samples += samples

    def cursors(self, source: str) -> dict[str, int]:
        return {"heart_rate_bpm": max((s.seq for s in self.samples if s.source == source), default=0)}

    def new_session(self, profile: str, source: str, cursors: dict[str, int], timezone: ZoneInfo) -> Any:
        session = self.make(source, cursors)
        self.sessions.append(session)
        return session

    def is_(self, state: str, source: str = "strap") -> Callable[[], bool]:
        return lambda: self.supervisor.states[source] == state


@contextlib.asynccontextmanager
async def run(house: House) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(house.supervisor.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def air() -> AsyncIterator[tuple[Air, str]]:
    async with open_air() as opened:
        yield opened


STRAP = Device("strap", "heart_rate", "C0:00:00:00:00:01")


async def test_values_are_stored_facts_told_and_answers_given_in_order(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0]).start()
    house = House(air[1], [STRAP])
    async with run(house):
        await until(house.is_("live"))
        await sensor.notify(b"\x00\x48")
        await sensor.notify(b"\x00\x49")
        await until(lambda: len(house.samples) == 2)
        assert [s.value for s in house.samples] == [72, 73]
        assert house.facts == {"strap": {"battery_pct": 90}}
        assert house.sessions[0].told == ["read 2A19", "done 2A37", "stored", "stored"]
        await until(lambda: house.sessions[0].ticks > 5)
        assert house.counters["link.connect"] == 1
    assert house.supervisor.states == {"strap": "absent"}
    await until(lambda: sensor.connections == 0)


async def test_truncated_notification_is_counted_and_the_link_lives_on(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0]).start()
    house = House(air[1], [STRAP])
    async with run(house):
        await until(house.is_("live"))
        await sensor.notify(b"\x00")
        await sensor.notify(b"\x00\x48")
        await until(lambda: house.samples)
        assert house.counters["decode_error.truncated"] == 1
        assert house.counters["link.connect"] == 1


async def test_dropped_link_is_counted_and_taken_up_again_at_the_cursor(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0]).start()
    house = House(air[1], [STRAP])
    async with run(house):
        for n in range(3):
            await until(house.is_("live"))
            await sensor.notify(bytes([0, 70 + n]))
            await until(lambda n=n: len(house.samples) == n + 1)
            sensor.drop()
            await until(lambda n=n: house.counters["link.drop"] == n + 1)
        await until(house.is_("live"))
        assert [s.seq for s in house.samples] == [1, 2, 3]
        assert house.counters["link.connect"] == 4


async def test_wrong_passkey_is_counted_then_quarantined_with_a_reason(air: tuple[Air, str]) -> None:
    await Sensor(air[0], passkey=123456, secure=True).start()
    house = House(air[1], [Device("strap", "heart_rate", STRAP.address, 654321)])
    with capture_logs() as logs:
        async with run(house):
            await until(house.is_("quarantined"))
            assert house.counters["pairing.refused"] == 3
            assert "passkey is wrong" in house.supervisor.reasons["strap"]
            assert house.samples == []
    assert "654321" not in str(logs)
    assert [e["event"] for e in logs if e["log_level"] == "error"] == ["device.quarantined"]


async def test_one_bad_device_does_not_hold_up_the_others(air: tuple[Air, str]) -> None:
    await Sensor(air[0], passkey=123456, secure=True).start()
    good = [await Sensor(air[0], f"C0:00:00:00:00:{n:02X}").start() for n in (2, 3, 4)]
    devices = [Device("strap", "heart_rate", STRAP.address, 654321)]
    devices += [Device(f"s{n}", "heart_rate", sensor.address) for n, sensor in enumerate(good)]
    devices.append(Device("never", "heart_rate", "C0:00:00:00:00:99"))
    house = House(air[1], devices)
    async with run(house):
        await until(lambda: all(house.supervisor.states[f"s{n}"] == "live" for n in range(3)))
        for sensor in good:
            await sensor.notify(b"\x00\x48")
        await until(lambda: len(house.samples) == 3)
        assert house.supervisor.states["never"] == "absent"


async def test_unforeseen_exception_is_named_by_type_only_and_the_device_comes_back(
    air: tuple[Air, str],
) -> None:
    class Broken(ScriptedSession):
        def on_value(self, uuid: int, data: bytes, now_us: int, mono_s: float) -> Step:
            if data[1] == 0xEE:
                raise KeyError("secret 238 mg/dL")
            return super().on_value(uuid, data, now_us, mono_s)

    sensor = await Sensor(air[0]).start()
    house = House(air[1], [STRAP], Broken)
    with capture_logs() as logs:
        async with run(house):
            await until(house.is_("live"))
            await sensor.notify(b"\x00\xee")
            await until(lambda: house.counters["device.surprise"] == 1)
            await until(lambda: house.counters["link.connect"] == 2 and house.is_("live")())
            await sensor.notify(b"\x00\x48")
            await until(lambda: house.samples)
    loud = [e for e in logs if e["log_level"] != "debug"]
    assert any(e["event"] == "device.surprise" and e["error"] == "KeyError" for e in loud)
    assert "238" not in str(loud)


async def test_samples_that_could_not_be_stored_are_asked_for_again(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0]).start()
    house = House(air[1], [STRAP])
    async with run(house):
        await until(house.is_("live"))
        house.sink_error = StoreError("disk full")
        await sensor.notify(b"\x00\x48")
        await until(lambda: house.counters["store.failed"] == 1)
        assert "stored" not in house.sessions[0].told
        house.sink_error = None
        await until(lambda: house.counters["link.connect"] == 2 and house.is_("live")())
        assert house.sessions[1].seq == 0


async def test_protocol_violations_in_a_row_lead_to_quarantine(air: tuple[Air, str]) -> None:
    class Hostile(ScriptedSession):
        def on_read(self, uuid: int, data: bytes, now_us: int, mono_s: float) -> Step:
            return Step((Close(DecodeError("reserved bits set")),), ())

    await Sensor(air[0]).start()
    house = House(air[1], [STRAP], Hostile)
    async with run(house):
        await until(house.is_("quarantined"))
        assert house.counters["link.connect"] == 5
        assert house.supervisor.reasons["strap"] == "reserved bits set"


async def test_refused_operations_reach_the_session(air: tuple[Air, str]) -> None:
    class Curious(ScriptedSession):
        def start(self, present: frozenset[int], now_us: int, mono_s: float) -> Step:
            return Step((Read(0x2A2B), Write(0x2A39, b"\x01"), Subscribe(0x2A37)), ())

    sensor = await Sensor(air[0]).start()
    house = House(air[1], [STRAP], Curious)
    async with run(house):
        await until(lambda: house.sessions and len(house.sessions[0].told) == 3)
        assert house.sessions[0].told == ["failed 2A2B ProcedureError", "done 2A39", "done 2A37"]
        assert sensor.control.value == b"\x01"


async def test_live_link_that_falls_silent_is_probed_and_given_up(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0]).start()
    pace = msgspec.structs.replace(QUICK, probe_s=0.2, probe_answer_s=0.3)
    house = House(air[1], [STRAP], pace=pace)
    async with run(house):
        await until(house.is_("live"))
        await asyncio.sleep(0.8)  # several probes: a quiet but living link is kept
        assert house.counters["link.connect"] == 1
        sensor.controller.deaf = True
        await until(lambda: house.counters["link.silent"] == 1)
        sensor.controller.deaf = False
        await until(lambda: house.counters["link.connect"] == 2 and house.is_("live")())


async def test_value_that_waits_for_an_answer_is_handed_over_after_it(air: tuple[Air, str]) -> None:
    class Asks(ScriptedSession):
        """Writes to the control point, whose answer is late; the records come first on the air."""

        def start(self, present: frozenset[int], now_us: int, mono_s: float) -> Step:
            return Step((Subscribe(0x2A37), Write(0x2A39, b"\x01")), ())

        def on_value(self, uuid: int, data: bytes, now_us: int, mono_s: float) -> Step:
            self.told.append("value")
            return Step((), ())

    sensor = Sensor(air[0])
    from bumble.att import AttributeValue

    async def written(connection: Any, value: bytes) -> None:
        await sensor.notify(b"\x00\x48")
        await asyncio.sleep(0.2)

    sensor.control.value = AttributeValue(write=written)
    await sensor.start()
    house = House(air[1], [STRAP], Asks)
    async with run(house):
        await until(lambda: house.sessions and "value" in house.sessions[0].told)
        assert house.sessions[0].told == ["done 2A37", "done 2A39", "value"]


async def test_alert_reaches_the_paired_wearable_and_tells_when_it_does_not(air: tuple[Air, str]) -> None:
    class Wearable(ScriptedSession):
        def start(self, present: frozenset[int], now_us: int, mono_s: float) -> Step:
            return Step((Read(0x2A19),), ())

        def on_read(self, uuid: int, data: bytes, now_us: int, mono_s: float) -> Step:
            self.idle = True
            return Step((), ())

    level = C("2A06", C.Properties.WRITE_WITHOUT_RESPONSE, C.WRITE_REQUIRES_ENCRYPTION, b"\x00")
    sensor = await Sensor(air[0], extra=(Service("1802", [level]),)).start()
    house = House(air[1], [Device("watch", "alert", STRAP.address)], Wearable)
    async with run(house):
        assert await house.supervisor.alert(2) is False
        await until(house.is_("live", "watch"))
        assert await house.supervisor.alert(2) is True
        await until(lambda: level.value == b"\x02")
        sensor.vanish()
        sensor.drop()
        await until(lambda: not house.is_("live", "watch")())
        assert await house.supervisor.alert(0) is False


async def test_lost_radio_is_brought_back_with_all_devices(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0]).start()
    house = House(air[1], [STRAP])
    async with run(house):
        await until(house.is_("live"))
        for socket in air[0].sockets:
            socket.close()
        await until(lambda: house.counters["radio.lost"] == 1)
        await until(lambda: house.counters["link.connect"] == 2 and house.is_("live")())
        await sensor.notify(b"\x00\x48")
        await until(lambda: house.samples)


async def test_missing_radio_at_the_start_is_one_clear_error() -> None:
    house = House("bumble:tcp-client:127.0.0.1:1", [STRAP])
    with pytest.raises(EnvironmentMissing):
        await house.supervisor.run()


@pytest.mark.parametrize("moment", ["absent", "connecting", "pairing", "live"])
async def test_cancellation_at_any_moment_ends_clean(air: tuple[Air, str], moment: str) -> None:
    sensor = Sensor(air[0], passkey=123456, secure=True)
    if moment != "absent":
        await sensor.start()
    house = House(air[1], [Device("strap", "heart_rate", STRAP.address, 123456)])
    async with run(house) as task:
        await until(house.is_(moment))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 8)
    if moment != "absent":
        await until(lambda: sensor.connections == 0)
    others = [t for t in asyncio.all_tasks() if t.get_name().startswith("device-")]
    assert others == []


async def test_session_that_closes_in_peace_is_visited_again_when_it_advertises(air: tuple[Air, str]) -> None:
    class Brief(ScriptedSession):
        def on_read(self, uuid: int, data: bytes, now_us: int, mono_s: float) -> Step:
            return Step((Close(None),), ())

    await Sensor(air[0]).start()
    house = House(air[1], [STRAP], Brief)
    async with run(house):
        await until(lambda: house.counters["link.connect"] == 2)
        assert house.counters["link.drop"] == 0
        assert house.supervisor.reasons == {}


async def test_scans_only_while_a_device_is_missing(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0]).start()
    house = House(air[1], [STRAP])
    async with run(house):
        await until(house.is_("live"))
        await until(lambda: not air[0].hubs[0].le_scan_enable)
        sensor.vanish()
        sensor.drop()
        await until(lambda: air[0].hubs[0].le_scan_enable)
        sensor.appear()
        await until(house.is_("live"))
        await until(lambda: not air[0].hubs[0].le_scan_enable)


@pytest.mark.parametrize(("repair", "state"), [(False, "quarantined"), (True, "live")])
async def test_lost_bond_without_passkey_needs_leave_to_pair_again(
    air: tuple[Air, str], repair: bool, state: str
) -> None:
    class Reader(ScriptedSession):
        def start(self, present: frozenset[int], now_us: int, mono_s: float) -> Step:
            return Step((Read(0x2A37), Subscribe(0x2A37)), ())

    sensor = await Sensor(air[0], secure=True).start()
    house = House(air[1], [Device("strap", "heart_rate", STRAP.address, repair=repair)], Reader)
    async with run(house):
        await until(house.is_("live"))
        sensor.forget_bonds()
        sensor.drop()
        await until(lambda: house.counters["link.drop"] == 1)
        await until(house.is_(state))
        assert house.counters["pairing.repaired"] == (1 if repair else 0)
        assert house.counters["pairing.refused"] == (0 if repair else 3)
