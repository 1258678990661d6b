"""The adviser on the twin itself: same courses for every candidate, monotone, and refusals from the record."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from core.advice_types import policy_of
from core.advise_twin import (
    CUSUM_ALARM,
    HIGHER,
    TRUST_PRESCRIBED,
    TwinPaths,
    advise,
    change_words,
    dosed_ratio,
    fits,
    situation,
    stated,
)
from core.chance import chance_of
from core.errors import InputError
from core.messages import Quality, Sample
from core.patient import Patient, Therapy
from core.predictive import BY_PRESCRIPTION, NOTHING_ELSE, Prescribed, Stated, _agreed, base_path
from core.refusal import MISFIT_NIS
from core.twin import Advice, Policy, Twin
from firmware_sim.person import VirtualPerson
from tests.core.people import MIN_US, START_US

DAYS = 4
POLICY = Policy(carb_ratio_g_per_u=12.0, correction_mgdl_per_u=45.0)
# Quiet afternoons and evenings of the last day, minutes of the day.
MOMENTS = (11 * 60, 16 * 60, 17 * 60 + 30)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    person = VirtualPerson(5)
    return [Sample(t, k, v, k, i) for i, (t, k, v) in enumerate(person.events(START_US, DAYS))]


@pytest.fixture
def twin(samples: list[Sample]) -> Twin:
    made = Twin(Patient())
    made.observe(samples)
    return made


def at(minute: int, day: int = DAYS - 1) -> int:
    return START_US + (day * 1440 + minute) * MIN_US


def test_every_candidate_meets_the_same_draws_and_acts_by_the_mechanism(twin: Twin) -> None:
    source = TwinPaths(twin, at(16 * 60))
    base = source.paths(0.0, 0.0, 300, 300.0)
    assert base.shape == (300, 60)
    np.testing.assert_array_equal(base, source.paths(0.0, 0.0, 300, 300.0))
    moments = twin.forecast(at(16 * 60), [60.0], planned=[]).forecast
    assert abs(base[:, 11].mean() - moments.mean[0]) < 2 * moments.sd[0]
    for grams, units in ((20.0, 0.0), (60.0, 0.0)):
        assert np.all(source.paths(grams, units, 300, 300.0) >= base - 1e-9)  # food lifts every course
    assert np.all(source.paths(0.0, 2.0, 300, 300.0)[:, -1] <= base[:, -1])
    assert source.paths(0.0, 2.0, 300, 300.0)[:, -1].mean() < base[:, -1].mean() - 10
    assert np.all(source.basal_paths(0.5, 300, 300.0)[:, -1] >= base[:, -1])
    np.testing.assert_allclose(source.basal_paths(1.0, 300, 300.0), base)


def test_a_stated_course_is_narrower_rests_on_the_mechanism_and_scales_dose_and_meal_apart(
    twin: Twin,
) -> None:
    t = at(16 * 60)
    free = twin.futures(t, 300.0, 400, 1)
    plain, scaled = (twin.futures(t, 300.0, 400, 1, Stated(0.0, *f)) for f in ((1.0, 1.0), (1.5, 0.8)))
    nothing = plain.paths(())
    # Up to what a little insulin still under the skin from hours ago is held for more.
    learned, own = free.paths(()).std(axis=0), free._free.std(axis=0)
    np.testing.assert_allclose(nothing.std(axis=0), NOTHING_ELSE * np.sqrt(learned * own), rtol=0.05)
    mechanism = base_path(twin.track_at(t), 300.0, ())[1:]
    assert np.abs(np.median(nothing, axis=0) - mechanism).max() < 15  # the two sides differ in width
    dose, meal = [(t, "bolus_u", 2.0)], [(t, "carbs_g", 40.0)]
    fall, rise = plain.paths(dose) - nothing, plain.paths(meal) - nothing
    bare = scaled.paths(())  # what is on board is scaled in it
    np.testing.assert_allclose(scaled.paths(dose) - bare, 1.5 * fall, atol=1e-9)
    np.testing.assert_allclose(scaled.paths(meal) - bare, 0.8 * rise, atol=1e-9)
    both = plain.paths([*dose, *meal]) - nothing
    np.testing.assert_allclose(both, rise + fall, atol=1e-9)
    np.testing.assert_allclose(scaled.paths([*dose, *meal]) - bare, 0.8 * rise + 1.5 * fall, atol=1e-9)


def test_a_dose_does_as_much_more_as_it_is_larger_and_no_less_for_insulin_taken(
    samples: list[Sample], twin: Twin
) -> None:
    """In the mechanism it does less the lower glucose is, and would protect from the low that it makes."""
    t = at(16 * 60)
    plain = twin.futures(t, 300.0, 400, 1, Stated(0.0))
    nothing = plain.paths(())
    one, four = (nothing - plain.paths([(t, "bolus_u", u)]) for u in (1.0, 4.0))
    np.testing.assert_allclose(four, 4.0 * one, atol=1e-9)
    free = twin.futures(t, 300.0, 400, 1)
    assert four[:, -1].mean() > 1.1 * (free.paths(()) - free.paths([(t, "bolus_u", 4.0)]))[:, -1].mean()
    source = TwinPaths(twin, t, None, Stated(0.0))
    usual = source.basal_paths(1.0, 300, 300.0)
    np.testing.assert_allclose(
        usual - source.basal_paths(2.0, 300, 300.0),
        5.0 * (usual - source.basal_paths(1.2, 300, 300.0)),
        atol=1e-6,
    )
    taken = Twin(Patient())
    taken.observe([*(s for s in samples if s.time_us <= t), Sample(t - MIN_US, "bolus_u", 4.0, "hand", 1)])
    with_it = taken.futures(t, 300.0, 400, 1, Stated(0.0)).paths(())
    fall = np.median(nothing, axis=0)[-1] - np.median(with_it, axis=0)[-1]
    assert fall == pytest.approx(np.median(four, axis=0)[-1], rel=0.1)


def test_a_dose_is_held_for_stronger_when_the_prescription_says_so_and_never_for_weaker(twin: Twin) -> None:
    t = at(16 * 60)
    shown, ratio = twin.therapy_shown(t)
    agreed, strong, weak, absurd = (
        stated(
            twin,
            t,
            msgspec.structs.replace(POLICY, correction_mgdl_per_u=f * shown, carb_ratio_g_per_u=f * ratio),
        )
        for f in (1.0, 2.0, 0.5, 100.0)
    )
    assert (agreed.habit, agreed.insulin, agreed.carbs) == pytest.approx((Stated().habit, 1.0, 1.0))
    taken = dosed_ratio(twin, t, shown, POLICY.target_mgdl)
    assert taken is not None
    floor = min(0.75 * taken, 1.5 * ratio)  # the mechanism's ratio is far below what this person takes
    assert ratio < floor
    assert agreed.prescribed == pytest.approx((shown, floor))
    assert strong.insulin == pytest.approx(2.0**TRUST_PRESCRIBED)
    assert weak.insulin == 1.0
    assert strong.carbs == pytest.approx(1.0)  # a meal's rise: correction factor over ratio
    assert absurd.insulin == pytest.approx(2.5)
    assert strong.prescribed == pytest.approx((2.0 * shown, 2.0 * ratio))
    assert weak.prescribed is None  # half of the mechanism's ratio: a slip
    assert absurd.prescribed == pytest.approx((2.5 * shown, 100.0 * ratio))
    assert stated(twin, t, Policy()) == Stated()


def test_a_plan_that_the_mechanism_shows_nothing_of_acts_by_the_prescription_where_it_lowers() -> None:
    said = np.linspace(-1.0, -40.0, 12)
    nothing = np.zeros((5, 12))
    np.testing.assert_allclose(_agreed(nothing, said, 0.25), np.tile(BY_PRESCRIPTION * said, (5, 1)))
    np.testing.assert_allclose(_agreed(nothing, -said, 0.5), nothing)  # food need not
    one = nothing.copy()
    one[0] = 100.0 * said  # one draw has all of the effect
    agreed = _agreed(one, said, 0.25)
    assert np.all(agreed[1:] <= 0.2 * BY_PRESCRIPTION * said)
    assert agreed.mean(axis=0) == pytest.approx(
        BY_PRESCRIPTION * said + (1 - BY_PRESCRIPTION) * one.mean(axis=0)
    )


def test_what_a_plan_does_is_mostly_what_is_prescribed_and_every_draw_keeps_its_strength(twin: Twin) -> None:
    t = at(16 * 60)
    said = Prescribed(40.0, 10.0)
    bare, told = (twin.futures(t, 400.0, 400, 1, Stated(0.0, prescribed=p)) for p in (None, said))
    np.testing.assert_array_equal(bare.paths(()), told.paths(()))
    nothing = bare.paths(())
    dose, meal = [(t, "bolus_u", 2.0)], [(t, "carbs_g", 40.0)]
    fall, rise = nothing - told.paths(dose), told.paths(meal) - nothing
    own_fall, own_rise = nothing - bare.paths(dose), bare.paths(meal) - nothing
    # After 400 min a calculator's dose has done all of its work: 2 U x 40; 40 g are 4 U at 10 g per U.
    for mine, own, whole in ((fall, own_fall, 80.0), (rise, own_rise, 160.0)):
        expected = BY_PRESCRIPTION * whole + (1.0 - BY_PRESCRIPTION) * own.mean(axis=0)[-1]
        assert mine.mean(axis=0)[-1] == pytest.approx(expected)
        assert np.corrcoef(mine.sum(axis=1), own.sum(axis=1))[0, 1] > 0.9
        assert np.all(mine.sum(axis=1) > 0)
    np.testing.assert_allclose(nothing - told.paths([(t, "bolus_u", 4.0)]), 2.0 * fall, atol=1e-9)
    np.testing.assert_allclose(told.paths([*dose, *meal]) - nothing, rise - fall, atol=1e-9)
    # Nothing happens before the plan does; what has been eaten already, and sugar, are the mechanism's.
    later = told.paths([(t + 60 * MIN_US, "carbs_g", 40.0)]) - nothing
    assert np.abs(later[:, :12]).max() < 1e-9
    assert later[:, -1].mean() == pytest.approx(rise[:, -1].mean(), rel=0.2)
    np.testing.assert_allclose(told.paths(meal, carbs=1.0) - nothing, own_rise, atol=1e-9)
    # Half of the ratio's carbohydrate is eaten after two hours, and two thirds of a dose have worked after 140 min.
    np.testing.assert_allclose(said.gram(np.array([-5.0, 120.0, 240.0, 300.0])), [0.0, 2.0, 4.0, 4.0])
    np.testing.assert_allclose(said.unit(np.array([-5.0, 0.0, 380.0])), [0.0, 0.0, -40.0])


def test_a_unit_on_board_acts_as_a_unit_planned(samples: list[Sample]) -> None:
    t = at(5 * 60)  # hours after the last bolus
    past = [s for s in samples if s.time_us <= t]
    free, dosed, late = Twin(Patient()), Twin(Patient()), Twin(Patient())
    for twin, more in ((free, []), (dosed, [(1, 3.0)]), (late, [(90, 3.0)])):
        twin.observe([*past, *(Sample(t - m * MIN_US, "bolus_u", u, "hand", 1) for m, u in more)])
    plain, strong = Stated(0.0), Stated(0.0, insulin=2.0)

    def course(twin: Twin, stated: Stated, plan: list[tuple[int, str, float]]) -> np.ndarray:
        return np.median(twin.futures(t, 300.0, 400, 1, stated).paths(plan), axis=0)

    planned = course(free, strong, []) - course(free, strong, [(t, "bolus_u", 3.0)])
    taken = course(free, strong, []) - course(dosed, strong, [])
    weak = course(free, plain, []) - course(dosed, plain, [])
    assert planned[-1] == pytest.approx(taken[-1], rel=0.15)
    assert taken[-1] == pytest.approx(2.0 * weak[-1], rel=0.15)
    # An older one by what is still under the skin, and none: nothing added.
    still = course(late, plain, [])[-1] - course(late, strong, [])[-1]
    nothing = course(free, plain, [])[-1] - course(free, strong, [])[-1]
    assert nothing < 0.2 * still < 0.1 * weak[-1]


def test_a_meal_is_not_dosed_for_twice_when_insulin_is_held_for_stronger(
    samples: list[Sample], twin: Twin
) -> None:
    t = at(16 * 60)
    correction, ratio = twin.therapy_shown(t)
    policy = Policy(carb_ratio_g_per_u=1.8 * ratio, correction_mgdl_per_u=1.8 * correction)
    first = twin.advise(t, 60.0, policy).dose_u
    assert first > 1.0
    twin.observe([Sample(t - MIN_US, "bolus_u", first, "hand", 1)])
    assert twin.advise(t, 60.0, policy).dose_u <= 0.2 * first


def test_a_ratio_is_never_believed_to_ask_for_more_insulin_than_the_mechanism(twin: Twin) -> None:
    t = at(16 * 60)
    correction, ratio = twin.therapy_shown(t)
    right = Policy(carb_ratio_g_per_u=ratio, correction_mgdl_per_u=correction)
    for f in (3.0, 10.0):
        slip = msgspec.structs.replace(right, carb_ratio_g_per_u=max(0.5, ratio / f))
        assert stated(twin, t, slip).prescribed is None
        answer = twin.advise(t, 40.0, slip)
        plain = TwinPaths(twin, t, None, Stated()).paths(40.0, answer.dose_u, slip.draws, 300.0)
        assert chance_of(plain).p70_bound <= 0.05
        assert any("check that ratio" in text for text in answer.assumptions)
    strong = msgspec.structs.replace(
        right, carb_ratio_g_per_u=2.0 * ratio, correction_mgdl_per_u=2.0 * correction
    )
    assert any("insulin on board does 1.6 times" in text for text in twin.advise(t, 40.0, strong).assumptions)
    said = twin.advise(t, 40.0, right).assumptions
    assert not any("times" in text for text in said)
    assert any(f"1 U lowers by {correction:.0f} mg/dL" in text for text in said)


@pytest.mark.parametrize("seed", [1, 5, 9])
def test_a_slip_in_the_ratio_asks_for_little_more_than_the_right_one(seed: int) -> None:
    """Judged on people: the mechanism's own ratio asks for far more insulin than they need, so it is no guard."""
    person = VirtualPerson(seed)
    patient = Patient.from_toml(person.prescription())
    right = policy_of(patient)
    assert right.carb_ratio_g_per_u is not None
    known = [Sample(t, k, v, k, i) for i, (t, k, v) in enumerate(person.events(START_US, DAYS))]
    sums = {f: 0.0 for f in (1.0, 0.5, 0.1)}
    for minute in (8 * 60, 13 * 60, 18 * 60, 22 * 60):
        t = at(minute)
        twin = Twin(patient)
        twin.observe([s for s in known if s.time_us <= t])
        for f in sums:
            policy = msgspec.structs.replace(right, carb_ratio_g_per_u=max(0.5, f * right.carb_ratio_g_per_u))
            sums[f] += twin.advise(t, 60.0, policy, "meal").dose_u
    assert sums[1.0] > 1.0
    assert max(sums[0.5], sums[0.1]) <= 1.6 * sums[1.0]


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_a_meal_half_logged_and_half_asked_for_gets_no_more_than_the_whole(seed: int) -> None:
    person = VirtualPerson(seed)
    patient = Patient.from_toml(person.prescription())
    policy = policy_of(patient)
    known = [Sample(t, k, v, k, i) for i, (t, k, v) in enumerate(person.events(START_US, DAYS))]
    for minute in (13 * 60, 18 * 60):
        t = at(minute)
        whole, half = Twin(patient), Twin(patient)
        past = [s for s in known if s.time_us <= t]
        whole.observe(past)
        half.observe([*past, Sample(t - MIN_US, "carbs_g", 60.0, "hand", 1)])
        most_u = whole.advise(t, 120.0, policy, "meal").dose_u
        assert half.advise(t, 60.0, policy, "meal").dose_u <= 1.1 * most_u + 0.2


def test_sugar_and_a_lower_basal_rate_do_no_more_than_the_mechanism_says(twin: Twin) -> None:
    t = at(16 * 60)
    plain = TwinPaths(twin, t, None, Stated(0.5))
    strong = TwinPaths(twin, t, None, Stated(0.5, 1.0, 2.0))
    np.testing.assert_allclose(
        strong.sugar_paths(30.0, 300, 150.0), plain.paths(30.0, 0.0, 300, 150.0), atol=1e-9
    )
    weak = TwinPaths(twin, t, None, Stated(0.5, 1.0, 0.5))
    assert np.all(weak.sugar_paths(30.0, 300, 150.0) <= plain.paths(30.0, 0.0, 300, 150.0) + 1e-9)
    strong = TwinPaths(twin, t, None, Stated(0.5, 2.0, 1.0))

    def change(source: TwinPaths, factor: float) -> np.ndarray:
        return np.median(source.basal_paths(factor, 300, 300.0) - source.paths(0.0, 0.0, 300, 300.0), axis=0)

    np.testing.assert_allclose(change(strong, 0.5), change(plain, 0.5), rtol=0.05, atol=0.05)
    np.testing.assert_allclose(change(strong, 1.5), 2.0 * change(plain, 1.5), rtol=0.05, atol=0.05)
    assert change(plain, 0.5)[-1] > 1.0 > -1.0 > change(plain, 1.5)[-1]


def test_one_situation_gets_one_answer_whatever_the_question_is_called(
    samples: list[Sample], twin: Twin
) -> None:
    high = [
        s.time_us
        for s in samples
        if s.kind == "cgm_mgdl" and s.value > 170.0 and s.time_us > at(0, DAYS - 2) and s.time_us % 7 == 0
    ]
    policy = msgspec.structs.replace(POLICY, correction_mgdl_per_u=16.0)
    dosed = 0
    for t in high[:: max(1, len(high) // 4)]:
        answers = [twin.advise(t, 0.0, policy, question) for question in ("correction", "now", "meal")]
        doses = {a.dose_u for a in answers if a.eat_g == 0 and a.refused is None}
        assert len(doses) <= 1
        dose_u = max(doses, default=0.0)
        dosed += dose_u > 0
        if dose_u > 0:
            course = TwinPaths(twin, t, None, stated(twin, t, policy))
            assert chance_of(course.paths(0.0, dose_u, policy.draws, 300.0)).within(0.05, 0.01)
            assert dose_u <= twin.advise(t, 4.0, policy, "meal").dose_u  # a sweet in it does not ask for less
    assert dosed > 0


@pytest.mark.parametrize("minute", MOMENTS)
def test_on_the_twin_too_more_carbohydrate_never_means_less_insulin(twin: Twin, minute: int) -> None:
    answers = [twin.advise(at(minute), float(c), POLICY, "meal") for c in (0, 15, 30, 45, 60, 90)]
    doses = [a.dose_u for a in answers]
    assert doses == sorted(doses)
    assert doses[-1] > 1
    for answer in answers:
        assert answer.refused or answer.p_below_70_bound <= 0.05
        assert answer.dose_u <= 1.2 * answer.calculator_u + 1e-9


def test_the_answer_rests_on_nothing_later_than_the_question(samples: list[Sample], twin: Twin) -> None:
    t = at(16 * 60)
    known = Twin(Patient())
    known.observe([s for s in samples if s.time_us <= t])
    assert msgspec.json.encode(known.advise(t, 40.0, POLICY)) == msgspec.json.encode(
        twin.advise(t, 40.0, POLICY)
    )


def test_insulin_on_board_is_taken_from_the_record_once(samples: list[Sample], twin: Twin) -> None:
    t = at(16 * 60)
    wide = msgspec.structs.replace(POLICY, carb_ratio_g_per_u=5.0)  # so that the calculator does not bind
    before = twin.advise(t, 40.0, wide)
    twin.observe([Sample(t - 20 * MIN_US, "bolus_u", 2.0, "hand", 1)])
    after = twin.advise(t, 40.0, wide)
    assert after.iob_u - before.iob_u == pytest.approx(2.0, abs=0.1)
    assert after.dose_u < before.dose_u


def _moved(samples: list[Sample], until_us: int, **change: object) -> list[Sample]:
    kept = [s for s in samples if s.time_us <= until_us]
    last = max((s for s in kept if s.kind == "cgm_mgdl"), key=lambda s: s.time_us)
    return [msgspec.structs.replace(s, **change) if s is last else s for s in kept]


def test_refuses_on_stale_flagged_and_early_data(samples: list[Sample]) -> None:
    t = at(16 * 60)
    cases = (
        (Twin(), [s for s in samples if s.time_us <= t - 11 * MIN_US], t, "min old"),
        (Twin(), _moved(samples, t, quality=int(Quality.SENSOR_WARNING)), t, "doubtful"),
        (Twin(), [s for s in samples if s.time_us <= at(16 * 60, 0)], at(16 * 60, 0), "enough data"),
        (Twin(), [], t, "no usable"),
    )
    for twin, known, when, why in cases:
        twin.observe(known)
        answer = twin.advise(when, 40.0, POLICY)
        assert why in (answer.refused or ""), why
        assert answer.dose_u == 0


def test_refuses_while_readings_keep_missing_what_the_twin_expects(samples: list[Sample]) -> None:
    t = at(17 * 60)
    twin = Twin()
    twin.observe(
        [
            msgspec.structs.replace(
                s, value=min(245.0, s.value + 7.0 * (s.time_us - t + 90 * MIN_US) / (5 * MIN_US))
            )
            if s.kind == "cgm_mgdl" and s.time_us > t - 90 * MIN_US
            else s
            for s in samples
            if s.time_us <= t
        ]
    )
    answer = twin.advise(t, 0.0, POLICY, "correction")
    assert answer.refused is not None
    assert "fit" in answer.refused or "higher than the twin expects" in answer.refused


def test_one_wild_reading_is_no_misfit_and_two_or_a_wider_scatter_are() -> None:
    quiet = list(np.random.default_rng(5).standard_normal(24))
    assert fits(quiet)
    assert fits([*quiet[:9], -8.0, *quiet[10:]])  # alone it would make the mean square 3.7
    assert not fits([*quiet[:9], -8.0, 8.0, *quiet[11:]])
    assert not fits([2.2 * z for z in quiet])
    assert not fits(quiet[:7])  # too few to tell


def test_a_single_wild_reading_an_hour_ago_does_not_take_the_answer_away(samples: list[Sample]) -> None:
    t = at(17 * 60)
    readings = [s for s in samples if s.kind == "cgm_mgdl" and s.time_us <= t]
    wild = readings[-12]
    twin = Twin()
    twin.observe(
        [
            msgspec.structs.replace(s, value=max(40.0, s.value - 70.0)) if s is wild else s
            for s in samples
            if s.time_us <= t
        ]
    )
    z = [i.z for i in twin.innovations(t - 2 * 60 * MIN_US, t)]
    assert np.mean(np.square(z)) > MISFIT_NIS  # the mean alone would have refused
    assert not situation(twin, t).misfit


def test_the_cumulative_sum_sees_a_lasting_shift_and_no_single_wild_reading() -> None:
    rng = np.random.default_rng(7)
    quiet = list(rng.standard_normal(72))
    assert change_words(quiet) == ""
    assert change_words([*quiet[:-1], 9.0]) == ""
    assert "lower" in change_words([*quiet, *(rng.standard_normal(20) - 1.5)])
    assert "higher" in change_words([*quiet, *(rng.standard_normal(20) + 1.5)])
    assert CUSUM_ALARM > 5


def test_a_very_high_glucose_that_keeps_coming_out_higher_is_not_left_without_insulin(
    samples: list[Sample],
) -> None:
    """Below 250 mg/dL the change is a reason to refuse; above it is said, with what to look for."""
    t = at(17 * 60)

    def raised(most_mgdl: float) -> Twin:
        twin = Twin()
        twin.observe(
            [
                msgspec.structs.replace(
                    s, value=min(most_mgdl, s.value + 7.0 * (s.time_us - t + 90 * MIN_US) / (5 * MIN_US))
                )
                if s.kind == "cgm_mgdl" and s.time_us > t - 90 * MIN_US
                else s
                for s in samples
                if s.time_us <= t
            ]
        )
        return twin

    high, higher = situation(raised(240.0), t), situation(raised(300.0), t)
    assert (high.changing, high.warned) == (HIGHER, "")
    assert (higher.changing, higher.warned) == ("", HIGHER)
    answer = raised(300.0).advise(t, 0.0, POLICY, "correction")
    assert HIGHER not in (answer.refused or "")
    assert any("test for ketones" in text for text in answer.reasons)
    assert any("keeps coming out higher" in text for text in answer.reasons)
    assert not any("ketones" in text for text in raised(240.0).advise(t, 0.0, POLICY).reasons)


def test_the_policy_of_a_patient_keeps_the_clinicians_limits() -> None:
    therapy = Therapy(
        carb_ratio_g_per_u=9.0, target_mgdl=65.0, max_bolus_u=6.0, max_iob_u=8.0, max_basal_uph=2.0
    )
    policy = policy_of(Patient(therapy=therapy)).checked()
    assert (policy.max_dose_u, policy.max_iob_u, policy.max_basal_uph) == (6.0, 8.0, 2.0)
    assert policy.target_mgdl == 70.0  # no lower than what counts as low
    assert policy.correction_mgdl_per_u is None


def test_situation_says_what_is_assumed(twin: Twin) -> None:
    now = situation(twin, at(16 * 60))
    assert any("weight_kg" in text for text in now.assumed)
    assert now.basal_uph is not None
    assert now.record_us is not None


def test_absurd_questions_are_input_errors_and_leave_the_twin_alone(
    samples: list[Sample], twin: Twin
) -> None:
    plain = Twin(Patient())
    plain.observe(samples)
    for carbs in (-1.0, 1e9, float("nan")):
        with pytest.raises(InputError):
            twin.advise(at(16 * 60), carbs, POLICY)
    for number in (0.0, -40.0, float("nan"), float("inf"), 5e-324, 1e300):
        for name in ("correction_mgdl_per_u", "carb_ratio_g_per_u"):
            with pytest.raises(InputError):
                twin.advise(at(16 * 60), 40.0, msgspec.structs.replace(POLICY, **{name: number}))
    least = msgspec.structs.replace(POLICY, correction_mgdl_per_u=1.0, carb_ratio_g_per_u=200.0)
    assert twin.advise(at(16 * 60), 40.0, least).dose_u >= 0
    answer = twin.advise(at(16 * 60), 40.0, POLICY)
    assert isinstance(answer, Advice)
    assert twin.estimate(at(17 * 60)) == plain.estimate(at(17 * 60))


def test_the_command_gives_the_contract_for_an_event_file(samples: list[Sample], tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from typer.testing import CliRunner

    from hometwin import app

    file = tmp_path / "events.csv"
    rows = [
        f"{datetime.fromtimestamp(s.time_us / 1e6, UTC).isoformat()},{s.kind},{s.value!r}" for s in samples
    ]
    file.write_text("time,kind,value\n" + "\n".join(rows) + "\n")
    moment = datetime.fromtimestamp(at(16 * 60) / 1e6, UTC).isoformat()
    run = CliRunner().invoke(
        app, ["advise", str(file), "--at", moment, "--carbs", "45", "--draws", "400", "--json"]
    )
    assert run.exit_code == 0, run.output
    body = json.loads(run.stdout)  # what is said of the missing patient file is on the other stream
    for name in (
        "dose_u",
        "p_below_70",
        "p_below_54",
        "horizon_min",
        "draws",
        "refused",
        "reasons",
        "limits",
    ):
        assert name in body
    assert body["horizon_min"] == 300
    assert body["draws"] == 400
    told = CliRunner().invoke(app, ["advise", str(file), "--at", moment, "--carbs", "45", "--draws", "400"])
    assert told.output.startswith("No patient file was given (--patient). Assumed: the clock is UTC")
    assert "not a medical device" in told.output
    early = CliRunner().invoke(app, ["advise", str(file), "--at", "2001-01-01T00:00", "--carbs", "45"])
    assert isinstance(early.exception, InputError)


def test_a_meal_later_is_judged_from_now_to_its_end_with_the_glucose_expected_then(twin: Twin) -> None:
    t, later = at(16 * 60), at(16 * 60 + 30)
    source = TwinPaths(twin, t, later)
    assert source.paths(60.0, 4.0, 300, 300.0).shape == (300, 66)
    now = situation(twin, t, source, later)
    assert now.expected_mgdl == pytest.approx(float(np.median(source.paths(0.0, 0.0, 299, 0.0)[:, -1])))
    assert situation(twin, t).expected_mgdl is None
    answer = advise(twin, t, 60.0, POLICY, "meal", later)
    assert answer.iob_u < twin.advise(t, 60.0, POLICY).iob_u


@pytest.mark.parametrize(
    "quality", [Quality.GOOD, Quality.BACKFILLED, Quality.CLOCK_DOUBT, Quality.SENSOR_WARNING]
)
def test_a_doubtful_newest_reading_is_flagged(samples: list[Sample], quality: Quality) -> None:
    t = at(16 * 60)
    twin = Twin()
    twin.observe(_moved(samples, t, quality=int(quality)))
    assert situation(twin, t).flagged is (quality in (Quality.CLOCK_DOUBT, Quality.SENSOR_WARNING))


def test_no_draw_runs_away_over_the_pole_below_zero_glucose() -> None:
    # A person whose disturbance has grown restless and whose glucose draws reach zero: food still only ever lifts.
    rng = np.random.default_rng(11)
    wild = 60.0
    readings = []
    for k in range(4 * 288):
        wild = float(np.clip(wild + 14.0 * rng.standard_normal() + 0.05 * (75.0 - wild), 41.0, 190.0))
        readings.append(Sample(START_US + 5 * k * MIN_US, "cgm_mgdl", wild, "cgm", k))
    twin = Twin()
    twin.observe(readings)
    source = TwinPaths(twin, readings[-1].time_us)
    base = source.paths(0.0, 0.0, 1000, 300.0)
    assert np.all(np.isfinite(base))
    assert np.all(source.paths(40.0, 0.0, 1000, 300.0) >= base - 1e-6)
    assert np.percentile(base, 99.9) < 500.0
