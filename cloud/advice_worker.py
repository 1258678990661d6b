"""The adviser's calculating process: started when first needed, ended with the cloud, replaced when stuck."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Final

import msgspec
import structlog

from cloud.advice_job import FRAME, MAX_FRAME_BYTES, AdviceJob, JobResult

log = structlog.get_logger()

# Compiling all kernels takes about half a minute on a Pi class machine; a fortnight's record some seconds.
JOB_TIMEOUT_S: Final = 180.0
END_TIMEOUT_S: Final = 2.0


class AdviceWorker:
    """Runs jobs one after another in a process of its own."""

    def __init__(self, timeout_s: float = JOB_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def run(self, job: AdviceJob) -> JobResult:
        """The result of ``job``; a worker that dies or hangs is a ``problem``, and the next job gets a new one."""
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout_s):
                    body = await self._ask(msgspec.msgpack.encode(job))
                return msgspec.msgpack.decode(body, type=JobResult)
            except TimeoutError:
                await self.close()
                return JobResult(None, f"the calculation took longer than {self._timeout_s:.0f} s")
            except (OSError, asyncio.IncompleteReadError, msgspec.MsgspecError) as err:
                log.error("adviser.worker_failed", error=type(err).__name__)
                await self.close()
                return JobResult(None, "the calculating process failed")
            except asyncio.CancelledError:
                await self.close()
                raise

    async def _ask(self, question: bytes) -> bytes:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cloud.advice_job",
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
