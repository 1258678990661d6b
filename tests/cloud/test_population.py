"""The prior: published values first, moved by other hubs' information, never by one's own or by nonsense."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from cloud.population import (
    LIFETIME_US,
    NAMES,
    PUBLISHED_SD,
    Information,
    fit,
    prior_for,
    published,
    read_contribution,
    stratum_of,
    worth_sending,
)
from core.errors import DecodeError
from core.messages import Prior, decode, encode
from tests.cloud.filled import NOW_US, contribution

N = len(NAMES)
ADULT = "type-1 adult"


def sd_of(prior: Prior, i: int) -> float:
    return math.sqrt(prior.covariance[i * (i + 1) // 2 + i])


def test_names_and_spreads_agree_with_the_model_that_uses_them() -> None:
    model = pytest.importorskip("core.models.hovorka")
    assert model.NAMES[: model.N_THETA] == NAMES
    assert model.PRIOR_SD == PUBLISHED_SD


def test_without_hubs_the_prior_is_the_published_one() -> None:
    prior, refused = prior_for("hub-1", ADULT, {}, NOW_US, 1)
    assert refused == 0
    assert prior.mean == (0.0,) * N
    assert [sd_of(prior, i) for i in range(N)] == pytest.approx(PUBLISHED_SD)
    assert "Wilinska" in prior.provenance
    assert prior.expires_us == NOW_US + LIFETIME_US
    assert decode(encode(prior), Prior) == prior


def test_a_hubs_own_contribution_never_comes_back_to_it() -> None:
    only_own, _ = prior_for("hub-1", ADULT, {"hub-1": contribution(0.5)}, NOW_US, 1)
    assert only_own.mean == (0.0,) * N
    other, _ = prior_for("hub-2", ADULT, {"hub-1": contribution(0.5)}, NOW_US, 1)
    assert all(m > 0 for m in other.mean)


def test_many_hubs_move_the_mean_to_theirs_and_few_hardly() -> None:
    one, _ = prior_for("x", ADULT, {"a": contribution(0.3)}, NOW_US, 1)
    many, _ = prior_for("x", ADULT, {f"h{i}": contribution(0.3) for i in range(60)}, NOW_US, 1)
    assert 0.0 < one.mean[0] < 0.1
    assert 0.25 < many.mean[0] < 0.3


def test_em_recovers_a_known_population() -> None:
    rng = np.random.default_rng(7)
    truth_mean, truth_sd = np.array([0.4, -0.1, 0.2, 0.1, -0.2]), np.array([0.5, 0.1, 0.2, 0.15, 0.15])
    hubs = []
    for _ in range(400):
        theta = truth_mean + truth_sd * rng.standard_normal(N)
        precision = np.diag(1 / (0.3 * truth_sd) ** 2)
        seen = theta + 0.3 * truth_sd * rng.standard_normal(N)
        hubs.append(Information(precision, precision @ seen))
    found = fit(hubs, published(ADULT))
    assert found.mean == pytest.approx(truth_mean, abs=0.06)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(truth_sd, rel=0.2)


def test_no_information_changes_no_mean() -> None:
    silent = Information(np.zeros((N, N)), np.zeros(N))
    found = fit([silent] * 50, published(ADULT))
    assert found.mean == pytest.approx(np.zeros(N), abs=1e-6)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(PUBLISHED_SD, rel=1e-3)


def test_one_hub_far_from_all_others_counts_less_than_its_share() -> None:
    usual = {f"h{i}": contribution(0.0) for i in range(9)}
    near, _ = prior_for("x", ADULT, {**usual, "odd": contribution(0.5, 400.0)}, NOW_US, 1)
    far, _ = prior_for("x", ADULT, {**usual, "odd": contribution(5.0, 400.0)}, NOW_US, 1)
    assert far.mean[4] < 10 * near.mean[4]
    assert far.mean[4] < 0.2


@pytest.mark.parametrize(
    "changes",
    [
        {"names": NAMES[::-1]},
        {"model": "pbpk/1"},
        {"delta_precision": (1.0,)},
        {"delta_precision": (math.nan,) * 15},
        {"delta_precision": (-1.0,) + (0.0,) * 14},
        {"delta_precision": (1e9,) + (0.0,) * 14},
        {"delta_information": (math.inf,) * 5},
        {"delta_information": ()},
    ],
)
def test_an_impossible_contribution_is_refused_and_the_others_still_count(changes) -> None:
    bad = msgspec.structs.replace(contribution(0.3), **changes)
    with pytest.raises(DecodeError):
        read_contribution(bad)
    prior, refused = prior_for("x", ADULT, {"bad": bad, "good": contribution(0.3)}, NOW_US, 1)
    clean, _ = prior_for("x", ADULT, {"good": contribution(0.3)}, NOW_US, 1)
    assert refused == 1
    assert prior.mean == clean.mean


def test_other_ages_know_less_than_adults() -> None:
    assert stratum_of(None) == stratum_of(40) == ADULT
    child, _ = prior_for("x", stratum_of(9), {}, NOW_US, 1)
    assert sd_of(child, 0) > PUBLISHED_SD[0]


def test_a_prior_is_sent_again_only_when_it_says_something_new_or_grows_old() -> None:
    old, _ = prior_for("x", ADULT, {}, NOW_US, 1)
    assert worth_sending(old, None, NOW_US)
    same, _ = prior_for("x", ADULT, {}, NOW_US + 1, 2)
    assert not worth_sending(same, old, NOW_US)
    moved, _ = prior_for("x", ADULT, {f"h{i}": contribution(0.4) for i in range(10)}, NOW_US, 2)
    assert worth_sending(moved, old, NOW_US)
    assert worth_sending(same, old, NOW_US + int(0.8 * LIFETIME_US))
