"""Changes: the grammar, what they make of a list of acts, and that nonsense is refused."""

from __future__ import annotations

import math
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.causal.change import TARGETS, Do, parse, parse_all
from core.causal.do import apply
from core.courses import UNKNOWN_MEAL, Act
from core.errors import InputError

LONDON = ZoneInfo("Europe/London")
MIN = 60_000_000
NOON = 1_767_355_200_000_000  # 2026-01-02T12:00Z
START, END = NOON - 120 * MIN, NOON + 600 * MIN


def acts() -> list[Act]:
    return [
        Act(NOON, "bolus_u", 4.0),
        Act(NOON, "carbs_g", 40.0, 0),
        Act(NOON + 360 * MIN, "bolus_u", 6.0),
        Act(NOON + 370 * MIN, "carbs_g", 70.0, 1),
    ]


def done(*changes: str) -> tuple[Act, ...]:
    return apply(parse_all(changes, LONDON), acts(), START, END, 2).acts


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("bolus_u*=0.7", Do("bolus_u", "*=", 0.7)),
        (" carbs_g @ 2026-01-02T12:00 = 0 ", Do("carbs_g", "=", 0.0, NOON)),
        ("carbs_g@2026-01-02T13:00+01:00=0", Do("carbs_g", "=", 0.0, NOON)),
        ("carbs_g@2026-07-02T12:00=5", Do("carbs_g", "=", 5.0, 1_782_990_000_000_000)),  # summer time: 11:00Z
        (
            "basal_uph@2026-01-02T12:00..2026-01-02T13:00-=.1",
            Do("basal_uph", "-=", 0.1, NOON, NOON + 60 * MIN),
        ),
        ("carbs_g>>30", Do("carbs_g", ">>", 30.0)),
        ("bolus_u<<15", Do("bolus_u", "<<", 15.0)),
        ("s*=0.8", Do("s", "*=", 0.8)),
    ],
)
def test_an_expression_means(text: str, meant: Do) -> None:
    assert parse(text, LONDON) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bolus",
        "bolus_u*0.7",
        "bolus_u*=",
        "bolus_u*=much",
        "bolus_u*=nan",
        "bolus_u*=-1",
        "bolus_u*=11",
        "insulin_u*=2",
        "carbs_g@noon=0",
        "carbs_g@2026-01-02T12:00=2000",
        "carbs_g@2026-01-02T13:00..2026-01-02T12:00=0",
        "basal_uph@2026-01-02T12:00=1",
        "basal_uph>>30",
        "carbs_g>>721",
        "carbs_g>>-5",
        "s+=0.1",
        "s*=0",
        "s=1",
        "cgm_mgdl*=2",
        "bolus_u*=0.7" + " " * 300,
    ],
)
def test_what_cannot_be_meant_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, LONDON)
    assert caught.value.exit_code == 2


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.text(max_size=80),
        st.text(alphabet="bolus_u@2026-01T:.*=+<>07e", max_size=30).map("bolus_u".__add__),
    )
)
def test_any_text_is_a_change_or_an_input_error(text: str) -> None:
    try:
        meant = parse(text, LONDON)
    except InputError:
        return
    assert meant.target in TARGETS
    assert math.isfinite(meant.amount)


def test_boluses_of_the_window_are_scaled_and_nothing_else() -> None:
    assert done("bolus_u*=0.5") == (
        Act(NOON, "bolus_u", 2.0),
        Act(NOON, "carbs_g", 40.0, 0),
        Act(NOON + 360 * MIN, "bolus_u", 3.0),
        Act(NOON + 370 * MIN, "carbs_g", 70.0, 1),
    )


def test_one_meal_is_not_eaten_and_keeps_its_number() -> None:
    changed = done("carbs_g@2026-01-02T12:00=0")
    assert [(a.value, a.meal) for a in changed if a.kind == "carbs_g"] == [(0.0, 0), (70.0, 1)]


def test_a_meal_is_added_where_none_was() -> None:
    changed = apply(parse_all("carbs_g@2026-01-02T15:00=20", LONDON), acts(), START, END, 2)
    assert Act(NOON + 180 * MIN, "carbs_g", 20.0, 2) in changed.acts
    assert changed.added_meals == 1
    added_bolus = apply(parse_all("bolus_u@2026-01-02T15:00=1", LONDON), acts(), START, END, 2)
    assert Act(NOON + 180 * MIN, "bolus_u", 1.0, UNKNOWN_MEAL) in added_bolus.acts
    assert added_bolus.added_meals == 0


def test_acts_move_in_time_and_past_the_end_have_not_happened() -> None:
    assert [a.time_us for a in done("bolus_u<<15") if a.kind == "bolus_u"] == [
        NOON - 15 * MIN,
        NOON + 345 * MIN,
    ]
    assert [a.time_us for a in done("bolus_u>>300") if a.kind == "bolus_u"] == [NOON + 300 * MIN]


def test_changes_apply_in_their_order() -> None:
    values = [a.value for a in done("bolus_u+=1", "bolus_u*=2") if a.kind == "bolus_u"]
    assert values == [10.0, 14.0]
    assert [a.value for a in done("bolus_u-=5") if a.kind == "bolus_u"] == [0.0, 1.0]


def test_a_heart_rate_is_set_over_a_span() -> None:
    changed = done("heart_rate_bpm@2026-01-02T14:00..2026-01-02T14:15=120")
    pulses = [(a.time_us, a.value) for a in changed if a.kind == "heart_rate_bpm"]
    assert pulses == [(NOON + m * MIN, 120.0) for m in (120, 125, 130)]


@pytest.mark.parametrize(
    "text",
    [
        "carbs_g@2026-01-02T12:30*=2",  # nothing is logged there
        "carbs_g@2026-01-02T12:30=0",  # nor can nothing be taken away
        "bolus_u@2026-01-02T12:30=0",
        "long_acting_u*=0.5",
        "bolus_u<<150",  # before the window
        "carbs_g@2026-01-02T09:00=10",  # outside
        "basal_uph@2026-01-01T00:00..2026-01-01T02:00*=0.5",
        "heart_rate_bpm*=1.2",
        "bolus_u*=10",  # 60 U pass, then …
    ],
)
def test_a_change_without_anything_to_change_is_refused(text: str) -> None:
    changes = parse_all(text if "*=10" not in text else [text, "bolus_u*=10"], LONDON)
    with pytest.raises(InputError):
        apply(changes, acts(), START, END, 2)


def test_factors_of_a_parameter_are_bounded_together() -> None:
    with pytest.raises(InputError, match="together"):
        apply(parse_all(["s*=5", "s*=5"], LONDON), acts(), START, END, 2)
    assert len(apply(parse_all(["s*=5", "ti*=5", "s*=0.2"], LONDON), acts(), START, END, 2).shifts) == 3
