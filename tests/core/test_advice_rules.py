"""Ways round the adviser's rules that somebody found: each is closed, and stays so."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from core.advice import advise as choose
from core.advice_answer import band_of
from core.advice_types import Policy, policy_of
from core.advise_twin import TwinPaths, lowered_from, situation, stated
from core.chance import Floats, chance_of
from core.errors import InputError
from core.messages import Sample
from core.patient import Patient, Therapy
from core.twin import Twin
from firmware_sim.person import VirtualPerson
from tests.core.people import MIN_US, START_US
from tests.core.test_advice import situation as calm

DAYS = 4
POLICY = Policy(carb_ratio_g_per_u=12.0, correction_mgdl_per_u=45.0)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    person = VirtualPerson(5)
    return [Sample(t, k, v, k, i) for i, (t, k, v) in enumerate(person.events(START_US, DAYS))]


def at(minute: int) -> int:
    return START_US + (3 * 1440 + minute) * MIN_US


def twin_at(samples: list[Sample], t: int, *more: Sample, patient: Patient | None = None) -> Twin:
    twin = Twin(patient or Patient())
    twin.observe([*(s for s in samples if s.time_us <= t), *more])
    return twin


def test_a_limit_of_nothing_is_a_limit(samples: list[Sample]) -> None:
    therapy = Therapy(
        carb_ratio_g_per_u=12.0, correction_mgdl_per_u=45.0, max_bolus_u=0.0, max_iob_u=0.0, max_basal_uph=0.0
    )
    policy = policy_of(Patient(therapy=therapy))
    assert (policy.max_dose_u, policy.max_iob_u, policy.max_basal_uph) == (0.0, 0.0, 0.0)
    t = at(16 * 60)
    twin = twin_at(samples, t)
    for kept in (policy, msgspec.structs.replace(POLICY, max_iob_u=0.0)):
        answer = twin.advise(t, 60.0, kept)
        assert answer.dose_u == 0.0
        assert any(text.startswith("Held to 0.0 U") for text in answer.reasons)
    assert twin.advise(t, 60.0, POLICY).dose_u > 1.0
    refused = twin.advise(t, 0.0, policy, "basal").refused
    assert refused is not None
    assert "above what the clinician allows" in refused


@pytest.mark.parametrize("minute", [11 * 60, 13 * 60, 22 * 60])
def test_a_gram_is_no_way_round_what_holds_for_a_correction(samples: list[Sample], minute: int) -> None:
    t = at(minute)
    twin = twin_at(samples, t)
    correction = twin.advise(t, 0.0, POLICY, "correction").dose_u
    for grams in (1.0, 5.0):
        given = twin.advise(t, grams, POLICY).dose_u
        assert (
            correction <= given <= correction + POLICY.max_over_calculator * grams / 12.0 + POLICY.dose_step_u
        )


def test_a_higher_basal_rate_holds_on_the_courses_of_a_correction(samples: list[Sample]) -> None:
    t = at(22 * 60)
    twin = twin_at(samples, t)
    now_uph = twin.basal_uph(t)
    assert now_uph is not None
    given = twin.advise(t, 0.0, POLICY, "basal")
    assert given.basal_uph is not None
    assert given.basal_uph > now_uph
    source = TwinPaths(twin, t, None, stated(twin, t, POLICY))
    courses = source.basal_paths(given.basal_uph / now_uph, POLICY.draws, 300.0)
    assert chance_of(courses).within(0.05, 0.01)


def test_a_pump_turned_down_is_not_taken_to_stay_so(samples: list[Sample]) -> None:
    t = at(17 * 60 + 30)
    off = Sample(t - 60 * MIN_US, "basal_uph", 0.0, "pump", 9000)
    calm = [s for s in samples if s.kind != "basal_uph" or s.time_us < off.time_us]
    usual, stopped = twin_at(samples, t), twin_at(calm, t, off)
    assert lowered_from(usual, t) is None
    usual_uph = lowered_from(stopped, t)
    assert usual_uph is not None
    assert usual_uph == pytest.approx(usual.basal_uph(t), rel=0.2)
    answer = stopped.advise(t, 60.0, POLICY)
    assert any("goes back to it now or not" in text for text in answer.assumptions)
    # The dose passes with the pump on at once as well.
    standing = stated(stopped, t, POLICY)
    for place in (standing, standing._replace(basal_uph=usual_uph)):
        source = TwinPaths(stopped, t, None, place)
        assert answer.dose_u <= choose(source, 60.0, POLICY, situation(stopped, t, source), "meal").dose_u
    # A profile in the patient file says it for somebody whose pump reported nothing else.
    profile = Patient(therapy=Therapy(basal_profile=(("00:00", 1.0),)))
    assert lowered_from(twin_at(calm, t, off, patient=profile), t) == 1.0


def test_how_low_a_course_may_be_drawn_does_not_bend_what_a_dose_does(samples: list[Sample]) -> None:
    t = at(16 * 60)
    twin = twin_at(samples, t)
    source = TwinPaths(twin, t, None, stated(twin, t, POLICY))
    none, some, much = (source.paths(0.0, dose_u, 300, 300.0) for dose_u in (0.0, 6.0, 12.0))
    assert much.min() < 0.0
    np.testing.assert_allclose(much - some, some - none, atol=1e-6)


class Low:
    """Courses that go low of themselves: early or late."""

    def __init__(self, low_from: int) -> None:
        self._low_from = low_from

    def paths(self, carbs_g: float, dose_u: float, draws: int, horizon_min: float) -> Floats:
        course = np.full((draws, round(horizon_min / 5.0)), 140.0)
        course[:, self._low_from :] = 60.0
        return course


def test_sugar_is_named_only_when_the_low_is_near_and_a_fresh_dose_is_named_too() -> None:
    soon, late = choose(Low(6), 40.0, POLICY, calm()), choose(Low(40), 40.0, POLICY, calm())
    assert soon.refused is not None
    assert late.refused is not None
    assert "fast carbohydrate" in soon.refused
    assert "carbohydrate" not in late.refused
    assert "later on" in late.refused
    dosed = calm(fresh_u=3.3, fresh_min=2.0)
    again = choose(Low(40), 40.0, POLICY, dosed)
    assert again.refused is not None
    assert again.refused.startswith("no more insulin now")
    assert "the 3.3 U taken 2 min ago are still to act" in again.refused
    assert "even without insulin" not in (choose(Low(6), 40.0, POLICY, dosed).refused or "")


def test_a_meal_that_is_logged_already_is_told_apart_from_another(samples: list[Sample]) -> None:
    t = at(16 * 60)
    eaten = Sample(t - 4 * MIN_US, "carbs_g", 60.0, "hand", 1)
    answer = twin_at(samples, t, eaten).advise(t, 60.0, POLICY)
    assert any("60 g are on record as eaten 4 min ago" in text for text in answer.reasons)
    assert not any("on record" in text for text in twin_at(samples, t).advise(t, 60.0, POLICY).reasons)


@pytest.mark.parametrize("minutes", [-6, 721])
def test_a_meal_long_past_or_far_ahead_is_no_question(samples: list[Sample], minutes: int) -> None:
    from core.advise_twin import advise

    t = at(16 * 60)
    with pytest.raises(InputError, match="12 h after"):
        advise(twin_at(samples, t), t, 40.0, POLICY, "meal", t + minutes * MIN_US)


def test_a_dose_is_judged_over_the_whole_of_its_work() -> None:
    with pytest.raises(InputError, match=r"300\.\.720"):
        Policy(horizon_min=120.0).checked()


def test_a_limit_is_named_only_where_it_holds_the_dose(samples: list[Sample]) -> None:
    t = at(16 * 60)
    twin = twin_at(samples, t)
    free = twin.advise(t, 60.0, POLICY)
    assert free.dose_u < 5.0
    for most_u, named in ((5.0, False), (1.0, True)):
        answer = twin.advise(t, 60.0, msgspec.structs.replace(POLICY, max_dose_u=most_u))
        said = any("largest bolus" in text for text in (*answer.reasons, *answer.why))
        assert said is named
        assert answer.dose_u == min(free.dose_u, most_u)


def test_nobody_is_shown_a_glucose_that_cannot_be() -> None:
    band = band_of(np.full((300, 12), -40.0))
    assert set(band.p05) == {10.0}
