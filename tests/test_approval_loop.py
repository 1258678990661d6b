"""The way of one dose in one process: hub's store, cloud's database, clinician, signature, hub, person, outcome."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from cloud import audit, decisions, queries
from cloud.adviser import Adviser, score_due
from cloud.db import AdviceRow, AuditRow, Database
from cloud.downlink import DownlinkQueue
from core.messages import (
    DoseAdvice,
    Downlink,
    HubStatus,
    Sample,
    SampleBatch,
    StandingPolicy,
    Uplink,
    decode,
    encode,
)
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge.hub import Hub
from sync.cloud_link import Received
from sync.envelope import open_down, seal_down
from tests.cloud import filled
from tests.cloud.ingest_support import Taker
from tests.cloud.test_adviser import NOON_US, Clock, FakeRunner
from tests.edge.test_hub import HandClock, make_hub
from tests.edge.test_hub_advice import Link

KEY = bytes(range(32))
SIGNING = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


class Wire:
    """What goes down: sealed and signed here, opened and verified there."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def send_down(self, downlink: Downlink) -> bool:
        self.payloads.append(seal_down(KEY, SIGNING, downlink))
        return True


class Loop:
    """Both ends, and the way between them."""

    def __init__(self, folder: Path) -> None:
        self.hub_clock, self.clock = HandClock(), Clock(NOON_US)
        self.hub_clock.us = NOON_US
        (folder / "hub").mkdir()
        self.hub: Hub = make_hub(folder / "hub", self.hub_clock)[0]
        self.hub.link = Link()  # type: ignore[assignment]
        self.db: Database = filled.open_database(folder)
        self.take = Taker(self.db)
        self.wire, self.runner = Wire(), FakeRunner()
        queue = DownlinkQueue(self.db, self.clock, self.take.counters, self.wire)
        self.adviser = Adviser(self.db, filled.config(folder), self.clock, queue, self.runner)

    async def live(self, samples: list[Sample]) -> None:
        """Samples reach the hub, and through its outbox the cloud."""
        await self.hub.take(tuple(samples))
        rows = self.hub.store.read(self.hub.store.sample_pointer, 100_000)
        for k in range(0, len(rows), 500):
            part = rows[k : k + 500]
            self.hub.store.enqueue(encode(SampleBatch(tuple(s for _, s in part))), sample_row=part[-1][0])
        await self.up()

    async def up(self) -> None:
        from core.messages import Up

        for number, data in self.hub.store.pending(1000):
            body = decode(data, Up)  # type: ignore[arg-type]
            uplink = Uplink("home", number, self.clock.time_us, body)
            self.take(Received("home", number, 0, 1, encode(uplink), uplink))
            self.hub.store.done([number])

    async def down(self) -> None:
        for payload in self.wire.payloads:
            await self.hub.on_down(open_down(KEY, SIGNING.public_key(), "home", payload))
        self.wire.payloads.clear()

    def state_at_hub(self) -> list[str]:
        return [row["state"] for row in self.hub.desk.rows()]

    def decide(self, **more: object) -> str:
        with self.db.write() as session:
            row = session.scalars(select(AdviceRow).where(AdviceRow.state == "proposed")).one()
            decisions.decide(
                session,
                row.advice_id,
                approve=True,
                who="Dr. Grün",
                note="ok",
                now_us=self.clock.time_us,
                **more,
            )
            return row.advice_id


async def filled_loop(folder: Path) -> Loop:
    loop = Loop(folder)
    start_us = NOON_US - 5 * US_PER_DAY
    meals = [s for s in filled.meals(start_us, 6) if s.time_us < NOON_US]
    record = [*filled.readings(start_us, NOON_US - 3 * US_PER_MIN), *meals]
    await loop.live(sorted(record, key=lambda s: s.time_us))
    loop.hub.store.enqueue(encode(HubStatus(NOON_US, "1", True, {}, {}, 0, person=loop.hub.desk.person)))
    await loop.up()
    await loop.adviser.look()
    return loop


async def test_a_dose_goes_round_from_record_to_outcome(tmp_path: Path) -> None:
    loop = await filled_loop(tmp_path)
    advice_id = loop.decide(dose_u=2.0)
    await loop.adviser.send_approved()
    await loop.down()
    assert loop.state_at_hub() == ["open"]
    row = loop.hub.desk.rows()[0]
    assert (row["dose_u"], row["approved_by"]) == (2.0, "Dr. Grün")
    await loop.hub.on_request({"do": "confirm", "advice_id": advice_id, "took_u": 2.0})
    later = [
        Sample(row["for_time_us"] + 5 * k * US_PER_MIN, "cgm_mgdl", 120.0, "cgm", 10_000_000_000 + k)
        for k in range(1, 61)
    ]
    loop.hub_clock.us = later[-1].time_us
    await loop.live(later)
    with loop.db.write() as session:
        assert score_due(session, "home", later[-1].time_us + US_PER_H) == 1
    with loop.db.read() as session:
        card = queries.advice_cards(session, "home")[0]
        assert audit.verify(session) > 5
        told = session.scalars(select(AuditRow.what).order_by(AuditRow.id)).all()
    assert card.outcome is not None
    assert card.outcome.followed
    assert not card.outcome.below_70
    order = (
        "proposed advice",
        "approved with another dose",
        "handed advice",
        "followed advice",
        "compared advice",
    )
    places = [next(k for k, what in enumerate(told) if what.startswith(words)) for words in order]
    assert places == sorted(places)
    loop.hub.thread.close()
    loop.db.close()


async def test_a_dose_taken_meanwhile_makes_the_advice_void_at_the_hub(tmp_path: Path) -> None:
    loop = await filled_loop(tmp_path)
    await loop.hub.take((Sample(NOON_US - 20 * US_PER_MIN, "bolus_u", 3.0, "hand", 1),))
    loop.decide()
    await loop.adviser.send_approved()
    await loop.down()
    assert loop.state_at_hub() == ["void"]
    loop.hub.thread.close()
    loop.db.close()


async def test_insulin_taken_while_a_clinician_decided_makes_the_advice_void_at_the_hub(
    tmp_path: Path,
) -> None:
    loop = await filled_loop(tmp_path)
    loop.decide()  # the cloud has not heard of the dose yet
    await loop.adviser.send_approved()
    loop.hub_clock.us += US_PER_MIN
    await loop.hub.take((Sample(NOON_US, "bolus_u", 3.0, "hand", 1),))
    await loop.down()
    assert loop.state_at_hub() == ["void"]
    assert "insulin was taken after" in loop.hub.desk.rows()[0]["void"]
    loop.hub.store.enqueue(encode(loop.hub._status()))
    await loop.up()
    with loop.db.read() as session:
        assert queries.advice_cards(session, "home")[0].set_aside == "insulin_after"
    loop.hub.thread.close()
    loop.db.close()


async def test_a_dose_taken_as_advised_goes_round_when_the_pump_tells_of_it_first(tmp_path: Path) -> None:
    loop = await filled_loop(tmp_path)
    advice_id = loop.decide(dose_u=2.0)
    await loop.adviser.send_approved()
    await loop.down()
    loop.hub_clock.us = loop.clock.time_us = NOON_US + 30 * US_PER_MIN
    await loop.live([Sample(NOON_US + 29 * US_PER_MIN, "bolus_u", 2.0, "pump", 10_000_000_000)])
    assert loop.state_at_hub() == ["taken"]
    assert "record" not in (await loop.hub.on_request({"do": "confirm", "advice_id": advice_id}))["said"]
    await loop.up()
    with loop.db.read() as session:
        assert queries.advice_cards(session, "home")[0].took_u == 2.0
    loop.hub.thread.close()
    loop.db.close()


async def test_a_policy_goes_down_once_signed_and_holds_for_this_person(tmp_path: Path) -> None:
    loop = await filled_loop(tmp_path)
    with loop.db.write() as session:
        person = queries.person_mark(session, "home")
        policy = StandingPolicy(
            "p1", person, ("meal",), 5.0, 8.0, 3, 110.0, 10.0, 40.0, NOON_US + US_PER_DAY, "Dr. Grün", NOON_US
        )
        decisions.approve_policy(session, "home", policy, NOON_US)
    await loop.adviser.send_approved()
    await loop.adviser.send_approved()
    assert (
        sum(
            isinstance(open_down(KEY, SIGNING.public_key(), "home", p).body, StandingPolicy)
            for p in loop.wire.payloads
        )
        == 1
    )
    await loop.down()
    assert loop.hub.desk.policy_row() is not None
    assert not any(isinstance(a, DoseAdvice) for a in loop.hub.down.advice)
    loop.hub.thread.close()
    loop.db.close()
