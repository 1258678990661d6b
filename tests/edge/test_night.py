"""The night's work in the real engine, with its own process and a real store; and what may go wrong with it."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from core import correction_pool
from core.memory import Context, Look, Memory, NightRecord, from_bytes, to_bytes
from core.messages import Sample, StandingPolicy, decode
from edge.config import HubConfig, RadioConfig
from edge.engine import EngineSession, serve_engine
from edge.engine_link import NIGHTS_AREA, REPLAY_AREA, SNAPSHOT_BLOB, EngineLink, SavedTwin
from edge.engine_messages import (
    Advised,
    Answer,
    Ask,
    AskAdvice,
    AskNight,
    AskSnapshot,
    Blur,
    Hello,
    Night,
    NightDone,
    Observe,
    Snapshot,
)
from edge.export import export
from edge.night_job import NightAnswer, NightQuestion, work
from edge.store.keys import create_key
from edge.store.store import Store
from edge.store_thread import StoreThread
from hometwin import app
from tests.core.people import DAY_US, START_US, live
from tests.edge.store.conftest import HUB, KEY, FixedClock

PATIENT = "weight_kg = 75.0\n"
NIGHT_US = START_US + DAY_US + 3 * 3_600_000_000  # three in the morning
DEADLINE_S = 240.0
POLICY = StandingPolicy(
    "p-1", "", ("meal",), 20.0, 20.0, 9, 110.0, 10.0, 40.0, NIGHT_US + DAY_US, "dr", START_US
)


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


def over(found: Memory) -> Any:
    """A night's job that has ended with ``found``."""
    return SimpleNamespace(now_us=NIGHT_US, answer=NightAnswer(to_bytes(found)))


def test_what_was_seen_while_the_night_worked_and_what_the_night_found_both_stay() -> None:
    session = session_at_night()
    usual = Context(0, "usual life", "the usual life", ("usual life",), START_US)
    found = Memory(look=Look(looked_us=NIGHT_US - 9, drift_more=1.5), nights=1).with_context(usual)

    session._memory = Memory(look=Look(looked_us=NIGHT_US + 1, more=2.0))
    session._night = over(found)
    done = session.answer(AskNight())
    assert isinstance(done, NightDone)
    assert (done.over, done.why) == (True, "")
    assert session._memory.contexts == (usual,)
    assert (session._memory.look.more, session._memory.look.drift_more) == (2.0, 1.5)
    # In another context than the one that it was for, the night's work counts for nothing.
    session._memory = msgspec.structs.replace(session._memory, current=1)
    session._night = over(found)
    again = session.answer(AskNight())
    assert isinstance(again, NightDone)
    assert "context changed" in again.why
    assert session._memory.current == 1


def test_a_change_that_the_night_itself_found_is_taken_and_told() -> None:
    session = session_at_night()
    session.answer(Ask(NIGHT_US))
    words = Look(looked_us=NIGHT_US - 9, open_until_us=NIGHT_US + 10**9, opened_for="needs more insulin")
    found = Memory(look=words, nights=1, current=1)

    session._memory = Memory(look=Look(looked_us=NIGHT_US + 1, more=2.0))
    session._night = over(found)
    done = session.answer(AskNight())
    assert isinstance(done, NightDone)
    assert (done.over, done.why) == (True, "")
    assert session._memory.current == 1
    assert session._memory.look.more == 0.0  # its sums begin anew
    answer = session.answer(Ask(NIGHT_US + 1))
    assert isinstance(answer, Answer)
    assert "more insulin" in answer.changing


def test_a_look_that_fails_costs_no_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Memory:
        raise np.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr("core.learning.look", fail)
    session = session_at_night()
    answer = session.answer(Ask(NIGHT_US))
    assert isinstance(answer, Answer)
    assert answer.forecast is not None
    assert session._memory.look.looked_us == NIGHT_US  # and it is not tried again at once


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


def test_a_change_in_progress_is_told_and_nothing_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correction_pool, "MIN_NOTES", 10)
    session = session_at_night()
    session.answer(Ask(NIGHT_US))
    saved = session.answer(AskSnapshot(NIGHT_US))
    assert isinstance(saved, Snapshot)
    assert saved.contribution is not None
    assert saved.contribution.context == ""
    assert saved.contribution.correction == b""  # asked for once a day
    daily = session.answer(AskSnapshot(NIGHT_US, correction=True))
    assert isinstance(daily, Snapshot)
    assert daily.contribution is not None
    assert len(daily.contribution.correction) == correction_pool.SIZE_BYTES
    noisy = session.answer(AskSnapshot(NIGHT_US, Blur(1.0, 1e-6, 1), correction=True))
    assert isinstance(noisy, Snapshot)
    assert noisy.contribution is not None
    assert noisy.contribution.correction == b""  # no noise would hide a habit in it
    look = Look(looked_us=NIGHT_US, open_until_us=NIGHT_US + DAY_US, opened_for="needs more insulin")
    context = Context(1, "illness", "needs more insulin, as with an illness", ("illness",), START_US)
    memory = msgspec.structs.replace(Memory().with_context(context), look=look, current=1)
    again = EngineSession()
    again.answer(Hello(PATIENT, saved.data, saved.row, None, to_bytes(memory)))
    answer = again.answer(Ask(NIGHT_US))
    assert isinstance(answer, Answer)
    assert answer.changing == "a change of context is in progress: needs more insulin"
    assert answer.context == context.words
    advised = again.answer(AskAdvice(NIGHT_US, 40.0, "meal", POLICY, "a-1"))
    assert isinstance(advised, Advised)
    assert advised.advice is not None
    assert advised.advice.dose_u == 0.0
    assert advised.advice.refused is not None
    told = again.answer(AskSnapshot(NIGHT_US, correction=True))
    assert isinstance(told, Snapshot)
    assert told.contribution is not None
    assert told.contribution.context == answer.changing
    assert told.contribution.correction == b""  # out of the usual, it is no start for anybody
    hidden = again.answer(AskSnapshot(NIGHT_US, Blur(1.0, 1e-6, 1)))
    assert isinstance(hidden, Snapshot)
    assert hidden.contribution is None  # the words would tell what the noise is to hide


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
                clock.us += 300_000_000  # five minutes make a new question
                link.wake()
                await asyncio.sleep(1.0 if link.at_night else 0.2)
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
        "how strongly insulin lowers glucose",
        "Insulin's action on transport",
        "prior 90 %",
        "taken",
        "kept to play again",
        "nats of the parameters",
        "published",
    ):
        assert words in shown.stdout
    assert not re.search(r"\bln\b|ln_|logarithm| ± ", shown.stdout)
    assert max(len(line) for line in shown.stdout.splitlines() if " × " in line) <= 80
    (row,) = re.findall(r"Insulin sensitivity.* × (\S+) +(\S+)–(\S+) +\S+–\S+ +\d+ %", shown.stdout)
    assert float(row[1]) < float(row[0]) < float(row[2])
    lines = export(config, tmp_path / "out")
    assert "missing: nothing that is known of" in lines
    truth = {(s.time_us // 1_000_000, s.kind): s.value for s in samples()}
    with (tmp_path / "out" / "replay_events.csv").open(encoding="utf-8", newline="") as file:
        played = list(csv.DictReader(file))
    assert len(played) > 100
    for row in played:
        at_s = datetime.fromisoformat(row["time"]).timestamp()  # single precision: to some milliseconds
        values = [
            truth[near, row["kind"]] for near in (int(at_s), round(at_s)) if (near, row["kind"]) in truth
        ]
        assert pytest.approx(float(row["value"]), rel=1e-6) in values
    learned = json.loads((tmp_path / "out" / "memory.json").read_text(encoding="utf-8"))
    assert (learned["nights"], learned["anchors"][0]["context"]) == (1, 0)


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
