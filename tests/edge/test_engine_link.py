"""The hub's end of the engine's socket, against engines that are slow, stuck or refuse."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from core.clock import SystemClock
from core.messages import Sample, encode
from core.units import US_PER_MIN
from edge import engine_link
from edge.engine_link import EngineLink
from edge.engine_messages import (
    Answer,
    Ask,
    AskSnapshot,
    Done,
    FromEngine,
    Hello,
    Observe,
    Ready,
    Refused,
    Snapshot,
    ToEngine,
)
from edge.frames import read_frame, write_frame
from edge.store.store import Store
from edge.store_thread import StoreThread

Say = Callable[[ToEngine], Awaitable[FromEngine]]
COMPILING_S, LATER_S = 1.5, 1.0


class Link:
    """An EngineLink over a real store, talking with an engine that a test scripts."""

    def __init__(self, folder: Path, say: Say) -> None:
        clock = SystemClock(time.time_ns)
        self.socket = folder / "engine.sock"
        self._say = say
        self.counters: Counter[str] = Counter()
        self.changes: list[bool] = []
        self.store = Store.open(folder / "replay.sqlite", bytes(32), hub_id="home", clock=clock)
        self.thread = StoreThread()
        self.link = EngineLink(
            self.socket, self.store, self.thread, clock, "", self.counters,
            self._nothing, self._nothing, self.changes.append,
        )  # fmt: skip
        now_us = clock.now_us()
        self.store.append((Sample(now_us, "cgm_mgdl", 120.0, "cgm", now_us // US_PER_MIN),))

    async def _nothing(self, _: object) -> None: ...

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while (data := await read_frame(reader)) is not None:
                question = msgspec.msgpack.decode(data, type=ToEngine)
                await write_frame(writer, encode(await self._say(question)))


@contextlib.asynccontextmanager
async def linked(folder: Path, say: Say) -> AsyncIterator[Link]:
    made = Link(folder, say)
    server = await asyncio.start_unix_server(made.serve, str(made.socket))
    task = asyncio.create_task(made.link.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()
        made.thread.close()
        made.store.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  # nothing signals it
            await asyncio.sleep(0.01)


ANSWERS: dict[type, FromEngine] = {
    Hello: Ready(0, restored=False),
    Observe: Done(1),
    Ask: Answer(None, None),
    AskSnapshot: Snapshot(1, b"twin", None),
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is asked at once, and again and again."""
    monkeypatch.setattr(engine_link, "FIRST_ANSWER_TIMEOUT_S", 15.0)
    monkeypatch.setattr(engine_link, "ANSWER_TIMEOUT_S", LATER_S)
    monkeypatch.setattr(engine_link, "RECONNECT_PAUSE_S", 0.02)
    monkeypatch.setattr(engine_link, "SNAPSHOT_EVERY_S", 0.0)
    monkeypatch.setattr(engine_link, "SNAPSHOT_EVERY_US", 0)
    monkeypatch.setattr(engine_link, "ASK_EVERY_US", 1)


@pytest.mark.usefixtures("quick")
async def test_the_first_answer_of_each_kind_may_take_as_long_as_compiling_takes(tmp_path: Path) -> None:
    asked: Counter[type] = Counter()

    async def compiling(question: ToEngine) -> FromEngine:
        asked[type(question)] += 1
        if asked[type(question)] == 1 and isinstance(question, Ask | AskSnapshot):
            await asyncio.sleep(COMPILING_S)  # longer than any later answer may take
        return ANSWERS[type(question)]

    async with linked(tmp_path, compiling) as made:
        await until(lambda: asked[Ask] >= 3 and asked[AskSnapshot] >= 1 and made.link.up)
        assert made.counters["engine.lost"] == 0
        assert made.changes == [True]


@pytest.mark.usefixtures("quick")
async def test_what_the_correction_learned_is_asked_for_once_a_day(tmp_path: Path) -> None:
    told: list[bool] = []

    async def engine(question: ToEngine) -> FromEngine:
        if isinstance(question, AskSnapshot):
            told.append(question.correction)
            return Snapshot(0, b"twin", None)  # not up to date: it is asked for again
        return ANSWERS[type(question)]

    async with linked(tmp_path, engine):
        await until(lambda: len(told) >= 3)
    assert told[0]
    assert not any(told[1:3])


@pytest.mark.usefixtures("quick")
async def test_an_engine_that_is_stuck_later_is_left_and_found_again(tmp_path: Path) -> None:
    asked: Counter[type] = Counter()

    async def stuck(question: ToEngine) -> FromEngine:
        asked[type(question)] += 1
        if isinstance(question, Ask) and asked[Ask] == 2:
            await asyncio.sleep(60)
        return ANSWERS[type(question)]

    async with linked(tmp_path, stuck) as made:
        await until(lambda: asked[Hello] == 2 and made.link.up)
        assert made.counters["engine.lost"] == 1


@pytest.mark.usefixtures("quick")
async def test_a_refusal_is_told_once_with_its_reason_and_asked_again_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_link, "REFUSED_PAUSE_S", 0.05)
    hellos = 0

    async def refusing(question: ToEngine) -> FromEngine:
        nonlocal hellos
        hellos += 1
        return Refused("model.overrides.zz: no such constant") if hellos <= 3 else ANSWERS[type(question)]

    with capture_logs() as logs:
        async with linked(tmp_path, refusing) as made:
            await until(lambda: hellos == 3)
            assert made.link.problem == "model.overrides.zz: no such constant"
            await until(lambda: made.link.up)
            assert made.link.problem == ""
    assert [entry["reason"] for entry in logs if entry["event"] == "engine.refused"] == [
        "model.overrides.zz: no such constant"
    ]
    assert made.counters["engine.lost"] == 0
