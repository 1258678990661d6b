"""A real writer is killed at random moments: what it said is there, and nothing else."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.edge.store.conftest import open_store, reading

CUTS = int(os.environ.get("HOMETWIN_CUTS", "32"))
REPOSITORY = Path(__file__).parents[3]


def lines_until_killed(path: Path, seed: int, pause_s: float) -> list[list[str]]:
    """Start the writer, wait for its first line, wait a little more, kill -9; what it managed to say."""
    command = [sys.executable, "-m", "tests.edge.store.writer", str(path), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        said = b""
        deadline_s = time.monotonic() + 60
        until_s = deadline_s
        while time.monotonic() < until_s:
            if select.select([writer.stdout], [], [], max(0.0, until_s - time.monotonic()))[0]:
                part = os.read(writer.stdout.fileno(), 1 << 16)
                assert part, writer.stderr.read().decode()
                if b"ack" not in said and b"ack" in part:
                    until_s = min(deadline_s, time.monotonic() + pause_s)
                said += part
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.read()
    assert b"ack" in said, "the writer wrote nothing in a minute"
    whole = said[: said.rfind(b"\n") + 1]  # the last line may itself be cut
    return [line.split()[1:] for line in whole.decode().splitlines() if line.startswith("ack ")]


def test_no_acknowledged_write_is_lost_and_none_invented_by_kill_9(path: Path) -> None:
    rng = random.Random(20260101)
    acknowledged = 0
    outbox: set[int] = set()
    done: set[int] = set()
    blob = counter = records = checked = 0
    for cut in range(CUTS):
        for kind, *numbers in lines_until_killed(path, cut, rng.random() * 0.08):
            records += 1
            last = int(numbers[-1])
            match kind:
                case "s":
                    acknowledged = last + 1
                case "o":
                    outbox.add(last)
                case "d":
                    done.add(last)
                case "b":
                    blob = last
                case "n":
                    counter = last
        with open_store(path) as store:
            assert store.check().ok
            assert store.last_row >= acknowledged
            # Every stored sample is one that the writer made, in its order: its fields follow from its row.
            # What earlier cuts checked is read again at the last one.
            after = checked if cut < CUTS - 1 else 0
            rows = store.read(after, 1 << 30)
            assert [row for row, _ in rows] == list(range(after + 1, store.last_row + 1))
            for row, sample in rows:
                made = reading(row - 1)
                assert (sample.key, sample.time_us, sample.value) == (made.key, made.time_us, made.value)
            pending = [n for n, _ in store.pending(1 << 30)]
            # One done may have reached the disk without its line: it is the oldest then.
            missing = (outbox - done) - set(pending)
            assert len(missing) <= 1
            assert not done & set(pending)
            done |= missing
            outbox |= set(pending)
            state = store.get_blob("state")
            assert int(state or 0) >= blob
            acknowledged = checked = store.last_row
            number = store.next_number("alarm")
            assert number > counter
            counter = number
    print(f"{CUTS} cuts survived, {records} acknowledgements and {acknowledged} samples checked")
    assert records > CUTS
