"""Entries by hand: words, times, amendments; and what is refused."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.messages import Quality
from core.units import US_PER_DAY, US_PER_H
from edge.hand import hand_sample
from edge.hand_words import hand_request, parse_time

LONDON = ZoneInfo("Europe/London")
NOW_US = round(datetime(2026, 1, 31, 14, 0, tzinfo=LONDON).timestamp() * 1e6)


def words(what: str, value: float | None = None, **more: str) -> dict[str, object]:
    options = {"at": "", "unit": "", "replace": "", "delete": ""} | more
    return hand_request(
        what, value, options["at"], options["unit"], options["replace"], options["delete"], LONDON, NOW_US
    )


def test_a_meal_in_words_becomes_a_record() -> None:
    sample = hand_sample(words("carbs", 45, at="12:30"), 7, NOW_US)
    assert (sample.kind, sample.value, sample.source, sample.seq) == ("carbs_g", 45.0, "hand", 7)
    assert NOW_US - sample.time_us == 1.5 * US_PER_H
    assert sample.quality == Quality.BY_HAND


def test_a_clock_time_that_is_still_to_come_means_yesterday() -> None:
    assert NOW_US - parse_time("23:00", LONDON, NOW_US) == 15 * US_PER_H


def test_mmol_is_converted_once() -> None:
    assert words("fingerstick", 5.0, unit="mmol/L")["value"] == pytest.approx(90.078)


def test_a_correction_and_a_deletion_name_the_older_record() -> None:
    corrected = hand_sample(words("bolus", 3, replace="hand:12"), 13, NOW_US)
    assert (corrected.amends, corrected.deleted) == (("hand", 12), False)
    gone = hand_sample(words("bolus", delete="hand:12"), 14, NOW_US)
    assert (gone.amends, gone.deleted) == (("hand", 12), True)


@pytest.mark.parametrize(
    ("what", "value", "more", "says"),
    [
        ("sugar", 3.0, {}, "unknown word"),
        ("carbs", None, {}, "value is missing"),
        ("carbs", 20.0, {"at": "25:99"}, "cannot read the time"),
        ("carbs", 20.0, {"unit": "oz"}, "not given in"),
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
    ],
)
def test_what_cannot_be_meant_is_refused(request_fields: dict[str, object]) -> None:
    with pytest.raises(InputError):
        hand_sample(request_fields, 1, NOW_US)


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
def test_any_request_gives_a_record_or_an_input_error(fields: dict[str, object]) -> None:
    try:
        sample = hand_sample(fields, 1, NOW_US)
    except InputError:
        return
    assert sample.source == "hand"
