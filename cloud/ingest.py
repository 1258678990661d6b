"""Takes uplinks into the database, each exactly once and in the hub's order.

One transaction holds the records and the uplink's number, so a crash leaves both or none. The rules for one
uplink of a hub whose last number taken is L:

- its number was taken before and the content is the same: REPEATED, nothing changes;
- its predecessor is neither 0 (none outstanding) nor L: OUT_OF_ORDER, the hub will send from the gap on;
- otherwise its records are added and L becomes its number: TAKEN.

A known number with other content comes from a hub whose store began anew; its records count, and samples are
unique by themselves. An authentic message that cannot be used (a newer hub's kind, a number beyond 64 bits)
is kept sealed in ``rejected``, so it neither blocks what follows nor gets lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from sqlalchemy import insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from cloud.db import Database
from cloud.tables import (
    AlarmRow,
    Base,
    ContributionRow,
    EstimateRow,
    ForecastRow,
    HubRow,
    RejectedRow,
    SampleRow,
    UplinkRow,
)
from core.clock import Clock
from core.errors import InputError
from core.messages import (
    Alarm,
    Contribution,
    Estimate,
    Forecast,
    HubStatus,
    Sample,
    SampleBatch,
    Up,
    encode,
)
from sync.cloud_link import Outcome, Received

log = structlog.get_logger()

SAMPLE_KEY: Final = ("hub_id", "source", "kind", "seq")
# What a message can do to the database or its codecs that is the message's own fault.
UNUSABLE: Final = (SQLAlchemyError, InputError, OverflowError)

Digest = Callable[[bytes], bytes]


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
    if reason := _take_body(session, received, body, counters, careful):
        session.add(
            RejectedRow(
                hub_id=received.hub_id, number=received.number, received_us=now_us, reason=reason, body=body
            )
        )
        log.error("uplink.rejected", hub=received.hub_id, number=received.number, reason=reason)
        return Outcome.REJECTED
    return Outcome.TAKEN


def _take_body(
    session: Session, received: Received, data: bytes, counters: Counter[str], careful: bool
) -> str:
    """Add the records; empty, or why this message cannot be used (then none of it was added)."""
    if received.uplink is None:
        return "not a message this version knows"
    body = received.uplink.body
    if not careful:
        _add(session, received.hub_id, received.number, body, data, counters)
        return ""
    try:
        with session.begin_nested():
            _add(session, received.hub_id, received.number, body, data, counters)
    except OperationalError:
        raise
    except UNUSABLE as err:
        return f"cannot be stored: {type(err).__name__}"
    return ""


def _add(session: Session, hub_id: str, number: int, body: Up, data: bytes, counters: Counter[str]) -> None:
    """Statements rather than objects: one of them per message, and their order is that of the rows."""
    match body:
        case SampleBatch():
            _add_samples(session, hub_id, number, body.samples, counters)
        case Estimate():
            session.execute(insert(EstimateRow), [{"hub_id": hub_id, "time_us": body.time_us, "body": data}])
        case Forecast():
            row = {"hub_id": hub_id, "made_at_us": body.made_at_us, "body": data}
            session.execute(insert(ForecastRow), [row])
        case Alarm():
            row = {"hub_id": hub_id, "number": body.number, "time_us": body.time_us, "body": data}
            _upsert(session, AlarmRow, row, ("hub_id", "number"), ("time_us", "body"))
        case HubStatus():
            session.execute(update(HubRow).where(HubRow.hub_id == hub_id).values(status=data))
        case Contribution():
            row = {
                "hub_id": hub_id,
                "time_us": body.time_us,
                "model": body.model,
                "prior_version": body.prior_version,
                "body": data,
            }
            _upsert(session, ContributionRow, row, ("hub_id", "time_us", "model"), ())
    counters[f"ingested.{type(body).__name__.lower()}"] += 1


def _add_samples(
    session: Session, hub_id: str, number: int, samples: Sequence[Sample], counters: Counter[str]
) -> None:
    for sample in samples:
        if not sample.deleted:
            sample.checked()
    rows = [_sample_row(hub_id, number, sample) for sample in samples]
    if not rows:
        return
    statement = _insert(session, SampleRow).on_conflict_do_nothing(index_elements=SAMPLE_KEY)
    added: int = session.connection().execute(statement, rows).rowcount
    counters["samples.added"] += added
    if added < len(rows):
        counters["samples.repeated"] += len(rows) - added
        _count_conflicts(session, hub_id, samples, counters)


def _count_conflicts(
    session: Session, hub_id: str, samples: Sequence[Sample], counters: Counter[str]
) -> None:
    """A repeated key with another value: the first stands, and somebody should look."""
    for sample in samples:
        row = session.scalars(
            select(SampleRow).where(
                SampleRow.hub_id == hub_id,
                SampleRow.source == sample.source,
                SampleRow.kind == sample.kind,
                SampleRow.seq == sample.seq,
            )
        ).one()
        if (row.time_us, row.value, row.deleted) != (sample.time_us, sample.value, sample.deleted):
            counters["samples.conflict"] += 1
            log.warning("sample.conflict", hub=hub_id, source=sample.source, kind=sample.kind)


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
    if replaced:
        values = {name: statement.excluded[name] for name in replaced}
        statement = statement.on_conflict_do_update(index_elements=key, set_=values)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=key)
    session.connection().execute(statement, [row])
