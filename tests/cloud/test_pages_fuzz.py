"""The pages survive whatever lies in the database: also what no version of ingest would have let in."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from cloud import queries
from cloud.db import AdviceRow, AlarmRow, Database, EstimateRow, ForecastRow, HubRow, PriorRow, SampleRow
from cloud.portal import advice_blocks, blocks, chart, words
from core.memory import TITLES
from core.messages import Alarm, DoseAdvice, Estimate, Forecast, HubStatus, Prior, encode
from core.metrics import cgm_metrics
from core.units import KINDS, US_PER_DAY, US_PER_H
from tests.cloud import filled

NOW_US = filled.NOW_US
ZONES = [ZoneInfo("Europe/London"), ZoneInfo("Asia/Kathmandu"), ZoneInfo("Pacific/Kiritimati")]
EVIL = "<img src=x onerror=alert(1)>"

NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -1.0, 1e-300, 1e300, 709.0, 1e6, float("nan"), float("inf"), float("-inf")]),
    st.floats(-10, 600),
)
TIMES = st.one_of(
    st.integers(NOW_US - 15 * US_PER_DAY, NOW_US + US_PER_DAY),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, -1, 2**62, 253_402_300_799_999_999, 7_258_118_399_999_999, 631_152_000_000_000]),
)
COUNTS = st.one_of(st.integers(0, 100), st.integers(-(2**63), 2**63 - 1))
TEXTS = st.one_of(
    st.sampled_from([EVIL, "", "ok", "live", "glucose/1", "ln_s", "low", "signal_loss", '">' + EVIL, "a\0b"]),
    st.text(max_size=20),
)


def row_of(*lengths: int) -> st.SearchStrategy[tuple[float, ...]]:
    return st.sampled_from(lengths).flatmap(lambda n: st.tuples(*[NUMBERS] * n))


def names_of(*lengths: int) -> st.SearchStrategy[tuple[str, ...]]:
    known = st.sampled_from([*TITLES, EVIL])
    return st.sampled_from(lengths).flatmap(lambda n: st.tuples(*[st.one_of(known, TEXTS)] * n))


STATUSES = st.one_of(st.sampled_from([*words.STATUS_WORDS]), TEXTS)
ESTIMATES = st.builds(
    Estimate, TIMES, TEXTS, names_of(2, 2, 0, 3), names_of(2, 2, 1), row_of(2, 2, 2, 0), row_of(3, 3, 3, 2),
    NUMBERS, NUMBERS, NUMBERS, NUMBERS, STATUSES,
)  # fmt: skip
HORIZONS = st.one_of(st.just((30.0, 60.0)), row_of(2, 0))
FORECASTS = st.builds(
    Forecast, TIMES, TEXTS, HORIZONS, row_of(2), row_of(2), row_of(2, 2, 2, 0), row_of(2), row_of(2), NUMBERS,
    STATUSES,
)  # fmt: skip
ALARM_NAMES = st.one_of(st.sampled_from([*words.ALARM_NAMES]), TEXTS)
ALARMS = st.builds(Alarm, COUNTS, TIMES, ALARM_NAMES, COUNTS, st.booleans(), NUMBERS, NUMBERS, st.booleans())
HUBS = st.builds(
    HubStatus, TIMES, TEXTS, st.booleans(), st.dictionaries(TEXTS, TEXTS, max_size=3),
    st.dictionaries(TEXTS, COUNTS, max_size=3), COUNTS,
)  # fmt: skip
SAMPLES = st.builds(
    dict, kind=st.one_of(st.sampled_from([*KINDS]), st.just(EVIL)), source=TEXTS, time_us=TIMES, value=NUMBERS,
    quality=st.integers(0, 2**31 - 1), deleted=st.booleans(),
    amends_source=st.one_of(st.none(), TEXTS), amends_seq=st.integers(-5, 5),
)  # fmt: skip
ODD_BODIES = st.one_of(st.binary(max_size=30), st.just(encode(Prior(1, "m", (), (), (), "", "", 0))))


def bodies(messages: st.SearchStrategy) -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.one_of(messages.map(encode), messages.map(encode), ODD_BODIES), max_size=4)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = filled.open_database(tmp_path_factory.mktemp("pages"))
    yield database
    database.close()


class _Tags(HTMLParser):
    """Elements that no page of ours has."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("img", "script") or any(name.startswith("on") for name, _ in attrs):
            self.foreign.append(tag)


def draw_everything(session: Session, zone: ZoneInfo) -> None:
    """What overview.py and person.py ask of the database and of the builders, for every window."""
    lines = queries.people(session, NOW_US)
    pieces = [blocks.person_cards(lines, NOW_US), blocks.overview_line(lines, NOW_US)]
    for window_us in (6 * US_PER_H, 14 * US_PER_DAY):
        start_us = NOW_US - window_us
        view = queries.person(session, "hub-1", start_us, NOW_US)
        assert view is not None
        glucose = [s for s in view.samples if s.kind == queries.GLUCOSE]
        times, values = [s.time_us for s in glucose], [s.value for s in glucose]
        metrics = cgm_metrics(times, values, start_us, NOW_US + 1)
        pieces += [
            blocks.person_title(view.line),
            blocks.status_line(view, NOW_US),
            blocks.alarm_banner(view, NOW_US),
            blocks.key_figures(view, metrics, "last while", NOW_US),
            blocks.range_bar(metrics, "last while"),
            blocks.readings_table(view.samples, NOW_US, zone),
            blocks.alarms_table(view.alarms, NOW_US, zone),
            blocks.estimate_table(view.estimate, view.prior, NOW_US),
            blocks.states_table(view.estimate),
            blocks.prior_block(view.prior, NOW_US, zone),
            blocks.devices_block(view.line.status, NOW_US),
            blocks.counters_table(view.line.status),
        ]
        for card in view.advice:
            pieces += [
                advice_blocks.advice_block(card, NOW_US, zone),
                advice_blocks.advice_summary(card.advice, NOW_US, zone),
            ]
            advice_blocks.advice_title(card, NOW_US, zone)
        drawn = chart.options(view.samples, view.forecast, NOW_US, window_us, zone, chart.LIGHT)
        json.dumps(drawn, allow_nan=False)
        assert all(-(2**63) <= point[0] < 2**63 for line in drawn["series"] for point in line["data"])
    tags = _Tags()
    tags.feed("".join(pieces))
    assert tags.foreign == []


def add_hub(session: Session, status: bytes | None = None) -> None:
    session.add(HubRow(hub_id="hub-1", person=EVIL, last_seen_us=NOW_US, last_number=1, status=status))
    session.flush()


@given(
    estimates=bodies(ESTIMATES), forecasts=bodies(FORECASTS), alarms=bodies(ALARMS), statuses=bodies(HUBS),
    samples=st.lists(SAMPLES, max_size=12), zone=st.sampled_from(ZONES), times=st.lists(TIMES, min_size=9, max_size=9),
)  # fmt: skip
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_pages_are_drawn_from_anything_that_a_hub_could_have_left_behind(
    db: Database, estimates, forecasts, alarms, statuses, samples, zone, times
) -> None:
    with db.read() as session:  # what is changed in it is dropped
        add_hub(session, statuses[0] if statuses else None)
        for seq, sample in enumerate(samples):
            if sample["amends_source"] is None:
                sample["amends_seq"] = None
            session.add(SampleRow(hub_id="hub-1", seq=seq, **sample))
        for time_us, body in zip(times, estimates, strict=False):
            session.add(EstimateRow(hub_id="hub-1", time_us=time_us, body=body))
        for time_us, body in zip(times, forecasts, strict=False):
            session.add(ForecastRow(hub_id="hub-1", made_at_us=time_us, body=body))
        for number, body in enumerate(alarms):
            session.add(AlarmRow(hub_id="hub-1", number=number, time_us=NOW_US - number, body=body))
        session.flush()
        draw_everything(session, zone)


SENSIBLE = st.floats(-1e12, 1e12)
UNIT = st.floats(0, 1)


@given(
    means=st.tuples(*[st.one_of(SENSIBLE, st.floats(-5, 5))] * 5), spread=st.floats(0, 1e12),
    made_us=st.integers(NOW_US - US_PER_H, NOW_US + US_PER_H), horizon=st.floats(0, 10_080),
    glucose=st.lists(st.tuples(st.integers(0, 20_000), st.floats(10, 1000)), max_size=20),
    alarm=st.builds(Alarm, st.integers(0, 9), st.just(NOW_US - 1), ALARM_NAMES, st.just(1), st.booleans(), SENSIBLE, SENSIBLE),
)  # fmt: skip
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_pages_are_drawn_from_the_extremes_that_ingest_lets_in(
    db: Database, means, spread, made_us, horizon, glucose, alarm
) -> None:
    names = tuple(TITLES)
    covariance = tuple(spread if i == j else 0.0 for i in range(5) for j in range(i + 1))
    estimate = Estimate(
        made_us, EVIL, names, ("",) * 5, means, covariance, means[0], spread, spread, float("inf")
    )
    band = (means[:2], (spread, spread), means[1:3], means[2:4], means[3:5])
    age_s = float("inf") if horizon > 60 else horizon * 1e300
    forecast = Forecast(made_us, EVIL, (horizon / 2, horizon), *band, age_s, low_chance=horizon % 1.0)
    with db.read() as session:
        add_hub(session, encode(HubStatus(0, EVIL, False, {EVIL: EVIL}, {EVIL: 2**63}, 2**63)))
        session.add(EstimateRow(hub_id="hub-1", time_us=made_us, body=encode(estimate)))
        session.add(ForecastRow(hub_id="hub-1", made_at_us=made_us, body=encode(forecast)))
        session.add(AlarmRow(hub_id="hub-1", number=1, time_us=alarm.time_us, body=encode(alarm)))
        for seq, (age_min, value) in enumerate(glucose):
            time_us = NOW_US - age_min * 60_000_000
            for kind in KINDS:
                row = {"kind": kind, "value": min(value, KINDS[kind].high), "source": EVIL}
                session.add(SampleRow(hub_id="hub-1", seq=seq, time_us=time_us, **row))
        session.flush()
        draw_everything(session, ZONES[0])


def test_what_the_cloud_itself_wrote_is_drawn_even_when_damaged(db: Database) -> None:
    advice = DoseAdvice(
        "a-1", 2**62, float("nan"), float("inf"), float("nan"), 2.0, float("inf"), 10, None, (EVIL,), (EVIL,), -1,
        EVIL, EVIL, 2**62,
    )  # fmt: skip
    prior = Prior(1, EVIL, ("ln_s",), (1e6,), (1e300,), EVIL, EVIL, 2**62)
    with db.read() as session:
        add_hub(session)
        for number, body in enumerate((encode(advice), b"", encode(prior), struct.pack("<d", 1.0))):
            row = {"advice_id": f"a-{number}", "state": "proposed", "created_us": NOW_US + number}
            session.add(AdviceRow(hub_id="hub-1", body=body, **row))
        session.add(PriorRow(hub_id="hub-1", version=1, created_us=NOW_US, body=encode(prior)))
        session.flush()
        draw_everything(session, ZONES[1])
        session.add(PriorRow(hub_id="hub-1", version=2, created_us=NOW_US, body=b"\xc1"))
        session.flush()
        draw_everything(session, ZONES[1])
