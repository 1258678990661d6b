"""Damage among the newest records, which no segment holds yet: those around it keep their rows, and only it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.store.store import FOLD_SAMPLES
from tests.edge.store.conftest import reading
from tests.edge.store.lost_house import House

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
