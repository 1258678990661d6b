"""Which outbox numbers are on their way, and what to send next. No sockets, no clock, no bytes.

The hub sends numbers in order and keeps at most a window of them in flight. The cloud takes them in order
only; a number whose predecessor is missing is dropped there and answered with an empty acknowledgement,
"begin again". So everything goes back to the oldest number without acknowledgement and is sent again from
there, on four occasions: a new connection, a time-out, an empty acknowledgement, or a lost one.

    OFFLINE --connected--> IDLE or WAITING        any --lost--> OFFLINE
    IDLE    --sent-------> WAITING                WAITING --time-out--> LATE --time-out--> LATE (doubling)
    WAITING, LATE --acknowledged--> WAITING, or IDLE when nothing is left

Times are seconds on a monotonic clock of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

# Messages in flight. At 50 ms to the broker and 200 samples a message, 32 give over 100,000 samples/s;
# at 16 kB a message they are half a megabyte of memory on the hub.
WINDOW: Final = 32
# An acknowledgement needs a round trip and one disk flush: 10-300 ms. Shorter repeats in vain on a busy
# broker; longer leaves a gap after a cloud restart.
ACK_TIMEOUT_S: Final = 3.0
ACK_TIMEOUT_MAX_S: Final = 30.0
# Empty acknowledgements come once per dropped message; one rewind answers them all. The pause doubles, up to
# the longest time-out, as long as no acknowledgement shows that beginning again did any good.
REWIND_PAUSE_S: Final = 0.5
# A counter of each status: the generation of the hub's store. It falls only when that is another, or an older copy.
GENERATION: Final = "store.generation"


class State(Enum):
    """See the table above."""

    OFFLINE = "offline"
    IDLE = "idle"
    WAITING = "waiting"
    LATE = "late"


class Send(NamedTuple):
    """Send ``number`` now; ``after`` is its unacknowledged predecessor, 0 for none."""

    number: int
    after: int


class SessionTable:
    """The window of one hub."""

    def __init__(
        self,
        window: int = WINDOW,
        ack_timeout_s: float = ACK_TIMEOUT_S,
        ack_timeout_max_s: float = ACK_TIMEOUT_MAX_S,
        rewind_pause_s: float = REWIND_PAUSE_S,
    ) -> None:
        if window < 1:
            raise ValueError("a window holds at least one message")
        self.window = window
        self.state = State.OFFLINE
        self.resends = 0  # messages sent more than once, ever
        self.timeouts = 0
        self._ack_timeout_s = ack_timeout_s
        self._ack_timeout_max_s = ack_timeout_max_s
        self._rewind_pause_s = rewind_pause_s
        self._fruitless = 0  # rewinds since the last acknowledgement that told something new
        self._numbers: list[int] = []  # unacknowledged, rising
        self._newest = 0  # greatest number ever taken
        self._unsent = 0  # index of the first that is still to be sent on this connection
        self._ever_sent = 0  # greatest number sent on any connection
        self._timeout_s = ack_timeout_s
        self._deadline_s = float("inf")
        self._rewound_s = float("-inf")

    @property
    def in_flight(self) -> tuple[int, ...]:
        """Numbers taken from the outbox and not acknowledged."""
        return tuple(self._numbers)

    @property
    def room(self) -> int:
        """How many more numbers fit."""
        return self.window - len(self._numbers)

    @property
    def deadline_s(self) -> float:
        """When ``due`` has something to do although nothing else happens; infinite when never."""
        return self._deadline_s

    def on_connected(self, mono_s: float) -> None:
        """A new connection: what was in flight may or may not have arrived, so all of it goes again."""
        self.state = State.WAITING if self._numbers else State.IDLE
        self._timeout_s = self._ack_timeout_s
        self._rewind(mono_s)
        self._rewound_s, self._fruitless = float("-inf"), 0  # a call to begin again may follow at once

    def on_lost(self) -> None:
        """The connection is gone."""
        self.state = State.OFFLINE
        self._deadline_s = float("inf")

    def offer(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Take numbers from the front of the outbox into the window; returns those that are new to it.

        A number is taken once: one that was acknowledged a moment ago may still lie in the outbox.
        """
        taken = tuple(sorted(n for n in numbers if n > self._newest))[: self.room]
        if taken:
            self._numbers.extend(taken)
            self._newest = taken[-1]
        return taken

    def due(self, mono_s: float) -> tuple[Send, ...]:
        """What to send now, in order. Each call takes note that it was sent."""
        if self.state is State.OFFLINE:
            return ()
        if mono_s >= self._deadline_s and self._numbers:
            self.timeouts += 1
            self.state = State.LATE
            self._timeout_s = min(2 * self._timeout_s, self._ack_timeout_max_s)
            self._rewind(mono_s)
        sends = tuple(
            Send(self._numbers[i], self._numbers[i - 1] if i else 0)
            for i in range(self._unsent, len(self._numbers))
        )
        if sends:
            self.resends += sum(send.number <= self._ever_sent for send in sends)
            self._ever_sent = max(self._ever_sent, sends[-1].number)
            self._unsent = len(self._numbers)
            self._deadline_s = mono_s + self._timeout_s
            if self.state is State.IDLE:
                self.state = State.WAITING
        return sends

    def on_ack(self, numbers: tuple[int, ...], mono_s: float) -> tuple[int, ...]:
        """The cloud has ``numbers`` durably; returns those that were in flight. Empty means: begin again."""
        if not numbers:
            pause_s = min(self._rewind_pause_s * 2.0 ** min(self._fruitless, 20), self._ack_timeout_max_s)
            if self.state is not State.OFFLINE and mono_s - self._rewound_s >= pause_s:
                self._fruitless += 1
                self._rewind(mono_s)
            return ()
        told = set(numbers)
        done = tuple(n for n in self._numbers if n in told)
        if done:
            self._fruitless = 0
            self._unsent -= sum(n in told for n in self._numbers[: self._unsent])
            self._numbers = [n for n in self._numbers if n not in told]
            if self.state is not State.OFFLINE:
                self._timeout_s = self._ack_timeout_s
                self._deadline_s = mono_s + self._timeout_s if self._unsent else float("inf")
                self.state = State.WAITING if self._numbers else State.IDLE
        return done

    def _rewind(self, mono_s: float) -> None:
        self._unsent = 0
        self._rewound_s = mono_s
        self._deadline_s = float("inf")  # until due() has sent something
