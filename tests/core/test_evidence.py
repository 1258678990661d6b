"""Both ends compute the same digests; what matters changes them, and what does not does not."""

from __future__ import annotations

import msgspec

from core.evidence import SPAN_US, digest, person_mark
from core.messages import Sample
from core.units import US_PER_MIN

T = 1_767_225_600_000_000
RECORD = (
    Sample(T, "cgm_mgdl", 120.0, "cgm", 9),
    Sample(T - 5 * US_PER_MIN, "cgm_mgdl", 118.0, "cgm", 8),
    Sample(T - 60 * US_PER_MIN, "bolus_u", 4.0, "pump", 3),
    Sample(T - 60 * US_PER_MIN, "carbs_g", 50.0, "hand", 1),
)


def test_order_and_the_way_of_a_record_do_not_matter() -> None:
    moved = [msgspec.structs.replace(s, received_us=T + 7, quality=2) for s in reversed(RECORD)]
    assert digest(RECORD, T) == digest(moved, T)


def test_late_readings_and_what_lies_outside_the_span_do_not_matter() -> None:
    more = (
        Sample(T - 10 * US_PER_MIN, "cgm_mgdl", 117.0, "cgm", 7),
        Sample(T - SPAN_US, "bolus_u", 9.0, "pump", 1),
        Sample(T + 1, "bolus_u", 9.0, "pump", 4),
        Sample(T, "heart_rate_bpm", 70.0, "strap", 1),
    )
    assert digest((*RECORD, *more), T) == digest(RECORD, T)


def test_any_other_dose_meal_or_newest_reading_changes_it() -> None:
    plain = digest(RECORD, T)
    for k, change in (
        (0, {"value": 121.0}),
        (2, {"value": 4.1}),
        (2, {"seq": 4}),
        (3, {"time_us": T - US_PER_MIN}),
    ):
        changed = [msgspec.structs.replace(s, **change) if i == k else s for i, s in enumerate(RECORD)]
        assert digest(changed, T) != plain
    assert digest((*RECORD, Sample(T, "carbs_g", 5.0, "hand", 2)), T) != plain


def test_a_person_is_marked_by_hub_and_file() -> None:
    marks = {
        person_mark("home", "a"),
        person_mark("home", "b"),
        person_mark("other", "a"),
        person_mark("homea", ""),
    }
    assert len(marks) == 4
    assert person_mark("home", "a") == person_mark("home", "a")
