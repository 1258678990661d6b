"""Continuous glucose monitor: session start, history, live values.

A record is numbered by its time: session start plus time offset, in whole minutes since the Unix epoch, so
numbers go on rising from one sensor to the next. The session start time is written only when the sensor has
none: another value would renumber records that are already stored.

A sensor that was never started is started and dated. One that is stopped gives its history first, and is
started only when that history is durable, because starting a session erases it (CGMS 3.7.2.8).
"""

from __future__ import annotations

from typing import ClassVar, Final

from core.errors import DecodeError, ProcedureError
from core.messages import Quality, Sample
from core.units import US_PER_MIN
from edge.ble.profiles import cgm_ops, uuids
from edge.ble.profiles.cgm import (
    Annunciation,
    CgmFeature,
    CgmMeasurement,
    CgmRunTime,
    CgmSessionStart,
    CgmStatus,
    salvage,
)
from edge.ble.profiles.moments import ZonedTime
from edge.ble.profiles.racp import Racp
from edge.ble.profiles.wire import reason_of
from edge.ble.sessions_history import HistorySession, Outcome, racp_outcome
from edge.ble.sessions_machine import FUTURE_TOLERANCE_US, LEAD_MOST_US, Input, State
from edge.ble.sessions_types import Action, Read, Write

DEFAULT_INTERVAL_MIN: Final = 5
# A step of more than one and a half intervals between records means that one is missing.
GAP_INTERVALS: Final = 1.5
# Without a value for this many intervals the sensor is asked whether it has some: a notification may have
# been lost with a link that came back unnoticed. Twin time; POLL_S keeps real time between requests.
SILENCE_INTERVALS: Final = 2.5

BEHIND_WARNING: Final = (
    "its clock is behind the newest reading stored, so its readings are taken for old ones: "
    "restart or replace the sensor, or give it a new source name in the configuration"
)

# The sensor itself doubts the value.
_WARNING: Final = (
    Annunciation.TYPE_INCORRECT
    | Annunciation.MALFUNCTION
    | Annunciation.GENERAL_FAULT
    | Annunciation.CALIBRATION_REQUIRED
    | Annunciation.CALIBRATION_PENDING
    | Annunciation.TEMPERATURE_HIGH
    | Annunciation.TEMPERATURE_LOW
    | Annunciation.BELOW_DEVICE_RANGE
    | Annunciation.ABOVE_DEVICE_RANGE
)


class CgmSession(HistorySession[CgmMeasurement]):
    """Service 0x181F."""

    required: ClassVar = (
        uuids.CGM_MEASUREMENT,
        uuids.CGM_FEATURE,
        uuids.CGM_STATUS,
        uuids.CGM_SESSION_START,
        uuids.RACP,
    )
    reads: ClassVar = (uuids.CGM_FEATURE, uuids.CGM_STATUS, uuids.CGM_SESSION_START, uuids.CGM_RUN_TIME)
    subscriptions: ClassVar = (uuids.CGM_OPS, uuids.RACP, uuids.CGM_MEASUREMENT)
    control_point: ClassVar = uuids.RACP
    record_uuids: ClassVar = (uuids.CGM_MEASUREMENT,)
    numbers_are_counted: ClassVar = False
    clocks: ClassVar = (uuids.CGM_STATUS, uuids.CURRENT_TIME)

    def _reset(self) -> None:
        super()._reset()
        self._e2e = False
        self._bits = Annunciation(0)
        self._status_offset_min: int | None = None
        self._status_window = (0, 0)  # when the status was asked for and answered
        self._start_us: int | None = None  # microseconds UTC of offset zero
        self._start_doubt = False
        self._interval_min = DEFAULT_INTERVAL_MIN

    def _begun(self) -> None:
        if self._floor is not None and self._is_ahead(self._floor):
            # All is fetched; what the store has already it knows by its number.
            self._count("cursor.ahead")
            self._floor = None

    def _is_ahead(self, seq: int) -> bool:
        return seq * US_PER_MIN > self._now_us + FUTURE_TOLERANCE_US + LEAD_MOST_US

    # --- identify, pace, start, date ---

    def _read(self, uuid: int, data: bytes) -> None:
        if uuid == uuids.CGM_FEATURE:
            self._e2e = CgmFeature.from_bytes(data).e2e
        elif uuid == uuids.CGM_STATUS:
            status = CgmStatus.from_bytes(data, self._e2e)
            self._bits, self._status_offset_min = status.annunciation, status.offset_min
            self._status_window = (self._issued_us, self._now_us)
            self._check_clock()
        elif uuid == uuids.CGM_RUN_TIME:
            self._tell(run_time_h=CgmRunTime.from_bytes(data, self._e2e).run_h)
        elif uuid == uuids.CGM_SESSION_START:
            self._take_start(CgmSessionStart.from_bytes(data, self._e2e).start)

    def _take_start(self, start: ZonedTime) -> None:
        moment = start.utc_us(self.timezone)
        if self._state is State.DATING:
            if moment is None:
                self._fail(
                    ProcedureError(
                        "the sensor did not take its session start time",
                        where=self.source,
                        mend="restart or replace the sensor",
                    )
                )
                return
            self._bits &= ~(Annunciation.SESSION_STOPPED | Annunciation.TIME_SYNC_REQUIRED)
        if moment is None:
            return
        self._start_us, self._start_doubt = moment
        self._tell(session_start_us=self._start_us)
        if self._state is State.DATING:
            self._clock_doubt = False
            self._lead_us = None
            self._ask(Input.ASK)
        else:
            self._check_clock()

    def _check_clock(self) -> None:
        """Compare the sensor's present offset with now, once both it and the start are known."""
        running = not self._bits & (Annunciation.SESSION_STOPPED | Annunciation.TIME_SYNC_REQUIRED)
        if running and self._start_us is not None and self._status_offset_min is not None:
            sensor_us = self._start_us + self._status_offset_min * US_PER_MIN
            self._compare_clock(sensor_us, US_PER_MIN, self._status_window)
            behind = self._floor is not None and sensor_us + FUTURE_TOLERANCE_US < self._floor * US_PER_MIN
            if behind:
                self._count("sequence.restarted")
            if behind or self._facts.get("numbers_warning"):
                self._tell(numbers_warning=BEHIND_WARNING if behind else "")

    def _subscribed(self) -> None:
        self._tell(session_running=int(not self._bits & Annunciation.SESSION_STOPPED))
        if uuids.CGM_OPS in self._present:
            self._move(Input.PREPARE)
            self._operate(cgm_ops.Op.GET_INTERVAL)
        else:
            self._prepared()

    def _prepared(self) -> None:
        stopped = bool(self._bits & Annunciation.SESSION_STOPPED)
        undated = self._start_us is None or bool(self._bits & Annunciation.TIME_SYNC_REQUIRED)
        if not undated:
            self._ask(Input.ASK)
        elif stopped and uuids.CGM_OPS in self._present:
            # Records of a session without a start time cannot be dated; nothing is lost by starting anew.
            self._start_session()
        else:
            self._date_session()

    def _start_session(self) -> None:
        self._move(Input.START)
        self._operate(cgm_ops.Op.START_SESSION)

    def _date_session(self) -> None:
        self._move(Input.DATE)
        self._start_us = None
        start = CgmSessionStart(ZonedTime.local(self._now_us, self.timezone), self._e2e)
        self._queue.append(Write(uuids.CGM_SESSION_START, bytes(start)))
        self._queue.append(Read(uuids.CGM_SESSION_START))

    def _operate(self, op: cgm_ops.Op) -> None:
        self._queue.append(Write(uuids.CGM_OPS, bytes(cgm_ops.CgmOps(op, None, self._e2e))))

    def _value(self, uuid: int, data: bytes) -> None:
        if uuid == uuids.CGM_OPS:
            self._operated(data)
        elif uuid == uuids.CGM_MEASUREMENT and self._start_us is None:
            self._count("no_time")  # comes again with the history, once the session is dated
        else:
            super()._value(uuid, data)

    def _operated(self, data: bytes) -> None:
        """The specific ops control point answered."""
        try:
            message = cgm_ops.CgmOps.from_bytes(data, self._e2e)
        except DecodeError as err:
            self._count(f"decode_error.{reason_of(err)}")
            message = None  # the procedure is over, how it went is unknown
        operand = message.operand if message else None
        if self._state is State.PREPARING:
            if isinstance(operand, cgm_ops.Interval) and 0 < operand.minutes < 0xFF:
                self._interval_min = operand.minutes
            self._tell(interval_min=self._interval_min)
            self._prepared()
        elif self._state is State.STARTING:
            success = cgm_ops.Response(cgm_ops.Op.START_SESSION, cgm_ops.ResponseCode.SUCCESS)
            if operand == success:
                self._date_session()
            else:
                self._not_started()
        else:
            self._count("unexpected.ops")

    def _not_started(self) -> None:
        """A sensor at the end of its life refuses. Nothing more comes from it; a person must act."""
        self._count("procedure_error.start_session")
        self._tell(session_running=0)
        self.idle = True
        self._move(Input.LISTEN)

    def _survives(self, action: Action) -> bool:
        if isinstance(action, Write) and action.uuid == uuids.CGM_OPS:
            if self._state is State.PREPARING:
                self._prepared()
                return True
            if self._state is State.STARTING:
                self._not_started()
                return True
        return False

    def _history_done(self) -> None:
        self._tell(session_running=int(not self._bits & Annunciation.SESSION_STOPPED))
        if self._bits & Annunciation.SESSION_STOPPED and uuids.CGM_OPS in self._present:
            self._move(Input.KEEP)
            if not self._unstored:
                self._start_session()
        else:
            self._move(Input.LISTEN)

    def _all_stored(self) -> None:
        if self._state is State.STORING:
            self._start_session()

    # --- records ---

    @property
    def _start_min(self) -> int:
        return 0 if self._start_us is None else self._start_us // US_PER_MIN

    def _ask_message(self, everything: bool) -> bytes:
        first = self._first_wanted()
        offset_min = 0 if first is None else first - self._start_min
        if everything or offset_min <= 0:
            return bytes(Racp.report_all())
        return bytes(Racp.report_from(min(offset_min, 0xFFFF)))

    def _outcome(self, data: bytes) -> Outcome | None:
        return racp_outcome(data)

    def _decode(self, uuid: int, data: bytes) -> tuple[list[tuple[int, CgmMeasurement]], list[DecodeError]]:
        good, bad = salvage(data, self._e2e)
        return [(self._start_min + record.offset_min, record) for record in good], bad

    def _dated_by_key(self, key: int) -> int | None:
        return key * US_PER_MIN

    def _neighbours(self, key: int, later: int) -> bool:
        return later - key <= GAP_INTERVALS * self._interval_min

    def _convert(self, run: list[CgmMeasurement], final: bool) -> tuple[list[Sample], int]:
        samples: list[Sample] = []
        history_age_us = int(GAP_INTERVALS * self._interval_min * US_PER_MIN)
        for record in run:
            bits = record.annunciation
            quality = Quality.SENSOR_WARNING if bits & _WARNING else Quality.GOOD
            if bits & Annunciation.TIME_SYNC_REQUIRED or self._start_doubt:
                quality |= Quality.CLOCK_DOUBT
            samples += self._sample(
                "cgm_mgdl",
                record.glucose_mgdl.number,
                (self._start_us or 0) + record.offset_min * US_PER_MIN,
                self._start_min + record.offset_min,
                quality,
                record.glucose_mgdl.special,
                history_age_us,
            )
        return samples, len(run)

    def _poll_due(self, span_us: int, since_us: int | None = None) -> bool:
        silence_us = int(SILENCE_INTERVALS * self._interval_min * US_PER_MIN)
        newest_us = (self._floor or 0) * US_PER_MIN
        return self._start_us is not None and super()._poll_due(silence_us, newest_us)
