"""Record Access Control Point: one procedure engine, two dialects.

Plain (CGMS 1.0.2 section 3.8, GLS 1.0.1 section 3.4): small op codes, 16-bit counts. Insulin delivery (IDS 1.0.1
section 4.8): the same procedure with op codes of large Hamming distance and 32-bit sequence numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from bumble import att

from firmware_sim.flash import Record

SUPPORT_OP: Final = 2  # Op Code not supported
INVALID_OPERATOR: Final = 3
SUPPORT_OPERATOR: Final = 4
INVALID_OPERAND: Final = 5
NO_RECORDS: Final = 6
NOT_COMPLETED: Final = 8
SUPPORT_OPERAND: Final = 9

# Application and common error codes (Core Vol 3 Part F, Supplement Part B)
ATT_INVALID_LENGTH: Final = 0x0D
ATT_CCCD_IMPROPER: Final = 0xFD
ATT_IN_PROGRESS: Final = 0xFE


class Filter(NamedTuple):
    """One filter type: octets of a bound, its reading, and what it is compared with (None: never matches)."""

    size: int
    bound: Callable[[bytes], Any]
    value: Callable[[Record], Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The numbers of one service's record access procedure."""

    report: int = 1
    delete: int = 2
    abort: int = 3
    count: int = 4
    count_response: int = 5
    response: int = 6
    null: int = 0
    all: int = 1
    less: int = 2
    greater: int = 3
    within: int = 4
    first: int = 5
    last: int = 6
    success: int = 1
    count_octets: int = 2
    bare_filter: bool = False  # all/first/last are followed by a filter type without bounds


PLAIN: Final = Dialect()
INSULIN: Final = Dialect(
    report=0x33,
    delete=0x3C,
    abort=0x55,
    count=0x5A,
    count_response=0x66,
    response=0x0F,
    null=0x0F,
    all=0x33,
    less=0x3C,
    greater=0x55,
    within=0x5A,
    first=0x66,
    last=0x69,
    success=0xF0,
    count_octets=4,
    bare_filter=True,
)


class _Refused(Exception):
    """A request that is answered with a response code other than success."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class RecordAccess:
    """The server's side of the procedure for one link at a time.

    ``spawn`` starts a coroutine that dies with the link; ``send`` sends one record; ``respond`` indicates.
    """

    dialect: Dialect
    filters: dict[int, Filter]
    records: Callable[[], Sequence[Record]]
    send: Callable[[Record], Awaitable[None]]
    respond: Callable[[bytes], Awaitable[None]]
    subscribed: Callable[[], bool]
    spawn: Callable[[Awaitable[None]], asyncio.Task[None]]
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.idle.set()

    def reset(self) -> None:
        """The link is gone: whatever ran is over."""
        self._task = None
        self.idle.set()

    def on_write(self, request: bytes) -> None:
        """Check and start what the client wrote; ATT_Error where the specification answers on ATT level."""
        if not request:
            raise att.ATT_Error(ATT_INVALID_LENGTH)
        if not self.subscribed():
            raise att.ATT_Error(ATT_CCCD_IMPROPER)
        if request[0] == self.dialect.abort:
            if self._task is not None:
                self._task.cancel()
            self._start(self._abort(request))
            return
        if not self.idle.is_set():
            raise att.ATT_Error(ATT_IN_PROGRESS)
        self._start(self._procedure(request))

    def _start(self, work: Awaitable[None]) -> None:
        self.idle.clear()
        task = self._task = self.spawn(work)

        def ended(_: asyncio.Task[None]) -> None:
            if self._task is task:  # an aborted procedure must not end the abort that replaced it
                self.reset()

        task.add_done_callback(ended)

    async def _abort(self, request: bytes) -> None:
        code = self.dialect.success if request[1:] == bytes([self.dialect.null]) else INVALID_OPERATOR
        await self._respond(request[0], code)

    async def _procedure(self, request: bytes) -> None:
        d = self.dialect
        try:
            if request[0] not in (d.report, d.count):
                raise _Refused(SUPPORT_OP)  # deleting is optional, and a twin must not lose its history
            chosen = self._select(request[1:])
            if request[0] == d.count:
                number = min(len(chosen), (1 << 8 * d.count_octets) - 1)
                self.idle.set()
                await self.respond(
                    bytes([d.count_response, d.null]) + number.to_bytes(d.count_octets, "little")
                )
                return
            if not chosen:
                raise _Refused(NO_RECORDS)
            for record in chosen:
                await self.send(record)
            await self._respond(request[0], d.success)
        except _Refused as refusal:
            await self._respond(request[0], refusal.code)

    async def _respond(self, op_code: int, code: int) -> None:
        # The procedure is over when its answer leaves, not when the client's stack has confirmed it: a quick
        # client asks the next question first.
        self.idle.set()
        await self.respond(bytes([self.dialect.response, self.dialect.null, op_code, code]))

    def _select(self, rest: bytes) -> list[Record]:
        """The records that operator and operand ask for, oldest first."""
        d = self.dialect
        if not rest or rest[0] == d.null:
            raise _Refused(INVALID_OPERATOR)
        operator, operand = rest[0], rest[1:]
        records = list(self.records())
        if operator in (d.all, d.first, d.last):
            if operand:
                if not d.bare_filter or len(operand) != 1:
                    raise _Refused(INVALID_OPERAND)
                records = [r for r in records if self._filter(operand[0]).value(r) is not None]
            if operator == d.all:
                return records
            return records[:1] if operator == d.first else records[-1:]
        bounds = {d.less: 1, d.greater: 1, d.within: 2}.get(operator)
        if bounds is None:
            raise _Refused(SUPPORT_OPERATOR)
        if not operand:
            raise _Refused(INVALID_OPERAND)
        chosen = self._filter(operand[0])
        if len(operand) != 1 + bounds * chosen.size:
            raise _Refused(INVALID_OPERAND)
        try:
            limits = [chosen.bound(operand[1 + i * chosen.size :][: chosen.size]) for i in range(bounds)]
        except ValueError:
            raise _Refused(INVALID_OPERAND) from None
        if limits != sorted(limits):
            raise _Refused(INVALID_OPERAND)
        low = limits[0] if operator != d.less else None
        high = limits[-1] if operator != d.greater else None
        return [
            record
            for record in records
            if (value := chosen.value(record)) is not None
            and (low is None or value >= low)
            and (high is None or value <= high)
        ]

    def _filter(self, number: int) -> Filter:
        if number not in self.filters:
            raise _Refused(SUPPORT_OPERAND)
        return self.filters[number]
