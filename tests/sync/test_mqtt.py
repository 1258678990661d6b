"""The pure parts of the rim: whose fault it is, and how long to wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError
from sync.faults import BrokerFault, Fault, Patience, fault_of_text, retry_after_s
from sync.mqtt import BrokerAddress

ADDRESS = BrokerAddress("broker.local", 8883, Path("ca"), Path("cert"), Path("key"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[Errno 111] Connection refused", Fault.UNREACHABLE),
        ("[Errno -2] Name or service not known", Fault.UNREACHABLE),
        ("[Errno 101] Network is unreachable", Fault.UNREACHABLE),
        ("timed out", Fault.UNREACHABLE),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", Fault.UNREACHABLE),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch", Fault.UNTRUSTED),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca", Fault.REFUSED),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", Fault.REFUSED),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired", Fault.REFUSED),
        ("[Errno 104] Connection reset by peer", Fault.LOST),
    ],
)
def test_each_failure_has_its_fault_and_names_the_broker(text: str, fault: Fault) -> None:
    err = fault_of_text(text, ADDRESS)
    assert err.fault is fault
    assert "broker.local:8883" in str(err)


def test_waits_double_up_to_half_a_minute_and_are_long_when_a_person_must_act() -> None:
    waits = [retry_after_s(Fault.LOST, n) for n in range(1, 12)]
    assert waits[:3] == [0.25, 0.5, 1.0]
    assert waits[-1] == retry_after_s(Fault.LOST, 10**9) == 30.0
    assert retry_after_s(Fault.REFUSED, 1) == retry_after_s(Fault.UNTRUSTED, 1) == 60.0


def test_a_long_life_ends_the_back_off_and_short_lives_in_a_row_tell_of_a_double() -> None:
    lost = BrokerFault(Fault.LOST, "lost", where="broker")
    patience = Patience()
    assert [patience.after(lost, 0.0)[1] for _ in range(3)] == [0.25, 0.5, 1.0]
    assert patience.after(lost, 3600.0)[1] == 0.25
    faults = [patience.after(lost, 0.3)[0].fault for _ in range(3)]
    assert faults == [Fault.LOST, Fault.LOST, Fault.TAKEN_OVER]


def test_a_missing_or_wrong_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ca: no such file"):
        ADDRESS.tls_context()
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("garbage")
    address = BrokerAddress("h", 1, *(tmp_path / name for name in ("ca", "cert", "key")))
    with pytest.raises(ConfigError, match="not a certificate"):
        address.tls_context()
