"""From the words of ``hometwin log`` to a request that the hub understands."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from core.errors import InputError
from core.messages import Sample
from core.units import KINDS, mgdl_from_mmoll, mmoll_from_mgdl

NAMES: Final = {
    "carbs_g": "carbohydrate",
    "bolus_u": "bolus",
    "basal_uph": "basal rate",
    "long_acting_u": "long-acting insulin",
    "smbg_mgdl": "fingerstick",
    "weight_kg": "weight",
    "drug_mg": "drug",
}
LATE_S: Final = 6 * 3600  # after midnight, so much of the evening before still needs no date
WORDS: Final = {
    "carbs": "carbs_g",
    "meal": "carbs_g",
    "bolus": "bolus_u",
    "basal": "basal_uph",
    "long-acting": "long_acting_u",
    "fingerstick": "smbg_mgdl",
    "weight": "weight_kg",
    "drug": "drug_mg",
}


def hand_request(
    what: str,
    value: float | None,
    at: str,
    unit: str,
    replace: str,
    delete: str,
    sure: bool = False,
) -> dict[str, Any]:
    """The request for the control socket; InputError names the word that cannot be used."""
    kind = WORDS.get(what, what)
    if not what and not delete:
        raise InputError("say what to enter", where="log", mend="e.g. hometwin log carbs 45")
    if what and kind not in KINDS:
        raise InputError(
            f"unknown word {what[:40]!r}",
            where="log",
            mend="use one of " + " ".join([*WORDS, *KINDS]),
        )
    if replace and delete:
        raise InputError("--replace and --delete exclude each other", where="log")
    request: dict[str, Any] = {"do": "log"} | ({"kind": kind} if what else {})
    if delete:
        if value is not None:
            raise InputError("--delete takes no value", where="log")
        request |= {"amends": _reference(delete), "deleted": True}
    elif value is None:
        raise InputError("a value is missing", where="log", mend=f"e.g. hometwin log {what} 45")
    elif value < 0:
        raise InputError("must be positive", where=f"log {what}", mend="leave the minus out")
    else:
        request["value"] = _in_unit(kind, value, unit)
        if replace:
            request["amends"] = _reference(replace)
    if sure:
        request["sure"] = True
    if at:
        request["at"] = at  # the hub reads it by its own clock
    return request


def parse_time(text: str, zone: ZoneInfo, now_us: int) -> int:
    """Microseconds UTC of ``12:30`` (today, or up to six hours ago across midnight) or of an ISO date and time.

    InputError for a clock time that is still to come: whoever means yesterday's meal says so.
    """
    now = datetime.fromtimestamp(now_us / 1e6, UTC).astimezone(zone)
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}", text):
            hour, minute = text.split(":")
            # In the night when clocks go back an hour comes twice, and when they go forward one never comes.
            moments = [
                datetime.combine(now.date() - timedelta(days), time(int(hour), int(minute), fold=fold), zone)
                for days in (0, 1)
                for fold in (0, 1)
            ]
            soon_s = now_us / 1e6 + 300
            when = max((m for m in moments if m.timestamp() <= soon_s), key=datetime.timestamp)
            if when.date() != now.date() and now_us / 1e6 - when.timestamp() > LATE_S:
                raise InputError(
                    f"{text} is still to come today (the hub's clock says {now:%a %d %b %H:%M})",
                    where="--at",
                    mend=f"for yesterday write {when:%Y-%m-%dT%H:%M}",
                )
        else:
            when = datetime.fromisoformat(text)
            if when.tzinfo is None:
                when = when.replace(tzinfo=zone)
    except ValueError:
        raise InputError(
            f"cannot read the time {text[:40]!r}", where="--at", mend="use 12:30 or 2026-01-31T12:30"
        ) from None
    return round(when.timestamp() * 1e6)


def entry_words(sample: Sample, zone: ZoneInfo) -> str:
    """One record in words, with the name by which a later entry can amend it."""
    name = f"{sample.source}:{sample.seq}"
    when = datetime.fromtimestamp(sample.time_us / 1e6, UTC).astimezone(zone)
    amended = f"{sample.amends[0]}:{sample.amends[1]}" if sample.amends else ""
    if sample.deleted:
        return f"{amended} taken back, noted as {name}"
    instead = f", instead of {amended}" if amended else ""
    unit = KINDS[sample.kind].unit
    amount = f"{sample.value:g} {unit}"
    if unit == "mg/dL":  # whoever typed mmol/L finds it again
        amount = f"{round(sample.value, 1):g} mg/dL ({mmoll_from_mgdl(sample.value):.1f} mmol/L)"
    return f"{when:%a %d %b %H:%M}  {NAMES.get(sample.kind, sample.kind)} {amount}{instead}, stored as {name}"


def _in_unit(kind: str, value: float, unit: str) -> float:
    own = KINDS[kind].unit
    if own == "mg/dL" and not unit and 1.0 <= value < 10.0:
        raise InputError("is that mmol/L?", where=f"log {kind}", mend="then add --unit mmol/L")
    if unit in ("", own):
        return value
    if own == "mg/dL" and unit.lower() == "mmol/l":
        return mgdl_from_mmoll(value)
    raise InputError(
        f"{kind} is not given in {unit[:20]!r}",
        where="--unit",
        mend="use mg/dL or mmol/L" if own == "mg/dL" else f"use {own}",
    )


def _reference(text: str) -> list[Any]:
    match = re.fullmatch(r"([a-z][a-z0-9_-]{0,31}):(\d{1,18})", text)
    if not match:
        raise InputError(
            f"cannot read the entry {text[:40]!r}",
            where="log",
            mend="use SOURCE:NUMBER as hometwin entries lists them, e.g. hand:1767602981424",
        )
    return [match.group(1), int(match.group(2))]
