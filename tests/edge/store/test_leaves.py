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

from edge.store.gather import ROW_TABLES
from edge.store.head import HEAD_ROW
from edge.store.leaves import Leaves, cells
from edge.store.repair import RepairReport, open_or_repair
from edge.store.sealing import Table
from edge.store.slots import copy_path
from edge.store.store import FOLD_SAMPLES, Store
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
    assert store.thinner.thin(START_US + 3 * FOLD_SAMPLES * STEP_US, cloud=False)
    store.done([n for n, _ in store.pending(30)])
    add(store, rng, 10 * FOLD_SAMPLES)
    for n in range(120):
        store.append([reading(store.last_row, value=float(n))])
    for name in BLOBS:
        store.put_blob(name, b"newest " + rng.randbytes(600))


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
    for count in (1, 15, 22, 32):
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
