"""Hub and cloud over a wire that drops, doubles and reorders, with both cut off at any time: what was lost is back, once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cloud.db import Database
from cloud.returns import returned
from core.messages import Resend, Returned, SampleBatch, decode, encode
from edge.store.journal import read_line
from edge.store.lost import Lost, look, take_back
from edge.store.repair import open_or_repair
from edge.store.store import BATCH_SAMPLES, FOLD_SAMPLES, Store
from tests.cloud.ingest_support import Taker, open_database, received
from tests.edge.store.conftest import HUB, KEY, FixedClock, folder, path, reading  # noqa: F401 - fixtures
from tests.edge.store.test_tamper import sql

LOST_SEGMENTS = (1, 3)
ROWS = 6 * FOLD_SAMPLES


class Ends:
    """A store and a database, and what is on its way between them."""

    def __init__(self, place: Path) -> None:
        self.path, self.clock = place, FixedClock()
        self.store = Store.open(place, KEY, hub_id=HUB, clock=self.clock)
        self.db: Database = open_database(place.parent)
        self.questions: list[bytes] = []
        self.answers: list[bytes] = []
        self.live = ROWS

    def hear(self, count: int) -> None:
        """So many readings, which the cloud has at once."""
        at = self.live
        for first in range(at, at + count, BATCH_SAMPLES):
            batch = [reading(n) for n in range(first, min(first + BATCH_SAMPLES, at + count))]
            self.clock.us = max(self.clock.us, batch[-1].time_us)
            new = self.store.append(batch)
            assert Taker(self.db)(received(self.store.last_row, SampleBatch(new)))
        self.live = at + count

    def ask(self) -> None:
        ask = Lost.load(self.store).ask
        if ask is not None:
            self.questions.append(encode(ask.question()))

    def answer(self, question: bytes) -> None:
        with self.db.read() as session:
            self.answers.append(encode(returned(session, "hub-1", decode(question, Resend))))

    def take(self, answer: bytes) -> None:
        take_back(self.store, Lost.load(self.store), decode(answer, Returned), self.clock.us)

    def cut(self) -> None:
        """The hub is gone and comes back, with nothing but its store."""
        self.store.close()
        self.store, report = open_or_repair(self.path, KEY, hub_id=HUB, clock=self.clock)
        self.look(report)

    def look(self, report: object) -> None:
        before = Lost.load(self.store)
        found = look(self.store, before, random.getrandbits(63), self.clock.us, report)  # type: ignore[arg-type]
        if found is not before:
            found.save(self.store)

    def damage(self, *segments: int) -> None:
        self.store.close()
        for segment in segments:
            sql(
                self.path,
                f"UPDATE segments SET sealed = zeroblob(99) WHERE number = {segment * FOLD_SAMPLES + 1}",
            )
        self.store, report = open_or_repair(self.path, KEY, hub_id=HUB, clock=self.clock)
        self.look(report)


def pulled(rng: random.Random, waiting: list[bytes]) -> bytes | None:
    """Any of those on their way: kept (it comes again), taken off, or taken off and dropped."""
    if not waiting:
        return None
    at = rng.randrange(len(waiting))
    message = waiting[at] if rng.random() < 0.3 else waiting.pop(at)
    return message if rng.random() < 0.8 else None


@pytest.mark.parametrize("seed", range(2))
def test_what_was_lost_comes_back_once_whatever_the_wire_does(path: Path, seed: int) -> None:  # noqa: F811
    rng = random.Random(seed)
    ends = Ends(path)
    ends.live = 0
    for _ in range(6):
        ends.hear(FOLD_SAMPLES)
    ends.damage(*LOST_SEGMENTS)
    again = 30
    for step in range(90):
        what = rng.random()
        if what < 0.25:
            ends.ask()
        elif what < 0.5 and (question := pulled(rng, ends.questions)):
            ends.answer(question)
        elif what < 0.75 and (answer := pulled(rng, ends.answers)):
            ends.take(answer)
        elif what < 0.85:
            ends.cut()
        elif what < 0.9:
            ends.questions.clear()  # a broker that was killed
            ends.answers.clear()
        elif what < 0.95:
            ends.hear(1)
        if step == again:
            ends.damage(2)  # while it asks
    while Lost.load(ends.store).ask is not None:
        ends.questions.clear()
        ends.ask()
        ends.answer(ends.questions[0])
        ends.take(ends.answers.pop())
    found = [s for _, s in ends.store.read(0, 1 << 30)]
    assert sorted(s.seq for s in found) == list(range(ends.live))
    lines = [read_line(line) for line in ends.store.journal(0, 1000)]
    told = [entry.detail["returned"] for entry in lines if entry.what == "store.refilled"]
    assert sum(told) == 3 * FOLD_SAMPLES == Lost.load(ends.store).came  # type: ignore[arg-type]
    assert ends.store.check().ok
    ends.store.close()
    ends.db.close()
