"""The truth of bench.indication rests on lives that are lived twice: they must differ by the decision alone."""

from __future__ import annotations

import numpy as np

from bench.indication import START_US, _Decided, _snapshot
from firmware_sim.person import VirtualPerson
from firmware_sim.person_cgm import AVERAGE_NOISE


def test_a_second_life_is_the_same_until_a_decision_differs() -> None:
    playback = VirtualPerson(3001, sensor=AVERAGE_NOISE, variability=0.3).play(START_US)
    playback.live(14 * 60)
    same, forced = _snapshot(playback), _snapshot(playback)
    at = playback._minute
    forced._choice = _Decided(forced._choice, forced, at, 1.0)  # type: ignore[assignment]
    events, again = playback.live(240), same.live(240)
    assert events == again
    assert np.array_equal(
        playback.truth().interstitial_mgdl[at:], np.array(same._kept.interstitial), equal_nan=True
    )
    assert len(same._kept.interstitial) == 240  # the course so far is not carried along
    forced.live(5)
    assert forced._kept.interstitial == same._kept.interstitial[:5]


def test_a_decision_changes_its_own_minute_and_no_other_draw() -> None:
    class Life:
        _minute = 0

    plain, decided = np.random.default_rng(1), np.random.default_rng(1)
    life = Life()
    choice = _Decided(decided, life, 5, 1.0)  # type: ignore[arg-type]
    for life._minute in (0, 5, 10):
        expected = plain.random(3)
        got = choice.random(3)
        assert np.array_equal(got[:2], expected[:2])
        assert got[2] == (1.0 if life._minute == 5 else expected[2])
