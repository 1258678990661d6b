"""Whoever holds the file but not the key can destroy it, but not change it unnoticed."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import StoreError, TamperedError
from core.messages import Sample
from edge.store.head import HEAD_ROW
from edge.store.store import FOLD_SAMPLES, Store, audit
from tests.edge.store.conftest import HUB, KEY, open_store, reading

Opened = Callable[..., Store]
SEGMENTS = 3
TABLES = ("identity", "slots", "keyring", "tail", "segments", "outbox", "blobs", "journal")
KEY_COLUMN = {"blobs": "name_hash", "identity": "id"}
COLUMNS = {"identity": ["store_id"], "slots": ["check_value", "hub_check"]}


@pytest.fixture
def full(path: Path) -> Path:
    """A closed store with several records in every table."""
    with open_store(path) as store:
        store.append(reading(n) for n in range(SEGMENTS * FOLD_SAMPLES + 20))
        for n in range(5):
            store.enqueue(b"message %d" % n, sample_row=10 * n)
        store.done([1])
        store.put_blob("engine", b"first")
        store.put_blob("bonds", b"second")
        store.next_number("alarm")
        store.note("hub", "test.first")
        store.note("hub", "test.second")
    return path


def sql(path: Path, *statements: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    db = sqlite3.connect(path)
    rows: list[tuple[object, ...]] = []
    for statement in statements:
        rows = db.execute(statement, values).fetchall()
    db.commit()
    db.close()
    return rows


def refused(path: Path) -> TamperedError:
    """Opening must fail, an audit must say why, and neither may change the file's meaning."""
    with pytest.raises(TamperedError) as caught:
        open_store(path).close()
    report = audit(path, KEY, hub_id=HUB)
    assert not report.ok
    assert sum(report.bad.values()) >= 1
    return caught.value


def flip(data: bytes, at: int, bit: int = 1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= bit
    return bytes(changed)


def cells(path: Path, table: str) -> list[tuple[object, str, bytes]]:
    """Every blob cell of a table: key, column, content."""
    key = KEY_COLUMN.get(table, "number")
    columns = COLUMNS.get(table, ["sealed"])
    found = []
    for column in columns:
        for number, content in sql(path, f"SELECT {key}, {column} FROM {table}"):
            assert isinstance(content, bytes)
            found.append((number, column, content))
    return found


@pytest.mark.parametrize("table", TABLES)
def test_a_flipped_bit_anywhere_in_any_table_is_refused(full: Path, table: str) -> None:
    rng = random.Random(1)
    key = KEY_COLUMN.get(table, "number")
    found = cells(full, table)
    for number, column, content in rng.sample(found, min(4, len(found))):
        for at in (0, 1, 5, len(content) // 2, len(content) - 1):
            update = f"UPDATE {table} SET {column} = ? WHERE {key} = ?"
            sql(full, update, values=(flip(content, at, 1 << rng.randrange(8)), number))
            refused(full)
            sql(full, update, values=(content, number))
    open_store(full).close()


def test_the_report_names_table_and_row(full: Path) -> None:
    [(first, _, content), *_] = cells(full, "segments")
    sql(full, "UPDATE segments SET sealed = ? WHERE number = ?", values=(flip(content, 40), first))
    assert refused(full).where == f"segments {first}"
    report = audit(full, KEY, hub_id=HUB)
    assert report.bad["segments"] >= 1
    assert "tail" not in report.records or report.records["tail"] == 20
    assert report.first_bad is not None
    assert report.first_bad.startswith(f"segments {first}: ")


@pytest.mark.parametrize(
    ("table", "content"), [(t, c) for t in TABLES for c in ("''", "x'00'", "7", "'text'", "x'1101'")]
)
def test_cells_of_other_type_or_size_are_refused(full: Path, table: str, content: str) -> None:
    column = COLUMNS.get(table, ["sealed"])[0]
    sql(full, f"UPDATE {table} SET {column} = {content}")
    refused(full)


@pytest.mark.parametrize("table", ["tail", "segments", "outbox", "blobs", "journal"])
def test_two_swapped_records_are_refused(full: Path, table: str) -> None:
    key = KEY_COLUMN.get(table, "number")
    [(a, _, at_a), (b, _, at_b), *_] = cells(full, table)
    sql(full, f"UPDATE {table} SET sealed = ? WHERE {key} = ?", values=(at_b, a))
    sql(full, f"UPDATE {table} SET sealed = ? WHERE {key} = ?", values=(at_a, b))
    refused(full)


@pytest.mark.parametrize("table", TABLES)
def test_a_dropped_record_is_refused(full: Path, table: str) -> None:
    key = KEY_COLUMN.get(table, "number")
    for (number,) in sql(full, f"SELECT {key} FROM {table}"):
        if number == HEAD_ROW:
            continue
        copy = full.with_name("copy.sqlite")
        shutil.copy(full, copy)
        sql(copy, f"DELETE FROM {table} WHERE {key} = ?", values=(number,))
        refused(copy)


@pytest.mark.parametrize("table", ["tail", "segments", "outbox", "blobs", "keyring", "slots", "journal"])
def test_an_emptied_table_is_refused(full: Path, table: str) -> None:
    sql(full, f"DELETE FROM {table} WHERE rowid < {HEAD_ROW}")
    refused(full)


def test_a_missing_head_is_refused(full: Path) -> None:
    sql(full, f"DELETE FROM tail WHERE number = {HEAD_ROW}")
    refused(full)


def test_a_doubled_record_is_refused(full: Path) -> None:
    sql(full, "INSERT INTO outbox SELECT number + 100, sealed FROM outbox")
    refused(full)


def test_a_record_of_another_store_with_the_same_key_is_refused(full: Path, folder: Path) -> None:
    other = folder / "other.sqlite"
    with open_store(other) as store:
        store.append(reading(n) for n in range(SEGMENTS * FOLD_SAMPLES + 20))
    [(_, _, content), *_] = cells(other, "segments")
    sql(full, "UPDATE segments SET sealed = ? WHERE number = 1", values=(content,))
    refused(full)


@pytest.mark.parametrize("table", ["tail", "segments", "outbox", "blobs"])
def test_a_table_put_back_to_an_older_state_is_refused(full: Path, table: str) -> None:
    old = full.with_name("old.sqlite")
    shutil.copy(full, old)
    with open_store(full) as store:
        store.append(reading(n) for n in range(10_000, 10_000 + FOLD_SAMPLES))
        store.enqueue(b"newer")
        store.put_blob("engine", b"newer")
    keep = f"WHERE rowid < {HEAD_ROW}"
    sql(full, f"DELETE FROM {table} {keep}")
    db = sqlite3.connect(full)
    db.execute("ATTACH ? AS old", (str(old),))
    db.execute(f"INSERT INTO {table} SELECT * FROM old.{table} {keep}")
    db.commit()
    db.close()
    refused(full)


def test_one_blob_put_back_to_its_older_version_is_refused(full: Path) -> None:
    old = {number: content for number, _, content in cells(full, "blobs")}
    with open_store(full) as store:
        store.put_blob("engine", b"newer")
    for number, _, content in cells(full, "blobs"):
        if old[number] != content:
            sql(full, "UPDATE blobs SET sealed = ? WHERE name_hash = ?", values=(old[number], number))
    refused(full)


def test_a_message_that_was_done_cannot_come_back(full: Path) -> None:
    [(number, _, content), *_] = cells(full, "outbox")
    with open_store(full) as store:
        store.done([number])  # type: ignore[list-item]
    sql(full, "INSERT INTO outbox VALUES (?, ?)", values=(number, content))
    refused(full)


def test_an_older_head_is_refused(full: Path) -> None:
    [(old,)] = sql(full, f"SELECT sealed FROM tail WHERE number = {HEAD_ROW}")
    with open_store(full) as store:
        store.append([reading(9999)])
    sql(full, f"UPDATE tail SET sealed = ? WHERE number = {HEAD_ROW}", values=(old,))
    refused(full)


def test_a_segment_of_an_alternative_history_is_refused(full: Path) -> None:
    """Both histories are ours, made from one copy with the right key; they may not be mixed."""
    other = full.with_name("other.sqlite")
    shutil.copy(full, other)
    for path, first in ((full, 50_000), (other, 60_000)):
        with open_store(path) as store:
            store.append(reading(n) for n in range(first, first + FOLD_SAMPLES))
    row = SEGMENTS * FOLD_SAMPLES + 1
    [(content,)] = sql(other, f"SELECT sealed FROM segments WHERE number = {row}")
    sql(full, "UPDATE segments SET sealed = ? WHERE number = ?", values=(content, row))
    assert "put back" in str(refused(full))


def test_the_whole_store_put_back_is_seen_by_its_generation_only(full: Path) -> None:
    """The documented limit: nothing in the file can tell; what was remembered elsewhere can."""
    old = full.with_name("old.sqlite")
    shutil.copy(full, old)
    with open_store(full) as store:
        store.append([reading(9999)])
        remembered = store.generation
    with open_store(old) as store:
        assert store.check().ok
        assert store.generation < remembered


@pytest.mark.parametrize(
    "planted",
    [
        "CREATE TRIGGER t AFTER INSERT ON tail BEGIN DELETE FROM outbox; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE extra (a)",
        "CREATE INDEX i ON tail (sealed)",
        "DROP TABLE outbox",
        "ALTER TABLE outbox RENAME COLUMN sealed TO seal",
    ],
)
def test_a_changed_schema_is_refused(full: Path, planted: str) -> None:
    sql(full, planted)
    refused(full)


def test_a_flip_in_any_page_of_the_file_gives_the_same_content_or_an_error(full: Path) -> None:
    """Bytes outside records (free space, SQLite's own structure) may be unused; wrong content never comes."""
    rng = random.Random(7)
    with open_store(full) as store:
        store.append(
            reading(n, source="noisy", value=rng.random(), time_us=rng.randrange(10**15)) for n in range(1000)
        )
        wanted = everything(store)
    whole = full.read_bytes()
    page = 4096
    outcomes = {"same": 0, "refused": 0}
    for start in range(0, len(whole), page):
        for at in (start + rng.randrange(100), start + rng.randrange(page), start + page - 1):
            full.write_bytes(flip(whole, at, 1 << rng.randrange(8)))
            try:
                with open_store(full) as store:
                    assert everything(store) == wanted
                outcomes["same"] += 1
            except StoreError:
                outcomes["refused"] += 1
    print(outcomes)
    assert outcomes["refused"] > len(whole) // page  # at least one of the three in most pages
    full.write_bytes(whole)
    open_store(full).close()


def everything(store: Store) -> tuple[list[tuple[int, Sample]], list[tuple[int, bytes]], bytes | None, int]:
    return store.read(0, 10_000), store.pending(100), store.get_blob("engine"), store.sample_pointer


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(full: Path, share: float) -> None:
    data = full.read_bytes()
    full.write_bytes(data[: int(len(data) * share)])
    refused(full)


def test_a_write_ahead_log_without_its_store_is_refused(full: Path) -> None:
    full.rename(full.with_name("gone"))
    full.with_name(full.name + "-wal").write_bytes(b"x" * 5000)
    with pytest.raises(TamperedError, match="without its store"):
        open_store(full)
    assert not full.exists()


def test_reading_authenticates_again_what_changed_under_an_open_store(path: Path, opened: Opened) -> None:
    store = opened(path)
    store.append(reading(n) for n in range(FOLD_SAMPLES))
    store.put_blob("engine", b"old")
    [(old,)] = store._db.execute("SELECT sealed FROM blobs").fetchall()
    store.put_blob("engine", b"new")
    store.enqueue(b"message")
    store._db.execute("UPDATE segments SET sealed = substr(sealed, 1, 60) || x'00ff' || substr(sealed, 62)")
    store._db.execute("UPDATE blobs SET sealed = ?", (old,))
    store._db.execute("UPDATE outbox SET sealed = zeroblob(60)")
    with pytest.raises(TamperedError):
        store.read(0, 1)
    with pytest.raises(TamperedError, match="older"):
        store.get_blob("engine")
    with pytest.raises(TamperedError):
        store.pending(1)
    report = store.check()
    assert set(report.bad) == {"segments", "outbox", "blobs"}


def test_a_sample_is_not_stored_where_a_foreign_record_lies(path: Path, opened: Opened) -> None:
    store = opened(path)
    store.append([reading(1)])
    store._db.execute("INSERT INTO tail VALUES (2, x'00')")
    before = store.generation
    with pytest.raises(TamperedError):
        store.append([reading(2)])
    assert (store.last_row, store.generation) == (1, before)
    store._db.execute("DELETE FROM tail WHERE number = 2")
    store.append([reading(3)])  # not in doubt: the disk holds what it held before
    assert [s.seq for _, s in store.read(0, 9)] == [1, 3]
    assert store.check().ok
