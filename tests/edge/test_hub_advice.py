"""The hub's part of the approval loop: whose advice it is, which record it rests on, what was done, and alone."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from core.errors import EnvironmentMissing, InputError, RefusedError
from core.evidence import digest, person_mark
from core.messages import (
    Confirmation,
    DoseAdvice,
    Downlink,
    OwnAdvice,
    Sample,
    StandingPolicy,
    Uplink,
    decode,
)
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge.advice_text import advice_lines
from edge.engine import EngineSession
from edge.engine_messages import Advised, AskAdvice, Hello, Observe, Ready
from edge.hand import taken_doubt
from edge.hub import Hub
from edge.hub_state import DownState, load_state
from tests.edge.test_hub import START_US, HandClock, make_hub

ME = person_mark("home", "")
RECORD = (
    Sample(START_US - 5 * US_PER_MIN, "cgm_mgdl", 130.0, "cgm", 1),
    Sample(START_US - 90 * US_PER_MIN, "bolus_u", 3.0, "pump", 1),
)
DATA_US = RECORD[0].time_us
UNUSABLE = (
    ("correction_mgdl_per_u", -10.0),
    ("correction_mgdl_per_u", float("inf")),
    ("carb_ratio_g_per_u", 0.0),
    ("carb_ratio_g_per_u", -1.0),
    ("max_dose_u", float("nan")),
    ("max_iob_u", -1.0),
    ("target_mgdl", float("nan")),
)


def advice(**changes: object) -> DoseAdvice:
    base = DoseAdvice(
        advice_id="home-1",
        for_time_us=START_US + 30 * US_PER_MIN,
        carbs_g=60.0,
        dose_u=4.2,
        p_below_70=0.01,
        p_below_54=0.0,
        horizon_min=300.0,
        draws=1000,
        refused=None,
        reasons=("60 g need 5 U.",),
        limits=("Not a medical device.",),
        data_time_us=DATA_US,
        model="glucose/1",
        approved_by="Dr. Grün",
        approved_us=START_US,
        why=("+5.0 U for the meal",),
        changes=("Exercise: ask again.",),
        person=ME,
        evidence=digest(RECORD, DATA_US),
    )
    return msgspec.structs.replace(base, **changes)


def policy(**changes: object) -> StandingPolicy:
    base = StandingPolicy(
        "p1", ME, ("meal", "now"), 5.0, 8.0, 2, 110.0, 10.0, 40.0, START_US + US_PER_DAY, "Dr. Grün", START_US
    )
    return msgspec.structs.replace(base, **changes)


def down(body: DoseAdvice | StandingPolicy, number: int = 1) -> Downlink:
    return Downlink("home", number, START_US, START_US + US_PER_H, body)


class Link:
    """Stands for a connected cloud: what the hub enqueues is looked at in its outbox."""

    connected, problem = False, ""

    def wake(self) -> None:
        pass


async def hub_with_record(tmp_path: Path) -> tuple[Hub, HandClock]:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    hub.link = Link()  # type: ignore[assignment]
    await hub.take(RECORD)
    return hub, clock


def sent(hub: Hub, kind: type) -> list[object]:
    """What waits in the outbox, of one kind."""
    found = []
    for _, data in hub.store.pending(100):
        try:
            found.append(decode(data, kind))
        except Exception:
            continue
    return found


def states(hub: Hub) -> dict[str, str]:
    return {row["advice_id"]: row["state"] for row in hub.desk.rows()}


async def test_advice_for_this_person_and_record_is_open_until_it_expires(tmp_path: Path) -> None:
    hub, clock = await hub_with_record(tmp_path)
    await hub.on_down(down(advice()))
    assert states(hub) == {"home-1": "open"}
    shown = "\n".join(advice_lines(await hub.on_request({"do": "advice"}), ZoneInfo("UTC")))
    for text in (
        "4.2 U for 60 g",
        "Dr. Grün",
        "+5.0 U for the meal",
        "60 g need",
        "Exercise",
        "Not a medical device",
    ):
        assert text in shown
    status = await hub.on_request({"do": "status"})
    assert status["advice"][-1]["state"] == "open"
    clock.us += 2 * US_PER_H
    assert states(hub) == {"home-1": "expired"}
    hub.thread.close()


async def test_another_persons_advice_does_nothing_but_take_its_number(tmp_path: Path) -> None:
    hub, _ = await hub_with_record(tmp_path)
    await hub.on_down(down(advice(person="somebody else"), 7))
    await hub.on_down(down(policy(person=""), 8))
    assert states(hub) == {}
    assert hub.desk.policy_row() is None
    assert hub.counters["down.wrong_person"] == 2
    assert load_state(hub.store, "down", DownState).last_number == 8
    hub.thread.close()


@pytest.mark.parametrize(
    "more",
    [
        Sample(START_US - 60 * US_PER_MIN, "bolus_u", 2.0, "hand", 1),
        Sample(START_US - 60 * US_PER_MIN, "carbs_g", 40.0, "hand", 1),
        Sample(START_US - 80 * US_PER_MIN, "bolus_u", 1.0, "pump", 2, amends=("pump", 1)),
    ],
)
async def test_advice_that_rests_on_another_record_is_void_and_says_why(tmp_path: Path, more: Sample) -> None:
    hub, _ = await hub_with_record(tmp_path)
    await hub.take((more,))
    await hub.on_down(down(advice()))
    assert states(hub) == {"home-1": "void"}
    assert hub.counters["down.other_record"] == 1
    shown = "\n".join(advice_lines(await hub.on_request({"do": "advice"}), ZoneInfo("UTC")))
    assert "VOID, do not use" in shown
    assert "another record" in shown
    hub.thread.close()


async def test_a_late_reading_does_not_make_advice_void(tmp_path: Path) -> None:
    hub, _ = await hub_with_record(tmp_path)
    await hub.take((Sample(START_US - 10 * US_PER_MIN, "cgm_mgdl", 131.0, "cgm", 0, quality=2),))
    await hub.on_down(down(advice()))
    assert states(hub) == {"home-1": "open"}
    hub.thread.close()


async def test_what_was_done_is_said_once_told_to_the_cloud_and_survives_a_restart(tmp_path: Path) -> None:
    hub, clock = await hub_with_record(tmp_path)
    await hub.on_down(down(advice()))
    said = await hub.on_request({"do": "confirm", "advice_id": "home-1", "took_u": 3.5})
    assert "3.5 U of 4.2 U" in said["said"]
    assert states(hub) == {"home-1": "confirmed"}
    assert sent(hub, Confirmation) == [Confirmation("home-1", clock.us, 3.5)]
    assert "bolus_u" not in {s.kind for s in hub.store.between(clock.us - US_PER_MIN, clock.us + US_PER_MIN)}
    with pytest.raises(RefusedError, match="already"):
        await hub.on_request({"do": "confirm", "advice_id": "home-1"})
    # Sent again by a cloud that crashed, it stays done.
    await hub.on_down(down(advice(), 2))
    assert states(hub) == {"home-1": "confirmed"}
    hub.store.close()
    hub.thread.close()
    again, _ = make_hub(tmp_path, clock)
    assert states(again) == {"home-1": "confirmed"}
    again.store.close()
    again.thread.close()


@pytest.mark.parametrize("took", [-1.0, 1e9, float("nan"), "two", True])
async def test_what_cannot_have_been_taken_is_refused(tmp_path: Path, took: object) -> None:
    hub, _ = await hub_with_record(tmp_path)
    await hub.on_down(down(advice()))
    with pytest.raises(InputError):
        await hub.on_request({"do": "confirm", "advice_id": "home-1", "took_u": took})
    with pytest.raises(InputError, match="no such advice"):
        await hub.on_request({"do": "confirm", "advice_id": "home-2"})
    assert states(hub) == {"home-1": "open"}
    hub.thread.close()


@pytest.mark.parametrize(
    ("took", "why"),
    [
        (80.0, "19 times the 4.2 U advised"),
        (13.0, "3 times the 4.2 U advised"),
        (0.42, "less than a third of the 4.2 U advised"),
    ],
)
async def test_a_dose_far_from_the_advised_one_is_asked_about_before_it_is_noted(
    tmp_path: Path, took: float, why: str
) -> None:
    hub, clock = await hub_with_record(tmp_path)
    await hub.on_down(down(advice()))
    request = {"do": "confirm", "advice_id": "home-1", "took_u": took}
    for sure in ({}, {"sure": "yes"}):
        assert await hub.on_request(request | sure) == {
            "unsure": True,
            "said": f"that is {took:g} U, {why}: if it is right, add --sure",
        }
    assert (states(hub), sent(hub, Confirmation)) == ({"home-1": "open"}, [])
    assert f"noted: {took:g} U" in (await hub.on_request(request | {"sure": True}))["said"]
    assert sent(hub, Confirmation) == [Confirmation("home-1", clock.us, took)]
    hub.thread.close()


@pytest.mark.parametrize(
    ("took_u", "advised_u", "asks"),
    [
        (0.0, 4.0, False),
        (1.4, 4.0, False),
        (12.0, 4.0, False),
        (5.0, 1.0, False),  # as for entries: a few units are never worth a question
        (5.1, 1.0, True),
        (5.1, 0.0, True),
        (20.0, 20.0, False),
        (25.5, 20.0, True),
    ],
)
def test_what_is_asked_about(took_u: float, advised_u: float, asks: bool) -> None:
    assert bool(taken_doubt(took_u, advised_u)) is asks


class FakeEngine:
    """Answers as the engine would, and remembers what it was asked."""

    def __init__(self, hub: Hub) -> None:
        self.asked: list[AskAdvice] = []
        self.up, self.row, self.dose_u = True, 0, 4.2
        self.wake = hub.engine.wake

    async def advise(self, question: AskAdvice) -> Advised:
        self.asked.append(question)
        changes = {"advice_id": question.advice_id, "for_time_us": question.now_us, "approved_by": ""}
        return Advised(advice(**changes, dose_u=self.dose_u))


async def test_a_hub_advises_alone_within_its_policy_and_tells_the_cloud(tmp_path: Path) -> None:
    hub, clock = await hub_with_record(tmp_path)
    engine = FakeEngine(hub)
    hub.desk._engine = engine  # type: ignore[assignment]
    with pytest.raises(RefusedError, match="no standing policy"):
        await hub.on_request({"do": "ask", "carbs_g": 40.0})
    await hub.on_down(down(policy(), 3))
    answer = await hub.on_request({"do": "ask", "carbs_g": 40.0})
    assert answer["advice"]["state"] == "open"
    assert answer["advice"]["approved_by"] == "standing policy of Dr. Grün"
    assert engine.asked[0].policy == policy()
    own = sent(hub, OwnAdvice)
    assert len(own) == 1
    assert own[0].policy_id == "p1"  # type: ignore[attr-defined]
    assert hub.down.last_number == 3
    with pytest.raises(RefusedError, match="allows: meal, now"):
        await hub.on_request({"do": "ask", "question": "basal"})
    clock.us += US_PER_MIN
    await hub.on_request({"do": "confirm", "advice_id": answer["advice"]["advice_id"], "took_u": 0.0})
    other = await hub.on_request({"do": "ask", "carbs_g": 20.0})
    await hub.on_request({"do": "confirm", "advice_id": other["advice"]["advice_id"], "took_u": 0.0})
    clock.us += US_PER_MIN
    with pytest.raises(RefusedError, match="2 doses a day"):
        await hub.on_request({"do": "ask", "carbs_g": 20.0})
    clock.us = START_US + US_PER_DAY + 1
    with pytest.raises(RefusedError, match="no standing policy"):
        await hub.on_request({"do": "ask", "carbs_g": 40.0})
    hub.thread.close()


async def test_while_a_dose_may_be_taken_and_not_on_record_nothing_more_is_advised(tmp_path: Path) -> None:
    hub, clock = await hub_with_record(tmp_path)
    engine = FakeEngine(hub)
    hub.desk._engine = engine  # type: ignore[assignment]
    await hub.on_down(down(policy(max_per_day=9), 3))
    first = (await hub.on_request({"do": "ask", "carbs_g": 40.0}))["advice"]
    clock.us += 2 * US_PER_MIN
    engine.dose_u = 0.0  # such as sugar against a low, which is never held back
    assert (await hub.on_request({"do": "ask", "question": "now"}))["advice"]["dose_u"] == 0.0
    engine.dose_u = 4.2
    with pytest.raises(RefusedError, match="still open") as refused:
        await hub.on_request({"do": "ask", "carbs_g": 40.0})
    assert f"confirm {first['advice_id']}" in (refused.value.mend or "")
    said = await hub.on_request({"do": "confirm", "advice_id": first["advice_id"], "took_u": 4.0})
    assert "not on record yet" in said["said"]
    with pytest.raises(RefusedError, match=r"4\.0 U of it are not on record"):
        await hub.on_request({"do": "ask", "carbs_g": 40.0})
    await hub.take([Sample(clock.us - US_PER_MIN, "bolus_u", 4.0, "hand", 2)])
    second = (await hub.on_request({"do": "ask", "carbs_g": 40.0}))["advice"]
    assert second["state"] == "open"
    # Nobody said what was done: after its quarter of an hour the advice is old, and no longer stands in the way.
    clock.us += 20 * US_PER_MIN
    assert (await hub.on_request({"do": "ask", "carbs_g": 40.0}))["advice"]["state"] == "open"
    hub.thread.close()


async def test_a_dose_that_the_pump_reports_needs_no_entry_by_hand(tmp_path: Path) -> None:
    hub, clock = await hub_with_record(tmp_path)
    hub.desk._engine = FakeEngine(hub)  # type: ignore[assignment]
    await hub.on_down(down(policy(max_per_day=9), 3))
    first = (await hub.on_request({"do": "ask", "carbs_g": 40.0}))["advice"]
    clock.us += 2 * US_PER_MIN
    await hub.take([Sample(clock.us - US_PER_MIN, "bolus_u", 4.2, "pump", 2)])
    said = await hub.on_request({"do": "confirm", "advice_id": first["advice_id"]})
    assert "record" not in said["said"]
    assert (await hub.on_request({"do": "ask", "carbs_g": 10.0}))["advice"]["state"] == "open"
    hub.thread.close()


def test_a_dose_dated_ahead_of_now_stops_advice() -> None:
    session = EngineSession()
    session.answer(Hello('timezone = "UTC"\n', None, 0))
    readings = [Sample(START_US + 5 * k * US_PER_MIN, "cgm_mgdl", 190.0, "cgm", k) for k in range(-400, 0)]
    ahead = Sample(START_US + 10 * US_PER_MIN, "bolus_u", 4.0, "pump", 1)
    session.answer(Observe(401, (*readings, ahead)))
    answer = session.answer(AskAdvice(START_US, 60.0, "meal", policy(), "home-own-1"))
    assert isinstance(answer, Advised)
    assert answer.advice is None
    assert "10 min ahead of now" in answer.note


async def test_without_an_engine_a_question_is_refused_at_once(tmp_path: Path) -> None:
    hub, _ = await hub_with_record(tmp_path)
    await hub.on_down(down(policy()))
    with pytest.raises(EnvironmentMissing, match="engine"):
        await hub.on_request({"do": "ask", "carbs_g": 40.0})
    hub.thread.close()


def test_the_engine_keeps_to_the_lower_of_file_and_policy() -> None:
    session = EngineSession()
    patient = 'timezone = "UTC"\n[therapy]\nmax_bolus_u = 1.5\n'
    assert isinstance(session.answer(Hello(patient, None, 0)), Ready)
    samples = tuple(
        Sample(START_US + 5 * k * US_PER_MIN, "cgm_mgdl", 190.0 + k % 3, "cgm", k) for k in range(-400, 0)
    )
    session.answer(Observe(400, samples))
    now_us = START_US - 4 * US_PER_MIN
    asked = AskAdvice(now_us, 80.0, "meal", policy(max_dose_u=2.5), "home-own-1")
    answer = session.answer(asked)
    assert isinstance(answer, Advised)
    assert answer.advice is not None
    assert answer.advice.max_dose_u == 1.5
    assert answer.advice.dose_u <= 1.5
    assert answer.advice.advice_id == "home-own-1"
    absurd = session.answer(msgspec.structs.replace(asked, carbs_g=1e6))
    assert isinstance(absurd, Advised)
    assert absurd.advice is None
    assert "carbohydrate" in absurd.note
    for name, number in UNUSABLE:
        answer = session.answer(msgspec.structs.replace(asked, policy=policy(**{name: number})))
        assert isinstance(answer, Advised)
        assert answer.advice is None
    assert isinstance(session.answer(asked), Advised)


@pytest.mark.parametrize(("name", "number"), UNUSABLE)
async def test_a_policy_with_numbers_that_nobody_can_dose_by_is_refused(
    tmp_path: Path, name: str, number: float
) -> None:
    hub, _ = await hub_with_record(tmp_path)
    await hub.on_down(down(policy(**{name: number}), 5))
    assert hub.desk.policy_row() is None
    assert hub.counters["down.unusable"] == 1
    assert hub.down.last_number == 5
    await hub.on_down(down(policy(), 6))
    assert hub.desk.policy_row() is not None
    hub.thread.close()


def test_new_messages_survive_the_wire() -> None:
    from core.messages import encode

    for body in (Confirmation("a", 1, 2.0), OwnAdvice(advice(), "p")):
        assert decode(encode(Uplink("home", 1, 2, body)), Uplink).body == body
    assert decode(encode(down(policy())), Downlink).body == policy()


def test_state_of_before_there_were_notes_still_loads() -> None:
    class Old(msgspec.Struct, frozen=True):
        last_number: int
        prior: None
        advice: tuple[DoseAdvice, ...]

    from core.messages import encode

    state = decode(encode(Old(5, None, (advice(),))), DownState)
    assert state.last_number == 5
    assert state.note(state.advice[0]).state(START_US) == "open"


@pytest.mark.parametrize(
    ("hours", "told"),
    [
        (0, "begins after a day of glucose readings, of which 0 h are here; it tries"),
        (5, "begins after a day of glucose readings, of which 5 h are here; it tries"),
        (30, "has the day of glucose readings with which it begins; it tries"),
    ],
)
async def test_without_advice_the_hub_says_how_much_of_the_first_day_is_there(
    tmp_path: Path, hours: int, told: str
) -> None:
    clock = HandClock()
    hub, _ = make_hub(tmp_path, clock)
    hub.link = Link()  # type: ignore[assignment]
    from_us = clock.now_us() - hours * US_PER_H
    times_us = (from_us, clock.now_us()) if hours else ()
    await hub.take(tuple(Sample(t, "cgm_mgdl", 120.0, "cgm", n) for n, t in enumerate(times_us)))
    (line,) = advice_lines(await hub.on_request({"do": "advice"}), ZoneInfo("UTC"))
    assert told in line
    assert "out of reach" in line
    hub.thread.close()
