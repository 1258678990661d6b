"""Which bolus on record is which dose. A bolus stands for one dose at most, so no dose hides behind another's. Pure.

A person says "taken"; a pump, or the person again, puts the dose itself on record: at a time that is near, by
another clock, in units that are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from core.evidence import TRACE_U
from core.messages import Quality, Sample
from core.units import US_PER_MIN

NEAR_US: Final = 30 * US_PER_MIN  # between a dose and the word about it
CLOCK_US: Final = 5 * US_PER_MIN  # between the clocks of pump and hub, as for entries by hand
# Who takes what was advised may round so much: half a step of a coarse pen, or what the cloud counts as followed.
ROUNDED_U: Final = 0.5
ROUNDED: Final = 0.1


class Dose(NamedTuple):
    """Insulin that was taken, or may have been, on one piece of advice."""

    advice_id: str
    units: float
    since_us: int  # the hub had the advice from then on: nobody took it before
    until_us: int  # taken by then, as far as was said
    least_u: float  # a single bolus of less is not all of it,
    most_u: float  # and one of more is something else

    def may_be(self, bolus: Sample) -> bool:
        """By time. What was on record before there was the advice is not its dose.

        A pump's time is as good as its clock. A person's is rough, and who enters a dose late often leaves it at the
        present.
        """
        by_hand = bool(bolus.quality & Quality.BY_HAND)
        return (
            bolus.received_us >= self.since_us
            and bolus.time_us >= self.since_us - (NEAR_US if by_hand else CLOCK_US)
            and (by_hand or bolus.time_us <= self.until_us + NEAR_US)
        )

    def is_whole(self, bolus: Sample) -> bool:
        """By time and size."""
        return self.may_be(bolus) and self.least_u <= bolus.value <= self.most_u

    def distance(self, bolus: Sample) -> tuple[float, int]:
        """How far one is from the other: first in size, then in time."""
        return round(abs(bolus.value - self.units), 2), abs(bolus.time_us - self.until_us)


def noted(advice_id: str, took_u: float, since_us: int, until_us: int) -> Dose:
    """A dose that the person said was taken. More on record than was said is no less than it."""
    return Dose(advice_id, took_u, since_us, until_us, took_u - TRACE_U, math.inf)


def advised(advice_id: str, dose_u: float, since_us: int, now_us: int) -> Dose:
    """A dose of which nobody has said yet whether it was taken: only a bolus of about its size is it."""
    about_u = max(ROUNDED_U, ROUNDED * dose_u)
    return Dose(advice_id, dose_u, since_us, now_us, max(dose_u - about_u, 0.5 * dose_u), dose_u + about_u)


def matched(doses: Sequence[Dose], boluses: Sequence[Sample]) -> dict[int, int]:
    """Place of a bolus to place of its dose: as many doses as can be have one bolus each, and earlier doses go first.

    Along augmenting paths (Kuhn): a dose may send another to its second choice, never away.
    """
    choices = [
        sorted(
            (k for k, bolus in enumerate(boluses) if dose.is_whole(bolus)),
            key=lambda k: dose.distance(boluses[k]),
        )
        for dose in doses
    ]
    of: dict[int, int] = {}

    def place(dose: int, tried: set[int]) -> bool:
        for k in choices[dose]:
            if k not in tried:
                tried.add(k)
                if k not in of or place(of[k], tried):
                    of[k] = dose
                    return True
        return False

    for dose in range(len(doses)):
        place(dose, set())
    return of


def missing_u(doses: Sequence[Dose], boluses: Sequence[Sample]) -> dict[str, float]:
    """By advice: how much of each dose noted no bolus on record stands for.

    Large doses choose first. A dose that no single bolus covers is made up of those that are left, each in one dose.
    """
    return _shared_out(doses, boluses)[0]


def parts(this: Dose, doses: Sequence[Dose], boluses: Sequence[Sample], now_us: int) -> list[Sample]:
    """Boluses that may be parts of an advised dose, by time: what ``doses``, which were noted, leave over. Empty when
    they are more than the dose, lie further apart than NEAR_US, or are that old and still less than it.
    """
    found = [b for b in _shared_out(doses, boluses)[1] if this.may_be(b)]
    found.sort(key=lambda bolus: bolus.time_us)
    units = sum(bolus.value for bolus in found)
    if not TRACE_U < units <= this.most_u:
        return []
    until_us = found[-1].time_us if units >= this.least_u else now_us
    return found if until_us - found[0].time_us <= NEAR_US else []


def _shared_out(doses: Sequence[Dose], boluses: Sequence[Sample]) -> tuple[dict[str, float], list[Sample]]:
    """What is missing of each dose noted (see ``missing_u``), and the boluses that are no part of any."""
    doses = sorted(doses, key=lambda dose: -dose.units)
    of = matched(doses, boluses)
    whole = set(of.values())
    missing = [0.0 if k in whole else dose.units for k, dose in enumerate(doses)]
    left = []
    for k, bolus in enumerate(boluses):
        short = [n for n, dose in enumerate(doses) if missing[n] > TRACE_U and dose.may_be(bolus)]
        if k not in of and short:
            nearest = min(short, key=lambda n: abs(bolus.time_us - doses[n].until_us))
            missing[nearest] = max(0.0, missing[nearest] - bolus.value)
        elif k not in of:
            left.append(bolus)
    return {dose.advice_id: missing[k] for k, dose in enumerate(doses)}, left
