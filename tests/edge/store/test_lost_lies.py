"""A cloud that lies, or never ends, can do no more than fill the gap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.messages import Quality, Returned, Sample
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge.store.lost import (
    LATE_US,
    MARGIN_US,
    Lost,
    take_back,
    within,
)
from edge.store.store import FOLD_SAMPLES, Store
from tests.edge.store.conftest import HUB, KEY, START_US, reading
from tests.edge.store.lost_house import (
    FIRST,
    LAST,
    REQUEST,
    ROWS,
    House,
    filled,
    meal,
)


@pytest.fixture
def house(path: Path) -> House:
    return filled(path)


GAP = (START_US + FIRST * 300_000_000, START_US + LAST * 300_000_000)
within_gap = st.integers(GAP[0] - US_PER_H, GAP[1] + US_PER_H)
around = within_gap | st.integers(GAP[0] - LATE_US - US_PER_DAY, GAP[1] + US_PER_DAY)
sources = st.sampled_from(["cgm", "hand", "command", "watch"])
numbers = st.integers(FIRST - 1, LAST - 1) | st.integers(0, 2 * ROWS)
believable = st.builds(
    Sample,
    time_us=around,
    kind=st.sampled_from(["cgm_mgdl", "carbs_g"]),
    value=st.floats(50, 150),
    source=sources,
    seq=numbers,
    received_us=around,
    amends=st.none() | st.tuples(sources, numbers | st.just(START_US // 1000)),
    deleted=st.sampled_from([False, False, False, True]),
)
ints = st.integers(-(1 << 63), (1 << 64) - 1)
odd = st.fixed_dictionaries(
    {},
    optional={
        "time_us": ints,
        "received_us": ints,
        "seq": ints,
        "value": st.floats(),
        "quality": st.integers(-1, 1 << 40),
        "kind": st.sampled_from(["nonsense", "", "bolus_u"]),
        "source": st.sampled_from(["", "x" * 300]),
        "amends": st.tuples(st.sampled_from(["", "hand"]), ints),
    },
)
lies = believable | st.builds(lambda s, more: msgspec.structs.replace(s, **more), believable, odd)
pages = st.builds(
    Returned,
    request=st.just(REQUEST),
    after=st.just(0) | st.just(0) | st.integers(0, 500),
    samples=st.lists(lies, min_size=1, max_size=12).map(tuple),
    next=st.integers(1, 500) | st.sampled_from([-1, (1 << 64) - 1]),
    more=st.just(True) | st.just(True) | st.booleans(),
)


@pytest.fixture
def small(path: Path) -> Callable[[], House]:
    house = filled(path)
    house.hear([meal(START_US // 1000, 30.0)])
    house.damage(FIRST)
    house.look()
    house.store.close()
    data = path.read_bytes()

    def fresh() -> House:
        house.store.close()
        path.write_bytes(data)
        house.store = Store.open(path, KEY, hub_id=HUB, clock=house.clock)
        return house

    return fresh


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=st.lists(pages, min_size=1, max_size=6))
def test_whatever_the_cloud_says_it_only_fills_the_gap(
    small: Callable[[], House], told: list[Returned]
) -> None:
    house = small()
    before, cursors, last = house.rows(), house.store.cursors("cgm"), house.store.last_row
    spans, hand = Lost.load(house.store).spans, house.store._head.counters.get("hand", 0)
    for page in told:
        lost = Lost.load(house.store)
        if lost.ask is not None and page.after == 0:  # as somebody would who knows where we are
            page = msgspec.structs.replace(page, after=lost.ask.after)
        take_back(house.store, lost, page, house.clock.us)
    rows = house.rows()
    new = rows[len(before) :]
    assert rows[: len(before)] == before  # nothing is changed
    assert house.store.last_row - last == len(new) <= FOLD_SAMPLES
    assert len({s.key for s in rows}) == len(rows)
    # No number hides what is to come: not now, while the sensor is asked again, nor after that.
    assert max(house.store.cursors("cgm").values()) == cursors["cgm_mgdl"]
    assert max(house.store._index.cursors("cgm").values()) == ROWS - 1
    for sample in new:
        assert sample.quality & Quality.RETURNED
        assert spans[0][0] - LATE_US <= sample.time_us <= spans[0][1] + MARGIN_US
        assert sample.source != "watch"  # of a device that never spoke
        assert sample.source != "hand" or sample.seq <= max(hand, house.clock.us // 1000)
        assert sample.amends is None or sample.source in ("hand", "command")
    house.reopen()
    assert house.rows() == rows


def test_no_more_comes_back_than_is_missing(house: House) -> None:
    house.damage(FIRST)
    lost = house.look()
    invented = tuple(
        Sample(GAP[0] + n * US_PER_MIN, "carbs_g", 10.0, "command", n, received_us=GAP[0])
        for n in range(2 * FOLD_SAMPLES)
    )
    for _ in range(3):
        lost, _ = take_back(house.store, lost, Returned(REQUEST, 0, invented, 1, True), house.clock.us)
    assert lost.ask is None
    assert len(house.rows()) == ROWS


def test_no_number_of_an_entry_that_is_still_to_be_made_is_taken(house: House) -> None:
    house.damage(FIRST)
    lost = house.look()
    now_ms, received_us = house.clock.us // 1000, GAP[0]
    entries = tuple(
        Sample(received_us, "carbs_g", 10.0, "hand", number, received_us=received_us)
        for number in (now_ms - 1, now_ms, now_ms + 1, now_ms + 60_000)
    )
    _, came = take_back(house.store, lost, Returned(REQUEST, 0, entries, 1, True), house.clock.us)
    assert came == 1
    assert house.store.next_number("hand") == now_ms


def test_a_cloud_that_never_ends_is_left(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.store.lost.MOST_UNKNOWN", 1000)
    house.damage(FIRST)
    lost, pages = house.look(), 0
    while lost.ask is not None:
        page = Returned(REQUEST, lost.ask.after, (reading(0),), lost.ask.after + 1, True)
        lost, _ = take_back(house.store, lost, page, house.clock.us)
        pages += 1
        assert pages < 50


@pytest.mark.parametrize(
    ("time_us", "received_us", "is_within"),
    [
        (5 * US_PER_DAY, 5 * US_PER_DAY, True),
        (1 * US_PER_DAY, 1 * US_PER_DAY, False),
        (5 * US_PER_DAY, 0, True),  # by a clock that began in 1970
        (1 * US_PER_DAY, 5 * US_PER_DAY, True),  # told late
        (8 * US_PER_DAY, 5 * US_PER_DAY, False),
        (-1, 5 * US_PER_DAY, False),
    ],
)
def test_what_lies_within_a_span(time_us: int, received_us: int, is_within: bool) -> None:
    sample = Sample(time_us, "cgm_mgdl", 100.0, "cgm", 1, received_us=received_us)
    assert within(sample, [(0, 1), (4 * US_PER_DAY, 6 * US_PER_DAY)]) is is_within
