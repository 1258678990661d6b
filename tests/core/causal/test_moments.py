"""Moments of decision from a record, by hand; and what is made of them where the effect is known."""

from __future__ import annotations

import math
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from core.causal.from_records import MIN_ARM, ask, graph_of, joined
from core.causal.moments import Moments, moments
from core.causal.on_twin import interval
from core.causal.twin_graph import (
    ACTIVITY,
    GLUCOSE_NOW,
    HOUR,
    ILLNESS,
    INSULIN,
    LATER,
    MEAL,
    ON_BOARD,
)
from core.dosing import insulin_on_board
from core.errors import RefusedError
from core.messages import Sample
from core.units import US_PER_DAY, US_PER_MIN

UTC = ZoneInfo("UTC")
DAY = 20_000
DAY_US = DAY * US_PER_DAY
EFFECT = -30.0


def at(minute: float, kind: str, value: float) -> Sample:
    return Sample(DAY_US + round(minute * US_PER_MIN), kind, value, "hand", round(minute))


def record(*more: Sample) -> list[Sample]:
    """10:00 to 18:00, rising by 1 mg/dL in 5 min from 190 mg/dL; a strap at 60, from 12:00 to 13:00 at 100."""
    glucose = [at(600 + 5 * k, "cgm_mgdl", 190.0 + k) for k in range(97)]
    beats = [at(m, "heart_rate_bpm", 100.0 if 720 <= m < 780 else 60.0) for m in range(540, 1080)]
    return sorted([*glucose, *beats, *more], key=lambda s: s.time_us)


def rows(samples: list[Sample], **how: object) -> Moments:
    return moments(samples, UTC, **({"above_mgdl": 200.0, "after_min": 120.0} | how))  # type: ignore[arg-type]


def minute_of(found: Moments) -> list[int]:
    return ((found.time_us - DAY_US) // US_PER_MIN).tolist()


def test_a_moment_holds_what_was_known_then_and_what_followed() -> None:
    found = rows(record(at(702, "bolus_u", 2.0), at(650, "carbs_g", 24.0)), ill=[(DAY_US, DAY_US + 1)])
    minutes = minute_of(found)
    k = minutes.index(780)  # 13:00
    assert found.columns[GLUCOSE_NOW][k].tolist() == [226.0, 3.0]
    assert found.columns[LATER][k] == 250.0
    assert found.columns[ACTIVITY][k] == pytest.approx(39.0 + 1 / 3, abs=0.7)  # the hour before, less rest
    assert found.columns[MEAL][k] == pytest.approx(24.0 * (1 - 130 / 240))
    assert found.columns[ON_BOARD][k] == pytest.approx(
        insulin_on_board(int(found.time_us[k]), [(DAY_US + 702 * US_PER_MIN, 2.0)])
    )
    assert found.columns[HOUR][k] == pytest.approx(
        [math.sin(math.tau * 13 / 24), math.cos(math.tau * 13 / 24)]
    )
    assert found.columns[ILLNESS].max() == 0.0
    assert minutes[:4] == [
        615,
        620,
        625,
        675,
    ]  # before, none has a reading of 15 min ago; a dose near the meal is its own
    assert minutes[-1] == 1080 - 120
    # A dose belongs to the reading before it, and to no other.
    assert [m for m, v in zip(minutes, found.columns[INSULIN], strict=True) if v] == [700]
    assert found.dose_u[minutes.index(700)] == 2.0
    assert found.columns[ON_BOARD][minutes.index(700)] == 0.0
    # Both could happen above the threshold, and not within 150 min of the dose before.
    could = [m for m, e in zip(minutes, found.eligible, strict=True) if e]
    assert could[0] == 675  # 205 mg/dL
    assert [m for m in could if m > 700] == [m for m in minutes if m > 700 + 150]


def test_a_dose_with_a_meal_is_no_correction() -> None:
    for minute in (685, 700, 704, 715, 724):
        found = rows(record(at(702, "bolus_u", 2.0), at(minute, "carbs_g", 40.0)))
        assert not found.columns[INSULIN].any(), minute
    assert rows(record(at(702, "bolus_u", 2.0), at(640, "carbs_g", 40.0))).columns[INSULIN].sum() == 1


def test_doses_minutes_apart_are_one_course_and_the_next_is_another() -> None:
    parts = rows(record(at(702, "bolus_u", 1.0), at(707, "bolus_u", 0.5), at(717, "bolus_u", 0.25)))
    assert np.flatnonzero(parts.columns[INSULIN]).size == 1
    k = int(np.flatnonzero(parts.columns[INSULIN])[0])
    assert minute_of(parts)[k] == 700
    assert parts.dose_u[k] == 1.75
    two = rows(record(at(702, "bolus_u", 1.0), at(718, "bolus_u", 0.5)))
    assert [m for m, v in zip(minute_of(two), two.dose_u, strict=True) if v] == [700, 715]
    assert int(two.columns[INSULIN][two.eligible].sum()) == 1  # nobody decides anew within 150 min
    # A course whose last part is a meal's is the meal's.
    assert not rows(
        record(at(702, "bolus_u", 1.0), at(715, "bolus_u", 1.0), at(734, "carbs_g", 40.0))
    ).dose_u.any()
    assert not rows(record(at(702, "bolus_u", 0.0))).columns[INSULIN].any()  # a dose of nothing is none


@pytest.mark.parametrize("offset_min", [0, 2])
def test_how_often_the_sensor_reads_changes_neither_arm(offset_min: int) -> None:
    """One course of glucose and doses; sensors of 1, 5 and 15 min, on the clock's minutes or beside them."""
    rng = np.random.default_rng(12)
    minutes = np.arange(30 * 1440)
    glucose = 215.0 + 40 * np.sin(minutes / 173.0) + 15 * np.sin(minutes / 61.0)
    doses = [m for m in minutes[::180].tolist() if rng.random() < 0.4]
    doses = [m + int(rng.integers(0, 15)) for m in doses]
    for m in doses:
        after = np.arange(m, minutes.size)
        glucose[m:] -= 40.0 * np.exp(-(((after - m - 150) / 70.0) ** 2))
    found = []
    for every in (1, 5, 15):
        readings = [at(m, "cgm_mgdl", glucose[m]) for m in range(offset_min, minutes.size, every)]
        boluses = [at(m, "bolus_u", 2.0) for m in doses]
        beats = [at(m, "heart_rate_bpm", 60.0 + m % 7) for m in range(0, minutes.size, 10)]
        record = sorted([*readings, *boluses, *beats], key=lambda s: s.time_us)
        found.append(rows(record, ill=[], above_mgdl=0.0))
    often, usual, rare = found
    for other in (often, rare):
        inside = np.isin(usual.time_us, other.time_us)
        assert inside.mean() > 0.999
        assert other.time_us.size == pytest.approx(usual.time_us.size, abs=4)
        assert np.count_nonzero(other.dose_u[other.eligible]) == np.count_nonzero(
            usual.dose_u[usual.eligible]
        )
    answers = [ask([m]) for m in found]
    assert len({a.treated for a in answers}) == 1
    assert np.ptp([a.untreated.n for a in answers]) <= 4
    effects = [a.main.estimate.effect for a in answers]
    assert np.ptp(effects) < 1.0 < 0.5 * answers[0].main.estimate.standard_error


def test_days_are_the_persons_own() -> None:
    evening = [at(-60 + 5 * k, "cgm_mgdl", 230.0) for k in range(60)]  # 23:00 to 04:00 UTC
    west = moments(evening, ZoneInfo("America/New_York"), above_mgdl=200.0, after_min=120.0, waking_h=(0, 24))
    assert np.unique(west.day).size == 1
    assert np.unique(moments(evening, UTC, above_mgdl=200, after_min=120.0, waking_h=(0, 24)).day).size == 2


def test_gaps_stay_gaps_and_what_nobody_measured_has_no_column() -> None:
    holes = [
        s
        for s in record()
        if not (s.kind == "cgm_mgdl" and DAY_US + 720 * US_PER_MIN <= s.time_us < DAY_US + 780 * US_PER_MIN)
    ]
    minutes = minute_of(rows(holes))
    assert not [m for m in minutes if 600 <= m < 660 or 720 <= m < 795]  # later, now, or before is missing
    bare = [s for s in record() if s.kind != "heart_rate_bpm"]
    assert ACTIVITY not in rows(bare).columns
    assert ILLNESS not in rows(bare).columns
    assert rows([]).time_us.size == 0
    off = [s for s in record() if not (s.kind == "heart_rate_bpm" and s.time_us > DAY_US + 800 * US_PER_MIN)]
    effort = rows(off).columns[ACTIVITY]
    assert np.isnan(effort[-1])
    assert np.isfinite(effort[0])


def people(n: int, rng: np.random.Generator, rows_each: int = 150) -> list[Moments]:
    """Ill or high, people dose; both make glucose stay high. The effect of a dose is EFFECT."""
    found = []
    for _ in range(n):
        now = rng.normal(230, 25, rows_each)
        ill = (rng.random(rows_each) < 0.3).astype(float)
        chance = 1 / (1 + np.exp(-(-2.2 + 0.04 * (now - 230) + 1.5 * ill)))
        dose = (rng.random(rows_each) < chance).astype(float)
        later = 20 + 0.8 * now + 60 * ill + EFFECT * dose + rng.normal(0, 20, rows_each) + rng.normal(0, 5)
        hour = rng.uniform(0, math.tau, rows_each)
        columns = {
            INSULIN: dose,
            LATER: later,
            GLUCOSE_NOW: np.column_stack([now, rng.normal(0, 5, rows_each)]),
            HOUR: np.column_stack([np.sin(hour), np.cos(hour)]),
            MEAL: rng.exponential(10, rows_each),
            ON_BOARD: rng.exponential(0.5, rows_each),
            ACTIVITY: rng.exponential(5, rows_each),
            ILLNESS: ill,
        }
        time_us = DAY_US + np.arange(rows_each) * 30 * US_PER_MIN
        eligible = np.ones(rows_each, dtype=bool)
        found.append(Moments(columns, time_us, 2.0 * dose, eligible, time_us // US_PER_DAY))
    return found


def test_a_known_effect_is_recovered_where_the_naive_sign_is_wrong() -> None:
    answer = ask(people(20, np.random.default_rng(4)))
    assert answer.naive.low > 0
    assert answer.main.estimate.covers(EFFECT)
    assert answer.main.estimate.high < 0
    for tried in answer.tried:
        assert tried.answer is not None, tried
        assert tried.answer.estimate.covers(EFFECT), tried
    assert answer.by == "person"
    assert answer.main.estimate.groups == 20
    assert answer.main.e_value.point > answer.main.e_value.interval > 1


def test_few_people_are_judged_by_their_days() -> None:
    answer = ask(people(1, np.random.default_rng(5), rows_each=1500))
    assert answer.by == "day"
    assert answer.main.estimate.groups == 1500 // 48 + 1
    assert answer.main.estimate.covers(EFFECT)


@pytest.mark.parametrize("lacking", [ILLNESS, ACTIVITY, MEAL])
def test_what_nobody_recorded_is_named(lacking: str) -> None:
    them = people(3, np.random.default_rng(6))
    for one in them[1:]:  # that one of them recorded it is not enough
        del one.columns[lacking]
    with pytest.raises(RefusedError, match=f"not identified: {lacking} would have to be measured"):
        ask(them)


def test_what_never_varies_is_conditioned_on_and_said() -> None:
    healthy = [m.where(m.columns[ILLNESS] == 0) for m in people(20, np.random.default_rng(7))]
    answer = ask(healthy)
    assert answer.always_the_same == (ILLNESS,)
    assert ILLNESS not in answer.main.identification.adjustment
    assert answer.main.estimate.covers(EFFECT)
    assert ILLNESS not in graph_of(healthy[0].columns, (ILLNESS,)).nodes


def test_too_few_of_either_kind_are_refused() -> None:
    them = people(1, np.random.default_rng(8), rows_each=400)
    dosed = np.flatnonzero(them[0].columns[INSULIN] > 0)
    kept = np.ones(400, dtype=bool)
    kept[dosed[MIN_ARM - 1 :]] = False
    with pytest.raises(RefusedError, match=f"no comparison: {MIN_ARM - 1} corrections"):
        ask([them[0].where(kept)])
    many = people(1, np.random.default_rng(9), rows_each=800)[0]
    assert ask([many]).treated.days == 17
    evenings = many._replace(day=DAY + np.arange(800) // 90)  # the same moments, on nine days
    with pytest.raises(RefusedError, match=r"on 9 days.*on 9; 20 of each on 10 days is the least"):
        ask([evenings])
    with pytest.raises(RefusedError, match="no moment"):
        joined([])


def test_the_error_of_structure_is_common_to_all_moments() -> None:
    rng = np.random.default_rng(1)
    draws = -40.0 + rng.normal(0.0, 4.0, (50, 400))  # what is unknown of one moment averages out …
    low, high = interval(draws)
    assert low == pytest.approx(-40.0 * math.exp(0.30 * 1.96 - 0.045), rel=0.02)
    assert high == pytest.approx(
        -40.0 * math.exp(-0.30 * 1.96 - 0.045), rel=0.02
    )  # … the structure's error does not
    assert interval(draws, 0.5)[0] > low
    assert interval(np.zeros((3, 10))) == (0.0, 0.0)
