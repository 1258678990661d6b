"""The truth of bench.indication rests on lives that are lived twice: they must differ by the decision alone."""

from __future__ import annotations

import numpy as np

from bench.indication import START_US, _Decided, _snapshot, ask_twin
from bench.truth import samples_of
from core.causal.on_twin import OnTwin
from core.twin import Twin
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


def test_corrections_of_a_whole_span_are_taken_back() -> None:
    class Life:
        _minute = 0

    life = Life()
    choice = _Decided(np.random.default_rng(1), life, 5, 1.0, 10)  # type: ignore[arg-type]
    taken = []
    for life._minute in (0, 5, 10, 14, 15):
        taken.append(choice.random(3)[2] == 1.0)
    assert taken == [False, True, True, True, False]


def test_the_twin_is_asked_before_it_has_seen_the_dose_or_anything_later() -> None:
    class Asked(OnTwin):
        def add(self, twin: Twin, time_us: int, bolus_u: float, above_mgdl: float = 0.0) -> None:
            entries = twin.record.entries
            asked.append((time_us, bolus_u, above_mgdl))
            assert entries[-1].time_us == time_us
            assert "cgm_mgdl" in {e.kind for e in entries if e.time_us == time_us}
            assert "bolus_u" not in {e.kind for e in entries if e.time_us == time_us}
            before = [d for d in doses if d[0] < time_us]
            assert [(e.time_us, e.value) for e in entries if e.kind == "bolus_u"] == before

    asked: list[tuple[int, float, float]] = []
    person = VirtualPerson(3001, sensor=AVERAGE_NOISE, unannounced=0.35, variability=0.3)
    events = person.events(START_US, 6.0)
    doses = [(t, v) for t, kind, v in events if kind == "bolus_u"]
    seen = {t for t, kind, _ in events if kind == "cgm_mgdl"}
    picked = [d for d in doses if d[0] in seen][:3]
    assert len(picked) >= 2
    ask_twin(Asked(120), person, samples_of(events), picked)
    assert asked == [(t, v, person.habits.correction_mgdl) for t, v in picked]
