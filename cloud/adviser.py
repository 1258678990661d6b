"""The cloud's way back to the person: a prior once there is data, and advice before usual meals.

Nothing reaches a hub unapproved. With ``[advice] approval = "clinician"`` a proposal waits in the portal;
with ``"demo"`` it is approved at once, by nobody, and every screen that shows it says so. The database is
the queue: a restart loses and repeats nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Final, Protocol
from zoneinfo import ZoneInfo

import msgspec
import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud import audit, decisions, habits, outcomes, population, queries, tries
from cloud.advice_job import AdviceJob, JobResult
from cloud.advice_worker import AdviceWorker
from cloud.config import CloudConfig
from cloud.db import AdviceRow, ContributionRow, Database, PriorRow
from core import evidence
from core.advice_types import Advice, policy_of
from core.clock import Clock, span_us
from core.errors import ConfigError, HometwinError
from core.memory import IN_PROGRESS
from core.messages import DoseAdvice, Down, Prior, decode, encode
from core.patient import Patient
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN, US_PER_S

log = structlog.get_logger()

PRIOR_AFTER_US: Final = US_PER_H  # of readings: by then the hub is really in use
ADVICE_AFTER_US: Final = US_PER_DAY  # of readings: the twin's own warm-up
LEAD_US: Final = 60 * US_PER_MIN  # look this far ahead for a usual meal
# Before this the state may change too much, after it nobody has time to decide.
LAST_CALL_US: Final = 20 * US_PER_MIN
# ... but at least so many real seconds: on a fast clock the calculation alone would outlast the meal, after which
# nobody may approve. Some ten seconds are computed, the rest is a clinician's. At 300x a longer lead would miss meals:
# a habit is looked for within 75 min (habits.WINDOW_MIN) of the middle of the lead.
LEAD_S: Final = 30.0
LAST_CALL_S: Final = 12.0
MEAL_GAP_US: Final = 150 * US_PER_MIN  # at most one advice per meal
RECORD_US: Final = 14 * US_PER_DAY  # what the twin is shown; it forgets beyond 15 days itself
LOOK_EVERY_US: Final = US_PER_MIN
DECIDED_EVERY_S: Final = 1.0  # a clinician's click should not wait longer
MIN_WAIT_S: Final = 0.5  # on a fast clock: never spin
MAX_WAIT_S: Final = 30.0
# Real seconds that a reading may spend between sensor and cloud, and an advice on its way back. On a clock
# that runs 300 times faster they would look like half an hour of old data; on a true clock they are nothing.
TRANSPORT_S: Final = 5.0
DELIVERY_S: Final = 30.0
DRAWS: Final = 2000  # twice what a hub affords: the bound on a chance of 1 % tightens from .4 to .6 %
USABLE_US: Final = 30 * US_PER_MIN  # a meal may be so late; after that the hub lets its advice expire
SCORE_GRACE_US: Final = 30 * US_PER_MIN  # readings may come late
TWIN_KINDS: Final = (
    "cgm_mgdl",
    "smbg_mgdl",
    "bolus_u",
    "basal_uph",
    "long_acting_u",
    "carbs_g",
    "heart_rate_bpm",
    "weight_kg",
)


class Sender(Protocol):
    """The way down: signs, numbers and keeps a message until the hub confirms it or it expires."""

    async def send(self, hub_id: str, body: Down, expires_us: int) -> int:
        """The downlink number; the message is durable on return."""
        ...


class Runner(Protocol):
    """Whoever computes advice."""

    async def run(self, job: AdviceJob) -> JobResult: ...

    async def close(self) -> None: ...


class Adviser:
    """One per cloud. Decisions are looked for every second, hubs once a minute of the clock."""

    def __init__(
        self, db: Database, config: CloudConfig, clock: Clock, sender: Sender, runner: Runner | None = None
    ) -> None:
        self._db, self._config, self._clock, self._sender = db, config, clock, sender
        self._runner = runner if runner is not None else AdviceWorker()
        self._is_rehearsed = False
        self._looked_us: dict[str, int] = {}  # newest reading at the last look, per hub
        self._prior_marks: dict[str, tuple[int, int]] = {}

    async def run(self) -> None:
        """Until cancelled. A failing hub is logged and does not stop the others."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_decided())
                tasks.create_task(self._look_around())
        finally:
            await self._runner.close()

    async def _send_decided(self) -> None:
        while True:
            await self._guarded("decided", self.send_approved())
            await asyncio.sleep(DECIDED_EVERY_S)

    async def _look_around(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(min(max(self._clock.wait_s(LOOK_EVERY_US), MIN_WAIT_S), MAX_WAIT_S))

    async def look(self) -> None:
        """One look at every hub."""
        for hub_id in await self._db.query(queries.hub_ids):
            await self._guarded(hub_id, self._look_at(hub_id))

    async def _guarded(self, what: str, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except HometwinError as err:
            log.error("adviser.failed", about=what, error=type(err).__name__, reason=err.what)

    async def _look_at(self, hub_id: str) -> None:
        span = await self._db.query(queries.history_span_us, hub_id)
        if span is None or span[1] - span[0] < PRIOR_AFTER_US:
            return
        await self._ensure_prior(hub_id)
        scored = await self._db.run(score_due, hub_id, self._clock.now_us())
        if scored:
            log.info("advice.scored", hub=hub_id, outcomes=scored)
        now_us = self._clock.now_us()
        if span[1] - span[0] < ADVICE_AFTER_US:
            hours = (span[1] - span[0]) // US_PER_H
            tries.tell(hub_id, f"Too early: {hours} h of readings are there, a day is needed.")
            await self._rehearse(hub_id, now_us)
            return
        if self._looked_us.get(hub_id) == span[1]:
            return
        await self._propose(hub_id, now_us)
        self._looked_us[hub_id] = span[1]

    # ---- prior --------------------------------------------------------------------------------------

    async def _ensure_prior(self, hub_id: str) -> None:
        """Send a prior when the hub has none, when the population moved, or when the old one grows old."""
        now_us = self._clock.now_us()
        mark = (await self._db.query(_newest_contribution), now_us // US_PER_DAY)
        if self._prior_marks.get(hub_id) == mark:
            return
        old = await self._db.query(queries.last_prior, hub_id)
        contributions = await self._db.query(queries.contributions)
        stratum = population.stratum_of(self._age_years(hub_id, now_us))
        version = (old.version if old else 0) + 1
        prior, refused = await asyncio.to_thread(
            population.prior_for, hub_id, stratum, contributions, now_us, version
        )
        if refused:
            log.warning("prior.contributions_refused", count=refused)
        if population.worth_sending(prior, old, now_us):
            # Sent first, recorded second: a crash between the two sends it once more, which harms nobody.
            await self._sender.send(hub_id, prior, prior.expires_us)
            await self._db.run(_keep_prior, hub_id, prior, now_us)
            log.info("prior.sent", hub=hub_id, version=prior.version)
        self._prior_marks[hub_id] = mark

    def _age_years(self, hub_id: str, now_us: int) -> float | None:
        patient = patient_of(self._config, hub_id)[0]
        if patient.birth_year is None:
            return None
        return datetime.fromtimestamp(now_us / US_PER_S, UTC).year - patient.birth_year

    # ---- advice -------------------------------------------------------------------------------------

    async def _rehearse(self, hub_id: str, now_us: int) -> None:
        """One job for nothing while there is none to do: kernels are compiled before the first meal waits."""
        if not self._is_rehearsed:
            self._is_rehearsed = True
            await self._runner.run(await self._job(hub_id, habits.Meal(now_us + LEAD_US, 50.0, ""), now_us))

    async def _propose(self, hub_id: str, now_us: int) -> None:
        """Advice for the next usual meal, if one is due and has none yet."""
        zone = self._config.zone
        lead_us = max(LEAD_US, span_us(self._clock, LEAD_S))
        last_call_us = max(LAST_CALL_US, span_us(self._clock, LAST_CALL_S))
        carbs = await self._db.query(
            queries.samples, hub_id, now_us - habits.LOOK_BACK_DAYS * US_PER_DAY, ("carbs_g",)
        )
        meal = habits.next_meal([s for s in carbs if s.time_us <= now_us], zone, now_us, lead_us)
        if meal is None:
            tries.tell(hub_id, tries.NO_MEAL)
            return
        if await self._db.query(_has_advice_near, hub_id, meal.time_us, lead_us):
            return
        card = await self._db.query(queries.scorecard, hub_id)
        if card is not None and card.suspended:
            log.warning("adviser.suspended", hub=hub_id)
            return
        tries.tell(hub_id, f"Computing, for a meal at about {words_at(meal.time_us, zone)} …")
        job = await self._job(hub_id, meal, now_us)
        data_us = max((s.time_us for s in job.samples if s.kind == "cgm_mgdl"), default=job.now_us)
        insulin = await self._db.query(queries.samples, hub_id, data_us, evidence.INSULIN)
        if evidence.insulin_after(insulin, data_us):
            # Advice holds for the record up to its newest reading: the hub would set it aside, and so it should where
            # the job does not see the dose.
            tries.tell(hub_id, "Waiting for a glucose reading after the newest dose.")
            return
        result = await self._runner.run(job)
        if result.advice is None:
            tries.tell(hub_id, "", f"The last try, at {words_at(now_us, zone)}, failed: {result.problem}.")
            log.error("adviser.no_result", hub=hub_id, reason=result.problem)
            return
        if self._clock.now_us() > meal.time_us:
            tries.tell(hub_id, "", f"The last try, at {words_at(now_us, zone)}, took until after its meal.")
            return
        if result.advice.refused:
            tries.tell(
                hub_id,
                "",
                f"The last try, at {words_at(now_us, zone)}, was refused: {result.advice.refused}.",
            )
            if meal.time_us - now_us > last_call_us:
                return  # the next reading may allow more
        person = await self._db.query(queries.person_mark, hub_id)
        advice = msgspec.structs.replace(
            self._message(hub_id, meal, result.advice),
            person=person,
            evidence=evidence.digest(job.samples, result.advice.data_time_us),
        )
        made = await self._db.run(decisions.propose, hub_id, advice, now_us)
        if not made:
            return
        tries.tell(hub_id, "", "")
        log.info("advice.proposed", hub=hub_id, refused=advice.refused is not None, draws=advice.draws)
        if self._config.advice.approval == "demo":
            await self._db.run(
                decisions.decide, advice.advice_id, approve=True, who=decisions.NOBODY, note="", now_us=now_us
            )

    async def _job(self, hub_id: str, meal: habits.Meal, now_us: int) -> AdviceJob:
        """The record and the person's file, as they are now."""
        patient, patient_toml = patient_of(self._config, hub_id)
        record = await self._db.query(queries.samples, hub_id, now_us - RECORD_US, TWIN_KINDS)
        newest_us = max((s.time_us for s in record if s.kind == "cgm_mgdl"), default=now_us)
        as_of_us = now_us - min(max(0, now_us - newest_us), span_us(self._clock, TRANSPORT_S))
        life = await self._db.query(queries.life_context, hub_id)
        told = life[0] if life is not None else ""
        return AdviceJob(
            samples=tuple(s for s in record if s.time_us <= as_of_us),
            patient_toml=patient_toml,
            policy=policy_of(patient, DRAWS),
            now_us=as_of_us,
            for_time_us=meal.time_us,
            carbs_g=meal.carbs_g,
            changing=told if told.startswith(IN_PROGRESS) else "",
        )

    def _message(self, hub_id: str, meal: habits.Meal, computed: Advice) -> DoseAdvice:
        advice = computed.message(
            advice_id=f"{hub_id}-{meal.time_us // US_PER_MIN}",
            for_time_us=meal.time_us,
            approved_by="",
            approved_us=0,
        )
        meant = f"Meant for a meal at about {words_at(meal.time_us, self._config.zone)}. {meal.known_from}"
        limits = ["If the meal, its size or the glucose then differ from this, do not use this dose."]
        if self._config.advice.approval == "demo":
            limits.insert(0, "Demo mode: no clinician has looked at this.")
        return msgspec.structs.replace(
            advice, reasons=(meant, *advice.reasons), limits=(*advice.limits, *limits)
        )

    async def send_approved(self) -> None:
        """Hand every approved advice to the downlink."""
        for hub_id, advice in await self._db.query(decisions.approved):
            # Sent first, marked second: after a crash between the two the hub gets it twice under one
            # advice_id; the other order could lose an approved advice.
            now_us = self._clock.now_us()
            expires_us = max(advice.for_time_us + USABLE_US, now_us + span_us(self._clock, DELIVERY_S))
            await self._sender.send(hub_id, advice, expires_us)
            await self._db.run(decisions.mark_sent, advice.advice_id, now_us)
            log.info("advice.sent", hub=hub_id)
        for hub_id, policy in await self._db.query(decisions.waiting_policies, self._clock.now_us()):
            await self._sender.send(hub_id, policy, policy.expires_us)
            await self._db.run(decisions.mark_policy_sent, policy.policy_id, self._clock.now_us())
            log.info("policy.sent", hub=hub_id)


async def run_adviser(
    db: Database, config: CloudConfig, clock: Clock, downlink: Sender, runner: Runner | None = None
) -> None:
    """Run an adviser until cancelled."""
    await Adviser(db, config, clock, downlink, runner).run()


def patient_of(config: CloudConfig, hub_id: str) -> tuple[Patient, bytes]:
    """The person's file ``<hubs_dir>/<hub>.patient.toml`` (parsed, and as text), or an empty one.

    It holds what the clinician prescribes: ratios, target, maxima. ConfigError names what is wrong in it.
    """
    path = config.path(config.keys.hubs_dir) / f"{hub_id}.patient.toml"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        text = f'timezone = "{config.timezone}"\n'.encode()
    except OSError as err:
        raise ConfigError(f"cannot be read: {err.strerror}", where=str(path)) from None
    try:
        return Patient.from_toml(text), text
    except RecursionError:
        raise ConfigError("nested too deeply", where=str(path)) from None
    except ConfigError as err:
        raise ConfigError(err.what, where=f"{path}: {err.where}", mend=err.mend) from None


def score_due(session: Session, hub_id: str, now_us: int) -> int:
    """Compare every advice whose hours are over with what came; returns how many were."""
    rows = session.scalars(
        select(AdviceRow).where(
            AdviceRow.hub_id == hub_id,
            AdviceRow.state.in_(("sent", "alone")),
            AdviceRow.outcome.is_(None),
            AdviceRow.set_aside.is_(None),  # what nobody was to take promised nothing
            AdviceRow.created_us >= now_us - 3 * US_PER_DAY,
        )
    ).all()
    done = 0
    for row in rows:
        advice = decode(row.body, DoseAdvice)
        end_us = advice.for_time_us + round(advice.horizon_min * US_PER_MIN)
        if advice.refused is not None or advice.dose_u <= 0 or end_us + SCORE_GRACE_US > now_us:
            continue
        glucose = queries.samples(session, hub_id, advice.for_time_us, ("cgm_mgdl",))
        found = outcomes.outcome(advice, row.took_u, glucose)
        if found is not None:
            row.outcome = msgspec.msgpack.encode(found)
            audit.note(session, now_us, "adviser", f"compared advice {row.advice_id} with what came")
            done += 1
    return done


def _newest_contribution(session: Session) -> int:
    return session.scalar(select(func.max(ContributionRow.id))) or 0


def _keep_prior(session: Session, hub_id: str, prior: Prior, now_us: int) -> None:
    session.add(PriorRow(hub_id=hub_id, version=prior.version, created_us=now_us, body=encode(prior)))
    audit.note(session, now_us, "population", f"sent prior {prior.version} to {hub_id}")


def words_at(time_us: int, zone: ZoneInfo) -> str:
    """The local clock at a moment."""
    return f"{datetime.fromtimestamp(time_us / US_PER_S, UTC).astimezone(zone):%H:%M}"


def _has_advice_near(session: Session, hub_id: str, time_us: int, lead_us: int) -> bool:
    """True when some advice for this hub is meant for the same meal."""
    # Ids end in the meal's minute; created_us bounds the search to today's few rows.
    recent = session.scalars(
        select(AdviceRow.advice_id).where(
            AdviceRow.hub_id == hub_id, AdviceRow.created_us >= time_us - MEAL_GAP_US - lead_us
        )
    )
    return any(abs(int(i.rsplit("-", 1)[1]) * US_PER_MIN - time_us) < MEAL_GAP_US for i in recent)
