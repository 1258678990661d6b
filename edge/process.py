"""How a long-running process of ours runs and ends: signals end it cleanly, an error of ours is one line."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from core.clock import Clock, clock_from_text
from core.errors import HometwinError

log = structlog.get_logger()

_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def keep_memory_private(*, lock: bool) -> None:
    """Keys and readings in this process's memory get onto no disk, and no other program of this user sees them.

    No core dump is ever written; ``/proc/PID/mem`` and ``environ`` are closed to all but root, and no debugger of
    the same user attaches. ``lock``: memory is never swapped, where the limit allows it (``LimitMEMLOCK=`` in the
    units, or root). Call it before the first key is read. Children that are executed decide for themselves,
    but inherit the core limit. Root still sees everything (docs/security.md).
    """
    with contextlib.suppress(OSError, ValueError):  # the unit's LimitCORE=0 does the same
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    # A core limit does not stop a dump into a pipe (core_pattern "|..."); this stops every dump.
    closed = libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    # Under a finite limit later allocations would fail, so only without one. ONFAULT: what was never touched
    # (most of each thread's stack) takes no memory.
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    unlimited = limit == resource.RLIM_INFINITY or os.geteuid() == 0
    locked = lock and unlimited and libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0
    # A start that fails shall say one line, and that is not this one.
    log.debug("memory.private", closed=closed, locked=locked)


def process_clock() -> Clock:
    """The machine's clock, or the one that ``HOMETWIN_CLOCK`` describes."""
    return clock_from_text(os.environ.get("HOMETWIN_CLOCK", ""), time.time_ns)


def run_until_signal(main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` until it ends or SIGTERM/SIGINT asks it to; both are clean ends."""

    async def supervised() -> None:
        task = asyncio.ensure_future(main)
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return
        except BaseExceptionGroup as group:
            raise _first_of(group) from None

    asyncio.run(supervised())


def with_one_line_errors(call: Callable[[], None]) -> None:
    """Run ``call``; an error of ours becomes one line on stderr and an exit code."""
    try:
        call()
    except HometwinError as err:
        sys.stderr.write(f"hometwin: {err}\n")
        raise SystemExit(err.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a person can mend, out of those that came together."""
    known, _ = group.split(HometwinError)
    chosen: BaseException = known if known is not None else group
    while isinstance(chosen, BaseExceptionGroup):
        chosen = chosen.exceptions[0]
    return chosen
