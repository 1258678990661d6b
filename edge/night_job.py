"""The night's work in a process of its own: one question on standard input, one answer on standard output.

It has the lowest priority and may be killed at any moment: nothing is written before it is done, and the next due time
starts it anew. It dies with the engine that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Final

import msgspec
import numpy as np
import structlog

from core import learning, memory, replay
from core.errors import DecodeError, HometwinError
from core.guidance import Guidance
from core.messages import encode
from core.twin import Twin

log = structlog.get_logger()

NICENESS: Final = 19
MAX_CPU_S: Final = 1800  # a Pi needs a minute; beyond this something hangs
_PR_SET_PDEATHSIG: Final = 1


class NightQuestion(msgspec.Struct, frozen=True):
    """All that the job needs."""

    now_us: int
    twin: bytes
    memory: bytes
    kept: tuple[tuple[int, bytes], ...]


class NightAnswer(msgspec.Struct, frozen=True):
    """``why``: not empty when there was nothing to do, or it failed."""

    memory: bytes = b""
    guidance: tuple[Guidance, ...] = ()
    keep: tuple[bytes, ...] = ()
    drop: tuple[int, ...] = ()
    record: bytes = b""
    why: str = ""


def work(question: NightQuestion) -> NightAnswer:
    """The night's work. Errors of ours become an answer that says why."""
    started_s = time.process_time()
    try:
        twin = Twin.restore(question.twin)
        known = memory.from_bytes(question.memory) if question.memory else memory.Memory()
        kept, broken = [], []
        for number, data in question.kept:
            try:
                kept.append((number, replay.from_bytes(data)))
            except DecodeError:
                broken.append(number)
        rng = np.random.default_rng([twin.seed, question.now_us])
        night = learning.night(twin, known, kept, question.now_us, rng)
    except HometwinError as err:
        return NightAnswer(why=err.what)
    record = msgspec.structs.replace(night.record, seconds=round(time.process_time() - started_s, 1))
    return NightAnswer(
        memory.to_bytes(night.memory),
        night.guidance,
        tuple(replay.to_bytes(episode) for episode in night.keep),
        (*night.drop, *broken),
        encode(record),
    )


class NightJob:
    """One night's work under way. ``answer`` is None until it is over."""

    def __init__(self, question: NightQuestion) -> None:
        self.now_us = question.now_us
        self._answer: NightAnswer | None = None
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edge.night_job"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._thread = threading.Thread(target=self._wait, args=(encode(question),), daemon=True)
        self._thread.start()

    @property
    def answer(self) -> NightAnswer | None:
        return self._answer

    def stop(self) -> None:
        """End it at once; nothing is lost but its work."""
        self._process.kill()
        self._thread.join(5.0)

    def _wait(self, data: bytes) -> None:
        try:
            out, _ = self._process.communicate(data)
            self._answer = msgspec.msgpack.decode(out, type=NightAnswer)
        except (OSError, ValueError, msgspec.MsgspecError):
            self._answer = NightAnswer(why="the night's job was stopped")


def _with_lowest_priority() -> None:
    with contextlib.suppress(OSError):  # where that is forbidden it works all the same, beside the others
        os.nice(NICENESS)
    libc: Any = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))


def main() -> None:
    """Answer the question on standard input."""
    _with_lowest_priority()
    question = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=NightQuestion)
    sys.stdout.buffer.write(encode(work(question)))


if __name__ == "__main__":
    main()
