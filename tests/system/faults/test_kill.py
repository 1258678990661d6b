"""A writer is killed at random moments, 180 times: what the store acknowledged is there, and nothing else."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import WrongKeyError
from tests.edge.store.conftest import open_store
from tests.system.faults.ledger import WRONG_KEY, Call, Figures, Ledger, asked

CUTS = asked("CUTS", 180)
SEED = asked("FAULT_SEED", 20260101)
# Each store is cut this often, then a new one begins: making a store is cut too.
CUTS_PER_STORE = 15
LONGEST_PAUSE_S = 0.04
REPOSITORY = Path(__file__).parents[3]


# A quiet machine needs half a minute.
pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


class Writers:
    """The process of writer.py, line by line."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.faults.writer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        self._unread = b""

    def line(self, until_s: float) -> str | None:
        """The next line; None once that moment has come, whether or not there is more to read."""
        assert self.process.stdout is not None
        if time.monotonic() >= until_s:
            return None
        while b"\n" not in self._unread:
            if not select.select([self.process.stdout], [], [], max(0.0, until_s - time.monotonic()))[0]:
                return None
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            assert part, self.end()
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def cut(self, path: Path, seed: int, pause_s: float, *, from_first_call: bool) -> list[str]:
        """Let a writer write on ``path``, kill it after ``pause_s``; everything that it said."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path} {seed}\n".encode())
        self.process.stdin.flush()
        said: list[str] = []
        pid, until_s = 0, time.monotonic() + 60
        killed = False
        while True:
            line = self.line(until_s)
            if line is None:
                assert pid, "no writer in a minute"
                os.kill(pid, signal.SIGKILL)
                killed, until_s = True, time.monotonic() + 60
            elif line.startswith("pid "):
                pid = int(line[4:])
                if not from_first_call:
                    until_s = time.monotonic() + pause_s
            elif line == f"gone {pid}":
                assert killed, self.end()
                return said
            elif line.startswith(("try ", "ack ")):
                if not said and from_first_call:
                    until_s = time.monotonic() + pause_s
                said.append(line)

    def end(self) -> str:
        """Stop; what went wrong, if anything."""
        _, errors = self.process.communicate(timeout=60)
        return errors.decode()


@pytest.fixture
def writers() -> Iterator[Writers]:
    writers = Writers()
    yield writers
    errors = writers.end()
    assert "Traceback" not in errors, errors


def test_no_acknowledged_sample_is_lost_and_none_invented_by_kill_9(
    folder: Path, writers: Writers, figures: Figures
) -> None:
    rng = random.Random(SEED)
    calls = records = torn = made = 0
    ledger = Ledger()
    path = folder / "replay.sqlite"
    for cut in range(CUTS):
        if cut % CUTS_PER_STORE == 0:
            path = folder / f"store-{cut}.sqlite"
            records += ledger.checked
            ledger = Ledger()
        # One in four is cut while it opens, or makes, the store.
        opening = rng.randrange(4) == 0
        pause_s = rng.random() * (0.02 if opening else LONGEST_PAUSE_S)
        for line in writers.cut(path, rng.randrange(1 << 30), pause_s, from_first_call=not opening):
            word, first, *rest = line.split()
            if word == "try":
                ledger.begin(Call(first, int(rest[0])))
            else:
                ledger.end(int(first))
                calls += 1
        torn += ledger.under_way is not None
        if not path.exists():
            made += 1  # cut before the store had its name: nothing was acknowledged
            assert (ledger.rows, ledger.under_way) == (0, None)
            continue
        with pytest.raises(WrongKeyError):
            open_store(path, WRONG_KEY)
        with open_store(path) as store:
            whole = cut % CUTS_PER_STORE == CUTS_PER_STORE - 1 or cut == CUTS - 1
            ledger.check(store, after_row=0 if whole else ledger.rows)
    records += ledger.checked
    figures(
        f"seed {SEED}: {CUTS} cuts survived ({made} before the store was made, {torn} inside a call), "
        f"{calls} acknowledgements and {records} records checked",
        cuts=CUTS,
        records=records,
    )
    assert calls > CUTS // 2
    assert torn > CUTS // 10
