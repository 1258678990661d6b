"""Devices without numbered records, driven by bytes."""

from __future__ import annotations

import pytest

from core.errors import LinkError
from core.messages import Quality
from tests.edge.ble.sessions.desk import Desk, us

NOON = "EA 07 07 01 0C 00 00"  # 12:00 in London, 11:00 UTC
T = us("2026-07-01T11:00:00")
NOW = us("2026-07-01T12:00:00")
HR, BATTERY, MAKER, MODEL, FIRMWARE = 0x2A37, 0x2A19, 0x2A29, 0x2A24, 0x2A26


def strap() -> Desk:
    values = {BATTERY: "5A", MAKER: "48 6F 6D 65", MODEL: "53 31", FIRMWARE: "31 2E 32"}
    return Desk("heart_rate", values, {HR}).start()


def test_strap_tells_what_it_is_and_then_listens() -> None:
    made = strap()
    assert made.state == "live"
    assert made.session.idle
    assert made.subscribed == [HR, BATTERY]
    assert made.facts == {"battery_pct": 90, "manufacturer": "Home", "model": "S1", "firmware": "1.2"}


def test_battery_notification_is_a_fact_told_once() -> None:
    made = strap()
    made.facts.clear()
    made.value(BATTERY, "05")
    assert made.facts == {"battery_pct": 5}
    made.facts.clear()
    made.value(BATTERY, "05")
    assert made.facts == {}
    made.value(BATTERY, "65")
    assert made.counts["decode_error.reserved"] == 1


def test_heart_rate_is_numbered_by_its_time_and_thinned_to_one_a_minute() -> None:
    made = strap()
    for _ in range(125):
        made.value(HR, "00 3C")
        made.now_us += 1_000_000
    assert [(s.kind, s.value) for s in made.samples] == [("heart_rate_bpm", 60.0)] * 3
    assert [s.seq - NOW for s in made.samples] == [0, 60_000_000, 120_000_000]
    assert all(s.seq == s.time_us for s in made.samples)


def test_heart_rate_without_skin_contact_is_doubted_and_zero_is_refused() -> None:
    made = strap()
    made.value(HR, "04 3C")
    assert made.samples[0].quality == Quality.SENSOR_WARNING
    made.now_us += 60_000_000
    made.value(HR, "00 00")
    assert len(made.samples) == 1
    assert made.counts["implausible.heart_rate_bpm"] == 1


def test_clock_that_steps_back_repeats_no_number() -> None:
    made = strap()
    made.value(HR, "00 3C")
    made.now_us -= 5_000_000
    made.value(HR, "00 3D")
    assert len(made.samples) == 1


def test_damaged_notification_is_counted_and_life_goes_on() -> None:
    made = strap()
    made.value(HR, "10 3C")
    assert made.counts["decode_error.truncated"] == 1
    made.value(HR, "00 3C")
    assert len(made.samples) == 1


def test_cuff_gives_pressures_and_pulse_with_its_own_time() -> None:
    made = Desk("blood_pressure", {}, {0x2A35}).start()
    made.value(0x2A35, f"06 78 00 50 00 5D 00 {NOON} 48 00")
    assert made.got() == [("sbp_mmhg", 120.0, T), ("dbp_mmhg", 80.0, T), ("heart_rate_bpm", 72.0, T)]
    assert all(s.quality == Quality.BACKFILLED for s in made.samples)
    made.value(0x2A35, f"06 78 00 50 00 5D 00 {NOON} 48 00")  # sent again after a reconnection
    assert len(made.samples) == 3
    assert made.counts["duplicate"] == 3


def test_cuff_in_kilopascal_is_converted() -> None:
    made = Desk("blood_pressure", {}, {0x2A35}).start()
    made.value(0x2A35, "01 A0 F0 6A F0 7C F0")
    assert made.samples[0].value == pytest.approx(120.01, abs=0.01)
    assert made.samples[0].time_us == NOW


def test_cuff_that_failed_gives_nothing() -> None:
    made = Desk("blood_pressure", {}, {0x2A35}).start()
    made.value(0x2A35, "00 FF 07 FF 07 FF 07")
    assert made.samples == []
    assert made.counts["no_value.nan"] == 2


def test_loose_cuff_is_doubted() -> None:
    made = Desk("blood_pressure", {}, {0x2A35}).start()
    made.value(0x2A35, "10 78 00 50 00 5D 00 02 00")
    assert made.samples[0].quality == Quality.SENSOR_WARNING


def test_oximeter_spot_check_and_live_value() -> None:
    made = Desk("pulse_oximeter", {}, {0x2A5E, 0x2A5F}).start()
    made.value(0x2A5E, f"01 61 00 48 00 {NOON}")
    assert made.got() == [("spo2_pct", 97.0, T), ("heart_rate_bpm", 72.0, T)]
    made.value(0x2A5F, "00 60 00 49 00")
    made.now_us += 1_000_000
    made.value(0x2A5F, "00 60 00 49 00")
    assert made.got()[2:] == [("spo2_pct", 96.0, NOW), ("heart_rate_bpm", 73.0, NOW)]


def test_oximeter_demonstration_is_no_measurement() -> None:
    made = Desk("pulse_oximeter", {}, {0x2A5F}).start()
    made.value(0x2A5F, "04 61 00 48 00 00 04")
    assert made.samples == []
    assert made.counts["skipped.not_a_measurement"] == 1


def test_oximeter_with_an_unset_clock_is_doubted() -> None:
    made = Desk("pulse_oximeter", {}, {0x2A5E}).start()
    made.value(0x2A5E, f"11 61 00 48 00 {NOON}")
    assert made.samples[0].quality & Quality.CLOCK_DOUBT


def test_scale_and_thermometer() -> None:
    scale = Desk("weight", {}, {0x2A9D}).start()
    scale.value(0x2A9D, f"02 B0 36 {NOON}")
    scale.value(0x2A9D, "00 FF FF")
    assert scale.got() == [("weight_kg", 70.0, T)]
    assert scale.counts["no_value.absent"] == 1
    thermometer = Desk("thermometer", {}, {0x2A1C}).start()
    thermometer.value(0x2A1C, f"02 6C 01 00 FF {NOON}")
    thermometer.value(0x2A1C, "00 FF FF 7F 00")
    assert thermometer.got() == [("temp_c", 36.4, T)]
    assert thermometer.counts["no_value.nan"] == 1


def test_measurement_with_an_unknown_date_is_now_and_doubted() -> None:
    scale = Desk("weight", {}, {0x2A9D}).start()
    scale.value(0x2A9D, "02 B0 36 00 00 00 00 00 00 00")
    assert scale.samples[0].time_us == NOW
    assert scale.samples[0].quality == Quality.CLOCK_DOUBT


def test_wearable_needs_only_its_alert_level() -> None:
    watch = Desk("alert", {BATTERY: "32"}, {0x2A06}).start()
    assert watch.state == "live"
    assert watch.facts == {"battery_pct": 50}
    assert watch.writes == []


def test_failed_subscription_to_what_matters_closes_the_link() -> None:
    made = Desk("heart_rate", {}, {HR})
    made.hold_answers = True
    made.start()
    made.fail(LinkError("refused"))
    assert isinstance(made.closed, LinkError)
    assert made.state == "closed"
