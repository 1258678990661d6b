"""Dexcom Clarity's CSV: one line per event, glucose unit in the column's title, the receiver's local clock."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from core.errors import InputError
from core.messages import Quality
from edge.readers.moments import stream_us
from edge.readers.record import Collector, mgdl_per, number
from edge.readers.tables import Row, cell, column, decimal, rows_of, separator_of, unit_of

FORMAT: Final = "Dexcom Clarity CSV"
# What the sensor can show (G4 to G7): the file says Low or High beyond it.
LOWEST_MGDL: Final = 40.0
HIGHEST_MGDL: Final = 400.0
PERSON: Final = ("firstname", "lastname", "dateofbirth")
GLUCOSE_EVENTS: Final = {"egv": "cgm_mgdl", "fasting glucose": "cgm_mgdl", "calibration": "smbg_mgdl"}


def matches(text: str) -> bool:
    """Whether the first line is Clarity's."""
    head = text[:4000].split("\n", 1)[0].lower()
    return "event type" in head and "event subtype" in head and "glucose value" in head


def read(text: str, zone: ZoneInfo, collector: Collector) -> None:
    """Fill ``collector``. InputError when the unit is not declared or a column is missing."""
    separator = separator_of(text.split("\n", 1)[0])
    rows = rows_of(text, separator, collector.name)
    header = next(rows, Row(1, [])).cells
    where = f"{collector.name}: line 1"
    at_time, at_type = column(header, "timestamp"), column(header, "event type")
    at_glucose = column(header, "glucose value")
    if at_time is None or at_type is None or at_glucose is None:
        raise InputError("a column of Clarity's is missing", where=where, mend="export again, in English")
    per_unit = mgdl_per(unit_of(header[at_glucose]), where)
    at_sub = column(header, "event subtype")
    at_insulin, at_carbs = column(header, "insulin value"), column(header, "carb value")
    at_person = column(header, "patient info")
    person = dict.fromkeys(PERSON, "")
    found: dict[str, list[tuple[Row, datetime | None]]] = {}
    for row in rows:
        kind = cell(row, at_type).lower()
        text_time = cell(row, at_time)
        if not text_time:
            if kind in person:  # the block of names and settings at the top
                person[kind] = cell(row, at_person)
            continue
        found.setdefault(kind, []).append((row, _local(text_time)))
    collector.owner(*person.values())
    for kind, lines in found.items():
        times = stream_us([local for _, local in lines], zone, collector)
        for (row, local), time_us in zip(lines, times, strict=True):
            place = f"line {row.line}"
            if local is None:
                collector.skip("time that is not YYYY-MM-DD hh:mm:ss", place)
            elif kind in GLUCOSE_EVENTS:
                value, quality = _glucose(cell(row, at_glucose), per_unit, separator)
                collector.add(time_us, GLUCOSE_EVENTS[kind], value, place, quality)
            elif kind == "insulin":
                _insulin(collector, time_us, row, cell(row, at_sub), cell(row, at_insulin), separator)
            elif kind == "carbs":
                collector.add(time_us, "carbs_g", number(decimal(cell(row, at_carbs), separator)), place)
            else:
                collector.skip(f"record of type {kind[:30] or 'nothing'!r}, not used", place)


def _local(text: str) -> datetime | None:
    date, _, clock = text.replace("T", " ").partition(" ")
    try:
        if clock.find(":") == 1:
            clock = "0" + clock
        return datetime.fromisoformat(f"{date} {clock}").replace(tzinfo=None)
    except ValueError:
        return None


def _glucose(text: str, per_unit: float, separator: str) -> tuple[float | None, int]:
    word = text.lower()
    if word in ("low", "high"):
        return (LOWEST_MGDL if word == "low" else HIGHEST_MGDL), int(Quality.SENSOR_WARNING)
    value = number(decimal(text, separator))
    return (None if value is None else value * per_unit), 0


def _insulin(collector: Collector, time_us: int, row: Row, subtype: str, dose: str, separator: str) -> None:
    word, place = subtype.lower(), f"line {row.line}"
    kind = {"fast-acting": "bolus_u", "long-acting": "long_acting_u"}.get(word)
    if kind is None:
        collector.skip("insulin that is neither fast-acting nor long-acting", place)
        return
    collector.add(time_us, kind, number(decimal(dose, separator)), place)
