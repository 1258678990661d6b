"""What the pages and the adviser read, typed. Every function takes a session of one snapshot.

Amendments are applied here: a record that a later one replaces or deletes is absent, and so is a deletion
itself. The original stays in the table. What cannot be meant (cloud/checks.py) or read is absent too: a page
without it is honest, a broken page helps nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Select, and_, func, select, type_coerce
from sqlalchemy.orm import Session

from cloud import audit, closing, outcomes
from cloud.checks import EARLIEST_US, LATEST_US, problem_of, sample_problem
from cloud.db import (
    AdviceRow,
    AlarmRow,
    AuditRow,
    ContributionRow,
    CorrectionRow,
    EstimateRow,
    ForecastRow,
    HubRow,
    MetaRow,
    PolicyRow,
    PriorRow,
    RejectedRow,
    SampleRow,
)
from cloud.outcomes import Outcome, Scorecard
from cloud.population import Fitted
from cloud.sealing import SealedBytes
from core.errors import DecodeError
from core.messages import (
    Alarm,
    Contribution,
    DoseAdvice,
    Estimate,
    Forecast,
    HubStatus,
    Prior,
    Sample,
    StandingPolicy,
    decode,
)
from core.trend import TREND_SPAN_US, trend
from core.units import US_PER_DAY, US_PER_MIN

GLUCOSE: Final = "cgm_mgdl"
SHOWN_KINDS: Final = ("cgm_mgdl", "smbg_mgdl", "bolus_u", "basal_uph", "long_acting_u", "carbs_g")
# A basal rate holds until the next one: look this far back for the one in force at the left edge.
BASAL_LOOKBACK_US: Final = US_PER_DAY

POPULATION: Final = "population.glucose/1"  # row of ``meta`` that holds the stored fit
POPULATION_SEAL: Final = SealedBytes("meta.population")
CONTEXT_LOOK_BACK: Final = 200  # contributions of one hub; about a week of them

M = TypeVar("M")


class Reading(msgspec.Struct, frozen=True):
    """The newest glucose reading."""

    time_us: int
    value_mgdl: float
    trend_mgdl_per_min: float | None  # None: too few recent readings
    quality: int


class PersonLine(msgspec.Struct, frozen=True):
    """One line of the overview."""

    hub_id: str
    person: str
    last_seen_us: int  # last uplink; 0: never
    reading: Reading | None
    alarms: tuple[Alarm, ...]  # those raised and not cleared, newest first
    undecided: int  # advice that waits for a clinician
    status: HubStatus | None


class AdviceCard(msgspec.Struct, frozen=True):
    """Advice with its decision."""

    advice: DoseAdvice
    hub_id: str
    created_us: int
    state: str  # proposed | approved | rejected | sent
    decided_by: str | None
    decided_us: int | None
    note: str | None
    confirmed_us: int | None = None
    took_u: float | None = None
    outcome: Outcome | None = None
    set_aside: str = ""  # why the hub lets nobody use it, in its word; empty: it has not said so
    overtaken: str = ""  # of a proposal: what came on record since, so that nobody may approve it

    def closed(self, now_us: int) -> str:
        """Why nobody can approve this proposal any more; empty while it waits, and once it is decided."""
        if self.state != "proposed":
            return ""
        return self.overtaken or closing.past(self.advice, now_us)


class PersonView(msgspec.Struct, frozen=True):
    """Everything one person's page shows."""

    line: PersonLine
    samples: tuple[Sample, ...]  # of SHOWN_KINDS, by time; one basal rate may lie before the window
    forecast: Forecast | None
    estimate: Estimate | None
    alarms: tuple[Alarm, ...]  # newest first, within the window
    prior: Prior | None
    advice: tuple[AdviceCard, ...]  # newest first
    scorecard: Scorecard | None = None
    policies: tuple[StandingPolicy, ...] = ()  # those that still hold
    context: tuple[str, int] | None = (
        None  # what the hub says of the person's life, and when; None: usual life
    )
    set_aside: int = 0  # messages, whole or in part, that could not be used within the window


def hub_ids(session: Session) -> list[str]:
    """All hubs, sorted."""
    return list(session.scalars(select(HubRow.hub_id).order_by(HubRow.hub_id)))


def people(session: Session, now_us: int) -> list[PersonLine]:
    """The overview: whoever needs attention first."""
    lines = [_line(session, hub, now_us) for hub in session.scalars(select(HubRow))]
    return sorted(lines, key=lambda p: (*_calm(p, now_us), p.person.casefold(), p.hub_id))


def person(session: Session, hub_id: str, start_us: int, now_us: int) -> PersonView | None:
    """One person's page from ``start_us`` on; None for an unknown hub."""
    hub = session.get(HubRow, hub_id)
    if hub is None:
        return None
    return PersonView(
        line=_line(session, hub, now_us),
        samples=tuple(_shown_samples(session, hub_id, start_us)),
        forecast=last_forecast(session, hub_id),
        estimate=last_estimate(session, hub_id),
        alarms=tuple(alarms(session, hub_id, start_us)),
        prior=last_prior(session, hub_id),
        advice=tuple(advice_cards(session, hub_id)),
        scorecard=scorecard(session, hub_id),
        policies=tuple(policies(session, hub_id, now_us)),
        context=life_context(session, hub_id),
        set_aside=_set_aside(session, hub_id, start_us),
    )


def samples(session: Session, hub_id: str, start_us: int, kinds: Sequence[str] = ()) -> list[Sample]:
    """Samples from ``start_us`` on, by time, amendments applied. ``kinds`` empty: all."""
    wanted = select(SampleRow).where(SampleRow.hub_id == hub_id, SampleRow.time_us >= start_us)
    if kinds:
        wanted = wanted.where(SampleRow.kind.in_(kinds))
    return _amended(session, hub_id, session.scalars(wanted.order_by(SampleRow.time_us, SampleRow.id)))


def newest_reading(session: Session, hub_id: str) -> Reading | None:
    """The newest CGM reading and where it is heading."""
    newest_us = session.scalar(
        select(func.max(SampleRow.time_us)).where(
            SampleRow.hub_id == hub_id, SampleRow.kind == GLUCOSE, SampleRow.time_us < LATEST_US
        )
    )
    if newest_us is None:
        return None
    recent = samples(session, hub_id, newest_us - TREND_SPAN_US, (GLUCOSE,))
    if not recent:  # all of them deleted
        return None
    last = recent[-1]
    return Reading(last.time_us, last.value, trend(recent), last.quality)


def history_span_us(session: Session, hub_id: str) -> tuple[int, int] | None:
    """Times of the first and last CGM reading; None without one."""
    first, last = session.execute(
        select(func.min(SampleRow.time_us), func.max(SampleRow.time_us)).where(
            SampleRow.hub_id == hub_id,
            SampleRow.kind == GLUCOSE,
            SampleRow.time_us >= EARLIEST_US,
            SampleRow.time_us < LATEST_US,
        )
    ).one()
    return None if first is None or last is None else (first, last)


def last_estimate(session: Session, hub_id: str) -> Estimate | None:
    """The newest estimate of the hub."""
    newest = select(EstimateRow.body).where(EstimateRow.hub_id == hub_id)
    return _first(session, newest.order_by(EstimateRow.time_us.desc(), EstimateRow.id.desc()), Estimate)


def last_forecast(session: Session, hub_id: str) -> Forecast | None:
    """The newest forecast of the hub."""
    newest = select(ForecastRow.body).where(ForecastRow.hub_id == hub_id)
    return _first(session, newest.order_by(ForecastRow.made_at_us.desc(), ForecastRow.id.desc()), Forecast)


def last_prior(session: Session, hub_id: str) -> Prior | None:
    """The prior that was sent last."""
    newest = select(PriorRow.body).where(PriorRow.hub_id == hub_id).order_by(PriorRow.version.desc())
    return _first(session, newest, Prior)


def alarms(session: Session, hub_id: str, start_us: int, limit: int = 200) -> list[Alarm]:
    """Alarms raised and cleared since ``start_us``, newest first."""
    wanted = (
        select(AlarmRow.body)
        .where(AlarmRow.hub_id == hub_id, AlarmRow.time_us >= start_us)
        .order_by(AlarmRow.number.desc())
        .limit(limit)
    )
    return [alarm for body in session.scalars(wanted) if (alarm := _usable(body, Alarm)) is not None]


def active_alarms(session: Session, hub_id: str, now_us: int) -> tuple[Alarm, ...]:
    """The newest word on each alarm name, where that word is "raised". A week old word counts no more."""
    newest: dict[str, Alarm] = {}
    for alarm in alarms(session, hub_id, now_us - 7 * US_PER_DAY):
        newest.setdefault(alarm.name, alarm)
    return tuple(alarm for alarm in newest.values() if alarm.raised)


def advice_cards(session: Session, hub_id: str, limit: int = 8) -> list[AdviceCard]:
    """The last pieces of advice, newest first."""
    rows = session.scalars(
        select(AdviceRow)
        .where(AdviceRow.hub_id == hub_id)
        .order_by(AdviceRow.created_us.desc(), AdviceRow.advice_id.desc())
        .limit(limit)
    )
    return [
        AdviceCard(
            advice,
            row.hub_id,
            row.created_us,
            row.state,
            row.decided_by,
            row.decided_us,
            row.note,
            row.confirmed_us,
            row.took_u,
            _outcome(row),
            row.set_aside or "",
            overtaken(session, hub_id, advice) if row.state == "proposed" else "",
        )
        for row in rows
        if (advice := _usable(row.body, DoseAdvice)) is not None
    ]


def overtaken(session: Session, hub_id: str, advice: DoseAdvice) -> str:
    """What came on record since this advice was made, so that nobody may approve it; empty when nothing did."""
    return closing.overtaken(advice, samples(session, hub_id, advice.data_time_us, closing.KINDS))


def _outcome(row: AdviceRow) -> Outcome | None:
    if row.outcome is None:
        return None
    try:
        return msgspec.msgpack.decode(row.outcome, type=Outcome)
    except msgspec.MsgspecError:  # of another version
        return None


def scorecard(session: Session, hub_id: str) -> Scorecard | None:
    """All outcomes of this person's advice, summed up; None before the first."""
    rows = session.scalars(
        select(AdviceRow).where(AdviceRow.hub_id == hub_id, AdviceRow.outcome.is_not(None))
    )
    return outcomes.scorecard(found for row in rows if (found := _outcome(row)) is not None)


def policies(session: Session, hub_id: str, now_us: int) -> list[StandingPolicy]:
    """Standing policies that hold now, newest first."""
    bodies = session.scalars(
        select(PolicyRow.body)
        .where(PolicyRow.hub_id == hub_id, PolicyRow.expires_us > now_us)
        .order_by(PolicyRow.approved_us.desc())
    )
    return [policy for body in bodies if (policy := _usable(body, StandingPolicy)) is not None]


def person_mark(session: Session, hub_id: str) -> str:
    """Whom the hub says it lives with (core.evidence.person_mark); empty before its first status."""
    hub = session.get(HubRow, hub_id)
    status = _usable(hub.status, HubStatus) if hub is not None and hub.status else None
    return status.person if status is not None else ""


def life_context(session: Session, hub_id: str) -> tuple[str, int] | None:
    """(words, time) of the newest contribution, when it was made out of the person's usual life; else None."""
    body = session.scalar(
        select(ContributionRow.body)
        .where(ContributionRow.hub_id == hub_id)
        .order_by(ContributionRow.time_us.desc())
        .limit(1)
    )
    newest = None if body is None else _usable(body, Contribution)
    return (newest.context, newest.time_us) if newest is not None and newest.context else None


def contributions(session: Session) -> Fitted | dict[str, Contribution]:
    """What a prior is made from: the stored fit, or the contributions themselves before there is one."""
    fitted = population_fit(session)
    return fitted if fitted is not None else {hub: c for hub, (_, c) in newest_contributions(session).items()}


def newest_contributions(session: Session) -> dict[str, tuple[int, Contribution]]:
    """Of every hub (row, contribution): the newest of the person's usual life, else the newest at all.

    Each speaks for all of that hub's data, so it replaces the earlier ones; an illness is not the person.
    """
    rows = session.execute(
        select(ContributionRow.id, ContributionRow.hub_id, ContributionRow.body)
        .where(ContributionRow.id.in_(_newest_ids()))
        .order_by(ContributionRow.hub_id)
    )
    found: dict[str, tuple[int, Contribution]] = {}
    for row_id, hub_id, body in rows:
        newest = _usable(body, Contribution)
        if newest is not None and newest.context:
            newest = _usual_contribution(session, hub_id) or newest
        if newest is not None:
            found[hub_id] = (row_id, newest)
    return found


def corrections(session: Session) -> dict[str, bytes]:
    """Of every hub what its data moved in its learned correction, as it said last."""
    return {row.hub_id: row.body for row in session.scalars(select(CorrectionRow))}


def _newest_ids() -> Any:
    times = select(ContributionRow.hub_id, func.max(ContributionRow.time_us).label("time_us")).group_by(
        ContributionRow.hub_id
    )
    last = times.subquery()
    return (
        select(func.max(ContributionRow.id))
        .join(last, and_(ContributionRow.hub_id == last.c.hub_id, ContributionRow.time_us == last.c.time_us))
        .group_by(ContributionRow.hub_id)
    )


def _usual_contribution(session: Session, hub_id: str) -> Contribution | None:
    bodies = session.scalars(
        select(ContributionRow.body)
        .where(ContributionRow.hub_id == hub_id)
        .order_by(ContributionRow.time_us.desc())
        .limit(CONTEXT_LOOK_BACK)
    )
    usable = (_usable(body, Contribution) for body in bodies)
    return next((c for c in usable if c is not None and not c.context), None)


def population_fit(session: Session) -> Fitted | None:
    """The stored fit of the population; None before the first, or when another version wrote it."""
    value = type_coerce(MetaRow.value, POPULATION_SEAL)
    data = session.scalar(select(value).where(MetaRow.name == POPULATION))
    try:
        return None if data is None else msgspec.msgpack.decode(data, type=Fitted)
    except (msgspec.MsgspecError, ValueError):
        return None


def keep_population_fit(session: Session, fitted: Fitted, now_us: int) -> None:
    """Replace the stored fit; its provenance stays in the audit."""
    sealed = POPULATION_SEAL.process_bind_param(msgspec.msgpack.encode(fitted), session.get_bind().dialect)
    session.merge(MetaRow(name=POPULATION, value=sealed))
    audit.note(session, now_us, "population", fitted.audit())


def change_mark(session: Session, hub_id: str) -> tuple[int, ...]:
    """Changes when anything that the person's page shows has changed. Cheap: no value is opened."""
    hub = session.execute(
        select(HubRow.last_seen_us, HubRow.last_number).where(HubRow.hub_id == hub_id)
    ).one_or_none()
    decided = session.execute(
        select(func.count(), func.max(AdviceRow.created_us), func.max(AdviceRow.decided_us)).where(
            AdviceRow.hub_id == hub_id
        )
    ).one()
    sent = session.scalar(select(func.count()).where(AdviceRow.hub_id == hub_id, AdviceRow.state == "sent"))
    done = session.execute(
        select(func.count(AdviceRow.confirmed_us), func.count(AdviceRow.outcome)).where(
            AdviceRow.hub_id == hub_id
        )
    ).one()
    held = session.scalar(select(func.count()).where(PolicyRow.hub_id == hub_id))
    version = session.scalar(select(func.max(PriorRow.version)).where(PriorRow.hub_id == hub_id))
    return tuple(int(value or 0) for value in (*(hub or (0, 0)), *decided, sent, version, *done, held))


def audit_lines(session: Session, limit: int = 50) -> list[tuple[int, str, str]]:
    """(time_us, who, what), newest first."""
    rows = session.scalars(select(AuditRow).order_by(AuditRow.id.desc()).limit(limit))
    return [(row.time_us, row.who, row.what) for row in rows]


def _line(session: Session, hub: HubRow, now_us: int) -> PersonLine:
    undecided = session.scalars(
        select(AdviceRow.body).where(AdviceRow.hub_id == hub.hub_id, AdviceRow.state == "proposed")
    )
    waiting = sum(
        1
        for body in undecided
        if (advice := _usable(body, DoseAdvice)) is not None
        and not (closing.past(advice, now_us) or overtaken(session, hub.hub_id, advice))
    )
    return PersonLine(
        hub_id=hub.hub_id,
        person=hub.person,
        last_seen_us=hub.last_seen_us,
        reading=newest_reading(session, hub.hub_id),
        alarms=active_alarms(session, hub.hub_id, now_us),
        undecided=waiting,
        status=_usable(hub.status, HubStatus) if hub.status else None,
    )


def _calm(line: PersonLine, now_us: int) -> tuple[bool, int, int]:
    """Sort key: low now, then alarms, then undecided advice; the calmest last."""
    reading = line.reading
    is_low = (
        reading is not None and reading.value_mgdl < 70 and abs(now_us - reading.time_us) < 20 * US_PER_MIN
    )
    return (not is_low, -len(line.alarms), -line.undecided)


def _shown_samples(session: Session, hub_id: str, start_us: int) -> list[Sample]:
    shown = samples(session, hub_id, start_us, SHOWN_KINDS)
    basal = samples_before(session, hub_id, "basal_uph", start_us)
    return ([basal] if basal is not None else []) + shown


def samples_before(session: Session, hub_id: str, kind: str, before_us: int) -> Sample | None:
    """The last sample of a kind before a time, at most a day old."""
    rows = session.scalars(
        select(SampleRow)
        .where(
            SampleRow.hub_id == hub_id,
            SampleRow.kind == kind,
            SampleRow.time_us < before_us,
            SampleRow.time_us >= before_us - BASAL_LOOKBACK_US,
        )
        .order_by(SampleRow.time_us.desc(), SampleRow.id.desc())
        .limit(20)
    )
    kept = _amended(session, hub_id, sorted(rows, key=lambda row: (row.time_us, row.id)))
    return kept[-1] if kept else None


def _amended(session: Session, hub_id: str, rows: Iterable[SampleRow]) -> list[Sample]:
    """Samples without those that any amendment of this hub replaces, and without deletions."""
    replaced = {
        (source, kind, seq)
        for source, kind, seq in session.execute(
            select(SampleRow.amends_source, SampleRow.kind, SampleRow.amends_seq).where(
                SampleRow.hub_id == hub_id, SampleRow.amends_source.is_not(None)
            )
        )
    }
    kept = []
    for row in rows:
        if row.deleted or (row.source, row.kind, row.seq) in replaced:
            continue
        amends = None
        if row.amends_source is not None and row.amends_seq is not None:
            amends = (row.amends_source, row.amends_seq)
        sample = Sample(
            row.time_us, row.kind, row.value, row.source, row.seq, row.quality, row.received_us, amends
        )
        if not sample_problem(sample):
            kept.append(sample)
    return kept


def _set_aside(session: Session, hub_id: str, start_us: int) -> int:
    wanted = select(func.count()).select_from(RejectedRow)
    return (
        session.scalar(wanted.where(RejectedRow.hub_id == hub_id, RejectedRow.received_us >= start_us)) or 0
    )


def _first(session: Session, wanted: Select[Any], kind: type[M]) -> M | None:
    body = session.scalars(wanted.limit(1)).first()
    return None if body is None else _usable(body, kind)


def _usable(body: bytes, kind: type[M]) -> M | None:
    """The stored message; None for one of another version, or one that cannot be meant."""
    try:
        message = decode(body, kind)
    except DecodeError:
        return None
    return None if problem_of(message) else message
