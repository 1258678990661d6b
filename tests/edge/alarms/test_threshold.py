"""Threshold alarms: raised once, cleared with hysteresis, silent about the past."""

from __future__ import annotations

import math
from itertools import count

import pytest

from core import lows
from core.clock import ScaledClock, SystemClock
from core.messages import Alarm, Forecast, Quality, Sample
from core.units import US_PER_MIN
from edge.alarms.threshold import (
    CHANCE_OF_MGDL,
    HIGH,
    MILD,
    PREDICTED_LOW_HORIZON_MIN,
    ThresholdAlarms,
)
from edge.config import AlarmConfig
from edge.steady import stretch_us

T0_US = 1_700_000_000_000_000


@pytest.fixture
def alarms() -> ThresholdAlarms:
    numbers = count(1)
    return ThresholdAlarms(AlarmConfig(), lambda: next(numbers))


def reading(minute: float, mgdl: float) -> Sample:
    t_us = T0_US + round(minute * US_PER_MIN)
    return Sample(t_us, "cgm_mgdl", mgdl, "cgm", t_us // US_PER_MIN)


def feed(
    alarms: ThresholdAlarms, minute: float, mgdl: float, late_min: float = 0.0
) -> list[tuple[str, bool]]:
    now_us = T0_US + round((minute + late_min) * US_PER_MIN)
    return names(alarms.on_samples((reading(minute, mgdl),), now_us))


def names(changes: list[Alarm]) -> list[tuple[str, bool]]:
    return [(a.name, a.raised) for a in changes]


def forecast(
    p50_mgdl: float, age_s: float = 60.0, status: str = "ok", low_chance: float = math.nan
) -> Forecast:
    one = (p50_mgdl,)
    return Forecast(T0_US, "glucose/1", (30.0,), one, (9.0,), one, one, one, age_s, status, low_chance)


def test_a_low_rings_once_and_clears_only_on_the_safe_side(alarms: ThresholdAlarms) -> None:
    assert feed(alarms, 0, 69) == [("low", True)]
    assert feed(alarms, 5, 68) == []
    assert feed(alarms, 10, 72) == []
    assert feed(alarms, 15, 75) == [("low", False)]


def test_an_urgent_low_is_stronger_and_separate(alarms: ThresholdAlarms) -> None:
    assert feed(alarms, 0, 53) == [("urgent_low", True), ("low", True)]
    assert alarms.level == HIGH
    assert feed(alarms, 5, 60) == [("urgent_low", False)]
    assert alarms.level == MILD


def test_the_threshold_itself_is_not_low(alarms: ThresholdAlarms) -> None:
    assert feed(alarms, 0, 70) == []
    assert feed(alarms, 5, 250) == []
    assert feed(alarms, 10, 250.1) == [("high", True)]


def test_a_reading_from_the_past_raises_nothing(alarms: ThresholdAlarms) -> None:
    assert feed(alarms, 0, 50, late_min=12) == []


def test_a_backfilled_older_reading_does_not_hide_the_newest(alarms: ThresholdAlarms) -> None:
    feed(alarms, 20, 65)
    now_us = T0_US + 21 * US_PER_MIN
    assert alarms.on_samples((reading(5, 200),), now_us) == []
    assert set(alarms.active) == {"low"}


def test_silence_is_an_alarm_and_keeps_the_low_standing(alarms: ThresholdAlarms) -> None:
    feed(alarms, 0, 65)
    assert names(alarms.on_time(T0_US + 21 * US_PER_MIN)) == [("signal_loss", True)]
    assert set(alarms.active) == {"low", "signal_loss"}
    assert feed(alarms, 22, 90) == [("signal_loss", False), ("low", False)]


def test_silence_counts_from_the_start_when_no_reading_ever_came(alarms: ThresholdAlarms) -> None:
    assert alarms.on_time(T0_US) == []
    assert names(alarms.on_time(T0_US + 21 * US_PER_MIN)) == [("signal_loss", True)]


def test_on_a_fast_clock_start_up_and_transport_are_no_silence() -> None:
    fast = ScaledClock(lambda: 0, 300.0, 0, 0)
    assert stretch_us(SystemClock(lambda: 0), 5.0) == 0
    transport_us, start_up_us = stretch_us(fast, 5.0), stretch_us(fast, 20.0)
    numbers = count(1)
    hurried = ThresholdAlarms(
        AlarmConfig(), lambda: next(numbers), transport_us=transport_us, start_up_us=start_up_us
    )
    assert hurried.on_time(T0_US) == []
    assert hurried.on_time(T0_US + 60 * US_PER_MIN) == []  # 12 real seconds after the start
    assert feed(hurried, 61, 100) == []
    assert hurried.on_time(T0_US + 101 * US_PER_MIN) == []  # 8 real seconds of silence
    assert names(hurried.on_time(T0_US + 110 * US_PER_MIN)) == [("signal_loss", True)]


def test_a_predicted_low_needs_fresh_data_and_yields_to_a_real_one(alarms: ThresholdAlarms) -> None:
    assert alarms.on_forecast(forecast(65, age_s=900), T0_US) == []
    assert alarms.on_forecast(forecast(65, status="warming_up"), T0_US) == []
    assert names(alarms.on_forecast(forecast(65), T0_US)) == [("predicted_low", True)]
    feed(alarms, 0, 69)
    assert names(alarms.on_forecast(forecast(60), T0_US)) == [("predicted_low", False)]


def test_a_likely_low_rings_before_its_median_and_once(alarms: ThresholdAlarms) -> None:
    def hear(chance: float, p50_mgdl: float = 85.0) -> list[tuple[str, bool]]:
        return names(alarms.on_forecast(forecast(p50_mgdl, low_chance=chance), T0_US))

    assert hear(0.9) == []  # nothing read yet: it cannot be told from a low that is there
    feed(alarms, 0, 90)
    assert hear(0.34) == []
    assert hear(0.35) == [("predicted_low", True)]
    assert hear(0.15) == []
    assert hear(math.nan, 74.9) == []  # not over by the median either
    assert hear(0.149) == [("predicted_low", False)]
    assert hear(0.1, 69.0) == [("predicted_low", True)]  # the median alone still rings …
    assert hear(0.1, 72.0) == []
    assert hear(math.nan, 75.0) == [("predicted_low", False)]  # … and without a chance all is as it was


@pytest.mark.parametrize(("age_s", "status"), [(900.0, "ok"), (60.0, "warming_up"), (60.0, "stale")])
def test_a_chance_from_old_data_or_an_unready_twin_rings_nothing(
    alarms: ThresholdAlarms, age_s: float, status: str
) -> None:
    feed(alarms, 0, 90)
    assert alarms.on_forecast(forecast(85, age_s, status, 0.9), T0_US) == []


def test_a_chance_is_no_news_when_the_low_is_there(alarms: ThresholdAlarms) -> None:
    feed(alarms, 0, 90)
    alarms.on_forecast(forecast(85, low_chance=0.6), T0_US)
    assert feed(alarms, 5, 68) == [("low", True)]
    assert names(alarms.on_forecast(forecast(66, low_chance=1.0), T0_US)) == [("predicted_low", False)]
    assert alarms.on_forecast(forecast(66, low_chance=1.0), T0_US) == []


def test_who_asked_to_be_warned_further_down_is_not_rung_for_70() -> None:
    numbers = count(1)
    alarms = ThresholdAlarms(AlarmConfig(low_mgdl=60.0), lambda: next(numbers))
    feed(alarms, 0, 75)
    assert alarms.on_forecast(forecast(66, low_chance=0.9), T0_US) == []
    assert names(alarms.on_forecast(forecast(59, low_chance=0.9), T0_US)) == [("predicted_low", True)]
    assert names(alarms.on_forecast(forecast(66, low_chance=0.9), T0_US)) == [("predicted_low", False)]


def test_the_alarms_speak_of_the_same_low_as_the_twin() -> None:
    assert CHANCE_OF_MGDL == lows.LOW_MGDL
    assert PREDICTED_LOW_HORIZON_MIN == lows.WITHIN_MIN


def test_an_amended_or_deleted_reading_rings_nothing(alarms: ThresholdAlarms) -> None:
    gone = Sample(T0_US, "cgm_mgdl", 0.0, "hand", 1, int(Quality.BY_HAND), amends=("cgm", 5), deleted=True)
    assert alarms.on_samples((gone,), T0_US) == []


def test_every_change_has_its_own_rising_number_and_the_age_of_its_reading(alarms: ThresholdAlarms) -> None:
    raised = alarms.on_samples((reading(0, 50),), T0_US + 2 * US_PER_MIN)
    cleared = alarms.on_samples((reading(5, 120),), T0_US + 5 * US_PER_MIN)
    numbers = [a.number for a in raised + cleared]
    assert numbers == sorted(set(numbers))
    assert raised[0].data_age_s == 120.0


def test_a_reading_from_the_future_neither_rings_nor_hides_the_real_ones(alarms: ThresholdAlarms) -> None:
    ahead = reading(60 * 24, 120)
    assert alarms.on_samples((ahead,), T0_US) == []
    assert feed(alarms, 0, 40) == [("urgent_low", True), ("low", True)]
    assert names(alarms.on_time(T0_US + 21 * US_PER_MIN)) == [("signal_loss", True)]


def test_silence_is_noticed_although_the_clock_was_set_back(alarms: ThresholdAlarms) -> None:
    alarms.on_samples((reading(0, 120),), T0_US, steady_us=0)
    year_ago_us = T0_US - 365 * 24 * 60 * US_PER_MIN
    assert alarms.on_time(year_ago_us, steady_us=5 * US_PER_MIN) == []
    assert names(alarms.on_time(year_ago_us, steady_us=21 * US_PER_MIN)) == [("signal_loss", True)]


def test_what_a_person_typed_does_not_hide_what_the_sensor_sees(alarms: ThresholdAlarms) -> None:
    t_us = T0_US + 4 * US_PER_MIN
    typed = Sample(t_us, "cgm_mgdl", 300, "hand", 1, int(Quality.BY_HAND))
    assert alarms.on_samples((typed,), t_us) == []
    assert feed(alarms, 0, 45, late_min=5) == [("urgent_low", True), ("low", True)]


def test_a_predicted_low_ends_with_its_forecast(alarms: ThresholdAlarms) -> None:
    alarms.on_samples((reading(0, 100),), T0_US)
    assert names(alarms.on_forecast(forecast(65), T0_US)) == [("predicted_low", True)]
    assert names(alarms.on_time(T0_US + 12 * US_PER_MIN)) == [("predicted_low", False)]


def test_after_a_restart_a_standing_signal_loss_stands_until_a_reading_comes(alarms: ThresholdAlarms) -> None:
    lost = Alarm(1, T0_US, "signal_loss", MILD, True, float("nan"), 1300.0)
    alarms.active["signal_loss"] = lost
    assert alarms.on_time(T0_US) == []
    assert feed(alarms, 1, 120) == [("signal_loss", False)]


def test_the_hubs_own_troubles_are_alarms(alarms: ThresholdAlarms) -> None:
    assert names(alarms.on_health(True, False, T0_US, 0)) == [("store_failed", True)]
    assert names(alarms.on_health(False, True, T0_US, 0)) == [("store_failed", False)]
    assert names(alarms.on_health(False, True, T0_US, 16 * US_PER_MIN)) == [("engine_down", True)]
    assert alarms.level == 0
    assert names(alarms.on_health(True, True, T0_US, 17 * US_PER_MIN)) == [("engine_down", False)]
