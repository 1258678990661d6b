"""Calculating processes, the adviser's first: started when needed, ended with the cloud, replaced when stuck."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from cloud.advice_job import FRAME, MAX_FRAME_BYTES, AdviceJob, JobResult

log = structlog.get_logger()

# Compiling all kernels takes about half a minute on a Pi class machine; a fortnight's record some seconds.
JOB_TIMEOUT_S: Final = 180.0
END_TIMEOUT_S: Final = 2.0
DROPPED: Final = "nobody waits for this answer any more"
FAILED: Final = "the calculating process failed"


class Worker:
    """A process of its own that answers frames, one after another: ``python -m MODULE``."""

    def __init__(self, module: str, timeout_s: float = JOB_TIMEOUT_S) -> None:
        self._module, self._timeout_s = module, timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._asked: set[asyncio.Task[bytes | str]] = set()

    async def ask(self, question: bytes, is_wanted: Callable[[], bool] = lambda: True) -> bytes | str:
        """The answer, or why there is none in words: a process that dies or hangs is replaced at the next question.

        Not asked at all when nobody wants it any more (``is_wanted``) by the time its turn comes.
        """
        if len(question) > MAX_FRAME_BYTES:
            return "this is more than can be calculated at once"
        # An asker that is cancelled (a page was closed) leaves the process alone, with what it has learned.
        task = asyncio.create_task(self._ask_in_turn(question, is_wanted))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        return await asyncio.shield(task)

    async def _ask_in_turn(self, question: bytes, is_wanted: Callable[[], bool]) -> bytes | str:
        async with self._turn:
            if not is_wanted():
                return DROPPED
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._ask(question)
            except TimeoutError:
                await self.close()
                return f"the calculation took longer than {self._timeout_s:.0f} s"
            except (OSError, asyncio.IncompleteReadError) as err:
                if self._process is not None:  # not closed by us
                    log.error("worker.failed", module=self._module, error=type(err).__name__)
                await self.close()
                return FAILED
            except asyncio.CancelledError:
                await self.close()
                raise

    async def _ask(self, question: bytes) -> bytes:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(FRAME.pack(len(question)) + question)
        await process.stdin.drain()
        (size,) = FRAME.unpack(await process.stdout.readexactly(FRAME.size))
        if size > MAX_FRAME_BYTES:
            raise OSError("answer too long")
        return await process.stdout.readexactly(size)

    async def close(self) -> None:
        """End the process: politely (end of input), then not."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(END_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


class AdviceWorker(Worker):
    """Runs advice."""

    def __init__(self, timeout_s: float = JOB_TIMEOUT_S) -> None:
        super().__init__("cloud.advice_job", timeout_s)

    async def run(self, job: AdviceJob) -> JobResult:
        """The result of ``job``; a worker that dies or hangs is a ``problem``, and the next job gets a new one."""
        answer = await self.ask(msgspec.msgpack.encode(job))
        if isinstance(answer, str):
            return JobResult(None, answer)
        try:
            return msgspec.msgpack.decode(answer, type=JobResult)
        except msgspec.MsgspecError as err:
            log.error("adviser.worker_failed", error=type(err).__name__)
            await self.close()
            return JobResult(None, FAILED)
