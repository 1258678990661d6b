"""The engine process: the twin's numerics behind one Unix socket. No network, no radio, no disk of its own.

It answers one hub at a time, frame by frame. It may crash, be killed, or take long to compile: the hub keeps
every sample and feeds it again from the row that its last snapshot reached.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import structlog

from core import privacy
from core.advice_types import policy_of
from core.errors import DecodeError, EngineError, HometwinError, InputError
from core.messages import Contribution, Prior, Sample, encode
from core.models.hovorka import PRIOR_SD
from core.twin import Patient, Twin
from edge.control import serve_private
from edge.engine_messages import (
    Advised,
    Answer,
    Ask,
    AskAdvice,
    AskSnapshot,
    Done,
    FromEngine,
    Hello,
    Observe,
    Ready,
    Refused,
    SetPrior,
    Snapshot,
    ToEngine,
)
from edge.frames import read_frame, write_frame
from edge.notify import notify_systemd

log = structlog.get_logger()


class EngineSession:
    """One hub's twin. Pure apart from the twin it holds: a question in, an answer out."""

    def __init__(self) -> None:
        self._twin: Twin | None = None
        self._row = 0

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
        return Snapshot(self._row, self._twin.snapshot(), self._contribution(self._twin, question))

    def _hello(self, hello: Hello) -> Ready:
        patient = Patient.from_toml(hello.patient_toml)
        note = ""
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

    @staticmethod
    def _ask(twin: Twin, question: Ask) -> Answer:
        try:
            estimate = twin.estimate(question.now_us)
            forecast = twin.forecast(question.now_us, question.horizons_min).forecast
        except HometwinError as err:
            return Answer(None, None, note=err.what)
        return Answer(estimate, forecast)

    @staticmethod
    def _advise(twin: Twin, question: AskAdvice) -> Advised:
        """Advice within the standing policy: the patient file's limits and the policy's, whichever is lower."""
        allowed, own = question.policy, policy_of(twin.patient)
        policy = msgspec.structs.replace(
            own,
            target_mgdl=max(70.0, allowed.target_mgdl),
            carb_ratio_g_per_u=allowed.carb_ratio_g_per_u or own.carb_ratio_g_per_u,
            correction_mgdl_per_u=allowed.correction_mgdl_per_u or own.correction_mgdl_per_u,
            max_dose_u=min(own.max_dose_u, allowed.max_dose_u),
            max_iob_u=min(own.max_iob_u, allowed.max_iob_u),
        )
        try:
            answer = twin.advise(question.now_us, question.carbs_g, policy, question.question)
        except HometwinError as err:
            return Advised(None, note=err.what)
        return Advised(
            answer.message(question.advice_id, question.now_us, allowed.approved_by, question.now_us)
        )

    @staticmethod
    def _contribution(twin: Twin, question: AskSnapshot) -> Contribution | None:
        blur = question.blur
        try:
            given = twin.contribution(question.now_us)
            if blur is None:
                return given
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
        writer.close()


def _decode_question(data: bytes) -> ToEngine:
    try:
        question: ToEngine = msgspec.msgpack.decode(data, type=ToEngine)
        return question
    except (msgspec.MsgspecError, ValueError, RecursionError) as err:
        raise DecodeError(f"not a question: {type(err).__name__}") from None
