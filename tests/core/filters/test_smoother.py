"""The smoother against the joint distribution of all states, written out."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import InputError
from core.filters.smoother import Tape, pseudo_inverse
from core.twin import Patient, Twin
from tests.core.people import MIN_US, START_US, live
from tests.oracles.smoother import joint_posterior


def test_smoothed_moments_are_those_of_the_joint_distribution() -> None:
    rng = np.random.default_rng(3)
    n, steps = 3, 8
    flow = 0.8 * np.eye(n) + 0.2 * rng.standard_normal((n, n))
    noise = np.diag([0.3, 0.0, 0.1])  # a direction without noise of its own
    row = np.array([1.0, 0.0, 0.5])
    variance = 0.4
    readings = rng.standard_normal(steps)
    mean, cov = np.zeros(n), np.diag([1.0, 2.0, 0.0])  # and one without any variance at the start
    start = mean.copy(), cov.copy()
    tape = Tape()
    for k in range(steps):
        gain = cov @ row / (row @ cov @ row + variance)
        mean = mean + gain * (readings[k] - row @ mean)
        cov = cov - np.outer(gain, row @ cov)
        if k < steps - 1:
            root = np.linalg.cholesky(cov + 1e-15 * np.eye(n)).T
            done = tape.note(k, mean, root, cov @ flow.T)
            mean, cov = flow @ mean, flow @ cov @ flow.T + noise
            done(mean, np.linalg.cholesky(cov + 1e-15 * np.eye(n)).T)
    points = tape.smooth(steps - 1, mean, cov)
    means, covs = joint_posterior(*start, flow, noise, row, variance, readings)
    assert [p.time_us for p in points] == list(range(steps))
    np.testing.assert_allclose([p.mean for p in points], means, atol=1e-7)
    np.testing.assert_allclose([p.cov for p in points], covs, atol=1e-7)


def test_direction_without_variance_is_left_out_of_the_inverse() -> None:
    cov = np.diag([4.0, 0.0])
    np.testing.assert_allclose(pseudo_inverse(cov), np.diag([0.25, 0.0]))


def test_past_glucose_is_known_better_with_what_came_later() -> None:
    life = live(4.0, seed=8)
    twin = Twin(Patient(weight_kg=75.0, timezone="UTC"))
    twin.observe(life.samples)
    start, end = START_US + 2 * 1440 * MIN_US, START_US + 4 * 1440 * MIN_US
    found = twin.smooth(start, end)
    assert found.times_us[0] == start
    assert found.times_us[-1] == end
    assert np.isfinite(found.mean).all()
    assert np.isfinite(found.sd).all()
    q1 = found.names.index("q1")
    errors: dict[str, list[float]] = {"smoothed": [], "filtered": []}
    narrower = []
    for step in range(2 * 288 + 6, 4 * 288 - 24, 6):
        at = START_US + 5 * step * MIN_US
        row = int(np.searchsorted(found.times_us, at, side="right")) - 1
        estimate = twin.estimate(at)
        truth = life.truth[step - 1]
        errors["smoothed"].append(found.mean[row, q1] / 0.16 * 18.0156 - truth)
        errors["filtered"].append(estimate.mean[q1] / 0.16 * 18.0156 - truth)
        narrower.append(found.sd[row, q1] ** 2 < estimate.covariance[q1 * (q1 + 1) // 2 + q1])
    rmse = {name: float(np.sqrt(np.mean(np.square(e)))) for name, e in errors.items()}
    assert rmse["smoothed"] < 0.9 * rmse["filtered"]
    assert np.mean(narrower) > 0.95


def test_smoothing_changes_nothing_and_refuses_spans_it_cannot_cover() -> None:
    life = live(1.0, seed=8)
    asked, silent = Twin(Patient(weight_kg=75.0)), Twin(Patient(weight_kg=75.0))
    end = life.samples[-1].time_us
    for twin in (asked, silent):
        twin.observe(life.samples)
        twin.estimate(end)
    asked.smooth(end - 300 * MIN_US, end)
    assert asked.estimate(end) == silent.estimate(end)
    for start in (end, end + MIN_US, START_US - 3 * 1440 * MIN_US, end - 20 * 1440 * MIN_US):
        with pytest.raises(InputError):
            asked.smooth(start, end)
