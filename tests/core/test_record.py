"""The record keeps the order of events, whatever the order of arrival."""

from __future__ import annotations

import random

import pytest

from core.errors import InputError
from core.messages import Sample
from core.record import Record, cgm_quarters

MIN_US = 60_000_000


def reading(minute: int, value: float = 100.0, source: str = "cgm") -> Sample:
    return Sample(minute * MIN_US, "cgm_mgdl", value, source, minute)


def test_order_does_not_depend_on_arrival() -> None:
    samples = [reading(m) for m in range(50)] + [reading(m, source="second") for m in range(50)]
    shuffled = samples.copy()
    random.Random(1).shuffle(shuffled)
    one, two = Record(), Record()
    one.add(samples)
    for sample in shuffled:
        two.add([sample])
    assert one.entries == two.entries


def test_readings_come_before_acts_of_the_same_instant() -> None:
    record = Record()
    record.add(
        [
            Sample(0, "carbs_g", 10, "a", 1),
            Sample(0, "cgm_mgdl", 100, "z", 1),
            Sample(0, "basal_uph", 1, "z", 1),
        ]
    )
    assert [e.kind for e in record.entries] == ["basal_uph", "cgm_mgdl", "carbs_g"]


def test_dirty_time_is_the_earliest_that_changed() -> None:
    record = Record()
    assert record.add([reading(5), reading(3), reading(9)]) == 3 * MIN_US
    assert record.add([reading(5)]) is None
    amendment = Sample(8 * MIN_US, "cgm_mgdl", 90.0, "cgm", 1000, amends=("cgm", 3))
    assert record.add([amendment]) == 3 * MIN_US


def test_chain_of_amendments_leaves_the_last() -> None:
    record = Record()
    chain = [
        Sample(0, "carbs_g", 10.0, "hand", 1),
        Sample(0, "carbs_g", 20.0, "hand", 2, amends=("hand", 1)),
        Sample(0, "carbs_g", 30.0, "hand", 3, amends=("hand", 2)),
    ]
    record.add(reversed(chain))
    assert [e.value for e in record.entries] == [30.0]


def test_amendment_reaches_its_own_kind_only() -> None:
    record = Record()
    record.add(
        [
            Sample(0, "carbs_g", 10.0, "meter", 7),
            Sample(0, "bolus_u", 2.0, "meter", 7),
            Sample(0, "bolus_u", 0.0, "hand", 1, amends=("meter", 7), deleted=True),
        ]
    )
    assert [e.kind for e in record.entries] == ["carbs_g"]


def test_what_is_too_old_is_counted_and_left_out() -> None:
    record = Record()
    record.add([reading(m) for m in range(10)])
    record.forget_before(5 * MIN_US)
    assert record.add([reading(2)]) is None
    assert record.ignored_old == 1
    assert record.entries[0].time_us == 5 * MIN_US


def test_nothing_of_a_bad_batch_is_taken() -> None:
    record = Record()
    with pytest.raises(InputError):
        record.add([reading(1), reading(2, value=float("nan"))])
    with pytest.raises(InputError):
        record.add([reading(1), Sample(0, "cgm_mgdl", 100.0, "cgm", 2**63)])
    assert record.entries == []


@pytest.mark.parametrize("interval_min", [1, 5, 15])
def test_a_full_day_is_full_whatever_the_sensors_interval(interval_min: int) -> None:
    record = Record()
    record.add(reading(m) for m in range(0, 1440, interval_min))
    record.add([Sample(7 * MIN_US, "carbs_g", 30.0, "meter", 1)])
    assert cgm_quarters(record.between(-1, 1440 * MIN_US)) == 96
    assert cgm_quarters(record.between(12 * 60 * MIN_US - 1, 1440 * MIN_US)) == 48
