"""Changes (``core.causal.change``) applied to a list of acts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from core.causal.change import MAX_MULTIPLE, PARAMETERS, PULSE, RATE, Do
from core.courses import UNKNOWN_MEAL, Act, Rate, in_order
from core.errors import InputError
from core.units import US_PER_MIN, check_value

SAME_US: Final = US_PER_MIN  # "at that minute": what is logged to the minute is found by its minute
PULSE_EVERY_US: Final = 5 * US_PER_MIN


class Changed(NamedTuple):
    """What a set of changes makes of the acts of a window."""

    acts: tuple[Act, ...]
    rates: tuple[Rate, ...]
    shifts: tuple[tuple[int, int, int, float], ...]  # (from, to, place in θ, ln factor)
    added_meals: int  # numbered from the ``first_new_meal`` that was given
    moved_out: int = 0  # doses and meals that happen only after the window


def apply(
    changes: Sequence[Do], acts: Sequence[Act], start_us: int, end_us: int, first_new_meal: int
) -> Changed:
    """Acts of [start, end) under the changes. InputError when a change finds nothing to change, or leaves the window.

    acts: those of the window, in order. first_new_meal: number of the first meal that a change adds.
    """
    held = list(acts)
    rates: list[Rate] = []
    shifts: list[tuple[int, int, int, float]] = []
    added = moved_out = 0
    for change in changes:
        first, last = _span(change, start_us, end_us)
        if change.target in PARAMETERS:
            shifts.append((first, last, PARAMETERS[change.target], math.log(change.amount)))
            if abs(largest_shift(shifts, PARAMETERS[change.target])) > math.log(MAX_MULTIPLE) + 1e-9:
                raise InputError(
                    f"the factors together leave {1 / MAX_MULTIPLE:g} to {MAX_MULTIPLE:g}",
                    where=f"do {change.target}",
                )
        elif change.target == RATE:
            operator, amount = change.operator, change.amount
            if operator == "-=":
                operator, amount = "+=", -amount
            rates.append(Rate(first, last, operator, amount))
        elif change.target == PULSE:
            held = _pulse(change, held, first, last)
        else:
            before = len(held)
            held, new = _doses(change, held, (first, last), (start_us, end_us), first_new_meal + added)
            added += new
            moved_out += max(0, before - len(held))
    return Changed(tuple(in_order(held)), tuple(rates), tuple(shifts), added, moved_out)


def largest_shift(shifts: Sequence[tuple[int, int, int, float]], place: int) -> float:
    """The ln factor farthest from 0 that a parameter has at any time under all its changes."""
    own = [s for s in shifts if s[2] == place]
    sums = (sum(s[3] for s in own if s[0] <= t < s[1]) for t in {s[0] for s in own} | {s[1] for s in own})
    return max(sums, key=abs, default=0.0)


def _span(change: Do, start_us: int, end_us: int) -> tuple[int, int]:
    """The part of the window that a change is about: [from, to)."""
    if change.from_us is None:
        return start_us, end_us
    first, last = change.from_us, change.to_us
    if last is None:
        if not start_us <= first < end_us:
            raise InputError("that time lies outside the window", where=f"do {change.target}@")
        return first, first
    if last <= start_us or first >= end_us:
        raise InputError("that span lies outside the window", where=f"do {change.target}@")
    return max(first, start_us), min(last, end_us)


def _doses(
    change: Do, acts: list[Act], span: tuple[int, int], window: tuple[int, int], new_meal: int
) -> tuple[list[Act], int]:
    where = f"do {change.target}"
    first, last = span
    if change.from_us is not None and change.to_us is None:
        hit = [a.kind == change.target and abs(a.time_us - first) < SAME_US for a in acts]
    else:
        hit = [a.kind == change.target and first <= a.time_us < last for a in acts]
    if not any(hit):
        if (
            change.operator == "="
            and change.amount > 0
            and change.from_us is not None
            and change.to_us is None
        ):
            meal = new_meal if change.target == "carbs_g" else UNKNOWN_MEAL
            return [*acts, Act(first, change.target, change.amount, meal)], int(meal != UNKNOWN_MEAL)
        raise InputError(
            "the record holds none there to change",
            where=where,
            mend="check the time, or add one with @TIME=AMOUNT",
        )
    at_a_minute = change.from_us is not None and change.to_us is None
    if at_a_minute and sum(hit) > 1 and change.operator in ("=", "+=", "-=") and change.amount > 0:
        raise InputError(  # each would get it: twice what was meant
            f"the record holds {sum(hit)} at that minute",
            where=where,
            mend="*= changes them alike, =0 takes them away",
        )
    out: list[Act] = []
    for act, is_hit in zip(acts, hit, strict=True):
        if not is_hit:
            out.append(act)
        elif change.operator in (">>", "<<"):
            minutes = change.amount if change.operator == ">>" else -change.amount
            moved_us = act.time_us + round(minutes * US_PER_MIN)
            if moved_us < window[0]:
                raise InputError(
                    "would happen before the window begins", where=where, mend="begin the window earlier"
                )
            if moved_us < window[1]:  # later: it has not happened yet when the window ends
                out.append(act._replace(time_us=moved_us))
        else:
            value = _changed(act.value, change)
            check_value(act.kind, value, where)
            out.append(act._replace(value=value))
    return out, 0


def _changed(value: float, change: Do) -> float:
    if change.operator == "*=":
        return value * change.amount
    if change.operator == "=":
        return change.amount
    return max(0.0, value + (change.amount if change.operator == "+=" else -change.amount))


def _pulse(change: Do, acts: list[Act], first: int, last: int) -> list[Act]:
    where = f"do {change.target}"
    inside = [a for a in acts if a.kind == PULSE and first <= a.time_us < last]
    rest = [a for a in acts if not (a.kind == PULSE and first <= a.time_us < last)]
    if change.operator == "=":
        steps = range(first, last, PULSE_EVERY_US)
        return [*rest, *(Act(t, PULSE, change.amount) for t in steps)]
    if not inside:
        raise InputError("the record holds no heart rate there", where=where, mend="set one with =")
    values = [check_value(PULSE, _changed(a.value, change), where) for a in inside]
    return [*rest, *(a._replace(value=v) for a, v in zip(inside, values, strict=True))]
