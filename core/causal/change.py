"""``do``: one change of what acts on a person, in words. ``core.causal.do`` applies it. No numerics here.

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
from collections.abc import Iterable
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from core.errors import InputError
from core.events import parse_event_time
from core.units import check_value

DOSES: Final = ("bolus_u", "carbs_g", "long_acting_u")
RATE: Final = "basal_uph"
PULSE: Final = "heart_rate_bpm"
# Places in the model's parameters, by name; written out, so that the cloud's pages read changes without numba.
PARAMETERS: Final = {name: i for i, name in enumerate(("s", "egp0", "tg", "ag", "ti"))}
TARGETS: Final = (*DOSES, RATE, PULSE, *PARAMETERS)
OPERATORS: Final = ("*=", "+=", "-=", "=", ">>", "<<")
MAX_SHIFT_MIN: Final = 720.0
MAX_MULTIPLE: Final = 10.0
MAX_EXPRESSIONS: Final = 50
MAX_LENGTH: Final = 200

_FORM: Final = re.compile(
    r"(?P<target>[a-z][a-z0-9_]*)\s*(?:@\s*(?P<when>[^@=*<>]+?)\s*)?(?P<operator>\*=|\+=|-=|=|>>|<<)\s*(?P<number>[^\s_]+)"
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
