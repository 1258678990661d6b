"""Damage with good records around it: they keep their rows, only the hole is asked for, and only tampering is called so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge.store.repair import open_or_repair
from edge.store.slots import copy_path
from edge.store.store import FOLD_SAMPLES
from tests.edge.store.conftest import HUB, KEY, FixedClock, append_in_folds, open_store, reading
from tests.edge.store.lost_house import House
from tests.edge.store.test_tamper import sql

ROWS = FOLD_SAMPLES + 200
TOLD = FOLD_SAMPLES + 144  # rows that a message to the cloud holds


def tailed(path: Path) -> House:
    """A house with a segment and 200 single records, of which the cloud was not told the last."""
    house = House(path)
    house.hear(reading(n) for n in range(TOLD))
    house.store.enqueue(b"message", sample_row=TOLD)
    house.hear((reading(n) for n in range(TOLD, ROWS)), told=False)
    return house


@pytest.mark.parametrize(
    ("holes", "missing"),
    [
        ([306], [(306, 306)]),
        ([FOLD_SAMPLES + 1], [(257, 257)]),
        ([ROWS], [(456, 456)]),
        ([300, 301, 310, 399, 455], [(300, 301), (310, 310), (399, 399), (455, 455)]),
        ([*range(FOLD_SAMPLES + 1, ROWS)], [(257, 455)]),
    ],
)
def test_records_around_a_hole_keep_their_rows(
    path: Path, holes: list[int], missing: list[tuple[int, int]]
) -> None:
    house = tailed(path)
    report = house.damage(*holes, table="tail")
    assert report.missing == tuple(missing)
    assert (report.rows_lost, report.first_lost_row) == (len(holes), holes[0])
    assert house.store.missing_rows() == missing
    assert house.store.last_row == ROWS
    kept = {n + 1: n for n in range(ROWS) if n + 1 not in holes}
    assert {row: sample.seq for row, sample in house.store.read(0, 1000)} == kept
    # No sample behind the pointer passes for told.
    assert house.store.sample_pointer == TOLD
    # The sensor is asked from before the gap.
    assert house.store.cursors("cgm") == {"cgm_mgdl": holes[0] - 2}
    house.reopen()
    assert house.store.check().ok
    house.store.append(reading(n) for n in range(ROWS, 3 * ROWS))
    assert house.store.read(ROWS, 1)[0][1].seq == ROWS
    house.store.close()


def test_the_cloud_gives_back_what_lay_in_the_hole_and_is_asked_for_nothing_else(path: Path) -> None:
    house = tailed(path)
    arrived = {row: sample.received_us for row, sample in house.store.read(304, 3)}
    lost = house.look(house.damage(306, table="tail"))
    assert lost.ask is not None
    assert (lost.ask.spans, lost.ask.room) == (((arrived[305], arrived[307]),), 1)
    assert house.fetch() == 1
    assert {sample.seq for sample in house.rows()} == set(range(ROWS))
    house.store.close()


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two histories of one store: segments from the sixth on differ, each of 256 rows."""
    folder = tmp_path_factory.mktemp("chained")
    ours, other = folder / "ours.sqlite", folder / "other.sqlite"
    with open_store(ours) as store:
        append_in_folds(store, (reading(n) for n in range(5 * FOLD_SAMPLES)))
    shutil.copy(ours, other)
    for file, first in ((ours, 50_000), (other, 90_000)):
        with open_store(file) as store:
            append_in_folds(store, (reading(n) for n in range(first, first + 35 * FOLD_SAMPLES)))
    return ours, other


def row_of(segment: int) -> int:
    return segment * FOLD_SAMPLES + 1


@pytest.mark.parametrize(
    ("exchanged", "damaged", "unproven", "distrusted"),
    [
        (None, [11, 26], 1, {}),  # both witnesses of the tenth
        (10, [11, 26], 1, {}),  # nobody can tell
        (10, [11, 12], 0, {"segments": 1}),  # the sixteenth speaks
        (10, [26], 0, {"segments": 1}),  # the next one speaks
        (30, [31, 32], 0, {"segments": 1}),  # the head speaks
        (20, [11, 26], 1, {"segments": 1}),
    ],
)
def test_only_what_a_witness_speaks_against_is_called_tampered_with(
    path: Path,
    chained: tuple[Path, Path],
    exchanged: int | None,
    damaged: list[int],
    unproven: int,
    distrusted: dict[str, int],
) -> None:
    """Several bad pages that hold both witnesses of a good segment passed for the work of somebody."""
    ours, other = chained
    shutil.copy(ours, path)
    shutil.copy(copy_path(ours), copy_path(path))
    if exchanged is not None:
        row = row_of(exchanged)
        [(content,)] = sql(other, f"SELECT sealed FROM segments WHERE number = {row}")
        sql(path, "UPDATE segments SET sealed = ? WHERE number = ?", values=(content, row))
    for segment in damaged:
        sql(path, f"UPDATE segments SET sealed = zeroblob(50) WHERE number = {row_of(segment)}")
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    with store:
        assert report is not None
        assert (report.unproven, report.distrusted) == (unproven, distrusted)
        assert report.tampered == bool(distrusted)
        assert report.rows_lost == FOLD_SAMPLES * (len(damaged) + unproven + sum(distrusted.values()))
        assert not any(sample.seq >= 90_000 for _, sample in store.read(0, 1 << 20))


def test_short_runs_between_holes_use_up_nobodys_witnesses(path: Path) -> None:
    """Two damages: many holes in the tail, then the page on which their short runs lie. What lay before them is whole."""
    house = House(path)
    house.hear(reading(n) for n in range(20 * FOLD_SAMPLES + 100))
    first = 20 * FOLD_SAMPLES + 1
    report = house.damage(*range(first + 1, first + 90, 2), table="tail")
    assert report.rows_lost == 45
    house.hear(reading(n) for n in range(20 * FOLD_SAMPLES + 100, 23 * FOLD_SAMPLES))
    house.store.close()
    between = f"number >= {first} AND number < {first + 90}"
    runs = [row for (row,) in sql(path, f"SELECT number FROM segments WHERE {between}")]
    assert len(runs) == 45
    report = house.damage(*runs)
    assert (report.rows_lost, report.distrusted, report.unproven) == (45, {}, 0)
    assert house.store.check().ok
    house.store.close()
