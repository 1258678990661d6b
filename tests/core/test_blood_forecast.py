"""Forecasts of blood: they lead readings where glucose moves, and are wider by what a sensor hides."""

from __future__ import annotations

import numpy as np
import pytest

from core.blood import USUAL_SD_MGDL
from core.errors import InputError
from core.messages import Sample
from core.models import hovorka as model
from core.patient import Patient
from core.predictive import Z90
from core.twin import Twin
from firmware_sim.person import VirtualPerson
from firmware_sim.person_cgm import AVERAGE_NOISE
from tests.core.people import MIN_US, START_US

LAG_MIN = model.DEFAULTS[model.TS]
STEADY_H = 12


def twin_after(
    slope_mgdl_per_min: float, fingersticks: int = 0, differ_mgdl: float = 0.0
) -> tuple[Twin, int]:
    """Half a day at 180 mg/dL, then half an hour along a slope."""
    twin, now_us = Twin(Patient(weight_kg=75.0, timezone="UTC")), START_US
    readings = [180.0] * (STEADY_H * 12) + [180.0 + slope_mgdl_per_min * 5.0 * k for k in range(1, 7)]
    samples = []
    for k, value in enumerate(readings):
        now_us = START_US + 5 * k * MIN_US
        samples.append(Sample(now_us, "cgm_mgdl", value, "cgm", k))
    for k in range(fingersticks):
        at_us = START_US + (30 + 25 * k) * MIN_US
        samples.append(Sample(at_us, "smbg_mgdl", 180.0 + differ_mgdl, "meter", k))
    twin.observe(samples)
    return twin, now_us


def test_where_readings_fall_blood_is_lower_by_the_lag_and_where_they_rest_it_is_not() -> None:
    falling, now_us = twin_after(-2.0)
    reading = falling.forecast(now_us, (0.0,)).forecast.mean[0]
    blood = falling.blood(now_us, (0.0,)).mean[0]
    # The filter holds a part of so steep a fall for the sensor's noise.
    assert -2.0 * LAG_MIN - 3.0 < blood - reading < -0.4 * 2.0 * LAG_MIN
    resting, now_us = twin_after(0.0)
    apart = resting.blood(now_us, (0.0, 30.0)).mean - np.array(
        resting.forecast(now_us, (0.0, 30.0)).forecast.mean
    )
    assert np.abs(apart).max() < 3.0


def test_the_band_holds_the_sensors_lasting_error_unless_it_is_known_to_have_none() -> None:
    twin, now_us = twin_after(0.0)
    forecast = twin.forecast(now_us, (30.0,)).forecast
    reading_half = forecast.mean[0] - forecast.p05[0]
    usual, sure = twin.blood(now_us, (30.0,)), twin.blood(now_us, (30.0,), lasting=False)
    assert usual.low[0] ** 2 == pytest.approx(sure.low[0] ** 2 + (Z90 * USUAL_SD_MGDL) ** 2)
    assert sure.low[0] > reading_half
    assert usual.mean[0] == sure.mean[0]


def test_fingersticks_move_blood_to_either_side() -> None:
    for differ_mgdl in (-30.0, 30.0):
        twin, now_us = twin_after(0.0, fingersticks=12, differ_mgdl=differ_mgdl)
        blood, none = twin.blood(now_us, (60.0,)), twin.blood(now_us, (60.0,), lasting=False)
        moved = (blood.mean[0] - none.mean[0]) / differ_mgdl
        assert 0.6 < moved < 1.0


def test_what_is_planned_acts_in_blood_as_it_will_show() -> None:
    twin, now_us = twin_after(-1.0)
    meal = [Sample(now_us, "carbs_g", 60.0, "hand", 1)]
    rise = twin.blood(now_us, (30.0, 60.0), planned=meal).mean - twin.blood(now_us, (30.0, 60.0)).mean
    with_meal, without = (
        np.array(twin.forecast(now_us, (30.0, 60.0), planned=plan).forecast.mean) for plan in (meal, ())
    )
    assert rise == pytest.approx(with_meal - without)
    assert rise.min() > 5.0


def test_on_bodies_with_a_true_sensor_blood_is_nearer_to_plasma_than_the_reading_forecast() -> None:
    horizons = (5.0, 30.0)
    sources = {"cgm_mgdl": "cgm", "bolus_u": "pump", "basal_uph": "pump"}
    misses = []
    for seed in (200, 202, 206):
        person = VirtualPerson(seed, sensor=AVERAGE_NOISE)
        record = person.record(START_US, 3.0)
        twin = Twin(Patient(weight_kg=person.weight_kg, timezone="UTC"))
        samples = [Sample(t, k, v, sources.get(k, "meter"), n) for n, (t, k, v) in enumerate(record.events)]
        errors, position = [], 0
        for minute in range(2 * 1440, 3 * 1440 - 40, 15):
            t_us = START_US + minute * MIN_US
            upto = next(k for k in range(position, len(samples)) if samples[k].time_us > t_us)
            twin.observe(samples[position:upto])
            position = upto
            truth = np.array([record.truth.plasma_at(t_us + int(h) * MIN_US) for h in horizons])
            reading = np.array(twin.forecast(t_us, horizons).forecast.mean) - truth
            errors.append((reading, twin.blood(t_us, horizons, lasting=False).mean - truth))
        misses.append(np.sqrt(np.mean(np.square(errors), axis=0)))
    by_reading, by_blood = np.mean(misses, axis=0)
    assert (by_blood < 0.99 * by_reading).all()


def test_however_steep_a_fall_blood_stays_what_a_sensor_could_show() -> None:
    twin, now_us = twin_after(
        -5.0, fingersticks=12, differ_mgdl=-60.0
    )  # from 180 to 30 mg/dL in half an hour
    assert twin.blood(now_us, (0.0, 15.0, 30.0), lasting=False).mean.min() >= 10.0
    assert twin.blood(now_us, (0.0, 15.0, 30.0)).mean.min() == 10.0


def test_it_ages_and_refuses_as_the_forecast_does() -> None:
    twin, now_us = twin_after(0.0)
    later = twin.blood(now_us + 60 * MIN_US, (0.0,))
    assert later.data_age_s == 3600.0
    assert later.status == "stale"
    assert later.low[0] > twin.blood(now_us, (0.0,)).low[0]
    with pytest.raises(InputError, match="horizons"):
        twin.blood(now_us, (-1.0,))
    empty = Twin().blood(now_us, (0.0, 60.0))
    assert np.isfinite(empty.mean).all()
    assert empty.low.min() > 30.0
