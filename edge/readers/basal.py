"""What a pump's basal rate was: a daily schedule, and temporary rates laid over it."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from core.units import US_PER_MIN
from edge.readers.record import Collector

HOLD_US: Final = 30 * US_PER_MIN  # a loop renews its temporary rate before this; a longer gap is unknown
MAX_DAYS: Final = 4000  # a schedule is laid out day by day; beyond ten years somebody is hostile


class Schedule(NamedTuple):
    """A daily basal schedule in force from a time on. ``steps``: (local minute of the day, U/h), rising."""

    from_us: int
    steps: tuple[tuple[int, float], ...]
    zone: ZoneInfo


class Temp(NamedTuple):
    """A temporary rate: absolute (U/h), or a factor on the schedule. Ending it early is a new one of length 0."""

    start_us: int
    end_us: int
    rate_uph: float | None
    factor: float | None
    place: str


def basal_timeline(schedules: list[Schedule], temps: list[Temp], collector: Collector) -> None:
    """Add the resulting ``basal_uph`` changes to ``collector`` (each holds until the next)."""
    if not schedules and not temps:
        return
    times = [s.time_us for s in collector.samples] + [t.start_us for t in temps]
    if not times:
        return
    plan = _planned(schedules, min(times), max(times)) if schedules else []
    starts = [time_us for time_us, _ in plan]

    def planned_at(time_us: int) -> float | None:
        index = bisect_right(starts, time_us) - 1
        return plan[index][1] if index >= 0 else None

    # Every moment at which the rate may change, and who decides it.
    ordered = sorted(temps, key=lambda t: t.start_us)
    changes: dict[int, tuple[float, str]] = {time_us: (rate, "profile") for time_us, rate in plan}
    for index, temp in enumerate(ordered):
        following = ordered[index + 1].start_us if index + 1 < len(ordered) else None
        end_us = temp.end_us if following is None else min(temp.end_us, following)
        inside = starts[bisect_right(starts, temp.start_us) : bisect_right(starts, end_us - 1)]
        for time_us in (temp.start_us, *inside) if end_us > temp.start_us else ():
            base = planned_at(time_us)
            if temp.rate_uph is not None:
                changes[time_us] = (temp.rate_uph, temp.place)
            elif temp.factor is not None and base is not None:
                changes[time_us] = (base * max(0.0, temp.factor), temp.place)
            else:
                collector.skip("temporary basal in per cent with no profile in the file", temp.place)
        back = planned_at(end_us)
        if back is not None and (following is None or following > end_us):
            changes.setdefault(end_us, (back, temp.place))
        elif back is None and (following is None or following - end_us > HOLD_US):
            collector.skip(
                "end of a temporary basal with no profile: the rate after it is unknown", temp.place
            )
    last: float | None = None
    for time_us, (rate, place) in sorted(changes.items()):
        if rate != last:
            collector.add(time_us, "basal_uph", rate, place)
            last = rate


def _planned(schedules: list[Schedule], first_us: int, last_us: int) -> list[tuple[int, float]]:
    """(time, U/h) of every step of the schedules in force between two times."""
    ordered = sorted(schedules, key=lambda s: s.from_us)
    plan: list[tuple[int, float]] = []
    for index, schedule in enumerate(ordered):
        # The first schedule also holds before its own date: a site keeps only what was entered last.
        start_us = first_us if index == 0 else max(first_us, schedule.from_us)
        end_us = ordered[index + 1].from_us if index + 1 < len(ordered) else last_us
        end_us = min(end_us, last_us)
        if end_us < start_us:
            continue
        plan += _steps(schedule, start_us, end_us)
    return plan


def _steps(schedule: Schedule, start_us: int, end_us: int) -> list[tuple[int, float]]:
    steps: list[tuple[int, float]] = []
    try:
        day = datetime.fromtimestamp(start_us / 1e6, UTC).astimezone(schedule.zone).date() - timedelta(days=1)
    except (ValueError, OverflowError, OSError):
        return []
    for _ in range(min(MAX_DAYS, (end_us - start_us) // (1440 * US_PER_MIN) + 3)):
        for minute, rate in schedule.steps:
            if minute < 1440:
                local = datetime(
                    day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=schedule.zone
                )
                steps.append((round(local.timestamp() * 1e6), rate))
        day += timedelta(days=1)
    before = [step for step in steps if step[0] <= start_us]
    inside = [step for step in steps if start_us < step[0] <= end_us]
    return ([(start_us, before[-1][1])] if before else []) + inside
