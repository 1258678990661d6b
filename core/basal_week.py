"""The rate that a raise of the basal rate is measured by: what the person lived with over the last week. Pure.

One change may raise the rate by a share. Of the rate in force that share could be asked for again and again, twice within the
hour. So it is also a share of the lowest usual rate of the last week at this hour: whatever is raised today, a rate of
before is among those for seven days (why: ``usual_uph``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from core.units import US_PER_DAY, US_PER_H, US_PER_MIN

if TYPE_CHECKING:
    from core.twin import Twin

DAYS: Final = 8  # seven, and one more for the one that may be left out
AROUND_US: Final = US_PER_H  # to either side of this hour of a day
HELD_US: Final = 45 * US_PER_MIN  # a rate that held for less was a temporary one; must be less than AROUND_US
# A rate of a single day, less than half the next lowest, is a pump that was stopped or taken off. As one change is at most
# a half (HARD_MAX_BASAL_CHANGE), no raise makes the rate of before look like one.
STOPPED: Final = 0.5


def basal_week_uph(twin: Twin, t: int) -> float | None:
    """The lowest usual rate at this hour, by record or prescribed profile; None when neither says one."""
    record = twin.record
    rates = [(e.time_us, e.value) for e in record.between(0, t) if e.kind == "basal_uph"]
    now_uph = twin.basal_uph(t)
    if not rates and now_uph is not None and record.entries:  # it has held since before the record
        rates = [(record.entries[0].time_us, now_uph)]
    profile_uph = twin.patient.profile_uph(twin.local.hour(t) * 60.0)
    known = [uph for uph in (usual_uph(rates, t), profile_uph) if uph is not None]
    return min(known, default=None)


def usual_uph(rates: Sequence[tuple[int, float]], t: int) -> float | None:
    """The lowest rate of the last days that held at this hour; None within the first day.

    ``rates``: (µs UTC, U/h) by time, each holding until the next. Today does not count, so a raise made less than
    seven days ago, of a rate known for a day, never hides the rate of before: of the days back from ``t`` one has its
    hour in the day before the raise, with at least AROUND_US of the older rate in its window.
    """
    on_days = Counter(uph for k in range(1, DAYS + 1) for uph in _held(rates, t - k * US_PER_DAY))
    lowest = sorted(on_days)
    if len(lowest) > 1 and on_days[lowest[0]] == 1 and lowest[0] < STOPPED * lowest[1]:
        return lowest[1]
    return lowest[0] if lowest else None


def _held(rates: Sequence[tuple[int, float]], middle_us: int) -> list[float]:
    """Rates that held for HELD_US around a moment."""
    held_us: dict[float, int] = {}
    for k, (start_us, uph) in enumerate(rates):
        end_us = rates[k + 1][0] if k + 1 < len(rates) else middle_us + AROUND_US
        inside_us = min(end_us, middle_us + AROUND_US) - max(start_us, middle_us - AROUND_US)
        if inside_us > 0:
            held_us[uph] = held_us.get(uph, 0) + inside_us
    return [uph for uph, span_us in held_us.items() if span_us >= HELD_US]
