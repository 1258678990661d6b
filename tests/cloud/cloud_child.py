"""The cloud as a child process: ``python -m tests.cloud.cloud_child CLOUD.toml [die-after-commit N | parts]``.

``die-after-commit N``: kill -9 itself between the N-th commit and its acknowledgement. Adviser and portal
are left out: these tests are about ingest.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import cloud.process
from cloud.config import load_config
from cloud.ingest import Ingest
from core.clock import SystemClock
from core.errors import HometwinError


def die_after_commit(commits: int) -> None:
    real, left = Ingest.commit, [commits]

    async def commit(self, group):
        outcomes = await real(self, group)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcomes

    Ingest.commit = commit  # type: ignore[method-assign]


async def main(path: Path, patience_s: float) -> None:
    task = asyncio.ensure_future(
        cloud.process.run(load_config(path), SystemClock(time.time_ns), broker_patience_s=patience_s)
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


if __name__ == "__main__":
    cloud.process._imported = lambda module, name: None
    if sys.argv[2:3] == ["die-after-commit"]:
        die_after_commit(int(sys.argv[3]))
    try:
        asyncio.run(main(Path(sys.argv[1]), 0.5))
    except asyncio.CancelledError:
        print("clean end")
    except HometwinError as err:
        print(err, file=sys.stderr)
        sys.exit(err.exit_code)
