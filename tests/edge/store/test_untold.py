"""A log, or a whole store, that was set aside is told, whatever cuts the hub off in between, and asked for."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from core.messages import Sample
from core.units import US_PER_DAY
from edge.store.database import PAGE_BYTES, make_database, no_space
from edge.store.journal import read_line
from edge.store.keyring import destroy_files
from edge.store.repair import REPAIR_BLOB, RepairReport, open_or_repair
from edge.store.slots import copy_path
from edge.store.store import FOLD_SAMPLES, Store
from edge.store.thinning import FOR_SPACE
from edge.store.untold import UNTOLD_SUFFIX
from tests.edge.store.conftest import HUB, KEY, START_US, FixedClock, open_store, reading
from tests.edge.store.lost_house import House, meal
from tests.edge.store.test_tamper import flip, sql
from tests.system.faults.disk import Disk
from tests.system.faults.power_cut import get_files, put_files

NAMES = ("replay.sqlite", "replay.sqlite-wal", "replay.sqlite.keys")
FOLDED = 3 * FOLD_SAMPLES + 20
ROWS = FOLDED + 40


def log_aside(path: Path) -> Path:
    return path.with_name(path.name + ".damaged-log-1")


def untold(path: Path) -> Path:
    return path.with_name(path.name + UNTOLD_SUFFIX)


def rotten(path: Path) -> House:
    """A house whose hub was killed, and whose log rotted in the middle; its store is closed."""
    house = House(path)
    house.hear(reading(n) for n in range(FOLDED))
    rot_log(house, range(FOLDED, ROWS))
    return house


def rot_log(house: House, numbers: range) -> None:
    """Hear these readings, be killed, and find the log rotten in the middle."""
    house.reopen()
    for n in numbers:
        house.hear([reading(n)])
    files = get_files(house.path.parent, NAMES)
    house.store.close()
    log = files[NAMES[1]]
    put_files(house.path.parent, {**files, NAMES[1]: flip(log, len(log) // 2)})


def start(house: House) -> RepairReport | None:
    house.store, report = open_or_repair(house.path, KEY, hub_id=HUB, clock=house.clock)
    assert house.store.check().ok
    return report


def told_and_given_back(house: House, report: RepairReport | None) -> None:
    assert report is not None
    assert report.rows_lost is None
    assert house.path.with_name(report.set_aside).exists()
    assert read_line(house.store.journal(0, 1000)[-1]).what == "store.repaired"
    assert house.store.get_blob(REPAIR_BLOB)
    assert {sample.seq for sample in house.rows()} < set(range(ROWS))
    house.clock.us += 10**9
    house.hear([reading(ROWS)])  # the device has spoken
    assert house.look(report).ask is not None
    house.fetch()
    assert {sample.seq for sample in house.rows()} == set(range(ROWS + 1))
    assert house.look(report).ask is None  # asked once
    assert not untold(house.path).exists()
    house.reopen()
    house.store.close()
    assert start(house) is None
    house.store.close()


def at(sample: Sample, time_us: int) -> Sample:
    return msgspec.structs.replace(sample, time_us=time_us)


def cut_in_store(store: Store, *_: object, **__: object) -> None:
    store.close()
    raise KeyboardInterrupt


def cut(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "how"),
    [
        ("edge.store.wal.sync_folder", cut),  # the log has its other name
        ("edge.store.store.Store.put_blob", cut_in_store),
        ("edge.store.store.Store.note", cut_in_store),
    ],
)
def test_a_cut_after_a_damaged_log_was_set_aside_does_not_silence_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, place: str, how: Callable[..., None]
) -> None:
    house = rotten(path)
    with monkeypatch.context() as patch:
        patch.setattr(place, how)
        with pytest.raises(KeyboardInterrupt):
            start(house)
    assert log_aside(path).exists()
    told_and_given_back(house, start(house))


def test_a_full_disk_does_not_silence_it_nor_set_a_sound_store_aside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = rotten(path)

    def full(*_: object) -> None:
        raise no_space(path)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_blob", full)
        patch.setattr("edge.store.repair.make_database", full)
        report = start(house)
    assert report is not None
    assert report.rows_lost is None  # the hub tells it, and goes on
    assert house.store.last_row > FOLDED
    house.store.close()
    told_and_given_back(house, start(house))


@pytest.mark.parametrize("unreadable", [False, True])
def test_damage_in_the_file_hides_none_in_its_log(
    path: Path, monkeypatch: pytest.MonkeyPatch, unreadable: bool
) -> None:
    """The log was folded in and deleted by the repair of the file: what it had lost was told by nobody."""
    house = rotten(path)
    log = path.with_name(NAMES[1]).read_bytes()
    data = path.read_bytes()
    path.write_bytes(flip(data, _root_of_segments(path, data) * PAGE_BYTES - 300))
    if unreadable:
        monkeypatch.setattr("edge.store.wal.is_readable", lambda *_: log_aside(path).exists())
        monkeypatch.setattr("edge.store.wal._lost_a_commit", lambda *_: False)
    report = start(house)
    assert report is not None
    assert report.damaged == {"segments": 1}
    assert report.missing
    assert log_aside(path).read_bytes() == log
    told_and_given_back(house, report)


def test_without_its_first_page_a_file_hides_no_damage_in_its_log(path: Path) -> None:
    """SQLite cannot begin then, says nothing of the log, and folds it in and deletes it at its end all the same."""
    house = rotten(path)
    log = path.with_name(NAMES[1]).read_bytes()
    path.write_bytes(bytes(PAGE_BYTES) + path.read_bytes()[PAGE_BYTES:])
    report = start(house)
    assert log_aside(path).read_bytes() == log
    told_and_given_back(house, report)


def test_a_disk_too_full_to_fold_a_damaged_log_in_does_not_silence_it(path: Path) -> None:
    house = rotten(path)
    with Disk(lambda op: sqlite3.SQLITE_FULL if op.kind == "write" else None):
        report = start(house)
        assert report is not None  # the hub goes on, and tells it
        assert report.rows_lost is None
        house.store.close()
    told_and_given_back(house, start(house))


def _root_of_segments(path: Path, data: bytes) -> int:
    copy = path.with_name("copy")  # SQLite would fold the log in
    copy.write_bytes(data)
    [(page,)] = sql(copy, "SELECT rootpage FROM sqlite_master WHERE name = 'segments'")
    assert isinstance(page, int)
    return page


def test_without_room_for_the_mark_the_log_is_kept_and_told_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = rotten(path)
    log = path.with_name(NAMES[1]).read_bytes()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("edge.store.untold.open_new", full)
        report = start(house)
    assert log_aside(path).read_bytes() == log
    told_and_given_back(house, report)


@pytest.mark.parametrize(
    ("place", "how"),
    [
        ("edge.store.aside.sync_folder", cut),  # the file has its other name
        ("edge.store.database._create", cut),
        ("edge.store.store.Store.put_blob", cut_in_store),
        ("edge.store.store.Store.note", cut_in_store),
    ],
)
def test_a_cut_while_a_store_is_begun_anew_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, place: str, how: Callable[..., None]
) -> None:
    """An empty store passed for a sound one, and nobody was asked for what was lost."""
    house = House(path)
    house.hear(reading(n) for n in range(ROWS))
    house.store.close()
    path.write_bytes(path.read_bytes()[:100] + bytes(100_000))
    copy_path(path).write_bytes(b"noise")
    with monkeypatch.context() as patch:
        patch.setattr(place, how)
        with pytest.raises(KeyboardInterrupt):
            start(house)
    report = start(house)
    assert report is not None
    assert report.set_aside.endswith("-whole")
    told_and_given_back(house, report)


def test_what_a_cut_left_of_a_store_that_is_set_aside_is_not_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(path).close()
    path.write_bytes(path.read_bytes()[:100] + bytes(100_000))
    copy_path(path).write_bytes(b"noise")
    rename = Path.rename

    def cut_at_the_file(file: Path, target: Path) -> Path:
        if file == path:
            raise KeyboardInterrupt
        return rename(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut_at_the_file)
        with pytest.raises(KeyboardInterrupt):
            open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    copy_path(path).write_bytes(b"newer noise")
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    store.close()
    assert report is not None
    assert report.set_aside == f"{path.name}.damaged-{START_US // 1000 + 1}-whole"
    kept = sorted(p.read_bytes() for p in path.parent.glob("*-whole.keys"))
    assert kept == [b"newer noise", b"noise"]


def test_the_mark_is_empty_and_private_and_goes_with_an_erased_store(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = rotten(path)
    monkeypatch.setattr(Store, "put_blob", cut_in_store)
    with pytest.raises(KeyboardInterrupt):
        start(house)
    facts = untold(path).stat()
    assert (facts.st_size, facts.st_mode & 0o777) == (0, 0o600)
    destroy_files(path)
    assert not untold(path).exists()


@pytest.mark.parametrize("odd", ["link", "pipe"])
def test_what_lies_in_the_place_of_the_mark_is_replaced_not_followed(path: Path, odd: str) -> None:
    house = rotten(path)
    victim = path.with_name("victim")
    victim.write_bytes(b"not ours")
    if odd == "link":
        untold(path).symlink_to(victim)
    else:
        os.mkfifo(untold(path))
    told_and_given_back(house, start(house))
    assert victim.read_bytes() == b"not ours"


def test_a_lost_log_hides_no_damage_of_before_a_thinning(path: Path) -> None:
    """Rows of before it are counted by nothing: the whole span is asked for, not only what came last."""
    house = House(path)
    house.store.note("hub", "hub.started")
    kept = [at(meal(n, 20.0 + n), START_US + n * 1_800_000_000) for n in range(300)]
    house.hear(sorted([*kept, *(reading(n) for n in range(2000))], key=lambda s: s.time_us))
    store = house.store
    store.enqueue(b"told", sample_row=store.last_row)
    store.done([number for number, _ in store.pending(9)])
    house.clock.us = START_US + 40 * US_PER_DAY
    assert store.thinner.thin(house.clock.us - 7 * US_PER_DAY, FOR_SPACE, unsent=True, cloud=False)
    for n in range(3000, 3600):
        house.clock.us += 300_000_000
        house.hear([reading(n, time_us=house.clock.us)])
    house.reopen()
    for n in range(3600, 3640):
        house.clock.us += 300_000_000
        house.hear([reading(n, time_us=house.clock.us)])
    files = get_files(path.parent, NAMES)
    before = {sample.key for sample in house.rows()}
    house.store.close()
    log = files[NAMES[1]]
    put_files(path.parent, {**files, NAMES[1]: flip(log, len(log) // 2)})
    with sqlite3.connect(f"file:{path}?immutable=1&mode=ro", uri=True) as db:
        [(oldest,)] = db.execute("SELECT sealed FROM segments ORDER BY number LIMIT 1")
    db.close()
    whole = path.read_bytes()
    path.write_bytes(flip(whole, whole.find(oldest[:40]) + 60))
    report = start(house)
    assert report is not None
    assert report.rows_lost is None
    lost = before - {sample.key for sample in house.rows()}
    assert len(lost) > FOLD_SAMPLES
    house.clock.us += 10**9
    house.hear([reading(3700, time_us=house.clock.us)], told=False)
    house.hear([at(meal(10**6, 5.0), house.clock.us)], told=False)
    house.look(report)
    house.fetch()
    assert not lost - {sample.key for sample in house.rows()}
    house.store.close()


def test_a_mark_that_stays_is_told_as_what_it_was_and_asked_for_once(path: Path) -> None:
    house = rotten(path)
    report = start(house)
    told_and_given_back(house, report)
    for _ in range(2):
        untold(path).touch()
        again = start(house)
        assert again is not None
        assert report is not None
        assert (again.set_aside, again.first_lost_row) == (report.set_aside, report.first_lost_row)
        assert house.look(again).ask is None
        house.store.close()


def test_a_foreign_name_beside_a_mark_is_nobodys_word(path: Path) -> None:
    house = House(path)
    house.hear(reading(n) for n in range(300))
    house.store.close()
    untold(path).touch()
    for name in (b"\xff\xfe", b"\x1b[31mcall", b"1-wal"):
        Path(os.fsdecode(os.fsencode(path) + b".damaged-" + name)).touch()
    report = start(house)
    assert report is not None
    assert report.set_aside == path.name + "-wal"
    house.store.close()


def test_a_record_begun_anew_is_asked_for_from_its_beginning_also_when_a_full_disk_delayed_the_telling(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(path)
    house.hear(reading(n) for n in range(300))
    told = len(house.cloud.told)
    house.store.close()
    path.write_bytes(path.read_bytes()[:100] + bytes(100_000))
    path.with_name(path.name + "-wal").unlink(missing_ok=True)
    copy_path(path).unlink(missing_ok=True)
    house.clock.us = START_US + 40 * US_PER_DAY

    def full(*_: object, **__: object) -> None:
        raise no_space(path)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_blob", full)
        report = start(house)
    assert report is not None
    house.store.note("hub", "hub.started")
    house.hear([reading(20_000, time_us=house.clock.us)], told=False)
    house.look(report)
    assert house.fetch() == told
    house.store.close()
    later = start(house)  # the mark is still there
    assert later is not None
    assert later.damaged == {"file": 1}
    assert not untold(path).exists()
    house.store.close()


def test_what_the_first_try_of_a_repair_saw_of_the_log_the_second_tells(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for the mark, and for the repair at its first try, the loss of the log was counted as that of a segment."""
    house = rotten(path)
    whole = path.read_bytes()
    with sqlite3.connect(f"file:{path}?immutable=1&mode=ro", uri=True) as db:
        [(oldest,)] = db.execute("SELECT sealed FROM segments ORDER BY number LIMIT 1")
    db.close()
    path.write_bytes(flip(whole, whole.find(oldest[:40]) + 60))
    tries = []

    def once_full(fresh: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
        tries.append(fresh)
        if len(tries) == 1:
            raise no_space(path)
        make_database(fresh, fill)

    def refused(_: Path) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("edge.store.repair.make_database", once_full)
    monkeypatch.setattr("edge.store.wal.mark", refused)
    report = start(house)
    assert len(tries) == 2
    assert report is not None
    assert report.rows_lost is None
    house.store.close()


def test_a_journal_beside_the_store_costs_nothing_and_is_told_so(path: Path) -> None:
    house = House(path)
    house.hear(reading(n) for n in range(300))
    house.store.close()
    path.with_name(path.name + "-journal").write_bytes(b"x" * 600)
    report = start(house)
    assert report is not None
    assert report.rows_lost == 0
    assert not untold(path).exists()
    house.store.close()
    assert start(house) is None
    house.store.close()


def test_a_second_loss_is_asked_for_though_somebody_removed_the_log_of_the_first(path: Path) -> None:
    house = rotten(path)
    first = start(house)
    told_and_given_back(house, first)
    log_aside(path).unlink()
    house.reopen()
    rot_log(house, range(ROWS + 1, ROWS + 41))
    second = start(house)
    assert first is not None
    assert second is not None
    assert second.set_aside == first.set_aside
    house.clock.us += 10**9
    house.hear([reading(ROWS + 41)])
    assert house.look(second).ask is not None
    house.fetch()
    assert {sample.seq for sample in house.rows()} == set(range(ROWS + 42))
    house.store.close()
