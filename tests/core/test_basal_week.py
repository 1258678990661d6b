"""What a raise of the basal rate is measured by: however often it is asked for, a week holds one change."""

from __future__ import annotations

import random

import pytest

from core.advice import Policy, advise
from core.basal_week import basal_week_uph, usual_uph
from core.messages import Sample
from core.patient import Patient, Therapy
from core.twin import Twin
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from tests.core.test_advice import POLICY, Pump, situation

T = 1_767_362_400_000_000
HIGH = Pump(240.0)  # a body that every raise within the limits is safe for


def ago(days: float) -> int:
    return T - round(days * US_PER_DAY)


def test_it_is_the_lowest_that_held_at_this_hour_and_temporary_rates_do_not_count() -> None:
    assert usual_uph([(ago(9), 1.0)], T) == 1.0
    assert usual_uph([(ago(9), 1.0), (ago(3.5), 0.8), (ago(2.5), 1.2)], T) == 0.8
    assert usual_uph([(ago(9), 1.0), (ago(3.2), 0.3), (ago(3.1), 1.0)], T) == 1.0  # at another hour
    half_an_hour = [(ago(9), 1.0), (ago(3), 0.6), (ago(3) + 30 * US_PER_MIN, 1.0)]
    assert usual_uph(half_an_hour, T) == 1.0
    assert usual_uph([(ago(9), 0.7), (ago(1.5), 1.0)], T) == 0.7
    assert usual_uph([(ago(30), 0.7), (ago(8.5), 1.0)], T) == 1.0  # long ago


def test_a_pump_that_was_stopped_on_one_day_is_not_the_usual_rate_and_one_on_two_days_is() -> None:
    once = [(ago(9), 1.0), (ago(2) - US_PER_H, 0.0), (ago(2) + US_PER_H, 1.0)]
    assert usual_uph(once, T) == 1.0
    assert usual_uph([*once, (ago(1) - US_PER_H, 0.0), (ago(1) + US_PER_H, 1.0)], T) == 0.0
    # The only day of before a raise, and the pump was stopped for an hour of it.
    assert usual_uph([(ago(8.2), 1.0), (ago(8), 0.0), (ago(8) + US_PER_H, 1.0), (ago(6.9), 1.2)], T) == 1.0


def test_within_the_first_day_nothing_is_usual() -> None:
    assert usual_uph([], T) is None
    assert usual_uph([(T - 20 * US_PER_H, 1.0)], T) is None
    assert usual_uph([(T - 25 * US_PER_H, 1.0), (T - US_PER_H, 1.2)], T) == 1.0


def twin(*rates: tuple[int, float], profile: float | None = None) -> Twin:
    therapy = Therapy(basal_profile=(("00:00", profile),)) if profile is not None else Therapy()
    made = Twin(Patient(therapy=therapy))
    readings = [Sample(ago(5) + k * US_PER_H, "cgm_mgdl", 120.0, "cgm", k) for k in range(121)]
    basal = [Sample(time_us, "basal_uph", uph, "pump", k) for k, (time_us, uph) in enumerate(rates)]
    made.observe(sorted((*readings, *basal), key=lambda s: s.time_us))
    return made


def test_record_and_profile_whichever_is_lower() -> None:
    assert basal_week_uph(twin(), T) is None
    assert basal_week_uph(twin((ago(5), 1.0), (ago(0.1), 1.2)), T) == 1.0
    assert basal_week_uph(twin((ago(5), 1.0), profile=0.9), T) == 0.9
    assert basal_week_uph(twin((ago(5), 1.0), profile=1.4), T) == 1.0
    assert basal_week_uph(twin((ago(0.5), 1.0), profile=1.4), T) == 1.4  # the record is silent


@pytest.mark.parametrize("seed", range(60))
def test_raises_accepted_within_a_week_never_pass_the_limit_of_one(seed: int) -> None:
    """Asked at random moments, at least a day after the rate came on record, and every raise is taken."""
    rng = random.Random(seed)
    usual = rng.choice([0.05, 0.4, 0.85, 1.0, 2.35])
    share = rng.choice([0.05, 0.2, 0.5])
    policy = Policy(
        carb_ratio_g_per_u=POLICY.carb_ratio_g_per_u,
        correction_mgdl_per_u=POLICY.correction_mgdl_per_u,
        max_basal_change=share,
    )
    began_us = T - round(rng.choice([1.0, 1.5, 3.0, 12.0]) * US_PER_DAY)
    rates = [(began_us, usual)]
    first_us, raised = 0, 0
    asked = sorted(rng.choice([rng.random() * 7, rng.randrange(7) + rng.random() / 100]) for _ in range(60))
    for days in asked:
        now_us = T + round(days * US_PER_DAY)
        if first_us and now_us - first_us >= 7 * US_PER_DAY:
            break
        rate = rates[-1][1]
        now = situation(glucose_mgdl=240.0, basal_uph=rate, basal_week_uph=usual_uph(rates, now_us))
        answer = advise(HIGH, 0.0, policy, now, "basal")
        assert answer.refused is None
        if answer.basal_uph is None:
            continue
        assert answer.basal_uph <= usual * (1 + share) + 0.001  # rates are told to a thousandth
        first_us, raised = first_us or now_us, raised + (answer.basal_uph > rate)
        rates.append((now_us, answer.basal_uph))
    assert raised > 0
