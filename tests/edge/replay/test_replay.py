"""A replay is causal, whole or marked as partial, and never writes what is not a number."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from core.errors import ConfigError, InputError
from core.messages import Sample
from core.twin import ForecastResult, Twin
from edge.replay import charts, command
from edge.replay.command import replay
from edge.replay.outputs import BEGINNINGS, NAMES, TABLES, ReplayFolder, iso, partial, write_whole
from edge.replay.pipeline import HORIZONS_MIN, Trace, run, usable
from edge.replay.scores import observed_at
from tests.core.people import MIN_US, START_US, live

DAY_MIN = 1440


def write_events(path: Path, samples: Sequence[Sample]) -> Path:
    lines = ["time,kind,value", *(f"{iso(s.time_us)[:-1]},{s.kind},{s.value:.4f}" for s in samples)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of a simulated person, with three hours of silence on the first day."""
    gap = (START_US + 600 * MIN_US, START_US + 780 * MIN_US)
    samples = [s for s in live(2.0).samples if not (s.kind == "cgm_mgdl" and gap[0] < s.time_us < gap[1])]
    return write_events(tmp_path_factory.mktemp("recording") / "person.csv", samples)


@pytest.fixture(scope="module")
def whole(two_days: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "replay"
    replay(two_days, None, None, out)
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def summary_of(out: Path) -> dict[str, Any]:
    tree = json.loads((out / "summary.json").read_text())
    assert isinstance(tree, dict)
    return tree


def lines_file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "events.csv"
    path.write_text("\n".join(("time,kind,value", *lines)) + "\n")
    return path


def assert_no_nan(out: Path) -> None:
    for path in out.iterdir():
        text = path.read_text()
        if path.suffix == ".csv":
            assert not re.search(r"\b(nan|inf|infinity)\b", text, re.IGNORECASE), path.name
        else:
            assert not re.search(r"[^A-Za-z](NaN|nan|Infinity)[^A-Za-z]", text), path.name


def test_every_file_of_the_contract_is_there_and_nothing_else(whole: Path) -> None:
    assert sorted(p.name for p in whole.iterdir()) == sorted(NAMES)


def test_forecasts_have_the_contracts_columns_and_ordered_quantiles(whole: Path) -> None:
    found = rows(whole / "forecasts.csv")
    assert list(found[0]) == ["made_at", "horizon_min", "mean", "sd", "p05", "p50", "p95"]
    assert {float(r["horizon_min"]) for r in found} == set(HORIZONS_MIN)
    for r in found:
        assert float(r["p05"]) <= float(r["p50"]) <= float(r["p95"])
        assert float(r["sd"]) > 0


def test_one_forecast_per_reading_and_none_in_the_gap(whole: Path, two_days: Path) -> None:
    made = sorted({r["made_at"] for r in rows(whole / "forecasts.csv")})
    readings = [line.split(",")[0] + "Z" for line in two_days.read_text().splitlines() if "cgm_mgdl" in line]
    assert made == sorted(readings)


def test_a_changed_future_changes_no_earlier_forecast(two_days: Path, whole: Path, tmp_path: Path) -> None:
    lines = two_days.read_text().splitlines()
    cut = iso(START_US + DAY_MIN * MIN_US)[:-1]
    changed = [lines[0]]
    for line in lines[1:]:
        when, kind, value = line.split(",")
        changed.append(f"{when},{kind},{float(value) * (0.7 if when > cut else 1):.4f}")
    path = tmp_path / "other.csv"
    path.write_text("\n".join(changed) + "\n")
    replay(path, None, None, tmp_path / "out")

    def before(out: Path) -> list[dict[str, str]]:
        return [r for r in rows(out / "forecasts.csv") if r["made_at"][:-1] <= cut]

    assert before(whole) == before(tmp_path / "out")
    assert rows(whole / "forecasts.csv") != rows(tmp_path / "out" / "forecasts.csv")


def test_forecasts_are_those_of_the_twin_itself(two_days: Path, whole: Path) -> None:
    samples = command.read_record(two_days, ZoneInfo("UTC")).samples
    t = START_US + 1000 * MIN_US
    twin = Twin()
    twin.observe(s for s in samples if s.time_us <= t)
    ours = [r for r in rows(whole / "forecasts.csv") if r["made_at"] == iso(t)]
    wanted = twin.forecast(t, HORIZONS_MIN).forecast
    assert [float(r["p95"]) for r in ours] == pytest.approx(wanted.p95, abs=0.006)


def test_summary_figures_follow_from_the_files(two_days: Path, whole: Path) -> None:
    readings = {
        line.split(",")[0] + "Z": float(line.split(",")[2])
        for line in two_days.read_text().splitlines()
        if "cgm_mgdl" in line
    }
    errors, held = [], []
    for r in rows(whole / "forecasts.csv"):
        if float(r["horizon_min"]) == 30:
            made = datetime.fromisoformat(r["made_at"]).timestamp()
            actual = readings.get(iso(round(made * 1e6) + 30 * MIN_US))
            if actual is not None:
                errors.append(float(r["mean"]) - actual)
                held.append(float(r["p05"]) <= actual <= float(r["p95"]))
    summary = summary_of(whole)
    assert summary["complete"] is True
    assert summary["horizons"]["30"]["n"] == len(errors)
    assert summary["rmse"]["30"] == pytest.approx(math.sqrt(np.mean(np.square(errors))), abs=0.01)
    assert summary["coverage"]["30"]["all"] == pytest.approx(np.mean(held), abs=1e-5)


def test_summary_says_what_was_assumed_and_how_long_it_took(whole: Path) -> None:
    summary = summary_of(whole)
    assert {item["name"] for item in summary["assumed"]} >= {"weight_kg"}
    assert summary["timing"]["own_s"] <= summary["timing"]["total_s"]
    assert summary["nis"]["n"] > 0


def test_silence_of_the_sensor_raises_and_clears_an_alarm(whole: Path) -> None:
    found = [r for r in rows(whole / "alarms.csv") if r["name"] == "signal_loss"]
    assert [r["raised"] for r in found[:2]] == ["true", "false"]
    assert found[0]["time"] == iso(START_US + (600 + 21) * MIN_US)
    numbers = [int(r["number"]) for r in rows(whole / "alarms.csv")]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == len(numbers)


def test_posterior_has_mean_and_sd_of_every_state_about_hourly(whole: Path) -> None:
    found = rows(whole / "posterior.csv")
    assert 40 <= len(found) <= 50
    names = [n for n in found[0] if f"{n}_sd" in found[0]]
    assert {"ln_s", "glucose_mgdl"} <= set(names)
    assert all(float(r[f"{n}_sd"]) >= 0 for r in found for n in names)


def test_no_file_holds_a_nan(whole: Path) -> None:
    assert_no_nan(whole)


def test_report_needs_nothing_from_outside(whole: Path) -> None:
    page = (whole / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link|url\(|@import|src=", page)
    assert page.count("<svg") >= 10
    assert "prefers-color-scheme: dark" in page


def test_a_days_picture_leaves_the_gap_open(two_days: Path, tmp_path: Path) -> None:
    """The trace of the first day is two pieces, and so is the band an hour later: nothing crosses the silence."""
    samples, _ = usable(command.read_record(two_days, ZoneInfo("UTC")).samples)
    trace = Trace(samples)
    with ReplayFolder(tmp_path) as folder:
        run(trace, Twin(), folder)
    picture = charts.one_day(trace, ZoneInfo("UTC"), START_US // (DAY_MIN * MIN_US), 1040)
    assert picture.count('class="trace"') == 2
    assert picture.count('class="band"') == 2


def test_an_older_run_is_replaced_and_strange_files_stay(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text(BEGINNINGS["report.html"] + "older")
    (out / partial("forecasts.csv")).write_text("older, stopped")
    (out / "diary.txt").write_text("mine")
    replay(lines_file(tmp_path, "2024-01-01T00:00:00,cgm_mgdl,120"), None, None, out)
    assert (out / "diary.txt").read_text() == "mine"
    assert sorted(p.name for p in out.iterdir()) == sorted((*NAMES, "diary.txt"))
    assert "older" not in (out / "report.html").read_text()


def test_what_the_person_wrote_is_not_replaced(tmp_path: Path) -> None:
    recording = lines_file(tmp_path, "2024-01-01T00:00:00,cgm_mgdl,120")
    out = tmp_path / "out"
    replay(recording, None, None, out)
    replay(recording, None, None, out)  # its own it replaces
    first = {name: (out / name).read_bytes() for name in NAMES}
    for name in NAMES:
        for theirs in (
            b"mine",
            first[name][:20],
            b"\xef\xbb\xbf" + first[name],
            first[name].replace(b"\n", b"\r\n", 1)[1:],
        ):
            (out / name).write_bytes(theirs)
            with pytest.raises(
                InputError, match=f"--out out: holds a {name} that this command did not write"
            ) as found:
                replay(recording, None, None, out)
            assert found.value.exit_code == 2
            assert (out / name).read_bytes() == theirs
        (out / name).write_bytes(
            b"" if name == "alarms.csv" else first[name]
        )  # nothing to lose in an empty one
    assert sorted(p.name for p in out.iterdir()) == sorted(NAMES)
    replay(recording, None, None, out)
    assert (out / "alarms.csv").read_bytes() == first["alarms.csv"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link"])
def test_what_is_no_plain_file_is_not_replaced_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "report.html"
    {
        "folder": lambda: place.mkdir(),
        "pipe": lambda: os.mkfifo(place),
        "broken link": lambda: place.symlink_to("nowhere"),
    }[kind]()
    with pytest.raises(InputError, match=r"holds a report\.html"):
        replay(lines_file(tmp_path, "2024-01-01T00:00:00,cgm_mgdl,120"), None, None, tmp_path)
    assert os.path.lexists(place)


def test_a_partial_name_that_links_elsewhere_is_not_written_through(tmp_path: Path) -> None:
    diary = tmp_path / "diary.txt"
    diary.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / partial("a.csv")).symlink_to(diary)
    write_whole(out, {"a.csv": "x\n1\n"}, {"a.csv": "x\n"})
    assert diary.read_text() == "mine"
    assert (out / "a.csv").read_text() == "x\n1\n"


def test_a_full_disk_keeps_the_older_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = {"a.csv": "x\n", "b.csv": "y\n"}
    older, newer = ({"a.csv": f"x\n{k}\n", "b.csv": f"y\n{k}\n"} for k in (1, 2))
    write_whole(tmp_path, older, begin)

    def full(path: Path, text: str) -> None:
        path.write_text(text[:1])
        if path.name.startswith("b"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("edge.replay.outputs._write_synced", full)
        with pytest.raises(InputError, match="No space"):
            write_whole(tmp_path, newer, begin)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == older
    write_whole(tmp_path, newer, begin)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == newer


def test_a_replay_on_a_full_disk_keeps_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = lines_file(tmp_path, "2024-01-01T00:00:00,cgm_mgdl,120")
    out = tmp_path / "out"
    replay(recording, None, None, out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edge.replay.outputs._write_synced", full)
    with pytest.raises(InputError, match="cannot be written: No space"):
        replay(recording, None, None, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_refused_recording_touches_no_older_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("older")
    for bad in (lambda: lines_file(tmp_path, "2024-01-01T00:00:00,bolus_u,2"), lambda: tmp_path / "none.csv"):
        with pytest.raises(InputError):
            replay(bad(), None, None, out)
    with pytest.raises(InputError, match="unknown model"):
        replay(lines_file(tmp_path, "2024-01-01T00:00:00,cgm_mgdl,120"), None, "horoscope", out)
    assert [p.name for p in out.iterdir()] == ["report.html"]


def test_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        replay(lines_file(tmp_path, "2024-01-01T00:00:00,cgm_mgdl,120"), None, None, path)
    assert path.read_text() == "x"


def stop_after(count: int) -> Callable[..., ForecastResult]:
    original, calls = Twin.forecast, iter(range(count))

    def forecast(self: Twin, *args: Any, **named: Any) -> ForecastResult:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(self, *args, **named)

    return forecast


def test_a_stop_leaves_parts_that_say_so(
    two_days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Twin, "forecast", stop_after(100))
    with pytest.raises(KeyboardInterrupt):
        replay(two_days, None, None, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(partial(n) for n in NAMES)
    assert len(rows(tmp_path / "forecasts.partial.csv")) == 100 * len(HORIZONS_MIN)
    tree = json.loads((tmp_path / "summary.partial.json").read_text())
    assert tree["complete"] is False
    assert tree["readings"] == 100
    assert "Stopped before the end: 100 of" in (tmp_path / "report.partial.html").read_text()
    assert_no_nan(tmp_path)


def test_a_stop_before_the_first_forecast_still_ends_cleanly(
    two_days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Twin, "forecast", stop_after(0))
    with pytest.raises(KeyboardInterrupt):
        replay(two_days, None, None, tmp_path)
    assert json.loads((tmp_path / "summary.partial.json").read_text())["readings"] == 0


def test_a_single_reading_gives_wide_forecasts_and_no_scores(tmp_path: Path) -> None:
    out = tmp_path / "out"
    replay(lines_file(tmp_path, "2024-01-01T08:00:00,cgm_mgdl,120"), None, None, out)
    found = rows(out / "forecasts.csv")
    assert len(found) == len(HORIZONS_MIN)
    assert float(found[-1]["p95"]) - float(found[-1]["p05"]) > 50
    assert summary_of(out)["rmse"]["30"] is None
    assert any("single reading" in note for note in summary_of(out)["notes"])
    assert_no_nan(out)


def test_a_record_without_insulin_is_answered_and_says_so(tmp_path: Path) -> None:
    lines = [f"2024-01-01T{m // 60:02d}:{m % 60:02d}:00,cgm_mgdl,{120 + m % 50}" for m in range(0, 720, 5)]
    replay(lines_file(tmp_path, *lines), None, None, tmp_path / "out")
    assert any("no insulin" in note for note in summary_of(tmp_path / "out")["notes"])
    assert_no_nan(tmp_path / "out")


def test_years_between_two_readings_neither_hang_nor_break(tmp_path: Path) -> None:
    path = lines_file(tmp_path, "2001-01-01T08:00:00,cgm_mgdl,120", "2024-01-01T08:00:00,cgm_mgdl,150")
    began = time.monotonic()
    replay(path, None, None, tmp_path / "out")
    assert time.monotonic() - began < 30
    assert summary_of(tmp_path / "out")["readings"] == 2
    assert_no_nan(tmp_path / "out")


def test_events_far_from_the_readings_are_noted_and_not_used() -> None:
    reading = Sample(START_US, "cgm_mgdl", 120.0, "file", 1)
    early = Sample(START_US - 5 * DAY_MIN * MIN_US, "bolus_u", 3.0, "file", 2)
    late = Sample(START_US + MIN_US, "bolus_u", 3.0, "file", 3)
    kept, notes = usable([early, reading, late])
    assert kept == (reading,)
    assert any(note.startswith("1 events more than 3 days before") for note in notes)
    assert any(note.startswith("1 events after") for note in notes)


def test_an_answer_that_is_not_finite_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import msgspec

    original = Twin.forecast
    seen = iter((False, True, False))

    def forecast(self: Twin, *args: Any, **named: Any) -> ForecastResult:
        result = original(self, *args, **named)
        if next(seen):
            bad = msgspec.structs.replace(result.forecast, mean=(math.nan,) * len(HORIZONS_MIN))
            return ForecastResult(bad)
        return result

    monkeypatch.setattr(Twin, "forecast", forecast)
    lines = [f"2024-01-01T08:{m:02d}:00,cgm_mgdl,120" for m in (0, 5, 10)]
    replay(lines_file(tmp_path, *lines), None, None, tmp_path / "out")
    assert summary_of(tmp_path / "out")["readings"] == 2
    assert any("1 forecasts were not finite" in note for note in summary_of(tmp_path / "out")["notes"])
    assert_no_nan(tmp_path / "out")


def test_the_patient_files_zone_is_that_of_naive_times(tmp_path: Path) -> None:
    patient = tmp_path / "p.toml"
    patient.write_text('timezone = "Asia/Tokyo"\nweight_kg = 61\n')
    replay(lines_file(tmp_path, "2024-01-01T08:00:00,cgm_mgdl,120"), patient, None, tmp_path / "out")
    assert rows(tmp_path / "out" / "forecasts.csv")[0]["made_at"] == "2023-12-31T23:00:00Z"
    assert "weight_kg" not in {item["name"] for item in summary_of(tmp_path / "out")["assumed"]}


def test_a_wrong_patient_file_is_refused(tmp_path: Path) -> None:
    path = lines_file(tmp_path, "2024-01-01T08:00:00,cgm_mgdl,120")
    with pytest.raises(ConfigError, match="cannot be read"):
        replay(path, tmp_path / "none.toml", None, tmp_path / "out")
    (tmp_path / "p.toml").write_bytes(b"\xff\xfe not toml")
    with pytest.raises(ConfigError):
        replay(path, tmp_path / "p.toml", None, tmp_path / "out")


def test_observed_value_is_a_line_between_near_readings_only() -> None:
    times = np.array([0, 10, 50, 55]) * MIN_US
    values = np.array([100.0, 120.0, 200.0, 210.0])
    at = np.array([0, 5, 10, 30, 52, 60]) * MIN_US
    got = observed_at(times, values, at)
    assert got[[0, 1, 2]] == pytest.approx([100.0, 110.0, 120.0])
    assert got[4] == pytest.approx(204.0)
    assert np.isnan(got[[3, 5]]).all()


def test_a_run_that_breaks_leaves_only_partial_names(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ReplayFolder(tmp_path):
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(partial(n) for n in TABLES)


def test_real_recording_beats_persistence_at_an_hour(recording_2307: Path, tmp_path: Path) -> None:
    lines = replay(recording_2307, None, None, tmp_path)
    summary = summary_of(tmp_path)
    assert summary["rmse"]["60"] < summary["persistence_rmse"]["60"]
    assert any("60 min: RMSE" in line for line in lines)
    assert_no_nan(tmp_path)


def test_fingersticks_are_compared_with_what_was_known_before_them(tmp_path: Path) -> None:
    life = live(3.0, seed=4)
    readings = {s.time_us: s.value for s in life.samples if s.kind == "cgm_mgdl"}
    samples = list(life.samples)
    for k in range(18):  # a sensor that reads 30 mg/dL low, and a meter without error
        at_us = START_US + (240 + 215 * k) * MIN_US
        samples.append(Sample(at_us + 60_000_000, "smbg_mgdl", readings[at_us] + 30.0, "meter", k))
    alone = Sample(START_US + 3 * DAY_MIN * MIN_US + 20 * MIN_US, "smbg_mgdl", 300.0, "meter", 99)
    path = write_events(tmp_path / "sticks.csv", [*samples, alone])
    replay(path, None, None, tmp_path / "out")
    found = summary_of(tmp_path / "out")["fingersticks"]
    assert found["n"] == 18  # the last one has no reading beside it
    assert found["reading_bias_mgdl"] == pytest.approx(-30.0, abs=0.1)
    assert (
        -25.0 < found["blood_bias_mgdl"] < -5.0
    )  # learned from earlier ones, never from the one it is judged by
    assert found["blood_mard_pct"] < 0.8 * found["reading_mard_pct"]
    assert "Beside fingersticks" in (tmp_path / "out" / "report.html").read_text()


def test_without_fingersticks_nothing_is_said_of_blood(whole: Path) -> None:
    assert summary_of(whole)["fingersticks"]["n"] == 0
    assert "Beside fingersticks" not in (whole / "report.html").read_text()
