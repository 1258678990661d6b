"""Hub, cloud and a real Mosquitto over TLS: what is sent arrives once, in order, and only from whom it should."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import struct
import time
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import StoreError
from core.messages import (
    Ack,
    DoseAdvice,
    Downlink,
    Estimate,
    Prior,
    Returned,
    SampleBatch,
    Uplink,
    decode,
    encode,
)
from core.units import US_PER_H
from sync.broker_config import command_topic, down_topic, up_topic
from sync.envelope import Command, seal_command, seal_down, seal_up
from sync.provision import provision
from tests.sync.support import (
    CLOCK,
    House,
    MemoryCloud,
    MemoryOutbox,
    batch,
    ignore_down,
    running,
    wait_until,
)

OTHER_KEY = Ed25519PrivateKey.generate()


def prior(version: int = 1) -> Prior:
    return Prior(version, "glucose/1", ("log_si",), (0.0,), (1.0,), "adult", "test", 1 << 50)


def downlink(number: int, life_us: int = US_PER_H, hub_id: str = "hub-1") -> Downlink:
    now_us = CLOCK.now_us()
    return Downlink(hub_id, number, now_us, now_us + life_us, prior(number))


class Ends:
    """A hub and a cloud in one process, talking through the broker."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.outbox = MemoryOutbox()
        self.cloud = MemoryCloud()
        self.downs: list[Downlink] = []
        self.commands: list[dict] = []
        self.command_ids: list[int | None] = []
        self.hub_link = house.hub_link()
        self.hub_link.bind(
            outbox=self.outbox, on_down=self._on_down, on_command=self._on_command, last_number=0
        )
        self.counters: Counter[str] = Counter()
        self.cloud_link = house.cloud_link(self.counters)
        self.cloud_link.bind(commit=self.cloud.commit, on_hello=self.cloud.on_hello)

    async def _on_down(self, message: Downlink) -> None:
        self.downs.append(message)

    async def _on_command(self, request: dict, command_id: int | None) -> None:
        self.commands.append(request)
        self.command_ids.append(command_id)

    def fill(self, messages: int, per_message: int = 1) -> None:
        first = self.outbox.next
        for number in range(first, first + messages):
            self.outbox.enqueue(batch(number * per_message, per_message))
        self.hub_link.wake()

    async def both_connected(self) -> None:
        await wait_until(lambda: self.hub_link.connected and self.cloud_link.connected, "connected")

    async def drained(self, deadline_s: float = 60) -> None:
        await wait_until(lambda: not self.outbox.waiting, "drained", deadline_s)

    def check_order(self, messages: int) -> None:
        assert self.cloud.order == [("hub-1", n) for n in range(1, messages + 1)]
        assert sorted(self.outbox.finished) == list(range(1, messages + 1))


@pytest.fixture
def ends(house: House) -> Ends:
    return Ends(house)


async def test_every_message_arrives_once_in_order_and_is_done_only_after_the_commit(ends: Ends) -> None:
    ends.fill(100, per_message=3)
    async with running(ends.hub_link, ends.cloud_link):
        await ends.drained()
    ends.check_order(100)
    body = decode(ends.cloud.bodies["hub-1", 7], SampleBatch)
    assert [s.seq for s in body.samples] == [21, 22, 23]
    assert ends.outbox.greatest_read <= 32  # memory stays bounded by the window


async def test_nothing_is_done_while_the_cloud_is_away_and_all_arrives_when_it_returns(ends: Ends) -> None:
    ends.fill(80)
    async with running(ends.hub_link):
        await wait_until(lambda: ends.hub_link.counters["uplink.sent"] >= 32, "the window is full")
        assert ends.outbox.finished == []
        async with running(ends.cloud_link):
            await ends.drained()
    ends.check_order(80)


async def test_an_answer_arrives_beside_the_numbered_messages_and_moves_no_number(ends: Ends) -> None:
    answer = Returned(7, 0, decode(batch(1, 3), SampleBatch).samples, 3, more=True)
    async with running(ends.hub_link, ends.cloud_link):
        await ends.both_connected()
        ends.cloud_link.send_down(downlink(5))
        assert ends.cloud_link.answer("hub-1", answer)
        assert ends.cloud_link.answer("hub-1", answer)  # what is repeated is for the one who asked to refuse
        ends.cloud_link.send_down(downlink(5))
        ends.cloud_link.send_down(downlink(6))
        await wait_until(lambda: ends.hub_link.last_number == 6, "the next number")
    assert [d.body if d.number == 0 else d.number for d in ends.downs] == [5, answer, answer, 6]
    assert not ends.cloud_link.answer("hub-1", answer)  # without a connection it is asked again


async def test_a_killed_broker_loses_nothing_and_breaks_no_order(ends: Ends) -> None:
    async with running(ends.hub_link, ends.cloud_link):
        await ends.both_connected()
        ends.fill(60)
        await wait_until(lambda: len(ends.cloud.order) > 5, "under way")
        assert ends.house.broker is not None
        ends.house.broker.kill()
        await wait_until(lambda: "broker" in ends.hub_link.problem, "the loss is noticed and said")
        ends.fill(60)
        ends.house.start()
        await ends.drained()
    ends.check_order(120)
    assert ends.hub_link.counters["sync.connected"] == 2


async def test_commits_that_fail_are_not_acknowledged_and_come_again_in_order(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = itertools.count(), ends.cloud.commit

    async def flaky(group):
        if next(calls) % 2 == 0:
            raise StoreError("disk full")
        return await real(group)

    ends.cloud_link.bind(commit=flaky, on_hello=ends.cloud.on_hello)
    monkeypatch.setattr(ends.hub_link._table, "_ack_timeout_s", 0.1)
    monkeypatch.setattr(ends.hub_link._table, "_rewind_pause_s", 0.05)
    ends.fill(50)
    async with running(ends.hub_link, ends.cloud_link):
        await ends.drained()
    ends.check_order(50)
    assert ends.counters["uplink.not_stored"] > 0


async def test_a_hub_that_came_first_is_called_when_the_cloud_arrives(ends: Ends) -> None:
    ends.cloud_link.bind(commit=ends.cloud.commit, hub_ids=lambda: ["hub-1"])
    ends.hub_link._table._ack_timeout_s = 3600.0
    ends.fill(5)
    async with running(ends.hub_link):
        await wait_until(lambda: ends.hub_link.counters["uplink.sent"] == 5, "sent to nobody")
        async with running(ends.cloud_link):
            await ends.drained()
    ends.check_order(5)


async def test_a_downlink_that_was_not_finished_is_delivered_again_by_the_broker(house: House) -> None:
    seen: list[int] = []
    entered = asyncio.Event()

    async def hang(message: Downlink) -> None:
        entered.set()
        await asyncio.Event().wait()

    async def keep(message: Downlink) -> None:
        seen.append(message.number)

    cloud_link = house.cloud_link()
    cloud_link.bind(commit=MemoryCloud().commit)
    first, second = house.hub_link(), house.hub_link()
    first.bind(outbox=MemoryOutbox(), on_down=hang)
    second.bind(outbox=MemoryOutbox(), on_down=keep)
    async with running(cloud_link):
        async with running(first):
            await wait_until(lambda: first.connected and cloud_link.connected, "connected")
            cloud_link.send_down(downlink(1))
            await entered.wait()
        async with running(second):
            await wait_until(lambda: seen, "it came again")
    assert seen == [1]


async def test_a_resent_message_is_acknowledged_again_without_effect(ends: Ends) -> None:
    async with running(ends.hub_link, ends.cloud_link):
        ends.fill(1)
        await ends.drained()
        uplink = Uplink("hub-1", 1, CLOCK.now_us(), decode(batch(1), SampleBatch))
        data = seal_up(ends.house.hub_key("hub-1"), uplink)
        async with ends.house.client(ends.house.paths.hub("hub-1"), "hub-1-tool") as client:
            await client.publish(up_topic("hub-1"), data, qos=1)
        await wait_until(lambda: ends.counters["uplink.repeated"] == 1, "repeated")
        # That acknowledgement belongs to no session of this hub.
        await wait_until(lambda: ends.hub_link.counters["ack.other_session"] == 1, "refused")
    ends.check_order(1)


async def test_garbage_and_forged_uplinks_are_counted_and_never_acknowledged_or_fatal(ends: Ends) -> None:
    house = ends.house
    good = seal_up(house.hub_key("hub-1"), Uplink("hub-1", 1, CLOCK.now_us(), decode(batch(1), SampleBatch)))
    tampered = bytearray(good)
    tampered[-20] ^= 1
    other = seal_up(house.hub_key("hub-2"), Uplink("hub-2", 9, CLOCK.now_us(), decode(batch(9), SampleBatch)))
    wrong_key = seal_up(bytes(32), Uplink("hub-1", 1, 0, decode(batch(1), SampleBatch)))
    bad = [b"", b"\xc1", b"{}", bytes(5000), bytes(tampered), good[:-1], other, wrong_key]
    async with running(ends.hub_link, ends.cloud_link):
        await ends.both_connected()
        async with house.client(house.paths.hub("hub-1"), "hub-1-tool") as client:
            for data in bad:
                await client.publish(up_topic("hub-1"), data, qos=1)
        await wait_until(lambda: ends.counters["uplink.forged"] == len(bad), "all counted")
        assert ends.cloud.order == []
        ends.fill(3)
        await ends.drained()
    ends.check_order(3)
    assert ends.hub_link.counters["ack.other_session"] == 0


async def test_a_hub_without_a_key_at_the_cloud_is_counted_as_unknown(ends: Ends) -> None:
    house = ends.house
    (house.paths.cloud / "hubs" / "hub-1.key").unlink()
    ends.fill(1)
    async with running(ends.hub_link, ends.cloud_link):
        await wait_until(lambda: ends.counters["uplink.unknown_hub"] >= 1, "counted")
    assert ends.outbox.finished == []


async def test_signed_downlinks_arrive_in_order_and_are_confirmed(ends: Ends) -> None:
    async with running(ends.hub_link, ends.cloud_link):
        await ends.both_connected()
        for number in (1, 2, 5):
            assert ends.cloud_link.send_down(downlink(number))
        await wait_until(lambda: ("hub-1", 5) in ends.cloud.hellos, "confirmed")
    assert [d.number for d in ends.downs] == [1, 2, 5]
    assert ends.downs[0].body == prior(1)


async def test_a_downlink_for_a_hub_that_is_off_waits_at_the_broker(ends: Ends) -> None:
    async with running(ends.hub_link):
        await wait_until(lambda: ends.hub_link.connected, "the session exists")
    async with running(ends.cloud_link):
        await wait_until(lambda: ends.cloud_link.connected, "connected")
        ends.cloud_link.send_down(downlink(1))
        async with running(ends.hub_link):
            await wait_until(lambda: ends.downs, "fetched")
    assert ends.downs[0].number == 1


@pytest.mark.parametrize(
    ("make", "counter"),
    [
        pytest.param(lambda h: seal_down(h.hub_key("hub-1"), OTHER_KEY, downlink(9)), "forged", id="signer"),
        pytest.param(lambda h: h.sealed(downlink(9, life_us=-1)), "replayed", id="expired"),
        pytest.param(lambda h: h.sealed(downlink(5)), "replayed", id="repeated"),
        pytest.param(lambda h: h.sealed(downlink(4)), "replayed", id="reordered"),
        pytest.param(
            lambda h: seal_down(h.hub_key("hub-2"), h.signing_key(), downlink(9, hub_id="hub-2")),
            "forged",
            id="other-hub",
        ),
        pytest.param(lambda h: h.sealed(downlink(9))[:-70], "forged", id="truncated"),
        pytest.param(lambda h: b"\x93garbage", "forged", id="garbage"),
    ],
)
async def test_the_hub_refuses_and_counts_what_is_not_from_now_and_from_its_cloud(
    ends: Ends, make, counter: str
) -> None:
    house = ends.house
    house.sealed = lambda d: seal_down(house.hub_key("hub-1"), house.signing_key(), d)
    async with running(ends.hub_link, ends.cloud_link):
        await ends.both_connected()
        ends.cloud_link.send_down(downlink(5))
        await wait_until(lambda: len(ends.downs) == 1, "the good one")
        async with house.client(house.paths.cloud, "intruder") as client:
            await client.publish(down_topic("hub-1"), make(house), qos=1)
        await wait_until(lambda: ends.hub_link.counters[f"downlink.{counter}"] == 1, "counted")
        ends.cloud_link.send_down(downlink(10))
        await wait_until(lambda: len(ends.downs) == 2, "the link goes on")
    assert [d.number for d in ends.downs] == [5, 10]


async def test_a_downlink_that_could_not_be_stored_comes_again(house: House) -> None:
    outbox, seen = MemoryOutbox(), []

    async def fail(message: Downlink) -> None:
        raise StoreError("the store is full")

    async def keep(message: Downlink) -> None:
        seen.append(message.number)

    first = house.hub_link()
    first.bind(outbox=outbox, on_down=fail)
    cloud_link = house.cloud_link()
    resend = downlink(1)

    async def on_hello(hub_id: str, last_down: int) -> None:
        if last_down < 1:
            cloud_link.send_down(resend)

    cloud_link.bind(commit=MemoryCloud().commit, on_hello=on_hello)
    async with running(cloud_link):
        await wait_until(lambda: cloud_link.connected, "connected")
        with pytest.raises(StoreError, match="full"):
            await asyncio.wait_for(first.run(), 20)
        second = house.hub_link()
        second.bind(outbox=outbox, on_down=keep, last_number=first.last_number)
        async with running(second):
            await wait_until(lambda: seen, "it came again")
    assert seen[0] == 1


async def test_hand_entries_come_sealed_once_with_the_time_of_their_sending(ends: Ends) -> None:
    house, now_us = ends.house, CLOCK.now_us()
    key = house.hub_key("hub-1")
    entry = seal_command(key, "hub-1", Command(77, now_us, {"kind": "carbs_g", "value": 45}))
    old = seal_command(key, "hub-1", Command(78, now_us - 25 * US_PER_H, {"kind": "carbs_g", "value": 9}))
    bad = [seal_command(bytes(32), "hub-1", Command(79, now_us, {})), old, b'{"kind":"carbs_g","value":3}']
    async with running(ends.hub_link):
        await wait_until(lambda: ends.hub_link.connected, "connected")
        async with house.client(house.paths.hub("hub-1"), "hub-1-phone") as client:
            for data in (entry, entry, *bad):
                await client.publish(command_topic("hub-1"), data, qos=1)
        counters = ends.hub_link.counters
        await wait_until(lambda: counters["command.clear_refused"] == 1, "the last one")
    assert ends.commands == [{"time_us": now_us, "kind": "carbs_g", "value": 45}]
    assert ends.command_ids == [77]
    assert (counters["command.repeated"], counters["command.forged"], counters["command.late"]) == (1, 1, 1)


async def test_a_message_that_breaks_its_reader_is_counted_and_finished_and_the_link_goes_on(
    ends: Ends, capsys: pytest.CaptureFixture[str]
) -> None:
    async def on_command(request: dict, command_id: int | None) -> None:
        if request["value"] == 13:
            raise OverflowError("secret 13 g")
        ends.commands.append(request)

    async def on_down(message: Downlink) -> None:
        if message.number == 1:
            raise KeyError("secret")
        ends.downs.append(message)

    ends.hub_link.bind(outbox=ends.outbox, on_down=on_down, on_command=on_command)
    key, now_us = ends.house.hub_key("hub-1"), CLOCK.now_us()
    counters = ends.hub_link.counters
    async with running(ends.hub_link, ends.cloud_link):
        await ends.both_connected()
        async with ends.house.client(ends.house.paths.hub("hub-1"), "hub-1-phone") as client:
            for command_id, value in ((1, 13), (2, 5)):
                sealed = seal_command(key, "hub-1", Command(command_id, now_us, {"value": value}))
                await client.publish(command_topic("hub-1"), sealed, qos=1)
        ends.cloud_link.send_down(downlink(1))
        ends.cloud_link.send_down(downlink(2))
        await wait_until(lambda: ends.commands and ends.downs, "the good ones")
    assert (counters["command.failed"], counters["down.failed"], counters["sync.connected"]) == (1, 1, 1)
    # Nothing is left at the broker.
    async with running(ends.hub_link):
        await wait_until(lambda: counters["sync.connected"] == 2, "connected again")
        ends.fill(1)
        await wait_until(lambda: counters["uplink.sent"] >= 1, "and at work")
    assert (counters["command.failed"], counters["down.failed"]) == (1, 1)
    said = "".join(capsys.readouterr())
    assert "OverflowError" in said
    assert "secret" not in said


async def test_a_command_that_could_not_be_stored_comes_again_with_the_same_id(ends: Ends) -> None:
    tries: list[int | None] = []

    async def on_command(request: dict, command_id: int | None) -> None:
        tries.append(command_id)
        if len(tries) == 1:
            raise StoreError("the store is full")

    ends.hub_link.bind(outbox=ends.outbox, on_down=ignore_down, on_command=on_command)
    sealed = seal_command(ends.house.hub_key("hub-1"), "hub-1", Command(77, CLOCK.now_us(), {"value": 5}))
    task = asyncio.create_task(ends.hub_link.run())
    await wait_until(lambda: ends.hub_link.connected, "connected")
    async with ends.house.client(ends.house.paths.hub("hub-1"), "hub-1-phone") as client:
        await client.publish(command_topic("hub-1"), sealed, qos=1)
    with pytest.raises(StoreError, match="full"):
        await asyncio.wait_for(task, 20)
    async with running(ends.hub_link):
        await wait_until(lambda: len(tries) == 2, "it came again")
    assert tries == [77, 77]


async def test_a_replayed_call_to_begin_again_is_acted_on_once(ends: Ends) -> None:
    house = ends.house
    ends.hub_link._table._ack_timeout_s = 3600.0
    ends.hub_link._table._rewind_pause_s = 0.0
    ends.fill(5)
    now_us = CLOCK.now_us()
    call = seal_down(
        house.hub_key("hub-1"), house.signing_key(), Downlink("hub-1", 0, now_us, now_us + US_PER_H, Ack(()))
    )
    counters = ends.hub_link.counters
    async with running(ends.hub_link):
        await wait_until(lambda: counters["uplink.sent"] == 5, "sent to nobody")
        async with house.client(house.paths.cloud, "replaying-broker") as client:
            for _ in range(20):
                await client.publish(down_topic("hub-1"), call, qos=1)
        await wait_until(lambda: counters["ack.replayed"] == 19, "all seen")
    assert counters["uplink.sent"] == 10


async def test_a_certificate_of_another_house_is_refused_in_plain_words(house: House, tmp_path: Path) -> None:
    provision(tmp_path / "other", ["hub-1"], "127.0.0.1", house.port)
    stranger = tmp_path / "other" / "hubs" / "hub-1"
    (stranger / "ca.crt").write_bytes((house.paths.authority / "ca.crt").read_bytes())
    link = house.hub_link(folder=stranger)
    link.bind(outbox=MemoryOutbox(), on_down=ignore_down)
    started_s = time.monotonic()
    async with running(link):
        await wait_until(lambda: link.problem, "refused", 8)
        assert "refuses our certificate" in link.problem
        assert link.counters["sync.refused"] == 1  # and the next attempt is a minute away
    assert time.monotonic() - started_s < 8  # no waiting for a CONNACK that never comes


async def test_leaving_at_any_moment_of_connecting_leaves_nothing_open(house: House) -> None:
    link = house.hub_link()
    link.bind(outbox=MemoryOutbox(), on_down=ignore_down)
    before = asyncio.all_tasks()
    files = len(os.listdir("/proc/self/fd"))
    for turns in range(0, 60, 3):
        task = asyncio.create_task(link.run())
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await wait_until(lambda: asyncio.all_tasks() <= before, "no task is left", 5)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= files + 1


async def test_a_broker_of_another_house_is_not_trusted(house: House, tmp_path: Path) -> None:
    provision(tmp_path / "other", ["hub-1"], "127.0.0.1", house.port)
    link = house.hub_link(folder=tmp_path / "other" / "hubs" / "hub-1")
    link.bind(outbox=MemoryOutbox(), on_down=ignore_down)
    async with running(link):
        await wait_until(lambda: link.problem, "refused", 8)
    assert "not to be trusted" in link.problem
    assert link.counters["sync.untrusted"] == 1


async def test_no_broker_is_told_in_plain_words(tmp_path: Path) -> None:
    link = House(tmp_path / "house").hub_link()
    link.bind(outbox=MemoryOutbox(), on_down=ignore_down)
    async with running(link):
        await wait_until(lambda: link.problem, "told")
    assert "no broker answers" in link.problem
    assert "start mosquitto" in link.problem


async def test_two_machines_with_one_identity_stop_throwing_each_other_out_and_say_why(house: House) -> None:
    links = [house.hub_link(), house.hub_link()]
    for link in links:
        link.bind(outbox=MemoryOutbox(), on_down=ignore_down)
    async with running(*links):
        await wait_until(lambda: any(link.counters["sync.taken_over"] for link in links), "noticed")
        assert any("under our name" in link.problem for link in links)
        await wait_until(lambda: any(link.connected for link in links), "the other one goes on")


async def test_a_hub_can_neither_read_nor_write_what_belongs_to_another(house: House) -> None:
    async with (
        house.client(house.paths.hub("hub-2"), "spy") as spy,
        house.client(house.paths.hub("hub-1"), "owner") as owner,
        house.client(house.paths.cloud, "the-cloud") as cloud,
    ):
        for topic in ("#", "hometwin/+/up", "hometwin/hub-1/up", "hometwin/hub-1/down"):
            await spy.subscribe(topic, qos=1)
        await spy.subscribe("hometwin/hub-2/down", qos=1)
        await owner.subscribe("hometwin/hub-1/down", qos=1)
        await cloud.subscribe("hometwin/+/up", qos=1)
        await cloud.publish("hometwin/hub-1/down", b"for hub-1", qos=1)
        await owner.publish("hometwin/hub-1/up", b"from hub-1", qos=1)
        for topic in ("hometwin/hub-1/up", "hometwin/hub-1/down", "hometwin/hub-1/cmd", "elsewhere"):
            await spy.publish(topic, b"from the spy", qos=1)
        await spy.publish("hometwin/hub-2/up", b"its own", qos=1)
        await cloud.publish("hometwin/hub-2/down", b"for hub-2", qos=1)
        # One connection keeps its order: whatever came before these has arrived as well.
        assert [(await anext(cloud.messages)).payload for _ in range(2)] == [b"from hub-1", b"its own"]
        spied = {(await anext(spy.messages)).payload}
        while len(spy.messages):  # once for each of its overlapping subscriptions
            spied.add((await anext(spy.messages)).payload)
        assert spied == {b"for hub-2"}
        assert (await anext(owner.messages)).payload == b"for hub-1"
        assert len(owner.messages) == 0


async def test_a_hub_taken_out_of_the_acl_reaches_nothing_once_the_broker_has_read_it(house: House) -> None:
    outbox, link = MemoryOutbox(), house.hub_link()
    link.bind(outbox=outbox, on_down=ignore_down)
    async with running(link):
        await wait_until(lambda: link.connected, "connected")
        acl = house.paths.broker / "acl"
        acl.write_text(acl.read_text().replace("user hub-1\n", "user gone\n"))
        assert house.broker is not None
        house.broker.reload()
        outbox.enqueue(batch(1))
        link.wake()
        await wait_until(lambda: link.problem, "refused")
        assert "forbids us" in link.problem
        assert link.counters["sync.refused"] == 1
    assert outbox.finished == []


async def test_who_reads_everything_at_the_broker_sees_no_clear_value(tmp_path: Path) -> None:
    house = House(tmp_path / "house", ["hub-1", "observer"])
    acl = house.paths.broker / "acl"
    acl.write_text(acl.read_text() + "\nuser observer\ntopic read #\n")
    house.start()
    try:
        ends = Ends(house)
        seen: list[bytes] = []
        estimate = Estimate(
            1, "glucose/1", ("secret_state",), ("mg/dL",), (123.456,), (1.0,), 154.25, 9.5, 1.0, 1.0
        )
        advice = DoseAdvice(
            "advice-1", 1, 61.75, 4.35, 0.01, 0.001, 300, 256, None, ("secret reason",), (), 1, "m", "Dr", 1
        )
        async with house.client(house.paths.hub("observer"), "observer") as observer:
            await observer.subscribe("#", qos=1)
            async with running(ends.hub_link, ends.cloud_link):
                await ends.both_connected()
                ends.outbox.enqueue(encode(estimate))
                ends.fill(2, per_message=50)
                now_us = CLOCK.now_us()
                ends.cloud_link.send_down(Downlink("hub-1", 1, now_us, now_us + US_PER_H, advice))
                await ends.drained()
                await wait_until(lambda: ends.downs, "advice arrived")
            while len(observer.messages):
                seen.append(bytes((await anext(observer.messages)).payload))
    finally:
        house.stop()
    assert len(seen) >= 5  # samples, estimate, advice, acknowledgement, hello
    secrets = [
        b"cgm_mgdl",
        b"secret_state",
        b"secret reason",
        b"mg/dL",
        b"advice-1",
        b"SampleBatch",
        b"carbs",
    ]
    # A float64 in MessagePack lies there big-endian.
    secrets += [struct.pack(">d", value) for value in (123.456, 154.25, 61.75, 4.35, 101.0, 150.0)]
    for payload in seen:
        for secret in secrets:
            assert secret not in payload


async def test_ten_thousand_samples_drain_in_seconds(ends: Ends) -> None:
    ends.fill(50, per_message=200)
    started_s = time.monotonic()
    async with running(ends.hub_link, ends.cloud_link):
        await ends.drained()
    elapsed_s = time.monotonic() - started_s
    print(f"drained 10,000 samples in {elapsed_s:.2f} s (no database)")
    ends.check_order(50)
    assert elapsed_s < 10
