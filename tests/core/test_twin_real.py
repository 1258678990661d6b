"""A week of a real recording, from end to end."""

from __future__ import annotations

import csv
import gzip
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from core.messages import Sample
from core.twin import Patient, Twin
from tests.core.people import DAY_US, MIN_US, recordings

ZONE = ZoneInfo("Europe/London")


@pytest.fixture(scope="module")
def fortnight() -> list[Sample]:
    with gzip.open(recordings() / "2307.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    samples = [
        Sample(
            int(datetime.fromisoformat(r["time"]).replace(tzinfo=ZONE).timestamp() * 1e6),
            r["kind"],
            float(r["value"]),
            "record",
            i,
        )
        for i, r in enumerate(rows)
    ]
    samples.sort(key=lambda s: s.time_us)
    start = next(s.time_us for s in samples if s.kind == "cgm_mgdl")
    return [s for s in samples if start <= s.time_us < start + 14 * DAY_US]


def test_second_week_is_forecast_better_than_by_persistence_and_bands_cover(fortnight: list[Sample]) -> None:
    twin = Twin(Patient(timezone="Europe/London"))
    twin.observe(fortnight)
    readings = [s for s in fortnight if s.kind == "cgm_mgdl"]
    at = {s.time_us // MIN_US: s.value for s in readings}
    second = [s for s in readings if s.time_us >= readings[0].time_us + 7 * DAY_US][::4]
    rows: dict[int, list[tuple[float, float, bool]]] = {30: [], 60: [], 120: []}
    for reading in second:
        forecast = twin.forecast(reading.time_us, (30, 60, 120)).forecast
        for k, horizon in enumerate(rows):
            minute = reading.time_us // MIN_US + horizon
            came = next((at[minute + o] for o in (0, -1, 1) if minute + o in at), None)
            if came is not None:
                inside = forecast.p05[k] <= came <= forecast.p95[k]
                rows[horizon].append((came - forecast.mean[k], came - reading.value, inside))
    for horizon, limit in ((30, 0.88), (60, 0.88), (120, 0.85)):
        table = np.array(rows[horizon], float)
        assert len(table) > 200
        rmse, persistence = np.sqrt((table[:, :2] ** 2).mean(axis=0))
        assert rmse < limit * persistence, horizon
        assert 0.8 < table[:, 2].mean() < 0.97, horizon


def test_missing_therapy_is_taken_from_the_record_and_said(fortnight: list[Sample]) -> None:
    twin = Twin(Patient(timezone="Europe/London"))
    twin.observe(fortnight)
    twin.estimate(fortnight[-1].time_us)
    said = dict(twin.assumed)
    assert said["basal"] == "mean pump rate of the record"
    assert {"weight_kg", "fasting glucose", "resting heart rate"} <= said.keys()
