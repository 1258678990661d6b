"""How a long-running process of ours runs and ends: signals end it cleanly, an error of ours is one line."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from core.clock import Clock, clock_from_text
from core.errors import HometwinError

_M_ARENA_MAX: Final = -8  # malloc.h of glibc


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


def use_one_heap() -> None:
    """Let all threads share one heap (0.7 MiB of a hub's 58); call it before the first thread starts.

    glibc would give each its own. Other C libraries (musl) have no such habit and no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


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
