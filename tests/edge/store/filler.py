"""The process of test_disk.py: fills the small file system it is given, and watches what a store does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from core.errors import StoreError
from core.messages import Sample
from edge.store.store import Store
from tests.edge.store.conftest import START_US, open_store, reading


def refused(write: Callable[[], object]) -> bool:
    """Whether the disk was full, said as it should be."""
    told: StoreError | None = None
    try:
        write()
    except StoreError as error:
        told = error
    if told is None:
        return False
    assert "no space left" in str(told), told
    assert told.mend
    assert type(told) is StoreError
    return True


def ballast(folder: Path, room: int) -> Path:
    """A file that leaves ``room`` bytes free."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        disk = os.statvfs(folder)
        file.write(bytes(max(0, disk.f_bavail * disk.f_frsize - room)))
    return path


def main() -> None:
    folder = Path(sys.argv[1])
    store = open_store(folder / "replay.sqlite")
    store.append(reading(n) for n in range(300))
    last = 300
    writes: dict[str, Callable[[Store, int], object]] = {
        "append": lambda store, n: store.append([reading(n)]),
        "enqueue": lambda store, n: store.enqueue(bytes(200)),
        "put_blob": lambda store, n: store.put_blob("state", b"%d" % n),
        "next_number": lambda store, n: store.next_number("alarm"),
    }
    for name, write in writes.items():
        for room in (0, 4096, 12288):
            full = ballast(folder, room)
            before = store.generation
            for _ in range(300):  # the log may have room that it used before
                last += 1
                if refused(lambda: write(store, last)):  # noqa: B023 - called at once
                    break
                before += 1
            else:
                raise AssertionError(f"{name}: the disk never was full")
            assert store.generation == before
            assert store.read(0, 1)
            assert store.check().ok
            full.unlink()
            write(store, last)  # and not in doubt
            assert store.generation == before + 1
        print("ok", name)
    kept = store.read(0, 1 << 30)
    full = ballast(folder, 0)
    store.close()
    store = open_store(folder / "replay.sqlite")  # a hub that restarts on a full disk still reads
    assert store.read(0, 1 << 30) == kept
    print("ok opened")
    full.unlink()
    store.append([reading(10**6)])
    store.close()
    with open_store(folder / "replay.sqlite") as again:
        assert [s.seq for _, s in again.read(0, 1 << 30)] == [s.seq for _, s in kept] + [10**6]
    print("ok done")
    thin(folder)


def thin(folder: Path) -> None:
    """On a disk without a byte free the oldest readings make room for the newest."""
    for file in folder.glob("replay.sqlite*"):
        file.unlink()
    with open_store(folder / "replay.sqlite") as store:
        for at in range(0, 12_000, 500):
            store.append(
                # One a second, of values that do not pack to nothing: thinning them makes room.
                Sample(START_US + n * 1_000_000, "heart_rate_bpm", float(n * n * 7919 % 997), "strap", n)
                for n in range(at, at + 500)
            )
        assert store.thinner.hold_spare()
        full = ballast(folder, 0)
        last = 20_000
        for last in range(20_000, 30_000):  # the file and its log may have room that they used before
            if refused(lambda: store.append([reading(last)])):  # noqa: B023 - called at once
                break
        else:
            raise AssertionError("the disk never was full")
        assert store.thinner.free_bytes() < 4096
        assert store.thinner.use_spare()
        assert not store.thinner.use_spare()
        assert (store.thinner.thin(1 << 62, cloud=False) or 0) > 5000
        before = store.last_row
        for n in range(last, last + 3000):
            store.append([reading(n)])
        assert store.last_row == before + 3000
        assert store.check().ok
        full.unlink()
    print("ok thinned")


if __name__ == "__main__":
    main()
