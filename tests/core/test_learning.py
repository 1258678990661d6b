"""The night's work, the replay memory and contexts, on people whose parameters are known."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from core import contexts, learning, replay
from core.consolidate import (
    CONTEXT_SD,
    N_CONSTANTS,
    N_NAMES,
    fresh_anchor,
    merged,
    mixed,
    posterior,
    shift_seen,
    split,
)
from core.errors import DecodeError
from core.guidance import packed, unpacked
from core.memory import NAMES, USUAL, Context, Day, Memory, NightInfo, from_bytes, to_bytes
from core.models import hovorka as model
from core.patient import Therapy
from core.twin import Patient, Twin
from tests.core.people import DAY_US, START_US, live

S = N_CONSTANTS + model.LN_S
CONSTS = model.make_consts(bw=75.0)
BASE = fresh_anchor(np.zeros(N_NAMES), np.full(N_NAMES, 0.5), "a test")


def info(value: float, sd: float = 0.2, day: int = 0) -> NightInfo:
    """A night that says: ln s is ``value`` ± ``sd``, and nothing else."""
    precision, vector = np.zeros((N_NAMES, N_NAMES)), np.zeros(N_NAMES)
    precision[S, S] = sd**-2
    vector[S] = value * sd**-2
    return NightInfo(day * DAY_US, (day + 1) * DAY_US, packed(precision), tuple(vector.tolist()))


def test_the_anchor_is_online_ewc_by_hand() -> None:
    anchor = BASE
    for day, value in enumerate((0.1, 0.3, -0.1, 0.2, 0.4)):
        anchor = merged(anchor, info(value, 0.2, day), gamma=0.9)
    weights = 0.9 ** np.arange(4, -1, -1.0) / 0.2**2
    values = np.array([0.1, 0.3, -0.1, 0.2, 0.4])
    precision = weights.sum() + 0.5**-2
    found = posterior(anchor, Therapy(), CONSTS, gamma=0.9)
    assert found.mean[S] == pytest.approx((weights @ values) / precision)
    assert found.cov[S, S] == pytest.approx(1.0 / precision)
    assert found.data_share[S] == pytest.approx(1.0 - 0.5**-2 / precision)
    assert found.data_share[0] == pytest.approx(0.0, abs=1e-12)  # of what no night spoke, all is prior


def test_what_nights_lean_is_shown_as_error_and_moves_nothing() -> None:
    plain, leaning = BASE, BASE
    g = np.zeros(N_NAMES)
    g[S] = (
        0.1 / 0.2**2
    )  # each night's centre lies .1 below what it would be with the disturbance integrated out
    for day in range(6):
        night = info(0.2, 0.2, day)
        plain = merged(plain, night)
        leaning = merged(leaning, msgspec.structs.replace(night, lean=tuple(g.tolist())))
    without, found = (posterior(a, Therapy(), CONSTS) for a in (plain, leaning))
    assert found.mean == pytest.approx(without.mean)
    for ours, theirs in zip(found.theta(), without.theta(), strict=True):  # what the filter is told
        assert ours == pytest.approx(theirs)
    weights = 0.95 ** np.arange(5, -1, -1.0) / 0.2**2
    off = (
        0.1 * weights.sum() / (weights.sum() + 0.5**-2)
    )  # of one sign each night: more nights do not average it out
    assert found.lean[S] == pytest.approx(off)
    assert found.sd()[S] == pytest.approx(math.hypot(off, math.sqrt(without.cov[S, S])))
    assert found.data_share[S] == pytest.approx(1.0 - found.sd()[S] ** 2 / 0.5**2)
    assert without.sd() == pytest.approx(np.sqrt(np.diag(without.cov)))


def test_memory_from_before_nights_told_their_lean_is_read() -> None:
    anchor = merged(merged(BASE, info(0.1)), info(0.2, day=1))
    known = Memory().with_anchor(USUAL, anchor)
    old = msgspec.msgpack.decode(to_bytes(known))
    kept = old["anchors"][0][1]
    assert kept.pop("lean") is not None
    kept["recent"] = [night[:4] for night in kept["recent"]]
    before = from_bytes(msgspec.msgpack.encode(old)).anchor(USUAL)
    assert before is not None
    assert before.lean == ()
    assert posterior(before, Therapy(), CONSTS).mean == pytest.approx(
        posterior(anchor, Therapy(), CONSTS).mean
    )
    kept["lean"] = [0.0]
    with pytest.raises(DecodeError):
        from_bytes(msgspec.msgpack.encode(old))


def test_therapy_facts_are_counted_once_however_many_nights_there_are() -> None:
    told = Therapy(correction_mgdl_per_u=30.0, carb_ratio_g_per_u=9.0)
    few, many = merged(BASE, info(0.0)), BASE
    for day in range(9):
        many = merged(many, info(0.0, 1e3, day))
    alone = posterior(BASE, told, CONSTS)
    assert posterior(many, told, CONSTS).cov == pytest.approx(alone.cov, rel=1e-3)
    assert (
        posterior(few, told, CONSTS).cov[S, S]
        < alone.cov[S, S]
        < posterior(BASE, Therapy(), CONSTS).cov[S, S]
    )


def test_nights_after_an_onset_leave_the_usual_anchor() -> None:
    anchor = BASE
    for day in range(5):
        anchor = merged(anchor, info(0.1 * day, 0.2, day))
    kept, later = split(anchor, 4 * DAY_US)
    assert [night.from_us // DAY_US for night in later] == [4]
    assert kept.nights + len(kept.recent) == 4


def test_a_nights_shift_is_least_squares_by_hand() -> None:
    """What is known: 0 ± .1; the night says −.4 ± .2; they differ by −.4 with the variances added."""
    sure = merged(BASE, info(0.0, 0.1))
    known = posterior(sure, Therapy(), CONSTS)
    shift, sd = shift_seen(info(-0.4, 0.2), known)
    assert shift == pytest.approx(-0.4 - known.mean[S], abs=1e-6)
    assert sd == pytest.approx(math.sqrt(0.2**2 + known.cov[S, S]))


def test_theta_is_conditional_on_the_filters_constants() -> None:
    precision = np.diag(np.full(N_NAMES, 4.0))
    precision[0, S] = precision[S, 0] = 3.0
    vector = np.zeros(N_NAMES)
    vector[0] = vector[S] = 1.0
    night = NightInfo(0, DAY_US, packed(precision), tuple(vector.tolist()))
    theta, cov = posterior(merged(BASE, night), Therapy(), CONSTS).theta()
    # With the constants at zero, what is left is the row of theta alone.
    assert theta[0] == pytest.approx(1.0 / (4.0 + 4.0))
    assert cov[0, 0] == pytest.approx(1.0 / 8.0)


@pytest.fixture(scope="module")
def lived() -> Twin:
    twin = Twin(Patient(weight_kg=75.0))
    twin.observe(live(3.0, seed=5, meal_error=0.1).samples)
    twin.estimate(START_US + 3 * DAY_US)
    return twin


def test_two_nights_find_the_persons_sensitivity_and_refuse_absurd_news(lived: Twin) -> None:
    """Truth: 1.6 times the model's default insulin action; the anchor's ln s, given the filter's constants."""
    memory, kept, number = Memory(), [], 0
    rng = np.random.default_rng(1)
    for day in (2, 3):
        found = learning.night(lived, memory, kept, START_US + day * DAY_US, rng)
        assert found.record.accepted, found.record.why
        memory = found.memory
        for episode in found.keep:
            number += 1
            kept.append((number, episode))
    anchor = memory.anchor()
    assert anchor is not None
    theta, cov = posterior(anchor, Therapy(), lived.consts()).theta()
    assert abs(theta[0] - math.log(1.6)) < 3.0 * math.sqrt(cov[0, 0])
    assert to_bytes(from_bytes(to_bytes(memory))) == to_bytes(memory)  # nan is unlike itself
    (guided,) = found.guidance
    assert (guided.kind, guided.time_us) == ("pull", START_US + 3 * DAY_US)
    # Rehearsal: a night that would have it four times as insensitive is refused, and the anchor stays.
    kept = [(n, msgspec.structs.replace(e, stratum="all")) for n, e in kept]
    absurd = info(theta[0] - 1.4, 0.02, 3)
    refused = learning.night(lived, memory, kept, START_US + 3 * DAY_US, rng, read=absurd)
    assert not refused.record.accepted
    assert "score would fall" in refused.record.why
    assert refused.memory.anchor() == anchor
    harmful = info(theta[0] - 0.7, 0.05, 3)  # half as sensitive, falsely sure: harm that a bad day could do
    assert (
        "score would fall"
        in learning.night(lived, memory, kept, START_US + 3 * DAY_US, rng, read=harmful).record.why
    )
    unprotected = learning.Protection(rehearsal=False)
    assert learning.night(
        lived, memory, kept, START_US + 3 * DAY_US, rng, unprotected, absurd
    ).record.accepted


def test_episodes_are_told_apart_and_survive_their_bytes(lived: Twin) -> None:
    track = lived.track_at(START_US + 3 * DAY_US)
    assert track is not None
    made = replay.episodes_of(
        lived, START_US + DAY_US, START_US + 3 * DAY_US, USUAL, np.random.default_rng(2)
    )
    assert len(made) == 8
    assert {e.stratum.split(",")[0] for e in made} == set(replay.BLOCKS)
    assert all(e.told > 0.0 for e in made)
    again = replay.from_bytes(replay.to_bytes(made[0]))
    assert again == made[0]
    theta, cov = np.array([0.4, 0.0, 0.0, 0.0, 0.0]), np.diag(np.full(5, 0.01))
    assert replay.score(track, again, theta, cov) == replay.score(track, made[0], theta, cov)
    with pytest.raises(DecodeError):
        replay.score(track, msgspec.structs.replace(again, body=again.body[:-9]), theta, cov)


def episode(stratum: str, level: int, told: float, size: int = 52, at: int = 0) -> replay.Episode:
    return replay.Episode(at, stratum, USUAL, level, told, bytes(size))


def test_the_budget_is_shared_by_strata_and_ties_go_by_information() -> None:
    kept = [(n, episode("usual", n % 4, 1.0 + n / 100, at=n)) for n in range(8)]
    kept.append((99, episode("rare", 0, 0.1, at=99)))
    new, drop = replay.choose(kept, [episode("usual", 0, 9.0, at=200)], budget_bytes=800)
    assert 99 not in drop  # the rare stratum keeps its only one, however little it tells
    assert drop == [0, 4]  # the lowest level leaves first; within it, who tells less
    assert [e.told for e in new] == [9.0]
    stays, gone = replay.choose(kept, [kept[3][1]])
    assert (stays, gone) == ([], [])  # known already


def test_an_update_is_refused_for_one_stratum_alone() -> None:
    fine = replay.Compared("morning, meal", 9, 0.4)
    assert replay.refused([fine, replay.Compared("night, rest", 2, -9.0)]) == ""  # too few to be heard
    assert "night, rest" in replay.refused([fine, replay.Compared("night, rest", 3, -0.6)])


def with_usual(twin: Twin, theta: np.ndarray) -> Memory:
    """A memory whose usual anchor is sure of ``theta``."""
    precision = np.diag([*(1e4,) * N_CONSTANTS, *(400.0,) * 5])
    vector = precision @ np.concatenate([np.zeros(N_CONSTANTS), theta])
    anchor = msgspec.structs.replace(
        BASE, precision=packed(precision), vector=tuple(vector.tolist()), nights=9
    )
    usual = Context(USUAL, "usual life", "the usual life", ("usual life",), START_US)
    return Memory().with_context(usual).with_anchor(USUAL, anchor)


def test_a_change_is_found_named_opened_and_left_again() -> None:
    """Insulin sensitivity falls to a half on the third day, and comes back on the sixth."""
    days, fall, back = 8, 3, 6
    samples = live(days, seed=7, meal_error=0.05, steps=((fall, 0.5), (back, 2.0))).samples
    twin = Twin(Patient(weight_kg=75.0))
    memory = with_usual(twin, np.array([math.log(1.6), 0.0, 0.0, 0.0, 0.0]))
    looks: list[tuple[float, int, str]] = []
    given = 0
    for quarter in range(4, 4 * days):
        now_us = START_US + quarter * DAY_US // 4
        upto = next((i for i, s in enumerate(samples) if s.time_us > now_us), len(samples))
        twin.observe(samples[given:upto])
        given = upto
        memory = learning.look(twin, memory, now_us)
        looks.append((quarter / 4, memory.current, twin.changing))
    found = next(look for look in looks if look[1] != USUAL)
    assert fall < found[0] <= fall + 2.0, looks
    assert "more insulin than usual" in found[2]
    context = memory.context(1)
    assert context is not None
    assert abs(context.from_us - (START_US + fall * DAY_US)) <= DAY_US
    assert len(context.candidates) > 1  # nothing else in the record tells which it is
    assert "cannot be told" in context.words
    ill = [number for at, number, _ in looks if fall + 1 < at <= back]
    well = [number for at, number, _ in looks if at > back + 1]
    assert np.mean(np.array(ill) != USUAL) >= 0.6, looks
    assert np.mean(np.array(well) == USUAL) >= 0.6, looks


def test_nights_find_a_change_and_the_way_back(lived: Twin) -> None:
    """Three usual nights more, then four of −.5, then usual ones: the anchor of usual life forgets nothing."""
    memory = with_usual(lived, np.zeros(5))
    now_us = START_US + 3 * DAY_US
    changes: list[tuple[int, int]] = []
    for night, value in enumerate((0.05, -0.1, 0.0, -0.5, -0.45, -0.55, -0.5, 0.0, 0.05)):
        said = msgspec.structs.replace(
            info(value, 0.15), from_us=now_us + (night - 1) * DAY_US, to_us=now_us + night * DAY_US
        )
        was = memory.current
        found = contexts.after_night(lived, memory, said, said.to_us)
        memory = found.memory
        anchor = memory.anchor()
        assert anchor is not None
        memory = memory.with_anchor(memory.current, merged(anchor, said))
        if memory.current != was:
            changes.append((night, memory.current))
            assert found.guidance[0].kind == "move"
    assert [number for _, number in changes] == [1, USUAL], changes
    assert 3 <= changes[0][0] <= 4  # at the first or second night of it
    assert 7 <= changes[1][0] <= 8
    usual = memory.anchor(USUAL)
    assert usual is not None
    assert abs(posterior(usual, Therapy(), CONSTS).mean[S]) < 0.05
    assert memory.look.drift_more < 1.0  # nothing is left over that could alarm again


def test_moments_of_a_mixture_are_those_of_its_draws() -> None:
    rng = np.random.default_rng(3)
    first = np.array([0.0, 1.0]), np.array([[0.04, 0.01], [0.01, 0.09]])
    second = np.array([-0.6, 1.2]), np.array([[0.02, 0.0], [0.0, 0.01]])
    other = rng.random(400_000) < 0.3
    draws = np.where(
        other[:, None],
        rng.multivariate_normal(*second, other.size),
        rng.multivariate_normal(*first, other.size),
    )
    mean, cov = mixed(first, second, 0.3)
    assert mean == pytest.approx(draws.mean(axis=0), abs=0.002)
    assert cov == pytest.approx(np.cov(draws.T), abs=0.002)
    for share, own in ((0.0, first), (1.0, second)):
        assert mixed(first, second, share)[0] == pytest.approx(own[0])
        assert mixed(first, second, share)[1] == pytest.approx(own[1])


@pytest.mark.parametrize("where", ["usual", "ill", "just ill"])
def test_out_of_the_usual_a_night_tells_that_it_may_be_over(lived: Twin, where: str) -> None:
    """Once a change has settled the filter hears of both anchors; in the usual life and just after a change of one."""
    now_us = START_US + 3 * DAY_US
    memory = with_usual(lived, np.zeros(5))
    said = msgspec.structs.replace(info(-0.5, 0.1), from_us=now_us - DAY_US, to_us=now_us)
    if where != "usual":
        ill = Context(1, "illness", "words", ("illness",), now_us - 4 * DAY_US)
        memory = memory.with_context(ill).with_anchor(1, merged(merged(BASE, said), said))
        found_us = now_us - DAY_US // (8 if where == "just ill" else 1)
        until_us = (
            found_us + contexts.SETTLE_US
        )  # in progress in both cases: the filter is told earlier than people
        look = msgspec.structs.replace(memory.look, open_until_us=until_us, opened_for="words")
        memory = msgspec.structs.replace(memory, current=1, look=look)
    alone = learning.Protection(rehearsal=False)
    found = learning.night(lived, memory, [], now_us, np.random.default_rng(1), alone, said)
    assert found.memory.current == memory.current
    (pull,) = found.guidance
    own = posterior(found.memory.anchor() or BASE, Therapy(), CONSTS).theta()
    sd = math.sqrt(unpacked(pull.cov)[0, 0])
    of_a_day = math.hypot(math.sqrt(own[1][0, 0]), 0.15)
    if where != "ill":
        assert pull.theta == pytest.approx(own[0])
        assert sd == pytest.approx(of_a_day)
        return
    usual = posterior(found.memory.anchor(USUAL) or BASE, Therapy(), CONSTS).theta()
    assert own[0][0] + 0.1 < pull.theta[0] < usual[0][0] - 0.1
    assert sd > math.hypot(of_a_day, 0.15)  # it is less sure than either
    # What is shown to people and kept is of the context alone.
    assert found.record.mean[S] == pytest.approx(
        posterior(found.memory.anchor() or BASE, Therapy(), CONSTS).mean[S]
    )


@pytest.mark.parametrize(("hours", "taken"), [(20, True), (12, False)])
def test_a_day_across_a_change_joins_no_anchor(lived: Twin, hours: int, taken: bool) -> None:
    now_us = START_US + 3 * DAY_US
    memory = with_usual(lived, np.zeros(5))
    looked = msgspec.structs.replace(memory.look, changed_us=now_us - hours * DAY_US // 24)
    memory = msgspec.structs.replace(memory, look=looked)
    said = msgspec.structs.replace(info(0.0), from_us=now_us - DAY_US, to_us=now_us)
    found = learning.night(lived, memory, [], now_us, np.random.default_rng(1), read=said)
    assert found.record.accepted == taken
    assert ("across a change" in found.record.why) != taken
    anchor = found.memory.anchor()
    assert anchor is not None
    assert len(anchor.recent) == int(taken)


def day(**changes: float) -> Day:
    usual = {"rest_bpm": 60.0, "active_min": 30.0, "carbs_g": 180.0, "meal_hour": 13.0, "bolus_u": 20.0}
    return Day(time_us=0, context=USUAL, **{**usual, **changes})


@pytest.mark.parametrize(
    ("shift", "days", "today", "name"),
    [
        (-0.5, 2.0, day(rest_bpm=68.0), "illness"),
        (-0.5, 9.0, day(), "resistance"),
        (0.3, 3.0, day(active_min=70.0), "exercise habit"),
        (0.3, 3.0, day(meal_hour=15.0, carbs_g=260.0), "holiday"),
    ],
)
def test_a_context_is_named_by_what_else_changed(shift: float, days: float, today: Day, name: str) -> None:
    now_us = START_US + 20 * DAY_US
    words, names = contexts.describe(
        Twin(Patient()), shift, now_us - round(days * DAY_US), now_us, [day()] * 5, today
    )
    assert names == (name,)
    assert ("more insulin" in words) == (shift < 0)


def test_a_context_that_cannot_be_told_says_so() -> None:
    words, names = contexts.describe(Twin(Patient()), -0.5, START_US, START_US + DAY_US, [], day())
    assert "cannot be told" in words
    assert len(names) >= 3
    assert "65 % more insulin" in words


def test_bytes_that_are_no_memory_raise_our_error_and_no_other() -> None:
    good = to_bytes(with_usual(Twin(Patient()), np.zeros(5)))
    for bad in (b"", b"\xff" * 9, good[:-4], to_bytes(Memory(version=99))):
        with pytest.raises(DecodeError):
            from_bytes(bad)
    small = msgspec.structs.replace(BASE, vector=(0.0,))
    with pytest.raises(DecodeError):
        from_bytes(to_bytes(Memory().with_anchor(USUAL, small)))


def test_every_constant_and_parameter_has_its_name() -> None:
    assert len(NAMES) == N_NAMES == len(CONTEXT_SD)
