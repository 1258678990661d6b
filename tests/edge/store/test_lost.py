"""What damage took comes back from the cloud, once and marked."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.messages import Quality, Resend
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge.store.head import HEAD_ROW
from edge.store.journal import read_line
from edge.store.lost import (
    MOST_SPANS,
    Ask,
    Lost,
    give_up,
    joined,
    look,
    take_back,
)
from edge.store.refill import PATIENCE_US
from edge.store.repair import open_or_repair
from edge.store.store import FOLD_SAMPLES
from edge.store.thinning import FOR_SPACE
from tests.edge.store.conftest import HUB, KEY, reading
from tests.edge.store.lost_house import (
    FIRST,
    LAST,
    REQUEST,
    ROWS,
    House,
    filled,
    meal,
    same,
)
from tests.edge.store.test_tamper import sql
from tests.system.faults.power_cut import get_files, put_files


@pytest.fixture
def house(path: Path) -> House:
    return filled(path)


def test_what_is_asked_for_is_the_span_between_the_records_around_the_gap(house: House) -> None:
    before, after = house.cloud.told[FIRST - 2], house.cloud.told[LAST]
    house.damage(FIRST)
    lost = house.look()
    assert lost.ask is not None
    assert lost.ask.question() == Resend(REQUEST, ((before.received_us, after.received_us),), 0)
    assert (lost.ask.room, lost.gaps) == (FOLD_SAMPLES, ((FIRST, LAST),))
    house.reopen()
    again = Lost.load(house.store)
    assert again == lost
    assert look(house.store, again, 1, house.clock.us) is again  # asked for once


def test_everything_comes_back_once_marked_and_nothing_else_moves(house: House) -> None:
    before = house.rows()
    house.damage(FIRST)
    kept, cursors, refilling = house.rows(), house.store.cursors("cgm"), house.store.refilling
    house.look()
    house.clock.us += US_PER_H
    assert house.fetch() == FOLD_SAMPLES
    rows = house.rows()
    assert rows[: len(kept)] == kept
    assert sorted(map(same, rows), key=lambda s: s.seq) == list(map(same, before))
    returned = rows[len(kept) :]
    assert all(s.quality & Quality.RETURNED for s in returned)
    assert [s.seq for s in returned] == list(range(FIRST - 1, LAST))  # in the order of their first arrival
    assert {s.received_us for s in returned} == {-(-house.clock.us // 100_000) * 100_000}
    # No sensor has spoken: it is asked for its own memory as before.
    assert (house.store.cursors("cgm"), house.store.refilling) == (cursors, refilling)
    entry = read_line(house.store.journal(0, 1000)[-1])
    assert (entry.who, entry.what, entry.detail) == ("hub", "store.refilled", {"returned": FOLD_SAMPLES})
    assert house.look().ask is None
    house.reopen()
    assert house.store.check().ok
    assert house.rows() == rows


def test_a_sensor_that_remembers_adds_nothing_to_what_came_back(house: House) -> None:
    house.damage(FIRST)
    house.look()
    house.fetch()
    assert house.store.append(reading(n) for n in range(FIRST - 1, ROWS)) == ()
    assert house.store.refilling == []


def test_a_cut_between_pages_loses_and_doubles_nothing_and_counts_right(house: House) -> None:
    house.damage(FIRST)
    house.look()
    for _ in range(2):
        assert house.fetch(pages=1)
        house.reopen()
    house.fetch()
    assert sorted(s.seq for s in house.rows()) == list(range(ROWS))
    assert read_line(house.store.journal(0, 1000)[-1]).detail == {"returned": FOLD_SAMPLES}
    assert Lost.load(house.store).came == FOLD_SAMPLES


def test_a_page_is_taken_once_and_only_where_it_was_asked_for(house: House) -> None:
    house.damage(FIRST)
    lost = house.look()
    assert lost.ask is not None
    page = house.cloud.answer(lost.ask.question())
    for wrong in ({"request": REQUEST + 1}, {"after": 1}, {"after": -1}):
        assert take_back(house.store, lost, msgspec.structs.replace(page, **wrong), house.clock.us) == (
            lost,
            0,
        )
    rest, came = take_back(house.store, lost, page, house.clock.us)
    assert came
    assert take_back(house.store, rest, page, house.clock.us) == (rest, 0)
    house.fetch()
    done = Lost.load(house.store)
    assert take_back(house.store, done, page, house.clock.us) == (done, 0)
    assert len(house.rows()) == ROWS


def test_what_the_cloud_never_had_stays_lost_and_the_asking_ends(path: Path) -> None:
    house = House(path)
    house.hear((reading(n) for n in range(FIRST + 50)), told=True)
    house.hear((reading(n) for n in range(FIRST + 50, ROWS)), told=False)
    house.damage(FIRST)
    house.look()
    assert house.fetch() == 51
    assert Lost.load(house.store).ask is None


def test_without_a_head_nobody_can_count_and_everything_is_asked_for(house: House) -> None:
    report = house.damage(HEAD_ROW, FIRST, table="tail")
    assert report.rows_lost is None
    house.damage(FIRST)
    lost = house.look(report)
    assert lost.spans == ((0, lost.spans[0][1]),)
    assert lost.spans[0][1] >= house.cloud.told[-1].received_us
    assert house.fetch() == FOLD_SAMPLES
    assert house.look(report).ask is None  # once for each repair


def test_what_the_cloud_has_of_before_this_store_is_not_asked_for(path: Path) -> None:
    house = House(path)
    begun_us = house.clock.us
    house.store.note("hub", "hub.started")
    house.hear(reading(n) for n in range(ROWS))
    past_us = begun_us - 2 * US_PER_DAY
    earlier = [reading(n, "carbs_g", "command", time_us=past_us, received_us=past_us) for n in range(9)]
    house.cloud.told[:0] = earlier
    report = house.damage(HEAD_ROW, table="tail")
    assert house.look(report).spans[0][0] == begun_us - US_PER_DAY
    assert house.fetch() == 0
    house.damage(1)
    assert house.look().spans[0][0] == begun_us - US_PER_DAY
    assert house.fetch() == FOLD_SAMPLES


def test_after_a_log_that_lost_commits_nobody_can_count_and_what_came_last_is_asked_for(house: House) -> None:
    house.reopen()
    for n in range(ROWS, ROWS + 9):
        house.hear([reading(n)])
    names = tuple(house.path.name + end for end in ("", "-wal", ".keys"))
    files = get_files(house.path.parent, names)
    house.store.close()
    log = bytearray(files[names[1]])
    log[len(log) // 2] ^= 4
    put_files(house.path.parent, {**files, names[1]: bytes(log)})
    house.store, report = open_or_repair(house.path, KEY, hub_id=HUB, clock=house.clock)
    assert report is not None
    left = house.store.last_row
    assert ROWS < left < ROWS + 9
    assert (report.rows_lost, report.first_lost_row, report.damaged) == (None, left + 1, {})
    house.hear([reading(ROWS + 9)])
    lost = house.look(report)
    assert lost.spans[0][0] == house.cloud.told[left - 1].received_us
    assert house.fetch() == ROWS + 9 - left
    assert sorted(s.seq for s in house.rows()) == list(range(ROWS + 10))


def test_a_whole_file_that_is_lost_comes_back_when_the_devices_have_spoken(path: Path) -> None:
    house = House(path)
    house.hear(reading(n) for n in range(300))
    meals = [reading(house.clock.us // 1000 + n, "carbs_g", "hand", time_us=house.clock.us) for n in range(3)]
    house.hear(meals)
    house.store.close()
    path.write_bytes(path.read_bytes()[:100] + bytes(100_000))
    path.with_name(path.name + ".keys").unlink()
    house.store, report = open_or_repair(path, KEY, hub_id=HUB, clock=house.clock)
    assert report is not None
    assert (report.rows_lost, house.store.last_row) == (None, 0)
    house.look(report)
    assert house.fetch(pages=4) == 3  # meals only: no number may hide what the sensor tells next
    assert house.store.cursors("cgm") == {}
    assert Lost.load(house.store).ask is not None
    house.store.append([reading(400)])
    assert house.fetch() == 300
    assert sorted(s.seq for s in house.rows() if s.source == "cgm") == [*range(300), 400]
    assert house.store.cursors("cgm") == {"cgm_mgdl": 400}


def test_the_newest_records_wait_until_their_device_has_told_greater_numbers(house: House) -> None:
    house.damage(ROWS, table="tail")
    lost = house.look()
    assert lost.ask is not None
    assert (lost.ask.room, lost.gaps) == (1, ((ROWS, ROWS),))
    for _ in range(3):
        assert house.fetch(pages=1) == 0
    assert house.store.cursors("cgm") == {"cgm_mgdl": ROWS - 2}
    house.store.append([reading(ROWS + 5)])
    assert house.fetch() == 1
    assert house.store.cursors("cgm") == {"cgm_mgdl": ROWS + 5}


@pytest.mark.parametrize(
    ("set_us", "rebooted"),
    [
        *((hours * US_PER_H, False) for hours in (-30, -20, -1, 24)),
        # 20 hours back and a boot hide something: no clock tells how long it was, and the times around the gap look well.
        *((hours * US_PER_H, True) for hours in (-30, -1, 24)),
    ],
)
def test_a_clock_that_was_set_within_the_gap_hides_nothing(path: Path, set_us: int, rebooted: bool) -> None:
    if rebooted and set_us == -20 * US_PER_H:
        pytest.skip(
            "not known: no clock tells how long it was, and the times around the gap look like any others"
        )
    house = House(path)
    steady_us = [US_PER_DAY]
    house.store.arrivals.steady = lambda: steady_us[0]
    for n in range(3 * FOLD_SAMPLES):
        if n == FIRST + 99:
            house.clock.us += set_us
            steady_us[0] *= 1 - rebooted
        house.clock.us += 5 * US_PER_MIN
        steady_us[0] += 5 * US_PER_MIN
        house.cloud.told.extend(house.store.append([reading(n, time_us=house.clock.us)]))
    house.damage(FIRST)
    house.look()
    assert house.fetch() == FOLD_SAMPLES


def test_what_came_back_and_is_lost_again_comes_back_again(house: House) -> None:
    house.damage(FIRST)
    house.look()
    house.fetch()
    house.clock.us += US_PER_DAY
    house.hear(reading(n) for n in range(ROWS + 400, ROWS + 800))
    expected = sorted(s.seq for s in house.rows())
    [row] = [row for row, s in house.store.read(0, 1 << 30) if s.seq == FIRST + 100]
    house.store.close()
    [(first,)] = sql(house.path, f"SELECT max(number) FROM segments WHERE number <= {row}")
    assert isinstance(first, int)
    house.reopen()
    house.damage(first)
    assert len(house.rows()) < len(expected)
    house.look()
    house.fetch()
    assert sorted(s.seq for s in house.rows()) == expected


def test_what_was_thinned_stays_thinned(path: Path) -> None:
    house = House(path)
    house.hear(reading(n) for n in range(ROWS))
    house.store.thinner.thin(1 << 62, FOR_SPACE, cloud=False)
    kept = house.rows()
    thinned = ROWS - len(kept)
    assert thinned >= FOLD_SAMPLES
    house.hear(reading(n) for n in range(ROWS, ROWS + 2 * FOLD_SAMPLES))
    house.damage(thinned + 1)
    lost = house.look()
    assert lost.gaps == ((thinned + 1, thinned + FOLD_SAMPLES),)
    # The cloud gives more than was asked: all it has.
    before = len(house.rows())
    wide = msgspec.structs.replace(lost, ask=Ask(1, ((0, 1 << 60),), 10**6))
    while wide.ask is not None:
        wide, _ = take_back(house.store, wide, house.cloud.answer(wide.ask.question()), house.clock.us)
    assert len(house.rows()) == before + FOLD_SAMPLES


def thinned(path: Path) -> House:
    """Three segments of before a thinning, of which two meals are left, and two of after it."""
    house = House(path)
    house.hear(reading(n) for n in range(100))
    house.hear(reading(n, "carbs_g", "hand", seq=n, quality=int(Quality.BY_HAND)) for n in (100, 101))
    house.hear(reading(n) for n in range(102, 3 * FOLD_SAMPLES))
    assert house.store.thinner.thin(1 << 62, FOR_SPACE, cloud=False) == 3 * FOLD_SAMPLES - 2
    house.hear(reading(n) for n in range(3 * FOLD_SAMPLES, 5 * FOLD_SAMPLES))
    return house


def test_doses_and_meals_of_before_a_thinning_come_back_and_no_reading_that_is_an_average(path: Path) -> None:
    house = thinned(path)
    before = house.rows()
    report = house.damage(1)
    # Rows are missing there anyway: how many of these were not averages nobody can count, and that is said.
    assert (report.rows_lost, report.others_lost) == (0, {"segments": 1})
    lost = house.look(report)
    assert lost.ask is not None
    assert lost.ask.room == 3 * FOLD_SAMPLES
    assert lost.spans == ((0, before[2].received_us),)
    assert house.fetch() == 2
    assert sorted(map(same, house.rows()), key=lambda s: s.seq) == [same(s) for s in before]
    assert house.look(report).ask is None


def test_readings_whose_averages_are_lost_come_back_as_they_were(path: Path) -> None:
    house = thinned(path)
    before = house.rows()
    report = house.damage(1, table="aggregates")
    assert house.store.thinner.read(0, 9) == []
    house.look(report)
    assert house.fetch() == 3 * FOLD_SAMPLES - 2
    assert len(house.rows()) == 5 * FOLD_SAMPLES
    assert house.rows()[: len(before)] == before


def standing(house: House) -> list[float]:
    return [s.value for s in house.store.between(0, 1 << 60, ("carbs_g",))]


@pytest.mark.parametrize("corrected_again", [False, True])
def test_the_last_word_of_a_person_counts_although_an_older_one_comes_back(
    path: Path, corrected_again: bool
) -> None:
    house = House(path)
    house.hear([meal(1, 10.0), *(reading(n) for n in range(FOLD_SAMPLES - 1))])
    house.hear([meal(2, 20.0, amends=("hand", 1)), meal(3, 30.0, amends=("hand", 2))])
    house.hear(reading(n) for n in range(FOLD_SAMPLES, 3 * FOLD_SAMPLES))
    assert standing(house) == [30.0]
    house.damage(FIRST)
    assert standing(house) == [10.0]
    if corrected_again:
        house.hear([meal(4, 40.0, amends=("hand", 1))])
    house.look()
    house.fetch()
    assert standing(house) == [40.0 if corrected_again else 30.0]


def test_a_deletion_comes_back(path: Path) -> None:
    house = House(path)
    house.hear([meal(1, 10.0), *(reading(n) for n in range(FOLD_SAMPLES - 1))])
    house.hear([meal(2, 0.0, amends=("hand", 1), deleted=True)])
    house.hear(reading(n) for n in range(FOLD_SAMPLES, 3 * FOLD_SAMPLES))
    house.damage(FIRST)
    assert standing(house) == [10.0]
    house.look()
    house.fetch()
    assert standing(house) == []


def test_patience_ends_and_says_so(house: House) -> None:
    house.damage(FIRST)
    lost = house.look()
    ask, waited_us = lost.ask, 0
    while ask is not None:
        house.clock.us += 6 * US_PER_H
        waited_us += 6 * US_PER_H
        ask = ask.at(house.clock.us)
    assert PATIENCE_US <= waited_us <= PATIENCE_US + US_PER_DAY
    assert give_up(house.store, lost).ask is None
    assert Lost.load(house.store).ask is None
    assert read_line(house.store.journal(0, 1000)[-1]).detail == {"returned": 0}


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**4)), max_size=200))
def test_joined_spans_hold_all_that_was_in_them(pairs: list[tuple[int, int]]) -> None:
    spans = [(start, start + length) for start, length in pairs]
    made = joined(spans)
    assert len(made) <= MOST_SPANS
    assert all(b < c for (_, b), (c, _) in pairwise(made))
    assert all(any(a <= start and end <= b for a, b in made) for start, end in spans)
