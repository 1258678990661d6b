"""Local clock times of an export made UTC. The hour that a clock change repeats is told by order of records."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

from core.errors import InputError
from core.events import parse_event_time
from edge.readers.record import Collector

OLDEST: Final = datetime(1970, 1, 2)  # noqa: DTZ001  (naive on purpose: what a device's clock showed)


class LocalClock:
    """One stream of naive times, in the order of the file, which rises or falls (``falling``).

    In the repeated hour the earlier of the two is taken until the local clock jumps back; from then on the
    later. Where the file has only one pass through that hour nothing tells them apart: the first is taken
    and counted by ``undecided``. Times in the hour that a change skips are counted in ``skipped``.
    """

    def __init__(self, zone: ZoneInfo, falling: bool = False) -> None:
        self.zone, self.falling = zone, falling
        self._undecided = 0
        self.skipped = 0
        self._last_us: int | None = None
        self._pass: list[int] = []

    @property
    def undecided(self) -> int:
        """Times in a repeated hour that had nothing beside them to tell which pass they belong to."""
        return self._undecided + len(self._pass)

    def utc_us(self, local: datetime) -> int:
        """Microseconds UTC of a naive time. InputError (without place) outside the calendar."""
        first = _utc_us(local, self.zone, 0)
        second = _utc_us(local, self.zone, 1)
        chosen = first
        if second > first:
            if self.falling:
                # Newest first: the later pass comes first, until it would have to run backwards in time.
                chosen = second if self._last_us is None or second <= self._last_us else first
            elif self._last_us is not None and first < self._last_us <= second:
                chosen = second
            if chosen == first and not self.falling:
                self._pass.append(first)
            if chosen == second:
                self._pass.clear()
        else:
            if second < first:
                self.skipped += 1
            if self._pass:
                self._undecided += len(self._pass)
                self._pass.clear()
        self._last_us = chosen
        return chosen


def _utc_us(local: datetime, zone: ZoneInfo, fold: int) -> int:
    try:
        if local < OLDEST:
            return 0
        return round(local.replace(tzinfo=zone, fold=fold).timestamp() * 1e6)
    except (ValueError, OverflowError, OSError):
        raise InputError("time is outside the calendar") from None


def is_falling(times: list[datetime]) -> bool:
    """Whether a list of times runs from new to old, by most of its steps."""
    down = sum(1 for a, b in pairwise(times) if b < a)
    up = sum(1 for a, b in pairwise(times) if b > a)
    return down > up


def stream_us(times: list[datetime | None], zone: ZoneInfo, collector: Collector) -> list[int]:
    """Microseconds UTC of one stream's naive times in the order of the file; 0 for None.

    What could not be told is remarked in ``collector``.
    """
    known = [t for t in times if t is not None]
    clock = LocalClock(zone, is_falling(known))
    result = []
    for local in times:
        try:
            result.append(0 if local is None else clock.utc_us(local))
        except InputError:
            result.append(0)
    if clock.undecided:
        collector.undecided += clock.undecided
    if clock.skipped:
        collector.impossible += clock.skipped
    return result


def iso_us(text: object, zone: ZoneInfo, where: str) -> int:
    """Microseconds UTC of an ISO text; a naive one is local. InputError names ``where``."""
    if not isinstance(text, str) or not text:
        raise InputError("time is missing", where=where, mend="export again")
    return parse_event_time(text, zone, where)
