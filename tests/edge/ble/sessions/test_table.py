"""The table of states, and what no sequence of calls and octets may break."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError, HometwinError, LinkError, ProcedureError
from core.units import KINDS
from edge.ble.session import SESSIONS, Close, Read, Samples, Step, make_session
from edge.ble.sessions_machine import TRANSITIONS, Input, State
from tests.edge.ble.profiles.test_vectors import CASES
from tests.edge.ble.sessions.desk import LONDON, Desk, us

UUIDS = sorted(
    {uuid for kind in SESSIONS.values() for uuid in (*kind.required, *kind.reads, *kind.subscriptions)}
)
VALID = [bytes.fromhex(case.values[0]["hex"]) for case in CASES]


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.NEW}
    while True:
        more = {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == set(State)
    for state in State:
        ways_out = [after for (before, _), after in TRANSITIONS.items() if before is state]
        assert bool(ways_out) == (state is not State.CLOSED)


def test_every_open_state_can_fail_and_every_input_is_used() -> None:
    for state in State:
        if state is not State.CLOSED:
            assert TRANSITIONS[state, Input.FAIL] is State.CLOSED
    assert {given for _, given in TRANSITIONS} == set(Input)


def test_unknown_profile_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="unknown profile 'toaster'"):
        make_session("toaster", "x", {}, LONDON)


@pytest.mark.parametrize("profile", [name for name, kind in SESSIONS.items() if kind.required])
def test_a_device_without_its_characteristics_is_closed_with_the_reason(profile: str) -> None:
    desk = Desk(profile, {}, set()).start()
    assert isinstance(desk.closed, ProcedureError)
    assert "lacks characteristic" in str(desk.closed)
    assert desk.state == "closed"


class Monkey:
    """Answers actions wrongly, late or not at all, and notifies noise."""

    def __init__(self, profile: str) -> None:
        self.session = make_session(profile, "dev", {}, ZoneInfo("Europe/London"))
        self.last: dict[str, int] = {}
        self.open: list[Any] = []
        self.closed = False

    def take(self, step: Step) -> None:
        for action in step.actions:
            assert not self.closed, "an action after Close"
            if isinstance(action, Close):
                self.closed = True
            else:
                assert not self.open, "two unanswered actions"
                self.open.append(action)
        for event in step.events:
            if isinstance(event, Samples):
                for sample in event.samples:
                    assert sample.seq > self.last.get(sample.kind, -(2**70))
                    assert KINDS[sample.kind].low <= sample.value <= KINDS[sample.kind].high
                    self.last[sample.kind] = sample.seq
                self.take(self.session.on_stored(event.samples))


calls = st.lists(
    st.tuples(
        st.sampled_from(["answer", "fail", "value", "value", "tick", "wrong", "start"]),
        st.sampled_from(UUIDS),
        st.one_of(st.sampled_from(VALID), st.binary(max_size=24)),
        st.floats(0, 40),
    ),
    max_size=60,
)


@pytest.mark.parametrize("profile", SESSIONS)
@settings(max_examples=120, deadline=None)
@given(script=calls)
def test_no_sequence_of_calls_and_octets_breaks_a_session(profile: str, script: list[Any]) -> None:
    monkey = Monkey(profile)
    now_us, mono_s = us("2026-07-01T12:00:00"), 5.0
    error: HometwinError = LinkError("gone")
    monkey.take(monkey.session.start(frozenset(UUIDS), now_us, mono_s))
    for what, uuid, data, span_s in script:
        now_us += int(span_s * 1e6)
        mono_s += span_s
        session = monkey.session
        if what == "start" and not monkey.closed:
            monkey.open.clear()
            monkey.take(session.start(frozenset(UUIDS), now_us, mono_s))
        elif what == "value":
            monkey.take(session.on_value(uuid, data, now_us, mono_s))
        elif what == "tick":
            monkey.take(session.on_tick(now_us, mono_s))
        elif what == "wrong":
            if not (monkey.open and monkey.open[0].uuid == uuid):
                monkey.take(session.on_done(uuid, now_us, mono_s))
        elif monkey.open and not monkey.closed:
            action = monkey.open.pop()
            if what == "fail":
                monkey.take(session.on_failed(action.uuid, error, now_us, mono_s))
            elif isinstance(action, Read):
                monkey.take(session.on_read(action.uuid, data, now_us, mono_s))
            else:
                monkey.take(session.on_done(action.uuid, now_us, mono_s))
