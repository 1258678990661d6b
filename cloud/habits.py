"""When this person usually eats, and how much: from logged carbohydrate by local time of day. Pure.

Only what was logged counts. Where the record shows no habit the answer says so instead of guessing quietly.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from core.messages import Sample
from core.units import US_PER_DAY, US_PER_MIN, US_PER_S

LOOK_BACK_DAYS: Final = 14
MERGE_US: Final = 45 * US_PER_MIN  # courses of one meal
SNACK_G: Final = 10.0  # below this it is a snack or the treatment of a low, not a meal to dose for
WINDOW_MIN: Final = 75  # people eat within about an hour of their habit
MIN_DAYS: Final = 2  # days with a meal near that time
MIN_SHARE: Final = 0.4  # ... of the days on record
USUAL_MEALTIMES_MIN: Final = (8 * 60, 12 * 60 + 30, 18 * 60 + 30)  # where there is no habit to go by


class Meal(msgspec.Struct, frozen=True):
    """The next meal to advise on, and how it is known."""

    time_us: int
    carbs_g: float
    known_from: str  # plain words


def next_meal(carbs: Sequence[Sample], zone: ZoneInfo, now_us: int, lead_us: int) -> Meal | None:
    """The meal expected within ``lead_us`` from now; None when none is, or when one was just eaten.

    ``carbs``: logged ``carbs_g`` samples up to now, by time.
    """
    meals = _meals([s for s in carbs if now_us - LOOK_BACK_DAYS * US_PER_DAY <= s.time_us <= now_us])
    if meals and now_us - meals[-1][0] < 2 * MERGE_US:
        return None
    if not meals:
        slot_us = _usual_slot(zone, now_us, lead_us)
        if slot_us is None:
            return None
        return Meal(slot_us, 0.0, "No meal is logged in the last 14 days, so this is for a correction only.")
    habit = _habit(meals, zone, now_us, lead_us)
    if habit is not None:
        return habit
    if _days_with(meals, zone) >= 3:
        return None  # enough record to know that nothing is eaten about now
    slot_us = _usual_slot(zone, now_us, lead_us)
    if slot_us is None:
        return None
    carbs_g = _rounded(median(grams for _, grams in meals))
    return Meal(
        slot_us,
        carbs_g,
        f"Too few meals are logged to know habits: assumes {carbs_g:.0f} g, the median of what is logged,"
        " at a common mealtime.",
    )


def _habit(meals: Sequence[tuple[int, float]], zone: ZoneInfo, now_us: int, lead_us: int) -> Meal | None:
    """What was eaten near this time of day on earlier days."""
    middle = _local(now_us + lead_us // 2, zone)
    target_min = middle.hour * 60 + middle.minute
    near: dict[str, tuple[int, float]] = {}
    for time_us, grams in meals:
        local = _local(time_us, zone)
        offset = (local.hour * 60 + local.minute - target_min + 720) % 1440 - 720
        if abs(offset) > WINDOW_MIN:
            continue
        day = local.date().isoformat()
        if day not in near or abs(offset) < abs(near[day][0]):
            near[day] = (offset, grams)
    if len(near) < MIN_DAYS or len(near) < MIN_SHARE * _days_on_record(meals, now_us):
        return None
    offset_min = median(offset for offset, _ in near.values())
    time_us = now_us + lead_us // 2 + int(offset_min) * US_PER_MIN
    if not now_us <= time_us <= now_us + lead_us:
        return None  # the habit lies before or after this window: its turn was, or will come
    carbs_g = _rounded(median(grams for _, grams in near.values()))
    return Meal(
        time_us,
        carbs_g,
        f"{carbs_g:.0f} g is the median of what was logged about this time on {len(near)} earlier days.",
    )


def _meals(carbs: Sequence[Sample]) -> list[tuple[int, float]]:
    """(start, grams) of meals: courses close together are one, snacks are none."""
    merged: list[tuple[int, int, float]] = []  # start, last, grams
    for sample in carbs:
        if merged and sample.time_us - merged[-1][1] <= MERGE_US:
            start, _, grams = merged[-1]
            merged[-1] = (start, sample.time_us, grams + sample.value)
        else:
            merged.append((sample.time_us, sample.time_us, sample.value))
    return [(start, grams) for start, _, grams in merged if grams >= SNACK_G]


def _usual_slot(zone: ZoneInfo, now_us: int, lead_us: int) -> int | None:
    local = _local(now_us, zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    for day in (0, 1):
        for minute in USUAL_MEALTIMES_MIN:
            # Wall-clock arithmetic on an aware local time is what a person means by "at half past twelve".
            slot = midnight + timedelta(days=day, minutes=minute)
            slot_us = int(slot.timestamp()) * US_PER_S
            if now_us <= slot_us <= now_us + lead_us:
                return slot_us
    return None


def _days_with(meals: Sequence[tuple[int, float]], zone: ZoneInfo) -> int:
    return len({_local(time_us, zone).date() for time_us, _ in meals})


def _days_on_record(meals: Sequence[tuple[int, float]], now_us: int) -> float:
    return max(1.0, (now_us - meals[0][0]) / US_PER_DAY)


def _local(time_us: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(time_us / US_PER_S, UTC).astimezone(zone)


def _rounded(grams: float) -> float:
    return float(round(grams / 5) * 5)
