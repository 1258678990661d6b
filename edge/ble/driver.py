"""One visit: a link on one side, a session (a table without sockets) on the other, and nothing else.

Keeps the contract of edge/ble/session.py: actions run in order and each is answered by one ``on_*`` call;
values wait until the action under way is answered, so that a session never sees the records before it
knows that its request was taken; samples are durable before ``on_stored``; ticks come all the time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from core.clock import Clock
from core.errors import HometwinError, LinkError, LinkTimeout, PairingError, ProcedureError
from core.messages import Sample
from core.units import US_PER_MIN
from edge.ble.backoff import Pace
from edge.ble.radio import Link
from edge.ble.session import Close, Counted, Facts, Read, Samples, Session, Step, Subscribe, Write

Sink = Callable[[tuple[Sample, ...]], Awaitable[None]]

# A full CGM history is about 4,000 records; more values than this at once is no sensor.
MOST_WAITING: Final = 8192
# Values in one minute (real time) outside of a transfer: a strap sends one a second, so this is no sensor. A
# transfer may bring more than any device can hold only if it never ends.
MOST_PER_MIN: Final = 3000
MOST_IN_TRANSFER: Final = 250_000
TRANSFERS: Final = frozenset({"asking", "receiving"})
# After so many values in a row it is the turn of an action: a flood must not keep the session from its end.
MOST_BEFORE_ACTION: Final = 64
BATTERY: Final = 0x2A19
DEVICE_NAME: Final = 0x2A00
# Twin time after which a live link without a reading is worth a reconnect: three missed CGM readings.
EXPECTED_US: Final = {"cgm": 16 * US_PER_MIN}
EXPECTED_FLOOR_S: Final = 10.0  # real time; a fast twin clock must not make us hang up all the time


class Visit:
    """Runs one session over one link. ``stored`` and ``heard_value`` tell afterwards whether it was of use."""

    def __init__(
        self,
        link: Link,
        session: Session,
        profile: str,
        *,
        sink: Sink,
        clock: Clock,
        pace: Pace,
        count: Callable[[str], None],
        on_facts: Callable[[dict[str, Any]], None],
        on_idle: Callable[[bool], None],
        patience: int = 0,
    ) -> None:
        self._link, self._session, self._pace, self._clock = link, session, pace, clock
        self._sink, self._count, self._on_facts, self._on_idle = sink, count, on_facts, on_idle
        self._actions: deque[Any] = deque()
        self._values: deque[tuple[int, bytes]] = deque()
        self._news = asyncio.Event()
        self._flooded = False
        self._minute_s = time.monotonic()
        self._in_minute = self._in_transfer = self._in_a_row = 0
        self._heard_s = self._value_s = time.monotonic()
        self._next_tick_s = 0.0
        self._expected_s: float | None = None
        if (expected_us := EXPECTED_US.get(profile)) is not None:
            # Doubles with every fruitless reconnect: a sensor taken off for the night is left alone.
            self._expected_s = max(EXPECTED_FLOOR_S, clock.wait_s(expected_us)) * 2.0 ** min(patience, 6)
        self.stored = 0
        self.was_silent = False

    async def run(self) -> None:
        """Until the session closes without error. HometwinError for every other end of the link."""
        gone = asyncio.ensure_future(self._link.closed.wait())
        try:
            await self._take(self._session.start(self._link.characteristics, *self._now()))
            while True:
                await self._tick_if_due()
                if self._values and not (self._actions and self._in_a_row >= MOST_BEFORE_ACTION):
                    await self._hand_value()
                elif self._actions:
                    self._in_a_row = 0
                    if await self._act(self._actions.popleft(), gone):
                        return
                elif self._link.closed.is_set():
                    raise LinkError("the link was lost")
                else:
                    await self._check_silence(gone)
                    await self._rest(gone)
        finally:
            gone.cancel()

    def _now(self) -> tuple[int, float]:
        return self._clock.now_us(), time.monotonic()

    def _on_value(self, uuid: int, data: bytes) -> None:
        if len(self._values) >= MOST_WAITING:
            self._flooded = True
        else:
            self._values.append((uuid, data))
        self._news.set()

    async def _hand_value(self) -> None:
        self._weigh()
        if self._flooded:
            self._count("link.flood")
            raise ProcedureError("the device sends faster than any sensor does")
        uuid, data = self._values.popleft()
        self._heard_s = self._value_s = time.monotonic()
        await self._take(self._session.on_value(uuid, data, *self._now()))
        await asyncio.sleep(0)  # one busy sensor does not starve the others

    def _weigh(self) -> None:
        """Count a value, and see when there are too many."""
        self._in_a_row += 1
        if self._session.state in TRANSFERS:
            self._in_transfer += 1
        else:
            self._in_transfer = 0
            self._in_minute += 1
        if time.monotonic() - self._minute_s > 60.0:
            self._minute_s, self._in_minute = time.monotonic(), 0
        if self._in_minute > MOST_PER_MIN or self._in_transfer > MOST_IN_TRANSFER:
            self._flooded = True

    @property
    def was_flooded(self) -> bool:
        return self._flooded

    async def _tick_if_due(self) -> None:
        now_us, mono_s = self._now()
        if mono_s >= self._next_tick_s:
            self._next_tick_s = mono_s + self._pace.tick_s
            await self._take(self._session.on_tick(now_us, mono_s))

    async def _rest(self, gone: asyncio.Future[Any]) -> None:
        """Sleep until a value, the next tick or the end of the link."""
        news = asyncio.ensure_future(self._news.wait())
        try:
            pause_s = max(0.0, self._next_tick_s - time.monotonic())
            await asyncio.wait({news, gone}, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        self._news.clear()

    async def _take(self, first: Step) -> None:
        """Carry out a step's events now and queue its actions; what the session says in turn comes after."""
        steps = deque((first,))
        while steps:
            step = steps.popleft()
            self._actions.extend(step.actions)
            for event in step.events:
                match event:
                    case Samples():
                        await self._sink(event.samples)
                        self.stored += len(event.samples)
                        steps.append(self._session.on_stored(event.samples))
                    case Facts():
                        self._on_facts(dict(event.fields))
                    case Counted():
                        self._count(event.name)
        self._on_idle(self._session.idle)

    async def _act(self, action: Any, gone: asyncio.Future[Any]) -> bool:
        """Run one action and give its answer to the session. True when the session has closed in peace."""
        if isinstance(action, Close):
            if action.error is not None:
                raise action.error
            return True
        work: asyncio.Task[bytes | None] = asyncio.create_task(self._operate(action))
        try:
            while not work.done():
                pause_s = max(0.0, self._next_tick_s - time.monotonic())
                await asyncio.wait({work, gone}, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                await self._tick_if_due()
                if work.done():
                    break
                if gone.done():
                    raise LinkError("the link was lost")
                if closing := next((a for a in self._actions if isinstance(a, Close)), None):
                    return await self._act(closing, gone)  # the session gave up waiting
        finally:
            if not work.done():
                await _give_up(work)
        await self._answer(action, work)
        return False

    async def _answer(self, action: Any, work: asyncio.Task[bytes | None]) -> None:
        try:
            data = work.result()
        except (PairingError, LinkTimeout):
            raise  # nothing the session could do about it
        except HometwinError as error:
            if self._link.closed.is_set():
                raise LinkError("the link was lost") from error
            self._heard_s = time.monotonic()
            await self._take(self._session.on_failed(action.uuid, error, *self._now()))
            return
        self._heard_s = time.monotonic()
        if isinstance(action, Read):
            assert data is not None
            await self._take(self._session.on_read(action.uuid, data, *self._now()))
        else:
            await self._take(self._session.on_done(action.uuid, *self._now()))

    async def _operate(self, action: Any) -> bytes | None:
        try:
            async with asyncio.timeout(self._pace.operation_s):
                match action:
                    case Read():
                        return await self._link.read(action.uuid)
                    case Write():
                        await self._link.write(action.uuid, action.data, action.response)
                    case Subscribe():
                        uuid = action.uuid
                        await self._link.subscribe(uuid, lambda data: self._on_value(uuid, data))
        except TimeoutError:
            raise LinkTimeout("the device did not answer in time") from None
        return None

    async def _check_silence(self, gone: asyncio.Future[Any]) -> None:
        mono_s = time.monotonic()
        if self._expected_s is not None and self._session.idle and mono_s - self._value_s > self._expected_s:
            self.was_silent = True
            self._count("link.silent")
            raise LinkError("no reading for too long on a live link")
        if mono_s - self._heard_s <= self._pace.probe_s:
            return
        probe = BATTERY if BATTERY in self._link.characteristics else DEVICE_NAME
        if probe not in self._link.characteristics:
            return
        work = asyncio.create_task(self._operate(Read(probe)))
        try:
            await asyncio.wait(
                {work, gone}, timeout=self._pace.probe_answer_s, return_when=asyncio.FIRST_COMPLETED
            )
            lost = gone.done()
            if work.done() and not isinstance(work.exception(), LinkTimeout) and not lost:
                self._heard_s = time.monotonic()  # any answer is a sign of life, a refusal too
                return
        finally:
            if not work.done():
                await _give_up(work)
        if lost:
            raise LinkError("the link was lost")
        self.was_silent = True
        self._count("link.silent")
        raise LinkTimeout("the device went silent on a live link")


async def _give_up(work: asyncio.Task[Any]) -> None:
    """Cancel ``work`` and wait until it has put its things in order."""
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
