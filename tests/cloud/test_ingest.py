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
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import event, func, select

from cloud import queries
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
from cloud.ingest import Ingest, ensure_hub, take_group
from cloud.tables import AdviceRow, AuditRow
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
    Up,
    decode,
    encode,
)
from sync.cloud_link import Outcome, Received
from sync.session import GENERATION
from tests.cloud.filled import advice, moved
from tests.cloud.ingest_support import T0_US, Taker, open_database, received, sample, samples, stored_seqs

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
    one = sample(7, 104.25, received_us=99, quality=2, amends=("hand", 3), steady_us=5)
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
    assert "steady_us" not in SampleRow.__table__.columns, "time since the hub's boot is the hub's own affair"


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
    estimate = Estimate(T0_US + 1, "glucose/1", ("g",), ("mg/dL",), (1.0,), (1.0,), 120.0, 9.0, 1.0, 60.0)
    one = (1.0,)
    forecast = Forecast(T0_US + 2, "glucose/1", (30.0,), one, one, one, one, one, 60.0, low_chance=0.2)
    alarm = Alarm(1, T0_US + 3, "low", 1, True, 65.0, 10.0)
    status = HubStatus(4, "0.1", True, {"cgm": "live"}, {"x": 1}, 0)
    contribution = Contribution(T0_US + 5, "glucose/1", 1, ("si",), (1.0,), (2.0,))
    for number, body in enumerate((estimate, forecast, alarm, status, contribution), start=1):
        assert take(received(number, body)) == [TAKEN]
    with db.read() as session:
        assert decode(session.scalars(select(EstimateRow)).one().body, Estimate) == estimate
        assert decode(session.scalars(select(ForecastRow)).one().body, Forecast) == forecast
        assert decode(session.scalars(select(AlarmRow)).one().body, Alarm) == alarm
        assert decode(session.scalars(select(HubRow)).one().status or b"", HubStatus) == status
        assert decode(session.scalars(select(ContributionRow)).one().body, Contribution) == contribution


def test_what_a_hub_says_it_set_aside_reaches_the_advice_and_old_and_new_peers_agree(
    db: Database, take: Taker
) -> None:
    class Before(Struct, frozen=True, tag="HubStatus"):  # as it was without that field
        time_us: int
        version: str
        engine_up: bool
        devices: dict[str, str]
        counters: dict[str, int]
        outbox_pending: int
        person: str = ""

    told = HubStatus(T0_US, "1", True, {}, {}, 0, "anna", {"a-1": "insulin_after"})
    assert decode(encode(told), Before) == Before(T0_US, "1", True, {}, {}, 0, "anna")
    assert decode(encode(Before(T0_US, "1", True, {}, {}, 0)), HubStatus).set_aside == {}
    with db.write() as session:
        ensure_hub(session, "hub-1")
        session.add(
            AdviceRow(
                advice_id="a-1", hub_id="hub-1", created_us=T0_US, state="sent", body=encode(advice("a-1"))
            )
        )
    assert take(received(1, told)) == [TAKEN]
    assert take(received(2, replace(told, set_aside={"a-1": "\n"}))) == [REJECTED]
    with db.read() as session:
        assert session.scalars(select(AdviceRow.set_aside)).one() == "insulin_after"


def test_a_hub_whose_store_was_put_back_as_a_whole_is_told_of(db: Database, take: Taker) -> None:
    def status(generation: int) -> HubStatus:
        return HubStatus(T0_US, "1", True, {}, {GENERATION: generation}, 0)

    for number, generation in enumerate((7, 9, 9, 8, 12), start=1):
        assert take(received(number, status(generation), after=number - 1)) == [TAKEN]
    assert take(received(6, HubStatus(T0_US, "0", True, {}, {}, 0), after=5)) == [
        TAKEN
    ]  # of an older version
    assert take.counters["store.older"] == 1
    with db.read() as session:
        [line] = session.scalars(select(AuditRow))
    assert (line.who, line.evidence) == ("hub hub-1", "generation 8 after 9")
    assert "older" in line.what


def test_an_alarm_told_again_after_a_wearable_confirmed_it_is_one_alarm(db: Database, take: Taker) -> None:
    take(received(1, Alarm(1, T0_US + 3, "low", 1, True, 65.0, 10.0)))
    take(received(2, Alarm(1, T0_US + 3, "low", 1, True, 65.0, 10.0, delivered=True), after=1))
    with db.read() as session:
        assert decode(session.scalars(select(AlarmRow)).one().body, Alarm).delivered is True


def test_the_same_contribution_under_another_number_does_not_count_twice(db: Database, take: Taker) -> None:
    body = Contribution(T0_US + 5, "glucose/1", 1, ("si",), (1.0,), (2.0,))
    take(received(1, body))
    take(received(2, body, after=1))
    assert count(db, ContributionRow) == 1


def test_of_a_hubs_corrections_the_newest_stays_and_a_contribution_is_kept_without(
    db: Database, take: Taker
) -> None:
    body = Contribution(T0_US + 5, "glucose/1", 1, ("si",), (1.0,), (2.0,), correction=moved(1.0))
    later = replace(body, time_us=T0_US + 9, correction=moved(2.0))
    earlier = replace(body, time_us=T0_US + 7, correction=moved(3.0))
    for number, each in enumerate((body, earlier, body, later), start=1):
        assert take(received(number, each, after=number - 1)) == [TAKEN]
    assert count(db, ContributionRow) == 3
    assert take.counters["contributions.conflict"] == 0
    with db.read() as session:
        assert queries.corrections(session) == {"hub-1": moved(2.0)}
        for row in session.scalars(select(ContributionRow)):
            assert decode(row.body, Contribution).correction == b""
    back = replace(body, time_us=T0_US + 8, correction=moved(4.0))  # its clock was ahead
    assert take(received(5, back, after=4)) == [TAKEN]
    with db.read() as session:
        assert queries.corrections(session) == {"hub-1": moved(4.0)}
    take(received(6, replace(body, time_us=T0_US + 11, correction=b"", noise_sd=8.0), after=5))
    with db.read() as session:
        assert queries.corrections(session) == {}  # privacy was asked for


def test_what_was_learned_of_somebody_else_is_dropped(db: Database, take: Taker) -> None:
    body = Contribution(T0_US + 5, "glucose/1", 1, ("si",), (1.0,), (2.0,), correction=moved(1.0))
    said = [
        HubStatus(T0_US + n, "1", True, {}, {}, 0, person) for n, person in enumerate(("anna", "anna", "ben"))
    ]
    for number, each in enumerate((said[0], body, said[1]), start=1):
        assert take(received(number, each, after=number - 1)) == [TAKEN]
    with db.read() as session:
        assert queries.corrections(session)
    take(received(4, said[2], after=3))
    with db.read() as session:
        assert queries.corrections(session) == {}


def test_a_contribution_with_a_correction_that_is_none_is_set_aside(db: Database, take: Taker) -> None:
    body = Contribution(T0_US + 5, "glucose/1", 1, ("si",), (1.0,), (2.0,), correction=b"short")
    take(received(1, body))
    [(_, reason, _)] = set_aside(db)
    assert "correction" in reason
    assert count(db, ContributionRow) == 0


def set_aside(db: Database) -> list[tuple[int, str, bytes]]:
    with db.read() as session:
        rows = session.scalars(select(RejectedRow).order_by(RejectedRow.id))
        return [(row.number, row.reason, row.body) for row in rows]


BAD_SAMPLES = [
    pytest.param(sample(2, kind="no_such_kind"), "unknown kind", id="unknown-kind"),
    pytest.param(sample(2, kind="no_such_kind", deleted=True), "unknown kind", id="deleted-unknown-kind"),
    pytest.param(sample(2, float("nan")), "not a number", id="nan"),
    pytest.param(sample(2, float("nan"), amends=("cgm", 1), deleted=True), "not a number", id="deleted-nan"),
    pytest.param(sample(2, float("inf")), "not a number", id="inf"),
    pytest.param(sample(2, 1e9), "implausible value", id="implausible"),
    pytest.param(Sample(2**63 + 1, "cgm_mgdl", 100.0, "cgm", 2), "impossible time", id="beyond-64-bits"),
    pytest.param(Sample(2**62, "cgm_mgdl", 100.0, "cgm", 2), "impossible time", id="year-148108"),
    pytest.param(Sample(-(2**62), "cgm_mgdl", 100.0, "cgm", 2), "impossible time", id="before-christ"),
    pytest.param(Sample(86_400_000_000, "cgm_mgdl", 100.0, "cgm", 2), "impossible time", id="1970"),
    pytest.param(Sample(T0_US, "cgm_mgdl", 100.0, "cgm", 2**63), "number out of range", id="seq"),
    pytest.param(sample(2, received_us=2**63), "number out of range", id="received"),
    pytest.param(sample(2, quality=2**31), "number out of range", id="quality"),
    pytest.param(sample(2, source="a\0b"), "unusable source", id="nul"),
    pytest.param(sample(2, source="x" * 81), "unusable source", id="long-source"),
    pytest.param(sample(2, source=""), "unusable source", id="no-source"),
    pytest.param(sample(2, amends=("a\nb", 1)), "unusable source", id="amends"),
]


@pytest.mark.parametrize(("bad", "why"), BAD_SAMPLES)
def test_a_bad_sample_is_kept_aside_and_takes_nothing_along(
    db: Database, take: Taker, bad: Sample, why: str
) -> None:
    whole = SampleBatch((sample(1), bad, sample(3)))
    assert take(received(1, whole), received(2, samples(5), after=1)) == [TAKEN, TAKEN]
    assert stored_seqs(db) == [1, 3, 5]
    assert set_aside(db) == [(1, f"samples: {why}", encode(SampleBatch((bad,))))]
    assert (take.counters["samples.rejected"], take.counters["samples.added"]) == (1, 3)
    assert take(received(1, whole)) == [REPEATED]
    assert len(set_aside(db)) == 1


def test_a_batch_of_nothing_but_bad_samples_is_rejected_whole(db: Database, take: Taker) -> None:
    bad = SampleBatch((sample(1, float("nan")), sample(2, kind="no_such_kind")))
    assert take(received(1, bad), received(2, samples(5), after=1)) == [REJECTED, TAKEN]
    assert stored_seqs(db) == [5]
    assert set_aside(db) == [(1, "samples: not a number, unknown kind", encode(bad))]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(sample(2, 250.0), id="value"),
        pytest.param(Sample(T0_US, "cgm_mgdl", 104.0, "cgm", 2), id="time"),
        pytest.param(sample(2, amends=("cgm", 1), deleted=True), id="deletion"),
        pytest.param(sample(2, quality=1), id="sensor-warning"),
    ],
)
def test_another_content_under_a_stored_key_is_kept_aside_and_the_first_stands(
    db: Database, take: Taker, other: Sample
) -> None:
    take(received(1, SampleBatch((sample(1), sample(2)))))
    assert take(received(2, SampleBatch((sample(1), other, sample(3))), after=1)) == [TAKEN]
    with db.read() as session:
        values = session.execute(select(SampleRow.seq, SampleRow.value, SampleRow.time_us)).all()
    assert values == [(n, 104.0, sample(n).time_us) for n in (1, 2, 3)]
    assert set_aside(db) == [(2, "samples: contradict stored ones", encode(SampleBatch((other,))))]
    assert (take.counters["samples.conflict"], take.counters["samples.repeated"]) == (1, 1)


def test_a_record_that_comes_again_by_another_way_is_the_same_record(db: Database, take: Taker) -> None:
    take(received(1, SampleBatch((sample(1, received_us=5),))))
    again = sample(1, received_us=9, quality=2)  # read anew from the sensor's memory
    assert take(received(2, SampleBatch((again,)), after=1)) == [TAKEN]
    assert set_aside(db) == []
    assert take.counters["samples.repeated"] == 1


def test_a_contradiction_within_one_batch_is_kept_aside_too(db: Database, take: Taker) -> None:
    take(received(1, SampleBatch((sample(1, 100.0), sample(1, 101.0)))))
    assert [reason for _, reason, _ in set_aside(db)] == ["samples: contradict stored ones"]


def test_a_long_repetition_with_one_contradiction_is_found_out(db: Database, take: Taker) -> None:
    seqs = tuple(range(1200))
    take(received(1, samples(*seqs)))
    changed = SampleBatch((*samples(*seqs[:-1]).samples, sample(1199, 301.0)))
    take(received(2, changed, after=1))
    assert (take.counters["samples.repeated"], take.counters["samples.conflict"]) == (1199, 1)


def alarm(**changes) -> Alarm:
    return replace(Alarm(1, T0_US, "low", 1, True, 65.0, 10.0), **changes)


def stored_alarm(db: Database) -> Alarm:
    with db.read() as session:
        return decode(session.scalars(select(AlarmRow)).one().body, Alarm)


@pytest.mark.parametrize(
    "other",
    [alarm(name="high"), alarm(time_us=T0_US + 1), alarm(raised=False), alarm(delivered=True, name="x")],
)
def test_another_alarm_of_the_same_number_replaces_nothing(db: Database, take: Taker, other: Alarm) -> None:
    take(received(1, alarm()))
    assert take(received(2, other, after=1)) == [REJECTED]
    assert stored_alarm(db) == alarm()
    assert set_aside(db) == [(2, "contradicts a stored alarm", encode(other))]
    assert take.counters["alarms.conflict"] == 1


def test_only_the_delivery_of_an_alarm_is_ever_updated(db: Database, take: Taker) -> None:
    nothing = float("nan")
    first = alarm(name="signal_loss", value=nothing)
    take(received(1, first))
    assert take(received(2, replace(first, delivered=True), after=1)) == [TAKEN]
    assert take(received(3, first, after=2)) == [TAKEN]  # late: it was delivered, and stays so
    assert stored_alarm(db).delivered is True
    assert take(received(4, replace(first, value=44.0, delivered=True), after=3)) == [REJECTED]
    assert encode(stored_alarm(db)) == encode(replace(first, delivered=True))
    assert len(set_aside(db)) == 1


def test_another_contribution_of_the_same_moment_is_kept_aside(db: Database, take: Taker) -> None:
    take(received(1, Contribution(T0_US + 5, "glucose/1", 1, ("si",), (1.0,), (2.0,))))
    other = Contribution(T0_US + 5, "glucose/1", 1, ("si",), (9.0,), (2.0,))
    assert take(received(2, other, after=1)) == [REJECTED]
    assert take.counters["contributions.conflict"] == 1
    assert count(db, ContributionRow) == 1


NAN, INF, FAR = float("nan"), float("inf"), 2**62
ESTIMATE = Estimate(T0_US, "m/1", ("a", "b"), ("", "u"), (1.0, 2.0), (1.0, 0.0, 1.0), 120.0, 9.0, 1.0, 60.0)
FORECAST = Forecast(T0_US, "m/1", (30.0,), (1.0,), (1.0,), (1.0,), (1.0,), (1.0,), 60.0)
CONTRIBUTION = Contribution(T0_US, "m/1", 1, ("si",), (1.0,), (2.0,))
STATUS = HubStatus(T0_US, "1", True, {"cgm": "live"}, {"a": 1}, 0)


@pytest.mark.parametrize(
    "bad",
    [
        *(replace(ESTIMATE, **c) for c in (
            {"mean": ()}, {"units": ("u",)}, {"covariance": (1.0, 0.0)}, {"names": (), "units": (), "mean": ()},
            {"mean": (NAN, 1.0)}, {"covariance": (1.0, INF, 1.0)}, {"covariance": (1.0, 0.0, -1.0)},
            {"output_mean": NAN}, {"output_sd": -1.0}, {"nis": INF}, {"data_age_s": NAN},
            {"time_us": FAR}, {"time_us": -FAR}, {"time_us": 0}, {"model": "x" * 81}, {"names": ("a", "b\0")},
        )),
        *(replace(FORECAST, **c) for c in (
            {"p05": ()}, {"mean": (1.0, 2.0)}, {"p50": (NAN,)}, {"p95": (INF,)}, {"sd": (-1.0,)},
            {"horizons_min": (NAN,)}, {"horizons_min": (1e300,)}, {"horizons_min": (-1.0,)},
            {"made_at_us": FAR}, {"made_at_us": -FAR}, {"data_age_s": NAN}, {"status": ""},
            {"low_chance": 1.01}, {"low_chance": -0.01}, {"low_chance": INF},
            {"horizons_min": (), "mean": (), "sd": (), "p05": (), "p50": (), "p95": ()},
        )),
        *(alarm(**c) for c in (
            {"time_us": FAR}, {"time_us": -FAR}, {"value": INF}, {"data_age_s": NAN}, {"number": 2**63},
            {"number": -1}, {"level": -1}, {"name": ""}, {"name": "a\nb"},
        )),
        *(replace(CONTRIBUTION, **c) for c in (
            {"delta_precision": ()}, {"delta_information": (1.0, 2.0)}, {"delta_precision": (NAN,)},
            {"time_us": FAR}, {"prior_version": -1}, {"prior_version": 2**63}, {"model": "x" * 41},
            {"names": (), "delta_precision": (), "delta_information": ()},
        )),
        replace(STATUS, devices={"a\0": "live"}),
        replace(STATUS, counters={str(i): i for i in range(5000)}),
    ],
)  # fmt: skip
def test_a_message_that_cannot_be_meant_is_kept_aside_and_blocks_nothing(
    db: Database, take: Taker, bad: Up
) -> None:
    assert take(received(1, bad), received(2, samples(5), after=1)) == [REJECTED, TAKEN]
    assert [(number, body) for number, _, body in set_aside(db)] == [(1, encode(bad))]
    for table in (EstimateRow, ForecastRow, AlarmRow, ContributionRow):
        assert count(db, table) == 0


@pytest.mark.parametrize(
    "good",
    [
        replace(ESTIMATE, nis=NAN, data_age_s=INF),
        replace(FORECAST, data_age_s=INF),
        alarm(value=NAN, data_age_s=INF),
        replace(STATUS, time_us=0, devices={}, counters={}),  # a hub without a clock must be heard
    ],
)
def test_what_the_contract_allows_is_taken(db: Database, take: Taker, good: Up) -> None:
    assert take(received(1, good)) == [TAKEN]
    assert set_aside(db) == []


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


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_database_file_that_was_deleted_or_replaced_stops_every_answer(
    tmp_path: Path, db: Database, replaced: bool
) -> None:
    counters: Counter[str] = Counter()
    ingest = Ingest(db, SystemClock(time.time_ns), counters)
    assert await ingest.commit([received(1, samples(1))]) == [TAKEN]
    (tmp_path / "cloud.sqlite").rename(tmp_path / "moved")
    if replaced:
        (tmp_path / "cloud.sqlite").touch()
    for _ in range(2):
        with pytest.raises(StoreError, match="deleted or replaced"):
            await ingest.commit([received(2, samples(2), after=1)])
        with pytest.raises(StoreError, match="deleted or replaced"):
            await db.query(lambda session: None)
    assert counters["ingested.samplebatch"] == 1


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
