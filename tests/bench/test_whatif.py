"""The what-if bench's own arithmetic: its rule, its peers, and who was left for the score."""

from __future__ import annotations

import numpy as np
import pytest

from bench.whatif import FACTORS, FIT_MIN, PROTOCOL, SEEDS, SEEN, Life, rms, rule, score_peers


def life(truth_shift: float = 0.0) -> Life:
    """Two flat days at 120 mg/dL, and a third with one bolus at its start."""
    flat = np.full(288, 120.0)
    return Life(
        *("adult#004", 11, 70.0, 1.0, 10.0, 40.0),
        ((FIT_MIN, "bolus_u", 2.0), (60, "bolus_u", 9.0)),
        tuple((5 * k, 120.0) for k in range(576)),
        {1.0: flat + truth_shift, **{f: flat - 80.0 * (f - 1.0) for f in FACTORS}},
    )


def test_the_rule_lowers_by_the_correction_factor_once_all_has_acted() -> None:
    course = rule(life(), 1.0)
    assert course[0] == pytest.approx(0.0, abs=0.5)
    assert course[-1] == pytest.approx(-80.0)
    assert np.all(np.diff(course) <= 1e-9)
    np.testing.assert_allclose(rule(life(), 0.7), 0.7 * course)


def test_peers_are_scored_against_the_truth_they_did_not_see() -> None:
    found = score_peers(life(truth_shift=10.0))
    assert found["flat mean"].rmse["day3"] == pytest.approx(10.0)
    assert found["mean of days 1–2 by clock"].rmse["day3"] == pytest.approx(10.0)
    change = -80.0 * (FACTORS[0] - 1.0) - 10.0
    assert found["flat mean"].rmse[f"change{FACTORS[0]}"] == pytest.approx(abs(change))
    assert rms(np.array([3.0, 4.0])) == pytest.approx(12.5**0.5)


def test_nobody_who_was_tuned_on_is_scored_at_the_same_seed() -> None:
    assert not set(PROTOCOL) & set(SEEN)
    assert not {1, 2, 11, 12, 13, *range(21, 24), *range(31, 36), *range(41, 46)} & set(
        SEEDS
    )  # tuned on, or seen before
