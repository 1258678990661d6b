"""Signs of life of a command that works for a while: a bar or a spinner on a terminal, a line now and then elsewhere.

All of it goes to stderr: stdout is the answer alone.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Long enough that a short command stays silent, short enough that nobody thinks that it hangs.
LINE_EVERY_S: Final = 10.0


@contextmanager
def progress_bar(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Tell how many of ``total`` are done: the yielded function takes the number."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        done = 0

        def take(number: int) -> None:
            nonlocal done
            done = number

        with _lines(lambda elapsed_s: f"{what}: {done} of {total} {unit} after {elapsed_s:.0f} s"):
            yield take
        return
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda number: progress.update(task, completed=number)


@contextmanager
def still_working(what: str, does: str) -> Iterator[None]:
    """Tell that ``what`` still ``does`` something whose end nobody can foretell."""
    console = Console(file=sys.stderr)
    if console.is_terminal:
        with console.status(f"{what}: {does} …"):
            yield
        return
    with _lines(lambda elapsed_s: f"{what}: {does}, {elapsed_s:.0f} s so far"):
        yield


@contextmanager
def _lines(words: Callable[[float], str]) -> Iterator[None]:
    """One line each LINE_EVERY_S, from a thread: the work itself is one long call into numerics."""
    over = threading.Event()
    began_s = time.monotonic()

    def tell() -> None:
        while not over.wait(LINE_EVERY_S):
            with suppress(OSError, ValueError):  # whoever listened is gone: no reason to stop the work
                sys.stderr.write(f"{words(time.monotonic() - began_s)}\n")
                sys.stderr.flush()

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
