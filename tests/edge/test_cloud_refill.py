"""The hub asks the cloud for what damage took: as long as it takes, never in a flood, and no alarm learns of what comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import StoreError
from core.messages import Downlink, Quality, Resend, Returned, Sample, Up, decode
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge import cloud_refill
from edge.cloud_refill import CloudRefill
from edge.config import HubConfig, RadioConfig
from edge.hub import Hub
from edge.status_text import status_lines
from edge.store.journal import read_line
from edge.store.lost import Lost
from edge.store.refill import PATIENCE_US
from edge.store.repair import open_or_repair
from edge.store.store import FOLD_SAMPLES, Store
from edge.store_thread import StoreThread
from tests.edge.store.conftest import HUB, KEY, START_US, FixedClock, folder, path, reading  # noqa: F401 - fixtures
from tests.edge.store.test_tamper import sql
from tests.sync.support import House, wait_until

ROWS = 3 * FOLD_SAMPLES
FIRST = FOLD_SAMPLES + 1
NOW_US = START_US + ROWS * 5 * US_PER_MIN


class QuickClock(FixedClock):
    """Whoever waits on it waits a little, and so much time has passed then."""

    def wait_s(self, span_us: int) -> float:
        self.us += span_us
        return 0.0


class Care:
    repair = None
    space_low = False


@pytest.fixture
def damaged(path: Path) -> Path:  # noqa: F811
    with Store.open(path, KEY, hub_id=HUB, clock=FixedClock(NOW_US)) as store:
        for at in range(0, ROWS, 64):
            store.append(reading(n) for n in range(at, at + 64))
        store.enqueue(b"waits", sample_row=ROWS)
    sql(path, f"UPDATE segments SET sealed = zeroblob(99) WHERE number = {FIRST}")
    return path


class Asking:
    """One life of the part, on a store of its own."""

    def __init__(self, place: Path) -> None:
        self.clock, self.care, self.counters = QuickClock(NOW_US), Care(), Counter[str]()
        self.store, _ = open_or_repair(place, KEY, hub_id=HUB, clock=self.clock)
        self.thread = StoreThread()
        self.woken, self.rows_told = 0, 0
        self.part = CloudRefill(
            self.store,
            self.thread,
            self.clock,
            self.care,
            self.counters,
            self._wake,
            self._on_rows,  # type: ignore[arg-type]
        )

    def _wake(self) -> None:
        self.woken += 1

    def _on_rows(self) -> None:
        self.rows_told += 1

    def questions(self) -> list[Resend]:
        found = []
        for _, payload in self.store.pending(10**6):
            if payload != b"waits":
                body = decode(payload, Up)  # type: ignore[arg-type]
                assert isinstance(body, Resend)
                found.append(body)
        return found

    def deliver(self) -> list[Resend]:
        """The link brings everything to the cloud."""
        found = self.questions()
        self.store.done([number for number, _ in self.store.pending(10**6)])
        return found

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.part.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def asking(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.setattr(cloud_refill, "FLOOR_S", 0.002)
    made = Asking(damaged)
    yield made
    made.thread.close()
    made.store.close()


async def test_a_hub_that_is_offline_asks_once_however_long_it_waits(asking: Asking) -> None:
    async with asking.running():
        await wait_until(lambda: asking.questions() and asking.clock.us > NOW_US + 5 * US_PER_DAY, "waited")
        assert len(asking.questions()) == 1


async def test_a_cloud_that_never_answers_is_asked_ever_less_and_then_no_more(asking: Asking) -> None:
    asked = 0
    async with asking.running():
        while Lost.load(asking.store).ask is not None or not asked:
            asked += len(await asking.thread(asking.deliver))
            await asyncio.sleep(0.001)
    waited_us = asking.clock.us - NOW_US
    assert PATIENCE_US <= waited_us <= PATIENCE_US + 3 * US_PER_DAY
    assert 20 < asked < 140  # every six hours in the end
    assert read_line(asking.store.journal(0, 100)[-1]).detail == {"returned": 0}


async def test_nothing_is_asked_for_while_the_disk_is_nearly_full(asking: Asking) -> None:
    asking.care.space_low = True
    async with asking.running():
        await wait_until(lambda: asking.clock.us > NOW_US + 2 * US_PER_DAY, "waited")
        assert asking.questions() == []
        asking.care.space_low = False
        await wait_until(asking.questions, "asked")


async def test_a_full_disk_ends_nothing(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[int] = []

    def refuse(*_: object) -> Any:
        refused.append(1)
        raise StoreError("no space left")

    async with asking.running():
        with monkeypatch.context() as patch:
            patch.setattr(asking.store, "enqueue", refuse)
            await wait_until(lambda: len(refused) > 3, "refused")
        await wait_until(asking.questions, "asked")
        lost = Lost.load(asking.store)
        assert lost.ask is not None
        page = Returned(lost.ask.request, 0, (reading(FIRST, received_us=NOW_US),), 1, False)
        with monkeypatch.context() as patch:
            patch.setattr(asking.store, "_change", refuse)
            await asking.part.take(page)
        assert (Lost.load(asking.store), asking.rows_told) == (lost, 0)
        await asking.part.take(page)
        assert asking.rows_told == 1
        assert asking.part.facts() == {"asks": False, "came": 1}


async def test_a_page_that_is_repeated_for_ever_is_written_once(asking: Asking) -> None:
    early = reading(FIRST, received_us=NOW_US, seq=10**6)  # its device has not spoken since: it waits
    async with asking.running():
        await wait_until(asking.questions, "asked")
    ask = Lost.load(asking.store).ask
    assert ask is not None
    page = Returned(ask.request, 0, (early,), 1, False)
    await asking.part.take(page)
    generation = asking.store.generation
    for _ in range(5):
        await asking.part.take(page)
    assert (asking.store.generation, asking.counters["lost.unasked"]) == (generation, 5)
    async with asking.running():  # and it is asked for again, later
        await wait_until(lambda: len(asking.deliver()) == 1, "asked again")


async def test_pages_are_asked_for_one_after_another_at_once(asking: Asking) -> None:
    samples = [reading(n, received_us=NOW_US) for n in range(FIRST - 1, FIRST - 1 + FOLD_SAMPLES)]
    pages = 0
    async with asking.running():
        while asking.part.facts()["came"] < FOLD_SAMPLES:
            for question in await asking.thread(asking.deliver):
                place, pages = question.after, pages + 1
                part = tuple(samples[place : place + 50])
                answer = Returned(question.request, place, part, place + 50, place + 50 < len(samples))
                await asking.part.take(answer)
                await asking.part.take(answer)  # a broker that repeats it
            await asyncio.sleep(0)
    assert pages <= 8  # six, and what was asked twice meanwhile
    assert asking.counters["lost.returned"] == FOLD_SAMPLES
    assert asking.counters["lost.unasked"] >= 6
    assert sorted(s.seq for _, s in asking.store.read(0, 10**6)) == list(range(ROWS))
    assert asking.clock.us < NOW_US + US_PER_DAY


# --- in the hub


def make_hub(place: Path, clock: FixedClock) -> Hub:
    """A hub with a link that is not run."""
    config = HubConfig(
        hub_id=HUB, radio=RadioConfig(adapter="bumble:tcp-client:127.0.0.1:1"), base=str(place.parent)
    )
    store, repair = open_or_repair(place, KEY, hub_id=HUB, clock=clock)
    link = House(place.parent / "house", [HUB]).hub_link(HUB)
    return Hub(config, store, clock, link, "", repair)


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_comes_back_is_no_reading_of_now_whatever_it_says(damaged: Path, restarted: bool) -> None:
    clock = FixedClock(NOW_US)
    hub = make_hub(damaged, clock)
    assert hub.refill is not None
    await hub.take((Sample(clock.us, "cgm_mgdl", 60.0, "cgm", 10**6),))
    clock.us += US_PER_MIN
    before = (dict(hub.alarms.active), hub.alarms.newest, dict(hub.view.newest), list(hub.view.trace))
    assert "low" in before[0]
    for step in (hub.refill._look, hub.refill._step):
        await hub.thread(step)
    question = hub.refill._lost.ask
    assert question is not None
    [(_, end_us)] = question.spans
    lies = tuple(
        Sample(min(clock.us, end_us + US_PER_H), "cgm_mgdl", value, "cgm", 5000 + n, received_us=end_us)
        for n, value in enumerate((40.0, 120.0, 300.0))
    )
    number = hub.down.last_number
    await hub.on_down(Downlink(HUB, 0, 0, 1, Returned(question.request, 0, lies, 1, True)))
    assert hub.counters["lost.returned"] == 3
    if restarted:
        await hub._act_on(hub._first_changes)
        hub.thread.close()
        hub.store.close()
        hub = make_hub(damaged.parent / damaged.name, clock)
        await hub._act_on(hub._first_changes)
        assert hub.view.newest["cgm_mgdl"].value == 60.0
        assert hub.alarms.newest is not None
        assert hub.alarms.newest.value == 60.0
        assert set(hub.alarms.active) == set(before[0])
    else:
        assert (
            dict(hub.alarms.active),
            hub.alarms.newest,
            dict(hub.view.newest),
            list(hub.view.trace),
        ) == before
    stored = [s for _, s in hub.store.read(ROWS, 10**6) if s.quality & Quality.RETURNED]
    assert len(stored) == 3
    assert hub.down.last_number == number
    status = hub.view.status(hub)
    assert status["store"]["cloud"] == {"asks": True, "came": 3}
    assert "store     asks the cloud for what was lost: 3 records came back so far" in status_lines(status)
    hub.thread.close()
    hub.store.close()


async def test_an_answer_that_nobody_asked_for_changes_nothing(damaged: Path) -> None:
    hub = make_hub(damaged, FixedClock(NOW_US))
    before, generation = hub.store.last_row, hub.store.generation
    page = Returned(0, 0, (reading(FIRST, received_us=NOW_US),), 1, False)
    await hub.on_down(Downlink(HUB, 0, 0, 1, page))
    assert (hub.store.last_row, hub.store.generation) == (before, generation)
    assert hub.counters["lost.unasked"] == 1
    hub.thread.close()
    hub.store.close()
