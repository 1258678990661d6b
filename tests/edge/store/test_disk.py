"""The disk under a running store: deleted, replaced, moved, or full. Nothing is acknowledged that is not there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import StoreError
from edge.store import watch
from edge.store.database import reported
from edge.store.store import Store
from tests.edge.store.conftest import open_store, reading
from tests.system.faults.disk import FULL, IOERR_FSYNC, Disk

Opened = Callable[..., Store]
FILES = ("replay.sqlite", "replay.sqlite-wal")

WRITES: dict[str, Callable[[Store], object]] = {
    "append": lambda store: store.append([reading(2)]),
    "enqueue": lambda store: store.enqueue(b"message"),
    "put_blob": lambda store: store.put_blob("bonds", b"keys"),
    "next_number": lambda store: store.next_number("alarm"),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("name", FILES)
def test_a_deleted_file_is_noticed_by_the_next_write(
    path: Path, opened: Opened, name: str, write: str
) -> None:
    store = opened(path)
    store.append([reading(1)])
    path.with_name(name).unlink()
    with pytest.raises(StoreError, match="deleted or replaced") as caught:
        WRITES[write](store)
    assert caught.value.mend
    assert (store.last_row, store.pending_count(), store.get_blob("bonds")) == (1, 0, None)


def test_a_message_is_not_forgotten_in_a_deleted_file(path: Path, opened: Opened) -> None:
    store = opened(path)
    number = store.enqueue(b"message")
    path.unlink()
    with pytest.raises(StoreError, match="deleted or replaced"):
        store.done([number])
    assert store.pending_count() == 1


@pytest.mark.parametrize("name", FILES)
def test_a_replaced_file_is_noticed_by_the_next_write(path: Path, opened: Opened, name: str) -> None:
    store = opened(path)
    store.append([reading(1)])
    there, copy = path.with_name(name), path.with_name("copy")
    shutil.copy(there, copy)
    copy.rename(there)
    with pytest.raises(StoreError, match="deleted or replaced"):
        store.append([reading(2)])


def test_a_store_put_back_in_its_place_goes_on(path: Path, opened: Opened) -> None:
    store = opened(path)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StoreError, match="deleted or replaced"):
        store.append([reading(1)])
    path.with_name("elsewhere").rename(path)
    assert store.append([reading(1)])
    store.close()
    assert opened(path).last_row == 1


@pytest.mark.parametrize("told", [True, False])
def test_a_folder_that_is_moved_is_noticed_also_where_the_kernel_tells_nothing(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    if not told:
        monkeypatch.setattr(watch, "_watching", lambda folder: None)
    (tmp_path / "folder").mkdir()
    store = opened(tmp_path / "folder" / "replay.sqlite")
    store.append([reading(1)])
    (tmp_path / "other").write_bytes(b"a name that comes and is none of ours")
    assert store.append([reading(2)])
    (tmp_path / "folder").rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="deleted or replaced"):
        store.append([reading(3)])
    (tmp_path / "moved").rename(tmp_path / "folder")
    assert store.append([reading(3)])


def test_what_the_kernel_does_not_tell_is_noticed_when_trust_has_ended(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "upper" / "folder").mkdir(parents=True)
    store = opened(tmp_path / "upper" / "folder" / "replay.sqlite")
    store.append([reading(1)])
    (tmp_path / "upper").rename(tmp_path / "elsewhere")
    later_ns = time.monotonic_ns() + 2_000_000_000
    monkeypatch.setattr("edge.store.watch.time.monotonic_ns", lambda: later_ns)
    with pytest.raises(StoreError, match="deleted or replaced"):
        store.append([reading(2)])


def test_a_file_deleted_during_the_write_is_not_acknowledged(
    path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(path)
    check, calls = store._files.check, []

    def deleted_between() -> None:
        calls.append(1)
        if len(calls) == 2:
            path.unlink()
        check()

    monkeypatch.setattr(store._files, "check", deleted_between)
    with pytest.raises(StoreError, match="deleted or replaced"):
        store.append([reading(1)])
    with pytest.raises(StoreError):
        store.append([reading(1)])
    assert store.last_row == 0


def test_a_full_disk_that_shows_only_at_the_flush_is_called_so(
    path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((4096, 4096, 100, 0, 0, 9, 9, 9, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC  # type: ignore[misc]
    with pytest.raises(StoreError, match="no space left") as caught, reported(path):
        raise error
    assert caught.value.mend


@pytest.mark.parametrize(("kind", "code"), [("write", FULL), ("sync", IOERR_FSYNC)])
def test_a_store_closed_after_a_write_that_failed_opens_again_in_the_same_process(
    path: Path, kind: str, code: int
) -> None:
    failing = False
    with Disk(lambda op: code if failing and op.kind == kind else None):
        store = open_store(path)
        store.append([reading(1)])
        failing = True
        with pytest.raises(StoreError):
            store.append([reading(2)])
        failing = False
        store.close()
        with open_store(path) as again:  # while the closed one still lives, as in the hub
            assert again.append([reading(2)])
            assert [s.seq for _, s in again.read(0, 9)] == [1, 2]


def test_a_full_disk_refuses_every_write_and_the_store_goes_on_when_there_is_space(tmp_path: Path) -> None:
    """On a small file system of its own, in a process that may mount one."""
    mount = f"mount -t tmpfs -o size=3m,mode=700 none '{tmp_path}' && exec"
    command = f"{mount} '{sys.executable}' -m tests.edge.store.filler '{tmp_path}'"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"this machine lets nobody mount: {done.stderr.strip()[:80]}")
    assert done.returncode == 0, done.stderr
    said = [line[3:] for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert said == ["append", "enqueue", "put_blob", "next_number", "opened", "done", "thinned"]
