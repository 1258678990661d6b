"""The engine process: the twin's numerics behind one Unix socket. No network, no radio, no disk of its own.

It answers one hub at a time, frame by frame. It may crash, be killed, or take long to compile: the hub keeps
every sample and feeds it again from the row that its last snapshot reached.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import structlog

from core import learning, memory, privacy
from core.advice_types import policy_of, within_standing
from core.errors import DecodeError, EngineError, HometwinError, InputError
from core.messages import Contribution, Prior, Sample, encode
from core.models.hovorka import PRIOR_SD
from core.twin import Patient, Twin
from core.units import US_PER_H, US_PER_MIN
from edge.control import serve_private
from edge.engine_messages import (
    Advised,
    Answer,
    Ask,
    AskAdvice,
    AskNight,
    AskSnapshot,
    Done,
    FromEngine,
    Hello,
    Night,
    NightDone,
    Observe,
    Ready,
    Refused,
    SetPrior,
    Snapshot,
    ToEngine,
)
from edge.frames import read_frame, write_frame
from edge.night_job import NightJob, NightQuestion
from edge.notify import notify_systemd

log = structlog.get_logger()

AHEAD_US: Final = US_PER_H  # a dose dated so far ahead means a wrong clock
NIGHT_RETRY_US: Final = US_PER_H  # after a night's work that came to nothing
DRIFT: Final = ("drift_more", "drift_less", "drift_more_from_us", "drift_less_from_us", "drift_back")


class EngineSession:
    """One hub's twin. Pure apart from the twin it holds: a question in, an answer out."""

    def __init__(self) -> None:
        self._twin: Twin | None = None
        self._row = 0
        self._memory = memory.Memory()
        self._night: NightJob | None = None
        self._night_context = memory.USUAL  # in which the night's work under way began
        self._night_not_before_us = 0

    def close(self) -> None:
        """The hub is gone: a night's work under way ends."""
        if self._night is not None:
            self._night.stop()
            self._night = None

    def answer(self, question: ToEngine) -> FromEngine:
        """The answer to one question; EngineError when a question comes before Hello."""
        if isinstance(question, Hello):
            return self._hello(question)
        if self._twin is None:
            raise EngineError("asked before Hello")
        if isinstance(question, Observe):
            refused = self._observe(self._twin, question.samples)
            self._row = question.row
            return Done(self._row, refused)
        if isinstance(question, Ask):
            return self._ask(self._twin, question)
        if isinstance(question, AskAdvice):
            return self._advise(self._twin, question)
        if isinstance(question, SetPrior):
            refused = bool(self._set_prior(self._twin, question.prior))
            return Done(self._row, refused=int(refused))
        if isinstance(question, Night):
            if self._night is None:
                kept, known = question.kept, memory.to_bytes(self._memory)
                self._night_context = self._memory.current
                self._night = NightJob(NightQuestion(question.now_us, self._twin.snapshot(), known, kept))
            return Done(self._row)
        if isinstance(question, AskNight):
            return self._night_done(self._twin)
        return Snapshot(
            self._row,
            self._twin.snapshot(),
            self._contribution(self._twin, question),
            memory.to_bytes(self._memory),
        )

    def _hello(self, hello: Hello) -> Ready:
        patient = Patient.from_toml(hello.patient_toml)
        note = ""
        if hello.memory:
            try:
                self._memory = memory.from_bytes(hello.memory)
            except HometwinError as err:
                note = f"memory not used: {err.what}"
                log.warning("memory.refused", reason=err.what)
        if hello.snapshot is not None:
            try:
                twin = Twin.restore(hello.snapshot)
                if twin.patient == patient:
                    if hello.prior is not None and twin.prior != hello.prior:
                        note = self._set_prior(twin, hello.prior)
                    self._twin, self._row = twin, hello.row
                    return Ready(self._row, restored=True, note=note)
                note = "the patient file has changed: starting from the record"
            except HometwinError as err:
                note = f"snapshot not used: {err.what}"
        self._twin, self._row = Twin(patient), 0
        if hello.prior is not None:
            note = self._set_prior(self._twin, hello.prior) or note
        return Ready(0, restored=False, note=note)

    @staticmethod
    def _set_prior(twin: Twin, prior: Prior) -> str:
        """Use the prior, or say why not: a cloud of another version must not keep the twin from working."""
        try:
            twin.set_prior(prior)
        except HometwinError as err:
            log.warning("prior.refused", version=prior.version, reason=err.what)
            return f"prior not used: {err.what}"
        return ""

    @staticmethod
    def _observe(twin: Twin, samples: tuple[Sample, ...]) -> int:
        """Feed samples; those that the twin refuses are counted and skipped, the others go in."""
        try:
            twin.observe(samples)
            return 0
        except InputError:
            refused = 0
        for sample in samples:
            try:
                twin.observe((sample,))
            except InputError as err:
                refused += 1
                log.warning("sample.refused", kind=sample.kind, reason=err.what)
        return refused

    def _ask(self, twin: Twin, question: Ask) -> Answer:
        now_us = question.now_us
        try:
            self._look(twin, now_us)
            estimate = twin.estimate(now_us)
            forecast = twin.forecast(now_us, question.horizons_min).forecast
        except HometwinError as err:
            return Answer(None, None, note=err.what)
        context = self._memory.context()
        return Answer(
            estimate,
            forecast,
            context=context.words if context is not None else "",
            changing=self._memory.changing(now_us),
            night_due=self._night is None
            and now_us >= self._night_not_before_us
            and estimate.status == "ok"
            and learning.due(self._memory, twin.local.hour(now_us), now_us),
        )

    def _look(self, twin: Twin, now_us: int) -> None:
        """Has the context changed? Whatever goes wrong here, forecasts go on."""
        try:
            self._memory = learning.look(twin, self._memory, now_us)
        except (HometwinError, ValueError, ArithmeticError) as err:
            log.error("context.not_looked", error=type(err).__name__)
            tried = msgspec.structs.replace(self._memory.look, looked_us=now_us)
            self._memory = msgspec.structs.replace(self._memory, look=tried)

    def _night_done(self, twin: Twin) -> NightDone:
        """What the night's work came to; the twin is guided by it now."""
        if self._night is None:
            return NightDone(over=True, why="no night's work is under way")
        answer = self._night.answer
        if answer is None:
            return NightDone(over=False)
        now_us, self._night = self._night.now_us, None
        if answer.why:
            self._night_not_before_us = now_us + NIGHT_RETRY_US
            return NightDone(over=True, why=answer.why)
        found = memory.from_bytes(answer.memory)
        if self._memory.current != self._night_context:
            return NightDone(over=True, why="the context changed meanwhile")
        changed = found.current != self._night_context  # by the night itself: its look begins anew
        if self._memory.look.looked_us > now_us and not changed:  # it was looked again meanwhile
            drift = {name: getattr(found.look, name) for name in DRIFT}
            found = msgspec.structs.replace(found, look=msgspec.structs.replace(self._memory.look, **drift))
            for context in self._memory.contexts:
                found = found.with_context(context)
        self._memory = found
        twin.guide(*answer.guidance)
        twin.changing = found.changing(now_us)
        return NightDone(True, answer.keep, answer.drop, answer.record)

    @staticmethod
    def _advise(twin: Twin, question: AskAdvice) -> Advised:
        """Advice within the standing policy: the patient file's limits and the policy's, whichever is lower."""
        allowed = question.policy
        ahead = [
            e.time_us
            for e in twin.record.between(question.now_us, question.now_us + AHEAD_US)
            if e.kind == "bolus_u"
        ]
        if ahead:  # it would not count, and be given again
            late_min = (max(ahead) - question.now_us) / US_PER_MIN
            note = f"a dose on record is dated {late_min:.0f} min ahead of now, so a clock is wrong: check the pump's"
            return Advised(None, note=note)
        try:
            policy = within_standing(policy_of(twin.patient), allowed)
            answer = twin.advise(question.now_us, question.carbs_g, policy, question.question)
        except HometwinError as err:
            return Advised(None, note=err.what)
        return Advised(
            answer.message(question.advice_id, question.now_us, allowed.approved_by, question.now_us)
        )

    def _contribution(self, twin: Twin, question: AskSnapshot) -> Contribution | None:
        blur, told = question.blur, self._memory.told(question.now_us)
        try:
            given = twin.contribution(question.now_us)
            if blur is None:
                # What is out of the usual is no start for anybody.
                correction = given.correction if question.correction and not told else b""
                return msgspec.structs.replace(given, context=told, correction=correction)
            if told:  # the words would tell what the noise is to hide
                return None
            rng = np.random.default_rng()  # from the system's entropy: nobody can draw this noise again
            return privacy.blur(given, np.array(PRIOR_SD), blur.epsilon, blur.delta, rng, blur.releases)
        except HometwinError:
            return None


async def serve_engine(socket: Path) -> None:
    """Answer hubs on ``socket`` until cancelled."""
    server = await serve_private(socket, _serve_hub, 1 << 20)
    log.info("engine.started")
    notify_systemd("READY=1")
    try:
        async with server:
            await _ping_watchdog()
    finally:
        socket.unlink(missing_ok=True)


async def _ping_watchdog() -> None:
    """An engine stuck in a kernel stops pinging, and systemd starts it anew."""
    while True:
        notify_systemd("WATCHDOG=1")
        await asyncio.sleep(5.0)


async def _serve_hub(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    session = EngineSession()
    try:
        while (data := await read_frame(reader)) is not None:
            question = _decode_question(data)
            try:
                answer = session.answer(question)
            except HometwinError as err:
                log.error("engine.refused", error=type(err).__name__, reason=str(err))
                answer = Refused(str(err))
            await write_frame(writer, encode(answer))
    except (HometwinError, ConnectionError) as err:
        reason = err.what if isinstance(err, HometwinError) else type(err).__name__
        log.error("engine.session_failed", error=type(err).__name__, reason=reason)
    except Exception as err:
        # The hub starts anew from its record. The error's text may quote a reading, so only its type is told.
        log.error("engine.session_failed", error=type(err).__name__)
        log.debug("engine.session_failed", exc_info=True)
    finally:
        session.close()
        writer.close()


def _decode_question(data: bytes) -> ToEngine:
    try:
        question: ToEngine = msgspec.msgpack.decode(data, type=ToEngine)
        return question
    except (msgspec.MsgspecError, ValueError, RecursionError) as err:
        raise DecodeError(f"not a question: {type(err).__name__}") from None
