"""How a long-running process of ours runs and ends: signals end it cleanly, an error of ours is one line."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import structlog

from core.clock import Clock, clock_from_text
from core.errors import HometwinError, InputError

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


def named_folder(text: str) -> Path:
    """The folder that an --out names; InputError for an empty one, which would be whatever folder one stands in."""
    if not text.strip():
        raise InputError("names no folder", where="--out", mend="give a folder's name; . is the current one")
    return Path(text)


def run_until_signal(main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` until it ends or SIGTERM, SIGINT or SIGHUP asks it to; all are clean ends."""

    async def supervised() -> None:
        task = asyncio.ensure_future(main)
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, task.cancel)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup asks us to outlive the terminal
            # Kernel and shell both tell of a closed terminal: the second must not cut the clean-up short.
            loop.add_signal_handler(signal.SIGHUP, lambda: task.cancelling() or task.cancel())
        try:
            await task
        except asyncio.CancelledError:
            return
        except BaseExceptionGroup as group:
            raise _first_of(group) from None

    asyncio.run(supervised())


def with_one_line_errors(call: Callable[[], None]) -> None:
    """Run ``call`` and exit; an error that a person can mend becomes one line on stderr and an exit code.

    2 for an error of ours that is the caller's (core/errors.py), 1 for what the system or the output refused.
    """
    _open_streams()
    text = ""
    code: int | str | None = 0
    try:
        call()
    except HometwinError as err:
        text, code = str(err), err.exit_code
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code
    except (OSError, UnicodeError) as err:
        # The net below the places that know better what to say.
        log.debug("process.failed", exc_info=True)
        text, code = _refused(err), 1
    if (unwritten := _flush_output()) and code in (None, 0, 1):
        text, code = unwritten, 1
    if text:
        with contextlib.suppress(OSError):
            # A name that a person typed may hold a line's end, or what a terminal obeys.
            sys.stderr.write(f"hometwin: {''.join(c if c.isprintable() else ' ' for c in text)}\n")
    raise SystemExit(code)


def _open_streams() -> None:
    """A standard stream that is closed becomes /dev/null: the next file would take its number, and get its text."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: what this terminal cannot show


def _flush_output() -> str:
    """What keeps standard output from taking the rest; empty when it has it all."""
    try:
        sys.stdout.flush()
    except OSError as err:
        # The interpreter flushes again at its end, and would complain in its own way.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"standard output cannot be written: {err.strerror}"
    return ""


def _refused(err: OSError | UnicodeError) -> str:
    if isinstance(err, UnicodeError):
        return "a text or a file name is not in the encoding that it should have (UTF-8)"
    place = f"{os.fsdecode(err.filename)}: " if isinstance(err.filename, (str, bytes)) else ""
    return f"{place}{err.strerror or type(err).__name__}"


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a person can mend, out of those that came together."""
    known, _ = group.split(HometwinError)
    chosen: BaseException = known if known is not None else group
    while isinstance(chosen, BaseExceptionGroup):
        chosen = chosen.exceptions[0]
    return chosen
