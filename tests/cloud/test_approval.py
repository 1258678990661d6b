"""From proposal to outcome: edits within limits, what the person did, scores, standing policies."""

from __future__ import annotations

import re
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
from sqlalchemy import select

from cloud import audit, decisions, queries
from cloud.adviser import score_due
from cloud.db import AdviceRow, AuditRow, Database, HubRow, PolicyRow
from cloud.outcomes import SUSPEND_AFTER, Outcome, outcome, scorecard
from cloud.portal import advice_blocks
from core.errors import InputError, RefusedError
from core.messages import (
    Confirmation,
    DoseAdvice,
    HubStatus,
    OwnAdvice,
    Sample,
    StandingPolicy,
    decode,
    encode,
)
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge import hub_advice
from tests.cloud import filled
from tests.cloud.filled import HUB

NOW = filled.NOW_US
LADDER = ((0.0, 0.003, 0.003), (3.0, 0.01, 0.004), (4.2, 0.03, 0.008), (5.0, 0.06, 0.02))


def advice(**changes: object) -> DoseAdvice:
    base = filled.advice(for_time_us=NOW)
    band = tuple((30.0 * k, 90.0, 130.0, 180.0) for k in range(1, 11))
    base = msgspec.structs.replace(
        base, ladder=LADDER, max_dose_u=6.0, evidence="e" * 32, band=band, band_without=band
    )
    return msgspec.structs.replace(base, **changes)


@pytest.fixture
def db(tmp_path: Path) -> Database:
    db = filled.open_database(tmp_path)
    with db.write() as session:
        session.add(HubRow(hub_id=HUB, person="One", last_seen_us=NOW))
        session.flush()
        decisions.propose(session, HUB, advice(), NOW)
    return db


def decide(db: Database, **changes: object) -> DoseAdvice:
    given: dict[str, object] = {"approve": True, "who": "Dr. Grün", "note": "less today", "now_us": NOW}
    with db.write() as session:
        return decisions.decide(session, f"{HUB}-1", **(given | changes))


def lines(db: Database) -> list[tuple[str, str, str | None]]:
    with db.read() as session:
        assert audit.verify(session) > 0
        return [(r.who, r.what, r.evidence) for r in session.scalars(select(AuditRow).order_by(AuditRow.id))]


def test_a_clinician_may_give_another_dose_and_the_answer_says_so(db: Database) -> None:
    changed = decide(db, dose_u=2.5)
    assert (changed.dose_u, changed.adviser_u, changed.approved_by) == (2.5, 4.2, "Dr. Grün")
    assert changed.p_below_70 == 0.01  # of the next dose above that was simulated
    assert "changed" in changed.reasons[0]
    who, what, evidence = lines(db)[-1]
    assert (who, what) == ("Dr. Grün", f"approved with another dose advice {HUB}-1")
    assert evidence is not None
    assert "e" * 32 in evidence


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"dose_u": 7.0}, RefusedError, "at most 6 U"),
        ({"dose_u": 5.5}, RefusedError, "no dose as large"),
        ({"dose_u": 4.8}, RefusedError, "low is too likely"),
        ({"dose_u": -1.0}, InputError, "0 or more"),
        ({"dose_u": float("nan")}, InputError, "0 or more"),
        ({"dose_u": 2.0, "note": " "}, InputError, "needs a note"),
    ],
)
def test_no_clinician_edits_beyond_the_limits(
    db: Database, changes: dict[str, object], error: type, why: str
) -> None:
    with pytest.raises(error, match=why):
        decide(db, **changes)
    with db.read() as session:
        assert session.scalars(select(AdviceRow.state)).one() == "proposed"


@pytest.mark.parametrize("kind", ["bolus_u", "long_acting_u"])
def test_no_dose_is_approved_when_insulin_was_taken_after_its_data(db: Database, kind: str) -> None:
    taken_us = advice().data_time_us + US_PER_MIN
    with db.write() as session:
        filled.add_samples(session, [Sample(taken_us, kind, 3.0, "pump", 1)])
        filled.add_samples(session, [Sample(taken_us, "carbs_g", 30.0, "hand", 1)])
    assert closed(db) == "insulin was taken after the data this advice rests on"
    with pytest.raises(RefusedError, match="insulin was taken after the data"):
        decide(db)
    assert decide(db, approve=False).approved_by == ""
    with db.read() as session:
        assert session.scalars(select(AdviceRow.state)).one() == "rejected"


def closed(db: Database, now_us: int = NOW) -> str:
    """What the card says, and whether the overview still counts it."""
    with db.read() as session:
        why = queries.advice_cards(session, HUB)[0].closed(now_us)
        assert queries.people(session, now_us)[0].undecided == (0 if why else 1)
    return why


def test_a_snack_after_the_data_or_a_dose_before_it_keeps_nobody_from_approving(db: Database) -> None:
    data_us = advice().data_time_us
    with db.write() as session:
        filled.add_samples(session, [Sample(data_us, "bolus_u", 3.0, "pump", 1)])
        filled.add_samples(session, [Sample(data_us + US_PER_MIN, "carbs_g", 20.0, "hand", 1)])
    assert closed(db) == ""
    assert decide(db).approved_by == "Dr. Grün"
    assert closed_once_decided(db) == ""


def closed_once_decided(db: Database) -> str:
    with db.read() as session:
        return queries.advice_cards(session, HUB)[0].closed(NOW + US_PER_DAY)


def test_nobody_approves_a_meal_that_is_on_record_or_past(db: Database) -> None:
    assert closed(db) == ""
    assert closed(db, NOW + 1) == "the time of its meal has passed"
    with pytest.raises(RefusedError, match="time of its meal has passed: it cannot be approved any more"):
        decide(db, now_us=NOW + 1)
    data_us = advice().data_time_us
    with db.write() as session:
        eaten = [Sample(data_us + k * US_PER_MIN, "carbs_g", 15.0, "hand", k) for k in (1, 2)]
        filled.add_samples(session, eaten)  # half of the meal's 60 g, in two entries
    assert closed(db) == "food for it is on record already"
    with pytest.raises(RefusedError, match="food for it is on record already: it cannot be approved"):
        decide(db, dose_u=3.0)
    with db.write() as session:
        taken_back = Sample(data_us, "carbs_g", 0.0, "hand", 3, amends=("hand", 1), deleted=True)
        filled.add_samples(session, [taken_back])
    assert closed(db) == ""
    assert decide(db).approved_by == "Dr. Grün"


def test_a_refused_dose_cannot_be_edited_into_one() -> None:
    with pytest.raises(RefusedError, match="no dose was advised"):
        decisions.edited(advice(refused="falling", dose_u=0.0), 1.0)


def send(db: Database) -> None:
    decide(db)
    with db.write() as session:
        decisions.mark_sent(session, f"{HUB}-1", NOW + 2)


def test_what_the_person_did_is_kept_once_and_compared_with_what_came(db: Database) -> None:
    send(db)
    said = Confirmation(f"{HUB}-1", NOW + 5 * US_PER_MIN, 4.2)
    with db.write() as session:
        assert decisions.confirm(session, HUB, said, NOW + US_PER_H)
        assert not decisions.confirm(session, HUB, said, NOW + US_PER_H)
        assert not decisions.confirm(session, HUB, Confirmation("other", NOW, 1.0), NOW)
        values = [130.0] * 58 + [66.0, 100.0]
        cgm = [Sample(NOW + 5 * k * US_PER_MIN, "cgm_mgdl", v, "cgm", k) for k, v in enumerate(values, 1)]
        filled.add_samples(session, cgm)
    with db.write() as session:
        assert score_due(session, HUB, NOW + 5 * US_PER_H) == 0  # not over yet
        assert score_due(session, HUB, NOW + 6 * US_PER_H) == 1
        assert score_due(session, HUB, NOW + 6 * US_PER_H) == 0
    with db.read() as session:
        card = queries.advice_cards(session, HUB)[0]
        score = queries.scorecard(session, HUB)
    assert card.outcome is not None
    assert (card.took_u, card.outcome.lowest_mgdl, card.outcome.followed) == (4.2, 66.0, True)
    assert card.outcome.below_70
    assert card.outcome.in_band is not None
    assert 0.9 < card.outcome.in_band < 1.0
    assert score is not None
    assert (score.scored, score.followed, score.lows_70, score.lows_54) == (1, 1, 1, 0)
    assert not any("66" in what for _, what, _ in lines(db))


def test_what_the_hub_set_aside_is_on_the_card_and_in_no_score(db: Database) -> None:
    told = {f"{HUB}-1": "insulin_after", "unknown": "other_record"}
    with db.write() as session:
        assert decisions.set_aside(session, HUB, told, NOW) == 0  # a proposal, which the hub cannot have
    send(db)
    with db.write() as session:
        assert decisions.set_aside(session, "hub-2", told, NOW) == 0  # another hub's is not its own
        assert decisions.set_aside(session, HUB, {}, NOW) == 0
        assert decisions.set_aside(session, HUB, told, NOW) == 1
        assert decisions.set_aside(session, HUB, {f"{HUB}-1": "other_record"}, NOW) == 0  # said once
        cgm = [Sample(NOW + 5 * k * US_PER_MIN, "cgm_mgdl", 120.0, "cgm", k) for k in range(60)]
        filled.add_samples(session, cgm)
    with db.write() as session:
        assert score_due(session, HUB, NOW + 6 * US_PER_H) == 0
        card = queries.advice_cards(session, HUB)[0]
    title = advice_blocks.advice_title(card, NOW, ZoneInfo("UTC"))
    assert title.endswith("set aside by the hub: insulin came before it")
    assert "Set aside by the hub: insulin came before it" in advice_blocks.advice_block(
        card, NOW, ZoneInfo("UTC")
    )
    later = msgspec.structs.replace(card, set_aside="a word of a newer hub")
    assert "it must not be used" in advice_blocks.advice_block(later, NOW, ZoneInfo("UTC"))
    assert lines(db)[-1][:2] == (f"hub {HUB}", f"set aside advice {HUB}-1: insulin_after")


def test_every_reason_of_a_hub_is_told_in_words() -> None:
    source = Path(hub_advice.__file__).read_text()
    words = set(re.findall(r"\bVoid\(\s*\"(\w+)\"", source))
    assert len(words) >= 5
    assert words == set(advice_blocks.SET_ASIDE)


def test_an_outcome_needs_readings_and_a_dose_that_was_taken() -> None:
    few = [Sample(NOW + 5 * k * US_PER_MIN, "cgm_mgdl", 100.0, "cgm", k) for k in range(1, 10)]
    assert outcome(advice(), 4.2, few) is None
    many = [Sample(NOW + 5 * k * US_PER_MIN, "cgm_mgdl", 100.0, "cgm", k) for k in range(1, 60)]
    for took, followed in ((4.2, True), (4.0, True), (2.0, False), (0.0, False), (None, False)):
        found = outcome(advice(), took, many)
        assert found is not None
        assert found.followed is followed
        assert (found.in_band is None) is not followed


def test_too_many_lows_suspend_the_adviser_and_the_stated_number_does_not() -> None:
    def card(lows: int) -> bool:
        made = [
            Outcome(60, 60.0 if k < lows else 100.0, 0.9, 0.9, 0.05, 0.01, followed=True)
            for k in range(2 * SUSPEND_AFTER)
        ]
        score = scorecard(made)
        assert score is not None
        return score.suspended

    assert not card(0)
    assert not card(3)
    assert card(9)
    assert scorecard([]) is None


def policy(**changes: object) -> StandingPolicy:
    base = StandingPolicy(
        f"{HUB}-p1",
        "mark",
        ("meal", "now"),
        5.0,
        8.0,
        3,
        110.0,
        10.0,
        40.0,
        NOW + 7 * US_PER_DAY,
        "Dr. Grün",
        NOW,
    )
    return msgspec.structs.replace(base, **changes)


def test_a_standing_policy_is_approved_named_and_handed_down_once(db: Database) -> None:
    with db.write() as session:
        decisions.approve_policy(session, HUB, policy(), NOW)
        assert decisions.waiting_policies(session, NOW) == [(HUB, policy())]
        assert decisions.waiting_policies(session, NOW + 8 * US_PER_DAY) == []
        decisions.mark_policy_sent(session, f"{HUB}-p1", NOW)
        assert decisions.waiting_policies(session, NOW) == []
        assert queries.policies(session, HUB, NOW) == [policy()]
        assert queries.policies(session, HUB, NOW + 8 * US_PER_DAY) == []
    assert any("standing policy" in what for _, what, _ in lines(db))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_dose_u": 26.0},
        {"max_dose_u": 0.0},
        {"max_iob_u": float("nan")},
        {"max_per_day": 99},
        {"questions": ()},
        {"questions": ("everything",)},
        {"target_mgdl": 60.0},
        {"expires_us": NOW},
        {"expires_us": NOW + 60 * US_PER_DAY},
        {"approved_by": " "},
        {"person": ""},
    ],
)
def test_no_policy_goes_beyond_what_a_policy_may_say(db: Database, changes: dict[str, object]) -> None:
    with pytest.raises((InputError, RefusedError)), db.write() as session:
        decisions.approve_policy(session, HUB, policy(**changes), NOW)
    with db.read() as session:
        assert session.scalars(select(PolicyRow)).all() == []


def test_what_a_hub_advised_alone_is_kept_once_under_its_policy(db: Database) -> None:
    own = OwnAdvice(
        advice(advice_id="own-1", approved_by="standing policy of Dr. Grün", approved_us=NOW), "p1"
    )
    with db.write() as session:
        assert decisions.keep_own(session, HUB, own, NOW)
        assert not decisions.keep_own(session, HUB, own, NOW)
        assert decisions.approved(session) == []
    with db.read() as session:
        assert session.get(AdviceRow, "own-1").state == "alone"
    assert any("under policy p1" in what for _, what, _ in lines(db))


def test_the_person_of_a_hub_is_what_its_status_says(db: Database) -> None:
    with db.write() as session:
        assert queries.person_mark(session, HUB) == ""
        status = HubStatus(NOW, "1", True, {}, {}, 0, person="abcd")
        session.get(HubRow, HUB).status = encode(status)
    with db.read() as session:
        assert queries.person_mark(session, HUB) == "abcd"
        assert decode(session.get(HubRow, HUB).status, HubStatus).person == "abcd"
