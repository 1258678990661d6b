"""The prior: published values first, moved by other hubs' information, never by one's own or by nonsense."""

from __future__ import annotations

import math

import msgspec
import pytest

from cloud.population import (
    LIFETIME_US,
    NAMES,
    PUBLISHED_SD,
    Fitted,
    prior_for,
    read_contribution,
    refit,
    stratum_of,
    worth_sending,
)
from core.correction_pool import read
from core.correction_prior import POPULATION
from core.errors import DecodeError
from core.messages import Prior, decode, encode
from tests.cloud.filled import NOW_US, contribution, moved

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
    other, _ = prior_for("hub-2", ADULT, {"hub-1": contribution(0.5, 300.0)}, NOW_US, 1)
    assert all(m > 0 for m in other.mean)


def test_many_hubs_move_the_mean_to_theirs_and_few_hardly() -> None:
    one, _ = prior_for("x", ADULT, {"a": contribution(0.3)}, NOW_US, 1)
    many, _ = prior_for("x", ADULT, {f"h{i}": contribution(0.3) for i in range(60)}, NOW_US, 1)
    assert 0.0 < one.mean[0] < 0.11  # of .3: one of six, the published mean being worth four
    assert 0.25 < many.mean[0] < 0.3


def test_no_information_changes_no_mean() -> None:
    silent = {f"h{i}": contribution(0.3, information=0.0) for i in range(50)}
    prior, refused = prior_for("x", ADULT, silent, NOW_US, 1)
    assert refused == 0
    assert prior.mean == pytest.approx((0.0,) * N, abs=1e-6)
    assert [sd_of(prior, i) for i in range(N)] == pytest.approx(PUBLISHED_SD, rel=1e-3)


def test_the_stored_fit_gives_each_hub_the_prior_of_all_others() -> None:
    given = {f"h{i}": contribution(0.1 * i, 300.0) for i in range(8)}
    strata = {**dict.fromkeys(given, ADULT), "silent": ADULT}
    stored = refit(given, strata, NOW_US)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=Fitted) == stored
    for hub in given:
        quick, _ = prior_for(hub, ADULT, stored, NOW_US, 1)
        exact, _ = prior_for(hub, ADULT, given, NOW_US, 1)
        assert quick.mean == pytest.approx(exact.mean, abs=0.03)
        assert [sd_of(quick, i) for i in range(N)] == pytest.approx(
            [sd_of(exact, i) for i in range(N)],
            rel=0.12,  # to first order: they lie up to 14 published SDs apart
        )
        assert "7 other hubs" in quick.provenance
    silent, _ = prior_for("silent", ADULT, stored, NOW_US, 1)
    assert "8 other hubs" in silent.provenance
    assert "fit 1 of 8 people in 1 strata" in silent.provenance
    alone, _ = prior_for("h3", ADULT, refit({"h3": given["h3"]}, {"h3": ADULT}, NOW_US), NOW_US, 1)
    assert alone.mean == pytest.approx((0.0,) * N, abs=1e-9)


def test_a_stratum_learns_from_its_own_and_a_new_one_from_all() -> None:
    child = stratum_of(9, 30.0, "F", "pump")
    assert child == "type-1 under 18, under 60 kg, female, pump"
    given = {f"c{i}": contribution(0.6, 400.0) for i in range(30)}
    given |= {f"a{i}": contribution(0.0, 400.0) for i in range(30)}
    strata = {hub: child if hub[0] == "c" else ADULT for hub in given}
    strata |= {"new-c": child, "new-a": ADULT, "new-o": stratum_of(70.0)}
    stored = refit(given, strata, NOW_US)
    c, a, o = (prior_for(hub, ADULT, stored, NOW_US, 1)[0] for hub in ("new-c", "new-a", "new-o"))
    assert c.stratum == child
    assert c.mean[0] > 0.45
    assert abs(a.mean[0]) < 0.1
    assert a.mean[0] < o.mean[0] < c.mean[0]
    assert sd_of(o, 0) > sd_of(a, 0)  # nobody of that age yet: what is known of others counts less


def test_directions_of_little_information_are_not_believed() -> None:
    # Less than half of the prior's information in each direction, but a mean far away: see MIN_SHARE.
    lower = [0.0] * 15
    for i, sd in enumerate(PUBLISHED_SD):
        lower[i * (i + 1) // 2 + i] = 0.4 / sd**2
    odd = msgspec.structs.replace(
        contribution(0.0),
        delta_precision=tuple(lower),
        delta_information=tuple(2.0 / sd for sd in PUBLISHED_SD),
    )
    prior, refused = prior_for("x", ADULT, {f"h{i}": odd for i in range(30)}, NOW_US, 1)
    assert refused == 0
    assert prior.mean == pytest.approx((0.0,) * N, abs=1e-9)


def test_one_hub_far_from_all_others_counts_less_than_its_share() -> None:
    usual = {f"h{i}": contribution(0.0) for i in range(9)}
    near, _ = prior_for("x", ADULT, {**usual, "odd": contribution(0.3, 400.0)}, NOW_US, 1)
    far, _ = prior_for("x", ADULT, {**usual, "odd": contribution(2.5, 400.0)}, NOW_US, 1)
    assert far.mean[4] < 8 * near.mean[4] / 2
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
        {"delta_information": (5e4,) * 5},  # a person 20 times as sensitive as any
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


def test_a_correction_begins_where_peoples_corrections_end() -> None:
    given = {f"h{i}": moved(float(i)) for i in range(10)}
    of_others = {"strange": b"\x00" * len(moved(0.0)), "broken": b"short"}
    fitted = refit({}, {}, NOW_US, corrections={**given, **of_others})
    assert fitted.corrected == tuple(given)
    new, _ = prior_for("new", ADULT, fitted, NOW_US, 2)
    begun = read(new.correction, POPULATION)
    assert begun is not None
    assert begun.weights == pytest.approx(
        4.5 * 10 / 11
    )  # the middle half, as with one more who moved nothing
    assert "10 hubs" in new.provenance
    known, _ = prior_for("h3", ADULT, fitted, NOW_US, 2)
    assert known.correction == new.correction  # after a new start of its twin it begins there too
    assert decode(encode(new), Prior) == new
    before, _ = prior_for("new", ADULT, refit({}, {}, NOW_US), NOW_US, 1)
    assert worth_sending(new, before, NOW_US)
    assert not worth_sending(msgspec.structs.replace(new, version=3), new, NOW_US)
    of_before = msgspec.structs.replace(new, correction=b"anotherm" + new.correction[8:])
    assert worth_sending(new, of_before, NOW_US)


def test_fewer_than_ten_corrections_are_no_population() -> None:
    fitted = refit({}, {}, NOW_US, corrections={f"h{i}": moved(9.0) for i in range(9)})
    assert (fitted.correction, fitted.corrected) == (b"", ())
