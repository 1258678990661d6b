"""What learning tells the filter: exactly its effect, and part of history like any event."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.errors import InputError
from core.guidance import Guidance, packed, unpacked
from core.messages import Sample
from core.models import hovorka as model
from core.twin import Patient, Twin
from tests.core.people import DAY_US, START_US, live

K = model.N_THETA
AT_US = START_US + DAY_US + DAY_US // 2
END_US = START_US + 2 * DAY_US
PULL = Guidance(AT_US, "pull", (0.4, 0.0, 0.1, 0.0, 0.0), packed(np.diag(np.full(K, 0.04))))
MOVE = Guidance(AT_US, "move", (-0.5, 0.0, 0.1, 0.05, 0.0), packed(np.diag(np.full(K, 0.01))))


def twin_with(*guidance: Guidance, days: float = 2.0) -> Twin:
    twin = Twin(Patient(weight_kg=75.0))
    twin.guide(*guidance)
    twin.observe(s for s in live(2.0, seed=3).samples if s.time_us <= START_US + days * DAY_US)
    return twin


def moments(twin: Twin, t: int) -> tuple[np.ndarray, np.ndarray]:
    estimate = twin.estimate(t)
    return np.array(estimate.mean), unpacked(estimate.covariance)


def track_of(twin: Twin):  # type: ignore[no-untyped-def]
    twin.estimate(AT_US)
    return twin._track.copy()  # type: ignore[union-attr]


def test_a_pull_is_the_conditional_of_a_gaussian() -> None:
    """Elastic weight consolidation's quadratic penalty, by hand: P' = (P⁻¹ + HᵀR⁻¹H)⁻¹ and its mean."""
    track = track_of(twin_with(days=1.5))
    mean, cov = track.mean.copy(), track.factor.T @ track.factor
    track.guided(PULL)
    h = np.eye(K, model.N)
    gain = cov @ h.T @ np.linalg.inv(h @ cov @ h.T + unpacked(PULL.cov))
    expected = mean + gain @ (np.array(PULL.theta) - mean[:K])
    assert track.mean[:K] == pytest.approx(expected[:K], abs=1e-9)
    assert track.factor.T @ track.factor == pytest.approx(cov - gain @ h @ cov, abs=1e-8 * float(cov.max()))
    assert track.dynamics[:K, 0].tolist() == list(PULL.theta)


def test_an_opening_multiplies_the_variance_of_parameters_and_of_nothing_else() -> None:
    track = track_of(twin_with(days=1.5))
    mean, cov = track.mean.copy(), track.factor.T @ track.factor
    track.guided(Guidance(AT_US, "open", factor=4.0))
    after = track.factor.T @ track.factor
    assert track.mean.tolist() == mean.tolist()
    assert np.diag(after)[:K] == pytest.approx(4.0 * np.diag(cov)[:K])
    assert after[K:, K:] == pytest.approx(cov[K:, K:])


def test_a_move_puts_the_parameters_there_and_insulins_action_with_them() -> None:
    track = track_of(twin_with(days=1.5))
    mean = track.mean.copy()
    track.guided(MOVE)
    assert track.mean[:K].tolist() == list(MOVE.theta)
    cov = track.factor.T @ track.factor
    assert cov[:K, :K] == pytest.approx(unpacked(MOVE.cov), abs=1e-6)
    x = model.N_LINEAR
    ratio = math.exp(MOVE.theta[model.LN_S] - mean[model.LN_S])
    for action in (model.X1, model.X2, model.X3):
        assert track.mean[x + action] == pytest.approx(ratio * mean[x + action])
        correlation = cov[x + action, model.LN_S] / math.sqrt(cov[x + action, x + action] * cov[0, 0])
        assert correlation > 0.05
    assert track.mean[x + model.Q1] == mean[x + model.Q1]


def test_a_late_event_meets_the_same_guidance_again() -> None:
    samples = [s for s in live(2.0, seed=3).samples if s.time_us <= END_US]
    late = next(s for s in samples if s.kind == "cgm_mgdl" and s.time_us > AT_US - DAY_US // 4)
    whole = twin_with(PULL, MOVE)
    rewound = Twin(Patient(weight_kg=75.0))
    rewound.guide(PULL, MOVE)
    rewound.observe(s for s in samples if s is not late)
    rewound.estimate(END_US)
    rewound.observe([late])
    assert rewound.estimate(END_US) == whole.estimate(END_US)


def test_guidance_given_afterwards_is_as_if_it_had_been_known() -> None:
    known, told = twin_with(PULL), twin_with()
    told.estimate(END_US)
    told.guide(PULL)
    assert told.estimate(END_US) == known.estimate(END_US)
    assert told.estimate(END_US) != twin_with().estimate(END_US)


def test_a_restored_twin_goes_on_guided() -> None:
    twin = twin_with(PULL, days=1.8)
    twin.estimate(START_US + round(1.8 * DAY_US))
    twin.changing = "a change of context is in progress: x"
    restored = Twin.restore(twin.snapshot())
    assert restored.changing == twin.changing
    rest = [s for s in live(2.0, seed=3).samples if s.time_us > START_US + 1.8 * DAY_US]
    for each in (twin, restored):
        each.observe(rest)
    assert restored.estimate(END_US) == twin.estimate(END_US)


def test_nothing_changes_without_guidance() -> None:
    mean, _ = moments(twin_with(), END_US)
    pulled, _ = moments(twin_with(PULL), END_US)
    assert pulled[model.LN_S] > mean[model.LN_S]


@pytest.mark.parametrize(
    "bad",
    [
        Guidance(AT_US, "explode"),
        Guidance(AT_US, "open", factor=math.nan),
        Guidance(AT_US, "open", factor=0.5),
        Guidance(AT_US, "pull", (0.0,) * 4, PULL.cov),
        Guidance(AT_US, "pull", (0.0,) * 5, PULL.cov[:-1]),
        Guidance(AT_US, "move", (0.0,) * 5, packed(-np.eye(5))),
    ],
)
def test_guidance_that_cannot_be_meant_is_refused_and_changes_nothing(bad: Guidance) -> None:
    twin = twin_with()
    with pytest.raises(InputError):
        twin.guide(bad)
    assert twin.estimate(END_US) == twin_with().estimate(END_US)


def test_innovations_asked_as_time_goes_on_are_those_of_one_look_back() -> None:
    hour_us = DAY_US // 24
    samples = [s for s in live(2.0, seed=3).samples if s.time_us <= AT_US + 2 * hour_us]
    late = Sample(AT_US - 2 * hour_us, "carbs_g", 70.0, "late", 1)
    asked = Twin(Patient(weight_kg=75.0))
    asked.observe(samples)
    end_us = AT_US - 4 * hour_us
    for _ in range(8):
        end_us += hour_us // 2
        step = asked.innovations(end_us - 6 * hour_us, end_us)
    told = [*samples]
    for change in ("nothing", "a late meal", "guidance"):
        if change == "a late meal":
            asked.observe([late])
            told.append(late)
        if change == "guidance":
            asked.guide(PULL)
        fresh = Twin(Patient(weight_kg=75.0))
        fresh.observe(told)
        if change == "guidance":
            fresh.guide(PULL)
        for back_us in (0, 3 * hour_us):  # ahead, and back again
            until_us = AT_US + hour_us - back_us
            again = asked.innovations(until_us - 6 * hour_us, until_us)
            assert again == fresh.innovations(until_us - 6 * hour_us, until_us), change
            assert len(again) > 60
    assert step
    assert step != again
