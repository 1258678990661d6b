"""What fingersticks say of the sensor's error, and that futures for advice are of blood."""

from __future__ import annotations

import pytest

from core.blood import LEAST_SD_MGDL, SPAN_US, USUAL_SD_MGDL, BloodError, blood_error
from core.messages import Sample
from core.record import Record
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN

START_US = 1_767_225_600_000_000
NOW_US = START_US + 10 * US_PER_DAY


def record(differences: list[float], apart_min: float = 2.0, age_us: int = 8 * US_PER_DAY) -> Record:
    """A reading each half day, and a fingerstick ``apart_min`` after it that differs from it by so much."""
    samples = []
    for k, difference in enumerate(differences):
        at_us = NOW_US - age_us + k * 12 * US_PER_H
        stick_us = at_us + round(apart_min * US_PER_MIN)
        samples.append(Sample(at_us, "cgm_mgdl", 120.0 + k, "cgm", k))
        samples.append(Sample(stick_us, "smbg_mgdl", 120.0 + k + difference, "meter", k))
    made = Record()
    made.add(samples)
    return made


def test_without_fingersticks_it_is_the_usual_sensor() -> None:
    assert blood_error(Record(), NOW_US) == BloodError(0.0, pytest.approx(USUAL_SD_MGDL))
    assert blood_error(record([-40.0] * 6, apart_min=12.0), NOW_US).mean_mgdl == 0.0  # no reading beside them
    assert (
        blood_error(record([-40.0] * 6, age_us=SPAN_US + 7 * US_PER_DAY), NOW_US).mean_mgdl == 0.0
    )  # long ago


def test_a_sensor_that_reads_high_lowers_the_futures_by_less_than_was_seen() -> None:
    found = blood_error(record([-20.0] * 12), NOW_US)
    # Normal prior of SD 8, twelve measurements of SD 13: precision 1/64 + 12/169.
    assert found.mean_mgdl == pytest.approx(-20.0 * (12 / 169) / (1 / 64 + 12 / 169))
    few = blood_error(record([-20.0] * 2), NOW_US)
    assert few.mean_mgdl == pytest.approx(-20.0 * (2 / 169) / (1 / 64 + 2 / 169))
    assert few.sd_mgdl == pytest.approx((1 / 64 + 2 / 169) ** -0.5)
    assert found.sd_mgdl == LEAST_SD_MGDL  # sensors are changed: never as sure as 14 fingersticks would be


def test_a_sensor_that_reads_low_is_no_reason_for_more_insulin() -> None:
    high = blood_error(record([30.0] * 12), NOW_US)
    assert high.mean_mgdl > 10.0
    assert high.cautious_mgdl == 0.0


def test_what_comes_later_is_not_known() -> None:
    told = record([-20.0] * 12)
    assert blood_error(told, NOW_US - 9 * US_PER_DAY) == blood_error(Record(), NOW_US)
