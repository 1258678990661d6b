"""Takes uplinks into the database, each exactly once and in the hub's order.

One transaction holds the records and the uplink's number, so a crash leaves both or none. The rules for one
uplink of a hub whose last number taken is L:

- its number was taken before and the content is the same: REPEATED, nothing changes;
- its predecessor is neither 0 (none outstanding) nor L: OUT_OF_ORDER, the hub will send from the gap on;
- otherwise its records are added and L becomes its number: TAKEN.

A known number with other content comes from a hub whose store began anew; its records count, and samples are
unique by themselves. What is authentic but cannot be used (a newer hub's kind, an impossible time) and what
contradicts a record that stands (the same key with another content) is kept sealed in ``rejected``, so it neither
blocks what comes with it or after it nor gets lost. Of a batch only the samples concerned are kept aside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from cloud import audit, decisions
from cloud.checks import problem_of, sample_problem
from cloud.db import Database
from cloud.tables import (
    AlarmRow,
    Base,
    ContributionRow,
    CorrectionRow,
    EstimateRow,
    ForecastRow,
    HubRow,
    RejectedRow,
    SampleRow,
    UplinkRow,
)
from core.clock import Clock
from core.errors import DecodeError, InputError
from core.messages import (
    Alarm,
    Confirmation,
    Contribution,
    Estimate,
    Forecast,
    HubStatus,
    OwnAdvice,
    Quality,
    Resend,
    Sample,
    SampleBatch,
    Up,
    decode,
    encode,
)
from sync.cloud_link import Outcome, Received
from sync.session import GENERATION

log = structlog.get_logger()

SAMPLE_KEY: Final = ("hub_id", "source", "kind", "seq")
# What a message can do to the database or its codecs that is the message's own fault.
UNUSABLE: Final = (SQLAlchemyError, InputError, OverflowError, UnicodeError)
KEYS_PER_QUERY: Final = 500  # SQLite binds at most 999 values on old machines

Digest = Callable[[bytes], bytes]


class Aside(NamedTuple):
    """What of a message goes to ``rejected``: ``body`` is a message of its own."""

    reason: str
    body: bytes
    is_all: bool  # nothing of the message was used


class Ingest:
    """The commit that CloudLink asks for."""

    def __init__(self, db: Database, clock: Clock, counters: Counter[str]) -> None:
        self._db = db
        self._clock = clock
        self._counters = counters

    async def commit(self, group: Sequence[Received]) -> list[Outcome]:
        """All of ``group`` in one transaction; StoreError (and nothing changed) when the database fails."""
        counted: Counter[str] = Counter()
        outcomes = await self._db.run(
            take_group, self._db.sealer.digest, group, self._clock.now_us(), counted
        )
        self._counters.update(counted)
        return outcomes


def ensure_hub(session: Session, hub_id: str) -> HubRow:
    """The hub's row, made when it is new. Until somebody names the person, the hub's name stands for them."""
    hub = session.get(HubRow, hub_id)
    if hub is None:
        hub = HubRow(hub_id=hub_id, person=hub_id, last_seen_us=0, last_number=0, last_down=0)
        session.add(hub)
        session.flush()
    return hub


def take_group(
    session: Session, digest: Digest, group: Sequence[Received], now_us: int, counters: Counter[str]
) -> list[Outcome]:
    """One outcome per message, in order. ``digest(bytes)`` is the database's keyed fingerprint."""
    try:
        with session.begin_nested():
            outcomes, counted = _take_all(session, digest, group, now_us, careful=False)
    except OperationalError:
        raise  # the database's fault, not a message's
    except UNUSABLE:
        # One message cannot be used: once more, each under a savepoint of its own (a third slower).
        outcomes, counted = _take_all(session, digest, group, now_us, careful=True)
    counters.update(counted)
    return outcomes


class _Hub:
    """What is known of one hub while a group is taken: its row, and the fingerprints of its numbers."""

    def __init__(self, session: Session, hub_id: str, numbers: list[int]) -> None:
        self.row = ensure_hub(session, hub_id)
        query = select(UplinkRow.number, UplinkRow.digest)
        query = query.where(UplinkRow.hub_id == hub_id, UplinkRow.number.in_(numbers))
        self.known: dict[int, bytes] = {number: digest for number, digest in session.execute(query)}


def _take_all(
    session: Session, digest: Digest, group: Sequence[Received], now_us: int, *, careful: bool
) -> tuple[list[Outcome], Counter[str]]:
    counters: Counter[str] = Counter()
    numbers: dict[str, list[int]] = {}
    for received in group:
        numbers.setdefault(received.hub_id, []).append(received.number)
    hubs = {hub_id: _Hub(session, hub_id, of_hub) for hub_id, of_hub in numbers.items()}
    outcomes = [
        _take(session, digest, hubs[received.hub_id], received, now_us, counters, careful)
        for received in group
    ]
    for hub in hubs.values():
        hub.row.last_seen_us = max(hub.row.last_seen_us, now_us)
    session.flush()
    return outcomes, counters


def _take(
    session: Session,
    digest: Digest,
    hub: _Hub,
    received: Received,
    now_us: int,
    counters: Counter[str],
    careful: bool,
) -> Outcome:
    # sent_us differs between repetitions, so only the body is compared.
    body = received.clear if received.uplink is None else encode(received.uplink.body)
    fingerprint = digest(body)
    known = hub.known.get(received.number)
    if known == fingerprint:
        return Outcome.REPEATED
    if received.after not in (0, hub.row.last_number):
        return Outcome.OUT_OF_ORDER
    if known is not None:
        counters["uplink.renumbered"] += 1
        log.warning("uplink.renumbered", hub=received.hub_id, number=received.number)
    _upsert(
        session,
        UplinkRow,
        {
            "hub_id": received.hub_id,
            "number": received.number,
            "digest": fingerprint,
            "received_us": now_us,
        },
        ("hub_id", "number"),
        ("digest", "received_us"),
    )
    hub.known[received.number] = fingerprint
    hub.row.last_number = received.number
    asides = _take_body(session, received, body, now_us, counters, careful)
    for aside in asides:
        session.add(
            RejectedRow(
                hub_id=received.hub_id,
                number=received.number,
                received_us=now_us,
                reason=aside.reason[:80],
                body=aside.body,
            )
        )
        log.error("uplink.rejected", hub=received.hub_id, number=received.number, reason=aside.reason)
    return Outcome.REJECTED if any(aside.is_all for aside in asides) else Outcome.TAKEN


def _take_body(
    session: Session, received: Received, data: bytes, now_us: int, counters: Counter[str], careful: bool
) -> list[Aside]:
    """Add the records; returns what of the message could not be used."""
    if received.uplink is None:
        return [Aside("not a message this version knows", data, True)]
    body = received.uplink.body
    if problem := problem_of(body):
        return [Aside(problem, data, True)]
    if not careful:
        return _add(session, received.hub_id, received.number, body, data, now_us, counters)
    try:
        with session.begin_nested():
            return _add(session, received.hub_id, received.number, body, data, now_us, counters)
    except OperationalError:
        raise
    except UNUSABLE as err:
        return [Aside(f"cannot be stored: {type(err).__name__}", data, True)]


def _add(
    session: Session, hub_id: str, number: int, body: Up, data: bytes, now_us: int, counters: Counter[str]
) -> list[Aside]:
    """Statements rather than objects: one of them per message, and their order is that of the rows."""
    asides: list[Aside] = []
    match body:
        case SampleBatch():
            asides = _add_samples(session, hub_id, number, body.samples, counters)
        case Estimate():
            session.execute(insert(EstimateRow), [{"hub_id": hub_id, "time_us": body.time_us, "body": data}])
        case Forecast():
            row = {"hub_id": hub_id, "made_at_us": body.made_at_us, "body": data}
            session.execute(insert(ForecastRow), [row])
        case Alarm():
            asides = _add_alarm(session, hub_id, body, data, counters)
        case HubStatus():
            _watch_store(session, hub_id, body, now_us, counters)
            if known_now := decisions.set_aside(session, hub_id, body.set_aside, now_us):
                counters["advice.set_aside"] += known_now
            session.execute(update(HubRow).where(HubRow.hub_id == hub_id).values(status=data))
        case Contribution():
            asides = _add_contribution(session, hub_id, body, data, counters)
        case Confirmation():
            if not decisions.confirm(session, hub_id, body, now_us):
                asides = _conflict("confirmation", hub_id, data, counters)
        case OwnAdvice():
            if not decisions.keep_own(session, hub_id, body, now_us):
                asides = _conflict("advice", hub_id, data, counters)
        case Resend(after=0):
            audit.note(session, now_us, f"hub {hub_id}", "asks again for what damage took from its store")
    counters[f"ingested.{type(body).__name__.lower()}"] += 1
    return asides


def _watch_store(
    session: Session, hub_id: str, status: HubStatus, now_us: int, counters: Counter[str]
) -> None:
    """Tell when a hub's store is not the one of before: no hub can see that all its files were put back as they were."""
    old = session.scalar(select(HubRow.status).where(HubRow.hub_id == hub_id))
    try:
        known = decode(old, HubStatus) if old else None
    except DecodeError:
        return  # of another version
    if known is not None and known.person and status.person and known.person != status.person:
        session.execute(delete(CorrectionRow).where(CorrectionRow.hub_id == hub_id))  # it was somebody else's
    before = known.counters.get(GENERATION, 0) if known is not None else 0
    now = status.counters.get(GENERATION, before)
    if now < before:
        counters["store.older"] += 1
        log.warning("hub.store_is_older", hub=hub_id, before=before, now=now)
        what = "its store is older than before, or another one"
        audit.note(session, now_us, f"hub {hub_id}", what, f"generation {now} after {before}")


def _add_samples(
    session: Session, hub_id: str, number: int, samples: Sequence[Sample], counters: Counter[str]
) -> list[Aside]:
    problems = [sample_problem(sample) for sample in samples]
    good = [sample for sample, problem in zip(samples, problems, strict=True) if not problem]
    asides: list[Aside] = []
    if len(good) < len(samples):
        bad = tuple(sample for sample, problem in zip(samples, problems, strict=True) if problem)
        counters["samples.rejected"] += len(bad)
        reason = "samples: " + ", ".join(sorted({problem for problem in problems if problem}))
        asides.append(Aside(reason, encode(SampleBatch(bad)), not good))
    if not good:
        return asides
    rows = [_sample_row(hub_id, number, sample) for sample in good]
    statement = _insert(session, SampleRow).on_conflict_do_nothing(index_elements=SAMPLE_KEY)
    added: int = session.connection().execute(statement, rows).rowcount
    counters["samples.added"] += added
    if added < len(rows):
        other = tuple(_contradicting(session, hub_id, good))
        counters["samples.repeated"] += len(rows) - added - len(other)
        if other:
            counters["samples.conflict"] += len(other)
            log.warning("sample.conflict", hub=hub_id, number=number, samples=len(other))
            asides.append(Aside("samples: contradict stored ones", encode(SampleBatch(other)), False))
    return asides


def _contradicting(session: Session, hub_id: str, samples: Sequence[Sample]) -> Iterable[Sample]:
    """Those whose key stands in the database with another content. What stands, stays."""
    groups: dict[tuple[str, str], list[int]] = {}
    for sample in samples:
        groups.setdefault((sample.source, sample.kind), []).append(sample.seq)
    stored: dict[tuple[str, str, int], tuple[object, ...]] = {}
    for (source, kind), seqs in groups.items():
        for start in range(0, len(seqs), KEYS_PER_QUERY):
            rows = session.scalars(
                select(SampleRow).where(
                    SampleRow.hub_id == hub_id,
                    SampleRow.source == source,
                    SampleRow.kind == kind,
                    SampleRow.seq.in_(seqs[start : start + KEYS_PER_QUERY]),
                )
            )
            for row in rows:
                amends = None if row.amends_source is None else (row.amends_source, row.amends_seq)
                stored[source, kind, row.seq] = _content(
                    row.time_us, row.value, row.quality, amends, row.deleted
                )
    for s in samples:
        if stored.get(s.key) != _content(s.time_us, s.value, s.quality, s.amends, s.deleted):
            yield s


def _content(
    time_us: int, value: float, quality: int, amends: tuple[str, int | None] | None, deleted: bool
) -> tuple[object, ...]:
    """What makes two records of one key the same. When and on what way it reached the hub is left out."""
    return (time_us, value, quality & ~(Quality.BACKFILLED | Quality.RETURNED), amends, deleted)


def _add_alarm(
    session: Session, hub_id: str, alarm: Alarm, data: bytes, counters: Counter[str]
) -> list[Aside]:
    row = session.get(AlarmRow, (hub_id, alarm.number), populate_existing=True)
    if row is None:
        values = {"hub_id": hub_id, "number": alarm.number, "time_us": alarm.time_us, "body": data}
        session.execute(insert(AlarmRow), [values])
        return []
    try:
        known = decode(row.body, Alarm)
    except DecodeError:  # written by another version: nothing can be said of it
        return _conflict("alarm", hub_id, data, counters)
    is_same = (known.name, known.time_us, known.raised) == (alarm.name, alarm.time_us, alarm.raised)
    if is_same and alarm.delivered and not known.delivered:
        known = msgspec.structs.replace(known, delivered=True)
        row.body = encode(known)
        session.flush()
    # Compared as bytes: a value may be nan, which is equal to nothing.
    if is_same and encode(msgspec.structs.replace(alarm, delivered=known.delivered)) == encode(known):
        return []
    return _conflict("alarm", hub_id, data, counters)


def _add_contribution(
    session: Session, hub_id: str, body: Contribution, data: bytes, counters: Counter[str]
) -> list[Aside]:
    if body.noise_sd > 0:  # who asks for privacy takes back what was said before
        session.execute(delete(CorrectionRow).where(CorrectionRow.hub_id == hub_id))
    elif body.correction:
        _keep_correction(session, hub_id, body)
        data = encode(msgspec.structs.replace(body, correction=b""))  # 3 kB of which only the newest counts
    key = {"hub_id": hub_id, "time_us": body.time_us, "model": body.model}
    values = {**key, "prior_version": body.prior_version, "body": data}
    statement = _insert(session, ContributionRow).on_conflict_do_nothing(index_elements=tuple(key))
    if session.connection().execute(statement, [values]).rowcount:
        return []
    known = session.scalars(select(ContributionRow.body).filter_by(**key)).one()
    return [] if known == data else _conflict("contribution", hub_id, data, counters)


def _keep_correction(session: Session, hub_id: str, body: Contribution) -> None:
    """In place of the one before, by arrival: a hub's messages come in order, its clock may not."""
    row = {"hub_id": hub_id, "time_us": body.time_us, "body": body.correction}
    _upsert(session, CorrectionRow, row, ("hub_id",), ("time_us", "body"))


def _conflict(what: str, hub_id: str, data: bytes, counters: Counter[str]) -> list[Aside]:
    counters[f"{what}s.conflict"] += 1
    log.warning(f"{what}.conflict", hub=hub_id)
    return [Aside(f"contradicts a stored {what}", data, True)]


def _sample_row(hub_id: str, number: int, sample: Sample) -> dict[str, Any]:
    amends_source, amends_seq = sample.amends or (None, None)
    return {
        "hub_id": hub_id,
        "source": sample.source,
        "kind": sample.kind,
        "seq": sample.seq,
        "time_us": sample.time_us,
        "value": sample.value,
        "quality": sample.quality,
        "received_us": sample.received_us,
        "amends_source": amends_source,
        "amends_seq": amends_seq,
        "deleted": sample.deleted,
        "uplink_number": number,
    }


def _insert(session: Session, table: type[Base]) -> Any:
    """INSERT with ON CONFLICT, which SQLite and PostgreSQL both have, each under its own module."""
    dialect = session.get_bind().dialect.name
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def _upsert(
    session: Session,
    table: type[Base],
    row: dict[str, Any],
    key: tuple[str, ...],
    replaced: tuple[str, ...],
) -> None:
    """Insert ``row``, or replace the columns ``replaced`` of the row with the same key."""
    statement = _insert(session, table)
    values = {name: statement.excluded[name] for name in replaced}
    statement = statement.on_conflict_do_update(index_elements=key, set_=values)
    session.connection().execute(statement, [row])
