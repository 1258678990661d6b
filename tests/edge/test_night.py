"""The night's work in the real engine, with its own process and a real store; and what may go wrong with it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.memory import Memory, NightRecord, from_bytes, to_bytes
from core.messages import Sample, decode
from edge.config import HubConfig, RadioConfig
from edge.engine import EngineSession, serve_engine
from edge.engine_link import NIGHTS_AREA, REPLAY_AREA, SNAPSHOT_BLOB, EngineLink, SavedTwin
from edge.engine_messages import (
    Answer,
    Ask,
    AskNight,
    AskSnapshot,
    Hello,
    Night,
    NightDone,
    Observe,
    Snapshot,
)
from edge.night_job import NightQuestion, work
from edge.store.keys import create_key
from edge.store.store import Store
from edge.store_thread import StoreThread
from hometwin import app
from tests.core.people import DAY_US, START_US, live
from tests.edge.store.conftest import HUB, KEY, FixedClock

PATIENT = "weight_kg = 75.0\n"
NIGHT_US = START_US + DAY_US + 3 * 3_600_000_000  # three in the morning
DEADLINE_S = 240.0


def samples() -> list[Sample]:
    return [s for s in live(1.2, seed=5).samples if s.time_us <= NIGHT_US]


def session_at_night() -> EngineSession:
    session = EngineSession()
    session.answer(Hello(PATIENT, None, 0))
    session.answer(Observe(1, tuple(samples())))
    return session


def wait_over(session: EngineSession) -> NightDone:
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        done = session.answer(AskNight())
        assert isinstance(done, NightDone)
        if done.over:
            return done
        time.sleep(0.05)
    pytest.fail("the night's work did not end")


def test_the_engine_answers_while_the_night_works_and_learns_from_it() -> None:
    session = session_at_night()
    first = session.answer(Ask(NIGHT_US))
    assert isinstance(first, Answer)
    assert first.night_due
    session.answer(Night(NIGHT_US))
    during = session.answer(Ask(NIGHT_US))
    assert isinstance(during, Answer)
    assert during.forecast is not None
    assert not during.night_due  # one at a time
    done = wait_over(session)
    assert done.why == ""
    assert len(done.keep) >= 3
    record = decode(done.record, NightRecord)
    assert record.accepted
    assert any(now < base for now, base in zip(record.sd, record.base_sd, strict=True))
    saved = session.answer(AskSnapshot(NIGHT_US))
    assert isinstance(saved, Snapshot)
    assert from_bytes(saved.memory).nights == 1
    after = session.answer(Ask(NIGHT_US))
    assert isinstance(after, Answer)
    assert not after.night_due
    # A new engine knows it all from the snapshot.
    again = EngineSession()
    again.answer(Hello(PATIENT, saved.data, saved.row, None, saved.memory))
    assert again.answer(AskSnapshot(NIGHT_US)) == saved
    assert again.answer(Ask(NIGHT_US)) == after


def test_a_night_that_is_killed_costs_nothing_but_its_work() -> None:
    session = session_at_night()
    session.answer(Night(NIGHT_US))
    assert session._night is not None
    session._night._process.kill()
    done = wait_over(session)
    assert "stopped" in done.why
    assert (done.keep, done.drop, done.record) == ((), (), b"")
    later = session.answer(Ask(NIGHT_US + 3_700_000_000))
    assert isinstance(later, Answer)
    assert later.estimate is not None
    session.answer(Night(NIGHT_US))
    process = session._night._process
    session.close()  # the hub is gone: so is the job
    assert process.wait(10) != 0


def test_what_cannot_be_read_is_said_and_broken_episodes_are_let_go() -> None:
    session = session_at_night()
    twin = session.answer(AskSnapshot(NIGHT_US))
    assert isinstance(twin, Snapshot)
    assert work(NightQuestion(NIGHT_US, b"no twin", b"", ())).why
    assert work(NightQuestion(NIGHT_US, twin.data, b"no memory", ())).why
    answer = work(NightQuestion(NIGHT_US, twin.data, to_bytes(Memory()), ((7, b"no episode"),)))
    assert answer.why == ""
    assert 7 in answer.drop
    unread = EngineSession()
    unread.answer(Hello(PATIENT, None, 0, None, b"no memory"))  # starts all the same


async def test_hub_and_engine_keep_the_night_in_the_store_and_the_command_shows_it(tmp_path: Path) -> None:
    """The real engine behind its socket, its real child process, a real sealed store, then `hometwin memory`."""
    config = HubConfig(
        hub_id=HUB, radio=RadioConfig(adapter="bumble:tcp-client:127.0.0.1:1"), base=str(tmp_path)
    )
    config.state.mkdir()
    key = create_key(tmp_path / "store.key")
    clock, thread, counters = FixedClock(NIGHT_US), StoreThread(), Counter[str]()
    socket = tmp_path / "engine.sock"
    engine = asyncio.create_task(serve_engine(socket))

    async def ignore(_message: object) -> None:
        pass

    with Store.open(config.store_path, key, hub_id=HUB, clock=clock) as store:
        store.append(samples())
        link = EngineLink(socket, store, thread, clock, PATIENT, counters, ignore, ignore, lambda _up: None)
        task = asyncio.create_task(link.run())
        async with asyncio.timeout(DEADLINE_S):
            while not counters["night.done"]:
                assert not counters["night.without"]
                clock.us += 60_000_000  # five minutes make a new question
                link.wake()
                await asyncio.sleep(0.05)
        for running in (task, engine):
            running.cancel()
        await asyncio.gather(task, engine, return_exceptions=True)
        thread.close()
        (record,) = store.archive.read(NIGHTS_AREA, 0, 9)
        assert decode(record.data, NightRecord).accepted
        episodes = store.archive.read(REPLAY_AREA, 0, 99)
        assert len(episodes) >= 3
        data = store.get_blob(SNAPSHOT_BLOB)
        assert data is not None
        assert from_bytes(decode(data, SavedTwin).memory).nights == 1
        assert store.archive.drop(REPLAY_AREA, [episodes[0].number, 10**9]) == 1
        assert len(store.archive.read(REPLAY_AREA, 0, 99)) == len(episodes) - 1
    toml = tmp_path / "hub.toml"
    toml.write_text(f'hub_id = "{HUB}"\n[radio]\nadapter = "bumble:tcp-client:127.0.0.1:1"\n')
    shown = CliRunner().invoke(app, ["memory", "--all", "--config", str(toml)], catch_exceptions=False)
    assert shown.exit_code == 0
    for words in (
        "usual life",
        "insulin sensitivity",
        "taken",
        "kept to play again",
        "nats of the parameters",
        "published",
    ):
        assert words in shown.stdout


def test_a_hub_without_a_record_says_that_nothing_is_learned(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    key = create_key(tmp_path / "store.key")
    toml = tmp_path / "hub.toml"
    toml.write_text(f'hub_id = "{HUB}"\n[radio]\nadapter = "bumble:tcp-client:127.0.0.1:1"\n')
    config = HubConfig(
        hub_id=HUB, radio=RadioConfig(adapter="bumble:tcp-client:127.0.0.1:1"), base=str(tmp_path)
    )
    config.state.mkdir(exist_ok=True)
    with Store.open(config.store_path, key, hub_id=HUB, clock=FixedClock()):
        pass
    shown = CliRunner().invoke(app, ["memory", "--config", str(toml)], catch_exceptions=False)
    assert "nothing is learned yet" in shown.stdout


def test_the_stores_other_areas_stay_when_episodes_go(tmp_path: Path) -> None:
    with Store.open(tmp_path / "replay.sqlite", KEY, hub_id=HUB, clock=FixedClock()) as store:
        kept = [store.archive.keep("replay", bytes([n]) * 9, 999) for n in range(4)]
        other = store.archive.keep("alarms", b"x", 99)
        assert store.archive.drop("replay", [kept[1], kept[2], other]) == 2
        assert [item.number for item in store.archive.read("replay", 0, 9)] == [kept[0], kept[3]]
        assert len(store.archive.read("alarms", 0, 9)) == 1
    with Store.open(tmp_path / "replay.sqlite", KEY, hub_id=HUB, clock=FixedClock()) as store:
        assert [item.data[0] for item in store.archive.read("replay", 0, 9)] == [0, 3]
