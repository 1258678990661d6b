"""The gate of hand entries: each once, for a day, also across restarts, crashes and wrong clocks."""

from __future__ import annotations

import itertools
import os
from collections import Counter

import pytest

from core.units import US_PER_DAY, US_PER_MIN
from sync.commands import FUTURE_US, REMEMBERED, CommandGate
from sync.envelope import Command, seal_command

KEY = os.urandom(32)
NOW_US = 1_767_362_400_000_000


class StoppedClock:
    def __init__(self, now_us: int = NOW_US) -> None:
        self.us = now_us

    def now_us(self) -> int:
        return self.us

    def wait_s(self, span_us: int) -> float:
        return span_us / 1e6


class Door:
    """A gate with its counters."""

    def __init__(self, seen: tuple[tuple[int, int], ...] = (), *, allow_clear: bool = False) -> None:
        self.clock = StoppedClock()
        self.gate = CommandGate("hub-1", KEY, self.clock, allow_clear=allow_clear)
        self.gate.remember(seen)
        self.counters: Counter[str] = Counter()

    def take(self, command_id: int, sent_us: int = NOW_US) -> int | None:
        """The id let through, or None."""
        sealed = seal_command(KEY, "hub-1", Command(command_id, sent_us, {"kind": "carbs_g"}))
        taken = self.gate.open(sealed, self.counters)
        return None if taken is None else taken.command_id


def test_the_id_comes_with_the_request_so_that_a_record_can_carry_it() -> None:
    door = Door(allow_clear=True)
    sealed = seal_command(KEY, "hub-1", Command(77, NOW_US, {"kind": "carbs_g"}))
    assert door.gate.open(sealed, door.counters) == ({"time_us": NOW_US, "kind": "carbs_g"}, 77)
    assert door.gate.open(b'{"kind":"carbs_g"}', door.counters) == ({"kind": "carbs_g"}, None)


@pytest.mark.parametrize("command_id", [-1, -(2**63), 2**63, 2**64 - 1])
def test_an_id_that_no_record_can_carry_is_refused(command_id: int) -> None:
    door = Door()
    assert door.take(command_id) is None
    assert door.counters == {"command.unusable": 1}


def test_a_command_from_the_future_is_refused_and_blocks_nobody() -> None:
    door = Door()
    assert door.take(1, NOW_US + FUTURE_US + 1) is None
    assert door.counters["command.future"] == 1
    for command_id in range(2, REMEMBERED + 10):
        assert door.take(command_id, door.clock.us) == command_id
        door.clock.us += 1


def test_clocks_may_differ_by_minutes() -> None:
    door = Door()
    assert door.take(1, NOW_US + FUTURE_US) == 1
    # and a whole day of entries later that one from a fast clock has pushed nothing else out
    ids = itertools.count(2)
    for sent_us in range(NOW_US - REMEMBERED, NOW_US + 50):
        assert door.take(next(ids), sent_us) is not None


def test_a_forgotten_command_stays_refused_after_a_restart() -> None:
    door = Door()
    for i in range(REMEMBERED + 5):
        assert door.take(i, NOW_US + i) == i
    again = Door(door.gate.seen)
    assert [again.take(i, NOW_US + i) for i in range(REMEMBERED + 5)] == [None] * (REMEMBERED + 5)
    assert again.take(5000, NOW_US + REMEMBERED) == 5000
    assert again.gate.seen[0] != door.gate.seen[0]  # the horizon moved on
    assert all(len(pair) == 2 and all(isinstance(n, int) for n in pair) for pair in again.gate.seen)


def test_what_was_remembered_by_a_version_without_horizon_is_still_refused() -> None:
    door = Door(((7, NOW_US), (8, NOW_US)))
    assert (door.take(7), door.take(8), door.take(9)) == (None, None, 9)


def test_memory_is_bounded_whatever_was_stored() -> None:
    door = Door(tuple((i, NOW_US + i) for i in range(3 * REMEMBERED)))
    assert len(door.gate.seen) == REMEMBERED + 1


def test_a_command_that_could_not_be_stored_is_let_through_again() -> None:
    door = Door()
    assert door.take(7) == 7
    door.gate.forget(7)
    assert door.take(7) == 7
    assert door.take(7) is None


def test_a_day_old_command_is_late() -> None:
    door = Door()
    assert door.take(1, NOW_US - US_PER_DAY) is None
    assert door.take(2, NOW_US - US_PER_DAY + US_PER_MIN) == 2
    assert door.counters["command.late"] == 1
