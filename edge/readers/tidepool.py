"""Tidepool's JSON export: one array of typed records, absolute times, each glucose with its own unit.

The spreadsheet that the site also offers holds the same records; JSON is asked for, so that no spreadsheet
library is needed.
"""

from __future__ import annotations

from typing import Any, Final
from zoneinfo import ZoneInfo

from core.errors import InputError
from core.messages import Quality
from core.units import US_PER_MIN
from edge.readers.documents import JsonObject, word
from edge.readers.moments import iso_us
from edge.readers.nightscout import spread
from edge.readers.record import Collector, mgdl_per, number

FORMAT: Final = "Tidepool JSON"
TYPES: Final = frozenset(
    (
        *("cbg", "smbg", "basal", "bolus", "wizard", "food", "insulin", "upload", "pumpSettings"),
        *("cgmSettings", "deviceEvent", "physicalActivity", "bloodKetone", "reportedState", "water"),
        *("dosingDecision", "controllerSettings", "controllerStatus", "pumpStatus", "alert"),
    )
)
MAX_BASAL_GAP_US: Final = 5 * US_PER_MIN
MAX_EXTENDED_MIN: Final = 1440.0


def matches(records: list[tuple[str, JsonObject]]) -> bool:
    """Whether most records look like Tidepool's."""
    return sum(1 for _, r in records if word(r, "type") in TYPES and "time" in r) * 2 > len(records)


def read(records: list[tuple[str, JsonObject]], zone: ZoneInfo, collector: Collector) -> None:
    """Fill ``collector``."""
    meals = {_minute(r) for _, r in records if word(r, "type") == "food"}
    seen: set[str] = set()
    basal: list[tuple[int, int, float, str]] = []
    for place, record in records:
        collector.owner(word(record, "userId") or word(record, "_userId"))
        identity = record.get("id")
        if isinstance(identity, str):
            if identity in seen:
                collector.skip("record that came twice", place)
                continue
            seen.add(identity)
        try:
            _one(record, zone, collector, place, meals, basal)
        except InputError as err:
            collector.skip(err.what, place)
    _basal(basal, collector)


def _one(
    record: JsonObject,
    zone: ZoneInfo,
    collector: Collector,
    place: str,
    meals: set[str],
    basal: list[tuple[int, int, float, str]],
) -> None:
    kind = word(record, "type")
    if kind not in ("cbg", "smbg", "bolus", "wizard", "food", "insulin", "basal"):
        collector.skip(f"record of type {kind[:30]!r}, not used", place)
        return
    time_us = iso_us(record.get("time"), zone, place)
    if kind in ("cbg", "smbg"):
        per_unit = mgdl_per(word(record, "units"), place)
        value = number(record.get("value"))
        quality = int(Quality.SENSOR_WARNING) if _out_of_range(record.get("annotations")) else 0
        name = "cgm_mgdl" if kind == "cbg" else "smbg_mgdl"
        collector.add(time_us, name, None if value is None else value * per_unit, place, quality)
    elif kind == "bolus":
        _bolus(record, time_us, collector, place)
    elif kind == "wizard":
        # The calculator's carbohydrate; where the app also wrote a meal of the same minute, that one counts.
        grams = number(record.get("carbInput"))
        if word(record, "carbUnits") not in ("", "grams"):
            collector.skip("calculator entry in exchanges instead of grams", place)
        elif grams and _minute(record) in meals:
            collector.skip("calculator entry beside a meal of the same minute", place)
        elif grams:
            collector.add(time_us, "carbs_g", grams, place)
    elif kind == "food":
        net = _inside(record, "nutrition", "carbohydrate", "net")
        collector.add(time_us, "carbs_g", number(net), place)
    elif kind == "insulin":
        acting = _inside(record, "formulation", "simple", "actingType")
        if acting not in ("rapid", "short", "long"):
            collector.skip("injection whose kind of insulin is not said", place)
            return
        name = "long_acting_u" if acting == "long" else "bolus_u"
        collector.add(time_us, name, number(_inside(record, "dose", "total")), place)
    else:
        _basal_record(record, time_us, collector, place, basal)


def _bolus(record: JsonObject, time_us: int, collector: Collector, place: str) -> None:
    now, later = number(record.get("normal")), number(record.get("extended"))
    if now is None and later is None:
        collector.skip("bolus without a number of units", place)
        return
    if now is not None:
        collector.add(time_us, "bolus_u", now, place)
    if later:
        minutes = (number(record.get("duration")) or 0.0) / 60_000.0
        if 0 < minutes <= MAX_EXTENDED_MIN:
            spread(collector, time_us, later, minutes, place)
        else:
            collector.skip("extended bolus without a usable duration", place)


def _basal_record(
    record: JsonObject,
    time_us: int,
    collector: Collector,
    place: str,
    basal: list[tuple[int, int, float, str]],
) -> None:
    delivery = word(record, "deliveryType")
    rate = 0.0 if delivery == "suspend" else number(record.get("rate"))
    millis = number(record.get("duration"))
    if rate is None:
        collector.skip("basal without a rate", place)
        return
    basal.append((time_us, time_us + round(min(max(millis or 0.0, 0.0), 5e8) * 1000), rate, place))


def _basal(intervals: list[tuple[int, int, float, str]], collector: Collector) -> None:
    """Changes of rate. A rate holds until the next record; where records are missing, that is noted."""
    last: float | None = None
    end_us: int | None = None
    for start_us, stop_us, rate, place in sorted(intervals):
        if end_us is not None and start_us - end_us > MAX_BASAL_GAP_US:
            collector.skip("gap between basal records: the rate before it is held", place)
        if rate != last:
            collector.add(start_us, "basal_uph", rate, place)
            last = rate
        end_us = max(stop_us, start_us) if end_us is None else max(end_us, stop_us)


def _out_of_range(annotations: Any) -> bool:
    return isinstance(annotations, list) and any(
        isinstance(item, dict) and item.get("code") == "bg/out-of-range" for item in annotations
    )


def _inside(record: Any, *keys: str) -> Any:
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _minute(record: JsonObject) -> str:
    return word(record, "time")[:16]
