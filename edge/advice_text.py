"""The hub's advice as plain lines, for ``hometwin advice`` and ``hometwin status``."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from core.units import US_PER_S

FIRST_DAY_H: Final = 24.0  # of readings, before which the cloud's adviser does not begin (cloud/adviser.py)
STATE_WORDS = {
    "open": "open: decide, then say what you did",
    "part": "a part of it seems to be taken: the whole dose is too much now",
    "taken": "a dose like it is on record since: do not take it again, say what you did",
    "void": "VOID, do not use",
    "expired": "expired, do not use",
    "confirmed": "done",
}


def advice_lines(answer: dict[str, Any], zone: ZoneInfo) -> list[str]:
    """All advice held, the newest last and in full when it is open."""
    rows = answer["advice"]
    lines = [line for row in rows for line in _rows(row, zone)] or [
        _none_yet(answer.get("cloud", True), answer.get("readings_h"))
    ]
    policy = answer.get("policy")
    if policy is not None:
        lines.append(
            f"standing policy {policy['policy_id']} of {policy['approved_by']}: {', '.join(policy['questions'])},"
            f" at most {policy['max_dose_u']:g} U a dose and {policy['max_per_day']} doses a day,"
            f" until {_moment(policy['expires_us'], zone)}"
        )
    return lines


def _none_yet(is_connected: bool | None, readings_h: float | None) -> str:
    """Why there is nothing. ``is_connected``: to the cloud; None without one. ``readings_h``: None from an older hub."""
    if is_connected is None:
        return "no advice: this hub has no cloud ([sync]), so no adviser looks at it"
    begins = "begins after a day of glucose readings"
    if readings_h is not None:
        begins = (
            f"{begins}, of which {math.floor(readings_h)} h are here"
            if readings_h < FIRST_DAY_H
            else "has the day of glucose readings with which it begins"
        )
    return (
        f"no advice has come yet: the cloud's adviser {begins}; it tries before each usual meal, as logged meals show them, and nothing"
        " reaches this hub before it is approved (by a clinician; in a demo by itself). The portal says what the adviser"
        f" does now and how its last try ended.{'' if is_connected else ' The cloud is out of reach now.'}"
    )


def advice_line(row: dict[str, Any], zone: ZoneInfo) -> str:
    """One piece of advice in one line."""
    return f"{_moment(row['for_time_us'], zone)}  {_what(row)}  [{STATE_WORDS[row['state']]}]  {row['advice_id']}"


def _rows(row: dict[str, Any], zone: ZoneInfo) -> list[str]:
    lines = [advice_line(row, zone)]
    if row["state"] == "confirmed":
        return [f"{lines[0]}  took {row['took_u']:g} U"]
    if row["state"] == "void" and row["void"]:
        lines.append(f"  {row['void']}")
    if row["state"] == "part":
        lines.append(
            f"  {row['part_u']:g} U came on record since. If they are a part of it, no more than"
            f" {row['dose_u'] - row['part_u']:.1f} U are left; if not, take nothing of it"
        )
    if row["state"] in ("part", "taken"):
        lines.append(f"  then: hometwin advice confirm {row['advice_id']} --took UNITS")
    if row["state"] != "open":
        return lines
    lines += [f"  approved by {row['approved_by']}, until {_moment(row['expires_us'], zone)}"]
    lines += [f"  {text}" for text in (*row["why"], *row["reasons"], *row["changes"], *row["limits"])]
    lines.append(f"  then: hometwin advice confirm {row['advice_id']} --took UNITS")
    return lines


def _what(row: dict[str, Any]) -> str:
    if row["action"] == "carbs":
        return f"eat {row['eat_g']:.0f} g of fast carbohydrate, no insulin"
    if row["refused"]:
        return f"no dose: {row['refused']}"
    if row["dose_u"] > 0:
        return f"{row['dose_u']:g} U for {row['carbs_g']:.0f} g" if row["carbs_g"] else f"{row['dose_u']:g} U"
    return "do nothing"


def _moment(time_us: int, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(time_us / US_PER_S, UTC).astimezone(zone):%a %d %b %H:%M}"
