"""An older copy of the wrapped keys lets no retired key in, and still mends keys that are really damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import HometwinError, WrongKeyError
from edge.store import store as store_module
from edge.store.head import HEAD_ROW
from edge.store.repair import open_or_repair
from edge.store.slots import copy_path
from tests.edge.store.conftest import HUB, KEY, FixedClock, open_store, reading
from tests.edge.store.test_tamper import cells, flip, sql

NEW, OTHER = b"n" * 32, b"o" * 32
ROWS = 300


@pytest.fixture
def old_copy(path: Path) -> bytes:
    """A closed store whose key was changed from KEY to NEW; the copy of its wrapped keys from before."""
    with open_store(path) as store:
        store.append(reading(n) for n in range(ROWS))
        before = copy_path(path).read_bytes()
        store.keys.add(NEW)
        store.keys.retire(NEW)
    return before


def rows_opened_by(path: Path, key: bytes) -> int:
    store, _ = open_or_repair(path, key, hub_id=HUB, clock=FixedClock())
    with store:
        assert store.check().ok
        return len(store.read(0, 10_000))


def refused_and_untouched(path: Path, key: bytes) -> None:
    before = {p.name: p.read_bytes() for p in path.parent.iterdir() if p.suffix != ".lock"}
    with pytest.raises(WrongKeyError):
        open_or_repair(path, key, hub_id=HUB, clock=FixedClock())
    assert {p.name: p.read_bytes() for p in path.parent.iterdir() if p.suffix != ".lock"} == before


def test_a_retired_key_and_an_old_copy_do_not_take_over_a_sound_store(path: Path, old_copy: bytes) -> None:
    copy_path(path).write_bytes(old_copy)
    refused_and_untouched(path, KEY)
    assert rows_opened_by(path, NEW) == ROWS
    assert copy_path(path).read_bytes() != old_copy


def test_nor_one_whose_first_page_or_head_is_damaged(path: Path, old_copy: bytes) -> None:
    copy_path(path).write_bytes(old_copy)
    whole = path.read_bytes()
    path.write_bytes(b"x" * 100 + whole[100:])
    refused_and_untouched(path, KEY)
    path.write_bytes(whole)
    sql(path, f"UPDATE tail SET sealed = zeroblob(99) WHERE number = {HEAD_ROW}")
    refused_and_untouched(path, KEY)
    assert rows_opened_by(path, NEW) == ROWS


def test_nor_one_whose_data_key_was_changed_since(path: Path, old_copy: bytes) -> None:
    with open_store(path, NEW) as store:
        store.keys.rotate_data()
        while store.keys.reseal():
            pass
    copy_path(path).write_bytes(old_copy)
    refused_and_untouched(path, KEY)
    assert rows_opened_by(path, NEW) == ROWS


def test_nor_one_whose_own_keys_are_damaged_as_well(path: Path, old_copy: bytes) -> None:
    """Nobody can open it then; a newer copy can be put back."""
    newest = copy_path(path).read_bytes()
    copy_path(path).write_bytes(old_copy)
    sql(path, "UPDATE keyring SET sealed = randomblob(61)")
    refused_and_untouched(path, KEY)
    with pytest.raises(HometwinError):
        open_or_repair(path, NEW, hub_id=HUB, clock=FixedClock())
    copy_path(path).write_bytes(newest)
    assert rows_opened_by(path, NEW) == ROWS


def test_retired_keys_put_back_into_the_file_itself_are_refused_by_the_copy(path: Path) -> None:
    with open_store(path) as store:
        store.append(reading(n) for n in range(ROWS))
    slots, keyring = sql(path, "SELECT * FROM slots"), sql(path, "SELECT * FROM keyring")
    with open_store(path) as store:
        store.keys.add(NEW)
        store.keys.retire(NEW)
    sql(path, "DELETE FROM slots")
    sql(path, "DELETE FROM keyring")
    sql(path, "INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?)", values=slots[0])
    sql(path, "INSERT INTO keyring VALUES (?, ?)", values=keyring[0])
    refused_and_untouched(path, KEY)
    assert rows_opened_by(path, NEW) == ROWS


@pytest.mark.parametrize("change", ["add", "retire"])
def test_an_older_copy_still_mends_damaged_keys_for_one_that_was_never_shut_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The copy of the last change could not be written, and then the store's own keys rot."""
    with open_store(path) as store:
        store.append(reading(n) for n in range(ROWS))
        if change == "retire":
            store.keys.add(OTHER)
        monkeypatch.setattr(store_module, "save_copy", lambda *_: False)
        if change == "add":
            store.keys.add(OTHER)
        else:
            store.keys.retire(KEY)
    monkeypatch.undo()
    sql(path, "UPDATE keyring SET sealed = randomblob(61)")
    refused_and_untouched(path, OTHER)
    assert rows_opened_by(path, KEY) == ROWS
    refused_and_untouched(path, OTHER)


def test_a_damaged_wrap_and_check_value_come_back_from_the_copy(path: Path) -> None:
    """Then the file itself takes the right key for a wrong one."""
    with open_store(path) as store:
        store.append(reading(n) for n in range(ROWS))
    for table in ("slots", "keyring"):
        for _, column, content in cells(path, table):
            sql(path, f"UPDATE {table} SET {column} = ?", values=(flip(content, 5),))
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    with store:
        assert len(store.read(0, 10_000)) == ROWS
    assert report is not None
    assert "wrapped keys are damaged" in report.reason
