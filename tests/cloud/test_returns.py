"""What a hub lost is given back page by page, from its own samples, in the order in which it told them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select

from cloud.db import AuditRow, Database, RejectedRow, SampleRow
from cloud.ingest import Ingest
from cloud.returns import PAGE_SAMPLES, Returns, returned
from core.clock import SystemClock
from core.errors import StoreError
from core.messages import Quality, Resend, Returned, Sample, SampleBatch
from sync.cloud_link import Outcome
from tests.cloud.ingest_support import T0_US, US_PER_MIN, Taker, open_database, received, sample, samples
from tests.sync.support import wait_until

EVER = ((0, 1 << 62),)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = open_database(tmp_path)
    yield database
    database.close()


def told(db: Database, *batch: Sample, number: int = 1, hub_id: str = "hub-1") -> None:
    assert Taker(db)(received(number, SampleBatch(batch), hub_id=hub_id)) == [Outcome.TAKEN]


def ask(db: Database, *spans: tuple[int, int], after: int = 0, hub_id: str = "hub-1") -> Returned:
    with db.read() as session:
        return returned(session, hub_id, Resend(9, spans, after))


def test_pages_follow_one_another_until_nothing_is_left_and_hold_nothing_of_others(db: Database) -> None:
    taker = Taker(db)
    order = [*range(500, 700), *range(250)]  # a history that came late
    for number, at in enumerate(range(0, len(order), 50), 1):
        taker(received(number, samples(*order[at : at + 50])))
        taker(received(number, samples(*range(at, at + 50), source="other"), hub_id="hub-2"))
    found: list[Sample] = []
    page = ask(db, *EVER)
    while page.more:
        assert (page.request, len(page.samples)) == (9, PAGE_SAMPLES)
        found += page.samples
        after, page = page.next, ask(db, *EVER, after=page.next)
        assert page.after == after
    found += page.samples
    assert [s.seq for s in found] == order
    assert {s.source for s in found} == {"cgm"}
    assert ask(db, *EVER, after=page.next) == Returned(9, page.next, (), page.next, False)


def test_a_sample_comes_back_as_it_was_told_whatever_it_is(db: Database) -> None:
    batch = (
        sample(1, 55.5, quality=int(Quality.BACKFILLED | Quality.CLOCK_DOUBT), received_us=T0_US + 5),
        sample(2, 40.0, "hand", "carbs_g", quality=int(Quality.BY_HAND), received_us=T0_US + 6),
        sample(3, 45.0, "hand", "carbs_g", amends=("hand", 2), received_us=T0_US + 7),
        sample(4, 0.0, "hand", "carbs_g", amends=("hand", 3), deleted=True, received_us=T0_US + 8),
    )
    told(db, *batch)
    assert ask(db, *EVER).samples == batch


def test_only_what_arrived_or_happened_in_a_span_is_given(db: Database) -> None:
    told(db, *(sample(n, received_us=T0_US + (100 + n) * US_PER_MIN) for n in range(50)))

    def at(minute: int) -> int:
        return T0_US + minute * US_PER_MIN

    assert [s.seq for s in ask(db, (at(10), at(12))).samples] == [10, 11, 12]
    assert [s.seq for s in ask(db, (at(110), at(112)), (at(3), at(3))).samples] == [3, 10, 11, 12]
    assert ask(db, (at(60), at(90))).samples == ()


def test_what_comes_back_to_the_cloud_marked_contradicts_nothing(db: Database) -> None:
    taker = Taker(db)
    taker(received(1, samples(1, 2, 3)))
    marked = [
        msgspec.structs.replace(s, quality=int(Quality.RETURNED), received_us=9)
        for s in samples(1, 2, 3).samples
    ]
    assert taker(received(2, SampleBatch(tuple(marked)))) == [Outcome.TAKEN]
    assert taker.counters["samples.repeated"] == 3
    with db.read() as session:
        assert session.scalars(select(RejectedRow)).all() == []
        assert {row.quality for row in session.scalars(select(SampleRow))} == {0}  # what stands, stays


@pytest.mark.parametrize(
    "question",
    [Resend(1, ()), Resend(1, ((0, 1 << 63),)), Resend(-1, EVER), Resend(1, EVER, -1), Resend(1, EVER * 501)],
)
def test_a_question_that_cannot_be_meant_is_kept_aside(db: Database, question: Resend) -> None:
    assert Taker(db)(received(1, question)) == [Outcome.REJECTED]


def test_the_first_question_is_in_the_audit_log(db: Database) -> None:
    Taker(db)(received(1, Resend(7, EVER)), received(2, Resend(7, EVER, 200), after=1))
    with db.read() as session:
        assert [row.what for row in session.scalars(select(AuditRow))] == [
            "asks again for what damage took from its store"
        ]


class Answers:
    """Returns with a database, and what they sent."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.counters: Counter[str] = Counter()
        self.sent: list[tuple[str, Returned]] = []
        commit = Ingest(db, SystemClock(lambda: 10**18), self.counters).commit
        self.returns = Returns(db, self.counters, commit, self._send)

    def _send(self, hub_id: str, page: Returned) -> bool:
        self.sent.append((hub_id, page))
        return True

    async def until(self, holds: Callable[[], bool]) -> None:
        task = asyncio.create_task(self.returns.run())
        try:
            await wait_until(holds, "answered", 10)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_each_hub_is_answered_once_it_was_committed_and_again_when_it_repeats(db: Database) -> None:
    answers = Answers(db)
    commit = answers.returns.commit
    for hub_id in ("hub-1", "hub-2"):
        await commit([received(1, samples(1, 2, source=hub_id), hub_id=hub_id)])
    assert await commit([received(2, Resend(5, EVER)), received(2, Resend(6, EVER), hub_id="hub-2")])
    await answers.until(lambda: len(answers.sent) == 2)
    assert {(hub, page.request, page.samples[0].source) for hub, page in answers.sent} == {
        ("hub-1", 5, "hub-1"),
        ("hub-2", 6, "hub-2"),
    }
    assert await commit([received(2, Resend(5, EVER))]) == [Outcome.REPEATED]
    await answers.until(lambda: len(answers.sent) == 3)
    # What was not taken is not answered: it comes again.
    assert await commit([received(9, Resend(5, EVER), after=8)]) == [Outcome.OUT_OF_ORDER]
    await commit([received(3, Resend(8, EVER))])
    await answers.until(lambda: len(answers.sent) == 4)
    assert answers.sent[3][1].request == 8


async def test_a_database_that_fails_costs_the_answer_and_nothing_else(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(db)
    failed: list[int] = []

    async def fail(*_: object) -> None:
        failed.append(1)
        raise StoreError("gone")

    await answers.returns.commit([received(1, samples(1)), received(2, Resend(5, EVER), after=1)])
    with monkeypatch.context() as patch:
        patch.setattr(db, "query", fail)
        await answers.until(lambda: bool(failed))
    assert answers.sent == []
    await answers.returns.commit([received(3, Resend(5, EVER))])
    await answers.until(lambda: len(answers.sent) == 1)
