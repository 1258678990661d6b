"""Advice: the constraint is exact, limits hold, refusals say why, and more carbs never mean less insulin."""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pytest

from core.advice import (
    HARD_MAX_DOSE_U,
    NOT_A_DEVICE,
    Advice,
    Policy,
    Situation,
    advise,
    calculator_dose,
    clopper_pearson_upper,
    estimate_ratios,
    insulin_on_board,
    iob_fraction,
)
from core.advice_words import calculator_reasons
from core.chance import expected_risk, risk
from core.errors import InputError
from core.refusal import refusal
from core.units import US_PER_MIN

NOW_US = 1_767_225_600_000_000


class FakePerson:
    """Linear paths: carbs lift by 3 mg/dL/g, insulin lowers by a log-normal sensitivity; same draws each call."""

    def __init__(
        self, glucose_mgdl: float = 120.0, isf: float = 40.0, spread: float = 0.2, seed: int = 1
    ) -> None:
        self.glucose, self.isf, self.spread, self.seed = glucose_mgdl, isf, spread, seed
        self.calls: list[tuple[float, float]] = []

    noise = 8.0

    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> np.ndarray:
        self.calls.append((carbs_g, dose_u))
        rng = np.random.default_rng(self.seed)
        isf = self.isf * np.exp(self.spread * rng.standard_normal((draws, 1)))
        rise = 3.0 * np.exp(0.2 * rng.standard_normal((draws, 1)))
        noise = self.noise * rng.standard_normal((draws, 1))
        t = np.linspace(0.0, 1.0, int(horizon_min) // 5)[None, :]
        return self.glucose + noise * t + rise * carbs_g * np.minimum(1, 3 * t) - isf * dose_u * t**1.5


def situation(**changes: object) -> Situation:
    base = Situation(
        time_us=NOW_US, glucose_mgdl=120.0, trend_mgdl_per_min=0.0, data_time_us=NOW_US - 3 * US_PER_MIN
    )
    return msgspec.structs.replace(base, **changes)


POLICY = Policy(carb_ratio_g_per_u=12.0, correction_mgdl_per_u=40.0, target_mgdl=110.0, draws=400)


def test_upper_bound_equals_the_exact_binomial_one() -> None:
    # Closed forms and table values of the one-sided exact interval.
    assert clopper_pearson_upper(0, 299) == pytest.approx(1 - 0.05 ** (1 / 299), rel=1e-12)
    assert clopper_pearson_upper(0, 299) < 0.01 < clopper_pearson_upper(0, 298)
    assert clopper_pearson_upper(10, 10) == 1.0
    stats = pytest.importorskip("scipy.stats")
    for events, draws in [(1, 299), (5, 400), (12, 400), (399, 400), (40, 1000), (300, 20_000)]:
        exact = stats.beta.ppf(0.95, events + 1, draws - events)
        assert clopper_pearson_upper(events, draws) == pytest.approx(exact, rel=1e-9)


def test_insulin_on_board_follows_the_exponential_curve() -> None:
    assert iob_fraction(0) == 1.0
    assert iob_fraction(10) == 1.0
    assert iob_fraction(375) == 0.0
    curve = [iob_fraction(t) for t in range(0, 375, 5)]
    assert all(a >= b for a, b in itertools.pairwise(curve))
    # The steepest loss lies at the peak time (75 min after the delay).
    losses = [iob_fraction(t) - iob_fraction(t + 1) for t in range(371)]
    assert abs(losses.index(max(losses)) - 85) <= 1
    assert insulin_on_board(NOW_US, [(NOW_US, 2.0), (NOW_US + 1, 50.0)]) == 2.0


def test_insulin_on_board_counts_once_and_only_against_the_correction() -> None:
    assert calculator_dose(60, 190, 0.0, 110, 12, 40) == pytest.approx(7.0)
    assert calculator_dose(60, 190, 1.5, 110, 12, 40) == pytest.approx(5.5)
    assert calculator_dose(60, 190, 9.0, 110, 12, 40) == pytest.approx(5.0)
    assert calculator_dose(60, 90, 0.0, 110, 12, 40) == pytest.approx(4.5)
    assert calculator_dose(0, 70, 0.0, 110, 12, 40) == 0.0


class Swift(FakePerson):
    """Insulin as fast as food: no constraint stands between such a person and the best course."""

    noise = 2.0

    def __init__(self, isf: float, spread: float) -> None:
        super().__init__(140.0, isf, spread)

    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> np.ndarray:
        t = np.linspace(0.0, 1.0, int(horizon_min) // 5)[None, :]
        slow = super().paths(carbs_g, dose_u, draws, horizon_min)
        isf = (
            super().paths(0.0, 0.0, draws, horizon_min)[:, -1:]
            - super().paths(0.0, 1.0, draws, horizon_min)[:, -1:]
        )
        return slow + isf * dose_u * (t**1.5 - np.minimum(1, 3 * t))


def test_a_well_known_person_gets_the_dose_of_least_expected_risk() -> None:
    person = Swift(isf=36.0, spread=0.05)
    free = msgspec.structs.replace(POLICY, max_over_calculator=1.5)
    answer = advise(person, 20.0, free, situation(glucose_mgdl=140.0))
    assert answer.refused is None
    assert answer.action == "bolus"

    def cost(dose_u: float) -> float:
        return expected_risk(person.paths(20.0, dose_u, POLICY.draws, POLICY.horizon_min)[:, ::3])

    assert cost(answer.dose_u) <= min(cost(answer.dose_u - 0.1), cost(answer.dose_u + 0.1))
    assert 0.8 * answer.calculator_u < answer.dose_u < 1.25 * answer.calculator_u
    assert answer.p_below_70_bound <= 0.05
    assert answer.p_below_54_bound <= 0.01
    assert any("20 g" in reason for reason in answer.reasons)
    assert NOT_A_DEVICE in answer.limits


def test_an_answer_says_why_what_is_expected_and_what_would_change_it() -> None:
    answer = advise(FakePerson(180.0, 36.0, 0.05), 60.0, POLICY, situation(glucose_mgdl=180.0, iob_u=0.5))
    assert 1 <= len(answer.why) <= 3
    told = [float(text.split(" U ")[0]) for text in answer.why]
    assert [abs(u) for u in told] == sorted((abs(u) for u in told), reverse=True)
    assert "for the meal" in answer.why[0]
    band, without = answer.band, answer.band_without
    assert band.minutes[-1] == POLICY.horizon_min
    assert band.p05[-1] < band.p50[-1] < band.p95[-1] < without.p50[-1]
    assert answer.in_range is not None
    assert answer.in_range > (answer.in_range_without or 0)
    assert any("more or less to eat" in text for text in answer.changes)
    assert answer.assumptions
    assert answer.data_age_s == 180.0
    assert [rung.dose_u for rung in answer.ladder] == sorted(rung.dose_u for rung in answer.ladder)
    assert answer.ladder[0].p_below_70_bound <= answer.ladder[-1].p_below_70_bound


@pytest.mark.parametrize("iob_u", [0.0, 0.5, 1.7])
@pytest.mark.parametrize("glucose_mgdl", [85.0, 150.0, 190.0])
@pytest.mark.parametrize(
    ("carbs_g", "eaten_g"), [(60.0, 0.0), (0.0, 0.0), (0.0, 40.0), (60.0, 40.0), (8.0, 0.0)]
)
def test_the_shares_that_are_told_add_up_to_the_dose(
    iob_u: float, glucose_mgdl: float, carbs_g: float, eaten_g: float
) -> None:
    for isf in (30.0, 36.0, 55.0):
        now = situation(glucose_mgdl=glucose_mgdl, iob_u=iob_u, eaten_g=eaten_g)
        answer = advise(FakePerson(isf=isf, spread=0.05), carbs_g, POLICY, now)
        if answer.refused is None:
            assert len(answer.why) <= 3
            told = [float(text.split(" U ")[0]) for text in answer.why]
            assert sum(told) == pytest.approx(answer.dose_u, abs=0.05 * max(1, len(told)) + 0.1)
            assert not any(text.startswith("+") and "held back" in text for text in answer.why)


def test_a_more_sensitive_person_gets_less_and_the_bounds_hold_for_the_dose_given() -> None:
    person = FakePerson(isf=70.0)
    answer = advise(person, 60.0, POLICY, situation())
    assert 0 < answer.dose_u < 5.0
    assert any("Lowered" in reason for reason in answer.reasons)
    lows = person.paths(60.0, answer.dose_u, POLICY.draws, POLICY.horizon_min).min(axis=1)
    assert clopper_pearson_upper(int((lows < 70).sum()), POLICY.draws) <= 0.05
    assert clopper_pearson_upper(int((lows < 54).sum()), POLICY.draws) <= 0.01
    one_more = person.paths(60.0, answer.dose_u + 0.1, POLICY.draws, POLICY.horizon_min).min(axis=1)
    assert (
        clopper_pearson_upper(int((one_more < 70).sum()), POLICY.draws) > 0.05
        or clopper_pearson_upper(int((one_more < 54).sum()), POLICY.draws) > 0.01
    )


def test_a_wider_posterior_never_gives_a_bolder_dose() -> None:
    doses = [advise(FakePerson(spread=s), 80.0, POLICY, situation()).dose_u for s in (0.05, 0.2, 0.4, 0.8)]
    assert doses == sorted(doses, reverse=True)
    assert doses[-1] < doses[0]


def test_glucose_expected_later_lowers_a_dose_but_never_raises_it() -> None:
    now = situation(glucose_mgdl=180.0)
    doses = [
        advise(
            FakePerson(180.0, 30.0, 0.05), 40.0, POLICY, msgspec.structs.replace(now, expected_mgdl=g)
        ).dose_u
        for g in (90.0, 140.0, 180.0, 300.0, math.nan)
    ]
    assert doses[0] < doses[1] < doses[2]
    assert doses[2] == doses[3] == doses[4]


def test_the_hard_limit_stands_above_any_policy() -> None:
    policy = msgspec.structs.replace(POLICY, max_dose_u=500.0, max_iob_u=500.0)
    policy = msgspec.structs.replace(policy, carb_ratio_g_per_u=3.0)
    answer = advise(FakePerson(400.0, 15.0, 0.01), 300.0, policy, situation(glucose_mgdl=400.0))
    assert answer.dose_u == HARD_MAX_DOSE_U
    assert any("program's own" in reason for reason in answer.reasons)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data_time_us": NOW_US - 11 * US_PER_MIN}, "11 min old"),
        ({"data_time_us": NOW_US + 5 * US_PER_MIN}, "future"),
        ({"flagged": True}, "doubtful"),
        ({"trend_mgdl_per_min": -2.1}, "falling"),
        ({"trend_mgdl_per_min": math.nan}, "trend is unknown"),
        ({"glucose_mgdl": 69.0}, "below 70"),
        ({"glucose_mgdl": math.nan}, "no usable"),
        ({"status": "warming_up"}, "enough data"),
        ({"status": "diverged"}, "lost track"),
        ({"status": "something new"}, "not ready"),
        ({"misfit": True}, "does not fit"),
        ({"record_us": 20 * 60 * US_PER_MIN}, "a day of readings"),
        ({"changing": "something has changed"}, "has changed"),
    ],
)
def test_a_doubtful_situation_is_refused_with_its_reason_before_any_dose_is_simulated(changes, why) -> None:
    person = FakePerson()
    answer = advise(person, 60.0, POLICY, situation(**changes))
    assert answer.dose_u == 0
    assert answer.refused is not None
    assert why in answer.refused
    assert all(dose_u == 0 for _, dose_u in person.calls)  # sugar may be thought of, insulin not


def test_refused_when_a_low_is_coming_even_without_insulin() -> None:
    answer = advise(FakePerson(glucose_mgdl=72.0), 0.0, POLICY, situation(glucose_mgdl=72.0))
    assert answer.dose_u == 0
    assert "even without insulin" in (answer.refused or "")


def test_refused_when_the_simulation_is_not_finite() -> None:
    class Broken(FakePerson):
        def paths(self, *args: float) -> np.ndarray:
            paths = super().paths(*args)
            paths[0, -1] = math.nan
            return paths

    assert "finite" in (advise(Broken(), 50.0, POLICY, situation()).refused or "")


def test_missing_ratios_are_estimated_and_said_so() -> None:
    policy = Policy(draws=400)
    ratio, correction = estimate_ratios(FakePerson(spread=0.1), policy)
    assert correction == pytest.approx(40, rel=0.05)
    assert ratio == pytest.approx(40 / 3, rel=0.05)
    answer = advise(FakePerson(spread=0.1), 60.0, policy, situation())
    assert answer.dose_u > 3
    assert any("No prescribed ratios" in reason for reason in answer.reasons)


def test_a_twin_that_shows_no_insulin_effect_is_not_used_for_ratios() -> None:
    answer = advise(FakePerson(isf=0.0), 60.0, Policy(draws=400), situation())
    assert "cannot yet tell" in (answer.refused or "")


@pytest.mark.parametrize("carbs", [-1.0, 301.0, math.nan, math.inf])
def test_absurd_carbohydrate_is_an_input_error(carbs) -> None:
    with pytest.raises(InputError):
        advise(FakePerson(), carbs, POLICY, situation())


@pytest.mark.parametrize(
    "changes",
    [
        {"max_p_below_54": 0.02},
        {"max_p_below_70": 0.2},
        {"draws": 200},
        {"carb_ratio_g_per_u": 0.0},
        {"carb_ratio_g_per_u": 0.1},
        {"correction_mgdl_per_u": 1e-300},
        {"correction_mgdl_per_u": 1e6},
        {"max_dose_u": math.nan},
        {"dose_step_u": -1.0},
        {"target_mgdl": 60.0},
        {"max_over_calculator": 3.0},
        {"max_basal_change": 0.9},
    ],
)
def test_a_policy_may_tighten_but_never_loosen_safety(changes) -> None:
    with pytest.raises(InputError):
        advise(FakePerson(), 50.0, msgspec.structs.replace(POLICY, **changes), situation())


def test_answer_is_valid_json_with_the_contract_fields_also_when_refused() -> None:
    for answer in (
        advise(FakePerson(), 60.0, POLICY, situation()),
        advise(FakePerson(), 60.0, POLICY, situation(flagged=True)),
    ):
        body = msgspec.json.decode(msgspec.json.encode(answer))
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
        assert isinstance(body["p_below_70"], float)


def test_the_risk_is_convex_and_its_slope_concave() -> None:
    glucose = np.arange(16.0, 900.0, 0.5)
    slope = np.diff(risk(glucose))
    assert np.all(np.diff(slope) >= -1e-9)
    assert np.all(np.diff(np.diff(slope)) <= 1e-9)
    assert risk(np.array([112.5]))[0] < 1e-3
    assert risk(np.array([70.0]))[0] == pytest.approx(risk(np.array([180.0]))[0], rel=0.01)


class Falling(FakePerson):
    """A course that falls by 60 mg/dL within the hour and stays."""

    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> np.ndarray:
        t = np.linspace(0.0, 1.0, int(horizon_min) // 5)[None, :]
        return super().paths(carbs_g, dose_u, draws, horizon_min) - 60.0 * np.minimum(1, 5 * t)


def test_sugar_is_advised_with_its_chance_when_a_low_is_coming() -> None:
    answer = advise(Falling(110.0), 0.0, POLICY, situation(glucose_mgdl=110.0, trend_mgdl_per_min=-1.0))
    assert answer.action == "carbs"
    assert 5 <= answer.eat_g <= 30
    assert answer.dose_u == 0
    assert answer.p_low_soon is not None
    assert answer.p_low_soon > 0.5
    assert "within the hour with a chance of" in " ".join(answer.reasons)
    assert answer.band.p50[-1] > answer.band_without.p50[-1]


def test_a_low_that_is_there_gets_fifteen_grams_at_least_and_no_insulin() -> None:
    answer = advise(FakePerson(62.0), 0.0, POLICY, situation(glucose_mgdl=62.0))
    assert (answer.action, answer.dose_u) == ("carbs", 0.0)
    assert answer.eat_g >= 15
    assert "below 70" in (answer.refused or "")


def test_doubtful_data_advise_nothing_at_all_not_even_sugar() -> None:
    person = FakePerson(62.0)
    answer = advise(person, 0.0, POLICY, situation(glucose_mgdl=62.0, flagged=True))
    assert (answer.action, answer.eat_g) == ("none", 0.0)
    assert person.calls == []


def test_it_says_when_doing_nothing_is_best() -> None:
    answer = advise(FakePerson(112.0), 0.0, POLICY, situation(glucose_mgdl=112.0, iob_u=1.0))
    assert (answer.refused, answer.action, answer.dose_u) == (None, "none", 0.0)
    assert any("Doing nothing" in reason for reason in answer.reasons)


class Pump(FakePerson):
    """Basal above what holds glucose lowers it, and below raises it."""

    def basal_paths(
        self, factor: float, draws: int, horizon_min: float, span_min: float | None = None
    ) -> np.ndarray:
        t = np.linspace(0.0, 1.0, int(horizon_min) // 5)[None, :]
        share = 1.0 if span_min is None else span_min / horizon_min
        return self.paths(0.0, 0.0, draws, horizon_min) - 150.0 * share * (factor - 1.0) * t


def test_the_basal_rate_moves_within_what_the_clinician_allows() -> None:
    def given(mgdl: float, policy: Policy = POLICY, **rates: float) -> Advice:
        return advise(Pump(mgdl), 0.0, policy, situation(glucose_mgdl=mgdl, basal_uph=1.0, **rates), "basal")

    high = given(220.0, basal_week_uph=1.0)
    assert (high.action, high.basal_uph) == ("basal", pytest.approx(1.2))
    low = given(88.0, basal_week_uph=1.0)
    assert low.basal_uph is not None
    assert 0.8 <= low.basal_uph < 1.0
    capped = msgspec.structs.replace(POLICY, max_basal_uph=1.1)
    assert given(220.0, capped, basal_week_uph=1.0).basal_uph == pytest.approx(1.1)
    pen = advise(FakePerson(), 0.0, POLICY, situation(), "basal")
    assert "no pump" in (pen.refused or "")


def test_a_raise_is_a_share_of_the_usual_rate_too_and_a_lower_rate_needs_no_leave() -> None:
    def given(mgdl: float, week_uph: float | None) -> Advice:
        now = situation(glucose_mgdl=mgdl, basal_uph=1.0, basal_week_uph=week_uph)
        return advise(Pump(mgdl), 0.0, POLICY, now, "basal")

    assert given(220.0, 0.9).basal_uph == pytest.approx(1.05)  # whole steps below 1.08
    assert any("may rise to 1.08 U/h" in text for text in given(220.0, 0.9).why)
    for raised_already in (0.8, 0.5, 0.0, None):
        kept, lowered = given(220.0, raised_already), given(88.0, raised_already)
        assert (kept.refused, kept.basal_uph) == (None, None)
        assert lowered.basal_uph == given(88.0, 1.0).basal_uph
    assert any("not known for a day yet" in text for text in given(220.0, None).why)
    assert given(220.0, 3.0).basal_uph == pytest.approx(1.2)  # and one change is still one


def test_what_is_told_is_worth_telling() -> None:
    at_target = Situation(NOW_US, Policy().target_mgdl - 0.4, 0.0, NOW_US)
    assert not any("target" in text for text in calculator_reasons(40.0, at_target, Policy(), 10.0, 4.0))
    old = Situation(NOW_US, 120.0, 0.0, NOW_US - 788 * 86_400_000_000)
    refused = refusal(old)
    assert refused is not None
    assert "788 days old" in refused.text


def test_five_minute_modulation_is_off_unless_the_policy_says_so_and_keeps_the_same_limits() -> None:
    now = situation(glucose_mgdl=220.0, basal_uph=1.0)
    off = advise(Pump(220.0), 0.0, POLICY, now, "modulate")
    assert "research mode" in (off.refused or "")
    assert off.basal_uph is None
    on = msgspec.structs.replace(POLICY, basal_modulation=True)
    high = advise(Pump(220.0), 0.0, on, now, "modulate")
    assert high.basal_uph == pytest.approx(4.0)  # the hard limit
    assert high.p_below_70_bound <= 0.05
    capped = msgspec.structs.replace(on, max_basal_uph=1.6)
    assert advise(Pump(220.0), 0.0, capped, now, "modulate").basal_uph == pytest.approx(1.5)  # whole steps
    full = msgspec.structs.replace(now, iob_u=on.max_iob_u)
    assert advise(Pump(220.0), 0.0, on, full, "modulate").basal_uph == pytest.approx(1.0)  # nothing extra
    low = advise(Pump(65.0), 0.0, on, situation(glucose_mgdl=65.0, basal_uph=1.0), "modulate")
    assert low.basal_uph == 0.0
    falling = msgspec.structs.replace(now, trend_mgdl_per_min=-3.0)
    assert advise(Pump(220.0), 0.0, on, falling, "modulate").basal_uph == 0.0
    stale = advise(Pump(220.0), 0.0, on, msgspec.structs.replace(now, flagged=True), "modulate")
    assert stale.refused
    assert stale.basal_uph is None


def test_a_question_that_makes_no_sense_is_an_input_error() -> None:
    for carbs, question in ((30.0, "correction"), (30.0, "basal"), (0.0, "why")):
        with pytest.raises(InputError):
            advise(FakePerson(), carbs, POLICY, situation(), question)


def test_a_meal_without_its_bolus_may_still_be_dosed_but_its_rise_is_not_corrected_twice() -> None:
    now = situation(glucose_mgdl=180.0)
    person = FakePerson(280.0, 36.0, 0.05)  # where the meal is taking this person
    plain = advise(person, 0.0, POLICY, now, "correction")
    missed = advise(person, 0.0, POLICY, msgspec.structs.replace(now, eaten_g=60.0), "correction")
    assert missed.dose_u > plain.dose_u
    assert missed.calculator_u == pytest.approx(5.0)  # 60 g, and nothing for the 70 mg/dL above target
    assert any("no bolus on record" in text for text in missed.reasons)
    dosed = advise(person, 0.0, POLICY, msgspec.structs.replace(now, eaten_g=60.0, dosed_u=5.0), "correction")
    assert dosed.dose_u == plain.dose_u
