"""The engine behind its socket: feeds, answers, survives bad snapshots, garbage and being killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.errors import EngineError
from core.messages import Sample, decode, encode
from core.units import US_PER_DAY, US_PER_MIN
from edge.engine import EngineSession, serve_engine
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
)
from edge.frames import read_frame, write_frame

T0_US = 1_767_600_000_000_000
PATIENT = 'weight_kg = 75.0\ntimezone = "Europe/London"\n'


def readings(first: int, count: int) -> tuple[Sample, ...]:
    start = T0_US // US_PER_MIN
    return tuple(
        Sample(T0_US + 5 * i * US_PER_MIN, "cgm_mgdl", 120.0 + i % 7, "cgm", start + 5 * i)
        for i in range(first, first + count)
    )


def now(count: int) -> int:
    return T0_US + (5 * count - 4) * US_PER_MIN


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Path]:
    path = tmp_path / "engine.sock"
    task = asyncio.create_task(serve_engine(path))
    async with asyncio.timeout(10):
        while not path.exists():  # noqa: ASYNC110  # a file has no event
            await asyncio.sleep(0.01)
    yield path
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_a_restored_engine_answers_as_the_one_that_was_killed() -> None:
    first, whole = EngineSession(), EngineSession()
    for session in (first, whole):
        assert session.answer(Hello(PATIENT, None, 0)) == Ready(0, restored=False)
        assert session.answer(Observe(20, readings(0, 20))) == Done(20)
    saved = first.answer(AskSnapshot(now(20)))
    assert isinstance(saved, Snapshot)
    second = EngineSession()
    assert second.answer(Hello(PATIENT, saved.data, saved.row)) == Ready(20, restored=True)
    for session in (second, whole):
        session.answer(Observe(40, readings(20, 20)))
    assert second.answer(Ask(now(40))) == whole.answer(Ask(now(40)))


def test_a_damaged_snapshot_means_starting_from_the_record_not_failing() -> None:
    ready = EngineSession().answer(Hello(PATIENT, b"not a snapshot", 99))
    assert isinstance(ready, Ready)
    assert (ready.row, ready.restored) == (0, False)
    assert "snapshot not used" in ready.note


def test_a_sample_that_cannot_be_meant_is_counted_and_the_others_go_in() -> None:
    session = EngineSession()
    session.answer(Hello(PATIENT, None, 0))
    bad = Sample(T0_US, "cgm_mgdl", float("nan"), "cgm", 1)
    done = session.answer(Observe(11, (*readings(0, 10), bad)))
    assert done == Done(11, refused=1)
    answer = session.answer(Ask(now(10)))
    assert isinstance(answer, Answer)
    assert answer.estimate is not None
    assert answer.estimate.data_age_s == 60.0


def test_an_engine_asked_at_a_wrong_time_says_how_old_its_data_are_and_never_calls_them_good() -> None:
    """The hub's clock jumps a day: ahead, its readings are a day old; back, they have not been made yet."""
    session = EngineSession()
    session.answer(Hello(PATIENT, None, 0))
    session.answer(Observe(40, readings(0, 40)))
    for days, age_s in ((1, 86_400.0), (-1, float("inf"))):
        answer = session.answer(Ask(now(40) + days * US_PER_DAY))
        assert isinstance(answer, Answer)
        assert answer.forecast is not None
        assert answer.estimate is not None
        assert answer.forecast.status != "ok"
        for made in (answer.forecast, answer.estimate):
            assert made.data_age_s == age_s or abs(made.data_age_s - age_s) < 300
    right = session.answer(Ask(now(40)))
    assert isinstance(right, Answer)
    assert right.forecast is not None
    assert (right.forecast.status, right.forecast.data_age_s < 300) == ("ok", True)


def test_a_question_before_hello_is_an_error() -> None:
    with pytest.raises(EngineError):
        EngineSession().answer(Ask(T0_US))


async def test_a_hub_whose_patient_cannot_be_is_told_why_and_may_ask_again(socket: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    for patient, reason in (("[model.overrides]\nzz = 1.0\n", "model.overrides.zz"), ("][", "patient file")):
        await write_frame(writer, encode(Hello(patient, None, 0)))
        async with asyncio.timeout(60):
            frame = await read_frame(reader)
        assert frame is not None
        refused = decode(frame, FromEngine)  # type: ignore[arg-type]
        assert isinstance(refused, Refused)
        assert reason in refused.reason
    writer.close()


async def test_a_question_nested_too_deep_is_one_line_in_the_log(socket: Path) -> None:
    deep = b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0"
    hello = b"\x82\xa4type\xa5Hello\xa1a" + b"\x91" * 100_000 + b"\xc0"
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    with capture_logs() as logs:
        for frame in (deep, hello):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            await write_frame(writer, frame)
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()
    assert [entry["event"] for entry in logs] == ["engine.session_failed"] * 2
    assert not faults


async def test_the_socket_is_private_and_garbage_ends_only_its_own_session(socket: Path) -> None:
    assert socket.stat().st_mode & 0o777 == 0o600
    for garbage in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x04abcd", b"\x00\x00\x00\x09ab"):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        writer.write(garbage)
        writer.write_eof()
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
    reader, writer = await asyncio.open_unix_connection(str(socket))
    await write_frame(writer, encode(Hello(PATIENT, None, 0)))
    async with asyncio.timeout(60):
        frame = await read_frame(reader)
    assert frame is not None
    assert decode(frame, FromEngine) == Ready(0, restored=False)  # type: ignore[arg-type]
    writer.close()
