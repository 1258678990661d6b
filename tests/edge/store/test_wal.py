"""A damaged log is told from one that a cut left; tests/system/faults/test_bit_rot.py flips each of its frames."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

import pytest

from core.errors import InputError, StoreError, TamperedError
from edge.store.wal import _checksum, _lost_a_commit, lost_commits
from tests.edge.store.conftest import open_store, reading
from tests.system.faults.disk import IOERR_FSYNC, Action, Disk, Op
from tests.system.faults.power_cut import get_files, put_files

NAMES = ("replay.sqlite", "replay.sqlite-wal")
FRAME = 4096 + 24


def frames(log: bytes) -> list[tuple[int, bool]]:
    """Where each frame begins, and whether it ends a commit."""
    starts = range(32, len(log) - FRAME + 1, FRAME)
    return [(at, log[at + 4 : at + 8] != bytes(4)) for at in starts]


def killed(path: Path, *sizes: int) -> dict[str, bytes]:
    """The files of a process that was killed after appending so many samples, call by call."""
    with open_store(path) as store:
        for size in sizes:
            first = store.last_row
            store.append(reading(n) for n in range(first, first + size))
        return get_files(path.parent, NAMES)


def rows_of(path: Path, files: dict[str, bytes]) -> int:
    put_files(path.parent, files)
    assert not lost_commits(path)
    with open_store(path) as store:
        assert store.check().ok
        return store.last_row


def test_a_commit_that_was_never_finished_is_no_damage(path: Path) -> None:
    files = killed(path, 1, 1, 300)
    log = files[NAMES[1]]
    ends = [at + FRAME for at, is_commit in frames(log) if is_commit]
    assert ends[-1] - ends[-2] > 2 * FRAME  # the fold takes several pages, so it can stand half-written
    for end in range(ends[-2], ends[-1], FRAME):
        assert rows_of(path, {**files, NAMES[1]: log[:end]}) == 2
    # Any of its pages may have reached the disk before the others, its end too.
    for hole in range(ends[-2], ends[-1] - FRAME, FRAME):
        torn = log[:hole] + bytes(FRAME) + log[hole + FRAME :]
        assert rows_of(path, {**files, NAMES[1]: torn}) == 2


def test_frames_left_by_commits_that_failed_are_no_damage(path: Path) -> None:
    failing = False

    def decide(op: Op) -> Action:
        return IOERR_FSYNC if failing and op.kind == "sync" and op.name == NAMES[1] else None

    with Disk(decide), open_store(path) as store:
        store.append([reading(0)])
        failing = True
        for size in (300, 1, 100, 2):
            with pytest.raises(StoreError):
                store.append(reading(n) for n in range(1, 1 + size))
        failing = False
        store.append([reading(1)])
        files = get_files(path.parent, NAMES)
    assert [is_commit for _, is_commit in frames(files[NAMES[1]])].count(True) > 2
    assert rows_of(path, files) == 2


@pytest.mark.parametrize("round_trips", [0, 1])
def test_damage_before_an_acknowledged_commit_is_told_once_and_what_came_before_is_kept(
    path: Path, round_trips: int
) -> None:
    with open_store(path) as store:
        store.append([reading(0)])
        for _ in range(round_trips):  # the log begins anew over frames of its last round
            store._db.execute("PRAGMA wal_checkpoint(RESTART)")
        store.append([reading(store.last_row)])
        store.append([reading(store.last_row)])
        store.append([reading(store.last_row)])
        files = get_files(path.parent, NAMES)
    log = bytearray(files[NAMES[1]])
    before_last = [at for at, is_commit in frames(bytes(log)) if is_commit][-2 if round_trips == 0 else 1]
    log[before_last + 1000] ^= 4
    put_files(path.parent, {**files, NAMES[1]: bytes(log)})
    assert lost_commits(path)  # also without SQLite
    with pytest.raises(TamperedError, match="log is damaged"):
        open_store(path)
    assert path.with_name(path.name + ".damaged-log-1").read_bytes() == bytes(log)
    with open_store(path) as store:
        assert store.last_row == 2
        assert store.check().ok


def test_a_full_disk_does_not_keep_a_store_with_a_log_from_opening(path: Path) -> None:
    files = killed(path, 1, 1)
    put_files(path.parent, files)
    with Disk(lambda op: sqlite3.SQLITE_FULL if op.kind == "write" else None), open_store(path) as store:
        assert store.last_row == 2


@pytest.mark.parametrize("page_size", [0, 7, 4097, 1 << 31])
def test_a_log_of_other_pages_than_ours_is_damage(path: Path, page_size: int) -> None:
    header = bytearray(struct.pack(">8I", 0x377F0682, 3007000, page_size, 0, 1, 2, 0, 0))
    header[24:] = struct.pack(">2I", *_checksum(bytes(header[:24]), (0, 0), "<"))
    log = path.with_name(path.name + "-wal")
    log.write_bytes(bytes(header) + b"x" * 3 * FRAME)
    assert _lost_a_commit(log, 0)


def test_a_link_to_a_disk_that_is_not_there_is_no_new_store(path: Path) -> None:
    path.symlink_to(path.with_name("unmounted"))
    with pytest.raises(InputError, match="link"):
        open_store(path)
    assert path.is_symlink()
