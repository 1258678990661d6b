"""A log or journal of another store, or of another state of this one, changes nothing in the file it lies beside."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import StoreError, TamperedError, WrongKeyError
from edge.store.repair import open_or_repair
from edge.store.store import Store, audit
from tests.edge.store.conftest import HUB, KEY, FixedClock, open_store, reading
from tests.system.faults.power_cut import get_files, put_files

NAMES = ("replay.sqlite", "replay.sqlite-wal")
OTHER_KEY = bytes(range(1, 33))


def append(store: Store, count: int) -> None:
    first = store.last_row
    store.append(reading(n) for n in range(first, first + count))


def killed(path: Path, count: int = 3, key: bytes = KEY, hub_id: str = HUB) -> dict[str, bytes]:
    """File and log as a killed process leaves them."""
    with open_store(path, key, hub_id) as store:
        for _ in range(count):
            append(store, 1)
        return get_files(path.parent, NAMES)


def another(path: Path, key: bytes = KEY) -> bytes:
    """A log of a store that was made elsewhere."""
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    return killed(elsewhere / path.name, 300, key)[NAMES[1]]


def with_identity_of_another(path: Path) -> bytes:
    """A log that says it is another store's, in the tables that say so."""
    copy = path.parent / "elsewhere" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    db = sqlite3.connect(copy)
    db.execute("UPDATE identity SET store_id = randomblob(16)")
    db.execute("UPDATE slots SET check_value = randomblob(length(check_value))")
    db.commit()
    log = copy.with_name(copy.name + "-wal").read_bytes()
    db.close()
    return log


def of_a_later_state(path: Path) -> bytes:
    """A log that goes with a file that has gone on meanwhile."""
    copy = path.parent / "elsewhere" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    with open_store(copy) as store:
        for _ in range(4):
            append(store, 512)
    return killed(copy)[NAMES[1]]


@pytest.mark.parametrize(
    "foreign", [another, lambda p: another(p, OTHER_KEY), with_identity_of_another, of_a_later_state]
)
def test_a_log_that_is_not_this_stores_is_set_aside_and_changes_nothing(
    path: Path, foreign: Callable[[Path], bytes]
) -> None:
    with open_store(path) as store:
        append(store, 700)
    before, log = path.read_bytes(), foreign(path)
    path.with_name(NAMES[1]).write_bytes(log)
    with pytest.raises(TamperedError, match="not of this store") as caught:
        open_store(path)
    assert "set aside" in caught.value.mend
    assert path.read_bytes() == before
    assert path.with_name(path.name + ".damaged-log-1").read_bytes() == log
    with open_store(path) as store:
        assert store.last_row == 700
        assert store.check().ok


def test_the_hub_goes_on_and_tells(path: Path) -> None:
    with open_store(path) as store:
        append(store, 700)
    path.with_name(NAMES[1]).write_bytes(another(path))
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    with store:
        assert report is not None
        assert "not of this store" in report.reason
        # It may be this store's, copied at another moment: nobody knows what it held.
        assert (report.rows_lost, report.first_lost_row) == (None, 701)
        assert (report.damaged, report.distrusted) == ({}, {})
        assert report.set_aside == path.name + ".damaged-log-1"
        assert [s.seq for _, s in store.read(0, 1000)] == list(range(700))
        assert "store.repaired" in store.journal(0, 9)[-1]


def test_an_audit_leaves_a_log_that_is_not_this_stores_unmerged(path: Path) -> None:
    with open_store(path) as store:
        append(store, 700)
    before = path.read_bytes()
    path.with_name(NAMES[1]).write_bytes(another(path))
    assert not audit(path, KEY, hub_id=HUB).ok
    assert path.read_bytes() == before


def test_a_wrong_key_folds_no_log_in(path: Path) -> None:
    files = killed(path)
    put_files(path.parent, files)
    for key, hub_id in ((OTHER_KEY, HUB), (KEY, "hub-2")):
        with pytest.raises(WrongKeyError):
            open_store(path, key, hub_id)
        assert get_files(path.parent, NAMES) == files
    with open_store(path) as store:
        assert store.last_row == 3


def test_a_key_that_was_retired_in_the_log_opens_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[str, bytes]] = []
    change = Store._change

    def remembered(self: Store, *args: Any) -> None:
        change(self, *args)
        states.append(get_files(path.parent, NAMES))

    with open_store(path) as store:
        store.keys.add(OTHER_KEY)
        append(store, 2)
        monkeypatch.setattr(Store, "_change", remembered)
        store.keys.retire(OTHER_KEY)
    monkeypatch.undo()
    put_files(path.parent, states[0])
    assert states[0][NAMES[1]]  # the cut came before the log was folded in
    with pytest.raises(WrongKeyError):
        open_store(path)
    assert get_files(path.parent, NAMES) == states[0]
    with open_store(path, OTHER_KEY) as store:
        assert store.last_row == 2
        assert store.check().ok


def test_a_file_with_a_bad_page_keeps_the_rest_from_a_log_of_another_store(path: Path) -> None:
    with open_store(path) as store:
        append(store, 700)
        store.put_blob("x", bytes(20_000))
    log = another(path)
    data = bytearray(path.read_bytes())
    data[-3000] ^= 1  # in the blob, which came last
    path.write_bytes(data)
    path.with_name(NAMES[1]).write_bytes(log)
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    with store:
        assert report is not None
        assert store.last_row == 700
        assert (report.rows_lost, report.first_lost_row) == (None, 701)


def test_a_planted_journal_is_not_played_back(path: Path) -> None:
    with open_store(path) as store:
        append(store, 700)
    before = path.read_bytes()
    # SQLite file format 3: the page of a journal's record is put back in its place; here page 2, as zeros.
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">5I", 1, 7, len(before) // 4096, 512, 4096)
    journal = header.ljust(512, b"\0") + struct.pack(">I", 2) + bytes(4096) + struct.pack(">I", 7)
    path.with_name(path.name + "-journal").write_bytes(journal)
    with pytest.raises(TamperedError, match="journal"):
        open_store(path)
    assert path.read_bytes() == before
    assert path.with_name(path.name + ".damaged-journal-1").read_bytes() == journal
    with open_store(path) as store:
        assert store.last_row == 700


def test_closing_saves_what_a_deleted_log_held(path: Path) -> None:
    store = open_store(path)
    append(store, 5)
    path.with_name(NAMES[1]).unlink()
    with pytest.raises(StoreError, match="deleted"):
        append(store, 1)
    store.close()
    with open_store(path) as again:
        assert again.last_row == 5
        assert again.check().ok


def test_closing_leaves_alone_what_was_put_in_the_stores_place(path: Path) -> None:
    """An image of the card is put back while the hub runs: its log is not the running store's to delete."""
    image = killed(path)
    store = open_store(path)
    append(store, 5)
    moved = path.parent.with_name(path.parent.name + "-moved")
    path.parent.rename(moved)
    try:
        path.parent.mkdir()
        put_files(path.parent, image)
        with pytest.raises(StoreError, match="replaced"):
            append(store, 1)
        store.close()
        assert get_files(path.parent, NAMES) == image
        with open_store(path) as restored:
            assert restored.last_row == 3
        with open_store(moved / path.name) as old:
            assert old.last_row == 8
    finally:
        shutil.rmtree(moved)
