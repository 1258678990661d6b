"""The portal's what-if: sliders to changes, the worker, and a page that answers what is asked."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pytest

from cloud import whatif_job
from cloud.advice_worker import DROPPED
from cloud.db import HubRow
from cloud.portal.causes import answer_html
from cloud.portal.chart import DARK
from cloud.portal.whatif_view import (
    SLIDERS,
    SPANS,
    anchor_us,
    cautions,
    changes_of,
    opening,
    options,
    summary,
    there,
    too_few,
    window_us,
)
from cloud.whatif_job import KEPT, Effect, Question, Record, Reply, WhatifWorker, Window, Windows
from core.causal.change import PARAMETERS, parse
from core.messages import Sample
from core.models import hovorka
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from tests.cloud import filled
from tests.cloud.portal_process import browser, portal
from tests.cloud.test_portal import Site
from tests.edge.effect import lives

NOW = filled.NOW_US
START, END = window_us(SPANS["Last 12 h"], NOW)
UTC = ZoneInfo("UTC")


def window(key: str = "one", patient: bytes = b"weight_kg = 75.0") -> Window:
    begin = NOW - US_PER_DAY
    acts = [*filled.readings(begin, NOW), *filled.meals(begin, 2)]
    samples = sorted((s for s in acts if begin <= s.time_us <= NOW), key=lambda s: s.time_us)
    return Window(key, tuple(samples), patient, START, END, draws=80)


@pytest.fixture(scope="module")
def windows() -> Windows:
    """One window, learned."""
    made = Windows()
    first = made.reply(window())
    assert first.problem is None
    assert first.answer is not None
    assert not any(first.answer.effect.mean)
    return made


def test_a_question_is_answered_with_courses_that_belong_together(windows: Windows) -> None:
    answer = windows.reply(Question("one", ("bolus_u*=0.5",))).answer
    assert answer is not None
    assert answer.times_us[0] == START
    assert answer.times_us[-1] == END
    assert len(answer.times_us) == len(answer.factual.mean) == len(answer.effect.p95) == 145
    assert answer.effect.mean[-1] > 0.0
    for f, c, e in zip(answer.factual.mean, answer.changed.mean, answer.effect.mean, strict=True):
        assert c - f == pytest.approx(e, abs=0.2)
    assert answer.question == "counterfactual"


def test_an_unknown_window_and_a_bad_change_are_said(windows: Windows) -> None:
    assert not windows.reply(Question("other", ())).is_known
    bad = windows.reply(Question("one", ("bolus*=2",)))
    assert bad.answer is None
    assert "unknown target" in (bad.problem or "")
    wrong = windows.reply(window("wrong", b"weight_kg = -3.0"))
    assert wrong.problem
    empty = windows.reply(Window("empty", (), b"", START, END))
    assert "record holds nothing of these days" in (empty.problem or "")


def test_only_the_last_used_windows_are_kept(windows: Windows) -> None:
    made = Windows()
    made._kept.update({str(k): known for k, known in enumerate([windows._kept["one"]] * KEPT)})
    assert made.reply(Question("0", ())).answer is not None
    made._kept["new"] = windows._kept["one"]
    made.reply(window("1"))  # known already: nothing is learned again
    assert set(made._kept) == {"0", "1", "2", "3", "4", "5", "new"}
    short = window("short")
    made._learn(Window("short", short.samples, b"", END - 10 * US_PER_MIN, END, 40))
    assert "short" in made._kept
    assert len(made._kept) == KEPT
    assert {"2", "3"}.isdisjoint(made._kept)


def test_every_slider_makes_a_change_that_can_be_meant() -> None:
    for name, span in SPANS.items():
        start_us, _ = window_us(span, NOW)
        for slider in SLIDERS:
            away = slider.high if slider.high != slider.neutral else slider.low
            changes = changes_of({slider.name: away}, span, start_us)
            assert bool(changes) == (slider.name in span.sliders), (name, slider)
            for change in changes:
                meant = parse(change, UTC)
                assert meant.from_us in (None, start_us)


def test_neutral_sliders_change_nothing_and_typed_words_come_last() -> None:
    span = SPANS["Last 24 h"]
    neutral = {s.name: s.neutral for s in SLIDERS}
    assert changes_of(neutral, span, START) == ()
    moved = {**neutral, "bolus": 70.0, "early": 15.0, "eat": 50.0}  # nothing can be eaten now in the past
    assert changes_of(moved, span, START, " s*=0.9 ;; ") == ("bolus_u*=0.7", "bolus_u<<15", "s*=0.9")


def test_a_window_ends_on_the_grid_of_readings() -> None:
    start_us, end_us = window_us(SPANS["Last 24 h"], NOW + 123_456_789)
    assert end_us % (5 * US_PER_MIN) == 0
    assert end_us - start_us == US_PER_DAY
    assert 0 <= NOW + 123_456_789 - end_us < 5 * US_PER_MIN
    ahead = window_us(SPANS["Next 6 h"], NOW)
    assert ahead == (NOW, NOW + 6 * US_PER_H)


def test_when_readings_ended_long_ago_windows_lie_beside_the_last_one() -> None:
    now_us = 500 * US_PER_DAY
    assert anchor_us(now_us, None) == now_us
    assert anchor_us(now_us, now_us - 11 * US_PER_H) == now_us
    assert anchor_us(now_us, now_us - 324 * US_PER_DAY) == now_us - 324 * US_PER_DAY


def test_it_opens_on_what_is_there_and_cuts_no_window_ahead() -> None:
    def span(name: str, hours: float) -> tuple[int, int] | None:
        """Begin and end in hours before now, with so many hours of readings."""
        found = there(window_us(SPANS[name], NOW), NOW, NOW - round(hours * US_PER_H))
        return None if found is None else tuple((t - NOW) / US_PER_H for t in found)  # type: ignore[return-value]

    for hours, name in (
        (48, "Last 24 h"),
        (30, "Last 24 h"),
        (29, "Last 12 h"),
        (18, "Last 12 h"),
        (8, "Last 12 h"),
    ):
        assert opening(NOW, NOW - hours * US_PER_H) == name
    assert opening(NOW, None) == "Last 12 h"
    assert span("Last 24 h", 30) == (-24, 0)
    assert span("Last 24 h", 29) == (-23, 0)
    assert span("Last 12 h", 9.99) == (-3 - 11 / 12, 0)  # on the grid
    assert span("Last 12 h", 7) == (-1, 0)
    assert span("Last 12 h", 6.9) is None
    assert span("The day before", 36) == (-30, -24)
    assert span("The day before", 30) is None
    assert span("Next 6 h", 6) == (0, 6)
    assert span("Next 6 h", 5.9) is None
    assert there(window_us(SPANS["Next 6 h"], NOW), NOW, None) is None


def test_too_few_readings_are_said_with_the_time_from_when_they_are_enough() -> None:
    first_us = NOW - 3 * US_PER_H  # Friday 11:00
    said = too_few(SPANS["Last 12 h"], NOW, first_us, UTC)
    assert "they begin at Fri 02 Jan 11:00" in said
    assert "needs 6 h of them before it and 1 h inside it. Ask again at Fri 02 Jan 18:00" in said
    assert "Ask again at Fri 02 Jan 17:00" in too_few(SPANS["Next 6 h"], NOW, first_us, UTC)
    assert "Ask again at Sat 03 Jan 18:00" in too_few(SPANS["The day before"], NOW, first_us, UTC)
    assert "no readings" in too_few(SPANS["Next 6 h"], NOW, None, UTC)


def test_what_is_shown_is_json_escaped_and_loud(windows: Windows) -> None:
    answer = windows.reply(Question("one", ("bolus_u*=3",))).answer
    assert answer is not None
    assert not answer.trustworthy
    tree = options(answer, window().samples, ZoneInfo("Europe/London"), DARK, dark=True)
    text = json.dumps(tree, allow_nan=False)
    assert "With the change" in text
    logged = {s["name"]: s["data"] for s in tree["series"]}
    assert len(logged["Bolus, U"]) == sum(
        s.kind == "bolus_u" and answer.times_us[0] <= s.time_us <= answer.times_us[-1]
        for s in window().samples
    )
    assert "Food, g" in tree["legend"]["data"]
    pricked = Sample(answer.times_us[3], "smbg_mgdl", 123.0, "meter", 1)
    tree = options(answer, [pricked], ZoneInfo("Europe/London"))
    (fingers,) = [s for s in tree["series"] if s["name"] == "Fingersticks"]
    assert [value for _, value in fingers["data"]] == [123.0]
    low, width = tree["series"][0]["data"], tree["series"][1]["data"]
    assert all(w >= 0 for _, w in width)
    assert low[0][1] == answer.factual.p05[0]
    banner = cautions(answer)
    assert 'role="alert"' in banner
    assert "Outside the domain" in banner
    assert "Mean effect" in summary(answer)


async def test_the_worker_process_answers_and_is_replaced_when_it_dies() -> None:
    worker = WhatifWorker()
    try:
        assert not (await worker.reply(Question("one", ()))).is_known
        assert worker._process is not None
        worker._process.kill()
        await worker._process.wait()
        assert not (await worker.reply(Question("one", ()))).is_known
    finally:
        await worker.close()


async def test_what_nobody_waits_for_is_not_learned_and_a_closed_page_leaves_the_process_alone() -> None:
    worker = WhatifWorker()
    try:
        await worker.reply(Question("one", ()))
        process = worker._process
        dropped = await worker.reply(window("closed"), lambda: False)
        assert dropped.problem == DROPPED
        leaving = asyncio.create_task(worker.reply(Question("one", ())))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert not (await worker.reply(Question("two", ()))).is_known  # the frames are still in step
        assert worker._process is process
        assert not (await worker.reply(Question("closed", ()))).is_known
    finally:
        await worker.close()


def test_a_window_of_a_moment_ago_is_used_again_unless_a_dose_or_the_file_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(whatif_job.time, "monotonic", lambda: now_s[0])
    worker, name, first = WhatifWorker(), ("hub-1", "Last 12 h"), window("first")
    more = filled.readings(NOW, NOW + US_PER_H)
    later = msgspec.structs.replace(first, key="later", samples=(*first.samples, *more))
    assert worker.recent(name, first) is first
    assert worker.recent(name, later) is first
    assert worker.recent(("hub-2", "Last 12 h"), later) is later
    meal = next(s for s in later.samples if s.kind == "carbs_g")
    mended = tuple(msgspec.structs.replace(s, value=5.0) if s == meal else s for s in later.samples)
    corrected = msgspec.structs.replace(later, key="corrected", samples=mended)
    assert worker.recent(name, corrected) is corrected
    told = msgspec.structs.replace(corrected, key="told", patient_toml=b"weight_kg = 80.0")
    assert worker.recent(name, told) is told
    now_s[0] += whatif_job.REUSE_S
    assert worker.recent(name, first) is first


def test_the_pages_know_the_models_parameters_without_loading_it() -> None:
    assert [f"ln_{name}" for name in PARAMETERS] == list(hovorka.NAMES[: hovorka.N_THETA])
    code = "import sys, cloud.portal.whatif; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("portal")
    db = filled.open_database(folder)
    with db.write() as session:
        filled.fill(session)
        for hub_id, hours in (("young", 10), ("newborn", 3)):
            session.add(HubRow(hub_id=hub_id, person=hub_id))
            session.flush()
            filled.add_samples(session, young(hours), hub_id)
    db.close()
    with portal(folder) as base:
        yield Site(base, folder)


def young(hours: int) -> list[Sample]:
    """The record of a hub that is ``hours`` old."""
    times = range(NOW - hours * US_PER_H, NOW + 1, 5 * US_PER_MIN)
    readings = [Sample(t, "cgm_mgdl", filled.glucose_at(t), "cgm", t // US_PER_MIN) for t in times]
    return [*readings, *(s for s in filled.meals(NOW - US_PER_DAY, 2) if times[0] < s.time_us <= NOW)]


@pytest.mark.timeout(260)
async def test_a_fresh_hub_opens_on_the_hours_that_are_there_or_is_told_that_there_are_too_few(
    site: Site,
) -> None:
    async with browser(site.base, site.login(), "/whatif/newborn") as tab:
        await tab.until(lambda t: "Not enough readings yet: they begin at Fri 02 Jan 11:00" in t.text())
    async with browser(site.base, site.login(), "/whatif/young") as tab:
        await tab.until(lambda t: "Fri 02 Jan 10:00 to Fri 02 Jan 14:00; no longer" in t.text())
        await tab.until(lambda t: "Nothing is changed yet" in t.text(), limit_s=200)


@pytest.mark.timeout(260)
async def test_the_page_answers_what_is_typed(site: Site) -> None:
    assert site.get("/whatif/hub-1").status_code == 303  # not without login
    async with browser(site.base, site.login(), "/whatif/hub-1") as tab:
        await tab.type("Other change", "banana*=2")
        await tab.click("Ask")
        await tab.until(lambda t: "unknown target" in t.text())  # while the window is still being learned
        await tab.until(
            lambda t: "Nothing is changed yet" in t.text(), limit_s=200
        )  # kernels may have to be compiled
        await tab.type("Other change", "carbs_g*=0.5")
        await tab.click("Ask")
        await tab.until(lambda t: "<p>carbs_g*=0.5</p>" in t.text() and "Mean effect" in t.text())
        await tab.type("Other change", "<script>")
        await tab.click("Ask")
        await tab.until(lambda t: "cannot be read as a change" in t.text())
        assert "<script>" not in tab.tab.text().replace('"<script>"', "")


def test_records_are_asked_by_the_same_worker() -> None:
    record = Record(tuple(lives.samples(8, 40)), b"")
    refused = Windows().reply(Effect((record,), never_ill=False, never_active=False))
    assert refused.said is None
    assert "illness would have to be measured" in (refused.problem or "")
    said = Windows().reply(Effect((record,), never_ill=True, never_active=False)).said
    assert said is not None
    by = {who: (mean, low, high) for who, mean, low, high in said.rows}
    mean, low, high = by["doubly robust, those who corrected"]
    assert low < mean < high < 0.0
    assert by["the twin, g-computation: the decision"][0] < 0.0
    shown = answer_html(Reply(said=said))
    assert f"{mean:+.1f}</td><td>{low:+.1f} to {high:+.1f}" in shown
    assert "E-value" in shown
    assert "&lt;b&gt;" in answer_html(Reply(problem="<b>"))


async def test_more_than_a_frame_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.advice_worker.MAX_FRAME_BYTES", 100)
    worker = WhatifWorker()
    record = Record(tuple(lives.samples(8, 1)), b"")
    reply = await worker.reply(Effect((record,), never_ill=True, never_active=True))
    assert reply.problem == "this is more than can be calculated at once"
    assert worker._process is None


@pytest.mark.timeout(260)
async def test_the_page_of_causes_asks_a_record_and_refuses_by_name(site: Site) -> None:
    async with browser(site.base, site.login(), "/causes") as tab:
        await tab.click("Ask the records")
        await tab.until(lambda t: "<b>Refused:</b>" in t.text(), limit_s=200)
        assert "illness would have to be measured" in tab.tab.text()


def test_an_unknown_person_has_no_questions(site: Site) -> None:
    page = httpx.get(f"{site.base}/whatif/nobody", headers={"Cookie": site.login()})
    assert "There is no such person" in page.text
    assert "/whatif/hub-1" in httpx.get(f"{site.base}/person/hub-1", headers={"Cookie": site.login()}).text
