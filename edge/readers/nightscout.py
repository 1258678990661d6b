"""Nightscout's JSON: entries, treatments and profiles, in one array, in several, or one object per line.

Entries are stored in mg/dL whatever the site shows; a record that says ``units`` is taken at its word.
Treatments that carry a glucose must say their unit, or that glucose is left out.
"""

from __future__ import annotations

from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from core.errors import InputError
from core.messages import Quality
from core.units import US_PER_MIN
from edge.readers.basal import Schedule, Temp, basal_timeline
from edge.readers.documents import JsonObject, word
from edge.readers.moments import iso_us
from edge.readers.record import Collector, mgdl_per, number

FORMAT: Final = "Nightscout JSON"
ERROR_CODES_BELOW: Final = 39.0  # Dexcom's sensor errors are stored as readings of 1 to 38
LOWEST_MGDL, HIGHEST_MGDL = 39.0, 401.0  # what uploaders store for Low and High
PART_MIN: Final = 10  # an extended bolus becomes equal parts this far apart
LONG_ACTING: Final = (
    *("lantus", "toujeo", "tresiba", "levemir", "basaglar", "abasaglar", "semglee", "rezvoglar"),
    *("glargine", "degludec", "detemir"),
)
KEYS: Final = frozenset(
    ("sgv", "mbg", "eventType", "created_at", "dateString", "enteredBy", "defaultProfile")
)


def matches(records: list[tuple[str, JsonObject]]) -> bool:
    """Whether most records look like Nightscout's."""
    return sum(1 for _, r in records if KEYS & r.keys()) * 2 > len(records)


def read(records: list[tuple[str, JsonObject]], zone: ZoneInfo, collector: Collector) -> None:
    """Fill ``collector``."""
    temps: list[Temp] = []
    schedules: list[Schedule] = []
    for place, record in records:
        try:
            if "defaultProfile" in record or "store" in record:
                schedules += _schedules(record, zone, place)
            elif "sgv" in record or record.get("type") in ("sgv", "mbg", "cal"):
                _entry(record, zone, collector, place)
            elif "mbg" in record:
                _entry({"type": "mbg", **record}, zone, collector, place)
            elif "eventType" in record or "created_at" in record:
                temp = _treatment(record, zone, collector, place)
                if temp is not None:
                    temps.append(temp)
            else:
                collector.skip("record of no known kind", place)
        except InputError as err:
            collector.skip(err.what, place)
    basal_timeline(schedules, temps, collector)


def _time(record: JsonObject, zone: ZoneInfo, place: str) -> int:
    for key in ("date", "mills"):
        millis = record.get(key)
        if isinstance(millis, (int, float)) and not isinstance(millis, bool) and abs(millis) < 1e15:
            return round(millis * 1000)
        if isinstance(millis, str) and key == "date" and millis:
            return iso_us(millis, zone, place)
    for key in ("dateString", "created_at", "timestamp", "sysTime", "startDate"):
        if isinstance(record.get(key), str) and record[key]:
            return iso_us(record[key], zone, place)
    raise InputError("time is missing", where=place)


def _entry(record: JsonObject, zone: ZoneInfo, collector: Collector, place: str) -> None:
    kind = record.get("type", "sgv")
    per_unit = mgdl_per(word(record, "units"), place) if record.get("units") else 1.0
    if kind == "cal":
        collector.skip("calibration constants, not used", place)
        return
    name, field = ("smbg_mgdl", "mbg") if kind == "mbg" else ("cgm_mgdl", "sgv")
    value = number(record.get(field))
    if value is not None:
        value *= per_unit
    quality = 0
    if value is not None and name == "cgm_mgdl":
        # Whole small numbers are codes; mmol/L would show in the median of all, which is checked.
        if value < ERROR_CODES_BELOW and value == round(value):
            collector.skip("sensor error code in place of a reading", place)
            return
        if value in (LOWEST_MGDL, HIGHEST_MGDL):
            quality = int(Quality.SENSOR_WARNING)
    collector.add(_time(record, zone, place), name, value, place, quality)


def _treatment(record: JsonObject, zone: ZoneInfo, collector: Collector, place: str) -> Temp | None:
    time_us = _time(record, zone, place)
    event = word(record, "eventType")
    used = False
    if event.lower().startswith("temp basal"):
        return _temp(record, time_us, collector, place)
    if record.get("glucose") is not None and "finger" in word(record, "glucoseType").lower():
        used = True
        if record.get("units"):
            per_unit = mgdl_per(word(record, "units"), place)
            value = number(record["glucose"])
            collector.add(time_us, "smbg_mgdl", None if value is None else value * per_unit, place)
        else:
            collector.skip("fingerstick without a unit", place)
    carbs = number(record.get("carbs"))
    if carbs:
        used = True
        collector.add(time_us, "carbs_g", carbs, place)
    used = _insulin(record, event.lower(), time_us, collector, place) or used
    if not used:
        collector.skip(f"treatment {event[:30]!r} without insulin, carbohydrate or fingerstick", place)
    return None


def _insulin(record: JsonObject, event: str, time_us: int, collector: Collector, place: str) -> bool:
    injections = _injections(record.get("insulinInjections"))
    if injections:
        for name, units in injections:
            long_acting = any(word in name.lower() for word in LONG_ACTING)
            collector.add(time_us, "long_acting_u" if long_acting else "bolus_u", units, place)
        return True
    dose = number(record.get("insulin"))
    used = False
    if dose:
        used = True
        is_long = "basal injection" in event or "long" in event
        collector.add(time_us, "long_acting_u" if is_long else "bolus_u", dose, place)
    if event == "combo bolus":
        total, later = number(record.get("enteredinsulin")), number(record.get("splitExt"))
        minutes = number(record.get("duration"))
        if total and later and minutes and 0 < minutes <= 1440 and 0 < later <= 100:
            used = True
            spread(collector, time_us, total * later / 100.0, minutes, place)
    return used


def spread(collector: Collector, time_us: int, dose_u: float, minutes: float, place: str) -> None:
    """An extended bolus of ``dose_u`` U over ``minutes`` as equal parts."""
    parts = max(1, round(minutes / PART_MIN))
    step_us = round(minutes * US_PER_MIN / parts)
    for part in range(parts):
        collector.add(time_us + part * step_us + step_us // 2, "bolus_u", dose_u / parts, place)
    collector.remark(f"extended boluses are kept as equal parts every {PART_MIN} min or so")


def _injections(value: Any) -> list[tuple[str, float]]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = msgspec.json.decode(value.encode())
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return []
    if not isinstance(value, list):
        return []
    pairs = []
    for item in value:
        units = number(item.get("units")) if isinstance(item, dict) else None
        if units:
            pairs.append((str(item.get("insulin") or item.get("profile") or ""), units))
    return pairs


def _temp(record: JsonObject, time_us: int, collector: Collector, place: str) -> Temp | None:
    minutes = number(record.get("duration"))
    if minutes is None or minutes < 0 or minutes > 3 * 1440:
        collector.skip("temporary basal without a usable duration", place)
        return None
    rate = number(record.get("absolute"))
    if rate is None:
        rate = number(record.get("rate")) if record.get("percent") is None else None
    percent = number(record.get("percent"))
    if minutes > 0 and rate is None and percent is None:
        collector.skip("temporary basal without a rate", place)
        return None
    end_us = time_us + round(minutes * US_PER_MIN)
    return Temp(time_us, end_us, rate, None if percent is None else 1.0 + percent / 100.0, place)


def _schedules(record: JsonObject, zone: ZoneInfo, place: str) -> list[Schedule]:
    store = record.get("store")
    chosen = store.get(word(record, "defaultProfile")) if isinstance(store, dict) else record
    if not isinstance(chosen, dict) or not isinstance(chosen.get("basal"), list):
        raise InputError("profile without a basal schedule", where=place)
    steps = []
    for item in chosen["basal"]:
        clock = word(item, "time") if isinstance(item, dict) else ""
        rate = number(item.get("value")) if isinstance(item, dict) else None
        hours, _, minutes = clock.partition(":")
        if rate is None or not (hours.isdecimal() and minutes.isdecimal() and len(clock) <= 5):
            raise InputError("profile with a basal step that cannot be read", where=place)
        steps.append((int(hours) * 60 + int(minutes), rate))
    try:
        own = ZoneInfo(word(chosen, "timezone") or zone.key)
    except (KeyError, ValueError, OSError):
        own = zone
    return [Schedule(_time(record, zone, place), tuple(sorted(steps)), own)] if steps else []
