"""The pump's history, driven by bytes; the event sequences follow annex D of the specification."""

from __future__ import annotations

import pytest

from core.errors import LinkTimeout, ProcedureError
from core.messages import Quality
from tests.edge.ble.sessions.desk import Desk, octets, us

CHANGED, STATUS, FEATURES, READER, RACP, HISTORY = 0x2B20, 0x2B21, 0x2B23, 0x2B24, 0x2B27, 0x2B28
PLAIN = "FF FF 00 64 00 22 00 00"  # no protection; basal rate and fast bolus
ALL = "33 33"
SUCCESS = (RACP, "0F 0F 33 F0")
NONE_FOUND = (RACP, "0F 0F 33 06")
RESET_DONE = (READER, "03 03 0C 03 0F")
T = us("2026-07-01T11:00:00")  # the reference time of every test: 12:00 in London


def head(event_type: int, seq: int, offset_s: int) -> str:
    number = seq.to_bytes(4, "little").hex(" ")
    return f"{event_type & 255:02X} {event_type >> 8:02X} {number} {offset_s & 255:02X} {offset_s >> 8:02X}"


def reference(seq: int, hour: int = 12, reason: str = "3C", zone: str = "00 04") -> tuple[int, str]:
    return HISTORY, f"{head(0x0F, seq, 0)} {reason} EA 07 07 01 {hour:02X} 00 00 {zone}"


def programmed(seq: int, offset_s: int, bolus: int = 1) -> tuple[int, str]:
    return HISTORY, f"{head(0x5A, seq, offset_s)} {bolus:02X} 00 33 2D F0 00 00 00 00"


def delivered(seq: int, offset_s: int, tail: str = "33 2D F0 00 00 00 00", bolus: int = 1) -> tuple[int, str]:
    """Fast, 4.5 U, unless told otherwise."""
    return HISTORY, f"{head(0x69, seq, offset_s)} {bolus:02X} 00 {tail}"


def delivered_2(seq: int, offset_s: int, start_s: int = 0) -> tuple[int, str]:
    return HISTORY, f"{head(0x96, seq, offset_s)} 00 {start_s & 255:02X} {start_s >> 8:02X} 00 00"


def basal(seq: int, offset_s: int, hundredths: int = 82) -> tuple[int, str]:
    """From 0.38 U/h to so many hundredths."""
    return HISTORY, f"{head(0x99, seq, offset_s)} 00 26 E0 {hundredths:02X} E0"


def desk(
    *records: tuple[int, str],
    cursors: dict[str, int] | None = None,
    changed: str = "00 00",
    now: str = "2026-07-01T12:00:00",
) -> Desk:
    values = {FEATURES: PLAIN, STATUS: "55 96 78 00 01", CHANGED: changed}
    made = Desk("insulin_pump", values, {READER, RACP, HISTORY}, cursors=cursors, now=now)
    if records:
        made.on_write(RACP, *records, SUCCESS)
    return made


def test_history_becomes_boluses_and_basal_rates() -> None:
    made = desk(
        reference(0),
        basal(1, 60),
        programmed(2, 600),
        delivered(3, 660),
        delivered_2(4, 660, start_s=5),
        basal(5, 1200, 38),
    ).start()
    assert made.written(RACP) == [ALL]
    assert made.got() == [("basal_uph", 0.82, 1), ("bolus_u", 4.5, 3), ("basal_uph", 0.38, 5)]
    assert [sample.time_us - T for sample in made.samples] == [60_000_000, 605_000_000, 1_200_000_000]
    assert made.facts["reservoir_u"] == 120.0
    assert made.facts["therapy_control"] == "run"
    assert made.facts["insulin_u_per_ml"] == 100.0
    assert made.state == "live"


def test_bolus_without_its_programming_is_timed_by_its_own_record() -> None:
    made = desk(reference(0), delivered(3, 660), delivered_2(4, 660, start_s=5)).start()
    assert made.samples[0].time_us == T + 660_000_000


def test_multiwave_bolus_keeps_amount_and_mean_time() -> None:
    """Annex D.3: programmed at 12:58, started a minute later, two minutes long. 1.0 U fast, 2.0 U extended."""
    made = desk(
        reference(5),
        (HISTORY, f"{head(0x5A, 10, 3480)} 01 00 55 0A F0 14 F0 02 00"),
        reference(50, hour=13),
        delivered(51, 60, "55 0A F0 14 F0 02 00"),
        delivered_2(52, 60, start_s=60),
    ).start()
    assert made.got() == [("bolus_u", 1.0, 51), ("bolus_u", 2.0, 52)]
    started_us = T + (3480 + 60) * 1_000_000
    assert [sample.time_us for sample in made.samples] == [started_us, started_us + 60_000_000]


def test_extended_bolus_gives_one_sample() -> None:
    made = desk(reference(0), delivered(1, 3600, "3C 00 00 14 F0 3C 00"), delivered_2(2, 3600)).start()
    assert made.got() == [("bolus_u", 2.0, 2)]
    assert made.samples[0].time_us == T + 1_800_000_000


def test_set_clock_counts_from_the_new_reference() -> None:
    """Annex D.1: the user sets the clock back; later offsets count from there."""
    made = desk(
        reference(0, reason="33"),
        delivered(5, 30),
        delivered_2(6, 30),
        reference(10, hour=11, reason="33"),
        delivered(11, 10, bolus=2),
        delivered_2(12, 10),
    ).start()
    assert [sample.time_us - T for sample in made.samples] == [30_000_000, -3_590_000_000]
    assert [sample.seq for sample in made.samples] == [5, 11]


def test_time_after_a_lost_clock_is_doubted() -> None:
    made = desk(reference(0, reason="55"), basal(1, 30)).start()
    assert made.samples[0].quality & Quality.CLOCK_DOUBT


def test_reference_of_another_zone_is_honoured() -> None:
    made = desk(
        reference(0, zone="EC 04"), basal(1, 0), now="2026-07-01T17:00:00"
    ).start()  # New York in summer
    assert made.samples[0].time_us == us("2026-07-01T16:00:00")


def test_reference_with_base_offset_is_honoured() -> None:
    made = desk((HISTORY, f"{head(0x33, 0, 0)} 3C EA 07 07 01 0B 00 00 3C 00"), basal(1, 0)).start()
    assert made.samples[0].time_us == T  # 11:00 + 60 min on the pump's face


def test_event_without_any_reference_is_counted_never_dated_by_guess() -> None:
    made = desk(basal(1, 60), reference(2), basal(3, 60)).start()
    assert made.got() == [("basal_uph", 0.82, 3)]
    assert made.counts["no_time"] == 1


def test_other_events_are_counted_by_name() -> None:
    made = desk(
        reference(0),
        (HISTORY, f"{head(0x0330, 1, 5)} 78 00"),
        (HISTORY, f"{head(0x0303, 2, 5)} 33 55"),
        (HISTORY, f"{head(0xF001, 3, 5)} 01 02 03"),
        basal(4, 60),
    ).start()
    assert made.counts["skipped.reservoir"] == 1
    assert made.counts["skipped.therapy_control"] == 1
    assert made.counts["skipped.manufacturer"] == 1
    assert made.got() == [("basal_uph", 0.82, 4)]


def test_data_corruption_event_is_no_place_in_the_history() -> None:
    made = desk(reference(0), (HISTORY, f"{head(0x03A6, 0xFFFFFFFF, 0)}"), basal(2, 60)).start()
    assert made.counts["skipped.data_corruption"] == 1
    made.on_write(RACP, NONE_FOUND)
    made.tick(real_s=6, twin_min=6)
    assert made.written(RACP)[-1] == "33 55 0F 03 00 00 00"


def test_reconnection_reaches_back_for_its_reference() -> None:
    made = desk(
        *(reference(450),),
        *(basal(seq, 60) for seq in range(451, 500)),
        basal(501, 120, 50),
        cursors={"bolus_u": 480, "basal_uph": 500},
    ).start()
    assert made.written(RACP) == ["33 55 0F B5 01 00 00"]  # 501 - 64 = 437 = 0x01B5
    assert made.got() == [("basal_uph", 0.5, 501)]
    assert made.samples[0].time_us == T + 120_000_000


def test_reconnection_reaches_further_when_the_reference_is_not_there() -> None:
    made = desk(basal(490, 60), basal(501, 120), cursors={"basal_uph": 500})
    made.on_write(RACP, reference(100), basal(490, 60), basal(501, 120), SUCCESS)
    made.start()
    assert made.written(RACP) == ["33 55 0F B5 01 00 00", ALL]
    assert made.got() == [("basal_uph", 0.82, 501)]


def test_second_request_of_a_link_does_not_reach_back() -> None:
    made = desk(reference(450), basal(501, 120), cursors={"basal_uph": 500}).start()
    made.on_write(RACP, basal(502, 180), SUCCESS)
    made.tick(real_s=6, twin_min=6)
    assert made.written(RACP)[-1] == "33 55 0F F6 01 00 00"
    assert made.samples[-1].time_us == T + 180_000_000


def test_history_event_resets_the_status_before_it_asks() -> None:
    made = desk(reference(0), basal(1, 60)).start()
    made.on_write(READER, RESET_DONE)
    made.on_write(RACP, basal(2, 120, 50), SUCCESS)
    made.value(CHANGED, "80 00")
    assert made.writes[-2:] == [(READER, "0C 03 80 00"), (RACP, "33 55 0F 02 00 00 00")]
    assert made.got()[-1] == ("basal_uph", 0.5, 2)
    assert made.state == "live"


def test_status_that_is_set_at_first_contact_is_reset_then() -> None:
    made = desk(reference(0), basal(1, 60), changed="80 00")
    made.on_write(READER, RESET_DONE)
    made.start()
    assert made.writes == [(READER, "0C 03 80 00"), (RACP, ALL)]


def test_event_recorded_during_a_transfer_is_fetched_after_it() -> None:
    made = desk(reference(0), basal(1, 60), (CHANGED, "80 00"))
    made.on_write(READER, RESET_DONE)
    made.on_write(RACP, basal(2, 120), SUCCESS)
    made.start()
    assert [sample.seq for sample in made.samples] == [1, 2]
    assert made.written(READER) == ["0C 03 80 00"]


def test_pump_that_will_not_reset_still_gives_its_history() -> None:
    made = desk(reference(0), basal(1, 60), changed="80 00")
    made.on_write(READER, (READER, "03 03 0C 03 70"))
    made.start()
    assert made.counts["procedure_error.reset_status"] == 1
    assert made.got() == [("basal_uph", 0.82, 1)]


def test_reservoir_change_is_read() -> None:
    made = desk(reference(0)).start()
    made.values[STATUS].append(octets("33 96 0A 00 01"))
    made.values[STATUS].popleft()
    made.on_write(READER, RESET_DONE)
    made.on_write(RACP, NONE_FOUND)
    made.value(CHANGED, "05 00")
    assert made.facts["reservoir_u"] == 10.0
    assert made.facts["therapy_control"] == "stop"


def test_bolus_parts_that_arrive_in_different_batches_stay_together() -> None:
    events = [reference(0), *(basal(seq, seq) for seq in range(1, 63))]
    made = desk(*events, programmed(63, 600)).start()
    assert len(made.samples) == 62
    made = desk(
        *events[:-1], programmed(62, 600), delivered(63, 660), delivered_2(64, 660, start_s=7)
    ).start()
    assert made.got()[-1] == ("bolus_u", 4.5, 63)
    assert made.samples[-1].time_us == T + 607_000_000


def test_truncated_record_is_asked_for_again() -> None:
    made = desk(reference(0), (HISTORY, head(0x69, 1, 60) + " 01 00 33 2D"), delivered_2(2, 60))
    made.on_write(RACP, reference(0), delivered(1, 60), delivered_2(2, 60), SUCCESS)
    made.start()
    assert made.counts["decode_error.truncated"] == 1
    assert made.got() == [("bolus_u", 4.5, 1)]


def test_bolus_of_nothing_is_a_record_too() -> None:
    made = desk(reference(0), delivered(1, 60, "33 00 00 00 00 00 00"), delivered_2(2, 60)).start()
    assert made.got() == [("bolus_u", 0.0, 1)]


def test_amount_that_is_no_number_is_counted() -> None:
    made = desk(
        reference(0), delivered(1, 60, "33 FF 07 00 00 00 00"), delivered_2(2, 60), basal(3, 90)
    ).start()
    assert made.got() == [("basal_uph", 0.82, 3)]
    assert made.counts["no_value.nan"] == 1


@pytest.mark.parametrize("code", ["02", "03", "05"])
def test_refused_history_closes_the_link(code: str) -> None:
    made = desk()
    made.on_write(RACP, (RACP, f"0F 0F 33 {code}"))
    made.start()
    assert isinstance(made.closed, ProcedureError)


def test_success_of_the_common_racp_is_no_success_here() -> None:
    made = desk()
    made.on_write(RACP, (RACP, "0F 0F 33 01"))
    made.start()
    assert isinstance(made.closed, ProcedureError)


def test_silent_pump_is_closed() -> None:
    made = desk().start()
    made.tick(real_s=31)
    assert isinstance(made.closed, LinkTimeout)


def protected_desk(*records: tuple[int, str]) -> Desk:
    # CRC over counter 1, 100 U/mL, flags 0x000023; it stands first
    body = octets("01 64 00 23 00 00 CRC")
    features = (body[-2:] + body[:-2]).hex(" ")
    values = {FEATURES: features, STATUS: "55 96 78 00 01 01 CRC", CHANGED: "80 00 01 CRC"}
    made = Desk("insulin_pump", values, {READER, RACP, HISTORY})
    made.on_write(READER, (READER, "03 03 0C 03 0F 01 CRC"))
    made.on_write(RACP, *[(uuid, text + " CRC") for uuid, text in records], (RACP, "0F 0F 33 F0 01 CRC"))
    return made


def test_protected_pump_gets_and_gives_counters_and_crcs() -> None:
    made = protected_desk(reference(0), basal(1, 60)).start()
    assert made.got() == [("basal_uph", 0.82, 1)]
    assert made.written(READER) == [octets("0C 03 80 00 01 CRC").hex(" ").upper()]
    assert made.written(RACP) == [octets("33 33 01 CRC").hex(" ").upper()]
    assert not made.counts
    made.on_write(RACP, (RACP, "0F 0F 33 06 02 CRC"))
    made.tick(real_s=6, twin_min=6)
    assert made.written(RACP)[-1] == octets("33 55 0F 02 00 00 00 02 CRC").hex(" ").upper()
    assert not made.counts


def test_counter_out_of_sequence_is_counted() -> None:
    made = protected_desk(reference(0)).start()
    made.on_write(RACP, (RACP, "0F 0F 33 06 07 CRC"))
    made.tick(real_s=6, twin_min=6)
    assert made.counts["e2e_counter.out_of_sequence"] == 1
    assert made.state == "live"


def test_protected_record_with_a_bad_crc_is_refused_and_fetched_again() -> None:
    made = protected_desk(reference(0))
    made.script[RACP].clear()
    good, bad = basal(1, 60)[1] + " CRC", basal(1, 60, 99)[1] + " 12 34"
    made.on_write(RACP, (HISTORY, reference(0)[1] + " CRC"), (HISTORY, bad), (RACP, "0F 0F 33 F0 01 CRC"))
    made.on_write(RACP, (HISTORY, reference(0)[1] + " CRC"), (HISTORY, good), (RACP, "0F 0F 33 F0 02 CRC"))
    made.start()
    assert made.counts["decode_error.crc"] == 1
    assert made.got() == [("basal_uph", 0.82, 1)]


def test_pump_is_never_commanded() -> None:
    made = protected_desk(reference(0), basal(1, 60)).start()
    assert {uuid for uuid, _ in made.writes} <= {READER, RACP}


def test_clock_set_back_while_a_bolus_runs_does_not_move_its_start_past_its_end() -> None:
    made = desk(
        reference(0),
        programmed(1, 3000),
        reference(2, hour=11, reason="33"),
        delivered(3, 60),
        delivered_2(4, 60, start_s=5),
    ).start()
    assert made.samples[0].time_us == T - 3_600_000_000 + 60_000_000
