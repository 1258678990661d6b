"""The second opinion: agrees within bounds or says no; ratios from the record when none are prescribed."""

from __future__ import annotations

import math

import msgspec
import pytest

from core.advice_types import Advice, Policy
from core.challenger import daily_insulin, disagreement, strangeness
from core.messages import Sample
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN

NOW = 1_767_225_600_000_000
POLICY = Policy(carb_ratio_g_per_u=10.0, correction_mgdl_per_u=40.0)
CGM = Sample(NOW, "cgm_mgdl", 130.0, "cgm", 1)
BASE = Advice(5.0, 0.0, 0.0, 300.0, 1000, None, (), (), carbs_g=60.0)


def with_dose(dose_u: float) -> Advice:
    return msgspec.structs.replace(BASE, dose_u=dose_u)


def test_agrees_near_the_calculator_and_refuses_far_from_it() -> None:
    # 60 g / 10 + 20 / 40 = 6.5 U
    for dose_u, agrees in ((6.5, True), (8.9, False), (6.0, True), (3.0, True), (2.0, False)):
        assert (disagreement(with_dose(dose_u), [CGM], POLICY, NOW, NOW) is None) is agrees, dose_u


def test_insulin_on_board_may_speak_against_a_dose() -> None:
    recent = Sample(NOW - 20 * US_PER_MIN, "bolus_u", 6.0, "pump", 1)
    assert "below 70" in (disagreement(with_dose(6.0), [recent, CGM], POLICY, NOW, NOW) or "")


def test_a_refusal_or_no_dose_needs_no_second_opinion() -> None:
    assert disagreement(with_dose(0.0), [], POLICY, NOW, NOW) is None


def test_without_ratios_the_daily_insulin_speaks_and_without_that_nobody() -> None:
    bare = Policy()
    assert "no second opinion" in (disagreement(with_dose(5.0), [CGM], bare, NOW, NOW) or "")
    record = [
        *(Sample(NOW - 2 * US_PER_DAY + h * US_PER_H, "basal_uph", 1.0, "pump", h) for h in range(48)),
        *(
            Sample(NOW - 2 * US_PER_DAY + h * US_PER_H, "bolus_u", 5.0, "pump", h)
            for h in (8, 13, 19, 32, 37)
        ),
        CGM,
    ]
    record.sort(key=lambda s: s.time_us)
    assert daily_insulin(record, NOW) == pytest.approx(24 + 12.5, rel=0.01)
    # 500 / 36.5 = 13.7 g per U: 60 g need 4.4 U
    assert disagreement(with_dose(4.4), record, bare, NOW, NOW) is None
    assert disagreement(with_dose(9.0), record, bare, NOW, NOW) is not None


def test_parameters_beyond_the_population_are_named() -> None:
    assert strangeness([("ln_s", 2.0), ("ln_tg", -2.9)]) is None
    assert "ln_s" in (strangeness([("ln_s", 3.2), ("ln_tg", 0.0)]) or "")
    assert "ln_s" in (strangeness([("ln_s", math.nan)]) or "")
