"""Numbers to a hub only rise; messages are kept until confirmed or expired, and sent again in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.db import Database
from cloud.downlink import DownlinkQueue
from core.errors import InputError
from core.messages import Ack, Downlink, Prior
from tests.cloud.ingest_support import open_database


class Wire:
    def __init__(self) -> None:
        self.sent: list[Downlink] = []

    def send_down(self, downlink: Downlink) -> bool:
        self.sent.append(downlink)
        return True

    def numbers(self) -> list[int]:
        taken, self.sent = self.sent, []
        return [d.number for d in taken]


class StillClock:
    now = 1000

    def now_us(self) -> int:
        return self.now

    def wait_s(self, span_us: int) -> float:
        return 0.0


class Parts:
    def __init__(self, db: Database) -> None:
        self.db, self.wire, self.clock = db, Wire(), StillClock()
        self.mono_s = 0.0
        self.queue = DownlinkQueue(db, self.clock, Counter(), self.wire, lambda: self.mono_s)

    async def send(self, hub_id: str = "hub-1", expires_us: int = 9000) -> int:
        return await self.queue.send(
            hub_id, Prior(1, "m", (), (), (), "adult", "test", expires_us), expires_us
        )


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    db = open_database(tmp_path)
    yield Parts(db)
    db.close()


async def test_each_hub_has_its_own_rising_numbers(parts: Parts) -> None:
    assert [await parts.send(), await parts.send(), await parts.send("hub-2")] == [1, 2, 1]
    assert parts.wire.numbers() == [1, 2, 1]


async def test_a_new_connection_repeats_what_is_unconfirmed_in_order(parts: Parts) -> None:
    for _ in range(3):
        await parts.send()
    await parts.queue.on_hello("hub-1", 1)
    parts.wire.numbers()
    await parts.queue.on_connected()
    assert parts.wire.numbers() == [2, 3]


async def test_a_hub_gets_what_lies_above_its_word_and_nothing_once_it_has_all(parts: Parts) -> None:
    for _ in range(3):
        await parts.send()
    parts.wire.numbers()
    parts.mono_s = 20.0
    await parts.queue.on_hello("hub-1", 2)
    assert parts.wire.numbers() == [3]
    await parts.queue.on_hello("hub-1", 3)
    assert parts.wire.numbers() == []


async def test_a_hub_that_began_anew_gets_again_what_has_not_expired(parts: Parts) -> None:
    await parts.send(expires_us=2000)
    await parts.send()
    await parts.queue.on_hello("hub-1", 2)
    parts.wire.numbers()
    parts.clock.now, parts.mono_s = 5000, 20.0
    await parts.queue.on_hello("hub-1", 0)
    assert parts.wire.numbers() == [2]


async def test_a_hub_that_works_through_a_queue_is_not_sent_the_rest_at_every_step(parts: Parts) -> None:
    for _ in range(50):
        await parts.send()
    parts.wire.numbers()
    for number in range(1, 51):
        await parts.queue.on_hello("hub-1", number)
    assert parts.wire.numbers() == []


async def test_what_has_expired_is_never_sent_again(parts: Parts) -> None:
    await parts.send(expires_us=2000)
    parts.wire.numbers()
    parts.clock.now = 2000
    await parts.queue.on_connected()
    await parts.queue.on_hello("hub-1", 0)
    assert parts.wire.numbers() == []


async def test_numbers_go_on_above_what_the_hub_has_seen_after_the_database_was_lost(parts: Parts) -> None:
    await parts.queue.on_hello("hub-1", 41)
    assert await parts.send() == 42


async def test_numbers_are_not_given_twice_across_a_restart(parts: Parts) -> None:
    await parts.send()
    assert await Parts(parts.db).send() == 2


async def test_what_cannot_be_meant_is_refused_before_it_has_a_number(parts: Parts) -> None:
    with pytest.raises(InputError, match="expire in the future"):
        await parts.send(expires_us=1000)
    with pytest.raises(InputError, match="link's own"):
        await parts.queue.send("hub-1", Ack((1,)), 9000)
    assert await parts.send() == 1
