"""Insulin pump: its history becomes bolus_u and basal_uph. The hub never steers the pump.

Time of an event is the last Reference Time before it plus its relative offset (IDS 3.10.4.3). After a
reconnection the reference lies before the records that are wanted, so the request reaches back as far as it
must, with the one filter every pump has to support.

A bolus is two events. Its fast part is one sample at the start of delivery, numbered like part 1; its
extended part is one sample in the middle of its duration, numbered like part 2: the same insulin with the
same mean time. A kind that carries a duration would be better.
"""

from __future__ import annotations

from typing import ClassVar, Final

from core.errors import DecodeError
from core.messages import Quality, Sample
from core.units import US_PER_MIN, US_PER_S
from edge.ble.profiles import insulin, insulin_racp, uuids
from edge.ble.profiles.ieee11073 import SFloat
from edge.ble.profiles.insulin import Protection, StatusFlag, next_counter
from edge.ble.profiles.insulin_history import (
    CORRUPTION_SEQUENCE,
    BasalRateChanged,
    BolusDelivered2,
    BolusPart1,
    BolusType,
    EventType,
    HistoryRecord,
    RecordingReason,
    ReferenceTime,
    ReferenceTimeBaseOffset,
)
from edge.ble.profiles.insulin_racp import IddRacp, ResponseCode
from edge.ble.profiles.moments import utc_us
from edge.ble.profiles.wire import reason_of
from edge.ble.sessions_history import MAX_HELD, HistorySession, Outcome
from edge.ble.sessions_machine import Input, State
from edge.ble.sessions_types import Action, Read, Write

# How far a request reaches back for a reference time: a pump with a change of rate every five minutes and a
# reference every hour has one within 64 records; IDS allows 65535 s between two, 1024 covers that too.
REACH_BACK: Final = (64, 1024, 0xFFFF_FFFF)
# Programmed boluses whose delivery has not been reported yet; pumps run one of each type at a time.
MAX_PROGRAMMED: Final = 64

_STATUS_BITS: Final = StatusFlag.THERAPY_CONTROL | StatusFlag.OPERATIONAL | StatusFlag.RESERVOIR
_OUTCOMES: Final[dict[int, Outcome]] = {
    ResponseCode.SUCCESS: Outcome.ALL_SENT,
    ResponseCode.NO_RECORDS: Outcome.ALL_SENT,
    ResponseCode.OPERATOR_NOT_SUPPORTED: Outcome.NOT_SUPPORTED,
    ResponseCode.OPERAND_NOT_SUPPORTED: Outcome.NOT_SUPPORTED,
    ResponseCode.NOT_COMPLETED: Outcome.TRY_LATER,
    ResponseCode.NOT_APPLICABLE: Outcome.TRY_LATER,
}


class PumpSession(HistorySession[HistoryRecord]):
    """Service 0x183A."""

    required: ClassVar = (uuids.IDD_FEATURES, uuids.IDD_RACP, uuids.IDD_HISTORY)
    reads: ClassVar = (uuids.IDD_FEATURES, uuids.IDD_STATUS, uuids.IDD_STATUS_CHANGED)
    subscriptions: ClassVar = (
        uuids.IDD_STATUS_READER,
        uuids.IDD_RACP,
        uuids.IDD_HISTORY,
        uuids.IDD_STATUS_CHANGED,
    )
    control_point: ClassVar = uuids.IDD_RACP
    record_uuids: ClassVar = (uuids.IDD_HISTORY,)

    def _reset(self) -> None:
        super()._reset()
        self._e2e = False
        self._sent: dict[int, int] = {}  # characteristic -> last E2E-Counter sent
        self._seen: dict[int, int] = {}  # characteristic -> last E2E-Counter received
        self._changed = StatusFlag(0)  # set bits of IDD Status Changed that are not reset yet
        self._reference: tuple[int, bool] | None = None  # microseconds UTC, doubtful
        self._programmed: dict[int, int] = {}  # bolus identifier -> when it was programmed
        self._before: dict[int, HistoryRecord] = {}  # records before the wanted ones, for their reference
        self._reach = 0

    # --- protection ---

    def _protection(self, uuid: int) -> Protection | None:
        if not self._e2e:
            return None
        self._sent[uuid] = next_counter(self._sent.get(uuid, 0))
        return Protection(self._sent[uuid])

    def _check_counter(self, uuid: int, protection: Protection | None) -> None:
        """Count a message out of sequence. Its CRC is right, so it is used; records have their own numbers."""
        if protection is None:
            return
        if protection.counter != next_counter(self._seen.get(uuid, 0)):
            self._count("e2e_counter.out_of_sequence")
        self._seen[uuid] = protection.counter

    # --- identify, listen to changes ---

    def _read(self, uuid: int, data: bytes) -> None:
        if uuid == uuids.IDD_FEATURES:
            features = insulin.IddFeatures.from_bytes(data)
            self._e2e = features.e2e
            concentration = features.concentration_u_per_ml.number
            if concentration is not None:
                self._tell(insulin_u_per_ml=concentration)
        elif uuid == uuids.IDD_STATUS:
            status = insulin.IddStatus.from_bytes(data, self._e2e)
            self._check_counter(uuid, status.protection)
            self._tell(therapy_control=status.therapy_name)
            reservoir_u = status.reservoir_u.number
            if reservoir_u is not None:
                self._tell(reservoir_u=reservoir_u)
        elif uuid == uuids.IDD_STATUS_CHANGED:
            self._status_changed(data)

    def _status_changed(self, data: bytes) -> None:
        changed = insulin.IddStatusChanged.from_bytes(data, self._e2e)
        self._check_counter(uuids.IDD_STATUS_CHANGED, changed.protection)
        self._changed = StatusFlag(changed.flags) & (_STATUS_BITS | StatusFlag.HISTORY_EVENT)

    def _subscribed(self) -> None:
        self._refresh()

    def _refresh(self) -> None:
        """Reset the status first, then ask: an event between the two sets the bit again."""
        if self._changed and uuids.IDD_STATUS_READER in self._present:
            self._move(Input.PREPARE)
            reset = insulin.StatusReader.reset(self._changed, self._protection(uuids.IDD_STATUS_READER))
            if self._changed & _STATUS_BITS and uuids.IDD_STATUS in self._present:
                self._queue.append(Read(uuids.IDD_STATUS))
            self._queue.append(Write(uuids.IDD_STATUS_READER, bytes(reset)))
            self._changed = StatusFlag(0)
        else:
            again = self._state in (State.ASKING, State.RECEIVING)
            self._ask(Input.AGAIN if again else Input.ASK)

    def _value(self, uuid: int, data: bytes) -> None:
        if uuid == uuids.IDD_STATUS_CHANGED:
            self._status_changed(data)
            if self._changed and self._state is State.LIVE:
                self._refresh()
            elif self._changed & StatusFlag.HISTORY_EVENT:
                self._more_wanted = True
        elif uuid == uuids.IDD_STATUS_READER:
            self._status_reset(data)
        else:
            super()._value(uuid, data)

    def _status_reset(self, data: bytes) -> None:
        if self._state is not State.PREPARING:
            self._count("unexpected.status_reader")
            return
        try:
            answer = insulin.StatusReader.from_bytes(data, self._e2e)
            self._check_counter(uuids.IDD_STATUS_READER, answer.protection)
            if answer.response != (insulin.READER_RESET_STATUS, insulin.READER_SUCCESS):
                self._count("procedure_error.reset_status")
        except DecodeError as err:
            self._count(f"decode_error.{reason_of(err)}")
        self._ask(Input.ASK)  # with or without the reset, history is what matters

    def _survives(self, action: Action) -> bool:
        if action == Read(uuids.IDD_STATUS):
            return True
        if (
            isinstance(action, Write)
            and action.uuid == uuids.IDD_STATUS_READER
            and self._state is State.PREPARING
        ):
            self._count("procedure_error.reset_status")
            self._ask(Input.ASK)
            return True
        return False

    # --- history ---

    def _ask_message(self, everything: bool) -> bytes:
        protection = self._protection(uuids.IDD_RACP)
        first = self._first_wanted()
        if first is not None and self._reference is None:
            first = max(0, first - REACH_BACK[self._reach])
        if everything or first is None or first == 0:
            return bytes(IddRacp.report_all(protection))
        return bytes(IddRacp.report_from(min(first, 0xFFFF_FFFF), protection))

    def _newest_message(self) -> bytes:
        return bytes(IddRacp.report_newest(self._protection(uuids.IDD_RACP)))

    def _outcome(self, data: bytes) -> Outcome | None:
        answer = IddRacp.from_bytes(data, self._e2e)
        self._check_counter(uuids.IDD_RACP, answer.protection)
        if answer.response is None or answer.response[0] != insulin_racp.Op.REPORT:
            return None
        return _OUTCOMES.get(answer.response[1], Outcome.REFUSED)

    def _decode(self, uuid: int, data: bytes) -> tuple[list[tuple[int, HistoryRecord]], list[DecodeError]]:
        try:
            record = HistoryRecord.from_bytes(data, self._e2e)
        except DecodeError as err:
            return [], [err]
        if record.event_type == EventType.DATA_CORRUPTION or record.sequence == CORRUPTION_SEQUENCE:
            self._count("skipped.data_corruption")  # the pump lost an event of its own
            return [], []
        return [(record.sequence, record)], []

    def _old_record(self, key: int, record: HistoryRecord) -> None:
        if self._reference is None and len(self._before) < MAX_HELD:
            self._before[key] = record

    def _reach_back(self) -> bool:
        if self._reference is not None or self._floor is None or not self._held:
            return False
        known = (*self._before.values(), self._held[min(self._held)])
        if any(isinstance(record.event, ReferenceTime | ReferenceTimeBaseOffset) for record in known):
            return False
        if self._reach + 1 >= len(REACH_BACK) or self._ask_for_all:
            return False
        self._reach += 1
        return True

    def _dates(self, run: list[HistoryRecord]) -> list[int | None]:
        self._learn()
        reference_us = None if self._reference is None else self._reference[0]
        dates: list[int | None] = []
        for record in run:
            if isinstance(record.event, _REFERENCES):
                moment = self._moment(record.event)
                reference_us = None if moment is None else moment[0]
            dates.append(None if reference_us is None else reference_us + record.offset_s * US_PER_S)
        return dates

    def _moment(self, event: ReferenceTime | ReferenceTimeBaseOffset) -> tuple[int, bool] | None:
        if isinstance(event, ReferenceTime):
            return event.at.utc_us(self.timezone)
        wall_us = event.base.wall_us()
        return None if wall_us is None else utc_us(wall_us + event.offset_min * US_PER_MIN, self.timezone)

    def _convert(self, run: list[HistoryRecord], final: bool) -> tuple[list[Sample], int]:
        self._learn()
        if self._reference is None and not final and not isinstance(run[0].event, _REFERENCES):
            return [], 0
        samples: list[Sample] = []
        at = 0
        while at < len(run):
            record = run[at]
            follower = run[at + 1] if at + 1 < len(run) else None
            if record.event_type == EventType.BOLUS_DELIVERED_1:
                if follower is None and not final:
                    break
                second = follower.event if follower is not None and _is_second(record, follower) else None
                samples += self._bolus(record, second if isinstance(second, BolusDelivered2) else None)
            elif record.event_type == EventType.BASAL_RATE_CHANGED:
                samples += self._basal(record)
            elif not self._place(record) and record.event_type != EventType.BOLUS_DELIVERED_2:
                self._count(f"skipped.{record.name}")
            at += 1
        return samples, at

    def _learn(self) -> None:
        """Take the reference time from the records before the wanted ones."""
        for key in sorted(self._before):
            self._place(self._before[key])
        self._before.clear()

    def _history_done(self) -> None:
        self._learn()
        super()._history_done()

    def _place(self, record: HistoryRecord) -> bool:
        """Remember what later events refer to; False when nothing does."""
        event = record.event
        if isinstance(event, ReferenceTime | ReferenceTimeBaseOffset):
            self._set_reference(self._moment(event), event.reason)
        elif isinstance(event, BolusPart1) and record.event_type == EventType.BOLUS_PROGRAMMED_1:
            if self._reference is not None:
                self._programmed[event.bolus_id] = self._reference[0] + record.offset_s * US_PER_S
                while len(self._programmed) > MAX_PROGRAMMED:
                    del self._programmed[next(iter(self._programmed))]
        else:
            return False
        return True

    def _set_reference(self, moment: tuple[int, bool] | None, reason: int) -> None:
        lost = reason == RecordingReason.DATE_TIME_LOSS
        self._reference = None if moment is None else (moment[0], moment[1] or lost)

    def _when(self, record: HistoryRecord) -> tuple[int, Quality] | None:
        if self._reference is None:
            self._count("no_time")
            return None
        reference_us, doubtful = self._reference
        quality = Quality.CLOCK_DOUBT if doubtful else Quality.GOOD
        return reference_us + record.offset_s * US_PER_S, quality

    def _basal(self, record: HistoryRecord) -> list[Sample]:
        when = self._when(record)
        if when is None or not isinstance(record.event, BasalRateChanged):
            return []
        rate = record.event.new_uph
        return self._sample("basal_uph", rate.number, when[0], record.sequence, when[1], rate.special)

    def _bolus(self, record: HistoryRecord, second: BolusDelivered2 | None) -> list[Sample]:
        when = self._when(record)
        event = record.event
        if when is None or not isinstance(event, BolusPart1):
            return []
        end_us, quality = when
        duration_us = event.duration_min * US_PER_MIN
        start_us = end_us - duration_us
        programmed_us = self._programmed.pop(event.bolus_id, None)
        if programmed_us is not None and second is not None:
            told_us = programmed_us + second.start_offset_s * US_PER_S
            if told_us <= end_us:  # a clock set between the two events makes the sum meaningless
                start_us = told_us
        samples: list[Sample] = []
        kind = event.bolus_type
        if kind != BolusType.EXTENDED and (kind != BolusType.UNDETERMINED or event.fast_u.number):
            samples += self._amount(event.fast_u, start_us, record.sequence, quality)
        if kind in (BolusType.EXTENDED, BolusType.MULTIWAVE) or (
            kind != BolusType.FAST and event.extended_u.number
        ):
            middle_us = start_us + duration_us // 2
            samples += self._amount(event.extended_u, middle_us, record.sequence + 1, quality)
        return samples

    def _amount(self, amount: SFloat, time_us: int, seq: int, quality: Quality) -> list[Sample]:
        return self._sample("bolus_u", amount.number, time_us, seq, quality, amount.special)


_REFERENCES: Final = (ReferenceTime, ReferenceTimeBaseOffset)


def _is_second(first: HistoryRecord, record: HistoryRecord) -> bool:
    return record.event_type == EventType.BOLUS_DELIVERED_2 and record.sequence == first.sequence + 1
