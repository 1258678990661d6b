"""A store that a cloud knows, to be damaged and asked for: what the tests of lost samples share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from core.messages import Quality, Resend, Returned, Sample, decode, encode
from core.units import US_PER_DAY
from edge.store.lost import (
    Lost,
    look,
    take_back,
)
from edge.store.repair import RepairReport, open_or_repair
from edge.store.store import FOLD_SAMPLES, Store
from tests.edge.store.conftest import HUB, KEY, START_US, FixedClock, reading
from tests.edge.store.test_tamper import sql

ROWS = 4 * FOLD_SAMPLES + 20
PAGE = 100
REQUEST = 77
FIRST = FOLD_SAMPLES + 1  # of the segment that is damaged, mostly
LAST = 2 * FOLD_SAMPLES


def batched(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    rest = iter(samples)
    while part := list(islice(rest, size)):
        yield part


class Cloud:
    """What the hub told, in its order, and an honest answer to a question."""

    def __init__(self) -> None:
        self.told: list[Sample] = []

    def answer(self, question: Resend) -> Returned:
        found = [
            (place, s)
            for place, s in enumerate(self.told, 1)
            if place > question.after
            and any(a <= s.received_us <= b or a <= s.time_us <= b for a, b in question.spans)
        ][:PAGE]
        place = found[-1][0] if found else question.after
        samples = tuple(s for _, s in found)
        return decode(
            encode(Returned(question.request, question.after, samples, place, len(found) == PAGE)), Returned
        )


class House:
    """A store, its clock and its cloud."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock, self.cloud = path, FixedClock(), Cloud()
        self.store = Store.open(path, KEY, hub_id=HUB, clock=self.clock)

    def hear(self, samples: Iterable[Sample], *, told: bool = True) -> None:
        for part in batched(samples, 16):
            self.clock.us = max(self.clock.us, part[-1].time_us) + 2_000_000
            new = self.store.append(part)
            self.cloud.told.extend(new if told else ())

    def damage(self, *rows: int, table: str = "segments") -> RepairReport:
        self.store.close()
        for row in rows:
            sql(self.path, f"UPDATE {table} SET sealed = zeroblob(99) WHERE number = {row}")
        self.store, report = open_or_repair(self.path, KEY, hub_id=HUB, clock=self.clock)
        assert report is not None
        return report

    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.path, KEY, hub_id=HUB, clock=self.clock)

    def look(self, report: RepairReport | None = None) -> Lost:
        return look(self.store, Lost.load(self.store), REQUEST, self.clock.us, report).save(self.store)

    def fetch(self, pages: int = 1000) -> int:
        """Ask until there is nothing to ask, or so many pages; how many records came."""
        came = 0
        while pages and (lost := Lost.load(self.store)).ask is not None:
            _, new = take_back(self.store, lost, self.cloud.answer(lost.ask.question()), self.clock.us)
            came, pages = came + new, pages - 1
        return came

    def rows(self) -> list[Sample]:
        return [s for _, s in self.store.read(0, 1 << 30)]


def same(sample: Sample) -> Sample:
    """Without how and when it reached this store."""
    return msgspec.structs.replace(
        sample, quality=sample.quality & ~Quality.RETURNED, received_us=0, steady_us=0
    )


def meal(number: int, grams: float, **fields: object) -> Sample:
    time_us = START_US + 10 * US_PER_DAY
    return Sample(time_us, "carbs_g", grams, "hand", number, int(Quality.BY_HAND), **fields)  # type: ignore[arg-type]


def filled(path: Path) -> House:
    """A house whose store and cloud hold the same ROWS readings."""
    house = House(path)
    house.hear(reading(n) for n in range(ROWS))
    return house
