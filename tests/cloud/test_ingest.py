"""Exactly once, in order, all or nothing: the rules by which uplinks enter the database."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select

from cloud.db import (
    AlarmRow,
    ContributionRow,
    Database,
    EstimateRow,
    ForecastRow,
    HubRow,
    RejectedRow,
    SampleRow,
    UplinkRow,
)
from cloud.ingest import Ingest, take_group
from core.clock import SystemClock
from core.errors import StoreError
from core.messages import (
    Alarm,
    Contribution,
    Estimate,
    Forecast,
    HubStatus,
    Sample,
    SampleBatch,
    decode,
    encode,
)
from sync.cloud_link import Outcome, Received
from tests.cloud.ingest_support import Taker, open_database, received, sample, samples, stored_seqs

TAKEN, REPEATED, REJECTED, OUT_OF_ORDER = (
    Outcome.TAKEN,
    Outcome.REPEATED,
    Outcome.REJECTED,
    Outcome.OUT_OF_ORDER,
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = open_database(tmp_path)
    yield database
    database.close()


@pytest.fixture
def take(db: Database) -> Taker:
    return Taker(db)


def count(db: Database, table: type) -> int:
    with db.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_samples_are_stored_as_sent_with_their_uplink(db: Database, take: Taker) -> None:
    one = sample(7, 104.25, received_us=99, quality=2, amends=("hand", 3))
    assert take(received(4, SampleBatch((one,)))) == [TAKEN]
    with db.read() as session:
        row = session.scalars(select(SampleRow)).one()
    assert (row.source, row.kind, row.seq, row.time_us, row.value) == (
        "cgm",
        "cgm_mgdl",
        7,
        one.time_us,
        104.25,
    )
    assert (row.quality, row.received_us, row.amends_source, row.amends_seq) == (2, 99, "hand", 3)
    assert (row.deleted, row.uplink_number, row.hub_id) == (False, 4, "hub-1")


def test_a_repetition_has_no_effect_even_when_sent_at_another_time(db: Database, take: Taker) -> None:
    assert take(received(1, samples(1, 2), sent_us=5)) == [TAKEN]
    assert take(received(1, samples(1, 2), sent_us=6), received(1, samples(1, 2))) == [REPEATED, REPEATED]
    assert stored_seqs(db) == [1, 2]
    assert count(db, UplinkRow) == 1


def test_a_sample_that_comes_in_two_uplinks_is_stored_once(db: Database, take: Taker) -> None:
    take(received(1, samples(1, 2)))
    assert take(received(2, samples(2, 3), after=1)) == [TAKEN]
    assert stored_seqs(db) == [1, 2, 3]
    assert take.counters["samples.repeated"] == 1
    assert take.counters["samples.conflict"] == 0


def test_the_first_value_stands_when_a_key_comes_again_with_another(db: Database, take: Taker) -> None:
    take(received(1, SampleBatch((sample(1, 100.0),))))
    take(received(2, SampleBatch((sample(1, 250.0),)), after=1))
    with db.read() as session:
        assert session.scalars(select(SampleRow)).one().value == 100.0
    assert take.counters["samples.conflict"] == 1


def test_an_uplink_whose_predecessor_is_missing_is_left_for_later(db: Database, take: Taker) -> None:
    take(received(1, samples(1)))
    assert take(received(3, samples(3), after=2)) == [OUT_OF_ORDER]
    assert take(received(2, samples(2), after=1), received(3, samples(3), after=2)) == [TAKEN, TAKEN]
    assert stored_seqs(db) == [1, 2, 3]


def test_gaps_in_the_numbers_are_no_gaps_in_the_order(take: Taker) -> None:
    assert take(received(1, samples(1)), received(40, samples(2), after=1)) == [TAKEN, TAKEN]


def test_a_database_restored_from_a_backup_goes_on_with_the_hubs_oldest(db: Database, take: Taker) -> None:
    take(received(1, samples(1)))  # 2..9 were acknowledged, then lost with the disk
    assert take(received(11, samples(11), after=10)) == [OUT_OF_ORDER]
    assert take(received(10, samples(10)), received(11, samples(11), after=10)) == [TAKEN, TAKEN]


def test_a_hub_whose_store_began_anew_is_heard_from_number_one(db: Database, take: Taker) -> None:
    take(received(1, samples(1)), received(2, samples(2), after=1))
    assert take(received(1, samples(3)), received(2, samples(4), after=1)) == [TAKEN, TAKEN]
    assert stored_seqs(db) == [1, 2, 3, 4]
    assert take.counters["uplink.renumbered"] == 2


def test_hubs_do_not_disturb_one_another(db: Database, take: Taker) -> None:
    outcomes = take(
        received(1, samples(1), hub_id="hub-1"),
        received(1, samples(1), hub_id="hub-2"),
        received(2, samples(2), after=1, hub_id="hub-2"),
    )
    assert outcomes == [TAKEN, TAKEN, TAKEN]
    assert stored_seqs(db, hub_id="hub-2") == [1, 2]
    with db.read() as session:
        assert {h.hub_id: h.last_number for h in session.scalars(select(HubRow))} == {"hub-1": 1, "hub-2": 2}


def test_every_kind_of_message_reaches_its_table(db: Database, take: Taker) -> None:
    estimate = Estimate(1, "glucose/1", ("g",), ("mg/dL",), (1.0,), (1.0,), 120.0, 9.0, 1.0, 60.0)
    forecast = Forecast(2, "glucose/1", (30.0,), (1.0,), (1.0,), (1.0,), (1.0,), (1.0,), 60.0)
    alarm = Alarm(1, 3, "low", 1, True, 65.0, 10.0)
    status = HubStatus(4, "0.1", True, {"cgm": "live"}, {"x": 1}, 0)
    contribution = Contribution(5, "glucose/1", 1, ("si",), (1.0,), (2.0,))
    for number, body in enumerate((estimate, forecast, alarm, status, contribution), start=1):
        assert take(received(number, body)) == [TAKEN]
    with db.read() as session:
        assert decode(session.scalars(select(EstimateRow)).one().body, Estimate) == estimate
        assert decode(session.scalars(select(ForecastRow)).one().body, Forecast) == forecast
        assert decode(session.scalars(select(AlarmRow)).one().body, Alarm) == alarm
        assert decode(session.scalars(select(HubRow)).one().status or b"", HubStatus) == status
        assert decode(session.scalars(select(ContributionRow)).one().body, Contribution) == contribution


def test_an_alarm_told_again_after_a_wearable_confirmed_it_is_one_alarm(db: Database, take: Taker) -> None:
    take(received(1, Alarm(1, 3, "low", 1, True, 65.0, 10.0)))
    take(received(2, Alarm(1, 3, "low", 1, True, 65.0, 10.0, delivered=True), after=1))
    with db.read() as session:
        assert decode(session.scalars(select(AlarmRow)).one().body, Alarm).delivered is True


def test_the_same_contribution_under_another_number_does_not_count_twice(db: Database, take: Taker) -> None:
    body = Contribution(5, "glucose/1", 1, ("si",), (1.0,), (2.0,))
    take(received(1, body))
    take(received(2, body, after=1))
    assert count(db, ContributionRow) == 1


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(SampleBatch((sample(1), sample(2, kind="no_such_kind"))), id="unknown-kind"),
        pytest.param(SampleBatch((sample(1), sample(2, float("nan")))), id="nan"),
        pytest.param(SampleBatch((sample(1), sample(2, 1e9))), id="implausible"),
        pytest.param(SampleBatch((sample(1), Sample(2**63 + 1, "cgm_mgdl", 100.0, "cgm", 2))), id="overflow"),
    ],
)
def test_what_cannot_be_used_is_kept_aside_whole_and_does_not_block(
    db: Database, take: Taker, bad: SampleBatch
) -> None:
    assert take(received(1, bad), received(2, samples(5), after=1)) == [REJECTED, TAKEN]
    assert stored_seqs(db) == [5]  # nothing of the bad one
    with db.read() as session:
        row = session.scalars(select(RejectedRow)).one()
    assert (row.hub_id, row.number, row.body) == ("hub-1", 1, encode(bad))
    assert take(received(1, bad)) == [REPEATED]
    assert count(db, RejectedRow) == 1


def test_a_message_of_a_newer_version_is_kept_aside(db: Database, take: Taker) -> None:
    assert take(Received("hub-1", 1, 0, 1, b"from the future", None)) == [REJECTED]
    with db.read() as session:
        assert session.scalars(select(RejectedRow)).one().body == b"from the future"


def test_a_deletion_is_a_record_of_its_own(db: Database, take: Taker) -> None:
    take(received(1, SampleBatch((sample(1, 45.0, "hand", "carbs_g"),))))
    gone = sample(2, 0.0, "hand", "carbs_g", amends=("hand", 1), deleted=True)
    assert take(received(2, SampleBatch((gone,)), after=1)) == [TAKEN]
    assert stored_seqs(db, "hand") == [1, 2]


def test_a_crash_before_the_commit_leaves_nothing(db: Database) -> None:
    def crash() -> None:
        with db.write() as session:
            take_group(session, db.sealer.digest, [received(1, samples(1))], 1, Counter())
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        crash()
    assert stored_seqs(db) == []
    assert count(db, UplinkRow) == 0


async def test_a_full_disk_is_a_store_error_and_changes_nothing(db: Database) -> None:
    with db.write() as session:
        pages = session.connection().exec_driver_sql("PRAGMA page_count").scalar()
    counters: Counter[str] = Counter()
    ingest = Ingest(db, SystemClock(time.time_ns), counters)
    db.engine.dispose()

    event.listen(db.engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={pages}"))
    with pytest.raises(StoreError, match="full"):
        await ingest.commit([received(1, samples(*range(5000)))])
    assert stored_seqs(db) == []
    assert counters == {}


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=15, deadline=None)
def test_any_delivery_with_repetitions_and_losses_stores_each_sample_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    dice = random.Random(seed)
    database = open_database(tmp_path_factory.mktemp("property"))
    try:
        take = Taker(database)
        total, oldest = dice.randint(1, 12), 1
        while oldest <= total:
            # The hub sends a window from its oldest unacknowledged number; each message may vanish.
            first = oldest
            arriving = [n for n in range(first, min(first + 4, total + 1)) if dice.random() < 0.7]
            group = [
                received(n, samples(2 * n, 2 * n + 1), after=0 if n == first else n - 1) for n in arriving
            ]
            for message, outcome in zip(group, take(*group), strict=True):
                if outcome is not OUT_OF_ORDER and message.number == oldest and dice.random() < 0.7:
                    oldest += 1  # the acknowledgement arrived
        assert stored_seqs(database) == list(range(2, 2 * total + 2))
    finally:
        database.close()
