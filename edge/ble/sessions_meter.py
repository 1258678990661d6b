"""Logbook glucose meter: fingersticks, and in their context meals and pen doses.

One record gives up to three samples with its sequence number: smbg_mgdl, carbs_g, and bolus_u (rapid or
short acting) or long_acting_u (intermediate or long acting). Pre-mixed insulin and insulin by mass fit no
kind without guessing; they are counted. The meter's clock has no zone; it is the person's.
"""

from __future__ import annotations

from typing import ClassVar, Final

from core.errors import DecodeError
from core.messages import Quality, Sample
from core.units import US_PER_MIN
from edge.ble.profiles import glucose, uuids
from edge.ble.profiles.glucose import GlucoseContext, GlucoseMeasurement, MeterStatus
from edge.ble.profiles.moments import utc_us
from edge.ble.profiles.racp import Racp
from edge.ble.sessions_history import HistorySession, Outcome, racp_outcome
from edge.ble.sessions_machine import Input

_WARNING: Final = (
    MeterStatus.MALFUNCTION
    | MeterStatus.SAMPLE_TOO_SMALL
    | MeterStatus.STRIP_INSERTION
    | MeterStatus.STRIP_TYPE
    | MeterStatus.RESULT_TOO_HIGH
    | MeterStatus.RESULT_TOO_LOW
    | MeterStatus.TEMPERATURE_HIGH
    | MeterStatus.TEMPERATURE_LOW
    | MeterStatus.INTERRUPTED
    | MeterStatus.GENERAL_FAULT
)
_INSULIN_KINDS: Final = {
    glucose.RAPID: "bolus_u",
    glucose.SHORT: "bolus_u",
    glucose.INTERMEDIATE: "long_acting_u",
    glucose.LONG: "long_acting_u",
}


class MeterSession(HistorySession[GlucoseMeasurement]):
    """Service 0x1808."""

    required: ClassVar = (uuids.GLUCOSE_MEASUREMENT, uuids.RACP)
    reads: ClassVar = (uuids.GLUCOSE_FEATURE,)
    subscriptions: ClassVar = (uuids.GLUCOSE_MEASUREMENT, uuids.GLUCOSE_CONTEXT, uuids.RACP)
    control_point: ClassVar = uuids.RACP
    record_uuids: ClassVar = (uuids.GLUCOSE_MEASUREMENT, uuids.GLUCOSE_CONTEXT)

    def _reset(self) -> None:
        super()._reset()
        self._contexts: dict[int, GlucoseContext] = {}

    def _read(self, uuid: int, data: bytes) -> None:
        self._tell(meter_features=glucose.GlucoseFeature.from_bytes(data).bits)

    def _subscribed(self) -> None:
        self._ask(Input.ASK)

    def _ask_message(self, everything: bool) -> bytes:
        first = self._first_wanted()
        if everything or first is None:
            return bytes(Racp.report_all())
        return bytes(Racp.report_from(min(first, 0xFFFF)))

    def _newest_message(self) -> bytes:
        return bytes(Racp.report_newest())

    def _dates(self, run: list[GlucoseMeasurement]) -> list[int | None]:
        moments = [self._moment(record) for record in run]
        return [None if moment is None else moment[0] for moment in moments]

    def _moment(self, record: GlucoseMeasurement) -> tuple[int, bool] | None:
        wall_us = record.base.wall_us()
        if wall_us is None:
            return None
        return utc_us(wall_us + (record.offset_min or 0) * US_PER_MIN, self.timezone)

    def _outcome(self, data: bytes) -> Outcome | None:
        return racp_outcome(data)

    def _decode(
        self, uuid: int, data: bytes
    ) -> tuple[list[tuple[int, GlucoseMeasurement]], list[DecodeError]]:
        try:
            if uuid == uuids.GLUCOSE_CONTEXT:
                context = GlucoseContext.from_bytes(data)
                if self._floor is None or context.sequence > self._floor:
                    self._contexts[context.sequence] = context
                return [], []
            record = GlucoseMeasurement.from_bytes(data)
        except DecodeError as err:
            return [], [err]
        return [(record.sequence, record)], []

    def _lacks_context(self, record: GlucoseMeasurement) -> bool:
        return record.context_follows and record.sequence not in self._contexts

    def _incomplete(self) -> bool:
        return any(self._lacks_context(record) for record in self._held.values())

    def _convert(self, run: list[GlucoseMeasurement], final: bool) -> tuple[list[Sample], int]:
        samples: list[Sample] = []
        for count, record in enumerate(run):
            if self._lacks_context(record) and not final:
                return samples, count
            samples += self._samples(record, self._contexts.pop(record.sequence, None))
        return samples, len(run)

    def _samples(self, record: GlucoseMeasurement, context: GlucoseContext | None) -> list[Sample]:
        moment = self._moment(record)
        if moment is None:
            self._count("no_time")
            return []
        time_us, doubtful = moment
        quality = Quality.GOOD
        if doubtful or record.annunciation & MeterStatus.TIME_FAULT:
            quality |= Quality.CLOCK_DOUBT
        samples: list[Sample] = []
        part = record.concentration
        if part is not None and part.control_solution:
            self._count("skipped.control_solution")
        elif part is not None:
            doubt = Quality.SENSOR_WARNING if record.annunciation & _WARNING else Quality.GOOD
            samples += self._sample(
                "smbg_mgdl", part.mgdl, time_us, record.sequence, quality | doubt, part.glucose.special
            )
        if context is not None and context.carbohydrate is not None:
            meal = context.carbohydrate
            samples += self._sample(
                "carbs_g", meal.grams, time_us, record.sequence, quality, meal.mass_kg.special
            )
        if context is not None and context.medication is not None:
            dose = context.medication
            kind = _INSULIN_KINDS.get(dose.code)
            if kind is None or not dose.by_volume:
                self._count("unmapped.medication")
            else:
                samples += self._sample(
                    kind, dose.units_u100, time_us, record.sequence, quality, dose.amount.special
                )
        return samples
