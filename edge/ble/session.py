"""Device sessions: the contract with the driver, and the session for each profile.

See ``sessions_machine`` for the table of states. Nothing here opens a socket, reads a clock or writes a
file: tests drive a session with bytes and times alone.
"""

from __future__ import annotations

from typing import Final
from zoneinfo import ZoneInfo

from core.errors import ConfigError
from edge.ble.sessions_cgm import CgmSession
from edge.ble.sessions_live import (
    AlertSession,
    BloodPressureSession,
    HeartRateSession,
    PulseOximeterSession,
    ThermometerSession,
    WeightSession,
)
from edge.ble.sessions_machine import Machine
from edge.ble.sessions_meter import MeterSession
from edge.ble.sessions_pump import PumpSession
from edge.ble.sessions_types import (
    Action,
    Close,
    Counted,
    Event,
    Facts,
    Read,
    Samples,
    Session,
    Step,
    Subscribe,
    Write,
)

__all__ = [
    "SESSIONS",
    "Action",
    "Close",
    "Counted",
    "Event",
    "Facts",
    "Read",
    "Samples",
    "Session",
    "Step",
    "Subscribe",
    "Write",
    "make_session",
]

SESSIONS: Final[dict[str, type[Machine]]] = {
    "cgm": CgmSession,
    "heart_rate": HeartRateSession,
    "glucose_meter": MeterSession,
    "insulin_pump": PumpSession,
    "blood_pressure": BloodPressureSession,
    "pulse_oximeter": PulseOximeterSession,
    "weight": WeightSession,
    "thermometer": ThermometerSession,
    "alert": AlertSession,
}


def make_session(profile: str, source: str, cursors: dict[str, int], timezone: ZoneInfo) -> Session:
    """A session for one configured device.

    ``cursors`` holds the greatest sequence number per kind that is already durable for ``source``;
    ``timezone`` is the person's, for devices whose clock has none.
    """
    kind = SESSIONS.get(profile)
    if kind is None:
        raise ConfigError(
            f"unknown profile {profile[:40]!r}", where=source, mend="use one of " + " ".join(SESSIONS)
        )
    return kind(source, cursors, timezone)
