"""What the twin makes of a noisy sensor, of a sensor that is lain on, and of glucose that really falls."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from core.gate import SC_LN_SENSOR
from core.messages import Sample
from core.models import hovorka as model
from core.twin import Patient, Twin
from firmware_sim.person import VirtualPerson
from firmware_sim.person_cgm import AVERAGE_NOISE, SensorErrors
from tests.core.people import MIN_US, START_US, live

START_MIN = START_US // MIN_US


def samples_of(seed: int, days: float, **options: object) -> tuple[VirtualPerson, list[Sample]]:
    person = VirtualPerson(seed, **options)  # type: ignore[arg-type]
    events = person.events(START_US, days)
    return person, [Sample(t, kind, value, "sim", i) for i, (t, kind, value) in enumerate(events)]


def told(person: VirtualPerson, samples: list[Sample]) -> Twin:
    twin = Twin(Patient(weight_kg=person.weight_kg, timezone="UTC"))
    twin.observe(samples)
    twin.estimate(samples[-1].time_us)
    return twin


def sensor_sd(twin: Twin) -> float:
    assert twin._track is not None
    return float(twin._track.dynamics[model.SENSOR, 2])


def test_size_of_sensor_error_is_found_and_calibration_keeps_it() -> None:
    noisy = [sensor_sd(told(*samples_of(seed, 5.0, sensor=AVERAGE_NOISE))) for seed in (102, 103, 104)]
    assert AVERAGE_NOISE.error_sd() == pytest.approx(8.1, abs=0.1)
    assert min(noisy) > 6.5
    assert max(noisy) < 12.0
    quiet = SensorErrors(1.0, 0.0, 0.0, 0.0, 1.2604, -0.4022, 1.6, 0)
    assert sensor_sd(told(*samples_of(102, 5.0, sensor=quiet))) < 6.0


def test_sensor_as_good_as_the_nominal_one_is_not_trusted_less() -> None:
    life = live(5.0, seed=5)  # this person's sensor errs by the nominal 5 mg/dL
    twin = Twin(Patient(weight_kg=75.0, timezone="UTC"))
    twin.observe(life.samples)
    twin.estimate(life.samples[-1].time_us)
    assert twin._track is not None
    assert twin._track.scalars[SC_LN_SENSOR] < 0.35


def test_glucose_production_stays_near_its_prior_and_sensitivity_follows_a_step() -> None:
    shares = []
    for seed in (101, 102, 104):
        found = []
        for change in ((), ((5.0, 0.7),)):
            estimate = told(*samples_of(seed, 7.0, sensor=AVERAGE_NOISE, sensitivity_change=change)).estimate(
                START_US + 7 * 1440 * MIN_US
            )
            assert abs(estimate.mean[model.LN_EGP0]) < 0.2
            found.append(estimate.mean[model.LN_S])
        shares.append((found[1] - found[0]) / math.log(0.7))
    assert min(shares) > 0.25
    assert np.mean(shares) > 0.38


def with_change(samples: list[Sample], change: Callable[[int], float]) -> list[Sample]:
    """The record with ``change`` (mg/dL, by minute of the record) added to what the sensor shows."""
    return [
        msgspec.structs.replace(s, value=max(40.0, s.value + change(s.time_us // MIN_US - START_MIN)))
        if s.kind == "cgm_mgdl"
        else s
        for s in samples
    ]


def moved_by(person: VirtualPerson, plain: list[Sample], changed: list[Sample], minute: int) -> float:
    """How much less interstitial glucose (mg/dL) the twin believes in at ``minute``."""
    at = START_US + minute * MIN_US
    values = [told(person, s).estimate(at).mean[model.N_LINEAR + model.C] for s in (plain, changed)]
    return (values[1] - values[0]) * 18.0156


def test_compression_lows_are_flagged_and_mostly_not_followed() -> None:
    begin, span, depth = 4 * 1440 + 150, 30, 38.0

    def press(minute: int) -> float:
        into, left = minute - begin, begin + span - minute
        return 0.0 if into < 0 or left < 0 else -depth * min(1.0, (into + 1) / 2.0, (left + 1) / 5.0)

    during = []
    for seed in (101, 102, 104, 105, 106):
        person, samples = samples_of(seed, 4.15, sensor=AVERAGE_NOISE)
        pressed = with_change(samples, press)
        during.append(moved_by(person, samples, pressed, begin + 20))
        assert abs(moved_by(person, samples, pressed, begin + span + 25)) < 12.0
        end = START_US + (begin + span) * MIN_US
        flags = [len(told(person, record).outliers(end)) for record in (samples, pressed)]
        assert flags[1] > flags[0]
    assert np.median(during) > -0.5 * depth


@pytest.mark.parametrize("hour", [3, 15])
def test_real_fast_fall_is_followed(hour: int) -> None:
    person, samples = samples_of(103, 4.0 + (hour + 2) / 24, sensor=AVERAGE_NOISE)
    samples = with_change(samples, lambda _: 60.0)  # room to fall in
    begin = 4 * 1440 + hour * 60
    course = [0.0]
    plasma = 0.0
    for minute in range(90):  # −3.5 mg/dL/min for 25 min, seen through the interstitium
        plasma -= 3.5 if minute < 25 else 0.0
        course.append(course[-1] + (plasma - course[-1]) / 10.7)
    falling = with_change(samples, lambda m: course[min(max(m - begin, 0), 90)])
    for minute in (20, 30, 40):
        assert moved_by(person, samples, falling, begin + minute) == pytest.approx(course[minute], abs=15.0)


def test_rough_sensor_is_not_taken_for_a_restless_body() -> None:
    rough = SensorErrors(
        1.0, 0.0, 0.0, 0.0, 0.7, 0.0, 5.0, 0
    )  # first-order, SD 7 mg/dL, much of it new each time
    effects = []
    for seed in (102, 104):
        person, samples = samples_of(seed, 4.5, sensor=rough)
        twin = told(person, samples)
        now = samples[-1].time_us
        plain = np.array(twin.forecast(now, (120.0, 180.0)).forecast.mean)
        dose = [Sample(now, "bolus_u", 1.0, "plan", 1)]
        effects.append(np.array(twin.forecast(now, (120.0, 180.0), dose).forecast.mean) - plain)
        assert twin._track is not None
        assert abs(twin._track.mean[model.LN_S] - twin._track.nominal.dynamics[model.LN_S, 0]) < 1.2
    assert np.mean(effects, axis=0)[1] < -7.0  # it used to see nothing but noise: −1 mg/dL


def test_share_of_meals_that_shows_up_is_learned_and_lasts() -> None:
    shares = []
    for over in (1.0, 2.0):
        life = live(8.0, seed=3)
        counted = [
            msgspec.structs.replace(s, value=s.value * over) if s.kind == "carbs_g" else s
            for s in life.samples
        ]
        twin = Twin(Patient(weight_kg=75.0, timezone="UTC"))
        twin.observe(counted)
        shares.append(twin.estimate(counted[-1].time_us).mean[model.LN_AG])
    assert shares[1] - shares[0] < -0.35  # the truth: −0.69
