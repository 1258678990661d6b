"""The session table against a wire that loses, delays and repeats: everything once, in order, within the window."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.session import ACK_TIMEOUT_S, Send, SessionTable, State


def connected(window: int = 4) -> SessionTable:
    table = SessionTable(window)
    table.on_connected(0.0)
    return table


def test_numbers_go_out_in_order_each_naming_its_unacknowledged_predecessor() -> None:
    table = connected()
    assert table.offer([3, 7, 8]) == (3, 7, 8)
    assert table.due(0.0) == (Send(3, 0), Send(7, 3), Send(8, 7))
    assert table.due(0.1) == ()
    assert table.state is State.WAITING


def test_the_window_bounds_what_is_in_flight() -> None:
    table = connected(window=4)
    assert table.offer(range(1, 100)) == (1, 2, 3, 4)
    assert (table.room, table.in_flight) == (0, (1, 2, 3, 4))


def test_nothing_is_sent_offline_and_all_in_flight_goes_again_after_a_new_connection() -> None:
    table = connected()
    table.offer([1, 2, 3])
    table.due(0.0)
    table.on_ack((1,), 0.1)
    table.on_lost()
    assert table.due(100.0) == ()
    table.on_connected(100.0)
    assert table.due(100.0) == (Send(2, 0), Send(3, 2))


def test_a_number_is_taken_from_the_outbox_once_even_if_it_still_lies_there() -> None:
    table = connected()
    table.offer([1, 2])
    table.due(0.0)
    assert table.on_ack((1, 2), 0.1) == (1, 2)
    assert table.offer([1, 2, 3]) == (3,)


def test_silence_means_everything_again_each_time_after_a_longer_wait() -> None:
    table = connected()
    table.offer([1, 2])
    table.due(0.0)
    now_s, waits = 0.0, []
    for _ in range(6):
        wait_s = table.deadline_s - now_s
        now_s = table.deadline_s
        assert table.due(now_s) == (Send(1, 0), Send(2, 1))
        waits.append(wait_s)
    assert waits == pytest.approx([3, 6, 12, 24, 30, 30])
    assert (table.state, table.timeouts, table.resends) == (State.LATE, 6, 12)


def test_an_acknowledgement_ends_the_back_off() -> None:
    table = connected()
    table.offer([1, 2])
    table.due(0.0)
    table.due(3.0)
    table.due(9.0)
    table.on_ack((1,), 10.0)
    assert table.deadline_s == pytest.approx(10.0 + ACK_TIMEOUT_S)
    assert table.state is State.WAITING
    table.on_ack((2,), 10.5)
    assert (table.state, table.deadline_s) == (State.IDLE, float("inf"))


def test_an_empty_acknowledgement_rewinds_once_per_pause() -> None:
    table = connected()
    table.offer([1, 2])
    table.due(0.0)
    table.on_ack((), 1.0)
    assert table.due(1.0) == (Send(1, 0), Send(2, 1))
    table.on_ack((), 1.1)
    assert table.due(1.1) == ()


def test_calls_to_begin_again_that_do_no_good_are_followed_ever_more_rarely() -> None:
    table = connected()
    table.offer([1, 2])
    table.due(0.0)
    sent, now_s = 0, 0.0
    while now_s < 300.0:
        now_s += 0.1
        table.on_ack((), now_s)
        sent += len(table.due(now_s))
    assert sent <= 2 * 20  # 300 s at 30 s, and a few at the start
    table.on_ack((1,), now_s)
    table.on_ack((), now_s + 31)
    assert table.due(now_s + 31) == (Send(2, 0),)
    table.on_ack((), now_s + 32)  # an acknowledgement was news: 1 s is long enough again
    assert table.due(now_s + 32) == (Send(2, 0),)


def test_acknowledgements_of_unknown_numbers_change_nothing() -> None:
    table = connected()
    table.offer([5])
    table.due(0.0)
    assert table.on_ack((1, 99), 0.1) == ()
    assert table.in_flight == (5,)


def test_a_later_acknowledgement_leaves_the_gap_first_in_line() -> None:
    table = connected()
    table.offer([1, 2, 3])
    table.due(0.0)
    assert table.on_ack((2, 3), 0.1) == (2, 3)
    assert table.due(table.deadline_s) == (Send(1, 0),)


def test_a_window_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SessionTable(0)


class Cloud:
    """The receiving rule of cloud/ingest.py."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def receive(self, send: Send) -> tuple[int, ...]:
        if send.number in self.taken:
            return (send.number,)
        if send.after not in (0, self.taken[-1] if self.taken else 0):
            return ()
        self.taken.append(send.number)
        return (send.number,)


EVENTS = st.lists(
    st.sampled_from(
        ["step", "step", "step", "lose_up", "lose_up_middle", "repeat_up", "lose_ack", "reconnect", "restart"]
    ),
    max_size=120,
)


@given(gaps=st.lists(st.integers(1, 5), min_size=1, max_size=40), events=EVENTS, window=st.integers(1, 8))
@settings(max_examples=300, deadline=None)
def test_whatever_the_wire_does_every_number_is_taken_once_in_order(
    gaps: list[int], events: list[str], window: int
) -> None:
    numbers = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    outbox, cloud, now_s = list(numbers), Cloud(), 0.0
    table = SessionTable(window)
    table.on_connected(now_s)
    up: deque[Send] = deque()
    acks: deque[tuple[int, ...]] = deque()

    def turn() -> None:
        table.offer(outbox[:window])
        assert len(table.in_flight) <= window
        sends = table.due(now_s)
        assert [s.number for s in sends] == sorted(s.number for s in sends)
        up.extend(sends)
        if up:
            acks.append(cloud.receive(up.popleft()))
        if acks:
            done = table.on_ack(acks.popleft(), now_s)
            assert set(done) <= set(cloud.taken)  # never done without having been taken
            for number in done:
                outbox.remove(number)

    for event in events:
        now_s += 0.3
        if event == "lose_up" and up:
            up.popleft()
        elif event == "lose_up_middle" and up:
            del up[len(up) // 2]
        elif event == "repeat_up" and up:
            up.append(up[0])
        elif event == "lose_ack" and acks:
            acks.popleft()
        elif event == "reconnect":
            table.on_lost()
            table.on_connected(now_s)
        elif event == "restart":  # the hub dies: the table is gone, the outbox is not
            table = SessionTable(window)
            table.on_connected(now_s)
        turn()
    for _ in range(20 * len(numbers) + 200):
        now_s += 1.0
        turn()
    assert cloud.taken == numbers
    assert outbox == []
