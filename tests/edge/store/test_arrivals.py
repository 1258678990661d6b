"""The stamps of an arrival: rounded, true on both clocks, and of a constant difference until the clock is set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.store.arrivals import RECEIVED_STEP_US, Arrivals
from tests.edge.store.conftest import START_US, FixedClock

JITTER_US = st.integers(-300, 300)  # the two clocks are not read at the same instant
STEPS = st.lists(st.tuples(st.integers(0, 10**9), JITTER_US), min_size=1, max_size=40)


def test_without_a_steady_clock_its_time_is_unknown() -> None:
    assert Arrivals(FixedClock(START_US + 1)).now() == (START_US + RECEIVED_STEP_US, 0)


@given(booted_us=st.integers(START_US - 10**13, START_US - 1), steps=STEPS)
def test_the_difference_of_both_times_is_constant_and_both_are_true(
    booted_us: int, steps: list[tuple[int, int]]
) -> None:
    clock, jitter_us = FixedClock(), 0
    arrivals = Arrivals(clock)
    arrivals.steady = lambda: clock.us - booted_us + jitter_us
    differences = set()
    for step_us, jitter_us in steps:  # noqa: B007 - the steady clock reads it
        clock.us += step_us
        received_us, steady_us = arrivals.now()
        assert 0 <= received_us - clock.us < RECEIVED_STEP_US
        assert steady_us % RECEIVED_STEP_US == 0
        assert abs(steady_us - (clock.us - booted_us)) <= 2 * RECEIVED_STEP_US
        assert steady_us > 0
        if steady_us > RECEIVED_STEP_US:  # the first moments after a boot are rounded up: zero is "unknown"
            differences.add(received_us - steady_us)
    assert len(differences) <= 1


@given(st.lists(st.tuples(st.integers(1, 10**10), st.integers(-(10**14), 10**14)), min_size=2, max_size=40))
def test_steady_time_never_falls_wherever_the_wall_clock_is_set(moves: list[tuple[int, int]]) -> None:
    clock, passed_us = FixedClock(), 10**6
    arrivals = Arrivals(clock)
    arrivals.steady = lambda: passed_us
    last_us = 0
    for step_us, jump_us in moves:
        passed_us += step_us
        clock.us += step_us + jump_us
        _, steady_us = arrivals.now()
        assert steady_us >= last_us
        assert abs(steady_us - passed_us) <= 2 * RECEIVED_STEP_US
        last_us = steady_us
