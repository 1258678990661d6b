"""What leaves the hub is one clipped point with noise whose size the accounting demands, and nothing else."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from core import privacy
from core.errors import InputError
from core.messages import Contribution

SD = np.array([0.7, 0.25])


def contribution(power: float, theta: tuple[float, float]) -> Contribution:
    return Contribution(
        5, "m/1", 2, ("a", "b"), (power, 0.0, power), (power * theta[0], power * theta[1]), "illness"
    )


def test_the_noise_is_just_enough_by_the_mechanism_itself() -> None:
    # Oracle: the privacy loss of N(0, σ²) against N(Δ, σ²), integrated numerically: δ = E[(1 − e^(ε − L))⁺].
    for epsilon, delta in ((0.5, 1e-5), (1.0, 1e-6), (8.0, 1e-4)):
        sigma = privacy.noise_sd(epsilon, delta)
        ratio = 2 * privacy.CLIP_SD / sigma
        z = np.linspace(-12, 12, 400_001)
        loss = ratio**2 / 2 + ratio * z
        density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        spent = np.trapezoid(density * np.maximum(0.0, 1 - np.exp(epsilon - loss)), z)
        assert spent == pytest.approx(delta, rel=0.01)
        assert privacy.epsilon_of(sigma, delta, 1) == pytest.approx(epsilon, rel=1e-6)


def test_releases_share_the_budget() -> None:
    one, nine = privacy.noise_sd(1.0, 1e-6), privacy.noise_sd(1.0, 1e-6, releases=9)
    assert nine == pytest.approx(3 * one)
    assert privacy.epsilon_of(nine, 1e-6, 9) == pytest.approx(1.0, rel=1e-6)
    assert privacy.epsilon_of(one, 1e-6, 9) > 3.0


def test_only_the_clipped_point_depends_on_the_person() -> None:
    sure_and_far = contribution(1e5, (9.0, -9.0))
    vague = contribution(0.1, (0.1, 0.1))
    sent = [privacy.blur(c, SD, 1.0, 1e-6, np.random.default_rng(3)) for c in (sure_and_far, vague)]
    assert sent[0].delta_precision == sent[1].delta_precision  # how much is known of whom tells nothing
    power = np.array([sent[0].delta_precision[0], sent[0].delta_precision[2]])
    points = [np.array(c.delta_information) / power / SD for c in sent]
    assert (
        np.linalg.norm(points[0] - points[1]) <= 2 * privacy.CLIP_SD
    )  # same noise: only the clipped part differs
    assert sent[0].noise_sd == privacy.noise_sd(1.0, 1e-6)
    assert (sent[0].context, sent[0].prior_version, sent[0].names) == ("illness", 2, ("a", "b"))


def test_the_noise_has_the_size_that_is_told() -> None:
    given, rng = contribution(50.0, (0.2, 0.1)), np.random.default_rng(4)
    sent = [privacy.blur(given, SD, 4.0, 1e-5, rng) for _ in range(4000)]
    points = np.array([np.array(c.delta_information) for c in sent])
    power = np.array([sent[0].delta_precision[0], sent[0].delta_precision[2]])
    assert np.std(points / power / SD, axis=0) == pytest.approx(sent[0].noise_sd, rel=0.05)


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, 1e-6), (-1.0, 1e-6), (math.nan, 1e-6), (1.0, 0.0), (1.0, 0.5)]
)
def test_a_budget_that_means_nothing_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(InputError):
        privacy.noise_sd(epsilon, delta)


def test_a_contribution_of_another_size_is_refused() -> None:
    with pytest.raises(InputError):
        privacy.blur(
            msgspec.structs.replace(contribution(1.0, (0, 0)), delta_information=(1.0,)),
            SD,
            1.0,
            1e-6,
            np.random.default_rng(0),
        )
