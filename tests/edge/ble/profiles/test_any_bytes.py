"""Any octets at all give a value or a DecodeError, in bounded time; a value gives its octets back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DecodeError
from edge.ble.profiles import (
    blood_pressure,
    cgm,
    cgm_ops,
    common,
    glucose,
    heart_rate,
    insulin,
    insulin_history,
    insulin_racp,
    moments,
    pulse_oximeter,
    racp,
    thermometer,
    weight,
)
from edge.ble.profiles.wire import reason_of, with_crc
from tests.edge.ble.profiles.test_vectors import CASES

PLAIN: dict[str, Callable[[bytes], Any]] = {
    kind.__name__: kind.from_bytes
    for kind in (
        blood_pressure.BloodPressureFeature,
        blood_pressure.BloodPressureMeasurement,
        cgm.CgmFeature,
        common.AlertLevel,
        common.BatteryLevel,
        common.DeviceText,
        common.PnpId,
        common.SystemId,
        glucose.GlucoseContext,
        glucose.GlucoseFeature,
        glucose.GlucoseMeasurement,
        heart_rate.BodySensorLocation,
        heart_rate.HeartRateMeasurement,
        insulin.IddFeatures,
        moments.CurrentTime,
        moments.DateTime,
        moments.LocalTimeInformation,
        pulse_oximeter.PlxContinuous,
        pulse_oximeter.PlxFeatures,
        pulse_oximeter.PlxSpotCheck,
        racp.Racp,
        thermometer.TemperatureMeasurement,
        weight.WeightMeasurement,
        weight.WeightScaleFeature,
    )
}
PROTECTED: dict[str, Callable[[bytes, bool], Any]] = {
    kind.__name__: kind.from_bytes
    for kind in (
        cgm.CgmMeasurement,
        cgm.CgmMeasurements,
        cgm.CgmRunTime,
        cgm.CgmSessionStart,
        cgm.CgmStatus,
        cgm_ops.CgmOps,
        insulin.IddStatus,
        insulin.IddStatusChanged,
        insulin.StatusReader,
        insulin_history.HistoryRecord,
        insulin_racp.IddRacp,
    )
}
VALID = [bytes.fromhex(case.values[0]["hex"]) for case in CASES]


@st.composite
def octets(draw: st.DrawFn) -> bytes:
    """Noise, or a vector of any codec with a few octets changed, cut off or added."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=40))
    data = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) + draw(st.binary(max_size=3))


def gives_back_or_refuses(decode: Callable[[], Any], data: bytes) -> None:
    refusal: DecodeError | None = None
    try:
        value = decode()
    except DecodeError as err:
        refusal = err
    if refusal is not None:
        assert reason_of(refusal) != "other"
        assert len(data) < 4 or data.hex() not in str(refusal)
        return
    assert bytes(value) == data


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=150, deadline=None)
@given(data=octets())
def test_any_octets_give_a_value_or_a_decode_error(name: str, data: bytes) -> None:
    gives_back_or_refuses(lambda: PLAIN[name](data), data)


@pytest.mark.parametrize("name", PROTECTED)
@settings(max_examples=150, deadline=None)
@given(data=octets(), e2e=st.booleans(), good_crc=st.booleans())
def test_any_octets_give_a_value_or_a_decode_error_with_protection(
    name: str, data: bytes, e2e: bool, good_crc: bool
) -> None:
    sent = with_crc(data) if good_crc else data  # else hardly any noise would get past the CRC
    gives_back_or_refuses(lambda: PROTECTED[name](sent, e2e), sent)


@settings(max_examples=300, deadline=None)
@given(data=octets(), e2e=st.booleans())
def test_salvage_never_invents_a_record(data: bytes, e2e: bool) -> None:
    good, bad = cgm.salvage(data, e2e)
    assert good or bad
    for record in good:
        assert bytes(record) in data
    if not bad:
        assert b"".join(bytes(record) for record in good) == data


@pytest.mark.parametrize("filler", [b"\x00", b"\x06", b"\xff", b"\x80"])
def test_a_megabyte_is_refused_at_once(filler: bytes) -> None:
    data = filler * 1_000_000
    began = time.monotonic()
    for decode in PLAIN.values():
        with pytest.raises(DecodeError):
            decode(data)
    for protected in PROTECTED.values():
        for e2e in (False, True):
            with pytest.raises(DecodeError):
                protected(data, e2e)
    assert time.monotonic() - began < 2.0


@settings(max_examples=300, deadline=None)
@given(data=st.binary(min_size=1, max_size=20), bit=st.integers(0, 159))
def test_one_turned_bit_is_always_seen_by_the_crc(data: bytes, bit: int) -> None:
    sent = bytearray(with_crc(b"\x02" + data))
    sent[bit // 8 % len(sent)] ^= 1 << bit % 8
    with pytest.raises(DecodeError):
        cgm_ops.CgmOps.from_bytes(bytes(sent), True)
