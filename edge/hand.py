"""Entries by hand: what a person types, over the control socket or a command message, becomes a Sample."""

from __future__ import annotations

from typing import Any, Final

from core.errors import InputError
from core.messages import Quality, Sample
from core.units import KINDS, US_PER_DAY, US_PER_MIN, check_value

HAND: Final = "hand"
# A plan for later is not a record; clocks of phones and hubs differ by less than this.
MAX_AHEAD_US: Final = 5 * US_PER_MIN
MAX_BACK_US: Final = 90 * US_PER_DAY
FIELDS: Final = frozenset({"do", "kind", "value", "time_us", "amends", "deleted"})


def hand_sample(request: dict[str, Any], number: int, now_us: int) -> Sample:
    """The record of one hand entry, or InputError naming the field.

    ``amends`` is ``[source, seq]`` of an older record of the same kind; with ``deleted`` that record never
    happened, otherwise this one stands in its place.
    """
    unknown = request.keys() - FIELDS
    if unknown:
        raise InputError(f"unknown field {min(unknown)[:40]!r}", where="entry")
    kind = request.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError("unknown kind", where="entry.kind", mend="use one of " + " ".join(KINDS))
    deleted = bool(request.get("deleted", False))
    amends = _amends(request.get("amends"), deleted)
    value = 0.0 if deleted else _number(request.get("value"), "entry.value")
    if not deleted:
        check_value(kind, value, "entry.value")
    time_us = request.get("time_us", now_us)
    if not isinstance(time_us, int) or isinstance(time_us, bool):
        raise InputError("must be whole microseconds UTC", where="entry.time_us")
    if not now_us - MAX_BACK_US <= time_us <= now_us + MAX_AHEAD_US:
        raise InputError(
            "lies in the future or more than 90 days back", where="entry.time", mend="check date and time"
        )
    return Sample(
        time_us=time_us,
        kind=kind,
        value=value,
        source=HAND,
        seq=number,
        quality=int(Quality.BY_HAND),
        amends=amends,
        deleted=deleted,
    )


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError("must be a number", where=where)
    return float(value)


def _amends(value: object, deleted: bool) -> tuple[str, int] | None:
    if value is None:
        if deleted:
            raise InputError("says what never happened only with 'amends'", where="entry.deleted")
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise InputError("must be [source, number]", where="entry.amends")
    source, seq = value
    if not isinstance(source, str) or not isinstance(seq, int) or isinstance(seq, bool):
        raise InputError("must be [source, number]", where="entry.amends")
    return source, seq
