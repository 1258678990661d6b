"""How a long-running process of ours runs and ends: signals end it cleanly, an error of ours is one line."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from core.clock import Clock, clock_from_text
from core.errors import HometwinError


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
