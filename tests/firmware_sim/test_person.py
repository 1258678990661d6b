"""A life: repeatable, plausible, well formed, and with the truth beside it."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from firmware_sim.person import Illness, Record, VirtualPerson, main
from firmware_sim.recording import read_recording

START_US = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * 1_000_000  # a Monday
MIN_US = 60_000_000
DAY_US = 1440 * MIN_US


@pytest.fixture(scope="module")
def weeks() -> list[Record]:
    return [VirtualPerson(seed).record(START_US, 7) for seed in range(8)]


def values(record: Record, kind: str) -> np.ndarray:
    return np.array([v for _, k, v in record.events if k == kind])


def test_same_seed_gives_the_same_events_and_another_seed_does_not() -> None:
    first = VirtualPerson(3).events(START_US, 1)
    assert first == VirtualPerson(3).events(START_US, 1)
    assert first != VirtualPerson(4).events(START_US, 1)


def test_events_do_not_depend_on_how_many_are_asked_for() -> None:
    long = VirtualPerson(5).events(START_US, 3)
    assert VirtualPerson(5).events(START_US, 1.5) == [e for e in long if e[0] < START_US + 1.5 * DAY_US]
    assert list(itertools.islice(VirtualPerson(5).stream(START_US), len(long))) == long


def test_events_are_ordered_whole_minutes_of_known_kinds(weeks: list[Record]) -> None:
    for record in weeks:
        times = [t for t, _, _ in record.events]
        assert times == sorted(times)
        assert all(t % MIN_US == 0 and START_US <= t < START_US + 7 * DAY_US for t in times)
        kinds = Counter(k for _, k, _ in record.events)
        assert set(kinds) == {"cgm_mgdl", "bolus_u", "basal_uph", "carbs_g", "heart_rate_bpm", "smbg_mgdl"}
        assert kinds["heart_rate_bpm"] == 7 * 288
        assert 0.85 * 7 * 288 < kinds["cgm_mgdl"] <= 7 * 288
        assert 12 <= kinds["smbg_mgdl"] <= 14


def test_one_reading_per_minute_and_kind_of_sensor(weeks: list[Record]) -> None:
    for record in weeks:
        seen = Counter(
            (t, k) for t, k, _ in record.events if k in ("cgm_mgdl", "heart_rate_bpm", "smbg_mgdl")
        )
        assert max(seen.values()) == 1


def test_values_lie_in_the_range_of_their_devices(weeks: list[Record]) -> None:
    for record in weeks:
        assert np.all((values(record, "cgm_mgdl") >= 40) & (values(record, "cgm_mgdl") <= 400))
        assert np.all((values(record, "bolus_u") > 0) & (values(record, "bolus_u") <= 20))
        assert np.all((values(record, "basal_uph") >= 0.05) & (values(record, "basal_uph") < 6))
        assert np.all((values(record, "heart_rate_bpm") >= 35) & (values(record, "heart_rate_bpm") < 210))
        assert np.all((values(record, "carbs_g") >= 1) & (values(record, "carbs_g") < 250))


def test_basal_rate_is_told_at_once_and_only_when_it_changes(weeks: list[Record]) -> None:
    for record in weeks:
        rates = [(t, v) for t, k, v in record.events if k == "basal_uph"]
        assert rates[0][0] == START_US
        assert all(a[1] != b[1] for a, b in itertools.pairwise(rates))


def test_glucose_control_is_that_of_a_reasonable_clinic(weeks: list[Record]) -> None:
    plasma = np.concatenate([r.truth.plasma_mgdl for r in weeks])
    assert plasma.min() > 10
    assert plasma.max() < 450
    assert 110 < plasma.mean() < 170
    assert 0.70 < np.mean((plasma >= 70) & (plasma <= 180)) < 0.97
    assert np.mean(plasma < 70) < 0.08
    assert 0.17 < plasma.std() / plasma.mean() < 0.42


def test_meals_and_insulin_are_those_of_an_adult(weeks: list[Record]) -> None:
    eaten = np.array([sum(m.carbs_g for m in r.truth.meals) / 7 for r in weeks])
    bolus = np.array([values(r, "bolus_u").sum() / 7 for r in weeks])
    assert np.all((eaten > 80) & (eaten < 400))
    assert np.all((bolus > 3) & (bolus < 60))


def test_counts_are_wrong_by_a_fifth_or_a_quarter_and_some_meals_are_silent() -> None:
    record = VirtualPerson(11, unannounced=0.2).record(START_US, 28)
    told = [
        (m.carbs_g, m.counted_g) for m in record.truth.meals if m.counted_g is not None and m.carbs_g != 15
    ]
    ratio = np.log([c / g for g, c in told])
    assert 0.14 < ratio.std() < 0.32
    silent = sum(m.counted_g is None for m in record.truth.meals) / len(record.truth.meals)
    assert 0.08 < silent < 0.5
    assert len(values(record, "carbs_g")) == sum(m.counted_g is not None for m in record.truth.meals)


def test_therapy_holds_the_target_overnight_when_nothing_else_happens() -> None:
    person = VirtualPerson(2, flat_day=True, variability=0.0, therapy_error=0.0, exercise=False)
    assert all(v == pytest.approx(person.body.basal_uph, rel=0.12) for _, v in person.therapy.basal_uph)
    record = person.record(START_US, 4)
    early = [record.truth.plasma_at(START_US + d * DAY_US + 6 * 60 * MIN_US) for d in (1, 2, 3)]
    assert all(85 < g < 160 for g in early)


def test_cgm_follows_interstitial_glucose_with_the_published_size_of_error(weeks: list[Record]) -> None:
    marks = []
    for record in weeks:
        cgm = [(t, v) for t, k, v in record.events if k == "cgm_mgdl"]
        truth = np.array([record.truth.plasma_at(t) for t, _ in cgm])
        marks.append(np.mean(np.abs(np.array([v for _, v in cgm]) - truth) / truth))
    assert 0.06 < np.mean(marks) < 0.16


def test_ideal_sensor_shows_interstitial_glucose_without_gaps() -> None:
    record = VirtualPerson(1, sensor="ideal").record(START_US, 1)
    assert np.array_equal(values(record, "cgm_mgdl"), record.truth.interstitial_mgdl[::5])


def test_illness_lowers_sensitivity_and_raises_heart_rate() -> None:
    well = VirtualPerson(6, exercise=False).record(START_US, 5)
    ill = VirtualPerson(6, exercise=False, illness=(Illness(1.0, 3.0, 0.6, 10.0),)).record(START_US, 5)
    window = slice(2 * 1440, 3 * 1440)
    assert np.allclose(ill.truth.sensitivity[window], 0.6 * well.truth.sensitivity[window])
    beats = [values(r, "heart_rate_bpm")[2 * 288 : 3 * 288].mean() for r in (well, ill)]
    assert beats[1] - beats[0] == pytest.approx(10, abs=1)
    assert ill.truth.plasma_mgdl[window].mean() > well.truth.plasma_mgdl[window].mean() + 5


def test_change_of_sensitivity_acts_from_its_day_on() -> None:
    same = VirtualPerson(7).record(START_US, 3)
    changed = VirtualPerson(7, sensitivity_change=((1.5, 0.7),)).record(START_US, 3)
    at = round(1.5 * 1440)
    assert np.array_equal(same.truth.plasma_mgdl[:at], changed.truth.plasma_mgdl[:at])
    assert np.allclose(changed.truth.sensitivity[at:], 0.7 * same.truth.sensitivity[at:])


def test_counterfactual_without_change_is_the_truth_and_insulin_lowers_carbohydrate_raises() -> None:
    person = VirtualPerson(8)
    truth = person.record(START_US, 2).truth
    assert np.array_equal(person.plasma_if(truth), truth.plasma_mgdl)
    more = person.plasma_if(truth, bolus_u={720: 1.0}) - truth.plasma_mgdl
    assert np.all(more[:721] == 0)
    assert -110 < more[720:1080].min() < -5
    sweet = person.plasma_if(truth, carbs_g={720: 10.0}) - truth.plasma_mgdl
    assert 5 < sweet[720:1080].max() < 80


def test_local_habits_follow_the_time_zone() -> None:
    def first_bolus_hour(zone: str) -> float:
        person = VirtualPerson(9, timezone=zone)
        hours = [
            (t - START_US) % DAY_US / MIN_US / 60
            for t, k, _ in person.events(START_US, 6)
            if k == "smbg_mgdl"
        ]
        return float(np.median(sorted(hours)[: len(hours) // 2]))

    shift = (first_bolus_hour("UTC") - first_bolus_hour("Europe/Athens")) % 24
    assert shift == pytest.approx(2.0, abs=0.4)


def test_unknown_sensor_and_negative_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="errors must be"):
        VirtualPerson(1, sensor="perfect").play(START_US)
    with pytest.raises(ValueError, match="seed"):
        VirtualPerson(-1)


def test_a_person_who_corrects_earlier_corrects_more() -> None:
    usual, early = (VirtualPerson(4, corrects_above=mgdl) for mgdl in (None, 140.0))
    assert early.habits.correction_mgdl == 140.0
    assert early.therapy == usual.therapy
    assert (
        sum(len(values(p.record(START_US, 3), "bolus_u")) * sign for p, sign in ((early, 1), (usual, -1))) > 0
    )


def test_a_recording_and_its_patient_file_are_written_and_never_over_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--person", "3", "--days", "0.5", "--from", "2026-03-02T00:00", "--out", str(tmp_path / "new")]
    assert main(words) == 0
    zone = ZoneInfo("Europe/London")
    person = VirtualPerson(3, timezone=zone.key)
    assert read_recording(tmp_path / "new" / "events.csv.gz", zone) == person.events(START_US, 0.5)
    assert (tmp_path / "new" / "patient.toml").read_text() == person.prescription()
    capsys.readouterr()
    assert main(words) == 2
    assert "is there already (name a new folder)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--person", "-1"], "--person: must not be negative"),
        (["--person", "1", "--timezone", "Mars"], "--timezone: unknown time zone 'Mars'"),
        (["--person", "1", "--days", "nan"], "--days: must lie in 0..400"),
        (["--person", "1", "--from", "noon"], "--from: not a time: 'noon'"),
        (["--person", "1", "--corrects-above", "7"], "--corrects-above: must lie in 100..400"),
        (["--person", "1", "--days", "0.01", "--out", "/dev/null/x"], "/dev/null/x: cannot be written"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(words) == 2
    _, err = capsys.readouterr()
    assert (err.count("\n"), err.startswith(f"person: {message}")) == (1, True), err
