"""What pages read: amendments applied, newest words only, and cheap marks of change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
from sqlalchemy.orm import Session

from cloud import habits, queries
from cloud.db import AlarmRow, ContributionRow, Database, HubRow
from cloud.portal import blocks, chart, words
from core.messages import Alarm, Sample, encode
from core.metrics import cgm_metrics
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from tests.cloud import filled
from tests.cloud.filled import HUB, NOW_US

UTC = ZoneInfo("UTC")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = filled.open_database(tmp_path)
    with database.write() as session:
        filled.fill(session)
    yield database
    database.close()


def test_a_person_view_holds_everything_the_page_shows(db: Database) -> None:
    with db.read() as session:
        view = queries.person(session, HUB, NOW_US - US_PER_DAY, NOW_US)
        assert queries.person(session, "nobody", 0, NOW_US) is None
    assert view is not None
    assert view.line.reading is not None
    assert view.line.reading.value_mgdl == pytest.approx(filled.glucose_at(NOW_US))
    assert view.forecast == filled.forecast()
    assert view.prior is not None
    assert [a.name for a in view.line.alarms] == ["high"]
    assert view.line.undecided == 1
    assert [c.state for c in view.advice] == ["proposed"]
    assert [s.time_us for s in view.samples] == sorted(s.time_us for s in view.samples)


def test_a_life_out_of_the_usual_is_on_the_page_until_the_hub_says_otherwise(db: Database) -> None:
    told = "needs about 60 % more insulin <b>than usual</b> since Tuesday"

    def tell(session: Session, minute: int, context: str) -> None:
        time_us = NOW_US + minute * US_PER_MIN
        given = msgspec.structs.replace(filled.contribution(0.1, time_us=time_us), context=context)
        row = ContributionRow(
            hub_id=HUB, time_us=time_us, model=given.model, prior_version=1, body=encode(given)
        )
        session.add(row)

    with db.write() as session:
        tell(session, 1, "")
        tell(session, 2, told)
    with db.read() as session:
        view = queries.person(session, HUB, NOW_US - US_PER_DAY, NOW_US)
        assert queries.newest_contributions(session)[HUB][1].context == ""  # an illness is not the person
    assert view is not None
    assert view.context == (told, NOW_US + 2 * US_PER_MIN)
    line = blocks.context_line(view, NOW_US + 12 * US_PER_MIN)
    assert "60 % more insulin &lt;b&gt;than usual" in line
    assert "10 min ago" in line
    with db.write() as session:
        tell(session, 3, "")
    with db.read() as session:
        view = queries.person(session, HUB, NOW_US - US_PER_DAY, NOW_US)
    assert view is not None
    assert blocks.context_line(view, NOW_US) == ""


def test_amended_and_deleted_records_are_not_shown(db: Database) -> None:
    t = NOW_US - US_PER_H
    with db.write() as session:
        filled.add_samples(
            session,
            [
                Sample(t, "carbs_g", 40.0, "hand", 1),
                Sample(t, "carbs_g", 55.0, "hand", 2, amends=("hand", 1)),
                Sample(t, "bolus_u", 9.0, "hand", 1),
                Sample(t, "bolus_u", 9.0, "hand", 2, amends=("hand", 1), deleted=True),
            ],
        )
    with db.read() as session:
        found = queries.samples(session, HUB, t, ("carbs_g", "bolus_u"))
    assert [(s.kind, s.value) for s in found if s.source == "hand"] == [("carbs_g", 55.0)]


def test_an_amendment_hides_only_its_own_kind_and_source(db: Database) -> None:
    t = NOW_US - US_PER_H
    with db.write() as session:
        filled.add_samples(
            session,
            [
                Sample(t, "carbs_g", 40.0, "hand", 1),
                Sample(t, "bolus_u", 4.0, "hand", 1),
                Sample(t, "carbs_g", 41.0, "other", 1),
                Sample(t, "carbs_g", 50.0, "hand", 2, amends=("hand", 1)),
            ],
        )
    with db.read() as session:
        found = queries.samples(session, HUB, t, ("carbs_g", "bolus_u"))
    assert sorted(s.value for s in found if s.source in ("hand", "other")) == [4.0, 41.0, 50.0]


def test_the_basal_rate_in_force_at_the_left_edge_is_included(db: Database) -> None:
    with db.write() as session:
        filled.add_samples(session, [Sample(NOW_US - 5 * US_PER_H, "basal_uph", 0.8, "pump", 1)])
    with db.read() as session:
        view = queries.person(session, HUB, NOW_US - US_PER_H, NOW_US)
    assert view is not None
    assert [s.value for s in view.samples if s.kind == "basal_uph"] == [0.8]


def test_an_alarm_is_active_until_its_clearing(db: Database) -> None:
    def tell(number: int, raised: bool) -> None:
        alarm = Alarm(number, NOW_US, "high", 1, raised, 251.0, 10.0)
        with db.write() as session:
            session.add(AlarmRow(hub_id=HUB, number=number, time_us=NOW_US, body=encode(alarm)))

    tell(10, False)
    with db.read() as session:
        assert queries.active_alarms(session, HUB, NOW_US) == ()
    tell(11, True)
    with db.read() as session:
        assert [a.number for a in queries.active_alarms(session, HUB, NOW_US)] == [11]


def test_the_change_mark_moves_with_data_and_decisions(db: Database) -> None:
    with db.read() as session:
        before = queries.change_mark(session, HUB)
        assert queries.change_mark(session, HUB) == before
        assert queries.change_mark(session, "nobody") == (0,) * len(before)
    with db.write() as session:
        session.get(HubRow, HUB).last_number += 1
    with db.read() as session:
        assert queries.change_mark(session, HUB) != before


def test_whoever_is_low_now_comes_first(db: Database) -> None:
    with db.write() as session:
        session.add(HubRow(hub_id="z", person="Zoe", last_seen_us=NOW_US))
        session.flush()
        filled.add_samples(session, [Sample(NOW_US, "cgm_mgdl", 60.0, "cgm", 1)], "z")
    with db.read() as session:
        assert [p.hub_id for p in queries.people(session, NOW_US)] == ["z", HUB]


def test_a_gap_is_drawn_as_a_gap() -> None:
    points = chart.with_gaps(filled.readings(NOW_US - US_PER_DAY, NOW_US))
    assert sum(value is None for _, value in points) == 1
    times = [t for t, _ in points]
    assert times == sorted(times)


def test_an_old_forecast_is_not_drawn_as_if_it_were_one() -> None:
    def names(now_us: int) -> list[str]:
        options = chart.options((), filled.forecast(), now_us, US_PER_DAY, UTC)
        return [s["name"] for s in options["series"]]

    assert "Forecast median" in names(NOW_US)
    assert "Forecast median" not in names(NOW_US + 2 * US_PER_H)


def test_the_forecast_band_starts_at_its_reading_and_has_its_width() -> None:
    readings = filled.readings(NOW_US - US_PER_H, NOW_US - 2 * US_PER_MIN)
    options = chart.options(readings, filled.forecast(), NOW_US, US_PER_DAY, UTC)
    low, width = (
        next(s for s in options["series"] if s["name"] == n) for n in ("band low", "Forecast 5–95 %")
    )
    assert low["data"][0][1] == pytest.approx(readings[-1].value, abs=0.1)
    assert width["data"][0][1] == 0
    at_30_min = (filled.NOW_US - 2 * US_PER_MIN + 30 * US_PER_MIN) // 1000
    assert dict(low["data"])[at_30_min] == 130.0
    assert dict(width["data"])[at_30_min] == 40.0


def test_times_are_shown_on_the_persons_clock() -> None:
    tokyo = chart.options(
        filled.readings(NOW_US - US_PER_H, NOW_US), None, NOW_US, US_PER_DAY, ZoneInfo("Asia/Tokyo")
    )
    utc = chart.options(filled.readings(NOW_US - US_PER_H, NOW_US), None, NOW_US, US_PER_DAY, UTC)
    shift = tokyo["series"][0]["data"][0][0] - utc["series"][0]["data"][0][0]
    assert shift == 9 * 3_600_000


def test_an_old_reading_loses_colour_and_arrow(db: Database) -> None:
    with db.read() as session:
        fresh = blocks.person_cards(queries.people(session, NOW_US), NOW_US)
        old = blocks.person_cards(queries.people(session, NOW_US), NOW_US + 2 * US_PER_H)
    assert "figure in-range" in fresh or "figure high" in fresh or "figure low" in fresh
    assert "figure old" in old
    assert "2 h ago" in old
    assert "&lt;One&gt;" in fresh
    assert "<One>" not in fresh


def test_metrics_without_readings_say_so() -> None:
    empty = cgm_metrics([], [], 0, US_PER_DAY)
    assert "No glucose reading" in blocks.range_bar(empty, "last 24 h")


@pytest.mark.parametrize(
    ("span_min", "text"),
    [
        (0, "less than a minute"),
        (5, "5 min"),
        (60, "1 h"),
        (125, "2 h 5 min"),
        (26 * 60, "1 d 2 h"),
        (8 * 1440, "8 days"),
    ],
)
def test_spans_read_like_speech(span_min: int, text: str) -> None:
    assert words.span_words(span_min * US_PER_MIN) == text


def test_ages_admit_a_wrong_clock() -> None:
    assert words.ago_words(0, NOW_US) == "never"
    assert words.ago_words(NOW_US, NOW_US) == "just now"
    assert "clock is wrong" in words.ago_words(NOW_US + US_PER_H, NOW_US)


LONDON = ZoneInfo("Europe/London")
LEAD_US = 60 * US_PER_MIN


def carbs(days: int, hour: float = 12.5, grams: float = 60.0) -> list[Sample]:
    midnight = NOW_US - NOW_US % US_PER_DAY
    return [
        Sample(midnight - d * US_PER_DAY + int(hour * US_PER_H), "carbs_g", grams, "meter", d)
        for d in range(days, 0, -1)
    ]


def test_a_habit_gives_its_time_and_its_grams() -> None:
    now_us = NOW_US - NOW_US % US_PER_DAY + 12 * US_PER_H
    meal = habits.next_meal(carbs(5), LONDON, now_us, LEAD_US)
    assert meal is not None
    assert meal.carbs_g == 60
    assert abs(meal.time_us - (now_us + 30 * US_PER_MIN)) < US_PER_MIN
    assert "5 earlier days" in meal.known_from


def test_no_meal_is_invented_when_the_record_shows_none_at_this_hour() -> None:
    now_us = NOW_US - NOW_US % US_PER_DAY + 15 * US_PER_H
    assert habits.next_meal(carbs(5), LONDON, now_us, LEAD_US) is None


def test_a_meal_just_eaten_is_not_advised_again() -> None:
    now_us = NOW_US - NOW_US % US_PER_DAY + 12 * US_PER_H
    eaten = Sample(now_us - 20 * US_PER_MIN, "carbs_g", 50.0, "meter", 99)
    assert habits.next_meal([*carbs(5), eaten], LONDON, now_us, LEAD_US) is None


def test_without_habits_the_answer_says_that_it_assumes() -> None:
    now_us = NOW_US - NOW_US % US_PER_DAY + 12 * US_PER_H
    few = habits.next_meal(carbs(1, hour=20), LONDON, now_us, LEAD_US)
    assert few is not None
    assert "assumes" in few.known_from
    none = habits.next_meal([], LONDON, now_us, LEAD_US)
    assert none is not None
    assert none.carbs_g == 0
    assert "correction only" in none.known_from


def test_treating_a_low_is_not_a_meal_habit() -> None:
    now_us = NOW_US - NOW_US % US_PER_DAY + 12 * US_PER_H
    meal = habits.next_meal(carbs(5, grams=9.0), LONDON, now_us, LEAD_US)
    assert meal is None or meal.carbs_g == 0
