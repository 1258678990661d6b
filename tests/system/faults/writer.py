"""The processes that test_kill.py kills: each opens the real store and writes for ever, saying what it does.

Started once, this process forks a writer for every line ``path seed`` on its stdin, so a cut costs milliseconds
and not the start of an interpreter. It answers ``pid N``, then passes on what the writer says: ``try CALL N`` before a
call and ``ack RESULT`` after it, each one atomic write; and ``gone N`` when that process has died.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

# Migrations then run in the forked process itself and can be cut as well.
import sqlite_utils  # noqa: F401

from edge.store.store import Store
from tests.edge.store.conftest import HUB, KEY, FixedClock
from tests.system.faults.ledger import chosen, make


def say(line: str) -> None:
    os.write(1, f"\n{line}\n".encode())


def write_for_ever(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    store = Store.open(path, KEY, hub_id=HUB, clock=FixedClock())
    while True:
        call = chosen(rng, store)
        say(f"try {call.do} {call.n}")
        say(f"ack {make(store, call)}")


def main() -> None:
    for line in sys.stdin:
        path, seed = line.split()
        child = os.fork()
        if child == 0:
            try:
                write_for_ever(Path(path), int(seed))
            finally:
                os._exit(3)  # only an error ends a writer by itself; its traceback is on stderr
        say(f"pid {child}")
        os.waitpid(child, 0)
        say(f"gone {child}")


if __name__ == "__main__":
    main()
