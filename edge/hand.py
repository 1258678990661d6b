"""Entries by hand: what a person types, over the control socket or a command message, becomes a Sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from core.advice_types import HARD_MAX_DOSE_U
from core.errors import InputError
from core.messages import Quality, Sample
from core.units import KINDS, US_PER_DAY, US_PER_MIN, check_value
from edge.hand_words import parse_time

HAND: Final = "hand"
COMMAND: Final = "command"  # a hand entry over MQTT; its number is the command's own, so it counts once
# A plan for later is not a record; clocks of phones and hubs differ by less than this.
MAX_AHEAD_US: Final = 5 * US_PER_MIN
MAX_BACK_US: Final = 90 * US_PER_DAY
# 80 typed for 8.0: what a bolus is compared with, from how many on, and what is never worth a question.
RECENT_US: Final = 14 * US_PER_DAY
MIN_RECENT: Final = 5  # of fewer the largest says little
MAX_TIMES_LARGEST: Final = 3.0  # a slip of the decimal point is ten; a feast seldom more than two
UNDOUBTED_U: Final = 5.0
PUMPS_MOST: Final = f"more than the {HARD_MAX_DOSE_U:g} U that pumps give at once"
FIELDS: Final = frozenset({"do", "kind", "value", "time_us", "at", "amends", "deleted", "sure"})


def hand_sample(
    request: dict[str, Any],
    number: int,
    now_us: int,
    zone: ZoneInfo,
    find: Callable[[str, str, int], Sample | None],
    source: str = HAND,
) -> Sample:
    """The record of one hand entry, or InputError naming the field. ``source`` and ``number`` are its key.

    ``amends`` is ``[source, number]`` of an older record of the same kind that still stands (``find`` gives it);
    with ``deleted`` that record never happened, otherwise this one stands in its place, at its time unless
    another is given; a deletion needs no ``kind``. ``at`` is a time in words (12:30), ``time_us`` one in microseconds UTC.
    """
    if request.keys() - FIELDS:
        raise InputError("unknown field", where="entry", mend="use " + ", ".join(sorted(FIELDS - {"do"})))
    deleted = bool(request.get("deleted", False))
    amends = _amends(request.get("amends"), deleted)
    kind = request.get("kind")
    if kind is None and deleted and amends is not None:
        kind = _kind_of(amends, find)
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError("unknown kind", where="entry.kind", mend="use one of " + " ".join(KINDS))
    target = _target(amends, kind, find)
    value = 0.0 if deleted else _number(request.get("value"), "entry.value")
    if not deleted:
        check_value(kind, value, "entry.value")
    return Sample(
        time_us=_time(request, target, now_us, zone),
        kind=kind,
        value=value,
        source=source,
        seq=number,
        quality=int(Quality.BY_HAND),
        amends=amends,
        deleted=deleted,
    )


def dose_doubt(entry: Sample, recent: Iterable[Sample]) -> str:
    """What to ask before this bolus is stored; empty when there is nothing to. ``recent``: boluses that stand.

    It holds a dose, so it is an answer for the person's own terminal and never an error, whose text logs may keep.
    """
    if entry.kind != "bolus_u" or entry.deleted:
        return ""
    units = [s.value for s in recent if s.kind == "bolus_u" and (s.source, s.seq) != entry.amends]
    units = [u for u in units if math.isfinite(u) and u > 0]
    largest_u = max(units) if len(units) >= MIN_RECENT else math.inf
    if entry.value > max(UNDOUBTED_U, MAX_TIMES_LARGEST * largest_u):
        return _ask(entry.value, f"{entry.value / largest_u:.0f} times your largest of the last two weeks")
    return _ask(entry.value, PUMPS_MOST) if entry.value > HARD_MAX_DOSE_U else ""


def taken_doubt(took_u: float, advised_u: float) -> str:
    """The same of a dose that is said to have been taken on advice. Too little noted is as wrong as too much:
    the rest would be advised again. 0 is not followed, and no slip.
    """
    if took_u > max(UNDOUBTED_U, MAX_TIMES_LARGEST * advised_u):
        times = f"{took_u / advised_u:.0f} times the {advised_u:g} U advised" if advised_u > 0 else ""
        return _ask(took_u, times or "and no insulin was advised")
    if 0 < took_u < advised_u / MAX_TIMES_LARGEST:
        return _ask(took_u, f"less than a third of the {advised_u:g} U advised")
    return _ask(took_u, PUMPS_MOST) if took_u > max(HARD_MAX_DOSE_U, advised_u) else ""


def _ask(units: float, why: str) -> str:
    return f"that is {units:g} U, {why}: if it is right, add --sure"


def _kind_of(amends: tuple[str, int], find: Callable[[str, str, int], Sample | None]) -> str:
    """The kind of the one standing record of this name, so that taking it back needs no more than the name."""
    kinds = [kind for kind in KINDS if find(amends[0], kind, amends[1]) is not None]
    name = f"{amends[0]}:{amends[1]}"
    if not kinds:
        raise InputError(
            f"no {name} stands in the record of the last 90 days",
            where="entry.amends",
            mend="it may be replaced or deleted already: hometwin entries lists them",
        )
    if len(kinds) > 1:
        raise InputError(
            f"{name} names several records", where="entry.kind", mend="add one of " + " ".join(kinds)
        )
    return kinds[0]


def _target(
    amends: tuple[str, int] | None, kind: str, find: Callable[[str, str, int], Sample | None]
) -> Sample | None:
    """The standing record that is amended. A mistake here would leave a wrong dose in the record."""
    if amends is None:
        return None
    target = find(amends[0], kind, amends[1])
    if target is None:
        raise InputError(
            f"no {kind} {amends[0]}:{amends[1]} stands in the record of the last 90 days",
            where="entry.amends",
            mend="it may be of another kind, or replaced or deleted already: hometwin entries lists them",
        )
    return target


def _time(request: dict[str, Any], target: Sample | None, now_us: int, zone: ZoneInfo) -> int:
    at, time_us = request.get("at"), request.get("time_us")
    if at is not None:
        if not isinstance(at, str):
            raise InputError("must be text", where="entry.at")
        time_us = parse_time(at, zone, now_us)
    if time_us is None:
        return now_us if target is None else target.time_us
    if not isinstance(time_us, int) or isinstance(time_us, bool):
        raise InputError("must be whole microseconds UTC", where="entry.time_us")
    if time_us > now_us + MAX_AHEAD_US:
        hub = datetime.fromtimestamp(now_us / 1e6, UTC).astimezone(zone)
        raise InputError(
            f"lies in the future (the hub's clock says {hub:%a %d %b %H:%M})", where="entry.time"
        )
    if time_us < now_us - MAX_BACK_US:
        raise InputError("lies more than 90 days back", where="entry.time", mend="check date and time")
    # A phone's clock runs ahead a little. What is dated later than now would count for nothing in advice asked now.
    return min(time_us, now_us)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError("must be a number", where=where)
    try:
        return float(value)
    except OverflowError:
        raise InputError("is too large for a number", where=where) from None


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
