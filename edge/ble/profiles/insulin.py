"""Insulin Delivery Service: features, status, status changed, status reader control point, IDD RACP.

Source: IDS 1.0.2. Enumerations of this service are Hamming codes with distance 4 (section 5): a value that
is no code word is *prohibited*, which means bit errors or a wrong peer, and is refused; a code word without
a meaning yet is *reserved*, and is kept.

E2E-Protection: bit 0 of the features. With it, every characteristic ends with a counter octet and a CRC,
except features (CRC and counter come first, always present) and history data (CRC only).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

import msgspec

from edge.ble.profiles.ieee11073 import SFloat
from edge.ble.profiles.wire import Reader, crc16, le, refuse, with_crc, without_crc

# The octet code is linear; the words listed in the tables of IDS 1.0.2 span it.
_BASIS: Final = (0x0F, 0x33, 0x55, 0x96)
# The 16-bit code is the lexicographic code of distance 4; these words span the list in IDS table 5.1.
_WIDE_BASIS: Final = (*_BASIS, 0x0303, 0x0505, 0x0906, 0x1111, 0x2112, 0x4114, 0x8118)


def _span(basis: tuple[int, ...]) -> frozenset[int]:
    words = {0}
    for word in basis:
        words |= {word ^ other for other in words}
    return frozenset(words - {0})  # zero is never used: it may be memory nobody wrote


OCTET_CODES: Final = _span(_BASIS)
WORD_CODES: Final = _span(_WIDE_BASIS)


class FeatureFlag(IntFlag):
    E2E_PROTECTION = 1 << 0
    BASAL_RATE = 1 << 1
    FAST_BOLUS = 1 << 5
    EXTENDED_BOLUS = 1 << 6
    MULTIWAVE_BOLUS = 1 << 7
    EXTENSION = 1 << 23


class Protection(msgspec.Struct, frozen=True):
    """What E2E-Protection adds at the end of a value: its counter. The CRC is computed anew."""

    counter: int


def protect(body: bytes, protection: Protection | None) -> bytes:
    """``body`` with counter and CRC, when there is protection."""
    return body if protection is None else with_crc(body + bytes((protection.counter,)))


def unprotect(data: bytes, e2e: bool, where: str) -> tuple[bytes, Protection | None]:
    """The body and the counter of a protected value; the CRC must match."""
    if not e2e:
        return data, None
    body = without_crc(data, where)
    return body[:-1], Protection(body[-1])


def next_counter(counter: int) -> int:
    """E2E-Counter after ``counter``: 1..255, then 1 again; 0 starts a connection (IDS 3.1.1)."""
    return counter % 255 + 1


class IddFeatures(msgspec.Struct, frozen=True):
    """IDD Features. ``flags`` has 24 bits, or 8 more for every extension bit that is set."""

    concentration_u_per_ml: SFloat
    flags: int
    counter: int = 0
    unchecked_crc: int | None = 0xFFFF
    flag_octets: int = 3

    @classmethod
    def from_bytes(cls, data: bytes) -> IddFeatures:
        where = "IDD Features"
        reader = Reader(data, where)
        crc = reader.u16("crc")
        counter = reader.u8("counter")
        concentration = SFloat.read(reader, "insulin concentration")
        octets = bytearray(reader.take(3, "flags"))
        while octets[-1] & 0x80:  # feature extension: another octet follows
            octets += reader.take(1, "extended flags")
        reader.end()
        e2e = octets[0] & FeatureFlag.E2E_PROTECTION
        if e2e and crc != crc16(data[2:]):
            raise refuse("crc", where)
        return cls(
            concentration, int.from_bytes(octets, "little"), counter, None if e2e else crc, len(octets)
        )

    def __bytes__(self) -> bytes:
        body = bytes((self.counter,)) + bytes(self.concentration_u_per_ml) + le(self.flags, self.flag_octets)
        crc = crc16(body) if self.unchecked_crc is None else self.unchecked_crc
        return le(crc, 2) + body

    @property
    def e2e(self) -> bool:
        return bool(self.flags & FeatureFlag.E2E_PROTECTION)


class StatusFlag(IntFlag):
    """IDD Status Changed: what changed since the collector last reset it."""

    THERAPY_CONTROL = 1 << 0
    OPERATIONAL = 1 << 1
    RESERVOIR = 1 << 2
    ANNUNCIATION = 1 << 3
    TOTAL_DAILY_INSULIN = 1 << 4
    BASAL_RATE = 1 << 5
    BOLUS = 1 << 6
    HISTORY_EVENT = 1 << 7


class IddStatusChanged(msgspec.Struct, frozen=True):
    """IDD Status Changed: 16 bits, reserved ones kept."""

    flags: int
    protection: Protection | None = None

    @classmethod
    def from_bytes(cls, data: bytes, e2e: bool = False) -> IddStatusChanged:
        body, protection = unprotect(data, e2e, "IDD Status Changed")
        reader = Reader(body, "IDD Status Changed")
        changed = cls(reader.u16("flags"), protection)
        reader.end()
        return changed

    def __bytes__(self) -> bytes:
        return protect(le(self.flags, 2), self.protection)


class TherapyControl(IntEnum):
    UNDETERMINED = 0x0F
    STOP = 0x33
    PAUSE = 0x3C
    RUN = 0x55


class IddStatus(msgspec.Struct, frozen=True):
    """IDD Status: therapy control and operational state, reservoir in U (NaN when none is attached)."""

    therapy_control: int
    operational: int
    reservoir_u: SFloat
    flags: int  # bit 0: reservoir attached
    protection: Protection | None = None

    @classmethod
    def from_bytes(cls, data: bytes, e2e: bool = False) -> IddStatus:
        body, protection = unprotect(data, e2e, "IDD Status")
        reader = Reader(body, "IDD Status")
        status = cls(
            reader.one_of(1, OCTET_CODES, "therapy control state", "prohibited"),
            reader.one_of(1, OCTET_CODES, "operational state", "prohibited"),
            SFloat.read(reader, "reservoir"),
            reader.u8("flags"),
            protection,
        )
        reader.end()
        return status

    def __bytes__(self) -> bytes:
        body = bytes((self.therapy_control, self.operational)) + bytes(self.reservoir_u)
        return protect(body + bytes((self.flags,)), self.protection)

    @property
    def therapy_name(self) -> str:
        names = {state.value: state.name.lower() for state in TherapyControl}
        return names.get(self.therapy_control, "undetermined")


READER_RESPONSE: Final = 0x0303
READER_RESET_STATUS: Final = 0x030C
READER_SUCCESS: Final = 0x0F


class StatusReader(msgspec.Struct, frozen=True):
    """IDD Status Reader Control Point 0x2B24. The hub only resets status bits; nothing here steers therapy.

    Operands other than those of Reset Status and Response Code are kept as octets (0 to 15 of them).
    """

    op: int
    operand: bytes = b""
    protection: Protection | None = None

    @classmethod
    def reset(cls, flags: int, protection: Protection | None) -> StatusReader:
        """Clear the given bits of IDD Status Changed."""
        return cls(READER_RESET_STATUS, le(flags, 2), protection)

    @classmethod
    def from_bytes(cls, data: bytes, e2e: bool = False) -> StatusReader:
        where = "IDD Status Reader Control Point"
        body, protection = unprotect(data, e2e, where)
        reader = Reader(body, where)
        op = reader.one_of(2, WORD_CODES, "op code", "prohibited")
        sizes = {READER_RESPONSE: 3, READER_RESET_STATUS: 2}
        if reader.left > 15:
            raise reader.refuse("too_long", "operand")
        operand = reader.take(sizes.get(op, reader.left), "operand")
        reader.end()
        return cls(op, operand, protection)

    def __bytes__(self) -> bytes:
        return protect(le(self.op, 2) + self.operand, self.protection)

    @property
    def response(self) -> tuple[int, int] | None:
        """(request op code, response code) of a response, None for any other message."""
        if self.op != READER_RESPONSE:
            return None
        return int.from_bytes(self.operand[:2], "little"), self.operand[2]
