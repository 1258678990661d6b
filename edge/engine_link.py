"""The hub's end of the engine's socket: feeds the backlog, asks for estimates, keeps snapshots.

The engine may be absent, slow to compile, killed or replaced at any time. The store's row number is the only
cursor: whatever the engine's snapshot does not hold is fed again, in the store's order.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog

from core.clock import Clock
from core.errors import DecodeError, EngineError, EnvironmentMissing, HometwinError
from core.messages import Contribution, Prior, decode, encode
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge.engine_messages import (
    Advised,
    Answer,
    Ask,
    AskAdvice,
    AskNight,
    AskSnapshot,
    Blur,
    Done,
    FromEngine,
    Hello,
    Night,
    NightDone,
    Observe,
    Ready,
    Refused,
    SetPrior,
    Snapshot,
    ToEngine,
)
from edge.frames import read_frame, write_frame
from edge.store.store import Store
from edge.store_thread import StoreThread

log = structlog.get_logger()

# Each kind of question has kernels of its own. Compiling them on a Pi 4 takes up to a minute; a first answer later
# than this means that the engine is stuck.
FIRST_ANSWER_TIMEOUT_S: Final = 180.0
# Later answers take milliseconds, or seconds when late records rewind days.
ANSWER_TIMEOUT_S: Final = 30.0
RECONNECT_PAUSE_S: Final = 0.5
# An engine that refuses this hub (one of another version) refuses it again until somebody mends that.
REFUSED_PAUSE_S: Final = 30.0
BATCH_ROWS: Final = 256
ASK_EVERY_US: Final = 5 * US_PER_MIN  # the pace of a CGM
# A snapshot saves replaying after a restart: an hour's readings take the engine milliseconds, and a snapshot
# (some 230 kB) for each reading would be most of what the hub writes to its card (bench/card.py).
SNAPSHOT_EVERY_US: Final = US_PER_H
# Where time runs faster, a minute of real time.
SNAPSHOT_EVERY_S: Final = 60.0
SNAPSHOT_BLOB: Final = "engine"

# Areas of the store's archive: episodes that learning plays again, and what each night decided.
REPLAY_AREA: Final = "replay"
NIGHTS_AREA: Final = "nights"
REPLAY_BYTES: Final = 256 << 10  # the engine keeps the episodes themselves within 192 KiB
NIGHTS_BYTES: Final = 1 << 20  # a record is 1 kB: some three years

A = TypeVar("A", Ready, Done, Answer, Snapshot, Advised, NightDone)


class EngineRefusal(EngineError):
    """The engine said why it cannot work for this hub."""


class SavedTwin(msgspec.Struct, frozen=True):
    """What the store keeps of the engine between runs."""

    row: int
    data: bytes
    memory: bytes = b""  # of core.memory, as of the same moment


class EngineLink:
    """Keeps one engine fed. ``up`` and ``row`` tell how far it is."""

    def __init__(
        self,
        socket: Path,
        store: Store,
        thread: StoreThread,
        clock: Clock,
        patient_toml: str,
        counters: Counter[str],
        on_answer: Callable[[Answer], Awaitable[None]],
        on_contribution: Callable[[Contribution], Awaitable[None]],
        on_up: Callable[[bool], None],
    ) -> None:
        self._socket = socket
        self._store = store
        self._thread = thread
        self._clock = clock
        self._patient_toml = patient_toml
        self._counters = counters
        self._on_answer = on_answer
        self._on_contribution = on_contribution
        self._on_up = on_up
        self._news = asyncio.Event()
        self._prior: Prior | None = None
        self._prior_pending = False
        self._asked_us = 0
        self._news_since_ask = False
        self._saved_s = 0.0
        self._saved_row = 0
        self._correction_day = -1
        self._questions: list[tuple[AskAdvice, asyncio.Future[Advised]]] = []
        self.blur: Blur | None = None  # the noise that a contribution must carry
        self.up = False
        self.row = 0
        self.problem = ""  # why the engine refuses to work for this hub
        self.at_night = False  # the night's work is under way

    async def advise(self, question: AskAdvice) -> Advised:
        """Ask for advice once everything stored has been fed; InputError while no engine is there to answer."""
        if not self.up:
            raise EnvironmentMissing(
                "the engine is not running, or still catching up", mend="try again later"
            )
        waiting: asyncio.Future[Advised] = asyncio.get_running_loop().create_future()
        self._questions.append((question, waiting))
        self.wake()
        return await waiting

    def wake(self) -> None:
        """New samples are in the store."""
        self._news.set()

    def set_prior(self, prior: Prior, *, is_new: bool) -> None:
        """Give the engine this prior: at once when it is new, else with the next Hello."""
        self._prior = prior
        self._prior_pending = self._prior_pending or is_new
        self.wake()

    async def run(self) -> None:
        """Until cancelled: connect, feed, ask; on any failure start again from the store."""
        while True:
            pause_s = RECONNECT_PAUSE_S
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=1 << 20)
            except OSError:
                await asyncio.sleep(pause_s)
                continue
            try:
                await self._talk(reader, writer)
            except EngineRefusal as err:
                pause_s = REFUSED_PAUSE_S
                if err.what != self.problem:
                    self._counters["engine.refused"] += 1
                    log.error("engine.refused", reason=err.what)
                self.problem = err.what
            except (HometwinError, OSError, TimeoutError) as err:
                self._counters["engine.lost"] += 1
                log.warning("engine.lost", error=type(err).__name__, reason=str(err))
            finally:
                self._set_up(False)
                writer.close()
                for _, waiting in self._questions:
                    if not waiting.done():
                        waiting.set_exception(
                            EnvironmentMissing("the engine stopped", mend="try again later")
                        )
                self._questions.clear()
            await asyncio.sleep(pause_s)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered: set[type] = set()  # kinds of questions whose kernels are compiled

        async def ask(question: ToEngine, kind: type[A]) -> A:
            is_first = type(question) not in answered
            async with asyncio.timeout(FIRST_ANSWER_TIMEOUT_S if is_first else ANSWER_TIMEOUT_S):
                await write_frame(writer, encode(question))
                data = await read_frame(reader)
            if data is None:
                raise EngineError("closed its socket")
            answer = _decode_answer(data)
            if isinstance(answer, Refused):
                raise EngineRefusal(answer.reason)
            if not isinstance(answer, kind):
                raise EngineError(f"answered {type(answer).__name__}, expected {kind.__name__}")
            answered.add(type(question))
            return answer

        saved = await self._load_snapshot()
        ready = await ask(
            Hello(
                self._patient_toml,
                saved.data if saved else None,
                saved.row if saved else 0,
                self._prior,
                saved.memory if saved else b"",
            ),
            Ready,
        )
        self.at_night = False
        self.row, self.problem = ready.row, ""
        self._saved_row, self._saved_s = ready.row, time.monotonic()
        log.info("engine.ready", row=ready.row, restored=ready.restored, note=ready.note)
        while True:
            self._news.clear()
            if await self._feed(ask):
                continue
            self._set_up(True)
            if self._prior_pending and self._prior is not None:
                done = await ask(SetPrior(self._prior), Done)
                self._prior_pending = False
                self._counters["prior.refused"] += done.refused
            while self._questions:
                question, waiting = self._questions[0]
                advised = await ask(question, Advised)
                self._questions.pop(0)
                if not waiting.done():
                    waiting.set_result(advised)
            now_us = self._clock.now_us()
            # Before the last question: the clock was set back, and that answer is of a time still to come.
            if self._news_since_ask or not 0 <= now_us - self._asked_us < ASK_EVERY_US:
                self._asked_us, self._news_since_ask = now_us, False
                answer = await ask(Ask(now_us), Answer)
                await self._on_answer(answer)
                await self._attend_night(ask, answer, now_us)
            every_s = max(SNAPSHOT_EVERY_S, self._clock.wait_s(SNAPSHOT_EVERY_US))
            if self.row > self._saved_row and time.monotonic() - self._saved_s >= every_s:
                await self._save(await ask(self._ask_snapshot(now_us), Snapshot))
            pause_s = self._clock.wait_s(self._asked_us + ASK_EVERY_US - self._clock.now_us())
            # An idle engine may have died without closing: the next Ask finds out.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.02, min(pause_s, SNAPSHOT_EVERY_S))):
                    await self._news.wait()

    async def _feed(self, ask: Callable[..., Awaitable[Any]]) -> bool:
        """Send the next rows; True when there may be more."""
        rows = await self._thread(self._store.read, self.row, BATCH_ROWS)
        if not rows:
            return False
        last = rows[-1][0]
        done = await ask(Observe(last, tuple(sample for _, sample in rows)), Done)
        if done.row != last:
            raise EngineError("lost its place in the record")
        if done.refused:
            self._counters["engine.refused_samples"] += done.refused
        self.row = last
        self._news_since_ask = True
        return len(rows) == BATCH_ROWS

    async def _attend_night(self, ask: Callable[..., Awaitable[Any]], answer: Answer, now_us: int) -> None:
        """Start the night's work when it is due; take what it brings when it is over."""
        if self.at_night:
            done = await ask(AskNight(), NightDone)
            if not done.over:
                return
            self.at_night = False
            if done.why:
                self._counters["night.without"] += 1
                log.info("night.without", reason=done.why)
                return
            archive = self._store.archive
            await self._thread(archive.drop, REPLAY_AREA, done.drop)
            for episode in done.keep:
                await self._thread(archive.keep, REPLAY_AREA, episode, REPLAY_BYTES)
            await self._thread(archive.keep, NIGHTS_AREA, done.record, NIGHTS_BYTES)
            # What was let go and what is remembered belong together.
            await self._save(await ask(self._ask_snapshot(now_us), Snapshot))
            self._counters["night.done"] += 1
            log.info("night.done", kept=len(done.keep), dropped=len(done.drop))
        elif answer.night_due:
            kept = await self._thread(self._store.archive.read, REPLAY_AREA, 0, 1 << 20)
            await ask(Night(now_us, tuple((item.number, item.data) for item in kept)), Done)
            self.at_night = True

    async def _load_snapshot(self) -> SavedTwin | None:
        data = await self._thread(self._store.get_blob, SNAPSHOT_BLOB)
        if data is None:
            return None
        try:
            saved = decode(data, SavedTwin)
        except DecodeError:
            self._counters["engine.bad_snapshot"] += 1
            return None
        return saved if saved.row <= self._store.last_row else None

    def _ask_snapshot(self, now_us: int) -> AskSnapshot:
        """With what the correction learned once a day: it is 3 kB, and changes slowly."""
        due = now_us // US_PER_DAY != self._correction_day
        self._correction_day = now_us // US_PER_DAY
        return AskSnapshot(now_us, self.blur, due)

    async def _save(self, snapshot: Snapshot) -> None:
        saved = encode(SavedTwin(snapshot.row, snapshot.data, snapshot.memory))
        await self._thread(self._store.put_blob, SNAPSHOT_BLOB, saved)
        self._saved_row, self._saved_s = snapshot.row, time.monotonic()
        if snapshot.contribution is not None:
            await self._on_contribution(snapshot.contribution)

    def _set_up(self, up: bool) -> None:
        if up != self.up:
            self.up = up
            self._on_up(up)


def _decode_answer(data: bytes) -> FromEngine:
    """The engine is ours, but a cut or foreign answer must still end in our own error."""
    try:
        answer: FromEngine = msgspec.msgpack.decode(data, type=FromEngine)
        return answer
    except (msgspec.MsgspecError, ValueError, RecursionError) as err:
        raise EngineError(f"sent an unreadable answer: {type(err).__name__}") from None
