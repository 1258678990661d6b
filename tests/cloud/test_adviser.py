"""The adviser: priors and proposals from the database, decisions that happen once, messages that go down."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import func, select

from cloud import decisions, queries, tries
from cloud.advice_job import AdviceJob, JobResult, run_job
from cloud.advice_worker import AdviceWorker
from cloud.adviser import Adviser, patient_of, run_adviser
from cloud.db import AdviceRow, AuditRow, ContributionRow, Database, HubRow, PriorRow, SampleRow
from core.advice import Policy, Situation, advise
from core.advice_types import policy_of
from core.errors import ConfigError, InputError, RefusedError
from core.messages import DoseAdvice, Down, Prior, Sample, decode, encode
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from tests.cloud import filled
from tests.cloud.filled import HUB

MIDNIGHT_US = filled.NOW_US - filled.NOW_US % US_PER_DAY
NOON_US = MIDNIGHT_US + 12 * US_PER_H  # half an hour before the usual lunch


class Clock:
    def __init__(self, now_us: int = NOON_US, speed: float = 1.0) -> None:
        self.time_us, self.speed = now_us, speed

    def now_us(self) -> int:
        return self.time_us

    def wait_s(self, span_us: int) -> float:
        return span_us / 1e6 / self.speed


class Downlink:
    def __init__(self) -> None:
        self.sent: list[tuple[str, Down, int]] = []

    async def send(self, hub_id: str, body: Down, expires_us: int) -> int:
        self.sent.append((hub_id, body, expires_us))
        return len(self.sent)

    def of(self, kind: type) -> list[Down]:
        return [body for _, body, _ in self.sent if isinstance(body, kind)]


class FakePaths:
    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> np.ndarray:
        rng = np.random.default_rng(1)
        effect = 40 * np.exp(0.1 * rng.standard_normal((draws, 1)))
        t = np.linspace(0, 1, 60)[None, :]
        return 130 + 4.5 * carbs_g * np.minimum(1, 3 * t) - effect * dose_u * t


class FakeRunner:
    """Computes at once, with paths instead of a twin."""

    def __init__(self, **situation: object) -> None:
        self.jobs: list[AdviceJob] = []
        self.situation = situation

    async def run(self, job: AdviceJob) -> JobResult:
        self.jobs.append(job)
        newest = max(s.time_us for s in job.samples if s.kind == "cgm_mgdl")
        now = Situation(job.now_us, 130.0, 0.0, newest, model="glucose/1")
        return JobResult(
            advise(FakePaths(), job.carbs_g, job.policy, msgspec.structs.replace(now, **self.situation)), None
        )

    async def close(self) -> None:
        pass


class Setting:
    def __init__(self, db: Database, folder: Path) -> None:
        self.db, self.folder = db, folder
        self.clock, self.downlink, self.runner = Clock(), Downlink(), FakeRunner()

    def adviser(self, approval: str = "clinician") -> Adviser:
        return Adviser(self.db, filled.config(self.folder, approval), self.clock, self.downlink, self.runner)

    def count(self, table: type) -> int:
        with self.db.read() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    db = filled.open_database(tmp_path)
    with db.write() as session:
        session.add(HubRow(hub_id=HUB, person="One", last_seen_us=NOON_US))
        session.flush()
        start_us = NOON_US - 5 * US_PER_DAY
        meals = [s for s in filled.meals(start_us, 6) if s.time_us < NOON_US]
        filled.add_samples(session, [*filled.readings(start_us, NOON_US - 3 * US_PER_MIN), *meals])
    yield Setting(db, tmp_path)
    db.close()


async def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  (the database signals nothing)
            await asyncio.sleep(0.02)


async def test_a_usual_meal_gets_one_proposal_and_nothing_goes_down_unapproved(setting: Setting) -> None:
    adviser = setting.adviser()
    for _ in range(3):
        await adviser.look()
        await adviser.send_approved()
        setting.clock.time_us += US_PER_MIN
    assert setting.count(AdviceRow) == 1
    assert setting.downlink.of(DoseAdvice) == []
    job = setting.runner.jobs[0]
    assert job.carbs_g == 60
    assert job.for_time_us == NOON_US + 30 * US_PER_MIN
    assert all(s.time_us <= NOON_US for s in job.samples)
    with setting.db.read() as session:
        row = session.scalars(select(AdviceRow)).one()
    advice = decode(row.body, DoseAdvice)
    assert row.state == "proposed"
    assert advice.dose_u > 0
    assert "5 earlier days" in advice.reasons[0]
    assert any("not a medical device" in limit for limit in advice.limits)
    assert advice.approved_by == ""


@pytest.mark.parametrize("ago_s", [-60, 60])
async def test_nothing_is_proposed_before_a_reading_after_the_newest_insulin(
    setting: Setting, ago_s: int
) -> None:
    adviser = setting.adviser()
    taken = Sample(NOON_US - ago_s * 1_000_000, "bolus_u", 2.0, "pump", 1)
    with setting.db.write() as session:
        filled.add_samples(session, [taken])
    await adviser.look()
    assert setting.count(AdviceRow) == 0
    assert tries.of(HUB).now == "Waiting for a glucose reading after the newest dose."
    setting.clock.time_us = NOON_US + 2 * US_PER_MIN
    with setting.db.write() as session:
        filled.add_samples(session, [Sample(NOON_US + 90_000_000, "cgm_mgdl", 140.0, "cgm", 9_999_999_999)])
    await adviser.look()
    assert setting.count(AdviceRow) == 1


async def test_a_restart_repeats_no_proposal(setting: Setting) -> None:
    await setting.adviser().look()
    await setting.adviser().look()
    assert setting.count(AdviceRow) == 1


async def test_an_approved_advice_goes_down_once_signed_with_the_name(setting: Setting) -> None:
    adviser = setting.adviser()
    await adviser.look()
    with setting.db.write() as session:
        row = session.scalars(select(AdviceRow)).one()
        decisions.decide(session, row.advice_id, approve=True, who="Dr. Grün", note="", now_us=NOON_US + 1)
    await adviser.send_approved()
    await adviser.send_approved()
    [(hub_id, advice, expires_us)] = [s for s in setting.downlink.sent if isinstance(s[1], DoseAdvice)]
    assert (hub_id, advice.approved_by, advice.approved_us) == (HUB, "Dr. Grün", NOON_US + 1)
    assert expires_us == advice.for_time_us + 30 * US_PER_MIN
    with setting.db.read() as session:
        assert session.scalars(select(AdviceRow.state)).one() == "sent"


async def test_demo_mode_sends_at_once_and_says_that_nobody_looked(setting: Setting) -> None:
    adviser = setting.adviser("demo")
    await adviser.look()
    await adviser.send_approved()
    [advice] = setting.downlink.of(DoseAdvice)
    assert advice.approved_by == "nobody: demo mode approves by itself"
    assert any("no clinician has looked" in limit for limit in advice.limits)


async def test_a_prior_is_sent_once_and_again_when_others_contribute(setting: Setting) -> None:
    adviser = setting.adviser()
    await adviser.look()
    await adviser.look()
    await setting.adviser().look()
    assert [p.version for p in setting.downlink.of(Prior)] == [1]
    with setting.db.write() as session:
        for i in range(12):
            session.add(HubRow(hub_id=f"other-{i}", person="Other"))
            session.flush()
            given = filled.contribution(0.5)
            session.add(
                ContributionRow(
                    hub_id=f"other-{i}",
                    time_us=NOON_US,
                    model=given.model,
                    prior_version=1,
                    body=encode(given),
                )
            )
    await adviser.look()
    priors = setting.downlink.of(Prior)
    assert [p.version for p in priors] == [1, 2]
    assert priors[1].mean[0] > 0.1
    assert "12 other hubs" in priors[1].provenance
    assert setting.count(PriorRow) == 2


async def test_a_hub_without_an_hour_of_readings_gets_nothing(setting: Setting) -> None:
    with setting.db.write() as session:
        session.add(HubRow(hub_id="new", person="New"))
        session.flush()
        filled.add_samples(session, filled.readings(NOON_US - 30 * US_PER_MIN, NOON_US), "new")
    await setting.adviser().look()
    assert {hub for hub, _, _ in setting.downlink.sent} == {HUB}


async def test_a_refusal_waits_for_better_data_and_is_told_shortly_before_the_meal(setting: Setting) -> None:
    setting.runner.situation = {"trend_mgdl_per_min": -3.0}
    adviser = setting.adviser()
    await adviser.look()
    assert setting.count(AdviceRow) == 0
    setting.clock.time_us = NOON_US + 15 * US_PER_MIN
    with setting.db.write() as session:
        filled.add_samples(session, filled.readings(NOON_US, setting.clock.time_us))
    await adviser.look()
    with setting.db.read() as session:
        advice = decode(session.scalars(select(AdviceRow.body)).one(), DoseAdvice)
    assert advice.dose_u == 0
    assert "falling" in (advice.refused or "")


async def test_the_patient_file_sets_ratios_and_limits_and_its_errors_name_it(setting: Setting) -> None:
    path = setting.folder / "hubs" / f"{HUB}.patient.toml"
    config = filled.config(setting.folder)
    path.write_text("[therapy]\ncarb_ratio_g_per_u = 12.0\nmax_bolus_u = 3.0\n")
    policy = policy_of(patient_of(config, HUB)[0])
    assert (policy.carb_ratio_g_per_u, policy.max_dose_u, policy.max_iob_u) == (12.0, 3.0, Policy().max_iob_u)
    await setting.adviser().look()
    assert setting.runner.jobs[0].policy.max_dose_u == 3.0
    path.write_text("[therapy]\ncarb_ratio = 12.0\n")
    with pytest.raises(ConfigError, match=rf"{HUB}\.patient\.toml"):
        patient_of(config, HUB)


async def test_one_hubs_trouble_does_not_stop_the_others(setting: Setting) -> None:
    (setting.folder / "hubs").mkdir(exist_ok=True)
    (setting.folder / "hubs" / "a-broken.patient.toml").write_text("nonsense = 1")
    with setting.db.write() as session:
        session.add(HubRow(hub_id="a-broken", person="Broken"))
        session.flush()
        filled.add_samples(session, filled.readings(NOON_US - US_PER_DAY, NOON_US), "a-broken")
    await setting.adviser().look()
    assert setting.count(AdviceRow) == 1


async def test_a_fast_clock_does_not_turn_transport_into_old_data(setting: Setting) -> None:
    setting.clock.speed = 300.0
    setting.clock.time_us = NOON_US + 17 * US_PER_MIN  # 4 real seconds after the newest reading
    await setting.adviser().look()
    assert setting.runner.jobs[0].now_us == setting.runner.jobs[0].samples[-1].time_us
    setting.clock.speed = 1.0
    setting.runner.jobs.clear()
    with setting.db.write() as session:
        session.query(AdviceRow).delete()
    await setting.adviser().look()
    assert setting.runner.jobs[0].now_us == setting.clock.time_us - 5_000_000


async def test_a_dose_newer_than_the_newest_reading_is_waited_for_not_left_out(setting: Setting) -> None:
    with setting.db.write() as session:
        dose = Sample(NOON_US - 2_000_000, "bolus_u", 4.0, "pump", 1)  # the job leaves 5 s for transport
        filled.add_samples(session, [dose])
    adviser = setting.adviser()
    await adviser.look()
    assert setting.count(AdviceRow) == 0
    assert all(job.now_us < dose.time_us for job in setting.runner.jobs)  # at most the rehearsal
    with setting.db.write() as session:
        filled.add_samples(session, [Sample(NOON_US, "cgm_mgdl", 131.0, "cgm", 999_999)])
    await adviser.look()
    assert setting.count(AdviceRow) == 1
    assert any(s.kind == "bolus_u" and s.time_us == dose.time_us for s in setting.runner.jobs[-1].samples)


async def test_on_a_fast_clock_the_adviser_begins_early_enough_to_compute_and_decide(
    setting: Setting,
) -> None:
    setting.clock.time_us = NOON_US - US_PER_H  # an hour and a half before the usual lunch
    with setting.db.write() as session:
        session.query(SampleRow).filter(SampleRow.time_us > setting.clock.time_us).delete()
    await setting.adviser().look()
    assert setting.count(AdviceRow) == 0
    setting.clock.speed = 300.0
    await setting.adviser().look()
    with setting.db.read() as session:
        card = queries.advice_cards(session, HUB)[0]
    meal_us = card.advice.for_time_us
    assert (meal_us - setting.clock.time_us) / setting.clock.speed > 15_000_000  # of real time
    assert not card.closed(meal_us)
    assert card.closed(meal_us + 1) == "the time of its meal has passed"
    choice = {"approve": True, "who": "Dr", "note": ""}
    with setting.db.write() as session, pytest.raises(RefusedError, match="passed"):
        decisions.decide(session, card.advice.advice_id, **choice, now_us=meal_us + 1)
    with setting.db.write() as session:
        decisions.decide(session, card.advice.advice_id, **choice, now_us=meal_us)


async def test_advice_that_was_computed_until_after_its_meal_is_not_proposed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = setting.runner.run

    async def slow(job: AdviceJob) -> JobResult:
        setting.clock.time_us = job.for_time_us + 1
        return await run(job)

    monkeypatch.setattr(setting.runner, "run", slow)
    await setting.adviser("demo").look()
    assert setting.count(AdviceRow) == 0
    assert "took until after its meal" in tries.of(HUB).last


async def test_a_young_record_is_a_rehearsal_and_the_portal_is_told_why_there_is_no_advice(
    setting: Setting,
) -> None:
    with setting.db.write() as session:
        session.query(SampleRow).filter(SampleRow.time_us < NOON_US - 5 * US_PER_H).delete()
    adviser = setting.adviser()
    for _ in range(2):
        await adviser.look()
        setting.clock.time_us += US_PER_MIN
    assert len(setting.runner.jobs) == 1  # the kernels are compiled before a meal waits
    assert setting.count(AdviceRow) == 0
    assert "3 h of readings are there, a day is needed" in tries.of(HUB).now


async def test_a_refused_try_says_when_and_why(setting: Setting) -> None:
    setting.runner.situation = {"trend_mgdl_per_min": -3.0}
    adviser = setting.adviser()
    await adviser.look()
    assert "12:00, was refused: glucose is falling faster" in tries.of(HUB).last
    setting.clock.time_us -= 3 * US_PER_H
    with setting.db.write() as session:
        filled.add_samples(session, filled.readings(NOON_US, NOON_US + 5 * US_PER_MIN))
    await adviser.look()
    assert tries.of(HUB).now == tries.NO_MEAL
    assert "was refused" in tries.of(HUB).last


async def test_the_running_adviser_sends_a_decision_soon_and_ends_when_cancelled(setting: Setting) -> None:
    config = filled.config(setting.folder)
    task = asyncio.create_task(
        run_adviser(setting.db, config, setting.clock, setting.downlink, setting.runner)
    )
    await until(lambda: setting.count(AdviceRow) == 1)
    with setting.db.write() as session:
        row = session.scalars(select(AdviceRow)).one()
        decisions.decide(session, row.advice_id, approve=True, who="x", note="", now_us=NOON_US)
    await until(lambda: len(setting.downlink.of(DoseAdvice)) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ---- decisions ----------------------------------------------------------------------------------------


@pytest.fixture
async def proposed(setting: Setting) -> Setting:
    with setting.db.write() as session:
        assert decisions.propose(session, HUB, filled.advice("a-1", for_time_us=NOON_US), NOON_US)
    return setting


def decide(setting: Setting, **changes: object) -> DoseAdvice:
    wanted = {"approve": True, "who": "Dr. A", "note": "", "now_us": NOON_US, **changes}
    with setting.db.write() as session:
        return decisions.decide(session, "a-1", **wanted)


async def test_a_decision_is_made_once(proposed: Setting) -> None:
    decide(proposed)
    for approve in (True, False):
        with pytest.raises(RefusedError, match="already"):
            decide(proposed, approve=approve, note="changed my mind")


async def test_a_lapsed_advice_cannot_be_approved(proposed: Setting) -> None:
    with pytest.raises(RefusedError, match="the time of its meal has passed: it cannot be approved"):
        decide(proposed, now_us=NOON_US + 1)
    decide(proposed, approve=False, note="too late", now_us=NOON_US + 1)


@pytest.mark.parametrize(
    "changes", [{"who": "  "}, {"who": "x" * 81}, {"note": "x" * 2001}, {"approve": False}]
)
async def test_a_decision_needs_a_name_and_a_rejection_a_reason(proposed: Setting, changes) -> None:
    with pytest.raises(InputError):
        decide(proposed, **changes)
    with proposed.db.read() as session:
        assert session.get(AdviceRow, "a-1").state == "proposed"


async def test_the_audit_names_who_decided_and_tells_no_dose(proposed: Setting) -> None:
    decide(proposed)
    with proposed.db.read() as session:
        lines = [(row.who, row.what) for row in session.scalars(select(AuditRow))]
    assert ("Dr. A", "approved advice a-1") in lines
    assert not any("4.2" in what for _, what in lines)


# ---- the job ------------------------------------------------------------------------------------------


def _job(**changes: object) -> AdviceJob:
    record = sorted(
        [*filled.readings(NOON_US - 4 * US_PER_DAY, NOON_US), *filled.meals(NOON_US - 4 * US_PER_DAY, 4)],
        key=lambda s: s.time_us,
    )
    base = AdviceJob(tuple(record), b'timezone = "UTC"', Policy(draws=400), NOON_US, NOON_US, 60.0)
    return msgspec.structs.replace(base, **changes)


def test_the_real_twin_answers_a_job() -> None:
    pytest.importorskip("core.twin")
    result = run_job(_job())
    assert result.problem is None
    assert result.advice is not None
    assert result.advice.model.startswith("glucose/")
    assert result.advice.refused is not None or result.advice.draws == 400


def test_nothing_is_advised_while_the_hub_says_that_a_context_changes() -> None:
    pytest.importorskip("core.twin")
    result = run_job(_job(changing="a change of context is in progress: needs more insulin"))
    assert result.advice is not None
    assert result.advice.refused is not None
    assert "a change of context is in progress" in result.advice.refused
    assert result.advice.dose_u == 0.0


async def test_the_worker_process_answers_and_ends() -> None:
    worker = AdviceWorker()
    try:
        refused = await worker.run(_job(samples=()))
        assert refused.advice is not None
        assert "no usable glucose" in (refused.advice.refused or "")
        bad = await worker.run(_job(patient_toml=b"weight_kg = -3.0"))
        assert bad.advice is None
        assert bad.problem
        process = worker._process
        assert process is not None
    finally:
        await worker.close()
    assert process.returncode is not None


async def test_a_worker_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = AdviceWorker()
    try:
        await worker.run(_job(samples=()))
        assert worker._process is not None
        worker._process.kill()
        await worker._process.wait()
        assert (await worker.run(_job(samples=()))).advice is not None
    finally:
        await worker.close()


async def test_a_worker_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
    worker = AdviceWorker(timeout_s=0.3)
    start_s = time.monotonic()
    result = await worker.run(_job(samples=()))
    assert "longer than" in (result.problem or "")
    assert time.monotonic() - start_s < 10
    await worker.close()
