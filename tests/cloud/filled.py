"""A small filled database: one person with two days of readings, a gap, meals, alarms, estimate, advice."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from cloud.config import CloudConfig, DatabaseConfig, KeysConfig, MqttConfig, WebConfig
from cloud.db import (
    AdviceRow,
    AlarmRow,
    ContributionRow,
    Database,
    EstimateRow,
    ForecastRow,
    HubRow,
    PriorRow,
    SampleRow,
)
from cloud.population import NAMES, prior_for
from core.correction import N_BIN, H, K
from core.correction_pool import Start
from core.correction_prior import POPULATION
from core.messages import (
    Alarm,
    Contribution,
    DoseAdvice,
    Estimate,
    Forecast,
    HubStatus,
    Prior,
    Sample,
    encode,
)
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN

KEY = bytes(range(32))
NOW_US = 1_767_362_400_000_000  # Friday 2026-01-02 14:00 UTC
HUB = "hub-1"
PERSON = "Person <One> & Co"  # a name that breaks a page which does not escape


def config(folder: Path, approval: str = "clinician", port: int = 1, trusted_proxy: str = "") -> CloudConfig:
    from cloud.config import AdviceConfig

    (folder / "hubs").mkdir(exist_ok=True)
    return CloudConfig(
        mqtt=MqttConfig("127.0.0.1"),
        database=DatabaseConfig(),
        keys=KeysConfig(),
        web=WebConfig(port=port, trusted_proxy=trusted_proxy),
        advice=AdviceConfig(approval),  # type: ignore[arg-type]
        timezone="Europe/London",
        base=str(folder),
    )


def open_database(folder: Path) -> Database:
    return Database.open(f"sqlite:///{folder / 'cloud.sqlite'}", KEY)


def add_samples(session: Session, samples: list[Sample], hub_id: str = HUB) -> None:
    for s in samples:
        session.add(
            SampleRow(
                hub_id=hub_id,
                source=s.source,
                kind=s.kind,
                seq=s.seq,
                time_us=s.time_us,
                value=s.value,
                quality=s.quality,
                received_us=s.time_us,
                amends_source=s.amends[0] if s.amends else None,
                amends_seq=s.amends[1] if s.amends else None,
                deleted=s.deleted,
            )
        )


def glucose_at(time_us: int) -> float:
    hour = time_us / US_PER_H % 24
    return 140 + 55 * math.sin(hour * math.pi / 4) + 10 * math.sin(hour * 3)


def readings(start_us: int, end_us: int, source: str = "cgm") -> list[Sample]:
    """One reading each five minutes up to and including ``end_us``, with a gap of two hours from 06:00."""
    times = range(start_us - start_us % (5 * US_PER_MIN), end_us + 1, 5 * US_PER_MIN)
    return [
        Sample(t, "cgm_mgdl", glucose_at(t), source, t // US_PER_MIN)
        for t in times
        if not 6 <= t / US_PER_H % 24 < 8
    ]


def meals(start_us: int, days: int) -> list[Sample]:
    """Breakfast 08:30, lunch 12:30, dinner 18:30 (UTC), with boluses."""
    found = []
    midnight = start_us - start_us % US_PER_DAY
    for day in range(days):
        for hour, grams in ((8.5, 45.0), (12.5, 60.0), (18.5, 75.0)):
            t = midnight + day * US_PER_DAY + int(hour * US_PER_H)
            found.append(Sample(t, "carbs_g", grams, "meter", t // US_PER_MIN))
            found.append(Sample(t, "bolus_u", grams / 10, "pump", t // US_PER_MIN))
    return found


def advice(
    advice_id: str = f"{HUB}-1", refused: str | None = None, for_time_us: int = NOW_US + 30 * US_PER_MIN
) -> DoseAdvice:
    return DoseAdvice(
        advice_id=advice_id,
        for_time_us=for_time_us,
        carbs_g=60.0,
        dose_u=0.0 if refused else 4.2,
        p_below_70=0.018,
        p_below_54=0.0,
        horizon_min=300.0,
        draws=1000,
        refused=refused,
        reasons=("60 g of carbohydrate need 5.0 U.", "Lowered <because> of lows."),
        limits=("Hometwin is not a medical device.",),
        data_time_us=NOW_US - 3 * US_PER_MIN,
        model="glucose/1",
        approved_by="",
        approved_us=0,
    )


def contribution(mean: float, information: float = 50.0, time_us: int = NOW_US) -> Contribution:
    """What a hub says whose data put every log-parameter near ``mean``."""
    n = len(NAMES)
    lower = tuple(information if i == j else 0.0 for i in range(n) for j in range(i + 1))
    return Contribution(time_us, "glucose/1", 1, NAMES, lower, tuple([information * mean] * n))


def moved(weight: float) -> bytes:
    """What a hub says whose correction moved every weight by this much, and no band."""
    bands = np.zeros(H * N_BIN)
    return Start(np.full((K, H), weight), bands, bands).to_bytes(POPULATION)


def estimate() -> Estimate:
    names = (*NAMES, "q1")
    n = len(names)
    return Estimate(
        time_us=NOW_US - 2 * US_PER_MIN,
        model="glucose/1",
        names=names,
        units=("1",) * 5 + ("mmol/kg",),
        mean=(0.2, -0.05, 0.1, 0.0, 0.05, 1.2),
        covariance=tuple(0.01 if i == j else 0.0 for i in range(n) for j in range(i + 1)),
        output_mean=142.0,
        output_sd=6.0,
        nis=0.8,
        data_age_s=120.0,
    )


def forecast() -> Forecast:
    return Forecast(
        made_at_us=NOW_US - 2 * US_PER_MIN,
        model="glucose/1",
        horizons_min=(30.0, 60.0, 120.0, 240.0),
        mean=(150.0, 158.0, 150.0, 140.0),
        sd=(12.0, 20.0, 28.0, 32.0),
        p05=(130.0, 125.0, 104.0, 87.0),
        p50=(150.0, 158.0, 150.0, 140.0),
        p95=(170.0, 191.0, 196.0, 193.0),
        data_age_s=120.0,
        low_chance=0.12,
    )


def prior() -> Prior:
    return prior_for(HUB, "type-1 adult", {}, NOW_US, 1)[0]


def fill(session: Session, hub_id: str = HUB, person: str = PERSON) -> None:
    """Everything that a person's page shows."""
    status = HubStatus(
        NOW_US - US_PER_MIN, "0.1.0", True, {"cgm": "live", "pump": "absent"}, {"decode_error.crc": 2}, 0
    )
    session.add(
        HubRow(
            hub_id=hub_id,
            person=person,
            last_seen_us=NOW_US - US_PER_MIN,
            last_number=7,
            status=encode(status),
        )
    )
    session.flush()
    start_us = NOW_US - 2 * US_PER_DAY
    add_samples(session, [*readings(start_us, NOW_US), *meals(start_us, 2)], hub_id)
    session.add(EstimateRow(hub_id=hub_id, time_us=NOW_US, body=encode(estimate())))
    session.add(ForecastRow(hub_id=hub_id, made_at_us=NOW_US, body=encode(forecast())))
    for number, (name, raised, minutes) in enumerate(
        (("low", True, 300), ("low", False, 270), ("high", True, 20)), 1
    ):
        alarm = Alarm(
            number, NOW_US - minutes * US_PER_MIN, name, 1, raised, 66.0 if name == "low" else 251.0, 30.0
        )
        session.add(AlarmRow(hub_id=hub_id, number=number, time_us=alarm.time_us, body=encode(alarm)))
    session.add(PriorRow(hub_id=hub_id, version=1, created_us=NOW_US, body=encode(prior())))
    session.add(
        AdviceRow(
            advice_id=f"{hub_id}-1",
            hub_id=hub_id,
            created_us=NOW_US,
            state="proposed",
            body=encode(advice(f"{hub_id}-1")),
        )
    )
    given = contribution(0.2)
    session.add(
        ContributionRow(
            hub_id=hub_id, time_us=given.time_us, model=given.model, prior_version=1, body=encode(given)
        )
    )
