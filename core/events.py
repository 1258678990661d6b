"""The event file: CSV lines ``time,kind,value`` in any order (DESIGN: contracts). Text in, samples out.

Naive times are the person's local clock: the zone makes them UTC. The hour that a clock change repeats is
ambiguous in such a file; the first of the two is taken.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from core.errors import InputError
from core.messages import Sample
from core.units import check_value

HEADER: Final = ["time", "kind", "value"]
FILE_SOURCE: Final = "file"


def parse_events(lines: Iterable[str], zone: ZoneInfo, name: str) -> list[Sample]:
    """Samples in time order, ``seq`` by line. InputError names the file, the line and the mend.

    ``lines``: the text of the file, header first. ``name``: what to call the file in errors.
    """
    reader = csv.reader(lines)
    try:
        header = next(reader, [])
        if [word.strip() for word in header] != HEADER:
            raise InputError("the first line must be 'time,kind,value'", where=f"{name}: line 1")
        samples = [
            _sample(row, zone, f"{name}: line {reader.line_num}", reader.line_num) for row in reader if row
        ]
    except csv.Error as err:
        raise InputError(f"not CSV: {err}", where=f"{name}: line {reader.line_num}") from None
    if not samples:
        raise InputError("holds no events", where=name)
    return sorted(samples, key=lambda s: (s.time_us, s.seq))


def _sample(row: list[str], zone: ZoneInfo, where: str, line: int) -> Sample:
    if len(row) != 3:
        raise InputError(f"{len(row)} columns instead of 3", where=where)
    text, kind, number = (cell.strip() for cell in row)
    try:
        value = float(number.replace("_", "?"))  # Python reads 1_20 as 120; a person meant something else
    except ValueError:
        raise InputError("value is not a number", where=where) from None
    check_value(kind, value, where)
    return Sample(parse_event_time(text, zone, where), kind, value, FILE_SOURCE, line)


def parse_event_time(text: str, zone: ZoneInfo, where: str) -> int:
    """Microseconds UTC of an ISO-8601 time; naive ones are local to ``zone``."""
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=zone)
        return round(when.timestamp() * 1e6)
    except (ValueError, OverflowError, OSError):
        raise InputError("time is not ISO 8601", where=where, mend="e.g. 2026-01-31T12:30:00") from None
