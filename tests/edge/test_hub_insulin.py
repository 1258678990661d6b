"""Insulin and advice at the hub: what was taken since makes advice void, but for the advised dose itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from core.errors import RefusedError, StoreError
from core.messages import Confirmation, Sample
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge.advice_text import advice_lines
from edge.hub import Hub
from edge.status_text import status_lines
from edge.store.journal import read_line
from tests.edge.test_hub import HandClock, make_hub
from tests.edge.test_hub_advice import (
    DATA_US,
    FakeEngine,
    advice,
    down,
    hub_with_record,
    policy,
    sent,
    states,
)

MIN = US_PER_MIN


async def hub_that_may_ask(tmp_path: Path) -> tuple[Hub, HandClock, FakeEngine]:
    hub, clock = await hub_with_record(tmp_path)
    engine = FakeEngine(hub)
    hub.desk._engine = engine  # type: ignore[assignment]
    await hub.on_down(down(policy(max_per_day=9), 1))
    clock.us += MIN
    return hub, clock, engine


async def ask(hub: Hub) -> dict[str, Any]:
    row: dict[str, Any] = (await hub.on_request({"do": "ask", "carbs_g": 40.0}))["advice"]
    return row


async def confirm(hub: Hub, advice_id: str, took_u: float | None = None) -> str:
    said = await hub.on_request({"do": "confirm", "advice_id": advice_id, "took_u": took_u})
    return str(said["said"])


async def shown(hub: Hub) -> str:
    return "\n".join(advice_lines(await hub.on_request({"do": "advice"}), ZoneInfo("UTC")))


def journal(hub: Hub) -> list[tuple[str, str, object]]:
    entries = [read_line(line) for line in hub.store.journal(0, 100)]
    return [(e.who, e.what, e.detail.get("why")) for e in entries if e.what.startswith("advice.")]


def bolus(time_us: int, units: float, seq: int, source: str = "pump") -> Sample:
    return Sample(time_us, "bolus_u", units, source, seq)


async def test_one_bolus_on_record_does_not_stand_for_two_noted_doses(tmp_path: Path) -> None:
    hub, clock, _ = await hub_that_may_ask(tmp_path)
    first = await ask(hub)
    clock.us += 2 * MIN
    await hub.take([bolus(clock.us - MIN, 4.2, 2)])
    assert "not on record" not in await confirm(hub, first["advice_id"])
    clock.us += 3 * MIN
    second = await ask(hub)
    clock.us += 2 * MIN
    assert "not on record yet" in await confirm(hub, second["advice_id"])  # by a pen, and not entered
    with pytest.raises(RefusedError, match=rf"{second['advice_id']}, and 4\.2 U of it are not on record"):
        await ask(hub)
    clock.us += MIN
    await hub.take([bolus(clock.us, 4.2, 3)])
    clock.us += MIN
    assert (await ask(hub))["state"] == "open"
    hub.thread.close()


async def test_a_dose_known_before_the_advice_does_not_stand_for_the_one_noted(tmp_path: Path) -> None:
    hub, clock, _ = await hub_that_may_ask(tmp_path)
    await hub.take([bolus(clock.us - 10 * MIN, 6.0, 2)])
    clock.us += MIN
    first = await ask(hub)
    clock.us += MIN
    assert "not on record yet" in await confirm(hub, first["advice_id"])
    with pytest.raises(RefusedError, match=r"4\.2 U of it are not on record"):
        await ask(hub)
    hub.thread.close()


async def test_a_dose_on_record_is_found_when_it_is_noted_an_hour_later(tmp_path: Path) -> None:
    hub, clock, _ = await hub_that_may_ask(tmp_path)
    first = await ask(hub)
    clock.us += 2 * MIN
    await hub.take([bolus(clock.us - MIN, 4.2, 2)])
    clock.us += US_PER_H
    assert "not on record" not in await confirm(hub, first["advice_id"])
    assert (await ask(hub))["state"] == "open"
    hub.thread.close()


@pytest.mark.parametrize("kind", ["bolus_u", "long_acting_u"])
async def test_insulin_taken_after_the_data_makes_advice_void_as_it_comes(tmp_path: Path, kind: str) -> None:
    hub, clock = await hub_with_record(tmp_path)
    clock.us += 6 * MIN
    await hub.take([Sample(DATA_US + 2 * MIN, kind, 4.2, "pump", 2)])
    clock.us += 2 * MIN
    await hub.on_down(down(advice()))
    assert states(hub) == {"home-1": "void"}
    assert "insulin was taken after the data this advice rests on" in await shown(hub)
    assert (hub.counters["advice.void"], hub.counters["down.insulin_after"]) == (1, 1)
    assert ("hub", "advice.void", "insulin_after") in journal(hub)
    assert hub._status().set_aside == {"home-1": "insulin_after"}
    assert hub._status_due.is_set()  # the cloud hears of it now, not in a quarter of an hour
    await hub.on_down(down(advice(), 2))  # a cloud that crashed sends it again
    assert states(hub) == {"home-1": "void"}
    hub.thread.close()


async def test_food_after_the_data_and_advice_without_a_dose_are_left_alone(tmp_path: Path) -> None:
    hub, clock = await hub_with_record(tmp_path)
    clock.us += 6 * MIN
    await hub.take([Sample(clock.us, "carbs_g", 40.0, "hand", 1)])
    await hub.on_down(down(advice()))
    assert states(hub) == {"home-1": "open"}
    clock.us += MIN
    await hub.take([bolus(clock.us, 0.05, 2), Sample(clock.us, "carbs_g", 20.0, "hand", 2)])
    assert states(hub) == {"home-1": "open"}
    sugar = advice(advice_id="home-2", dose_u=0.0, action="carbs", eat_g=15.0)
    await hub.on_down(down(sugar, 2))
    await hub.take([bolus(clock.us, 6.0, 3)])
    assert (await shown(hub)).count("[open") == 1
    assert states(hub) == {"home-1": "void", "home-2": "open"}
    hub.thread.close()


async def test_the_advised_dose_itself_does_not_stand_in_the_way_of_its_confirmation(tmp_path: Path) -> None:
    hub, clock = await hub_with_record(tmp_path)
    clock.us += MIN
    await hub.on_down(down(advice()))
    clock.us += 30 * MIN
    await hub.take([bolus(clock.us - MIN, 4.15, 2)])
    assert hub._status().set_aside == {}
    text = await shown(hub)
    assert states(hub) == {"home-1": "taken"}
    assert "do not take it again" in text
    assert "advice confirm home-1" in text
    status = await hub.on_request({"do": "status"})
    assert "do not take it again" in "\n".join(status_lines(status))
    await hub.on_down(down(advice(), 2))  # again, by a cloud that crashed
    assert states(hub) == {"home-1": "taken"}
    clock.us += MIN
    assert await confirm(hub, "home-1") == "noted: 4.2 U of 4.2 U advised"
    assert states(hub) == {"home-1": "confirmed"}
    assert sent(hub, Confirmation) == [Confirmation("home-1", clock.us, 4.2)]
    assert hub.counters["advice.void"] == 0
    assert journal(hub) == [("cloud", "advice.received", None)] * 2
    hub.thread.close()


async def test_another_dose_withdraws_what_was_shown_and_only_what_was_done_can_be_said(
    tmp_path: Path,
) -> None:
    hub, clock = await hub_with_record(tmp_path)
    clock.us += MIN
    await hub.on_down(down(advice()))
    assert states(hub) == {"home-1": "open"}
    clock.us += 5 * MIN
    await hub.take([bolus(clock.us - MIN, 2.0, 2)])
    assert states(hub) == {"home-1": "part"}
    clock.us += 30 * MIN  # and no more of it came
    assert "VOID" in await shown(hub)
    assert states(hub) == {"home-1": "void"}
    assert hub.counters["advice.withdrawn"] == 1
    assert ("hub", "advice.void", "insulin_after") in journal(hub)
    assert "VOID" in "\n".join(status_lines(await hub.on_request({"do": "status"})))
    with pytest.raises(RefusedError, match="insulin was taken after the data") as refused:
        await confirm(hub, "home-1")
    assert "do not take it" in (refused.value.mend or "")
    assert sent(hub, Confirmation) == []
    # Restarted, it stays withdrawn.
    hub.store.close()
    hub.thread.close()
    hub, _ = make_hub(tmp_path, clock)
    assert states(hub) == {"home-1": "void"}
    assert hub._status().set_aside == {"home-1": "insulin_after"}
    # Whoever took it all the same is heard: a dose that the hub refused to hear of would be advised again.
    assert "not on record yet" in await confirm(hub, "home-1", 4.2)
    assert states(hub) == {"home-1": "confirmed"}
    hub.store.close()
    hub.thread.close()


async def test_less_than_advised_by_the_pump_is_confirmed_with_what_it_was(tmp_path: Path) -> None:
    hub, clock = await hub_with_record(tmp_path)
    clock.us += MIN
    await hub.on_down(down(advice()))
    clock.us += 5 * MIN
    await hub.take([bolus(clock.us, 2.0, 2)])
    assert await confirm(hub, "home-1", 2.0) == "noted: 2 U of 4.2 U advised"
    hub.thread.close()


async def test_a_dose_reported_late_or_corrected_withdraws_advice_that_did_not_know_of_it(
    tmp_path: Path,
) -> None:
    hub, clock = await hub_with_record(tmp_path)
    clock.us += MIN
    await hub.on_down(down(advice()))
    clock.us += 5 * MIN
    await hub.take([bolus(DATA_US - 20 * MIN, 4.2, 2)])
    assert states(hub) == {"home-1": "void"}
    assert "does not know of" in await shown(hub)
    hub.thread.close()


async def test_a_noted_dose_that_is_not_on_record_makes_advice_of_the_cloud_void(tmp_path: Path) -> None:
    hub, clock, _ = await hub_that_may_ask(tmp_path)
    first = await ask(hub)
    clock.us += MIN
    await confirm(hub, first["advice_id"])
    clock.us += 2 * MIN
    await hub.on_down(down(advice(), 2))
    assert states(hub)["home-1"] == "void"
    assert "4.2 U that you noted" in await shown(hub)
    hub.thread.close()


async def test_no_second_dose_is_shown_while_one_may_have_been_taken(tmp_path: Path) -> None:
    hub, clock, engine = await hub_that_may_ask(tmp_path)
    first = await ask(hub)
    await hub.on_down(down(advice(), 2))
    assert states(hub) == {first["advice_id"]: "open", "home-1": "void"}
    assert "may have been taken" in await shown(hub)
    clock.us += 20 * MIN
    await hub.on_down(down(advice(advice_id="home-2"), 3))
    assert states(hub)["home-2"] == "open"
    clock.us += MIN
    with pytest.raises(RefusedError, match=r"home-2 .* is still open"):  # the cloud's as well as its own
        await ask(hub)
    await hub.take([bolus(clock.us, 6.0, 2)])
    with pytest.raises(RefusedError, match=r"home-2 .* was withdrawn"):
        await ask(hub)
    engine.dose_u = 0.0
    assert (await ask(hub))["dose_u"] == 0.0
    engine.dose_u = 4.2
    await confirm(hub, "home-2", 0.0)
    clock.us += MIN
    assert (await ask(hub))["state"] == "open"
    hub.thread.close()


async def test_the_hubs_own_advice_knows_what_was_on_record_when_it_was_asked_and_no_more(
    tmp_path: Path,
) -> None:
    hub, clock, _ = await hub_that_may_ask(tmp_path)
    await hub.take([bolus(clock.us, 3.0, 2)])  # after the newest reading, and known to the engine
    clock.us += MIN
    own = await ask(hub)
    assert own["state"] == "open"
    clock.us += MIN
    assert states(hub)[own["advice_id"]] == "open"
    await hub.take([bolus(clock.us, 6.0, 3)])
    assert states(hub)[own["advice_id"]] == "void"
    hub.thread.close()


async def test_a_dose_in_two_parts_is_taken_once_they_are_the_dose(tmp_path: Path) -> None:
    hub, clock = await hub_with_record(tmp_path)
    clock.us += MIN
    await hub.on_down(down(advice()))
    clock.us += 2 * MIN
    await hub.take([bolus(clock.us, 2.0, 2)])
    assert states(hub) == {"home-1": "part"}
    for text in (await shown(hub), "\n".join(status_lines(await hub.on_request({"do": "status"})))):
        assert "the whole dose is too much now" in text
    assert "2 U came on record since. If they are a part of it, no more than 2.2 U are left" in await shown(
        hub
    )
    with pytest.raises(RefusedError, match=r"only 2 U of its 4\.2 U are on record"):
        await confirm(hub, "home-1")
    await hub.on_down(down(advice(advice_id="home-2"), 2))  # no second dose meanwhile
    assert states(hub) == {"home-1": "part", "home-2": "void"}
    assert hub.counters["down.another_open"] == 1
    clock.us += 27 * MIN
    await hub.take([bolus(clock.us, 2.0, 3)])
    assert states(hub)["home-1"] == "taken"
    clock.us += 10 * MIN  # long after the first part it stays so
    assert "do not take it again" in await shown(hub)
    assert await confirm(hub, "home-1", 4.0) == "noted: 4 U of 4.2 U advised"
    assert sent(hub, Confirmation) == [Confirmation("home-1", clock.us, 4.0)]
    assert hub.counters["advice.void"] == 1  # home-2
    hub.thread.close()


@pytest.mark.parametrize(
    ("second", "after_min", "state"),
    [
        (bolus(0, 1.0, 3), 5, "part"),
        (bolus(0, 2.0, 3), 31, "void"),  # too late to be the same dose
        (bolus(0, 3.0, 3), 5, "void"),  # more than the dose in all
        (Sample(0, "long_acting_u", 2.0, "hand", 3), 5, "void"),
    ],
)
async def test_what_is_no_part_of_a_dose_makes_it_void(
    tmp_path: Path, second: Sample, after_min: int, state: str
) -> None:
    hub, clock = await hub_with_record(tmp_path)
    clock.us += MIN
    await hub.on_down(down(advice()))
    clock.us += MIN
    await hub.take([bolus(clock.us, 2.5, 2)])
    clock.us += after_min * MIN
    await hub.take([msgspec.structs.replace(second, time_us=clock.us)])
    assert states(hub) == {"home-1": state}
    hub.thread.close()


async def test_a_dose_that_was_begun_stands_in_the_way_of_another_after_its_advice_has_expired(
    tmp_path: Path,
) -> None:
    hub, clock, _ = await hub_that_may_ask(tmp_path)
    first = await ask(hub)
    clock.us += 14 * MIN
    await hub.take([bolus(clock.us, 2.0, 2)])
    clock.us += 10 * MIN  # its quarter of an hour is over
    with pytest.raises(RefusedError, match=r"is begun: 2 U are on record"):
        await ask(hub)
    assert states(hub)[first["advice_id"]] == "part"
    clock.us += MIN
    await hub.take([bolus(clock.us, 2.0, 3)])
    assert states(hub)[first["advice_id"]] == "expired"
    clock.us += MIN
    second = await ask(hub)  # all of the first is on record
    clock.us += 16 * MIN
    await hub.take([bolus(clock.us, 2.0, 4)])
    assert states(hub)[second["advice_id"]] == "expired"  # what is taken after the end is another dose
    assert (await ask(hub))["state"] == "open"
    hub.thread.close()


async def test_a_dose_that_comes_while_the_engine_thinks_withdraws_its_answer(tmp_path: Path) -> None:
    hub, clock, engine = await hub_that_may_ask(tmp_path)
    think = engine.advise

    async def slow(question: Any) -> Any:
        answer = await think(question)
        clock.us += MIN
        await hub.take([bolus(clock.us, 2.0, 2)])
        return answer

    engine.advise = slow  # type: ignore[method-assign]
    assert (await ask(hub))["state"] == "void"
    hub.thread.close()


async def test_two_questions_at_once_get_one_dose(tmp_path: Path) -> None:
    import asyncio

    hub, clock, engine = await hub_that_may_ask(tmp_path)
    think = engine.advise

    async def slow(question: Any) -> Any:
        clock.us += MIN
        await asyncio.sleep(0.01)
        return await think(question)

    engine.advise = slow  # type: ignore[method-assign]
    answers = await asyncio.gather(ask(hub), ask(hub), return_exceptions=True)
    assert sorted(type(a).__name__ for a in answers) == ["RefusedError", "dict"]
    hub.thread.close()


async def test_what_the_disk_does_not_tell_or_keep_is_void_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, clock = await hub_with_record(tmp_path)
    clock.us += MIN
    await hub.on_down(down(advice()))

    def broken(*_args: object) -> list[Sample]:
        raise StoreError("cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(hub.store, "between", broken)
        status = await hub.on_request({"do": "status"})
        assert status["advice"][-1]["state"] == "void"
    await hub.on_request({"do": "status"})
    assert states(hub) == {"home-1": "open"}
    clock.us += MIN
    with monkeypatch.context() as patch:
        patch.setattr(hub.store, "put_blob", broken)
        await hub.take([bolus(clock.us, 6.0, 2)])
        assert states(hub) == {"home-1": "void"}
        assert "insulin was taken after" in await shown(hub)
        assert hub.counters["advice.void"] == 0
    await hub.on_request({"do": "status"})
    assert hub.down.notes["home-1"].void_us == clock.us
    assert hub.counters["advice.void"] == 1
    hub.thread.close()


async def test_state_of_a_version_without_times_still_serves(tmp_path: Path) -> None:
    hub, clock = await hub_with_record(tmp_path)
    await hub.on_down(down(advice()))
    note = msgspec.structs.replace(hub.down.notes["home-1"], since_us=0)
    await hub._keep_down(lambda state: state.with_note("home-1", note))
    clock.us += 5 * MIN
    await hub.take([bolus(clock.us, 4.2, 2)])
    assert states(hub) == {"home-1": "taken"}
    assert await confirm(hub, "home-1") == "noted: 4.2 U of 4.2 U advised"
    clock.us += US_PER_DAY
    hub.thread.close()
