"""Sessions of devices without numbered records: heart rate, blood pressure, oximeter, scale, thermometer.

A sample is numbered by its time. Devices with a memory of their own (cuff, scale, thermometer) send stored
measurements with a time stamp after the connection, the oldest first; what is already durable is counted as
a duplicate. A cuff or scale that several people share does not say reliably who stood on it, so it must be
used by one person only.
"""

from __future__ import annotations

from typing import ClassVar, Final

from core.messages import Quality
from core.units import US_PER_S
from edge.ble.profiles import uuids
from edge.ble.profiles.blood_pressure import BloodPressureMeasurement, PressureStatus
from edge.ble.profiles.heart_rate import BodySensorLocation, HeartRateMeasurement
from edge.ble.profiles.ieee11073 import Float32, SFloat
from edge.ble.profiles.moments import DateTime, utc_us
from edge.ble.profiles.pulse_oximeter import Oximetry, PlxContinuous, PlxSpotCheck, PlxStatus, Remarks
from edge.ble.profiles.thermometer import TemperatureMeasurement
from edge.ble.profiles.weight import WeightMeasurement
from edge.ble.sessions_machine import FUTURE_TOLERANCE_US, LEAD_MOST_US, Machine

# A strap notifies every second; the twin needs about one value a minute. A real value is kept, none is
# averaged. Twin time, so a fast clock loses nothing.
LIVE_SPACING_US: Final = 60 * US_PER_S


class LiveSession(Machine):
    """Adds the time of a measurement to the machine."""

    def _moment(self, at: DateTime | None, believed: bool = True) -> tuple[int, Quality]:
        """When a measurement was made; now when it has no time stamp, now with doubt when a broken one.

        A time stamp in the future is a broken one: such devices send a measurement once, and forget it.
        """
        if at is None:
            return self._now_us, Quality.GOOD
        wall_us = at.wall_us()
        if wall_us is None:
            return self._now_us, Quality.CLOCK_DOUBT
        time_us, doubtful = utc_us(wall_us, self.timezone)
        if time_us > self._latest_us:
            self._count("implausible.time")
            return self._now_us, Quality.CLOCK_DOUBT
        return time_us, Quality.CLOCK_DOUBT if doubtful or not believed else Quality.GOOD

    def _hand_out(
        self, kind: str, value: float | None, moment: tuple[int, Quality], number: SFloat | Float32 | None
    ) -> None:
        special = None if number is None else number.special
        self._emit(self._sample(kind, value, moment[0], moment[0], moment[1], special))

    def _is_ahead(self, seq: int) -> bool:
        return seq > self._now_us + FUTURE_TOLERANCE_US + LEAD_MOST_US

    def _too_soon(self, kind: str) -> bool:
        last_us = self._emitted.get(kind)
        return last_us is not None and last_us < self._now_us < last_us + LIVE_SPACING_US


class HeartRateSession(LiveSession):
    """Service 0x180D."""

    required: ClassVar = (uuids.HEART_RATE_MEASUREMENT,)
    reads: ClassVar = (uuids.BODY_SENSOR_LOCATION,)
    subscriptions: ClassVar = (uuids.HEART_RATE_MEASUREMENT,)

    def _read(self, uuid: int, data: bytes) -> None:
        self._tell(body_location=BodySensorLocation.from_bytes(data).code)

    def _value(self, uuid: int, data: bytes) -> None:
        if uuid != uuids.HEART_RATE_MEASUREMENT:
            return
        measurement = HeartRateMeasurement.from_bytes(data)
        if self._too_soon("heart_rate_bpm"):
            return
        quality = Quality.SENSOR_WARNING if measurement.contact is False else Quality.GOOD
        self._hand_out("heart_rate_bpm", float(measurement.rate_bpm), (self._now_us, quality), None)


class BloodPressureSession(LiveSession):
    """Service 0x1810."""

    required: ClassVar = (uuids.BLOOD_PRESSURE_MEASUREMENT,)
    subscriptions: ClassVar = (uuids.BLOOD_PRESSURE_MEASUREMENT,)

    def _value(self, uuid: int, data: bytes) -> None:
        if uuid != uuids.BLOOD_PRESSURE_MEASUREMENT:
            return
        cuff = BloodPressureMeasurement.from_bytes(data)
        time_us, quality = self._moment(cuff.at)
        status = PressureStatus(cuff.status or 0)
        if status & (PressureStatus.BODY_MOVED | PressureStatus.CUFF_LOOSE | PressureStatus.POSITION_WRONG):
            quality |= Quality.SENSOR_WARNING
        moment = (time_us, quality)
        self._hand_out("sbp_mmhg", cuff.mmhg(cuff.systolic), moment, cuff.systolic)
        self._hand_out("dbp_mmhg", cuff.mmhg(cuff.diastolic), moment, cuff.diastolic)
        if cuff.pulse_bpm is not None:
            self._hand_out("heart_rate_bpm", cuff.pulse_bpm.number, moment, cuff.pulse_bpm)


class PulseOximeterSession(LiveSession):
    """Service 0x1822, live and spot check. Stored spot checks (RACP) are not fetched."""

    subscriptions: ClassVar = (uuids.PLX_SPOT_CHECK, uuids.PLX_CONTINUOUS)

    def _value(self, uuid: int, data: bytes) -> None:
        if uuid == uuids.PLX_SPOT_CHECK:
            spot = PlxSpotCheck.from_bytes(data)
            moment = self._moment(spot.at, not spot.clock_not_set)
            self._oximetry(spot.value, spot.remarks, moment)
        elif uuid == uuids.PLX_CONTINUOUS:
            live = PlxContinuous.from_bytes(data)
            if not self._too_soon("spo2_pct"):
                self._oximetry(live.normal, live.remarks, (self._now_us, Quality.GOOD))

    def _oximetry(self, value: Oximetry, remarks: Remarks, moment: tuple[int, Quality]) -> None:
        status = remarks.plx_status
        if status & (PlxStatus.DEMONSTRATION | PlxStatus.TESTING | PlxStatus.INVALID | PlxStatus.UNAVAILABLE):
            self._count("skipped.not_a_measurement")
            return
        time_us, quality = moment
        if status & (PlxStatus.QUESTIONABLE | PlxStatus.CALIBRATING | PlxStatus.EARLY_ESTIMATE):
            quality |= Quality.SENSOR_WARNING
        moment = (time_us, quality)
        self._hand_out("spo2_pct", value.spo2_pct.number, moment, value.spo2_pct)
        self._hand_out("heart_rate_bpm", value.pulse_bpm.number, moment, value.pulse_bpm)


class WeightSession(LiveSession):
    """Service 0x181D."""

    required: ClassVar = (uuids.WEIGHT_MEASUREMENT,)
    subscriptions: ClassVar = (uuids.WEIGHT_MEASUREMENT,)

    def _value(self, uuid: int, data: bytes) -> None:
        if uuid == uuids.WEIGHT_MEASUREMENT:
            scale = WeightMeasurement.from_bytes(data)
            self._hand_out("weight_kg", scale.weight_kg, self._moment(scale.at), None)


class ThermometerSession(LiveSession):
    """Service 0x1809."""

    required: ClassVar = (uuids.TEMPERATURE_MEASUREMENT,)
    subscriptions: ClassVar = (uuids.TEMPERATURE_MEASUREMENT,)

    def _value(self, uuid: int, data: bytes) -> None:
        if uuid == uuids.TEMPERATURE_MEASUREMENT:
            reading = TemperatureMeasurement.from_bytes(data)
            self._hand_out("temp_c", reading.temp_c, self._moment(reading.at), reading.value)


class AlertSession(Machine):
    """A wearable that takes Immediate Alerts (0x1802). The supervisor writes them; here is only its battery."""

    required: ClassVar = (uuids.ALERT_LEVEL,)
