"""Records of damaged files are found on their own leaf pages; what was folded, thinned, done with or replaced stays away."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from edge.store.gather import ROW_TABLES
from edge.store.head import HEAD_ROW
from edge.store.leaves import Cell, Leaves, cells
from edge.store.repair import RepairReport, open_or_repair
from edge.store.sealing import OVERHEAD_BYTES, Table
from edge.store.slots import copy_path
from edge.store.store import FOLD_SAMPLES, Store
from edge.store.thinning import OLD
from tests.edge.store.conftest import HUB, KEY, START_US, FixedClock, open_store, reading
from tests.edge.store.test_tamper import sql

PAGE = 4096
TABLES = ("segments", "tail", "outbox", "blobs", "aggregates", "journal", "archive")
BLOBS = [f"blob {n}" for n in range(20)]
STEP_US = 300_000_000


class Content(NamedTuple):
    """All that a store holds."""

    rows: dict[int, int]
    outbox: dict[int, bytes]
    blobs: dict[str, bytes]
    averages: list[Any]
    journal: list[str]
    archive: dict[int, bytes]


def content(store: Store) -> Content:
    blobs = {name: data for name in BLOBS if (data := store.get_blob(name)) is not None}
    journal = [line for line in store.journal(0, 1000) if "store.repaired" not in line]
    archive = {item.number: item.data for item in store.archive.read("alarms", 0, 1000)}
    rows = {row: sample.seq for row, sample in store.read(0, 1 << 20)}
    return Content(rows, dict(store.pending(1000)), blobs, store.thinner.read(0, 1000), journal, archive)


class Files(NamedTuple):
    """A store's file, the copy of its keys, and what it held."""

    path: Path
    whole: bytes
    keys: bytes
    held: Content

    @property
    def roots(self) -> dict[str, int]:
        self.put(self.whole)
        return dict(sql(self.path, "SELECT name, rootpage FROM sqlite_master"))

    def put(self, data: bytes, keys: bool = True) -> None:
        for file in self.path.parent.iterdir():
            file.unlink()
        self.path.write_bytes(data)
        if keys:
            copy_path(self.path).write_bytes(self.keys)

    def repaired(self, data: bytes) -> tuple[Content, RepairReport | None]:
        """What comes back of this file; the next opening finds it whole."""
        self.put(data)
        with structlog.testing.capture_logs():
            store, report = open_or_repair(self.path, KEY, hub_id=HUB, clock=FixedClock())
            with store:
                found = content(store)
            open_store(self.path).close()
        return found, report


def made(path: Path, fill: Callable[[Store, random.Random], None], seed: int) -> Files:
    with structlog.testing.capture_logs():
        with open_store(path) as store:
            # Debian's SQLite overwrites what is freed; others do not.
            store._db.execute("PRAGMA secure_delete = OFF")
            fill(store, random.Random(seed))
        with open_store(path) as store:
            held = content(store)
    return Files(path, path.read_bytes(), copy_path(path).read_bytes(), held)


def add(store: Store, rng: random.Random, size: int) -> None:
    """Readings that do not pack to nothing, a fold at a time."""
    first = store.last_row
    for at in range(first, first + size, FOLD_SAMPLES):
        numbers = range(at, min(at + FOLD_SAMPLES, first + size))
        store.append([reading(n, value=float(rng.randrange(40, 400))) for n in numbers])


def lived(store: Store, rng: random.Random) -> None:
    """More than a page of everything, much of which was let go again."""
    add(store, rng, 5 * FOLD_SAMPLES)
    for n in range(60):
        store.enqueue(rng.randbytes(400))
        store.archive.keep("alarms", rng.randbytes(300), 12_000)
        store.put_blob(rng.choice(BLOBS), rng.randbytes(rng.choice((50, 900, 9000))))
        store.note("hub", "test.noted", n=n)
    assert store.thinner.thin(START_US + 3 * FOLD_SAMPLES * STEP_US, OLD, cloud=False)
    store.done([n for n, _ in store.pending(30)])
    add(store, rng, 10 * FOLD_SAMPLES)
    for n in range(120):
        store.append([reading(store.last_row, value=float(n))])
    for name in BLOBS:
        store.put_blob(name, b"newest " + rng.randbytes(9000 if name == BLOBS[-1] else 600))


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return made(tmp_path_factory.mktemp("lived") / "replay.sqlite", lived, 7)


@pytest.fixture
def files(lived_in: Files, path: Path) -> Files:
    """To be spoiled where fsync costs nothing."""
    return lived_in._replace(path=path)


def spoiled(data: bytes, page: int, seed: int) -> bytes:
    start = (page - 1) * PAGE
    return data[:start] + random.Random(seed).randbytes(PAGE) + data[start + PAGE :]


def changed(data: bytes, page: int, at: int, bits: int = 1) -> bytes:
    place = (page - 1) * PAGE + at
    return data[:place] + bytes((data[place] ^ bits,)) + data[place + 1 :]


def is_inner(files: Files, page: int) -> bool:
    return files.whole[(page - 1) * PAGE] == 5


def no_loss(report: RepairReport | None) -> bool:
    return report is None or (report.rows_lost == 0 and not report.others_lost and not report.tampered)


@pytest.mark.parametrize("table", TABLES)
def test_a_root_page_costs_nothing_that_lies_on_whole_leaves(files: Files, table: str) -> None:
    root = files.roots[table]
    flips = [(0, 1)]
    if is_inner(files, root):
        flips += [(4, 1), (11, 1)]  # of its cells, and where they point to
    else:
        assert table == "aggregates"
    for at, bits in flips:
        found, report = files.repaired(changed(files.whole, root, at, bits))
        assert found == files.held, (at, bits)
        assert no_loss(report), (at, bits, report)
    if is_inner(files, root):
        found, report = files.repaired(spoiled(files.whole, root, 3))
        assert found == files.held
        assert report is not None
        assert no_loss(report)
        assert not report.damaged


Place = tuple[Table, int | bytes]


def places(files: Files) -> dict[Place, int]:
    """The page of each record that lives and lies on one page."""
    files.put(files.whole)
    found: dict[Place, int] = {}
    with open_store(files.path) as store, contextlib.closing(Leaves(files.path)) as leaves:
        live: set[tuple[Table, bytes]] = set()
        for table in ROW_TABLES:
            live |= {(table, sealed) for (sealed,) in store._db.execute(f"SELECT sealed FROM {table.name}")}
        for page in set(range(2, len(files.whole) // PAGE + 1)) - leaves._free:
            for cell in cells(leaves._pages, page):
                for table, _ in live & {(table, cell.sealed) for table in ROW_TABLES}:
                    if len(cell.sealed) < PAGE - 100 and cell.place != HEAD_ROW:
                        found[table, cell.place] = page
    return found


def test_random_bytes_over_the_first_pages_leave_what_lies_behind_them(files: Files) -> None:
    lying = places(files)
    assert len(set(lying.values())) > 20
    for count in (1, 15, 32):
        found, report = files.repaired(
            random.Random(count).randbytes(count * PAGE) + files.whole[count * PAGE :]
        )
        assert report is not None
        assert not report.tampered
        behind = {place: page for place, page in lying.items() if page > count}
        sizes = Counter(table for table, _ in behind)
        for table in ROW_TABLES:
            if table is not Table.JOURNAL:  # an audit log without its beginning proves nothing
                assert report.kept[table.name.lower()] >= sizes[table], (count, table)
        for part, whole in zip(found, files.held, strict=True):
            assert all(item in items(whole) for item in items(part))  # nothing old, nothing invented
        told = report.others_lost.get("outbox", 0), report.others_lost.get("blobs", 0)
        assert told == (len(files.held.outbox) - len(found.outbox), len(files.held.blobs) - len(found.blobs))
        assert report.rows_lost == len(files.held.rows) - len(found.rows)


def items(part: Any) -> list[Any]:
    return list(part.items()) if isinstance(part, dict) else part


def test_all_inner_pages_at_once_cost_nothing(files: Files) -> None:
    data = files.whole
    for table, root in files.roots.items():
        if table in TABLES and is_inner(files, root):
            data = spoiled(data, root, root)
    found, report = files.repaired(data)
    assert found == files.held
    assert no_loss(report)


class Life(NamedTuple):
    """A store of a random life: its files, and all that was let go again in it."""

    files: Files
    gone: Content


def random_life(path: Path, seed: int) -> Life:
    gone = Content({}, {}, {}, [], [], {})

    def live(store: Store, rng: random.Random) -> None:
        add(store, rng, rng.randrange(3, 8) * FOLD_SAMPLES)
        for _ in range(6):
            for _ in range(rng.randrange(20)):
                store.enqueue(rng.randbytes(rng.choice((40, 600))))
                store.archive.keep("alarms", rng.randbytes(300), 1 << 20)
                store.put_blob(rng.choice(BLOBS), rng.randbytes(rng.choice((50, 900, 9000))))
                store.note("hub", "test.noted", n=rng.randrange(1000))
            messages = store.pending(rng.randrange(20))
            store.done([n for n, _ in messages])
            gone.outbox.update(messages)
            kept = store.archive.read("alarms", 0, 1000)
            dropped = rng.sample(kept, len(kept) // 2)
            store.archive.drop("alarms", [item.number for item in dropped])
            gone.archive.update((item.number, item.data) for item in dropped)
            for n in range(rng.randrange(200)):
                store.append([reading(store.last_row, value=float(n))])
            add(store, rng, rng.randrange(3) * FOLD_SAMPLES)
            before_us = START_US + rng.randrange(max(1, store.last_row - 3 * FOLD_SAMPLES)) * STEP_US
            store.thinner.thin(before_us, OLD, cloud=False)

    return Life(made(path, live, seed), gone)


@pytest.mark.parametrize("seed", [4, 11])
def test_what_was_let_go_never_comes_back_whatever_is_damaged(path: Path, seed: int) -> None:
    """Also where the list of free pages is gone: as a whole with the first page, or a page of it."""
    files, gone = random_life(path, seed)
    rng = random.Random(seed)
    with contextlib.closing(Leaves(path)) as leaves:
        assert leaves.sure
        free = leaves._free
        assert sum(1 for page in free for _ in cells(leaves._pages, page)) > 20  # old ones, all authentic
    lists = [page for page in free if files.whole[(page - 1) * PAGE] == 0]
    inner = [page for table, page in files.roots.items() if table in TABLES]
    for damage in range(6):
        data = files.whole
        if damage % 3:
            for page in [1, *lists] if damage % 3 == 1 else lists:
                data = spoiled(data, page, seed)
        for page in inner:
            data = spoiled(data, page, seed) if is_inner(files, page) else changed(data, page, 0)
        if damage >= 3:
            leaf = rng.randrange(15, len(data) // PAGE + 1)
            data = spoiled(data, leaf, seed)
        found, report = files.repaired(data)
        assert report is not None
        assert not report.tampered
        if damage == 0:
            assert found == files.held
        assert len(set(found.rows.values())) == len(found.rows)
        if damage % 3 and "head" in report.damaged:
            continue  # nothing is left that could tell what is old, and that is told
        for part, whole in zip(found, files.held, strict=True):
            assert all(item in items(whole) for item in items(part)), (damage, report)
        assert not found.outbox.keys() & gone.outbox.keys()
        assert not found.archive.keys() & gone.archive.keys()


def test_the_leaves_hold_what_sqlite_reads_and_the_free_pages_are_known_without_the_first(
    files: Files,
) -> None:
    files.put(files.whole)
    rows = [
        Cell(place, rowid, sealed)
        for table in (*ROW_TABLES, Table.KEYRING)
        for rowid, place, sealed in sql(files.path, f"SELECT rowid, * FROM {table.name}")
        if len(sealed) >= OVERHEAD_BYTES
    ]
    assert any(len(cell.sealed) > 2 * PAGE for cell in rows)
    [(free,)] = sql(files.path, "PRAGMA freelist_count")
    assert free > 5
    for data in (files.whole, bytes(PAGE) + files.whole[PAGE:]):
        files.path.write_bytes(data)
        with contextlib.closing(Leaves(files.path)) as leaves:
            assert leaves.sure
            assert len(leaves._free) == free
            assert sorted(leaves.cells(), key=repr) == sorted(rows, key=repr)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_bytes_are_read_in_bounded_time_and_raise_nothing(lived_in: Files, data: st.DataObject) -> None:
    """Pages of a real file, exchanged and spoiled where it hurts, and noise."""
    pages = [lived_in.whole[at : at + PAGE] for at in range(0, len(lived_in.whole), PAGE)]
    pages = [bytearray(pages[n]) for n in data.draw(st.lists(st.integers(0, len(pages) - 1), max_size=8))]
    for page in pages:
        place = st.one_of(st.integers(0, 40), st.integers(0, PAGE - 1))
        byte = st.sampled_from((0, 1, 2, 13, 127, 128, 255))
        for at, value in data.draw(st.lists(st.tuples(place, byte), max_size=8)):
            page[at] = value
    path = lived_in.path.with_name("fuzzed")
    path.write_bytes(b"".join(pages) + data.draw(st.binary(max_size=200)))
    with contextlib.closing(Leaves(path)) as leaves:
        found = list(leaves.cells())
        assert len(leaves.heads) <= len(found)
        assert leaves._pages.rest >= 0
    assert all(len(cell.sealed) <= len(pages) * PAGE for cell in found)


def test_a_second_repair_tells_what_is_lost_since_the_first(files: Files) -> None:
    files.put(files.whole)
    for number, lost in ((4, 2), (7, 1)):
        firsts = [n for (n,) in sql(files.path, "SELECT number FROM segments ORDER BY number")]
        for first in firsts[number : number + lost]:
            sql(files.path, "UPDATE segments SET sealed = zeroblob(99) WHERE number = ?", values=(first,))
        store, report = open_or_repair(files.path, KEY, hub_id=HUB, clock=FixedClock())
        store.close()
        assert report is not None
        assert report.rows_lost == lost * FOLD_SAMPLES
        assert report.first_lost_row == firsts[number]
    assert sum(b - a + 1 for a, b in report.missing) == 3 * FOLD_SAMPLES


def test_a_store_without_first_page_and_keys_is_not_called_somebody_elses(files: Files) -> None:
    data = spoiled(files.whole, 1, 1)
    files.put(data, keys=False)
    with pytest.raises(InputError, match="first page of the store is destroyed") as caught:
        open_or_repair(files.path, KEY, hub_id=HUB, clock=FixedClock())
    assert copy_path(files.path).name in caught.value.mend
    assert files.path.read_bytes() == data
    copy_path(files.path).write_bytes(files.keys)
    with open_or_repair(files.path, KEY, hub_id=HUB, clock=FixedClock())[0] as store:
        assert content(store) == files.held
