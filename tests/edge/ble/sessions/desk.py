"""A desk to drive one session by hand: it plays the driver, and a device that answers from a script.

Octets are written out in the tests; the only help is the CRC, by another route than the codec's.
"""

from __future__ import annotations

import binascii
from collections import Counter, defaultdict, deque
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from core.errors import HometwinError, LinkError
from core.messages import Sample
from edge.ble.session import Close, Counted, Facts, Read, Samples, Step, Subscribe, Write, make_session

LONDON = ZoneInfo("Europe/London")
MIN_US = 60_000_000


def us(text: str) -> int:
    """Microseconds of an ISO time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def octets(text: str) -> bytes:
    """Octets from hex; the word CRC stands for the E2E-CRC of what is before it."""
    data = b""
    for part in text.replace("CRC", " CRC ").split():
        if part == "CRC":
            turned = bytes(int(f"{octet:08b}"[::-1], 2) for octet in data)
            crc = int(f"{binascii.crc_hqx(turned, 0xFFFF):016b}"[::-1], 2)
            data += bytes((crc & 0xFF, crc >> 8))
        else:
            data += bytes.fromhex(part)
    return data


class Desk:
    """Answers reads from ``values``, confirms writes, and lets ``script`` say what a write sets off."""

    def __init__(
        self,
        profile: str,
        values: dict[int, str],
        present: set[int],
        *,
        cursors: dict[str, int] | None = None,
        now: str = "2026-07-01T12:00:00",
        durable: bool = True,
    ) -> None:
        self.session = make_session(profile, "dev", cursors or {}, LONDON)
        self.values = {uuid: deque([octets(text)]) for uuid, text in values.items()}
        self.present = frozenset(values) | frozenset(present)
        self.now_us = us(now)
        self.mono_s = 1000.0
        self.durable = durable
        self.script: defaultdict[int, deque[list[tuple[int, bytes]]]] = defaultdict(deque)
        self.samples: list[Sample] = []
        self.batches: list[tuple[Sample, ...]] = []
        self.facts: dict[str, str | int | float] = {}
        self.counts: Counter[str] = Counter()
        self.writes: list[tuple[int, str]] = []
        self.subscribed: list[int] = []
        self.closed: HometwinError | None = None
        self.hold_answers = False  # leave the next actions unanswered, in ``waiting``
        self.waiting: deque[Read | Write | Subscribe] = deque()

    # --- script ---

    def on_write(self, uuid: int, *answers: tuple[int, str]) -> None:
        """The next write to ``uuid`` that has no answers yet sets off these notifications."""
        self.script[uuid].append([(to, octets(text)) for to, text in answers])

    # --- driver ---

    def start(self) -> Desk:
        self.take(self.session.start(self.present, self.now_us, self.mono_s))
        return self

    def value(self, uuid: int, text: str) -> None:
        self.take(self.session.on_value(uuid, octets(text), self.now_us, self.mono_s))

    def tick(self, real_s: float = 0.0, twin_min: float = 0.0) -> None:
        self.mono_s += real_s
        self.now_us += int(twin_min * MIN_US)
        self.take(self.session.on_tick(self.now_us, self.mono_s))

    def stored(self, count: int) -> None:
        """The first ``count`` samples are durable."""
        self.take(self.session.on_stored(tuple(self.samples[:count])))

    def fail(self, error: HometwinError | None = None) -> None:
        """The action that waits fails."""
        action = self.waiting.popleft()
        self.take(self.session.on_failed(action.uuid, error or LinkError("no"), self.now_us, self.mono_s))

    def answer(self) -> None:
        """The action that waits is answered."""
        self.act(self.waiting.popleft())

    def act(self, action: Read | Write | Subscribe) -> None:
        at = (self.now_us, self.mono_s)
        if isinstance(action, Read):
            queue = self.values[action.uuid]
            data = queue.popleft() if len(queue) > 1 else queue[0]
            self.take(self.session.on_read(action.uuid, data, *at))
            return
        self.take(self.session.on_done(action.uuid, *at))
        if isinstance(action, Write) and self.script[action.uuid]:
            for uuid, data in self.script[action.uuid].popleft():
                self.take(self.session.on_value(uuid, data, *at))

    def take(self, step: Step) -> None:
        for event in step.events:
            match event:
                case Samples():
                    self.samples += event.samples
                    self.batches.append(event.samples)
                    if self.durable:
                        self.take(self.session.on_stored(event.samples))
                case Facts():
                    self.facts |= event.fields
                case Counted():
                    self.counts[event.name] += 1
        for action in step.actions:
            if isinstance(action, Close):
                self.closed = action.error
                continue
            if isinstance(action, Write):
                self.writes.append((action.uuid, action.data.hex(" ").upper()))
            elif isinstance(action, Subscribe):
                self.subscribed.append(action.uuid)
            if self.hold_answers:
                self.waiting.append(action)
            else:
                self.act(action)

    # --- looking ---

    @property
    def state(self) -> str:
        return self.session.state

    def written(self, uuid: int) -> list[str]:
        return [data for to, data in self.writes if to == uuid]

    def got(self) -> list[tuple[str, float, int]]:
        return [(sample.kind, sample.value, sample.seq) for sample in self.samples]
