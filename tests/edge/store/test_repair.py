"""A damaged or tampered store is repaired at opening: what is good stays, what is bad is never used, and it is said."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from core.errors import InputError, StoreBusyError, StoreError, WrongKeyError
from core.messages import Sample
from core.units import US_PER_DAY, US_PER_H
from edge.store.database import make_database
from edge.store.head import HEAD_ROW
from edge.store.journal import check_chain, read_line
from edge.store.repair import KEPT_ASIDE, RepairReport, open_or_repair
from edge.store.slots import copy_path
from edge.store.store import BATCH_SAMPLES, FOLD_SAMPLES, Store
from edge.store.thinning import SPARE_SUFFIX
from tests.edge.store.conftest import HUB, KEY, START_US, FixedClock, append_in_folds, open_store, reading
from tests.edge.store.test_tamper import cells, flip, sql

SEGMENTS = 5
ROWS = SEGMENTS * FOLD_SAMPLES + 20


@pytest.fixture
def full(path: Path) -> Path:
    """A closed store with several records in every table."""
    with open_store(path) as store:
        for at in range(0, ROWS, 64):
            store.append(reading(n) for n in range(at, min(at + 64, ROWS)))
        for n in range(5):
            store.enqueue(b"message %d" % n, sample_row=ROWS - 800 + 200 * n)
        store.put_blob("engine", b"first")
        store.put_blob("bonds", b"second")
        store.note("hub", "test.first")
        store.note("hub", "test.second")
    return path


def repaired(path: Path, clock: FixedClock | None = None) -> tuple[Store, RepairReport]:
    with structlog.testing.capture_logs() as logs:
        store, report = open_or_repair(path, KEY, hub_id=HUB, clock=clock or FixedClock())
    assert report is not None
    assert {"store.damaged", "store.repaired"} <= {entry["event"] for entry in logs}
    assert store.check().ok
    assert (path.parent / report.set_aside).exists()
    lines = store.journal(0, 1000)
    check_chain(lines, store.journal_hash)
    assert read_line(lines[-1]).what == "store.repaired"
    return store, report


def rows_of(store: Store) -> dict[int, int]:
    return {row: sample.seq for row, sample in store.read(0, 100_000)}


def every_row() -> dict[int, int]:
    return {n + 1: n for n in range(ROWS)}


def without(first: int, last: int) -> dict[int, int]:
    return {row: seq for row, seq in every_row().items() if not first <= row <= last}


def test_a_good_store_is_not_touched(full: Path) -> None:
    before = full.read_bytes()
    store, report = open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
    store.close()
    assert report is None
    assert full.read_bytes() == before


@pytest.mark.parametrize("place", range(SEGMENTS))
def test_one_damaged_segment_costs_its_own_rows_only(full: Path, place: int) -> None:
    first = place * FOLD_SAMPLES + 1
    [content] = [c for n, _, c in cells(full, "segments") if n == first]
    sql(full, "UPDATE segments SET sealed = ? WHERE number = ?", values=(flip(content, 50), first))
    store, report = repaired(full)
    assert rows_of(store) == without(first, first + FOLD_SAMPLES - 1)
    assert (report.rows_lost, report.first_lost_row, report.tampered) == (FOLD_SAMPLES, first, False)
    assert report.damaged == {"segments": 1}
    assert store.missing_rows() == [(first, first + FOLD_SAMPLES - 1)]
    assert store.pending_count() == 5
    assert store.get_blob("engine") == b"first"
    # It goes on: rows rise, folds go over the gap, another opening finds nothing wrong.
    store.append(reading(n) for n in range(10_000, 10_000 + FOLD_SAMPLES))
    assert store.last_row == ROWS + FOLD_SAMPLES
    store.close()
    assert open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())[1] is None
    set_aside = sql(full.parent / report.set_aside, f"SELECT sealed FROM segments WHERE number = {first}")
    assert set_aside == [(flip(content, 50),)]  # kept sealed, as it was found


def test_sensors_are_asked_again_from_before_the_gap_until_they_have_passed_it(full: Path) -> None:
    first = 2 * FOLD_SAMPLES + 1
    sql(full, f"UPDATE segments SET sealed = zeroblob(99) WHERE number = {first}")
    store, _ = repaired(full)
    assert store.cursors("cgm") == {"cgm_mgdl": first - 2}
    store.close()
    store = open_store(full)  # remembered
    assert store.cursors("cgm") == {"cgm_mgdl": first - 2}
    assert store.refilling == ["cgm"]
    store.append(reading(n) for n in range(first - 1, first + 99))  # the sensor tells its history, upwards
    assert store.cursors("cgm") == {"cgm_mgdl": first - 2}
    store.append([reading(5000)])  # a live value comes in between
    assert store.cursors("cgm") == {"cgm_mgdl": first - 2}
    store.append(reading(n) for n in range(first + 99, ROWS))
    assert store.cursors("cgm") == {"cgm_mgdl": 5000}
    assert sorted(rows_of(store).values()) == [*range(ROWS), 5000]
    store.close()
    with open_store(full) as store:
        assert store.refilling == []


def test_a_sensor_that_never_answers_is_not_asked_for_ever(full: Path) -> None:
    sql(full, f"UPDATE segments SET sealed = zeroblob(99) WHERE number = {FOLD_SAMPLES + 1}")
    clock = FixedClock()
    store, _ = repaired(full, clock)
    for _ in range(29 * 4):
        clock.us += 6 * US_PER_H
        assert store.cursors("cgm") != {"cgm_mgdl": ROWS - 1}
    store.close()
    store = Store.open(full, KEY, hub_id=HUB, clock=clock)  # what was waited is remembered
    assert store.refilling == ["cgm"]
    for _ in range(2 * 4):
        clock.us += 6 * US_PER_H
        store.cursors("cgm")
    assert store.cursors("cgm") == {"cgm_mgdl": ROWS - 1}
    assert store.refilling == []
    store.close()


@pytest.mark.parametrize("later_us", [-START_US, -400 * US_PER_DAY, 400 * US_PER_DAY])
def test_a_clock_that_is_set_does_not_end_the_asking(full: Path, later_us: int) -> None:
    first = 2 * FOLD_SAMPLES + 1
    sql(full, f"UPDATE segments SET sealed = zeroblob(99) WHERE number = {first}")
    clock = FixedClock(START_US + later_us)
    store, _ = repaired(full, clock)
    for _ in range(3):  # restarts with a clock that begins wrong each time
        for clock.us in (START_US + US_PER_H, START_US + later_us):
            assert store.cursors("cgm") == {"cgm_mgdl": first - 2}
            store.close()
            store = Store.open(full, KEY, hub_id=HUB, clock=clock)
    clock.us = START_US + US_PER_DAY
    assert store.cursors("cgm") == {"cgm_mgdl": first - 2}
    store.append(reading(n) for n in range(first - 1, ROWS))
    assert sorted(rows_of(store).values()) == [*range(ROWS)]
    assert store.cursors("cgm") == {"cgm_mgdl": ROWS - 1}
    store.close()


def test_damage_while_sensors_are_asked_for_everything_is_repaired_as_well(full: Path) -> None:
    sql(full, "UPDATE segments SET sealed = zeroblob(99) WHERE number = 1")
    store, _ = repaired(full)
    assert store.cursors("cgm") == {}
    store.close()
    sql(full, f"UPDATE segments SET sealed = zeroblob(99) WHERE number = {2 * FOLD_SAMPLES + 1}")
    store, _ = repaired(full)
    assert store.cursors("cgm") == {}
    store.append(reading(n) for n in range(ROWS))
    assert store.cursors("cgm") == {"cgm_mgdl": ROWS - 1}
    assert sorted(rows_of(store).values()) == [*range(ROWS)]
    store.close()


def test_an_exchanged_segment_is_found_reported_and_not_used(full: Path) -> None:
    """Both histories are ours, made from one copy with the right key; the chain tells which one belongs here."""
    other = full.with_name("other.sqlite")
    shutil.copy(full, other)
    for path, first in ((full, 50_000), (other, 60_000)):
        with open_store(path) as store:
            append_in_folds(store, (reading(n) for n in range(first, first + 3 * FOLD_SAMPLES)))
    row = (SEGMENTS + 1) * FOLD_SAMPLES + 1
    [(content,)] = sql(other, f"SELECT sealed FROM segments WHERE number = {row}")
    sql(full, "UPDATE segments SET sealed = ? WHERE number = ?", values=(content, row))
    store, report = repaired(full)
    assert report.tampered
    assert report.distrusted == {"segments": 1}
    assert report.rows_lost == FOLD_SAMPLES
    found = rows_of(store)
    assert not any(60_000 <= seq < 70_000 for seq in found.values())
    assert len(found) == ROWS + 2 * FOLD_SAMPLES
    assert row not in found


def test_an_exchange_hidden_behind_damage_is_found_as_well(full: Path) -> None:
    other = full.with_name("other.sqlite")
    shutil.copy(full, other)
    for path, first in ((full, 50_000), (other, 60_000)):
        with open_store(path) as store:
            append_in_folds(store, (reading(n) for n in range(first, first + 8 * FOLD_SAMPLES)))
    row = (SEGMENTS + 1) * FOLD_SAMPLES + 1
    [(content,)] = sql(other, f"SELECT sealed FROM segments WHERE number = {row}")
    sql(full, "UPDATE segments SET sealed = ? WHERE number = ?", values=(content, row))
    for damaged in (row - FOLD_SAMPLES, row + FOLD_SAMPLES, row + 2 * FOLD_SAMPLES):
        sql(full, f"UPDATE segments SET sealed = zeroblob(50) WHERE number = {damaged}")
    store, report = repaired(full)
    assert report.distrusted == {"segments": 1}
    assert report.damaged == {"segments": 3}
    assert not any(60_000 <= seq < 70_000 for seq in rows_of(store).values())


@pytest.mark.parametrize(("table", "lost"), [("tail", 20), ("outbox", 0), ("blobs", 0)])
def test_a_table_put_back_to_an_older_state_is_not_used(full: Path, table: str, lost: int) -> None:
    old = full.with_name("old.sqlite")
    shutil.copy(full, old)
    with open_store(full) as store:
        store.append([reading(n) for n in range(9_000, 9_010)])
        store.enqueue(b"newer")
        store.put_blob("engine", b"newer")
    keep = f"WHERE rowid < {HEAD_ROW}"
    sql(full, f"DELETE FROM {table} {keep}")
    db = sqlite3.connect(full)
    db.execute("ATTACH ? AS old", (str(old),))
    db.execute(f"INSERT INTO {table} SELECT * FROM old.{table} {keep}")
    db.commit()
    db.close()
    store, report = repaired(full)
    assert report.tampered
    assert table in report.distrusted
    assert report.rows_lost == lost + 10 * bool(lost)
    if table == "blobs":
        assert store.get_blob("engine") is None
    if table == "outbox":
        assert store.pending_count() == 0
        assert store.sample_pointer <= ROWS - 6 * BATCH_SAMPLES
    assert store.append([reading(20_000)])


def test_a_lost_message_makes_its_samples_wait_to_be_sent_again(full: Path) -> None:
    [(number, _, content), *_] = cells(full, "outbox")
    sql(full, "UPDATE outbox SET sealed = ? WHERE number = ?", values=(flip(content, 20), number))
    store, report = repaired(full)
    assert report.damaged == {"outbox": 1}
    assert store.pending_count() == 4
    assert store.sample_pointer == ROWS - 5 * BATCH_SAMPLES
    assert store.enqueue(b"next") > max(n for n, _, _ in cells_numbers(content, number))


def cells_numbers(content: bytes, number: object) -> list[tuple[int, str, bytes]]:
    assert isinstance(number, int)
    return [(number, "sealed", content)]


def test_a_hole_in_the_tail_leaves_the_rest_of_it(full: Path) -> None:
    row = ROWS - 10
    [content] = [c for n, _, c in cells(full, "tail") if n == row]
    sql(full, "UPDATE tail SET sealed = ? WHERE number = ?", values=(flip(content, 30), row))
    store, report = repaired(full)
    assert report.rows_lost == 1
    assert len(rows_of(store)) == ROWS - 1
    assert set(rows_of(store).values()) == set(range(ROWS)) - {row - 1}
    store.append(reading(n) for n in range(10_000, 10_300))
    store.close()
    assert open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())[1] is None


def test_without_its_head_a_store_keeps_what_authenticates_and_numbers_still_rise(full: Path) -> None:
    used = [n for n, _, _ in cells(full, "outbox")]
    sql(full, f"UPDATE tail SET sealed = zeroblob(99) WHERE number = {HEAD_ROW}")
    clock = FixedClock(START_US + 10_000_000)
    store, report = repaired(full, clock)
    assert report.damaged == {"head": 1}
    assert report.rows_lost is None  # the newest may be missing: only the head would tell
    assert json.loads(store.journal(0, 1000)[-1])["detail"]["rows_lost"] == "unknown"
    assert rows_of(store) == every_row()
    assert store.sample_pointer == 0  # sent again; the cloud knows them by their keys
    assert store.enqueue(b"next") > max(used)  # type: ignore[type-var]


@pytest.mark.parametrize("table", ["identity", "slots", "keyring"])
def test_damaged_keys_come_back_from_their_copy(full: Path, table: str) -> None:
    for _, column, content in cells(full, table):
        sql(full, f"UPDATE {table} SET {column} = ?", values=(flip(content, 5),))
    store, report = repaired(full)
    assert rows_of(store) == every_row()
    assert report.rows_lost == 0
    store.close()
    open_store(full).close()


@pytest.mark.parametrize("bit", range(32))
def test_a_flipped_bit_in_the_version_is_damage_and_loses_nothing(path: Path, bit: int) -> None:
    with open_store(path) as store:
        store.append(reading(n) for n in range(3))
    data = bytearray(path.read_bytes())
    data[63 - bit // 8] ^= 1 << bit % 8  # user_version: bytes 60..63 of a SQLite file, most significant first
    path.write_bytes(data)
    store, report = repaired(path)
    assert (rows_of(store), report.rows_lost) == ({1: 0, 2: 1, 3: 2}, 0)
    store.close()


def test_a_retired_key_that_is_put_back_opens_nothing(full: Path) -> None:
    old = full.with_name("old.sqlite")
    with open_store(full) as store:
        store.keys.add(b"o" * 32)
    shutil.copy(full, old)
    with open_store(full) as store:
        store.keys.retire(KEY)
    with pytest.raises(WrongKeyError):
        open_or_repair(full, b"o" * 32, hub_id=HUB, clock=FixedClock())
    db = sqlite3.connect(full)
    db.execute("ATTACH ? AS old", (str(old),))
    for table in ("slots", "keyring"):
        db.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM old.{table}")
    db.commit()
    db.close()
    store, report = repaired(full)
    assert report.reason
    store.close()
    with pytest.raises(WrongKeyError):
        open_or_repair(full, b"o" * 32, hub_id=HUB, clock=FixedClock())


def test_a_wrong_key_changes_nothing(full: Path) -> None:
    before = {p.name: p.read_bytes() for p in full.parent.iterdir()}
    with pytest.raises(WrongKeyError):
        open_or_repair(full, b"x" * 32, hub_id=HUB, clock=FixedClock())
    after = {p.name: p.read_bytes() for p in full.parent.iterdir()}
    assert after == before


def test_a_store_in_use_is_not_repaired(full: Path) -> None:
    with open_store(full), pytest.raises(StoreBusyError):
        open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())


@pytest.mark.parametrize("what", ["empty", "cut", "log alone"])
def test_a_file_beyond_repair_is_set_aside_and_the_hub_begins_anew(full: Path, what: str) -> None:
    data = full.read_bytes()
    if what == "log alone":
        full.rename(full.with_name("gone"))
        full.with_name(full.name + "-wal").write_bytes(b"x" * 5000)
    else:
        full.write_bytes({"empty": b"", "cut": data[:5000]}[what])
    copy_path(full).unlink()
    store, report = open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
    assert report is not None
    assert (report.kept, report.rows_lost) == ({}, None)
    assert store.last_row == 0
    assert store.cursors("cgm") == {}  # sensors tell all they have
    assert store.append([reading(1)])
    assert any(p.name.startswith(report.set_aside) for p in full.parent.iterdir())


@pytest.mark.parametrize("what", ["noise", "another program's database"])
def test_a_file_that_never_was_a_store_is_refused_and_left_as_it_is(path: Path, what: str) -> None:
    if what == "noise":
        path.write_bytes(bytes(range(256)) * 64)
    else:
        sql(path, "CREATE TABLE bookmarks (title TEXT)")
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("INSERT INTO bookmarks VALUES ('mine')")
    before = path.read_bytes()
    with pytest.raises(InputError, match="never was one"):
        open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    assert path.read_bytes() == before
    if what != "noise":
        assert db.execute("SELECT title FROM bookmarks").fetchall() == [("mine",)]
        db.close()
    assert not list(path.parent.glob("*damaged*"))


def test_noise_where_a_store_was_is_set_aside(full: Path) -> None:
    full.write_bytes(bytes(range(256)) * 64)
    store, report = open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
    store.close()
    assert report is not None
    assert (full.parent / report.set_aside).read_bytes() == bytes(range(256)) * 64


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_repair_as_root_leaves_the_store_to_its_owner(full: Path) -> None:
    for file in [full.parent, *full.parent.iterdir()]:
        os.chown(file, 12345, 23456)
    full.with_name(full.name + ".lock").unlink()
    sql(full, "UPDATE segments SET sealed = zeroblob(99) WHERE number = 1")
    repaired(full)[0].close()
    open_store(full.with_name("new.sqlite")).close()
    found = {
        file.name: (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777)
        for file in full.parent.iterdir()
    }
    assert {full.name, full.name + ".lock", full.name + ".keys"} <= found.keys()
    assert set(found.values()) == {(12345, 23456, 0o600)}


def test_every_page_damaged_in_turn_never_stops_the_store_nor_invents_anything(full: Path) -> None:
    rng = random.Random(11)
    whole, copy, page = full.read_bytes(), copy_path(full).read_bytes(), 4096
    made = {s.key: s for s in map(reading, range(ROWS))}
    worst = lost_pages = 0
    for start in range(0, len(whole), page):
        for name in [p for p in full.parent.iterdir() if not p.name.endswith(".lock")]:
            name.unlink()
        copy_path(full).write_bytes(copy)
        full.write_bytes(whole[:start] + rng.randbytes(page) + whole[start + page :])
        store, report = open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
        rows = store.read(0, 100_000)
        for _, sample in rows:
            assert same(sample, made[sample.key])
        worst = max(worst, ROWS - len(rows))
        lost_pages += report is not None
        assert store.check().ok
        assert store.append([reading(77_777)])
        store.close()
        store, again = open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
        assert again is None
        store.close()
    assert worst <= 6 * FOLD_SAMPLES
    print(
        f"{len(whole) // page} pages destroyed in turn, {lost_pages} repairs, at most {worst} of {ROWS} rows lost"
    )


def same(found: Sample, made: Sample) -> bool:
    return (found.time_us, found.value, found.seq) == (made.time_us, made.value, made.seq)


def test_a_repair_that_is_cut_is_done_again(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql(full, "UPDATE segments SET sealed = zeroblob(99) WHERE number = 1")

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("make_database", "os.link", "sync_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(f"edge.store.repair.{name}", power_cut)
            with pytest.raises(KeyboardInterrupt):
                open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
        assert full.exists()
    store, report = open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
    assert report is None  # the last cut came after the new file had its name
    assert rows_of(store) == without(1, FOLD_SAMPLES)


@pytest.mark.parametrize(
    "refusal", [OSError(errno.ENOSPC, "full"), StoreError("no space left"), sqlite3.OperationalError()]
)
def test_without_room_for_a_repair_the_damaged_store_stays_until_there_is_some(
    full: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    sql(full, "UPDATE segments SET sealed = zeroblob(99) WHERE number = 1")
    sql(full, "DELETE FROM keyring")
    before = sorted(p.name for p in full.parent.iterdir())
    content = full.read_bytes()

    def no_space(fresh: Path, _: object) -> None:
        fresh.write_bytes(b"half done")
        if isinstance(refusal, sqlite3.OperationalError):
            with contextlib.closing(sqlite3.connect(":memory:")) as db:  # SQLite's own word for it
                db.execute("PRAGMA max_page_count = 1")
                db.execute("CREATE TABLE t (x)")
        raise refusal

    with monkeypatch.context() as patch:
        patch.setattr("edge.store.repair.make_database", no_space)
        patch.setattr("edge.store.repair.BEGIN_BYTES", 1 << 50)
        for _ in range(2):
            with pytest.raises(StoreError, match="stays where it is") as caught:
                open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
            assert "free as much space" in caught.value.mend
            assert sorted(p.name for p in full.parent.iterdir()) == before
            assert full.read_bytes() == content
    store, report = repaired(full)
    assert rows_of(store) == without(1, FOLD_SAMPLES)
    assert report.rows_lost == FOLD_SAMPLES
    store.close()


def test_with_room_for_a_new_store_only_the_hub_goes_on_and_the_record_can_be_put_back(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(full, "UPDATE segments SET sealed = zeroblob(99) WHERE number = 1")
    content = full.read_bytes()

    def no_space(fresh: Path, _: object) -> None:
        raise StoreError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("edge.store.repair.make_database", no_space)
        store, report = open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
    assert report is not None
    assert report.set_aside.endswith("-whole")
    aside = full.parent / report.set_aside
    assert aside.read_bytes() == content
    store.append([reading(1)])
    store.close()
    for end in ("", "-wal", ".keys"):
        full.with_name(full.name + end).unlink(missing_ok=True)
        if aside.with_name(aside.name + end).exists():
            aside.with_name(aside.name + end).rename(full.with_name(full.name + end))
    back, _ = repaired(full)
    assert rows_of(back) == without(1, FOLD_SAMPLES)
    back.close()


def test_a_repair_takes_the_room_that_is_held_for_a_full_disk(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(full, "UPDATE segments SET sealed = zeroblob(99) WHERE number = 1")
    spare = full.with_name(full.name + SPARE_SUFFIX)
    spare.write_bytes(bytes(1 << 19))

    def refused_at_first(fresh: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
        if spare.exists():
            raise StoreError("no space left")
        make_database(fresh, fill)

    monkeypatch.setattr("edge.store.repair.make_database", refused_at_first)
    store, _ = repaired(full)
    assert rows_of(store) == without(1, FOLD_SAMPLES)
    store.close()


def test_only_the_newest_damaged_files_are_kept(full: Path) -> None:
    for _ in range(KEPT_ASIDE + 2):
        sql(full, f"DELETE FROM tail WHERE number < {HEAD_ROW}")
        store, report = open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
        assert report is not None
        store.append([reading(10**6 + store.last_row)])
        store.close()
    assert len(list(full.parent.glob("*.damaged-*"))) == KEPT_ASIDE


def test_a_clock_behind_does_not_let_the_file_just_set_aside_be_forgotten(full: Path) -> None:
    for number in range(KEPT_ASIDE):
        full.with_name(f"{full.name}.damaged-{START_US + number}").write_bytes(b"older, by a clock ahead")
        full.with_name(f"{full.name}.damaged-log-{number}").write_bytes(b"a log")
    sql(full, "UPDATE segments SET sealed = zeroblob(99) WHERE number = 1")
    repaired(full)[0].close()  # asserts that the set aside file is there
    assert len(list(full.parent.glob("*.damaged-log-*"))) == KEPT_ASIDE


def test_a_file_of_which_nothing_was_carried_over_is_never_forgotten(full: Path) -> None:
    cut = full.read_bytes()[:5000]
    full.write_bytes(cut)
    copy_path(full).unlink()
    store, report = open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
    store.close()
    assert report is not None
    _repair_often(full)
    assert (full.parent / report.set_aside).read_bytes() == cut


def _repair_often(full: Path) -> None:
    for number in range(KEPT_ASIDE + 1):
        with open_store(full) as store:
            store.append([reading(n) for n in range(number * 10, number * 10 + 10)])
        sql(full, f"DELETE FROM tail WHERE number < {HEAD_ROW}")
        open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())[0].close()


@pytest.mark.parametrize("wrong", ["key", "hub"])
def test_a_wrong_key_on_a_damaged_store_begins_nothing_anew(full: Path, wrong: str) -> None:
    data = bytearray(full.read_bytes())
    data[68] ^= 1  # of the application id
    full.write_bytes(data)
    key, hub = (b"x" * 32, HUB) if wrong == "key" else (KEY, "other")
    with pytest.raises(WrongKeyError):
        open_or_repair(full, key, hub_id=hub, clock=FixedClock())
    assert full.read_bytes() == data
    assert not list(full.parent.glob("*.damaged-*"))
    assert rows_of(repaired(full)[0]) == every_row()


def test_a_keyring_record_that_is_no_bytes_is_left_behind(full: Path) -> None:
    with open_store(full) as store:
        slot = store.keys.add(b"o" * 32)
    copy_path(full).unlink()
    sql(full, f"UPDATE keyring SET sealed = 7 WHERE number >> 8 = {slot}")
    store, report = repaired(full)
    assert report.distrusted["keyring"] == 1
    assert rows_of(store) == every_row()
