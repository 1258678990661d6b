"""One piece of advice, computed: the recent record in, core's answer out. No database, no network.

Run as ``python -m cloud.advice_job`` it is the worker process of ``cloud/advice_worker.py``: frames in on
standard input, frames out on standard output, and it ends with its parent (end of input). The twin's
kernels may compile for many seconds; in a process of their own they hold up neither ingest nor pages.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO, Final

import msgspec

from core.advice_types import Advice, Policy
from core.challenger import disagreement, strangeness
from core.errors import HometwinError
from core.messages import Sample

FRAME: Final = struct.Struct("<I")
MAX_FRAME_BYTES: Final = 64 << 20  # a fortnight of every sensor is 2 MB


class AdviceJob(msgspec.Struct, frozen=True):
    """What one advice rests on."""

    samples: tuple[Sample, ...]  # by time, up to ``now_us``
    patient_toml: bytes
    policy: Policy
    now_us: int
    for_time_us: int  # when the meal is eaten and the dose taken; not before now
    carbs_g: float
    changing: str = ""  # the hub says that a change of context is in progress: then nothing is advised


class JobResult(msgspec.Struct, frozen=True):
    """Exactly one of the two is set. ``problem`` holds no reading."""

    advice: Advice | None
    problem: str | None


def run_job(job: AdviceJob) -> JobResult:
    """The advice of ``job``; a typed error becomes ``problem``."""
    try:
        return JobResult(_advise(job), None)
    except HometwinError as err:
        return JobResult(None, err.what)


def _advise(job: AdviceJob) -> Advice:
    from core.advise_twin import advise  # loads numba: only the worker pays for it
    from core.twin import Patient, Twin

    known = [s for s in job.samples if s.time_us <= job.now_us]
    twin = Twin(Patient.from_toml(job.patient_toml))
    twin.observe(known)
    twin.changing = job.changing
    answer = advise(twin, job.now_us, job.carbs_g, job.policy, "meal", job.for_time_us)
    if answer.refused is not None:
        return answer
    doubt = strangeness(twin.distances(job.now_us)) or disagreement(
        answer, known, job.policy, job.now_us, job.for_time_us
    )
    return answer if doubt is None else overruled(answer, doubt)


def overruled(answer: Advice, why: str) -> Advice:
    """The answer turned into a refusal; the courses without insulin are all that stays of it."""
    return msgspec.structs.replace(
        answer,
        dose_u=0.0,
        action="none",
        refused=why,
        why=(),
        ladder=(),
        band=answer.band_without,
        reasons=(f"No dose is advised: {why}.", *answer.reasons),
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
    nice = 0 if os.environ.get("HOMETWIN_CLOCK") else 10  # on a clock of a demo the meal would not wait
    serve_frames(lambda frame: msgspec.msgpack.encode(run_job(decoder.decode(frame))), nice)


if __name__ == "__main__":
    main()
