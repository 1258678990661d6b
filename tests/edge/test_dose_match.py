"""Which bolus stands for which dose: each for one at most, as many doses as can be, and none by accident."""

from __future__ import annotations

from itertools import permutations

import pytest

from core.messages import Quality, Sample
from core.units import US_PER_H, US_PER_MIN
from edge.dose_match import Dose, advised, matched, missing_u, noted

T = 1_767_600_000_000_000


def bolus(
    minutes: float, units: float, seq: int, received: float | None = None, by_hand: bool = False
) -> Sample:
    at_us, got = T + round(minutes * US_PER_MIN), minutes if received is None else received
    quality = int(Quality.BY_HAND) if by_hand else 0
    return Sample(at_us, "bolus_u", units, "pump", seq, quality, T + round(got * US_PER_MIN))


def said(name: str, units: float, since: float, until: float) -> Dose:
    return noted(name, units, T + round(since * US_PER_MIN), T + round(until * US_PER_MIN))


def test_one_bolus_stands_for_one_of_two_doses_in_any_order() -> None:
    doses = (said("a", 4.0, 0, 2), said("b", 4.0, 10, 12))
    for order in permutations(doses):
        missing = missing_u(order, [bolus(11, 4.0, 1)])
        assert sum(missing.values()) == 4.0
        assert missing_u(order, [bolus(1, 4.0, 1)]) == {"a": 0.0, "b": 4.0}  # before there was b
    assert missing_u(doses, [bolus(1, 4.0, 1), bolus(11, 4.0, 2)]) == {"a": 0.0, "b": 0.0}


def test_a_large_bolus_does_not_stand_for_two_small_doses() -> None:
    doses = (said("a", 4.0, 0, 2), said("b", 1.5, 10, 12))
    assert missing_u(doses, [bolus(11, 6.0, 1)]) == {"a": 0.0, "b": 1.5}


def test_size_tells_doses_apart_where_times_do_not() -> None:
    doses = (said("a", 4.0, 0, 12), said("b", 1.5, 0, 12))
    assert missing_u(doses, [bolus(12, 1.5, 1)]) == {"a": 4.0, "b": 0.0}
    assert missing_u(doses, [bolus(3, 4.0, 1)]) == {"a": 0.0, "b": 1.5}


def test_a_dose_takes_its_second_choice_where_another_has_only_one() -> None:
    doses = (said("a", 4.0, 0, 20), said("b", 4.0, 15, 16))
    near_both, early = bolus(19, 4.0, 1), bolus(2, 4.0, 2)
    assert missing_u(doses, [near_both, early]) == {"a": 0.0, "b": 0.0}
    assert missing_u(doses, [early, near_both]) == {"a": 0.0, "b": 0.0}


def test_a_dose_may_come_in_parts_and_each_part_counts_once() -> None:
    doses = (said("a", 4.0, 0, 2), said("b", 4.0, 0, 4))
    parts = [bolus(1, 2.0, 1), bolus(2, 2.0, 2)]
    assert sum(missing_u(doses, parts).values()) == 4.0
    assert missing_u(doses[:1], parts) == {"a": 0.0}


@pytest.mark.parametrize(
    ("found", "is_it"),
    [
        (bolus(-3, 4.0, 1, received=1), True),  # the pump's clock is behind
        (bolus(-10, 4.0, 1, received=1), False),  # reported late, but taken before there was any advice
        (bolus(-2, 4.0, 1, received=-1), False),  # on record before there was any advice
        (bolus(45, 4.0, 1), False),  # another dose
        (bolus(45, 4.0, 1, by_hand=True), True),  # entered late, its time left at the present
        (bolus(-20, 4.0, 1, received=5, by_hand=True), True),  # a rough time
        (bolus(3, 3.95, 1), True),  # rounding
        (bolus(3, 3.5, 1), False),
    ],
)
def test_which_bolus_may_be_a_dose(found: Sample, is_it: bool) -> None:
    missing = missing_u([said("a", 4.0, 0, 5)], [found])["a"]
    assert (missing <= 0.1) == is_it


def test_an_advised_dose_is_a_bolus_of_about_its_size_and_doses_noted_come_first() -> None:
    dose = advised("x", 4.2, T, T + US_PER_H)
    for units, is_it in ((4.2, True), (4.0, True), (4.5, True), (3.0, False), (6.0, False)):
        assert bool(matched([dose], [bolus(5, units, 1)])) == is_it
    assert not matched([advised("x", 0.4, T, T)], [bolus(0, 0.1, 1)])
    assert matched([said("a", 4.0, 0, 5), dose], [bolus(5, 4.0, 1)]) == {0: 0}
