"""Repairs of what is more than a bad page: a store of schema 1, a log without its file, and cuts and disks in between."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import sqlite3
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import TamperedError
from edge.store.journal import check_chain, read_line
from edge.store.repair import REPAIR_BLOB, open_or_repair
from edge.store.slots import copy_path
from edge.store.store import FOLD_SAMPLES
from tests.edge.store.conftest import HUB, KEY, FixedClock, open_store, reading
from tests.edge.store.test_tamper import sql
from tests.system.faults.disk import Action, Disk, FailFrom, Op
from tests.system.faults.power_cut import get_files, put_files

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "store_v1.json").read_text())
SCHEMA_1 = zlib.decompress(base64.b64decode(VECTOR["sqlite"]))
PAGE = 4096
# Of that file: steps of the schema and their indexes. Pages 3 and 4 are identity and keyring: nothing opens without.
STEPS_PAGES = (1, 2, 12)
NAMES = ("replay.sqlite", "replay.sqlite-wal", "replay.sqlite.keys")


def spoil(path: Path, page: int) -> None:
    path.write_bytes(SCHEMA_1[: page * PAGE] + b"\xa5" * PAGE + SCHEMA_1[(page + 1) * PAGE :])


def opened_schema_1(path: Path, page: int) -> int:
    """A store of schema 1 with this page destroyed, opened as the hub does; how many of its samples are there."""
    spoil(path, page)
    key, hub = bytes.fromhex(VECTOR["key"]), VECTOR["hub_id"]
    store, report = open_or_repair(path, key, hub_id=hub, clock=FixedClock())
    with store:
        assert report is None or report.set_aside
        assert store.check().ok
        assert store.append([reading(10**6)])
        return len(store.read(0, 1000)) - 1


@pytest.mark.parametrize("page", range(1, len(SCHEMA_1) // PAGE))
def test_a_damaged_store_of_schema_1_keeps_what_its_keys_open(path: Path, page: int) -> None:
    kept = opened_schema_1(path, page)
    if page in STEPS_PAGES:
        assert kept == len(VECTOR["samples"])
    elif page not in (3, 4):
        assert kept >= min(FOLD_SAMPLES, len(VECTOR["samples"]) - FOLD_SAMPLES)


def test_a_migration_of_a_damaged_store_does_not_stop_the_hub(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub migrates in a process of its own, whose failure was no damage but an end, at each start."""
    spoil(path, STEPS_PAGES[-1])
    monkeypatch.delitem(sys.modules, "sqlite_utils")
    with pytest.raises(TamperedError, match="cannot be migrated"):
        open_store(path)


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
@pytest.mark.parametrize("copy", [True, False], ids=["with the copy of the keys", "without it"])
def test_a_log_whose_file_is_gone_is_not_deleted(path: Path, left: str, copy: bool) -> None:
    """SQLite would: it takes such a log for one of a file that was never made."""
    with open_store(path) as store:
        store.append([reading(0)])
        store.append([reading(1)])
        files = get_files(path.parent, NAMES)
    put_files(path.parent, files)
    path.unlink()
    if left != "nothing":
        path.touch()
    if not copy:
        copy_path(path).unlink()
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    with store:
        assert report is not None
        assert [s.seq for _, s in store.read(0, 9)] == ([0, 1] if copy else [])
        assert store.append([reading(2)])
    aside = path.with_name(report.set_aside)
    log = aside.with_name(aside.name + "-wal")
    assert aside.stat().st_size if copy else log.read_bytes() == files[NAMES[1]]


def test_a_cut_right_after_a_repair_loses_nothing_of_what_is_told_and_asked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(path) as store:
        store.append(reading(n) for n in range(3 * FOLD_SAMPLES))
        store.note("hub", "test.first")
    sql(path, "UPDATE segments SET sealed = zeroblob(99) WHERE number = 1")

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edge.store.repair.forget_oldest", power_cut)  # the file has its name
        with pytest.raises(KeyboardInterrupt):
            open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    with store:
        assert report is None
        assert store.get_blob(REPAIR_BLOB)
        assert store.refilling == ["cgm"]
        assert store.cursors("cgm") == {}
        lines = store.journal(0, 9)
        check_chain(lines, store.journal_hash)
        assert [read_line(line).what for line in lines] == ["test.first", "store.repaired"]


def test_a_damaged_log_is_kept_where_files_have_one_name_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On FAT."""
    with open_store(path) as store:
        for n in range(3):
            store.append([reading(n)])
        files = get_files(path.parent, NAMES)
    log = bytearray(files[NAMES[1]])
    log[1000] ^= 4
    put_files(path.parent, {**files, NAMES[1]: bytes(log)})
    aside = path.with_name(path.name + ".damaged-log-1")
    aside.write_bytes(b"older")

    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("edge.store.wal.os.link", no_links)
    with pytest.raises(TamperedError, match="log is damaged"):
        open_store(path)
    assert aside.read_bytes() == b"older"
    assert path.with_name(path.name + ".damaged-log-2").read_bytes() == bytes(log)
    open_store(path).close()


def test_a_flipped_bit_in_the_table_of_tables_costs_nothing(path: Path) -> None:
    """SQLite's word for it quotes a name that is no text any more, and Python had another error for that."""
    with open_store(path) as store:
        store.append(reading(n) for n in range(FOLD_SAMPLES + 5))
    whole, copy = path.read_bytes(), copy_path(path).read_bytes()
    words = re.finditer(
        rb"\[?(tail|segments|blobs)|CREATE TABLE|INTEGER PRIMARY KEY|BLOB|sealed", whole[:PAGE]
    )
    places = [word.start() for word in words]
    assert len(places) > 40
    for at in places:
        for file in path.parent.iterdir():
            file.unlink()
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 0x80,)) + whole[at + 1 :])
        copy_path(path).write_bytes(copy)
        with open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())[0] as store:
            assert len(store.read(0, 1000)) == FOLD_SAMPLES + 5
            assert store.check().ok


def test_a_copy_of_the_first_page_that_rotted_is_not_used(path: Path) -> None:
    with open_store(path) as store:
        store.append(reading(n) for n in range(FOLD_SAMPLES + 5))
    copy = copy_path(path).read_bytes()
    at = copy.index(b"CREATE TABLE")
    copy_path(path).write_bytes(copy[:at] + b"\xc3" + copy[at + 1 :])
    sql(path, "UPDATE tail SET sealed = zeroblob(99) WHERE number = ?", values=(FOLD_SAMPLES + 2,))
    with open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())[0] as store:
        assert len(store.read(0, 1000)) == FOLD_SAMPLES + 4


@pytest.fixture
def bad_sector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, int], None]]:
    """``bad_sector(file, n)``: from now on neither SQLite nor we can read the n-th 4 KiB of this very file."""
    bad: dict[int, tuple[Path, int]] = {}
    pread = os.pread

    def hit(inode: int, size: int, offset: int) -> bool:
        return inode in bad and offset < (bad[inode][1] + 1) * PAGE and offset + size > bad[inode][1] * PAGE

    def read(handle: int, size: int, offset: int) -> bytes:
        if hit(os.fstat(handle).st_ino, size, offset):
            raise OSError(errno.EIO, "Input/output error")
        return pread(handle, size, offset)

    def decide(op: Op) -> Action:
        for inode, (file, _) in bad.items():
            if op.kind == "read" and op.name == file.name and file.exists() and file.stat().st_ino == inode:
                return sqlite3.SQLITE_IOERR_CORRUPTFS if hit(inode, op.size, op.offset) else None
        return None

    def spoil_sector(file: Path, number: int) -> None:
        bad[file.stat().st_ino] = (file, number)

    monkeypatch.setattr(os, "pread", read)
    with Disk(decide):
        yield spoil_sector


@pytest.mark.parametrize("sector", range(7))
def test_a_log_with_a_sector_that_cannot_be_read_is_taken_up_to_it(
    path: Path, bad_sector: Callable[[Path, int], None], sector: int
) -> None:
    """SQLite takes nothing of it, and a repair then let it go: all since the last folding was lost, and called nothing."""
    with open_store(path) as store:
        for n in range(7):
            store.append([reading(n)])
        files = get_files(path.parent, NAMES)
    put_files(path.parent, files)
    log = path.with_name(NAMES[1])
    bad_sector(log, sector)
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    with store:
        assert report is not None
        assert "log is damaged" in report.reason
        rows = [s.seq for _, s in store.read(0, 9)]
        # A frame of 4,120 bytes each: the sector is part of two, and its part of the first may hold nothing but zeros.
        assert rows in (list(range(max(0, sector - 1))), list(range(sector)))
        assert store.check().ok
    kept = path.with_name(path.name + ".damaged-log-1").read_bytes()
    before, after = sector * PAGE, (sector + 1) * PAGE
    assert kept == files[NAMES[1]][:before] + bytes(PAGE) + files[NAMES[1]][after:]


def test_a_first_page_that_cannot_be_read_is_repaired_from_its_copy(
    path: Path, bad_sector: Callable[[Path, int], None]
) -> None:
    """It was the one page whose loss stopped the hub at each start."""
    with open_store(path) as store:
        store.append(reading(n) for n in range(FOLD_SAMPLES + 5))
    bad_sector(path, 0)
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    with store:
        assert report is not None
        assert report.rows_lost == 0
        assert len(store.read(0, 1000)) == FOLD_SAMPLES + 5


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_disk_that_fails_once_amid_a_repair_does_not_cost_the_record(path: Path, kind: str) -> None:
    """It was taken for a file of which nothing can be carried over."""
    with open_store(path) as store:
        store.append(reading(n) for n in range(FOLD_SAMPLES + 5))
    sql(path, "UPDATE segments SET sealed = zeroblob(99) WHERE number = 1")
    fails = FailFrom(lambda op: op.kind == kind and ".repaired" in op.name, 3, sqlite3.SQLITE_IOERR_WRITE)
    with Disk(fails):
        store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
        with store:
            assert fails.seen > 4
            assert report is not None
            assert report.rows_lost == FOLD_SAMPLES
            assert len(store.read(0, 1000)) == 5
