"""LibreView's CSV: a line about the person, a header, then one line per record with a type number.

Dates are DD-MM-YYYY or MM-DD-YYYY and nothing in the file says which: a day above 12, or else days that
follow one another, decide; otherwise the file is refused.
"""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from core.errors import InputError
from core.messages import Quality
from edge.readers.moments import stream_us
from edge.readers.record import Collector, mgdl_per, number
from edge.readers.tables import Row, cell, column, decimal, rows_of, separator_of, unit_of

FORMAT: Final = "LibreView CSV"
HISTORIC, SCAN, STRIP, INSULIN, FOOD, NOTE = "0", "1", "2", "4", "5", "6"
LOWEST_MGDL: Final = 40.0
HIGHEST_LIBRE3_MGDL: Final = 400.0
HIGHEST_MGDL: Final = 500.0  # Libre 1 and 2
STAMP: Final = re.compile(
    r"(\d{1,4})[-/.](\d{1,2})[-/.](\d{1,4})[ T]+(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([AaPp]\.?[Mm]\.?)?"
)


class Stamp(NamedTuple):
    """A date with two readings of its first two numbers, and minutes since midnight."""

    first: int
    second: int
    third: int
    minute: int
    second_of_minute: int

    def local(self, day_first: bool) -> datetime | None:
        """The naive time, or None when there is no such date."""
        year, month, day = self.third, self.second, self.first
        if self.first > 31:
            year, month, day = self.first, self.second, self.third
        elif not day_first:
            month, day = self.first, self.second
        try:
            return datetime(  # noqa: DTZ001  (naive on purpose: the device's local clock)
                year, month, day, self.minute // 60, self.minute % 60, self.second_of_minute
            )
        except ValueError:
            return None


def matches(text: str) -> bool:
    """Whether one of the first lines is LibreView's header."""
    return any(_is_header(line) for line in text[:8000].split("\n")[:5])


def read(text: str, zone: ZoneInfo, collector: Collector) -> None:
    """Fill ``collector``. InputError when unit or order of day and month are not clear."""
    header_text = next(line for line in text.split("\n")[:5] if _is_header(line))
    separator = separator_of(header_text)
    rows = rows_of(text, separator, collector.name)
    header = next((row for row in rows if _is_header(" ".join(row.cells))), None)
    if header is None:
        raise InputError("LibreView's header is broken", where=collector.name, mend="export again")
    where = f"{collector.name}: line {header.line}"
    titles = header.cells
    at = {
        HISTORIC: column(titles, "historic glucose"),
        SCAN: column(titles, "scan glucose"),
        STRIP: column(titles, "strip glucose"),
    }
    units = {unit_of(titles[index]) for index in at.values() if index is not None}
    if len(units) != 1:
        raise InputError("no single glucose unit in the titles", where=where, mend="export again")
    per_unit = mgdl_per(units.pop(), where)
    at_time, at_type = column(titles, "device timestamp"), column(titles, "record type")
    at_device, at_serial = column(titles, "device"), column(titles, "serial number")
    at_rapid, at_long = column(titles, "rapid-acting insulin"), column(titles, "long-acting insulin")
    at_grams = column(titles, "carbohydrates (grams)")
    found: dict[str, list[tuple[Row, Stamp | None]]] = {}
    for row in rows:
        found.setdefault(cell(row, at_type), []).append((row, _stamp(cell(row, at_time))))
        collector.owner(cell(row, at_serial))
    day_first = _day_first([s for lines in found.values() for _, s in lines if s is not None], collector)
    for kind, lines in found.items():
        locals_ = [None if s is None else s.local(day_first) for _, s in lines]
        for (row, _), local, time_us in zip(lines, locals_, stream_us(locals_, zone, collector), strict=True):
            place = f"line {row.line}"
            if local is None:
                collector.skip("time that cannot be read", place)
            elif kind in at:
                three = "libre 3" in cell(row, at_device).lower()
                highest = HIGHEST_LIBRE3_MGDL if three else HIGHEST_MGDL
                value, quality = _glucose(cell(row, at[kind]), per_unit, separator, highest)
                collector.add(time_us, "smbg_mgdl" if kind == STRIP else "cgm_mgdl", value, place, quality)
            elif kind == INSULIN:
                doses = (("bolus_u", cell(row, at_rapid)), ("long_acting_u", cell(row, at_long)))
                if not any(text_dose for _, text_dose in doses):
                    collector.skip("insulin without a number of units", place)
                for name, text_dose in doses:
                    if text_dose:
                        collector.add(time_us, name, number(decimal(text_dose, separator)), place)
            elif kind == FOOD:
                grams = cell(row, at_grams)
                if grams:
                    collector.add(time_us, "carbs_g", number(decimal(grams, separator)), place)
                else:
                    collector.skip("meal without grams (servings or words)", place)
            else:
                name = "note" if kind == NOTE else f"record of type {kind[:10]!r}"
                collector.skip(f"{name}, not used", place)


def _is_header(line: str) -> bool:
    low = line.lower()
    return "device timestamp" in low and "record type" in low


def _stamp(text: str) -> Stamp | None:
    match = STAMP.fullmatch(text)
    if match is None:
        return None
    first, second, third, hour, minute = (int(match[i]) for i in range(1, 6))
    half = (match[7] or "").lower()[:1]
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half == "p" else 0)
    return Stamp(first, second, third, hour * 60 + minute, int(match[6] or 0))


def _day_first(stamps: list[Stamp], collector: Collector) -> bool:
    unclear = [s for s in stamps if s.first <= 31]
    if any(s.first > 12 for s in unclear) or not unclear:
        return True
    if any(s.second > 12 for s in unclear):
        return False
    # No number above 12: then the recording's days follow one another in one of the two ways only.
    neighbours = []
    for day_first in (True, False):
        days = sorted({t.toordinal() for s in unclear if (t := s.local(day_first)) is not None})
        neighbours.append(sum(1 for a, b in pairwise(days) if b - a == 1))
    if (neighbours[0] > 0) == (neighbours[1] > 0):
        raise InputError(
            "day and month cannot be told apart in this file",
            where=collector.name,
            mend="export more days, so that one lies after the 12th or some follow one another",
        )
    day_first = neighbours[0] > 0
    collector.remark(
        f"dates read as {'day-month' if day_first else 'month-day'}, because only so do the days follow one another"
    )
    return day_first


def _glucose(text: str, per_unit: float, separator: str, highest_mgdl: float) -> tuple[float | None, int]:
    word = text.lower()
    if word in ("lo", "low"):
        return LOWEST_MGDL, int(Quality.SENSOR_WARNING)
    if word in ("hi", "high"):
        return highest_mgdl, int(Quality.SENSOR_WARNING)
    value = number(decimal(text, separator))
    return (None if value is None else value * per_unit), 0
