"""The hub's status as a few plain lines, for ``hometwin status``."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from edge.advice_text import advice_line
from edge.demo.view import age, data_age, low_chance, trouble


def status_lines(status: dict[str, Any]) -> list[str]:
    """One line per thing that a person asks first."""
    lines = [f"hub {status['hub_id']}"]
    reading = status["readings"].get("cgm_mgdl")
    if reading:
        lines.append(f"glucose   {reading['value']:.0f} mg/dL, measured {age(reading['age_s'])} ago")
    else:
        lines.append("glucose   no reading yet")
    forecast = status["forecast"]
    if forecast and None not in forecast["mean"]:
        for horizon in (30.0, 60.0):
            if horizon in forecast["horizons_min"]:
                i = forecast["horizons_min"].index(horizon)
                lines.append(
                    f"in {horizon:.0f} min {forecast['mean'][i]:.0f} mg/dL "
                    f"(90 % between {forecast['p05'][i]:.0f} and {forecast['p95'][i]:.0f}; {forecast['status'].replace('_', ' ')}, "
                    f"{data_age(status, forecast)})"
                )
    if chance := low_chance(status):
        lines.append(chance)
    engine = status["engine"]
    behind = engine["rows"] - engine["row"]
    problem = f"; {engine['problem']}" if engine["problem"] else ""
    lines.append(f"engine    {'up' if engine['up'] else 'down'}, {behind} records behind{problem}")
    if status.get("changing"):
        lines.append(f"life      {status['changing']}")
    elif status.get("context"):
        lines.append(f"life      {status['context']}")
    active = ", ".join(a["name"].replace("_", " ") for a in status["alarms"]["active"])
    lines.append(f"alarms    {active or 'none'}")
    lines += _store_lines(status)
    zone = ZoneInfo(status["timezone"])
    lines += [
        f"advice    {advice_line(row, zone)}"
        for row in status["advice"]
        if _is_current(row, status["now_us"])
    ]
    for source, device in status["devices"].items():
        note = trouble(device)
        lines.append(f"{source:<9} {device['state'].replace('_', ' ')}{': ' + note if note else ''}")
    sync = status["sync"]
    if sync["configured"]:
        state = "connected" if sync["connected"] else sync["problem"] or "offline, storing"
        lines.append(f"cloud     {state}, {sync['pending']} messages waiting")
    else:
        lines.append("cloud     not configured")
    return lines


def _is_current(row: dict[str, Any], now_us: int) -> bool:
    """Open advice; and what was withdrawn while somebody may still mean to take it."""
    return row["state"] in ("open", "part", "taken") or (
        row["state"] == "void" and bool(row["withdrawn_us"]) and now_us <= row["expires_us"]
    )


def _store_lines(status: dict[str, Any]) -> list[str]:
    """Only what a person should know of the store."""
    store, lines = status["store"], []
    if minutes := store.get("damaged_min"):
        lines.append(
            f"store     damaged: being repaired within {minutes} min, or at once when the hub is restarted"
        )
    repair = store["repair"]
    if repair:
        cause = "tampered with" if store["tampered"] else "damaged"
        ago = age((status["now_us"] - repair["time_us"]) / 1e6)
        others = repair.get("others_lost", {})
        uncounted = repair["rows_lost"] is None or "segments" in others
        lost = "an unknown number of" if uncounted else repair["rows_lost"] + sum(others.values())
        lines.append(
            f"store     was {cause} and repaired {ago} ago: {lost} records missing, "
            f"the old file is {repair['set_aside']}"
        )
    if store["refilling"]:
        lines.append(f"store     asks again for what was lost: {', '.join(store['refilling'])}")
    if cloud := store.get("cloud"):
        if cloud["asks"]:
            lines.append(
                f"store     asks the cloud for what was lost: {cloud['came']} records came back so far"
            )
        elif cloud["came"]:
            lines.append(f"store     {cloud['came']} records that were lost came back from the cloud")
    if store["space_low"]:
        if not store["ok"]:
            what = "new readings are not stored. Free some space on its disk"
        elif store["full"] or store["exhausted"]:
            what = "no old readings are left that are smaller as averages. Free some space on its disk"
        elif store["making_room"]:
            what = "old readings become averages. Free some space on its disk"
        else:
            what = "free some on its disk, or old readings must become averages"
        lines.append(f"store     low on space ({store['free_mib']:.0f} MiB free): {what}")
    elif not store["ok"]:
        lines.append("store     takes nothing: new readings are not stored. The hub's log tells why")
    if store["thinning_waits"]:
        lines.append("store     old readings stay: too few days of readings say that the clock is right")
    if store["rotating"]:
        lines.append("store     is sealed anew with a new data key")
    if not store["keys_copied"]:
        lines.append("store     could not write the copy of its wrapped keys: hometwin keys list says more")
    if not lines and store["mib"] is not None:
        ways = store["ways_in"]
        second = f"{ways} ways in" if ways > 1 else "no second way in (hometwin keys passphrase adds one)"
        lines.append(f"store     well: {store['rows']} records, {store['mib']:.1f} MiB, {second}")
    return lines
