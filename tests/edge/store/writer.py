"""The process that test_kill.py kills: writes for ever, and says what was acknowledged.

Lines, each after ``ack``: ``s first last`` samples appended, ``o number`` message enqueued, ``d number`` done, ``b number`` blob
put, ``n number`` counter. A line is written only after the store returned.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from edge.store.store import Store
from tests.edge.store.conftest import HUB, KEY, FixedClock, reading


def main() -> None:
    path, seed = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    store = Store.open(path, KEY, hub_id=HUB, clock=FixedClock())
    write = sys.stdout.write
    while True:
        first = store.last_row
        # Mostly single samples as a sensor gives them; now and then a backfill that folds.
        count = rng.choice([1] * 40 + [5, 50, 300])
        store.append(reading(n) for n in range(first, first + count))
        write(f"ack s {first} {first + count - 1}\n")
        if store.keys.rotating:
            store.keys.reseal(8)
        match rng.randrange(10):
            case 0:
                number = store.enqueue(b"message %d" % store.last_row, sample_row=store.last_row)
                write(f"ack o {number}\n")
            case 1 if store.pending_count() > 3:
                [(number, _)] = store.pending(1)
                store.done([number])
                write(f"ack d {number}\n")
            case 2:
                store.put_blob("state", b"%d" % store.last_row)
                write(f"ack b {store.last_row}\n")
            case 3:
                write(f"ack n {store.next_number('alarm')}\n")
            case 4 if max(store.keys.overview()["data_keys"]) < 200:
                store.keys.rotate_data()
            case 5:
                store.archive.keep("replay", bytes(900), 5000)
                store.note("hub", "test.kept")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
