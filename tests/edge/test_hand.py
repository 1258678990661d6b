"""Entries by hand: words, times, amendments; and what is refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.messages import Quality, Sample
from core.units import US_PER_DAY, US_PER_H
from edge.hand import dose_doubt, hand_sample
from edge.hand_words import entry_words, hand_request, parse_time

LONDON = ZoneInfo("Europe/London")
NOW_US = round(datetime(2026, 1, 31, 14, 0, tzinfo=LONDON).timestamp() * 1e6)
LUNCH = Sample(NOW_US - 2 * US_PER_H, "carbs_g", 30.0, "hand", 12)


def words(what: str, value: float | None = None, **more: str) -> dict[str, Any]:
    options = {"at": "", "unit": "", "replace": "", "delete": ""} | more
    return hand_request(what, value, options["at"], options["unit"], options["replace"], options["delete"])


def find(source: str, kind: str, seq: int) -> Sample | None:
    return LUNCH if (source, kind, seq) == LUNCH.key else None


def made(request: dict[str, Any], number: int = 13) -> Sample:
    return hand_sample(request, number, NOW_US, LONDON, find)


def test_a_reading_is_told_in_both_units() -> None:
    typed = msgspec.structs.replace(LUNCH, kind="smbg_mgdl", value=109.895)
    assert "fingerstick 109.9 mg/dL (6.1 mmol/L), stored" in entry_words(typed, LONDON)


def test_a_meal_in_words_becomes_a_record() -> None:
    sample = made(words("carbs", 45, at="12:30"), 7)
    assert (sample.kind, sample.value, sample.source, sample.seq) == ("carbs_g", 45.0, "hand", 7)
    assert NOW_US - sample.time_us == 1.5 * US_PER_H
    assert sample.quality == Quality.BY_HAND


def test_what_a_fast_phone_dates_minutes_ahead_happens_now() -> None:
    """Dated later than now it would not count in advice asked now: the same dose would be advised again."""
    sample = made({**words("bolus", 2.0), "time_us": NOW_US + 4 * 60_000_000})
    assert sample.time_us == NOW_US


def test_a_clock_time_that_is_still_to_come_is_refused_but_last_evening_after_midnight_is_not() -> None:
    with pytest.raises(InputError, match="still to come today") as caught:
        parse_time("23:00", LONDON, NOW_US)
    assert "T23:00" in caught.value.mend
    assert NOW_US - parse_time(caught.value.mend.split()[-1], LONDON, NOW_US) == 15 * US_PER_H
    night_us = NOW_US - 13 * US_PER_H  # one o'clock
    assert night_us - parse_time("23:00", LONDON, night_us) == 2 * US_PER_H
    with pytest.raises(InputError, match="still to come today"):
        parse_time("18:30", LONDON, night_us)


def test_a_name_is_enough_to_take_an_entry_back() -> None:
    gone = made(words("", delete="hand:12"))
    assert (gone.kind, gone.deleted, gone.amends) == (LUNCH.kind, True, LUNCH.key[::2])
    with pytest.raises(InputError, match="no hand:99 stands"):
        made(words("", delete="hand:99"))
    with pytest.raises(InputError, match="say what"):
        words("")


@pytest.mark.parametrize(
    ("now", "at", "meant"),
    [
        # 25 October 2026, 02:00 BST becomes 01:00 GMT: the hour from one to two comes twice.
        ("2026-10-25T01:10+00:00", "01:05", "2026-10-25T01:05+00:00"),
        ("2026-10-25T01:10+00:00", "01:50", "2026-10-25T00:50+00:00"),
        ("2026-10-25T00:30+00:00", "01:20", "2026-10-25T00:20+00:00"),
        ("2026-10-25T03:00+00:00", "02:30", "2026-10-25T02:30+00:00"),
        # 29 March 2026, 01:00 GMT becomes 02:00 BST: half past one never comes.
        ("2026-03-29T01:10+00:00", "01:30", "2026-03-29T00:30+00:00"),
        ("2026-03-29T01:10+00:00", "00:50", "2026-03-29T00:50+00:00"),
        ("2026-03-29T01:10+00:00", "02:05", "2026-03-29T01:05+00:00"),
    ],
)
def test_a_clock_time_in_the_night_when_clocks_change_is_the_last_that_passed(
    now: str, at: str, meant: str
) -> None:
    now_us, meant_us = (round(datetime.fromisoformat(text).timestamp() * 1e6) for text in (now, meant))
    assert parse_time(at, LONDON, now_us) == meant_us


def test_mmol_is_converted_once_and_asked_for_when_it_looks_forgotten() -> None:
    assert words("fingerstick", 5.0, unit="mmol/L")["value"] == pytest.approx(90.078)
    with pytest.raises(InputError, match="mmol/L"):
        words("fingerstick", 6.2)


def test_a_correction_keeps_the_time_of_what_it_corrects() -> None:
    corrected = made(words("carbs", 20, replace="hand:12"))
    assert (corrected.amends, corrected.deleted, corrected.time_us) == (("hand", 12), False, LUNCH.time_us)
    moved = made(words("carbs", 20, replace="hand:12", at="13:00"))
    assert NOW_US - moved.time_us == US_PER_H


def test_a_deletion_names_the_older_record() -> None:
    gone = made(words("carbs", delete="hand:12"))
    assert (gone.amends, gone.deleted) == (("hand", 12), True)


@pytest.mark.parametrize(("what", "name"), [("carbs", "hand:999"), ("bolus", "hand:12"), ("carbs", "cgm:12")])
def test_what_does_not_stand_in_the_record_cannot_be_taken_back(what: str, name: str) -> None:
    with pytest.raises(InputError, match="stands in the record"):
        made(words(what, delete=name))


def test_an_entry_is_repeated_in_words_with_its_name() -> None:
    assert entry_words(LUNCH, LONDON) == "Sat 31 Jan 12:00  carbohydrate 30 g, stored as hand:12"
    gone = made(words("carbs", delete="hand:12"))
    assert entry_words(gone, LONDON) == "hand:12 taken back, noted as hand:13"


@pytest.mark.parametrize(
    ("what", "value", "more", "says"),
    [
        ("sugar", 3.0, {}, "unknown word"),
        ("carbs", None, {}, "value is missing"),
        ("carbs", 20.0, {"unit": "oz"}, "not given in"),
        ("carbs", -5.0, {}, "must be positive"),
        ("bolus", 3.0, {"replace": "12"}, "cannot read the entry"),
        ("bolus", 3.0, {"replace": "hand:1", "delete": "hand:2"}, "exclude"),
    ],
)
def test_wrong_words_are_refused_with_a_mend(
    what: str, value: float | None, more: dict[str, str], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        words(what, value, **more)


@pytest.mark.parametrize(
    "request_fields",
    [
        {"kind": "carbs_g", "value": -1},
        {"kind": "carbs_g", "value": float("nan")},
        {"kind": "carbs_g", "value": True},
        {"kind": "carbs_g", "value": "45"},
        {"kind": "candy", "value": 1},
        {"kind": "carbs_g", "value": 4, "time_us": NOW_US + US_PER_DAY},
        {"kind": "carbs_g", "value": 4, "time_us": NOW_US - 91 * US_PER_DAY},
        {"kind": "carbs_g", "value": 4, "time_us": 1.5},
        {"kind": "carbs_g", "deleted": True},
        {"kind": "carbs_g", "value": 4, "amends": ["hand"]},
        {"kind": "carbs_g", "value": 4, "surprise": 1},
        {"kind": "carbs_g", "value": 4, "at": "25:99"},
        {"kind": "carbs_g", "value": 10**400},
    ],
)
def test_what_cannot_be_meant_is_refused(request_fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        made(request_fields, 1)


@given(
    st.dictionaries(
        st.text(max_size=8) | st.sampled_from(["kind", "value", "time_us", "amends", "deleted"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["carbs_g", "bolus_u"])
        | st.lists(st.integers() | st.text(), max_size=3),
    )
)
def test_any_request_gives_a_record_or_an_input_error(fields: dict[str, Any]) -> None:
    try:
        sample = made(fields, 1)
    except InputError:
        return
    assert sample.source == "hand"


def boluses(*units: float) -> list[Sample]:
    return [Sample(NOW_US - i * US_PER_H, "bolus_u", u, "pump", i) for i, u in enumerate(units)]


USUAL = boluses(2.0, 3.0, 6.0, 4.0, 2.5)


@pytest.mark.parametrize(
    ("units", "recent", "says"),
    [
        (
            80.0,
            USUAL,
            "that is 80 U, 13 times your largest of the last two weeks: if it is right, add --sure",
        ),
        (18.5, USUAL, "3 times your largest"),
        (18.0, USUAL, ""),
        (18.5, USUAL[:4], ""),  # four say little
        (4.0, boluses(*[0.5] * 5), ""),  # small doses are no danger
        (5.5, boluses(*[0.5] * 5), "11 times"),
        (
            25.5,
            boluses(*[20.0] * 5),
            "more than the 25 U that pumps give at once: if it is right, add --sure",
        ),
        (25.5, [], "more than the 25 U"),
        (25.0, boluses(0.0, float("nan"), 2.0, 2.0, 2.0, 2.0), ""),  # what is no dose does not count
    ],
)
def test_a_bolus_far_above_the_usual_ones_is_asked_about(
    units: float, recent: list[Sample], says: str
) -> None:
    doubt = dose_doubt(made(words("bolus", units)), recent)
    assert doubt.endswith(says) if says.endswith("--sure") else says in doubt
    assert bool(doubt) == bool(says)


def test_what_a_correction_replaces_does_not_excuse_it_and_other_kinds_are_not_asked_about() -> None:
    slip = Sample(NOW_US, "bolus_u", 80.0, "hand", 99)
    again = msgspec.structs.replace(slip, seq=100, value=60.0, amends=("hand", 99))
    assert "10 times" in dose_doubt(again, [*USUAL, slip])
    assert not dose_doubt(msgspec.structs.replace(again, deleted=True), USUAL)
    assert not dose_doubt(made(words("carbs", 90.0)), USUAL)
