"""What can go wrong with the broker, in plain words, and how long to wait before trying again. Pure.

``where`` is whatever names the broker in a message, normally its address.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from paho.mqtt.reasoncodes import ReasonCode

from core.errors import BrokerError

RETRY_FIRST_S: Final = 0.25
RETRY_MAX_S: Final = 30.0
# A refused certificate mends itself only when a person acts; asking more often only fills the broker's log.
REFUSED_RETRY_S: Final = 60.0
# A connection that ends sooner was none: the wait before the next attempt goes on growing.
STABLE_S: Final = 10.0
# Waits grow 0.25, 0.5, 1 s, so two clients that throw each other out live shorter than this three times; a
# broker that is restarted does not.
SHORT_LIFE_S: Final = 2.0
SHORT_LIVES: Final = 3
FAILURE_CODES: Final = 0x80  # MQTT 5 reason codes from here on say no
NOT_AUTHORISED: Final = 0x87
TAKEN_OVER: Final = 0x8E


class Fault(Enum):
    """Who is at fault, which decides how soon to try again."""

    UNREACHABLE = "unreachable"  # nobody there, or no way to them
    UNTRUSTED = "untrusted"  # their certificate is not from our authority
    REFUSED = "refused"  # they do not accept ours
    TAKEN_OVER = "taken_over"  # somebody else connected under our name
    LOST = "lost"  # it was there and went away


class BrokerFault(BrokerError):
    """A BrokerError that knows its fault."""

    def __init__(self, fault: Fault, what: str, *, where: str, mend: str = "") -> None:
        super().__init__(what, where=where, mend=mend)
        self.fault = fault


def retry_after_s(fault: Fault, attempt: int) -> float:
    """Real seconds until the next attempt; ``attempt`` counts failures in a row, from 1. Pure."""
    if fault in (Fault.REFUSED, Fault.UNTRUSTED, Fault.TAKEN_OVER):
        return REFUSED_RETRY_S
    return float(min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(attempt - 1, 20)))


class Patience:
    """How long to wait after each failure, and what repeated ones mean. Pure."""

    def __init__(self) -> None:
        self._attempt = 0
        self._short_lives = 0

    def after(self, err: BrokerFault, lived_s: float) -> tuple[BrokerFault, float]:
        """The fault as it now looks, and real seconds to wait.

        ``lived_s``: how long the connection stood; 0 when it never did. Mosquitto 2.0 does not say that
        another client took the session over, it just hangs up; two machines that throw each other out show
        as connections that end as soon as they stand.
        """
        self._attempt = 1 if lived_s > STABLE_S else self._attempt + 1
        self._short_lives = self._short_lives + 1 if 0 < lived_s < SHORT_LIFE_S else 0
        if self._short_lives >= SHORT_LIVES and err.fault is Fault.LOST:
            err = _taken_over(err.where)
        return err, retry_after_s(err.fault, self._attempt)


def _taken_over(where: object) -> BrokerFault:
    return BrokerFault(
        Fault.TAKEN_OVER,
        "the broker hangs up as soon as we are connected: another client connects under our name",
        where=str(where),
        mend="two machines use one hub's files: give each its own",
    )


def fault_of(err: BaseException, where: object, *, connected: bool = False) -> BrokerFault:
    """The fault behind an error of aiomqtt; ``connected``: the connection had stood."""
    code = getattr(err, "rc", None)
    if isinstance(code, ReasonCode):
        if code.value == TAKEN_OVER:
            return _taken_over(str(where))
        if code.value >= FAILURE_CODES and not connected:
            return refusal_of(code, where)
    if connected:
        return BrokerFault(Fault.LOST, "the connection to the broker was lost", where=str(where))
    return fault_of_text(str(err), where)


def refusal_of(code: ReasonCode, where: object) -> BrokerFault:
    """What a reason code from FAILURE_CODES on means."""
    if code.value == NOT_AUTHORISED:
        return BrokerFault(
            Fault.REFUSED,
            "the broker forbids us our own topics",
            where=str(where),
            mend="provision this hub for this broker and have it read its ACL again (SIGHUP)",
        )
    return BrokerFault(Fault.LOST, f"the broker refuses: {code.getName()}", where=str(where))


def fault_of_text(text: str, where: object) -> BrokerFault:
    """Python and OpenSSL tell these apart by text only. Pure."""
    upper = text.upper()
    if "CERTIFICATE_VERIFY_FAILED" in upper or "CERTIFICATE VERIFY FAILED" in upper:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return BrokerFault(
            Fault.UNTRUSTED,
            f"the broker's certificate is not to be trusted: {reason or 'not from our authority'}",
            where=str(where),
            mend="check host and ca.crt; provision writes both",
        )
    if "ALERT" in upper and any(word in upper for word in ("UNKNOWN_CA", "CERTIFICATE", "ACCESS_DENIED")):
        return BrokerFault(
            Fault.REFUSED,
            "the broker refuses our certificate: it does not know this hub",
            where=str(where),
            mend="copy this hub's files from the folder that provision made for this broker",
        )
    if "SSL" in upper and ("WRONG_VERSION" in upper or "RECORD_LAYER" in upper or "UNEXPECTED_EOF" in upper):
        return BrokerFault(
            Fault.UNREACHABLE,
            "whoever answers there does not speak TLS",
            where=str(where),
            mend="check host and port; MQTT over TLS is normally on 8883",
        )
    for mark, what in (
        ("REFUSED", "no broker answers: connection refused"),
        ("NAME OR SERVICE", "no broker answers: unknown host name"),
        ("NAME RESOLUTION", "no broker answers: unknown host name"),
        ("UNREACHABLE", "no broker answers: no route to it"),
        ("TIMED OUT", "no broker answers: timed out"),
    ):
        if mark in upper:
            return BrokerFault(
                Fault.UNREACHABLE, what, where=str(where), mend="start mosquitto, or check host and port"
            )
    return BrokerFault(Fault.LOST, "the broker closed the connection", where=str(where))
