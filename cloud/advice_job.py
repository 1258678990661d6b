"""One piece of advice, computed: the recent record in, core's answer out. No database, no network.

Run as ``python -m cloud.advice_job`` it is the worker process of ``cloud/advice_worker.py``: frames in on
standard input, frames out on standard output, and it ends with its parent (end of input). The twin's
kernels may compile for many seconds; in a process of their own they hold up neither ingest nor pages.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, Final

import msgspec
import numpy as np

from cloud.trend import TREND_SPAN_US, trend
from core.advice import MIN_DRAWS, Advice, Floats, PathSource, Policy, Situation, advise, insulin_on_board
from core.errors import HometwinError
from core.messages import Quality, Sample
from core.units import US_PER_MIN

FRAME: Final = struct.Struct("<I")
MAX_FRAME_BYTES: Final = 64 << 20  # a fortnight of every sensor is 2 MB
DOUBTFUL: Final = Quality.SENSOR_WARNING | Quality.CLOCK_DOUBT | Quality.OUTLIER
NIS_READINGS: Final = 24  # two hours
# Mean squared normalised innovation that a fitting twin does not reach: 1 is expected, its mean over 24
# independent readings has SD 0.29; sensor errors hang together, hence the generous bound.
MAX_MEAN_NIS: Final = 3.0
STEP_MIN: Final = 5.0
SEED: Final = 1  # the same draws for every candidate: doses then differ by dose, not by luck


class AdviceJob(msgspec.Struct, frozen=True):
    """What one advice rests on."""

    samples: tuple[Sample, ...]  # by time, up to ``now_us``
    patient_toml: bytes
    policy: Policy
    now_us: int
    for_time_us: int  # when the meal is eaten and the dose taken; not before now
    carbs_g: float


class JobResult(msgspec.Struct, frozen=True):
    """Exactly one of the two is set. ``problem`` holds no reading."""

    advice: Advice | None
    problem: str | None


class TwinPaths:
    """Core's ``PathSource`` over a twin: drawn futures with meal and dose at ``for_time_us``."""

    def __init__(self, twin: Any, now_us: int, for_time_us: int) -> None:
        self._twin, self._now_us, self._for_time_us = twin, now_us, for_time_us
        self._lead_min = (for_time_us - now_us) / US_PER_MIN

    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> Floats:
        """Glucose from now to ``horizon_min`` after the meal, float64[draws, n_steps] mg/dL.

        The time before the meal counts too: with a low on the way, a dose is the wrong advice.
        """
        # The meal is always in the plan, be it 0 g: it draws its own counting errors, and without it
        # all later random numbers would shift.
        planned = (
            Sample(self._for_time_us, "carbs_g", carbs_g, "plan", 1),
            Sample(self._for_time_us, "bolus_u", dose_u, "plan", 2),
        )
        until_min = self._lead_min + horizon_min
        result = self._twin.forecast(self._now_us, [until_min], planned, paths=draws, seed=SEED)
        return np.asarray(result.paths, dtype=np.float64)


def run_job(job: AdviceJob) -> JobResult:
    """The advice of ``job``; a typed error becomes ``problem``."""
    try:
        return JobResult(_advise(job), None)
    except HometwinError as err:
        return JobResult(None, err.what)


def _advise(job: AdviceJob) -> Advice:
    from core.twin import Patient, Twin  # loads numba: only the worker pays for it

    past = [s for s in job.samples if s.time_us <= job.now_us]
    glucose = [s for s in past if s.kind == "cgm_mgdl"]
    twin = Twin(Patient.from_toml(job.patient_toml))
    mean_nis = _observe(twin, past, glucose)
    estimate = twin.estimate(job.now_us)
    source = TwinPaths(twin, job.now_us, job.for_time_us)
    return advise(source, job.carbs_g, job.policy, _situation(job, past, glucose, estimate, mean_nis, source))


def _observe(twin: Any, past: list[Sample], glucose: list[Sample]) -> float:
    """Feed the record, the last two hours reading by reading; returns their mean NIS (nan: unknown)."""
    tail = glucose[-NIS_READINGS:]
    cut_us = tail[0].time_us if tail else 0
    twin.observe([s for s in past if s.time_us < cut_us])
    twin.observe([s for s in past if s.time_us >= cut_us])
    values = [twin.estimate(s.time_us).nis for s in tail]
    known = [v for v in values if math.isfinite(v)]
    return sum(known) / len(known) if known else math.nan


def _situation(
    job: AdviceJob,
    past: list[Sample],
    glucose: list[Sample],
    estimate: Any,
    mean_nis: float,
    source: PathSource,
) -> Situation:
    last = glucose[-1] if glucose else None
    recent = [s for s in glucose if last is not None and s.time_us >= last.time_us - TREND_SPAN_US]
    slope = trend(recent)
    expected = None
    if last is not None and job.for_time_us - job.now_us >= STEP_MIN * US_PER_MIN:
        expected = float(np.median(source.paths(0.0, 0.0, MIN_DRAWS, 0.0)[:, -1]))
    boluses = [(s.time_us, s.value) for s in past if s.kind == "bolus_u"]
    return Situation(
        time_us=job.now_us,
        glucose_mgdl=last.value if last is not None else math.nan,
        trend_mgdl_per_min=math.nan if slope is None else slope,
        data_time_us=last.time_us if last is not None else job.now_us,
        flagged=last is not None and bool(last.quality & DOUBTFUL),
        status=estimate.status,
        misfit=not mean_nis <= MAX_MEAN_NIS,
        iob_u=insulin_on_board(job.for_time_us, boluses),
        model=estimate.model,
        expected_mgdl=expected,
    )


def read_frame(stream: BinaryIO) -> bytes | None:
    """One frame; None at the end of the stream."""
    head = stream.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    (size,) = FRAME.unpack(head)
    if size > MAX_FRAME_BYTES:
        return None
    body = stream.read(size)
    return body if len(body) == size else None


def serve_frames(answer: Callable[[bytes], bytes], nice: int) -> None:
    """Answer frames until standard input ends. ``nice``: how much later than others this process may wait."""
    import os
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends this process
    os.nice(nice)
    # Whatever a library prints must not land between two frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        body = answer(frame)
        answers.write(FRAME.pack(len(body)) + body)
        answers.flush()


def main() -> None:
    """Answer jobs until standard input ends."""
    decoder = msgspec.msgpack.Decoder(AdviceJob)
    serve_frames(lambda frame: msgspec.msgpack.encode(run_job(decoder.decode(frame))), nice=10)


if __name__ == "__main__":
    main()
