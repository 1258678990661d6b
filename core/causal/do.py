"""``do``: one change of what acts on a person, in words and applied to a list of acts.

    expression = target [ "@" when ] operator number
    target     = bolus_u | carbs_g | long_acting_u | basal_uph | heart_rate_bpm | s | egp0 | tg | ag | ti
    when       = TIME | TIME ".." TIME        nothing: the whole window of the question
    operator   = "*=" | "+=" | "-=" | "=" | ">>" | "<<"

    bolus_u*=0.7                          every bolus of the window times 0.7
    carbs_g@2026-01-02T12:30=0            the meal logged at that minute was not eaten
    carbs_g@2026-01-02T15:00=20           … and where none is logged, one is added
    bolus_u<<15                           every bolus 15 min earlier (">>": later)
    basal_uph@2026-01-02T22:00..2026-01-03T06:00+=0.1
    heart_rate_bpm@2026-01-02T17:00..2026-01-02T17:45=125
    s*=0.8                                insulin works a fifth less well (parameters: times only)

``=`` sets, ``+=`` and ``-=`` add in the unit of the target, ``>>`` and ``<<`` move acts by minutes. Times are ISO
8601; naive ones are the person's local clock. Expressions apply one after the other. What cannot be meant is an
InputError that names the expression.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from core.courses import UNKNOWN_MEAL, Act, Rate, in_order
from core.errors import InputError
from core.events import parse_event_time
from core.models import hovorka as model
from core.units import US_PER_MIN, check_value

DOSES: Final = ("bolus_u", "carbs_g", "long_acting_u")
RATE: Final = "basal_uph"
PULSE: Final = "heart_rate_bpm"
PARAMETERS: Final = {name.removeprefix("ln_"): i for i, name in enumerate(model.NAMES[: model.N_THETA])}
TARGETS: Final = (*DOSES, RATE, PULSE, *PARAMETERS)
OPERATORS: Final = ("*=", "+=", "-=", "=", ">>", "<<")
SAME_US: Final = US_PER_MIN  # "at that minute": what is logged to the minute is found by its minute
MAX_SHIFT_MIN: Final = 720.0
MAX_MULTIPLE: Final = 10.0
PULSE_EVERY_US: Final = 5 * US_PER_MIN
MAX_EXPRESSIONS: Final = 50
MAX_LENGTH: Final = 200

_FORM: Final = re.compile(
    r"(?P<target>[a-z][a-z0-9_]*)\s*(?:@\s*(?P<when>[^@=*<>]+?)\s*)?(?P<operator>\*=|\+=|-=|=|>>|<<)\s*(?P<number>\S+)"
)


class Do(NamedTuple):
    """One change. ``from_us`` None: the whole window; ``to_us`` None: the act at ``from_us``."""

    target: str
    operator: str
    amount: float
    from_us: int | None = None
    to_us: int | None = None

    def checked(self) -> Do:
        """Self when it can be meant; InputError otherwise."""
        where = f"do {self.target}"
        if self.target not in TARGETS:
            raise InputError("unknown target", where="do", mend="use one of " + " ".join(TARGETS))
        if self.operator not in OPERATORS:
            raise InputError("unknown operator", where=where, mend="use one of " + " ".join(OPERATORS))
        if not math.isfinite(self.amount):
            raise InputError("the number is not finite", where=where)
        if self.to_us is not None and (self.from_us is None or self.to_us <= self.from_us):
            raise InputError("the span must end after it begins", where=where, mend="TIME..TIME")
        if self.target in PARAMETERS:
            if self.operator != "*=" or not 1.0 / MAX_MULTIPLE <= self.amount <= MAX_MULTIPLE:
                raise InputError(
                    f"a parameter can only be multiplied, by {1 / MAX_MULTIPLE:g} to {MAX_MULTIPLE:g}",
                    where=where,
                    mend=f"e.g. {self.target}*=0.8",
                )
        elif self.operator == "*=" and not 0.0 <= self.amount <= MAX_MULTIPLE:
            raise InputError(f"the factor must lie in 0..{MAX_MULTIPLE:g}", where=where)
        elif self.operator == "=":
            check_value(self.target, self.amount, where)
        elif self.operator in (">>", "<<"):
            if self.target not in DOSES:
                raise InputError("only doses and meals can be moved in time", where=where)
            if not 0.0 <= self.amount <= MAX_SHIFT_MIN:
                raise InputError(f"minutes must lie in 0..{MAX_SHIFT_MIN:g}", where=where)
        if self.target not in DOSES and self.from_us is not None and self.to_us is None:
            raise InputError("needs a span of time", where=where, mend="TIME..TIME, or no @ at all")
        return self


class Changed(NamedTuple):
    """What a set of changes makes of the acts of a window."""

    acts: tuple[Act, ...]
    rates: tuple[Rate, ...]
    shifts: tuple[tuple[int, int, int, float], ...]  # (from, to, place in θ, ln factor)
    added_meals: int  # numbered from the ``first_new_meal`` that was given


def parse(text: str, zone: ZoneInfo) -> Do:
    """One expression; InputError when it is none."""
    shown = text[:60]
    found = _FORM.fullmatch(text.strip()) if len(text) <= MAX_LENGTH else None
    if found is None:
        raise InputError(
            "cannot be read as a change",
            where=f"do {shown!r}",
            mend="e.g. bolus_u*=0.7 or carbs_g@2026-01-02T12:30=0",
        )
    try:
        amount = float(found["number"])
    except ValueError:
        raise InputError("the number cannot be read", where=f"do {shown!r}") from None
    from_us = to_us = None
    if found["when"] is not None:
        first, dots, second = found["when"].partition("..")
        from_us = parse_event_time(first.strip(), zone, f"do {shown!r}")
        if dots:
            to_us = parse_event_time(second.strip(), zone, f"do {shown!r}")
    return Do(found["target"], found["operator"], amount, from_us, to_us).checked()


def parse_all(changes: str | Do | Iterable[str | Do], zone: ZoneInfo) -> tuple[Do, ...]:
    """Expressions, or what was parsed before, in order."""
    if isinstance(changes, str | Do):
        changes = (changes,)
    found = tuple(parse(c, zone) if isinstance(c, str) else c.checked() for c in changes)
    if len(found) > MAX_EXPRESSIONS:
        raise InputError(f"more than {MAX_EXPRESSIONS} changes", where="do")
    return found


def apply(
    changes: Sequence[Do], acts: Sequence[Act], start_us: int, end_us: int, first_new_meal: int
) -> Changed:
    """Acts of [start, end) under the changes. InputError when a change finds nothing to change, or leaves the window.

    acts: those of the window, in order. first_new_meal: number of the first meal that a change adds.
    """
    held = list(acts)
    rates: list[Rate] = []
    shifts: list[tuple[int, int, int, float]] = []
    added = 0
    for change in changes:
        first, last = _span(change, start_us, end_us)
        if change.target in PARAMETERS:
            shifts.append((first, last, PARAMETERS[change.target], math.log(change.amount)))
        elif change.target == RATE:
            operator, amount = change.operator, change.amount
            if operator == "-=":
                operator, amount = "+=", -amount
            rates.append(Rate(first, last, operator, amount))
        elif change.target == PULSE:
            held = _pulse(change, held, first, last)
        else:
            held, new = _doses(change, held, (first, last), (start_us, end_us), first_new_meal + added)
            added += new
    return Changed(tuple(in_order(held)), tuple(rates), tuple(shifts), added)


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
        if change.operator == "=" and change.from_us is not None and change.to_us is None:
            meal = new_meal if change.target == "carbs_g" else UNKNOWN_MEAL
            return [*acts, Act(first, change.target, change.amount, meal)], int(meal != UNKNOWN_MEAL)
        raise InputError(
            "the record holds none there to change",
            where=where,
            mend="check the time, or add one with @TIME=AMOUNT",
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
