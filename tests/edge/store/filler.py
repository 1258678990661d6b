"""The process of test_disk.py: fills the small file system it is given, and watches what a store does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from core.errors import StoreError
from edge.store.store import Store
from tests.edge.store.conftest import open_store, reading


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


if __name__ == "__main__":
    main()
