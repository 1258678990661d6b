"""One tree of errors. Each says what happened, where, and how to mend it.

The text of an error reaches logs and terminals, so it never holds a reading, a dose or an identity.
The command line prints ``str(error)`` as one line and exits with ``exit_code``.
"""

from __future__ import annotations


class HometwinError(Exception):
    """Root of all errors this project raises on purpose."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(what, where, mend)
        self.what, self.where, self.mend = what, where, mend

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cure = f" ({self.mend})" if self.mend else ""
        return f"{place}{self.what}{cure}"


class InputError(HometwinError):
    """A person gave something that cannot be used: a file, an option, a value."""

    exit_code = 2


class ConfigError(InputError):
    """The configuration is wrong: unknown key, bad value, missing file."""


class EnvironmentMissing(InputError):
    """Something the machine must offer is not there: Bluetooth, a broker, a free port."""


class DecodeError(HometwinError):
    """Bytes from outside do not follow their specification. The peer is at fault."""


class StoreError(HometwinError):
    """The replay buffer cannot do what was asked."""


class TamperedError(StoreError):
    """A stored record fails authentication: changed, swapped, or rolled back."""


class WrongKeyError(StoreError):
    """The key does not open this store. Nothing was changed."""

    exit_code = 2


class StoreBusyError(StoreError):
    """Another process holds this store."""

    exit_code = 2


class StoreClosedError(StoreError):
    """The store's file or its disk may only be read."""

    exit_code = 2


class NewerVersionError(StoreError):
    """The store was written by a newer version. Nothing was changed."""

    exit_code = 2


class LinkError(HometwinError):
    """A Bluetooth link failed in a way that a later attempt may mend."""


class LinkTimeout(LinkError):
    """The peer did not answer in time."""


class PairingError(LinkError):
    """Pairing was refused: wrong passkey, no bond at the peer, or a person is needed."""


class ProcedureError(LinkError):
    """The peer answered a control-point procedure with an error code."""


class WireError(HometwinError):
    """A message between hub and cloud cannot be used."""


class EnvelopeError(WireError):
    """A sealed message fails authentication, or its sender is unknown."""


class ReplayedError(WireError):
    """A downlink message is late, repeated or out of order."""


class BrokerError(WireError):
    """The broker cannot be reached or refuses us."""


class EngineError(HometwinError):
    """The engine cannot be reached or answered against the contract."""


class RefusedError(HometwinError):
    """The twin declines to answer, with the reason. Saying less is the safe answer."""
